//! Whatever an export request holds: its payloads are JSON, and each of them read again becomes the same event. Members may
//! change places: they are written in the order in which they came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use telemetryx_common::DecodeLimits;
use telemetryx_ingestion::ingress::otlp::{JSON_GROWTH, Signal};
use telemetryx_ingestion::intake::Decode;

/// The payloads of the events of a request in protobuf.
fn payloads(signal: Signal, body: &[u8]) -> Vec<Value> {
    let mut payloads = Vec::new();
    let decoded = signal.decode(body, &DecodeLimits::default(), &mut |_, event| {
        if let Ok(event) = event {
            payloads.push(serde_json::from_str(&event.payload).expect("a payload is JSON"));
        }
    });
    decoded.map_or_else(|_| Vec::new(), |()| payloads)
}

/// The first byte says what the others are.
fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    let signal = Signal::ALL[usize::from(*kind) % Signal::ALL.len()];
    let list = ["resourceLogs", "resourceSpans", "resourceMetrics"][usize::from(*kind) % Signal::ALL.len()];
    let payloads_read = if kind & 0x10 == 0 {
        payloads(signal, body)
    } else {
        let Ok(protobuf) = signal.from_json(body) else { return };
        assert!(protobuf.len() <= body.len() * JSON_GROWTH);
        payloads(signal, &protobuf)
    };
    for payload in payloads_read {
        let request = format!("{{\"{list}\":[{payload}]}}");
        let protobuf = signal.from_json(request.as_bytes()).expect("a payload is OTLP/JSON");
        assert_eq!(payloads(signal, &protobuf), [payload]);
    }
});
