//! What a route reads of the journal while its sink is still at the batch before.
//!
//! The journal is the buffer; this small one in memory only makes a slow sink's route fast. It is bounded by
//! `processing.queue_max_depth` batches and, beside the batch under way, by the bytes of one full batch. When it is full
//! the route stops reading, and says so if that lasts: `processing_paused`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::commit::NEVER;
use super::handle::ReaderHandle;
use crate::journal::{BatchLimit, Delivery, JournalError, Subscription};

/// A sink that answers sooner is not read ahead for: each batch would be smaller and cost more.
const SLOW: Duration = Duration::from_millis(10);
/// How long the buffer is full without a batch being settled before that is said.
pub(super) const SAID_AFTER: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });

/// Batches that were read and are not yet under way, in their order.
pub(super) struct ReadAhead {
    limit: BatchLimit,
    batches_max: usize,
    batches: VecDeque<Delivery>,
    bytes: usize,
    /// The most bytes that one of them had: another one may have as many.
    largest: usize,
    failed: Option<JournalError>,
    /// It was said that reading stopped.
    paused: bool,
    /// When the batch was asked for that is under way.
    taken: Instant,
}

impl ReadAhead {
    /// Holds at most `batches_max` batches of `limit`, the one under way included.
    pub(super) fn new(limit: BatchLimit, batches_max: usize) -> Self {
        Self {
            limit,
            batches_max,
            batches: VecDeque::new(),
            bytes: 0,
            largest: 0,
            failed: None,
            paused: false,
            taken: Instant::now(),
        }
    }

