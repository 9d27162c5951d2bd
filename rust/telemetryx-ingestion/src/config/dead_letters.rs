//! `dead_letters`: what is kept of events that could not go on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::ByteSize;

/// What is kept of events that were refused or could not be processed or delivered, until somebody looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// Most bytes of refused events that are kept.
    ///
    /// Over it, the oldest are removed, and that is logged. Those that a route could not process or deliver were accepted:
    /// they stay until somebody sends them again.
    ///
    /// Default: `1GiB`. Bounds: `1MiB` to `1TiB`.
    #[schemars(extend("x-min" = "1MiB", "x-max" = "1TiB"))]
    pub max_bytes: ByteSize,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self {
            max_bytes: ByteSize::gib(1),
        }
    }
}
