//! `webhooks`: senders that sign what they send.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Duration, Secret, ValueError};
use crate::hex;

/// What keys of the form `base64` may begin with.
const KEY_PREFIX: &str = "whsec_";

/// A sender that signs each body with a key it shares with us. Its deliveries come to `POST /webhooks/<name>`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Whose rules hold.
    ///
    /// They are what the keys below say unless they are set here. Without a preset, `header` must be.
    ///
    /// Default: none, or the one that is called as the webhook is.
    pub preset: Option<WebhookPreset>,

    /// Keys that the sender may sign with; a signature by any of them is right.
    ///
    /// Two at once while a key is changed: no delivery is lost. At least 8 bytes each, at most 16 keys. Without any,
    /// here or in `keys_file`, the webhook is off: its path is answered 404.
    ///
    /// Default: `[]`.
    pub keys: Vec<Secret>,

    /// File with keys, one a line, beside those of `keys`.
    ///
    /// Blanks around a key and empty lines do not count.
    ///
    /// Default: none.
    pub keys_file: Option<PathBuf>,

    /// How keys are written.
    ///
    /// Default: none, or what the preset says; else `text`.
    pub key_encoding: Option<KeyEncoding>,

    /// Header with the signature.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(min = 1, max = 128))]
    pub header: Option<String>,

    /// What stands before the signature in its header, such as `sha256=`.
    ///
    /// What does not begin with it is no signature.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(max = 64))]
    pub prefix: Option<String>,

    /// What separates several signatures in the header; one that is right is enough.
    ///
    /// Default: none, or what the preset says; else `none`.
    pub separator: Option<SignatureSeparator>,

    /// How a signature is written. Upper-case hexadecimal digits are refused, and base64 has its padding.
    ///
    /// Default: none, or what the preset says; else `hex`.
    pub encoding: Option<SignatureEncoding>,

    /// The hash under the HMAC.
    ///
    /// Default: none, or what the preset says; else `sha256`.
    pub algorithm: Option<SignatureAlgorithm>,

    /// What is signed: `{body}` once, and as the sender needs `{timestamp}`, `{id}` and text between them.
    ///
    /// `{body}` is the body as it was sent, before any `Content-Encoding` is undone; `{timestamp}` and `{id}` are the text
    /// of their headers. The text between them may be a URL, if the sender signs that as well.
    ///
    /// Default: none, or what the preset says; else `{body}`.
    #[schemars(length(min = 1, max = 256))]
    pub signed: Option<String>,

    /// Header with the time of signing: seconds or milliseconds since 1970, or RFC 3339.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(min = 1, max = 128))]
    pub timestamp_header: Option<String>,

    /// What stands before the time of signing where it is one of the parts of the signature's header, such as `t=`.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(min = 1, max = 64))]
    pub timestamp_prefix: Option<String>,

    /// How far the time of signing may be from the service's clock, either way.
    ///
    /// Beyond it the delivery is answered 401: somebody may be sending an old one again. `0s`: any time is right.
    ///
    /// Default: none, or `5m` where a time is signed. Bounds: `0s` to `7d`.
    #[schemars(extend("x-min" = "0s", "x-max" = "7d"))]
    pub tolerance: Option<Duration>,

    /// Header with the delivery's id.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(min = 1, max = 128))]
    pub id_header: Option<String>,

    /// Header with the event's type.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(min = 1, max = 128))]
    pub type_header: Option<String>,

    /// What is put before the event's type.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(max = 64))]
    pub type_prefix: Option<String>,

    /// Where the id is in the body, as JSON pointers: the first place that there is counts, after `id_header`.
    ///
    /// A delivery without an id gets one that is derived from its body if an id is said to be somewhere, so that a
    /// second delivery is stored once; else a fresh one.
    ///
    /// Default: none, or what the preset says.
    pub id: Option<Vec<String>>,

    /// What is put before an id that the delivery has.
    ///
    /// Two events of one id are one event, whoever sent them: it keeps apart senders that number their deliveries.
    ///
    /// Default: none, or what the preset says.
    #[schemars(length(max = 64))]
    pub id_prefix: Option<String>,

    /// Where the time is in the body. RFC 3339 as text, or a number since 1970 in `time_unit`.
    ///
    /// Without one it is the time of receipt.
    ///
    /// Default: none, or what the preset says.
    pub time: Option<Vec<String>>,

    /// Unit of a time that is a number.
    ///
    /// Default: none, or what the preset says; else `auto`.
    pub time_unit: Option<TimeUnit>,

    /// Where the type is in the body, after `type_header`.
    ///
    /// Without one it is `type_prefix` without its last dot, or `event`.
    ///
    /// Default: none, or what the preset says.
    #[serde(rename = "type")]
    pub event_type: Option<Vec<String>>,

    /// Where the source is in the body.
    ///
    /// Without one it is the webhook's name.
    ///
    /// Default: none, or what the preset says.
    pub source: Option<Vec<String>>,

    /// Attributes of the event, each with the place of its value in the body; what is not there or null is left out.
    ///
    /// At most 32.
    ///
    /// Default: none, or what the preset says.
    pub attributes: Option<BTreeMap<String, String>>,

    /// What must be found in a delivery; one without it is answered 400.
    ///
    /// Default: none, or what the preset says.
    pub required: Option<Vec<WebhookPart>>,

    /// What a body may be.
    ///
    /// Default: none, or what the preset says; else `json`.
    pub body: Option<WebhookBody>,

    /// Whether a JSON body with `"type": "url_verification"` is answered 200 with its `challenge`, and not stored.
    ///
    /// Default: none, or what the preset says; else `false`.
    pub url_verification: Option<bool>,
}

