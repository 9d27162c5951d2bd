//! `query`: which route's store answers which question.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::RouteName;

/// Kinds of sinks whose store can answer `/events`.
pub(super) const EVENT_SINKS: [&str; 1] = ["sqlite"];
/// Kinds of sinks whose counters can answer `/stats`.
pub(super) const COUNTER_SINKS: [&str; 1] = ["stats"];
/// Processors whose counters can answer `/stats`, whatever the sink of their route.
pub(super) const COUNTER_PROCESSORS: [&str; 1] = ["Stats"];

/// Which route's store answers which question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Route whose store answers `/events`.
    ///
    /// Its sink must be of kind `sqlite`. Empty, and no route named `store` with such a sink: `/events` is off.
    ///
    /// Default: `store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_from: Option<RouteName>,

    /// Route whose counters answer `/stats` and `/stats/rates`.
    ///
    /// Its sink must be of kind `stats`. Empty, and no route named `stats` with such a sink: both are off.
    ///
    /// Default: `stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters_from: Option<RouteName>,
}
