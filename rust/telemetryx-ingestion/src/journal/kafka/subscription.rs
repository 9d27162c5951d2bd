//! One reading of a partition, from its last commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use super::super::{BatchLimit, Delivery, DeliveryId, JournalError, Slice, Subscription};
use super::assignment::{Held, STATE_BYTES_MAX, Start};
use super::blocking;
use super::decode::{self, Entry};
use crate::kafka::settings::words;

/// So many events are read without giving way to others.
const EVENTS_AT_ONCE: usize = 512;
/// How long to wait for news before looking all the same: whether retention has come past, for example.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct KafkaSubscription {
    held: Arc<Held>,
    state: Bytes,
    /// Read, not yet taken.
    left: Option<Entry>,
    gathering: Gathering,
    /// A gap before this offset was seen once.
    doubted: Option<u64>,
    /// Since when events wait to be handed out.
    waiting_since: Option<Instant>,
}

/// A delivery that is being put together.
pub(super) struct Gathering {
    delivery: Delivery,
    /// The slice at its end.
    body: Vec<u8>,
    first: u64,
    events: u32,
}

impl Gathering {
    pub(super) fn at(partition: u32, offset: u64) -> Self {
        Self {
            delivery: Delivery::at(partition, offset),
            body: Vec::new(),
            first: offset,
            events: 0,
        }
    }

    pub(super) fn partition(&self) -> u32 {
        self.delivery.partition
    }

    /// The offset that comes next.
    pub(super) fn end(&self) -> u64 {
        if self.events > 0 {
            self.first + u64::from(self.events)
        } else {
            self.delivery.end
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events == 0 && self.delivery.is_empty()
    }

    /// Adds an event that follows; false if the delivery is full.
    pub(super) fn add(&mut self, entry: &Entry, limit: BatchLimit) -> bool {
        let events = self.end() - self.delivery.first - self.delivery.missing;
        let bytes = self.delivery.bytes + self.body.len();
        let is_full = events >= limit.events as u64
            || (events > 0 && bytes + entry.bytes.len() > limit.bytes);
        if is_full {
            return false;
        }
        // What is no event is alone in its slice, so that it spoils no other.
        if !entry.is_event {
            self.close_slice();
            self.delivery.push(Slice {
                first: entry.offset,
                events: 1,
                body: Bytes::copy_from_slice(&entry.bytes),
            });
            return true;
        }
        if self.events == 0 {
            self.first = entry.offset;
        }
        self.body.extend_from_slice(&entry.bytes);
        self.events += 1;
        true
    }

    /// Events up to `to` are not there.
    pub(super) fn miss(&mut self, to: u64, why: &str) {
        self.close_slice();
        let from = self.delivery.end;
        self.delivery.missing += to - from;
        let gap = format!("{} events from offset {from}: {why}", to - from);
        self.delivery.gaps.push(gap);
        self.delivery.end = to;
    }

    fn close_slice(&mut self) {
        if self.events > 0 {
            let body = Bytes::from(std::mem::take(&mut self.body));
            let events = std::mem::take(&mut self.events);
            self.delivery.push(Slice {
                first: self.first,
                events,
                body,
            });
        }
    }

    /// What was gathered; goes on behind it.
    pub(super) fn take(&mut self) -> Delivery {
        self.close_slice();
        let next = Delivery::at(self.delivery.partition, self.delivery.end);
        std::mem::replace(&mut self.delivery, next)
    }
}

/// Events that were there are removed.
pub(super) const EXPIRED: &str = "removed before this route came to them";
/// Offsets that never were events, or are none any more.
pub(super) const NO_EVENTS: &str = "no events: marks of a transaction, or removed by compaction";

impl KafkaSubscription {
    pub(super) fn new(held: Arc<Held>, start: Start) -> Self {
        Self {
            gathering: Gathering::at(held.partition(), start.position),
            held,
            state: start.state,
            left: None,
            doubted: None,
            waiting_since: None,
        }
    }

