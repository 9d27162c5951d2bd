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
}
