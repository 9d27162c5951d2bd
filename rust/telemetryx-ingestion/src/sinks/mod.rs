//! Destinations: one file each, found through `inventory`, named by `sink.kind` of a route. Each route has a sink of
//! its own, handed one batch at a time, by the route or by a replay of it.
//!
//! | file | kind |
//! | --- | --- |
//! | `clickhouse/` | `clickhouse`: raw events in a table |
//! | `grpc/` | `grpc`: a brain, whose findings become events |
//! | `http.rs` | `http`: NDJSON or JSON to a URL, signed |
//! | `kafka/` | `kafka`: a message an event |
//! | `lines.rs` | `file`, `stdout`: NDJSON |
//! | `otlp/` | `otlp`: as OTLP over HTTP or gRPC |
//! | `parquet/` | `parquet`: Parquet files in an object store or a folder |
//! | `postgres/` | `postgres`: raw events in a table, answers `/events` |
//! | `redis/` | `redis`: counters in Redis, answers `/stats` |
//! | `sqlite/` | `sqlite`: raw events in a file, answers `/events` |
//! | `stats.rs` | `stats`: counters in memory, saved with the route's cursor, answers `/stats` |
//! | `emitter.rs` | the way back in, for events that a destination answers with |
//! | `secret.rs`, `tls.rs`, `timeout.rs` | what sinks that reach a server share: secrets from files, TLS, deadlines |
//! | `http2.rs` | connections for gRPC |
//! | `web/` | what sinks over HTTP share: the client, and what answers mean |

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;

use crate::config::SinkConfig;
use crate::plugin::{self, PluginError};
use crate::query::{CounterStore, EventStore};
use crate::route::EventBatch;

mod clickhouse;
mod emitter;
mod grpc;
mod http;
mod http2;
#[cfg(feature = "kafka")]
mod kafka;
mod lines;
mod otlp;
#[cfg(feature = "parquet")]
mod parquet;
mod postgres;
mod redis;
pub(crate) mod secret;
mod sqlite;
mod stats;
mod timeout;
pub(crate) mod tls;
mod web;

pub use emitter::{Emit, EmitError, Emitter};

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The destination cannot take it now. The same batch comes again, as the route's retry policy says.
    #[error("{0}")]
    Retryable(String),
    /// The destination will never take these events (by their place in the batch). The caller dead-letters them and
    /// hands in the rest again.
    #[error("{} events were rejected; the first: {}", .0.len(), .0.first().map_or("", |rejected| &rejected.message))]
    Rejected(Vec<RejectedBySink>),
    /// The destination will never take the batch as it is, and does not say because of which event. The caller hands in
    /// its halves, down to the single event that is refused alone. Not for what no other batch would pass either, such
    /// as a wrong password: that is [`Retryable`](Self::Retryable).
    #[error("{message}")]
    Refused {
        /// Short snake_case name of the fault.
        code: &'static str,
        /// The destination's own words.
        message: String,
    },
}

/// An event that a destination will never take.
#[derive(Debug)]
pub struct RejectedBySink {
    /// Place in the batch.
    pub index: usize,
    /// Short snake_case name of the fault.
    pub code: &'static str,
    /// The destination's own words.
    pub message: String,
}

