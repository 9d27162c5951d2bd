//! `admission`: how much may come in at once, how fast, and what happens when the journal is full.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::ByteSize;

/// What protects the service from more than it can hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionConfig {
    /// Memory that all requests under way may take together.
    ///
    /// Taken before a body is read; when it is spent, further requests are answered 429 with `Retry-After`, and one that
    /// needs more than all of it 413. A body takes about twice its size.
    ///
    /// Default: `256MiB`. Bounds: `1MiB` to `1TiB`, and not less than `http.max_body`.
    #[schemars(extend("x-min" = "1MiB", "x-max" = "1TiB"))]
    pub memory_budget: ByteSize,

    /// A token bucket in front of everything else; while it is empty, requests are answered 429 with `Retry-After`.
    pub rate_limit: RateLimitConfig,

    /// What happens to new events while the slowest route is further behind than this.
    pub overflow: OverflowConfig,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            memory_budget: ByteSize::mib(256),
            rate_limit: RateLimitConfig::default(),
            overflow: OverflowConfig::default(),
        }
    }
}

/// Limit on requests per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Whether requests are limited at all.
    ///
    /// Default: `false`.
    pub enabled: bool,

    /// Who shares one bucket.
    ///
    /// Default: `source_ip`.
    pub per: RateLimitPer,

    /// Requests (with `per: source`: events) per second that a bucket refills.
    ///
    /// Default: `100`. Bounds: `0.001` to `1000000000`.
    #[schemars(range(min = 0.001, max = 1_000_000_000.0))]
    pub rps: f64,

    /// Requests (with `per: source`: events) that a full bucket holds, so the most that may come at once.
    ///
    /// An empty bucket must be full again within ten years.
    ///
    /// Default: `200`. Bounds: `1` to `4294967295`.
    #[schemars(range(min = 1))]
    pub burst: u32,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            per: RateLimitPer::SourceIp,
            rps: 100.0,
            burst: 200,
        }
    }
}

/// Who shares one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitPer {
    /// Each client address has its own; of an IPv6 address the first 64 bits count.
    SourceIp,
    /// Each API key has its own; requests without a key go by address.
    Key,
    /// Each event source has its own, from which every event takes a token; events over it are refused by index.
    Source,
    /// One for everybody.
    All,
}

/// Limit on what routes may have before them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OverflowConfig {
    /// What is done with events while the backlog is over its limit.
    ///
    /// Default: `reject`.
    pub policy: OverflowPolicy,

    /// Share of the events that policy `sample` lets through; the rest is discarded.
    ///
    /// An event that is let through says so: its attribute `sample_rate` is this number (times the one it brought).
    ///
    /// Default: `0.1`. Bounds: `0` to `1`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_rate: f64,

    /// Most events that the slowest route may have before it.
    ///
    /// Empty: only the bytes count.
    ///
    /// Default: none. Bounds: from `1`.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backlog_events: Option<u64>,

    /// Most bytes of journal that the slowest route may have before it.
    ///
    /// The disk must have room for it beside `journal.embedded.retain.bytes`.
    ///
    /// Default: `8GiB`. Bounds: `1MiB` to `1024TiB`.
    #[schemars(extend("x-min" = "1MiB", "x-max" = "1024TiB"))]
    pub max_backlog_bytes: ByteSize,
}

impl Default for OverflowConfig {
    fn default() -> Self {
        Self {
            policy: OverflowPolicy::Reject,
            sample_rate: 0.1,
            max_backlog_events: None,
            max_backlog_bytes: ByteSize::gib(8),
        }
    }
}

/// What is done with events while the backlog is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverflowPolicy {
    /// Answer 429 with `Retry-After`. Nothing is lost: the client keeps the events and tries again.
    Reject,
    /// Answer 202 with durability `shed` and discard the events. They are lost, and counted.
    Drop,
    /// Keep a share of `sample_rate` of the events and discard the others as `drop` does.
    Sample,
}
