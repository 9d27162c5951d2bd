//! `http`: batches of events as NDJSON or a JSON array, posted to a URL, signed if there is a key.
//!
//! A batch has an id that is the same each time the batch is sent, so a receiver can tell a second delivery.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use telemetryx_common::json;

use super::secret::SinkSecret;
use super::tls::TlsFiles;
use super::web::{Compression, Outgoing, Web, WebConfig, pack};
use super::{DeliverError, Sink, SinkContext, SinkFactory};
use crate::clock;
use crate::config::{Duration, Secret};
use crate::plugin::{PluginError, settings};
use crate::route::{Cause, EventBatch};

/// What a key of standard-webhooks may begin with.
const KEY_PREFIX: &str = "whsec_";
/// Keys at once, for a change of keys.
const KEYS_MAX: usize = 4;
const KEY_BYTES_MIN: usize = 16;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpConfig {
    url: Option<Secret>,
    url_file: Option<PathBuf>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    headers_file: Option<PathBuf>,
    hmac: Option<HmacConfig>,
    #[serde(default)]
    compression: Compression,
    tls: Option<TlsFiles>,
    timeout: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HmacConfig {
    key: Option<Secret>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    scheme: Scheme,
}

/// How a batch is signed.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scheme {
    /// As standardwebhooks.com has it.
    #[default]
    StandardWebhooks,
}

/// What a body looks like.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// An event a line.
    #[default]
    Ndjson,
    /// An array of events.
    Json,
}