/// Senders whose rules are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookPreset {
    /// Ring Partner API notifications.
    Ring,
    /// GitHub.
    Github,
    /// Stripe.
    Stripe,
    /// Slack's Events API.
    Slack,
    /// Whoever follows standardwebhooks.com.
    StandardWebhooks,
}

/// How a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyEncoding {
    /// Its UTF-8 bytes are the key.
    Text,
    /// In hexadecimal digits.
    Hex,
    /// In base64, perhaps with `whsec_` before it.
    Base64,
}

/// What separates several signatures in one header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureSeparator {
    /// The header holds one signature.
    None,
    /// Commas.
    Comma,
    /// Spaces.
    Space,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureEncoding {
    /// Lower-case hexadecimal digits.
    Hex,
    /// Base64 with padding, in the standard alphabet.
    Base64,
}

/// The hash under an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureAlgorithm {
    /// SHA-1: as an HMAC not broken, for senders that know no better.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// Unit of a time since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds, ms, µs or ns: whichever its magnitude tells.
    Auto,
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

/// Parts of an event that a delivery may have to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookPart {
    /// The id.
    Id,
    /// The time.
    Time,
    /// The type.
    Type,
    /// The source.
    Source,
}

/// What a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookBody {
    /// JSON; anything else is answered 400.
    Json,
    /// Any text; what is not JSON, such as a form, becomes a JSON string.
    Text,
}

impl WebhookConfig {
    /// Whether it has no keys, so that nobody could send.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.keys.is_empty()
    }

    /// The bytes of one of its keys.
    ///
    /// # Errors
    /// It is not written as `key_encoding` says. The key is not repeated.
    pub fn key_bytes(&self, key: &Secret) -> Result<Vec<u8>, ValueError> {
        let text = key.expose();
        match self.key_encoding.unwrap_or(KeyEncoding::Text) {
            KeyEncoding::Text => Ok(text.as_bytes().to_vec()),
            KeyEncoding::Base64 => {
                let digits = text.strip_prefix(KEY_PREFIX).unwrap_or(text);
                STANDARD
                    .decode(digits)
                    .map_err(|_| ValueError::new("it is not base64"))
            }
            KeyEncoding::Hex => {
                hex::decode(text.as_bytes()).ok_or_else(|| ValueError::new("it is not hexadecimal"))
            }
        }
    }
}
