//! Where accepted events become durable, and where routes read them: the trait, its types, and its engines.
//!
//! | file | purpose |
//! | --- | --- |
//! | `mod.rs` | [`Journal`], [`Subscription`] and what they pass |
//! | `error.rs` | what can go wrong, and what the caller shall do |
//! | `embedded.rs` | the engine on local disk, over the crate `telemetryx-journal` |
//! | `reserve.rs` | room on the disk for what routes must append to get on |
//! | `delivery.rs` | events read for a route, cut at its batch limits |
//!
//! Only `intake` appends; only `route` subscribes; `query` reads ranges for receipts.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use telemetryx_common::Timestamp;

pub mod delivery;
pub mod embedded;
pub mod error;
mod reserve;

pub use delivery::{Delivery, Slice};
pub use embedded::EmbeddedJournal;
pub use error::{AppendError, JournalError};

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

/// Where one batch became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Offset of the first event.
    pub first: u64,
    /// How many events follow it without a gap, itself included.
    pub events: u32,
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
}

impl Durability {
    /// The name in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fsynced => "fsynced",
            Self::FsyncInterval => "fsync_interval",
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
    /// `embedded`.
    pub engine: &'static str,
    /// `ok`, `no_space` or `unhealthy`.
    pub state: &'static str,
    /// Why it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The oldest event still held.
    pub start_offset: u64,
    /// The offset that the next event gets: as many were accepted so far.
    pub end_offset: u64,
    /// Files.
    pub segments: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Places where acknowledged events cannot be read back any more.
    pub damage: Vec<String>,
}

impl JournalStatus {
    /// True if appends can succeed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.state == "ok"
    }
}

/// Where accepted events become durable.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Resolves once the batch is durable, and only then.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was promised; its variants say when to try again.
    async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError>;

    /// What a resolved append promises.
    fn durability(&self) -> Durability;

    /// Opens the one subscription of `route`, at its last commit; a new route starts at the oldest event held.
    ///
    /// # Errors
    /// [`JournalError`] if its position cannot be read; nothing is changed then.
    fn subscribe(&self, route: &str) -> Result<Box<dyn Subscription>, JournalError>;

    /// Events and bytes that the slowest route has not passed; cheap, never blocks.
    fn backlog(&self) -> Backlog;

    /// The offset behind the last durable event: the number of events accepted since the journal was made.
    fn end(&self) -> u64;

    /// A name of this journal that no other has; receipts carry a trace of it.
    fn identity(&self) -> u128;

    /// What it says of itself.
    fn status(&self) -> JournalStatus;

    /// The events at `position`, or `None` if they are not all held any more.
    ///
    /// # Errors
    /// [`JournalError`] if they cannot be read.
    fn read(&self, position: Position) -> Result<Option<Delivery>, JournalError>;

    /// Reads from `from` up to `to` without a position of its own, for replay.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be read.
    fn scan(&self, from: u64, to: u64, limit: BatchLimit) -> Result<Delivery, JournalError>;

    /// The first offset accepted at or after `time`.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be read.
    fn offset_at(&self, time: Timestamp) -> Result<u64, JournalError>;

    /// Finishes what waits; later appends fail with [`AppendError::Closed`].
    async fn close(&self);
}

/// One route's reading of the journal.
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
