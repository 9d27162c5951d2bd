//! What a route reads of the journal while its sink is still at the batch before.
//!
//! The journal is the buffer; this small one in memory only makes a slow sink's route fast. It is bounded by
//! `processing.queue_max_depth` batches and by the bytes of one full batch. When it is full the route stops reading, and
//! says so if that lasts: `processing_paused`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use super::RouteHandle;
use super::commit::NEVER;
use crate::journal::{BatchLimit, Delivery, JournalError, Subscription};

/// A sink that answers sooner is not read ahead for: each batch would be smaller and cost more.
const SLOW: Duration = Duration::from_millis(10);
/// How long the buffer is full without a batch being settled before that is said.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// Batches that were read and are not yet under way, in their order.
pub(super) struct ReadAhead {
    limit: BatchLimit,
    batches_max: usize,
    batches: VecDeque<Delivery>,
    bytes: usize,
    failed: Option<JournalError>,
    /// It was said that reading stopped.
    paused: bool,
}

impl ReadAhead {
    /// Holds at most `batches_max` batches of `limit`, the one under way included.
    pub(super) fn new(limit: BatchLimit, batches_max: usize) -> Self {
        Self {
            limit,
            batches_max,
            batches: VecDeque::new(),
            bytes: 0,
            failed: None,
            paused: false,
        }
    }

    /// The next batch: one that was read ahead, else from `subscription`. Cancel-safe.
    pub(super) async fn next(
        &mut self,
        subscription: &mut dyn Subscription,
        handle: &RouteHandle,
    ) -> Result<Delivery, JournalError> {
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= batch.bytes;
            return Ok(batch);
        }
        if std::mem::take(&mut self.paused) {
            handle.resumed();
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => subscription.next(self.limit).await,
        }
    }

    /// Whether [`next`](Self::next) would not have to wait for a client.
    pub(super) fn has_more(&self, subscription: &dyn Subscription) -> bool {
        !self.batches.is_empty() || subscription.has_more()
    }

    /// Reads full batches for as long as it is polled, or until there is no room. Never returns; cancel-safe.
    pub(super) async fn fill(
        &mut self,
        subscription: &mut dyn Subscription,
        handle: &RouteHandle,
    ) -> Infallible {
        tokio::time::sleep(SLOW).await;
        // What does not fill a batch stays where it can still grow into one.
        let full = BatchLimit {
            wait: NEVER,
            ..self.limit
        };
        while self.failed.is_none() && self.has_room() {
            match subscription.next(full).await {
                Ok(batch) => {
                    self.bytes += batch.bytes;
                    self.batches.push_back(batch);
                }
                Err(error) => self.failed = Some(error),
            }
        }
        if self.failed.is_none() && !self.paused && subscription.has_more() {
            tokio::time::sleep(SAID_AFTER).await;
            self.paused = true;
            handle.paused(self.batches.len() + 1);
        }
        std::future::pending().await
    }

    fn has_room(&self) -> bool {
        self.batches.len() + 1 < self.batches_max && self.bytes < self.limit.bytes
    }
}
