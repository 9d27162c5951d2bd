//! `query`: which route's store answers which question.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::RouteName;

/// Which route's store answers which question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Route whose store answers `/events`.
    ///
    /// Its sink must keep events, as `sqlite` and `postgres` do. Empty, and no route named `store` with such a sink: `/events` is off.
    ///
    /// Default: `store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_from: Option<RouteName>,

    /// Route whose counters answer `/stats` and `/stats/rates`.
    ///
    /// Its sink or one of its processors must count, as the sinks `stats` and `redis` and the processor `Stats` do. Empty, and no route named `stats` with such a sink: both are off.
    ///
    /// Default: `stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters_from: Option<RouteName>,
}
