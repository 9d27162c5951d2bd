//! `decode_ndjson` never panics, and visits each line that is not blank once, in order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetryx_common::{DecodeLimits, decode_ndjson};

fuzz_target!(|body: &[u8]| {
    let mut visited = 0;
    let decoded = decode_ndjson(body, &DecodeLimits::default(), |raw, event| {
        if let Err(error) = event {
            assert_eq!(error.index, visited);
            assert!(!raw.contains(&b'\n'));
        }
        visited += 1;
    });
    let lines = body.split(|byte| *byte == b'\n');
    let filled = lines.filter(|line| !line.trim_ascii().is_empty()).count();
    if decoded.is_ok() {
        assert_eq!(visited as usize, filled);
    }
});
