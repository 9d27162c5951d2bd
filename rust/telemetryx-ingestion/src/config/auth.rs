//! `auth`: who may send.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{KeyHash, SourceName};

/// Who may send.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// API keys that may send.
    ///
    /// A client sends one as `Authorization: Bearer …` or `X-Api-Key: …`. Without any key in this list the service is
    /// open to whoever reaches it, and says so at start.
    ///
    /// Default: `[]`.
    pub keys: Vec<KeyConfig>,

    /// Whether everybody may send who reaches an address beyond this machine.
    ///
    /// Without keys and without client certificates (`http.tls.client_ca_file`) the service starts on loopback
    /// addresses only, unless this is `true`.
    ///
    /// Default: `false`.
    pub allow_open: bool,
}

/// One API key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Name of the key.
    ///
    /// Shown in logs and metrics in place of the key. Each name is there once.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,

    /// SHA-256 of the key, as 64 hexadecimal digits.
    ///
    /// `printf %s "$KEY" | sha256sum` prints it. The key itself is never in the config.
    pub sha256: KeyHash,

    /// The one source this key may send for.
    ///
    /// Empty: any source.
    ///
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,

    /// Requests per second that this key's own bucket refills.
    ///
    /// A limit of this key alone, beside `admission.rate_limit` and whether that is on or not. Empty: none of its own.
    ///
    /// Default: none. Bounds: `0.001` to `1000000000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 1_000_000_000.0))]
    pub rps: Option<f64>,

    /// Requests that this key's own bucket holds when it is full.
    ///
    /// Empty: twice `rps`, and at least 1. Only beside `rps`.
    ///
    /// Default: none. Bounds: `1` to `4294967295`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
}

impl KeyConfig {
    /// Requests that the key's own bucket holds when it is full.
    #[must_use]
    pub fn burst(&self) -> u32 {
        let twice = (self.rps.unwrap_or_default() * 2.0).clamp(1.0, f64::from(u32::MAX));
        self.burst.unwrap_or(twice as u32)
    }
}
