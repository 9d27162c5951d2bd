//! `shutdown`: how the service ends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::Duration;

/// How the service ends on SIGINT or SIGTERM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Longest time for finishing requests under way and flushing the routes.
    ///
    /// What is not delivered by then is delivered after the next start; nothing acknowledged is lost.
    ///
    /// Default: `30s`. Bounds: `0s` to `1h`.
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub timeout: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::secs(30),
        }
    }
}