/// A destination. Told the offsets, so that it can make redelivery harmless.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Delivers the batch as a whole. May be called again with events delivered before: after a crash, by a replay, or
    /// since a part of a batch failed. [`EventBatch::cause`] says why it is handed in, and which part of the log it is.
    ///
    /// # Errors
    /// [`DeliverError`]; nothing of the batch counts as delivered.
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError>;

    /// Makes durable what was delivered; called before the route's cursor is saved, since nothing comes again after
    /// that. A destination that is durable when `deliver` returns, or that [`save`](Self::save)s, has nothing to do.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`]. If it [keeps](Self::keeps_until) all of it still, it is asked again as the route's
    /// retry policy says, without a limit to the attempts; else the route goes back to its last commit and delivers again from there.
    async fn flush(&self) -> Result<(), DeliverError> {
        Ok(())
    }

    /// Until when it keeps what it was handed, to write it as one larger piece; a moment that has passed when the piece is
    /// full. `None`: it keeps nothing. While it does, nothing of it counts as delivered and the route's position stays;
    /// then the route calls [`flush`](Self::flush) and commits.
    fn keeps_until(&self) -> Option<Instant> {
        None
    }

    /// What it keeps should be written soon: [`keeps_until`](Self::keeps_until) says now, unless it must not be written yet.
    fn hurry(&self) {}

    /// True if a failure to deliver never comes of the batch: then `retry.attempts` do not count, and no event becomes a dead
    /// letter because of them.
    fn tries_for_ever(&self) -> bool {
        false
    }

    /// Until when the destination asked to be left alone, after an error. Nothing is delivered before: neither by the route
    /// nor by a replay, nor a dead letter again.
    fn not_before(&self) -> Option<Instant> {
        None
    }

    /// Can it deliver now? For `/health`, and before the first batch.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`] with the destination's own words.
    async fn check(&self) -> Result<(), DeliverError>;

    /// What a sink that holds its data in memory must keep, saved in the same step as the route's cursor.
    fn save(&self) -> Option<Value> {
        None
    }

    /// Takes back what [`save`](Self::save) returned, before the first batch, and also later, when the route has to go
    /// back to its last commit: what the sink keeps is to be forgotten then, since it comes again. `Null`: nothing was
    /// saved, start empty.
    ///
    /// # Errors
    /// [`PluginError`] if the state is not one of this sink's.
    fn restore(&self, _state: Value) -> Result<(), PluginError> {
        Ok(())
    }

    /// What of its saved state holds where the route goes on in another journal. What names the former one does not.
    fn moved(&self, state: Value) -> Value {
        state
    }

    /// True if it knows by log and offset what it has had, and by nothing else: in another journal it would take it again.
    fn remembers_offsets(&self) -> bool {
        false
    }

    /// True if parts of one batch may be delivered at the same time, as `in_flight` of the route says. Not for a sink that
    /// remembers by offset how far it is.
    fn takes_parts(&self) -> bool {
        false
    }

    /// Types that begin so are never handed to it, whatever the route's filter says: they count as filtered.
    fn leaves_out(&self) -> Option<&'static str> {
        None
    }

    /// True if it hands back events, by the [`Emitter`]: what it delivers may take room in the journal.
    fn hands_back(&self) -> bool {
        false
    }

    /// Why a replay to this sink would do harm, if it would.
    fn refuses_replay(&self) -> Option<&'static str> {
        None
    }

    /// The counters it keeps, if it can answer `/stats`.
    fn counters(&self) -> Option<Arc<dyn CounterStore>> {
        None
    }

    /// The events it keeps, if it can answer `/events`.
    fn events(&self) -> Option<Arc<dyn EventStore>> {
        None
    }
}

/// What a sink is made for.
#[derive(Clone, Copy)]
pub struct SinkContext<'a> {
    /// The route's name.
    pub route: &'a str,
    /// Where the service keeps its files.
    pub data_dir: &'a Path,
    /// For events that its destination answers with.
    pub emitter: &'a Emitter,
}

/// Registers a sink. A constructor opens and reaches nothing: `telemetryx check` calls it.
pub struct SinkFactory {
    /// The `kind` in the config.
    pub kind: &'static str,
    /// Makes one from the settings beside `kind`.
    pub constructor: fn(toml::Value, SinkContext<'_>) -> Result<Box<dyn Sink>, PluginError>,
    /// How long a route waits for a batch to fill, if its config does not say.
    pub flush_interval: Duration,
}

inventory::collect!(SinkFactory);

/// The factory that `config` names.
///
/// # Errors
/// [`PluginError::Unknown`] if there is none.
pub fn factory(config: &SinkConfig) -> Result<&'static SinkFactory, PluginError> {
    let factories = inventory::iter::<SinkFactory>.into_iter();
    plugin::find("sink", &config.kind, factories, |factory| factory.kind)
}

/// Makes the sink that `config` names.
///
/// # Errors
/// [`PluginError`] if none has that name, or it refuses its settings.
pub fn build(config: &SinkConfig, context: SinkContext<'_>) -> Result<Box<dyn Sink>, PluginError> {
    (factory(config)?.constructor)(config.parameters(), context)
}
