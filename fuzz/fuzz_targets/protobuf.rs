//! `decode_protobuf` and `wire::events` never panic; what the first takes, the second reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetryx_common::{DecodeLimits, decode_protobuf, wire};

fuzz_target!(|body: &[u8]| {
    for event in wire::events(body).flatten() {
        assert!(event.payload.len() <= body.len().max(4));
    }
    let mut stored = Vec::new();
    let decoded = decode_protobuf(body, &DecodeLimits::default(), |_, event| {
        if let Ok(event) = event {
            stored.clear();
            wire::encode_event(&event, &event.id, &mut stored);
            let read = wire::events(&stored).next();
            let read = read.expect("one was written").expect("and is sound");
            assert_eq!(read.payload, event.payload);
            assert_eq!(read.attributes, event.attributes);
            assert_eq!((read.ts, read.source), (event.ts, event.source));
        }
    });
    drop(decoded);
});
