//! One reading of a partition, from its last commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::{BatchLimit, Delivery, DeliveryId, JournalError, Subscription};
use super::assignment::Held;
use super::reading::{self, Found, READ_BYTES, Row};

/// How long to wait for news before looking all the same: whether the partition is still ours, for example.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct PostgresSubscription {
    held: Arc<Held>,
    news: watch::Receiver<u64>,
    state: Bytes,
    /// Where the last commit left the route, and the bytes of the partition before that.
    committed: (u64, u64),
    /// Of the row, after that.
    version: i64,
    /// Read, not yet taken.
    queue: VecDeque<Row>,
    /// Where it is read next.
    read_to: u64,
    /// Taken, not yet handed out: kept here so that `next` may be cancelled while it waits for more.
    under_way: Delivery,
    /// Bytes of the partition before what is taken next.
    bytes: u64,
    /// The ends of what was handed out, and the bytes before them.
    marks: VecDeque<(u64, u64)>,
    waiting_since: Option<Instant>,
}

impl PostgresSubscription {
    /// Goes on at `committed`, an offset and the bytes of the partition before it.
    pub(super) fn new(held: Arc<Held>, committed: (u64, u64), state: Bytes, version: i64) -> Self {
        let (position, bytes_passed) = committed;
        Self {
            news: held.core().seen().news(),
            under_way: Delivery::at(held.partition(), position),
            held,
            state,
            committed,
            version,
            queue: VecDeque::new(),
            read_to: position,
            bytes: bytes_passed,
            marks: VecDeque::new(),
            waiting_since: None,
        }
    }

    fn end(&self) -> u64 {
        self.held.core().seen().end(self.held.partition()).offset
    }

    /// Bytes of the partition before an offset that was not read here; of one within a row, those before the row.
    async fn bytes_before(&self, offset: u64) -> Result<u64, JournalError> {
        let (core, partition) = (self.held.core(), self.held.partition());
        let end = core.seen().end(partition);
        if offset >= end.offset {
            return Ok(end.bytes);
        }
        let found = reading::rows(core, partition, offset, offset + 1, 1).await?;
        Ok(match found {
            Found::Rows(rows) => rows.first().map_or(0, |row| row.bytes_before),
            Found::Gap { .. } => core.seen().start(partition).bytes,
        })
    }

    /// Takes what was read. True: the delivery is full.
    fn take(&mut self, limit: BatchLimit) -> bool {
        while let Some(mut row) = self.queue.pop_front() {
            let row_bytes = row.slice.body.len() as u64;
            let end = row.bytes_before + row_bytes;
            let rest = self.under_way.add(row.slice, limit);
            let left = rest.as_ref().map_or(0, |rest| rest.body.len() as u64);
            self.bytes = end - left;
            if let Some(rest) = rest {
                row.bytes_before = end - left;
                row.slice = rest;
                self.queue.push_front(row);
                return true;
            }
            if self.under_way.is_full(limit) {
                return true;
            }
        }
        false
    }

    fn hand_out(&mut self) -> Delivery {
        self.waiting_since = None;
        let next = Delivery::at(self.held.partition(), self.under_way.end);
        self.marks.push_back((next.end, self.bytes));
        std::mem::replace(&mut self.under_way, next)
    }
}

#[async_trait]
impl Subscription for PostgresSubscription {
    async fn next(&mut self, limit: BatchLimit) -> Result<Delivery, JournalError> {
        loop {
            if self.take(limit) {
                return Ok(self.hand_out());
            }
            self.held.check()?;
            // News that come from here on are not missed.
            self.news.borrow_and_update();
            let (partition, end) = (self.held.partition(), self.end());
            if self.read_to < end {
                let core = Arc::clone(self.held.core());
                match reading::rows(&core, partition, self.read_to, end, READ_BYTES).await? {
                    Found::Rows(rows) => {
                        if let Some(last) = rows.last() {
                            self.read_to = last.slice.first + u64::from(last.slice.events);
                        }
                        self.queue.extend(rows);
                    }
                    Found::Gap { to, why } => {
                        self.under_way.miss(to, why);
                        self.bytes = core.seen().start(partition).bytes.max(self.bytes);
                        self.read_to = to;
                    }
                }
                continue;
            }
            let patience = if self.under_way.is_empty() {
                LOOK_EVERY
            } else {
                let since = *self.waiting_since.get_or_insert_with(Instant::now);
                let rest = limit.wait.saturating_sub(since.elapsed());
                if rest.is_zero() {
                    return Ok(self.hand_out());
                }
                rest.min(LOOK_EVERY)
            };
            timeout(patience, self.news.changed()).await.ok();
        }
    }

    fn has_more(&self) -> bool {
        !self.queue.is_empty() || !self.under_way.is_empty() || self.read_to < self.end()
    }

    fn position(&self) -> u64 {
        self.under_way.first
    }

    fn state(&self) -> &[u8] {
        &self.state
    }

    async fn commit(&mut self, delivered: DeliveryId, state: &[u8]) -> Result<(), JournalError> {
        let position = delivered.0;
        let passed = self.marks.iter().rfind(|(end, _)| *end <= position);
        let bytes_passed = match passed {
            Some((_, bytes)) => *bytes,
            None if position == self.committed.0 => self.committed.1,
            None => self.bytes_before(position).await?,
        };
        let is_same = self.state == state && !state.is_empty();
        let committed = self
            .held
            .commit(position, bytes_passed, state, is_same, self.version);
        self.version = committed.await?;
        while self.marks.front().is_some_and(|(end, _)| *end <= position) {
            self.marks.pop_front();
        }
        self.committed = (position, bytes_passed);
        if !is_same {
            self.state = Bytes::copy_from_slice(state);
        }
        Ok(())
    }
}
