//! `decode_json` never panics; what it takes is stored, written and read back the same; what `serde_json` cannot read it
//! does not take.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetryx_common::{DecodeLimits, decode_json, json, wire};

fuzz_target!(|body: &[u8]| {
    let limits = DecodeLimits::default();
    let (mut stored, mut text) = (Vec::new(), Vec::new());
    let mut sound = Vec::new();
    let decoded = decode_json(body, &limits, |_, event| {
        if let Ok(event) = event {
            sound.push(event);
        }
    });
    if decoded.is_err() {
        return;
    }
    for event in &sound {
        wire::encode_event(event, &event.id, &mut stored);
        text.clear();
        json::write_event(event, &mut text);
        decode_json(&text, &limits, |_, again| {
            let again = again.expect("what was sound stays sound");
            assert_eq!(again.payload, event.payload);
            assert_eq!(again.attributes, event.attributes);
            assert_eq!((&again.id, again.ts), (&event.id, event.ts));
        })
        .expect("what was written can be read");
    }
    assert_eq!(
        wire::events(&stored).filter(Result::is_ok).count(),
        sound.len()
    );
});
