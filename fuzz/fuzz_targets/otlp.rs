//! Whatever an export request holds: its payloads are JSON, and each of them read again becomes the same event.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetryx_common::DecodeLimits;
use telemetryx_ingestion::ingress::otlp::{JSON_GROWTH, Signal};
use telemetryx_ingestion::intake::Decode;

/// The payloads and types of the events of a request in protobuf.
fn events(signal: Signal, body: &[u8]) -> Vec<(String, String)> {
    let mut events = Vec::new();
    let decoded = signal.decode(body, &DecodeLimits::default(), &mut |_, event| {
        if let Ok(event) = event {
            events.push((event.payload.into_owned(), event.event_type.as_str().to_owned()));
        }
    });
    decoded.map_or_else(|_| Vec::new(), |()| events)
}

/// The first byte says what the others are.
fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    let signal = Signal::ALL[usize::from(*kind) % Signal::ALL.len()];
    let list = ["resourceLogs", "resourceSpans", "resourceMetrics"][usize::from(*kind) % Signal::ALL.len()];
    let events_read = if kind & 0x10 == 0 {
        events(signal, body)
    } else {
        let Ok(protobuf) = signal.from_json(body) else { return };
        assert!(protobuf.len() <= body.len() * JSON_GROWTH);
        events(signal, &protobuf)
    };
    for event in events_read {
        let request = format!("{{\"{list}\":[{}]}}", event.0);
        let protobuf = signal.from_json(request.as_bytes()).expect("a payload is OTLP/JSON");
        assert_eq!(events(signal, &protobuf), [event]);
    }
});