struct HttpSink {
    route: String,
    web: Web,
    format: Format,
    compression: Compression,
    keys: Option<SinkSecret>,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: HttpConfig = settings(parameters)?;
    let mut mistakes = Vec::new();
    let mut keys = None;
    if let Some(hmac) = config.hmac {
        let Scheme::StandardWebhooks = hmac.scheme;
        match SinkSecret::of("hmac.key", hmac.key, hmac.key_file) {
            Ok(Some(secret)) => {
                let read = secret.read().and_then(|text| signing_keys(&text));
                mistakes.extend(read.err());
                keys = Some(secret);
            }
            Ok(None) => mistakes.push("`hmac.key` is missing: `whsec_…`, for example".to_owned()),
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    let web = WebConfig {
        url: config.url,
        url_file: config.url_file,
        headers: config.headers,
        headers_file: config.headers_file,
        tls: config.tls,
        timeout: config.timeout,
    };
    let web = Web::new_beside(mistakes, web)?;
    Ok(Box::new(HttpSink {
        route: context.route.to_owned(),
        web,
        format: config.format,
        compression: config.compression,
        keys,
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "http",
        constructor: construct,
        flush_interval: std::time::Duration::from_millis(200),
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let (content_type, body) = self.format.body(batch);
        let id = batch_id(&self.route, batch.cause(), &body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let body = pack(body, self.compression, &mut headers).await?;
        insert(&mut headers, "webhook-id", &id);
        insert(&mut headers, "idempotency-key", &id);
        // The time of this attempt: receivers refuse old signatures.
        let now = (clock::now().unix_nanos() / NANOS_PER_SECOND).to_string();
        insert(&mut headers, "webhook-timestamp", &now);
        if let Some(keys) = &self.keys {
            let keys = tokio::task::block_in_place(|| keys.read())
                .and_then(|text| signing_keys(&text))
                .map_err(DeliverError::Retryable)?;
            let signature = signature(keys, &id, &now, &body);
            insert(&mut headers, "webhook-signature", &signature);
        }
        let request = Outgoing {
            headers,
            body,
            ..Outgoing::default()
        };
        let answer = self.web.post(request).await?;
        self.web.judge(answer).map(drop)
    }

    async fn check(&self) -> Result<(), DeliverError> {
        self.web.knock().await
    }

    fn not_before(&self) -> Option<Instant> {
        self.web.not_before()
    }

    fn takes_parts(&self) -> bool {
        true
    }
}

impl Format {
    /// The content type, and the events.
    fn body(self, batch: &EventBatch<'_>) -> (&'static str, Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Self::Ndjson => {
                for event in batch.events() {
                    json::write_line(event, &mut body);
                }
                ("application/x-ndjson", body)
            }
            Self::Json => {
                for (place, event) in batch.events().iter().enumerate() {
                    body.push(if place == 0 { b'[' } else { b',' });
                    json::write_event(event, &mut body);
                }
                body.push(b']');
                ("application/json", body)
            }
        }
    }
}

/// The same for the same events sent for the same reason: a replay is not taken for what was delivered before it.
fn batch_id(route: &str, cause: Cause, body: &[u8]) -> String {
    let cause = match cause {
        Cause::Journal(part) => {
            format!(
                "journal {} {} {} {}",
                part.log, part.first, part.end, part.part
            )
        }
        Cause::Replay => "replay".to_owned(),
        Cause::Redrive(letter) => format!("letter {} {}", letter.log, letter.number),
    };
    let mut hash = Sha256::new();
    hash.update(format!("{route}\n{cause}\n"));
    hash.update(body);
    let digits = hash.finalize();
    let digits = digits.iter().take(16).map(|byte| format!("{byte:02x}"));
    format!("msg_{}", digits.collect::<String>())
}

/// The keys of a text, separated by blanks or line breaks.
///
/// # Errors
/// What is wrong, without repeating a key.
fn signing_keys(text: &Secret) -> Result<Vec<Hmac<Sha256>>, String> {
    let keys: Result<Vec<_>, _> = text.expose().split_whitespace().map(signing_key).collect();
    match keys {
        Ok(keys) if (1..=KEYS_MAX).contains(&keys.len()) => Ok(keys),
        Ok(_) => Err(format!("`hmac.key`: it holds 1 to {KEYS_MAX} keys")),
        Err(error) => Err(format!("`hmac.key`: {error}")),
    }
}

fn signing_key(text: &str) -> Result<Hmac<Sha256>, String> {
    let digits = text.strip_prefix(KEY_PREFIX).unwrap_or(text);
    let key = STANDARD.decode(digits);
    let key = key.map_err(|_| format!("a key is base64, perhaps with `{KEY_PREFIX}` before it"))?;
    if key.len() < KEY_BYTES_MIN {
        return Err(format!("a key has at least {KEY_BYTES_MIN} bytes"));
    }
    Hmac::new_from_slice(&key).map_err(|error| error.to_string())
}

/// One signature for each key, over the body as it is sent.
fn signature(keys: Vec<Hmac<Sha256>>, id: &str, now: &str, body: &[u8]) -> String {
    let signatures = keys.into_iter().map(|mut mac| {
        for piece in [id.as_bytes(), b".", now.as_bytes(), b".", body] {
            mac.update(piece);
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Stretch;

    #[test]
    fn signatures_are_those_of_the_specification() {
        // The example of standardwebhooks.com.
        let key: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let body = br#"{"test": 2432232314}"#;
        let made = signature(
            signing_keys(&key).unwrap(),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            body,
        );
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let two: Secret = format!("{0}\n{0}\n", key.expose()).parse().unwrap();
        let made = signature(signing_keys(&two).unwrap(), "a", "1", b"");
        assert_eq!(made.split(' ').count(), 2);
        for wrong in ["whsec_", "not base64!", "c2hvcnQ=", " "] {
            assert!(signing_keys(&wrong.parse().unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_batch_keeps_its_id_and_another_has_another() {
        let stretch = Stretch {
            log: 1,
            first: 10,
            end: 20,
            part: 0,
        };
        let journal = Cause::Journal(stretch);
        let id = batch_id("r", journal, b"x");
        assert_eq!(id, batch_id("r", journal, b"x"));
        let behind = Cause::Journal(Stretch { end: 21, ..stretch });
        let others = [
            batch_id("s", journal, b"x"),
            batch_id("r", behind, b"x"),
            batch_id("r", journal, b"y"),
            batch_id("r", Cause::Replay, b"x"),
        ];
        assert!(!others.contains(&id), "{others:?}");
    }
}
