//! `processing`: what every route does to events before its sink.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plugins::PluginConfig;

/// What every route does to events before its sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessingConfig {
    /// Most batches that a route holds in memory, read but not yet delivered.
    ///
    /// While a sink is slow its route reads on, up to this many batches and, beside the one under way, not more bytes than
    /// `batch.max_bytes`; then it stops until one is delivered, and logs `processing_paused` if that takes longer than a
    /// second.
    ///
    /// Default: `100`. Bounds: `1` to `100000`.
    #[schemars(range(min = 1, max = 100_000))]
    pub queue_max_depth: u32,

    /// Processors that every batch of every route passes, in this order, before the route's own.
    ///
    /// Each has a `name` and the keys of its own beside it.
    ///
    /// Default: `[]`.
    pub plugins: Vec<PluginConfig>,
}

impl Default for ProcessingConfig {
    fn default() -> Self {
        Self {
            queue_max_depth: 100,
            plugins: Vec::new(),
        }
    }
}
