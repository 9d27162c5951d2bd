//! `Timestamp` never panics, and what it reads it writes and reads again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetryx_common::Timestamp;

fuzz_target!(|text: &str| {
    let read = [Timestamp::parse(text), Timestamp::from_epoch_number(text)];
    for timestamp in read.into_iter().flatten() {
        assert_eq!(Timestamp::parse(&timestamp.to_string()), Ok(timestamp));
    }
});