    /// The next message in the queue, if there is one.
    fn poll(&self) -> Result<Option<Entry>, JournalError> {
        let queue = self.held.queue().lock();
        let Some(queue) = queue.as_ref() else {
            return Err(self.held.lost());
        };
        // `None` may also stand for an event that was none of ours.
        for _ in 0..2 {
            match queue.poll(Duration::ZERO) {
                Some(Ok(message)) => return Ok(Some(decode::entry(&message))),
                Some(Err(error)) => return Err(JournalError::Io(words(error))),
                None => {}
            }
        }
        Ok(None)
    }

    /// Takes one that was read. False: it has to wait for the next delivery.
    fn take(&mut self, entry: Entry, limit: BatchLimit) -> Result<bool, JournalError> {
        let expected = self.gathering.end();
        let extent = self
            .held
            .reader()
            .watch()
            .seen()
            .extent(self.held.partition());
        if entry.offset < expected {
            return match extent {
                Some(extent) if extent.end < expected => Err(JournalError::Io(format!(
                    "partition {} ends at {}, before the position {expected}",
                    self.held.partition(),
                    extent.end
                ))),
                // Read before we went elsewhere.
                _ => Ok(true),
            };
        }
        if entry.offset > expected {
            let is_expired = extent.is_some_and(|extent| entry.offset <= extent.start);
            if !is_expired && self.doubted != Some(entry.offset) {
                self.doubted = Some(entry.offset);
                self.held.seek(expected, Duration::ZERO)?;
                return Ok(true);
            }
            self.gathering
                .miss(entry.offset, if is_expired { EXPIRED } else { NO_EVENTS });
        }
        if self.gathering.add(&entry, limit) {
            return Ok(true);
        }
        self.left = Some(entry);
        Ok(false)
    }

    /// Events that are gone though nothing comes behind them.
    fn expire(&mut self) {
        let extent = self
            .held
            .reader()
            .watch()
            .seen()
            .extent(self.held.partition());
        if let Some(extent) = extent.filter(|extent| extent.start > self.gathering.end()) {
            self.gathering.miss(extent.start, EXPIRED);
        }
    }

    fn hand_out(&mut self) -> Delivery {
        self.waiting_since = None;
        self.gathering.take()
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn next(&mut self, limit: BatchLimit) -> Result<Delivery, JournalError> {
        let mut read = 0;
        loop {
            let entry = match self.left.take() {
                Some(entry) => Some(entry),
                None => self.poll()?,
            };
            if let Some(entry) = entry {
                if !self.take(entry, limit)? {
                    return Ok(self.hand_out());
                }
                read += 1;
                if read % EVENTS_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            let patience = if self.gathering.is_empty() {
                LOOK_EVERY
            } else {
                let since = *self.waiting_since.get_or_insert_with(Instant::now);
                let rest = limit.wait.saturating_sub(since.elapsed());
                if rest.is_zero() {
                    return Ok(self.hand_out());
                }
                rest.min(LOOK_EVERY)
            };
            if timeout(patience, self.held.news()).await.is_err() {
                self.expire();
            }
        }
    }

    fn has_more(&self) -> bool {
        let extent = self
            .held
            .reader()
            .watch()
            .seen()
            .extent(self.held.partition());
        self.left.is_some()
            || !self.gathering.is_empty()
            || extent.is_some_and(|extent| extent.end > self.gathering.end())
    }

    fn position(&self) -> u64 {
        self.gathering.delivery.first
    }

    fn state(&self) -> &[u8] {
        &self.state
    }

    async fn commit(&mut self, delivered: DeliveryId, state: &[u8]) -> Result<(), JournalError> {
        if state.len() > STATE_BYTES_MAX {
            return Err(JournalError::StateTooLarge {
                bytes: state.len(),
                most: STATE_BYTES_MAX,
            });
        }
        let text = String::from_utf8(state.to_vec());
        let text =
            text.map_err(|_| JournalError::Io("what is to be saved is no text".to_owned()))?;
        let held = Arc::clone(&self.held);
        blocking(move || held.commit(delivered.0, &text)).await?;
        self.state = Bytes::copy_from_slice(state);
        let reader = self.held.reader();
        let (partition, state) = (self.held.partition(), self.state.clone());
        let seen = reader.watch().seen();
        seen.committed(reader.route(), partition, delivered.0, state);
        Ok(())
    }
}
