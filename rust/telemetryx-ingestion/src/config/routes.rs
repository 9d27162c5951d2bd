//! `routes`: where events go. Each route reads the journal at its own pace.

use std::{collections::BTreeMap, fmt, num::NonZeroU32};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    plugins::{PluginConfig, SinkConfig},
    values::{ByteSize, Duration, RouteName, SourceName},
};

/// One way out of the journal: a filter, processors, a sink, and a position of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Name of the route.
    ///
    /// Its position in the journal, its metrics and its ledger are kept under it: a new name is a new route, which
    /// starts at the oldest event kept.
    pub name: RouteName,

    /// Where its events go.
    ///
    /// `kind` chooses the sink; the other keys are that sink's own.
    pub sink: SinkConfig,

    /// Which events it takes: those that pass all of this. The others are counted as filtered.
    #[serde(default)]
    pub filter: FilterConfig,

    /// Processors that its batches pass, in this order, after those of `processing.plugins`.
    ///
    /// Default: `[]`.
    #[serde(default)]
    pub processors: Vec<PluginConfig>,

    /// How many events are delivered together. The first limit that is reached closes a batch.
    #[serde(default)]
    pub batch: BatchConfig,

    /// How many parts of a batch are delivered at the same time, to a sink whose answers take long.
    ///
    /// Events of one partition key are in one part and stay in order. Only for sinks that take parts; the others say so.
    ///
    /// Default: `1`. Bounds: `1` to `64`.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub in_flight: u32,

    /// How a delivery that failed for a passing reason is tried again: after a delay that doubles, with jitter.
    #[serde(default)]
    pub retry: RetryConfig,

    /// When deliveries pause because the sink is down. Then one at a time probes whether it is back.
    #[serde(default)]
    pub breaker: BreakerConfig,
}

impl RouteConfig {
    /// A route with this name and sink and the defaults for all else.
    pub fn new(name: RouteName, sink: SinkConfig) -> Self {
        Self {
            name,
            sink,
            filter: FilterConfig::default(),
            processors: Vec::new(),
            batch: BatchConfig::default(),
            in_flight: one(),
            retry: RetryConfig::default(),
            breaker: BreakerConfig::default(),
        }
    }
}

fn one() -> u32 {
    1
}

/// Which events a route takes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilterConfig {
    /// Types it takes; none named: all.
    ///
    /// Default: `[]`.
    #[schemars(inner(length(min = 1, max = 128)))]
    pub types: Vec<String>,

    /// Sources it takes; none named: all.
    ///
    /// Default: `[]`.
    pub sources: Vec<SourceName>,

    /// Attributes that an event must have, each with exactly this value.
    ///
    /// Default: `{}`.
    pub attributes: BTreeMap<String, String>,
}

impl FilterConfig {
    /// Whether it takes every event.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && self.sources.is_empty() && self.attributes.is_empty()
    }
}

/// How many events are delivered together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Most events in a batch.
    ///
    /// Default: `5000`. Bounds: `1` to `1000000`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_events: u32,

    /// Most bytes in a batch; one event larger than it makes a batch alone.
    ///
    /// Default: `4MiB`. Bounds: `1KiB` to `1GiB`.
    #[schemars(extend("x-min" = "1KiB", "x-max" = "1GiB"))]
    pub max_bytes: ByteSize,

    /// Longest time that an event waits for a batch to fill.
    ///
    /// None: as the sink likes it, `5ms` for `stats`, `redis` and `kafka`, `200ms` for the others.
    ///
    /// Default: none. Bounds: `0s` to `1h`.
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_interval: Option<Duration>,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            max_events: 5000,
            max_bytes: ByteSize::mib(4),
            flush_interval: None,
        }
    }
}

/// How a delivery that failed is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Delay before the first retry.
    ///
    /// Default: `100ms`. Bounds: `1ms` to `1h`.
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub initial: Duration,

    /// Longest delay between two tries.
    ///
    /// Default: `30s`. Bounds: `1ms` to `1d`, and not less than `initial`.
    #[schemars(extend("x-min" = "1ms", "x-max" = "1d"))]
    pub max: Duration,

    /// Tries after which the batch becomes dead letters of stage `delivery`, or `unlimited`.
    ///
    /// With `unlimited` a route waits for its sink as long as it takes; `admission.overflow` bounds what piles up.
    ///
    /// Default: `unlimited`. Bounds: `1` to `4294967295`.
    pub attempts: Attempts,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            initial: Duration::millis(100),
            max: Duration::secs(30),
            attempts: Attempts::Unlimited,
        }
    }
}

/// How often a delivery is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// Until it succeeds.
    Unlimited,
    /// At most this often, the first try included.
    Limited(NonZeroU32),
}

impl Attempts {
    /// How it is written, for messages and the reference.
    pub const FORM: &str = "unlimited, or a whole number from 1";

    /// Whether there is a next try after `made` of them.
    pub fn allows_another(self, made: u32) -> bool {
        match self {
            Self::Unlimited => true,
            Self::Limited(most) => made < most.get(),
        }
    }
}

impl Serialize for Attempts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unlimited => serializer.serialize_str("unlimited"),
            Self::Limited(most) => serializer.serialize_u32(most.get()),
        }
    }
}

impl<'de> Deserialize<'de> for Attempts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Attempts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Attempts::FORM)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Attempts, E> {
                u32::try_from(number)
                    .ok()
                    .and_then(NonZeroU32::new)
                    .map(Attempts::Limited)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Attempts, E> {
                match text {
                    "unlimited" => Ok(Attempts::Unlimited),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Attempts {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Attempts".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": "attempts", "minimum": 1, "maximum": u32::MAX })
    }
}

/// When deliveries pause because the sink is down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures in a row that open the breaker.
    ///
    /// Default: `5`. Bounds: `1` to `1000000`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub failures: u32,

    /// Time it stays open before the next probe.
    ///
    /// Default: `5s`. Bounds: `1ms` to `1h`.
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub open_for: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            open_for: Duration::secs(5),
        }
    }
}
