//! Where accepted events become durable, and where routes read them: the trait, its types, and its engines.
//!
//! | file | purpose |
//! | --- | --- |
//! | `mod.rs` | [`Journal`], [`Subscription`] and what they pass |
//! | `error.rs` | what can go wrong, and what the caller shall do |
//! | `open.rs` | opens the engine that the config names |
//! | `embedded.rs` | the engine on local disk, over the crate `telemetryx-journal` |
//! | `reserve.rs` | room on the disk for what routes must append to get on |
//! | `delivery.rs` | events read for a route, cut at its batch limits |
//! | `kafka/` | the engine in a topic of Apache Kafka |
//! | `postgres/` | the engine in tables of PostgreSQL |
//! | `table.rs` | what the processes of a fleet know alike |
//!
//! A journal is a set of partitions, each a log of its own: offsets number its events, in order. What has the same key is in
//! the same partition. The engine `embedded` has one, number 0.
//!
//! Only `intake` appends; only `route` subscribes; `query` reads ranges for receipts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use smallvec::SmallVec;
use telemetryx_common::Timestamp;
use tokio_util::sync::CancellationToken;

pub mod delivery;
pub mod embedded;
pub mod error;
#[cfg(feature = "kafka")]
pub mod kafka;
mod open;
pub mod postgres;
mod reserve;
mod table;

pub use delivery::{Delivery, Slice};
pub use embedded::EmbeddedJournal;
pub use error::{AppendError, JournalError};
pub use open::{
    OpenError, OpenedFor, Purpose, how_to_empty, is_made, is_shared, nothing_is_spilled, open,
};
pub use table::{Entry, Followed, SharedTable, TableChange};

/// Events that were decoded, validated and encoded, ready to become durable together.
#[derive(Debug)]
pub struct EncodedBatch {
    /// A `telemetryx.v1.EventBatch`: the events one after the other.
    pub body: Bytes,
    /// How many events `body` holds; at least 1.
    pub events: u32,
    /// The earliest `ts` of the events.
    pub earliest: Timestamp,
    /// The latest `ts` of the events.
    pub latest: Timestamp,
    /// True if no client sends them but a route, which cannot get on without: on a full disk there may be room kept for it.
    pub is_own: bool,
}

/// A run of events in one partition, without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: u32,
    /// Offset of the first event.
    pub first: u64,
    /// How many events follow it without a gap, itself included; at least 1.
    pub events: u32,
}

impl Range {
    /// The offset behind the last event.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.events.into())
    }
}

/// Where one batch became durable: its events, in as few runs as there are; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The runs, none of which touches another.
    pub ranges: SmallVec<[Range; 1]>,
}

impl Position {
    /// Of a batch that lies in one run.
    #[must_use]
    pub fn of(range: Range) -> Self {
        Self {
            ranges: SmallVec::from_buf([range]),
        }
    }

    /// How many events the batch has.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| u64::from(range.events))
            .sum()
    }
}

/// Where the events of an append are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Those that are in partitions.
    pub position: Position,
    /// How many are in none yet: no route has had them.
    pub waiting: u64,
    /// How many nobody can tell any more.
    pub forgotten: u64,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The partition.
    pub partition: u32,
    /// The oldest event still held.
    pub start: u64,
    /// The offset behind the newest durable event.
    pub end: u64,
}

/// How far a route has committed in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The partition.
    pub partition: u32,
    /// The offset that is read next.
    pub position: u64,
    /// What was saved with it.
    pub state: Bytes,
}

/// The name of a partition's log in a journal of this identity, for sinks that remember offsets: no other log has it.
#[must_use]
pub fn log_of(identity: u128, partition: u32) -> u128 {
    identity.wrapping_add(partition.into())
}

/// What the engine promises once `append` has resolved; the `durability` of a 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On this machine's disk: survives a power cut.
    Fsynced,
    /// Written, and synced within the configured interval: survives a kill of the process; a power cut can lose what
    /// was acknowledged since the last sync.
    FsyncInterval,
    /// Acknowledged by as many brokers as the topic demands.
    Replicated,
    /// Committed in a database.
    Committed,
}

impl Durability {
    /// The name in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fsynced => "fsynced",
            Self::FsyncInterval => "fsync_interval",
            Self::Replicated => "replicated",
            Self::Committed => "committed",
        }
    }
}

/// What the slowest route has not passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events.
    pub events: u64,
    /// Bytes in the journal.
    pub bytes: u64,
}

/// When a batch is large enough, or old enough, to be delivered.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimit {
    /// Most events in one batch.
    pub events: usize,
    /// Most encoded bytes in one batch; one event alone may be larger.
    pub bytes: usize,
    /// How long to wait for more after the first event.
    pub wait: Duration,
}

/// Names one delivery of one subscription: the offset behind its last event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// What the journal says of itself in `/status` and `/health`.
#[derive(Debug, Clone, Serialize)]
pub struct JournalStatus {
    /// `embedded`, `kafka` or `postgres`.
    pub engine: &'static str,
    /// `ok`, `no_space` or `unhealthy`.
    pub state: &'static str,
    /// Why it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The oldest event still held; of several partitions, the sum.
    pub start_offset: u64,
    /// The offset that the next event gets: as many were accepted so far. Of several partitions, the sum.
    pub end_offset: u64,
    /// Files, if it has files of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<usize>,
    /// Bytes held; 0 if it is not known.
    pub bytes: u64,
    /// Places where acknowledged events cannot be read back any more.
    pub damage: Vec<String>,
    /// What is not as it should be, though events are accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Events that are kept elsewhere until they can be where they belong, if there are any or the next will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillStatus>,
}