    /// The next batch: one that was read ahead, else from `subscription`. Cancel-safe.
    pub(super) async fn next(
        &mut self,
        subscription: &mut dyn Subscription,
        handle: &ReaderHandle,
    ) -> Result<Delivery, JournalError> {
        // A sink that is only slow has its route stop after each batch: it is said once, until it takes them quickly.
        let quick = self.taken.elapsed() < SAID_AFTER;
        if self.paused && (quick || self.batches.is_empty()) {
            self.paused = false;
            handle.resumed();
        }
        self.taken = Instant::now();
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= batch.bytes;
            return Ok(batch);
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

    /// Reads full batches for as long as it is polled, or until there is no room, and says when that lasts for
    /// `said_after` and there is more. Never returns; cancel-safe.
    pub(super) async fn fill(
        &mut self,
        subscription: &mut dyn Subscription,
        handle: &ReaderHandle,
        said_after: Duration,
    ) -> Infallible {
        tokio::time::sleep(SLOW).await;
        while self.failed.is_none()
            && let Some(bytes) = self.room()
        {
            // What does not fill a batch stays where it can still grow into one.
            let full = BatchLimit {
                bytes,
                wait: NEVER,
                ..self.limit
            };
            match subscription.next(full).await {
                Ok(batch) => {
                    self.bytes += batch.bytes;
                    self.largest = self.largest.max(batch.bytes);
                    self.batches.push_back(batch);
                }
                Err(error) => self.failed = Some(error),
            }
        }
        while self.failed.is_none() && !self.paused {
            tokio::time::sleep(said_after).await;
            if subscription.has_more() {
                self.paused = true;
                handle.paused(self.batches.len() + 1);
            }
        }
        std::future::pending().await
    }

    /// How many bytes the next batch may have, if there is room for one as large as those before.
    fn room(&self) -> Option<usize> {
        let bytes = self.limit.bytes.saturating_sub(self.bytes);
        let fits = self.batches.len() + 1 < self.batches_max && bytes >= self.largest.max(1);
        fits.then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::config::FilterConfig;
    use crate::journal::{DeliveryId, Slice};
    use crate::route::{RouteFilter, RouteHandle};

    /// A log of `records` records of 100 bytes, one event each.
    struct Log {
        records: u64,
        at: u64,
    }

    #[async_trait]
    impl Subscription for Log {
        async fn next(&mut self, limit: BatchLimit) -> Result<Delivery, JournalError> {
            let mut batch = Delivery::at(0, self.at);
            while self.at < self.records
                && (self.at - batch.first) < limit.events as u64
                && (batch.bytes + 100 <= limit.bytes || batch.bytes == 0)
            {
                batch.push(Slice {
                    first: self.at,
                    events: 1,
                    body: vec![0; 100].into(),
                });
                self.at += 1;
            }
            if batch.is_empty() {
                std::future::pending::<()>().await;
            }
            Ok(batch)
        }

        fn has_more(&self) -> bool {
            self.at < self.records
        }

        fn position(&self) -> u64 {
            self.at
        }

        fn state(&self) -> &[u8] {
            &[]
        }

        async fn commit(&mut self, _: DeliveryId, _: &[u8]) -> Result<(), JournalError> {
            Ok(())
        }
    }

    fn limit(events: usize, bytes: usize) -> BatchLimit {
        BatchLimit {
            events,
            bytes,
            wait: Duration::ZERO,
        }
    }

    fn handle() -> ReaderHandle {
        let filter = RouteFilter::new(&FilterConfig::default(), None);
        RouteHandle::new("r", "stats", None, filter).reader(0)
    }

    /// Fills for so long.
    async fn fill(ahead: &mut ReadAhead, log: &mut Log, handle: &ReaderHandle, time: Duration) {
        let filled = ahead.fill(log, handle, SAID_AFTER);
        tokio::time::timeout(time, filled).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_is_read_ahead_has_no_more_bytes_than_a_full_batch() {
        for (events, bytes, batches_max, expected) in [
            // Full by bytes: one more batch, and no scraps of the room that is left.
            (1000, 1050, 8, vec![1000]),
            // Full by events: as many as fit.
            (3, 1050, 8, vec![300, 300, 300]),
            (3, 1050, 3, vec![300, 300]),
            (3, 1050, 1, vec![]),
            // One event alone may be larger.
            (3, 50, 8, vec![100]),
        ] {
            let mut ahead = ReadAhead::new(limit(events, bytes), batches_max);
            let (mut log, handle) = (
                Log {
                    records: 500,
                    at: 0,
                },
                handle(),
            );
            ahead.next(&mut log, &handle).await.unwrap();
            fill(&mut ahead, &mut log, &handle, SLOW * 3).await;
            let read: Vec<_> = ahead.batches.iter().map(|batch| batch.bytes).collect();
            assert_eq!(read, expected, "{events} events, {bytes} bytes");
            assert_eq!(ahead.bytes, read.iter().sum::<usize>());
        }
    }

    #[tokio::test]
    async fn a_pause_is_said_once_also_of_what_came_later_and_ends_with_the_first_quick_batch() {
        for batches_max in [1, 3] {
            let mut ahead = ReadAhead::new(limit(10, 1 << 20), batches_max);
            let handle = handle();
            let depth = batches_max as u64 * 10;
            let mut log = Log {
                records: depth,
                at: 0,
            };
            let pauses = || handle.route().status().pauses.count();
            ahead.next(&mut log, &handle).await.unwrap();
            fill(&mut ahead, &mut log, &handle, SAID_AFTER * 2).await;
            assert_eq!(pauses(), 0, "there is nothing that it could read");
            // More comes while the sink takes nothing.
            let filled = ahead.fill(&mut log, &handle, SAID_AFTER);
            tokio::time::timeout(SAID_AFTER / 2, filled)
                .await
                .unwrap_err();
            log.records = depth + 20;
            fill(&mut ahead, &mut log, &handle, SAID_AFTER * 3).await;
            assert_eq!((pauses(), ahead.paused), (1, true));
            // It goes on slowly, as before.
            if batches_max > 1 {
                ahead.next(&mut log, &handle).await.unwrap();
                assert!(ahead.paused, "it waited long for the sink");
                fill(&mut ahead, &mut log, &handle, SAID_AFTER * 3).await;
                assert_eq!((pauses(), ahead.paused), (1, true));
                ahead.next(&mut log, &handle).await.unwrap();
                assert!(ahead.paused);
            }
            ahead.next(&mut log, &handle).await.unwrap();
            assert!(!ahead.paused, "it took one quickly");
        }
    }
}
