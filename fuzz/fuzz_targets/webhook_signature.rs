//! No header that a stranger sends makes the check of signatures panic or agree.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use telemetryx_common::Timestamp;
use telemetryx_ingestion::config::{Config, Language, WebhookConfig};
use telemetryx_ingestion::ingress::webhooks::Scheme;

/// The presets, and a scheme of every other kind. The keys are made anew each time, so that no input can be signed.
static SCHEMES: LazyLock<Vec<(WebhookConfig, Scheme)>> = LazyLock::new(|| {
    let key: String = (0..32).map(|_| fastrand::alphanumeric()).collect();
    let yaml = format!(
        "webhooks:
  ring: {{ keys: [\"k{key}\", \"l{key}\"] }}
  github: {{ keys: [\"k{key}\"] }}
  stripe: {{ keys: [\"k{key}\"] }}
  slack: {{ keys: [\"k{key}\"], tolerance: 0s }}
  standard-webhooks: {{ keys: [\"{key}\"] }}
  own: {{ keys: [\"k{key}\"], header: sig, algorithm: sha512, encoding: base64, separator: space, timestamp_prefix: \"t=\",
    signed: \"{{timestamp}}{{body}}\", tolerance: 7d }}
  sha1: {{ keys: [\"k{key}\"], header: sig, algorithm: sha1, separator: comma, prefix: x }}"
    );
    let config = Config::from_text(&yaml, Language::Yaml).expect("a right config");
    let scheme = |config: WebhookConfig| {
        let scheme = Scheme::new(&config).expect("a right scheme");
        (config, scheme)
    };
    config.webhooks.into_values().map(scheme).collect()
});

fuzz_target!(|input: &[u8]| {
    // Three lines of headers, and a body.
    let mut parts = input.splitn(4, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let [signature, timestamp, id, body] = [part(), part(), part(), part()];
    let now = Timestamp::from_unix_nanos(1_700_000_000_000_000_000);
    for (config, scheme) in SCHEMES.iter() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (&config.header, signature),
            (&config.timestamp_header, timestamp),
            (&config.id_header, id),
        ] {
            let name = name.as_ref().map(|name| HeaderName::from_bytes(name.as_bytes()));
            if let (Some(Ok(name)), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        if let Ok(claim) = scheme.claim(&headers, now) {
            assert!(scheme.verify(&claim, body).is_err(), "nobody has the key");
        }
    }
});
