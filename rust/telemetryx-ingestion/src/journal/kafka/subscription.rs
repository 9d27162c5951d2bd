//! One reading of a partition, from its last commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::message::Message;
use tokio::time::timeout;

use super::super::{BatchLimit, Committed, Delivery, DeliveryId, JournalError, Subscription};
use super::assignment::{Held, STATE_BYTES_MAX, Start};
use super::gathering::{EXPIRED, Entry, Gathering, NO_EVENTS};
use super::{blocking, decode};
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

/// What taking from the queue came to.
enum Taken {
    /// The delivery is full.
    Full,
    /// There may be more in the queue.
    Some,
    /// Nothing more is in the queue.
    All,
}

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

    /// Takes what is in the queue, a bounded number of events.
    fn take_queued(&mut self, limit: BatchLimit) -> Result<Taken, JournalError> {
        let held = Arc::clone(&self.held);
        let queue = held.queue().lock();
        let queue = queue.as_ref().ok_or_else(|| held.lost())?;
        // Nothing may also stand for an event that was none of ours.
        let poll = || {
            let first = queue.poll(Duration::ZERO);
            first.or_else(|| queue.poll(Duration::ZERO))
        };
        for _ in 0..EVENTS_AT_ONCE {
            let Some(message) = poll() else {
                return Ok(Taken::All);
            };
            let message = message.map_err(|error| JournalError::Io(words(error)))?;
            let offset = u64::try_from(message.offset()).unwrap_or_default();
            let append = |body: &mut Vec<u8>| decode::append(&message, body);
            if self.take(offset, limit, append)? {
                return Ok(Taken::Full);
            }
        }
        Ok(Taken::Some)
    }

    /// Takes one that was read. True: the delivery is full.
    fn take(
        &mut self,
        offset: u64,
        limit: BatchLimit,
        append: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Result<bool, JournalError> {
        let expected = self.gathering.end();
        if offset != expected && !self.is_next_after(expected, offset)? {
            return Ok(false);
        }
        match self.gathering.add(offset, limit, append) {
            Ok(()) => Ok(self.gathering.is_full(limit)),
            Err(entry) => {
                self.left = Some(entry);
                Ok(true)
            }
        }
    }

    /// Whether the event at `offset` is the next one, though another offset was expected: then what is between is not there.
    fn is_next_after(&mut self, expected: u64, offset: u64) -> Result<bool, JournalError> {
        let extent = self.held.extent();
        if offset < expected {
            return match extent {
                Some(extent) if extent.end < expected => Err(JournalError::Io(format!(
                    "partition {} ends at {}, before the position {expected}",
                    self.held.partition(),
                    extent.end
                ))),
                // Read before we went elsewhere.
                _ => Ok(false),
            };
        }
        let is_expired = extent.is_some_and(|extent| offset <= extent.start);
        if !is_expired && self.doubted != Some(offset) {
            self.doubted = Some(offset);
            self.held.seek(expected, Duration::ZERO)?;
            return Ok(false);
        }
        let why = if is_expired { EXPIRED } else { NO_EVENTS };
        self.gathering.miss(offset, why);
        Ok(true)
    }

    /// Events that are gone though nothing comes behind them.
    fn expire(&mut self) {
        let extent = self.held.extent();
        if let Some(extent) = extent.filter(|extent| extent.start > self.gathering.end()) {
            self.gathering.miss(extent.start, EXPIRED);
        }
    }

    /// Goes back to where the next delivery begins.
    fn start_over(&mut self) -> Result<(), JournalError> {
        let start = self.gathering.start();
        self.held.seek(start, Duration::ZERO)?;
        self.gathering = Gathering::at(self.held.partition(), start);
        self.left = None;
        Ok(())
    }

    fn hand_out(&mut self) -> Delivery {
        self.waiting_since = None;
        self.gathering.take()
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn next(&mut self, limit: BatchLimit) -> Result<Delivery, JournalError> {
        if self.gathering.is_too_much(limit) {
            self.start_over()?;
        }
        if let Some(Entry {
            offset,
            bytes,
            is_event,
        }) = self.left.take()
        {
            let append = |body: &mut Vec<u8>| {
                body.extend_from_slice(&bytes);
                is_event
            };
            if self.take(offset, limit, append)? {
                return Ok(self.hand_out());
            }
        }
        loop {
            match self.take_queued(limit)? {
                Taken::Full => return Ok(self.hand_out()),
                Taken::Some => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Taken::All => {}
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
        let end = self.gathering.end();
        self.left.is_some()
            || !self.gathering.is_empty()
            || self.held.extent().is_some_and(|extent| extent.end > end)
    }

    fn position(&self) -> u64 {
        self.gathering.start()
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
        let committed = Committed {
            partition: self.held.partition(),
            position: delivered.0,
            state: self.state.clone(),
        };
        reader.watch().seen().committed(reader.route(), committed);
        Ok(())
    }
}
