//! `dead_letters`: what is kept of events that could not go on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::ByteSize;

/// What is kept of events that were refused or could not be processed or delivered, until somebody looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// Most bytes of dead letters on disk.
    ///
    /// Over it, the oldest are removed, and counted.
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
