//! Whatever a signed body holds, it becomes one event or one refusal, and the payload of an event is the body byte for byte;
//! what pointers find is what `serde_json` finds.
#![no_main]

use std::sync::LazyLock;

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use telemetryx_common::{DecodeLimits, Found, Pointers, read_document};
use telemetryx_ingestion::config::{Config, Language, WebhookBody, WebhookConfig};
use telemetryx_ingestion::ingress::webhooks::{Delivery, Mapping};
use telemetryx_ingestion::intake::Decode;

const POINTERS: [&str; 8] = ["", "/a", "/a/b", "/a/b/0", "/a/0/b", "/b/1", "/~0/~1", "/a/b/c"];

static POINTED: LazyLock<Pointers> = LazyLock::new(|| {
    let pointers = POINTERS.iter().map(|text| text.parse().expect("a pointer"));
    Pointers::new(pointers.collect()).expect("few enough")
});

static MAPPINGS: LazyLock<Vec<(WebhookConfig, Mapping)>> = LazyLock::new(|| {
    let yaml = "webhooks:
  ring: { keys: [0123456789x] }
  github: { keys: [0123456789x] }
  stripe: { keys: [0123456789x] }
  slack: { keys: [0123456789x] }
  standard-webhooks: { keys: [MDEyMzQ1Njc4OQ==] }
  own: { keys: [0123456789x], header: sig, body: text, id: [/a, /b/0], id_prefix: own-, time: [/t], time_unit: us,
    type: [/a/b], source: [/s], attributes: { c: /a/b/c, all: '' } }";
    let config = Config::from_text(yaml, Language::Yaml).expect("a right config");
    let mapping = |(name, config): (String, WebhookConfig)| {
        let mapping = Mapping::new(&name, &config).expect("a right mapping");
        (config, mapping)
    };
    config.webhooks.into_iter().map(mapping).collect()
});

fuzz_target!(|body: &[u8]| {
    let limits = DecodeLimits::default();
    for (config, mapping) in MAPPINGS.iter() {
        let headers = HeaderMap::new();
        let delivery = Delivery::new(mapping, &headers).expect("no header is wrong");
        let mut visits = 0;
        let decoded = delivery.decode(body, &limits, &mut |_, event| {
            visits += 1;
            let Ok(event) = event else { return };
            if config.body != Some(WebhookBody::Text) {
                assert_eq!(event.payload.as_bytes(), body);
            }
        });
        assert!(decoded.is_err() || visits == 1);
    }
    let Ok(document) = read_document(body, &POINTED) else { return };
    let Ok(value) = serde_json::from_str::<serde_json::Value>(document.text) else { return };
    for (pointer, found) in std::iter::zip(POINTERS, document.found) {
        let expected = value.pointer(pointer);
        let same = match (&found, expected) {
            (Some(Found::Text(text)), Some(value)) => value.as_str() == Some(text),
            (Some(Found::Number(_)), Some(value)) => value.is_number(),
            (Some(Found::Boolean(text)), Some(value)) => value.as_bool() == text.parse().ok(),
            (Some(Found::Null), Some(value)) => value.is_null(),
            (Some(Found::Nested), Some(value)) => value.is_object() || value.is_array(),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        assert!(same, "{pointer}: {found:?} and {expected:?}");
    }
});