/// Events that were accepted and are kept on this machine, since the server that keeps the journal is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpillStatus {
    /// Since when they are.
    pub since: String,
    /// Why; `None` once the server is back, while they are handed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many there are.
    pub events: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// When the oldest was accepted; `None` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
}

impl JournalStatus {
    /// True if appends can succeed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.state == "ok"
    }
}

/// Where accepted events become durable.
///
/// What is answered without `async` never blocks: it is as it was last [seen](Self::refresh).
#[async_trait]
pub trait Journal: Send + Sync {
    /// Resolves once the batch is durable, and only then.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was promised; its variants say when to try again.
    async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError>;

    /// What a resolved append promises.
    fn durability(&self) -> Durability;

    /// What the append that returned `position` promises.
    fn durability_of(&self, position: &Position) -> Durability {
        let _ = position;
        self.durability()
    }

    /// Takes part in reading for `route`; once a route and process.
    ///
    /// # Errors
    /// [`JournalError`] if that cannot be.
    async fn subscribe(&self, route: &str) -> Result<Box<dyn Assignments>, JournalError>;

    /// A name of this journal that no other has, nor one made anew in its place; receipts carry a trace of it.
    fn identity(&self) -> u128;

    /// The identity that a receipt for `position` carries a trace of; one that no receipt has if no append returned it.
    fn identity_of(&self, position: &Position) -> u128 {
        let _ = position;
        self.identity()
    }

    /// Where the events are now that an append put at `position`: an engine may have moved them since.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be found out now.
    async fn locate(&self, position: &Position) -> Result<Located, JournalError> {
        Ok(Located {
            position: position.clone(),
            waiting: 0,
            forgotten: 0,
        })
    }

    /// Accepted events that are in no partition yet, as far as this process knows: pending for every route.
    fn waiting(&self) -> u64 {
        0
    }

    /// What it says of itself.
    fn status(&self) -> JournalStatus;

    /// Events and bytes that the slowest route has not passed.
    fn backlog(&self) -> Backlog;

    /// What each partition holds, in the order of their numbers.
    fn extents(&self) -> Vec<Extent>;

    /// How far `route` is, whoever reads for it. A partition without a commit is not in it.
    fn commits(&self, route: &str) -> Vec<Committed>;

    /// How far `route` is, as it was saved last: read anew, wherever it is kept. A partition without a commit is not in it.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be read, or is damaged.
    async fn saved(&self, route: &str) -> Result<Vec<Committed>, JournalError> {
        // One that is asked for the first time is looked at from now on.
        self.commits(route);
        self.refresh().await?;
        Ok(self.commits(route))
    }

    /// The most bytes that can be saved with a position.
    fn state_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Sees anew what others may have changed.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot; what was seen before stays.
    async fn refresh(&self) -> Result<(), JournalError>;

    /// Reads from `from` up to `to` without a position of its own: for replays and receipts.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be read.
    async fn scan(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Result<Delivery, JournalError>;

    /// The first offset of the partition that was accepted at or after `time`.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be read.
    async fn offset_at(&self, partition: u32, time: Timestamp) -> Result<u64, JournalError>;

    /// Where the processes of a fleet keep what all must know; `None` if this journal is one process's.
    fn table(&self) -> Option<Arc<dyn SharedTable>> {
        None
    }

    /// Finishes what waits; later appends fail with [`AppendError::Closed`].
    async fn close(&self);
}

/// One process's part in reading for a route: the partitions that are its own, which come and go.
#[async_trait]
pub trait Assignments: Send {
    /// Waits for the next partition that this process is to read. Cancel-safe.
    ///
    /// # Errors
    /// [`JournalError::Closed`]: there will never be another one.
    async fn next(&mut self) -> Result<Box<dyn Assignment>, JournalError>;
}

/// A partition that this process reads for a route, until this is dropped: then another process may.
#[async_trait]
pub trait Assignment: Send + Sync {
    /// Its number.
    fn partition(&self) -> u32;

    /// Of the journal that it is a partition of, as [`Journal::identity`]: one that is made anew has none of its events.
    fn identity(&self) -> u128;

    /// Cancelled when another process is to read it: commit soon, and drop this. Later commits fail with
    /// [`JournalError::Lost`].
    fn revoked(&self) -> CancellationToken;

    /// Opens it at its last commit, the oldest event held if there is none; again after a failure, once the former
    /// subscription is dropped.
    ///
    /// # Errors
    /// [`JournalError`] if its position cannot be read; nothing is changed then.
    async fn open(&self) -> Result<Box<dyn Subscription>, JournalError>;

    /// A delivery of it failed, and is tried again. For whoever looks into the journal; never waits.
    fn failed(&self, _failure: FailedDelivery) {}
}

/// What became of a try to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedDelivery {
    /// Offset of the first event that is tried again.
    pub first: u64,
    /// Offset behind the last.
    pub end: u64,
    /// How often it failed.
    pub attempts: u32,
    /// Why, in words that hold no secret.
    pub error: String,
    /// When it is tried again, at the earliest.
    pub again_in: Duration,
}

/// One route's reading of one partition.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for events, then takes as many as fit `limit`. Cancel-safe.
    ///
    /// # Errors
    /// [`JournalError`]: try again later; the position has not moved.
    async fn next(&mut self, limit: BatchLimit) -> Result<Delivery, JournalError>;

    /// True if `next` would not have to wait for a client.
    fn has_more(&self) -> bool;

    /// Where the next delivery starts.
    fn position(&self) -> u64;

    /// What was saved with the last commit.
    fn state(&self) -> &[u8];

    /// Saves that everything up to `delivered` is settled, and `state` with it, in one step; durable when it returns.
    ///
    /// # Errors
    /// [`JournalError`]: neither was saved; the same commit may be tried again.
    async fn commit(&mut self, delivered: DeliveryId, state: &[u8]) -> Result<(), JournalError>;
}
