//! What is spilled: a journal of the crate `telemetryx-journal`, and in the state of its only cursor the plan of the batch that
//! is being handed over.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use telemetryx_common::Timestamp;
use telemetryx_journal::{
    Chunk, Cursor, Entry, Health, Journal, JournalOptions, JournalView, Offset, Reader, Record,
    Retention,
};

use super::super::super::embedded::{self, GroupMetrics};
use super::super::super::{AppendError, Backlog, EncodedBatch, Position, Range};
use crate::observe::Metrics;

/// The cursor: what is before it is in Kafka.
const CURSOR: &str = "kafka";
/// Space is taken and given back in steps of so many bytes.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Partitions of Kafka have smaller numbers: from here on, the number is of a spill.
const SPILLS: u32 = 1 << 31;

/// The number that stands for the partition in positions of the spill of that identity.
pub(super) fn number_of(id: u128) -> u32 {
    SPILLS | (id as u32)
}

/// True if the position is one of a spill.
pub(super) fn is_spilled(position: &Position) -> bool {
    let mut ranges = position.ranges.iter();
    ranges.any(|range| range.partition >= SPILLS)
}

/// The batch that is being handed over: saved before the first of its events is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The offset behind its last event.
    pub(super) to: u64,
    /// The identity of the journal in Kafka, hexadecimal.
    pub(super) journal: String,
    /// Where each partition ended, or before: its events are behind that.
    pub(super) ends: Vec<u64>,
}

/// See the module.
pub(super) struct Store {
    journal: Journal,
    cursor: Mutex<Cursor>,
    /// A position, and when the event there was accepted: read once.
    oldest: Mutex<Option<(u64, Timestamp)>>,
    /// Why it is not handed over, though Kafka is there.
    trouble: Mutex<Option<String>>,
    bytes_max: u64,
    metrics: Arc<Metrics>,
}

impl Store {
    /// Opens or makes it.
    ///
    /// # Errors
    /// Why it cannot be, for a person.
    pub(super) fn open(
        folder: &Path,
        bytes_max: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let options = JournalOptions {
            segment_bytes: SEGMENT_BYTES,
            retain: Retention {
                bytes: Some(0),
                age: None,
            },
            observer: Some(Arc::new(GroupMetrics(Arc::clone(&metrics)))),
            ..JournalOptions::default()
        };
        let journal = Journal::open(folder, options).map_err(|error| error.to_string())?;
        let cursor = journal.cursor(CURSOR).map_err(|error| error.to_string())?;
        Ok(Self {
            journal,
            cursor: Mutex::new(cursor),
            oldest: Mutex::new(None),
            trouble: Mutex::new(None),
            bytes_max,
            metrics,
        })
    }

    /// A name that no other spill has.
    pub(super) fn id(&self) -> u128 {
        self.journal.id()
    }

    /// What is not in Kafka yet.
    pub(super) fn pending(&self) -> Backlog {
        let backlog = self.journal.backlog();
        Backlog {
            events: backlog.events,
            bytes: backlog.bytes,
        }
    }

    /// True if as much is spilled as may be.
    pub(super) fn is_full(&self) -> bool {
        self.journal.backlog().bytes >= self.bytes_max
    }

    /// What is wrong with the disk, if anything is: `no_space` or `unhealthy`, why, and since when.
    pub(super) fn fault(&self) -> Option<(&'static str, String, String)> {
        let time = |nanos| Timestamp::from_unix_nanos(nanos).to_string();
        match self.journal.status().health {
            Health::Ok => None,
            Health::NoSpace { since } => {
                let why = "no space left on the device for the spill".to_owned();
                Some(("no_space", why, time(since)))
            }
            Health::Unhealthy { since, reason } => {
                Some(("unhealthy", format!("the spill: {reason}"), time(since)))
            }
        }
    }

    /// Places where it cannot be read back any more, and the bytes of its files.
    pub(super) fn damage_and_bytes(&self) -> (Vec<String>, u64) {
        let status = self.journal.status();
        let damage = status.damage.iter().map(|place| format!("spill: {place}"));
        (damage.collect(), status.bytes)
    }

    /// Resolves once the batch is on the disk.
    ///
    /// # Errors
    /// As [`super::super::super::Journal::append`].
    pub(super) async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError> {
        if self.is_full() {
            return Err(AppendError::Unavailable(format!(
                "Kafka is away, and {} bytes are spilled, as many as may be",
                self.bytes_max
            )));
        }
        let (earliest, latest) = (batch.earliest.unix_nanos(), batch.latest.unix_nanos());
        let record = Record::new(batch.body, batch.events, earliest, latest);
        match self.journal.append(record).await {
            Ok(position) => {
                self.metrics.spilled.increment(position.events.into());
                Ok(Position::of(Range {
                    partition: number_of(self.id()),
                    first: position.first.get(),
                    events: position.events,
                }))
            }
            Err(fault) => Err(embedded::refusal(fault)),
        }
    }

    /// The first event that is not in Kafka, or may not be.
    pub(super) fn position(&self) -> u64 {
        self.cursor.lock().position().get()
    }

    /// The offset behind the last event.
    pub(super) fn end(&self) -> u64 {
        self.journal.durable_end().get()
    }

    /// The batch that was being handed over, if one was.
    pub(super) fn plan(&self) -> Option<Plan> {
        serde_json::from_slice(self.cursor.lock().state()).ok()
    }

    /// Saves that this batch is about to be handed over; waits for the disk.
    ///
    /// # Errors
    /// The disk's words.
    pub(super) fn begin(&self, plan: &Plan) -> Result<(), String> {
        let state = serde_json::to_vec(plan).map_err(|error| error.to_string())?;
        let position = self.position();
        self.commit(position, &state)
    }

    /// Saves that Kafka has everything up to there; waits for the disk.
    ///
    /// # Errors
    /// The disk's words.
    pub(super) fn finish(&self, to: u64) -> Result<(), String> {
        self.commit(to, &[])
    }

    fn commit(&self, position: u64, state: &[u8]) -> Result<(), String> {
        let committed = self.cursor.lock().commit(Offset::new(position), state);
        committed.map_err(|error| error.to_string())
    }

    /// A reader that begins at the first event that is not in Kafka.
    ///
    /// # Errors
    /// The disk's words.
    pub(super) fn reader(&self) -> Result<Reader, String> {
        let reader = self.journal.reader(Offset::new(self.position()));
        reader.map_err(|error| error.to_string())
    }

    /// Why nothing is handed over, though Kafka is there.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// The batch that is next cannot be handed over; said once for the same words.
    pub(super) fn set_trouble(&self, words: String) {
        let mut trouble = self.trouble.lock();
        if trouble.as_ref() != Some(&words) {
            tracing::warn!(
                error = words,
                "spilled events could not be handed to Kafka; they are tried again"
            );
            *trouble = Some(words);
        }
    }

    /// A batch was handed over.
    pub(super) fn no_trouble(&self) {
        *self.trouble.lock() = None;
    }

    /// Waits until there is an event at or behind `offset`. False: there will never be one.
    pub(super) async fn beyond(&self, offset: u64) -> bool {
        self.journal.wait_beyond(Offset::new(offset)).await.is_ok()
    }

    /// When the oldest event that is not in Kafka was accepted.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        if self.pending().events == 0 {
            return None;
        }
        let mut oldest = self.oldest.lock();
        let position = self.position();
        if oldest.is_none_or(|(at, _)| at != position) {
            let chunk = self.reader().ok()?.next(1).ok()?;
            *oldest = Some((position, first_accepted(&chunk)?));
        }
        oldest.map(|(_, accepted)| accepted)
    }

    /// Ends it.
    pub(super) async fn close(&self) {
        if let Err(error) = self.journal.close().await {
            tracing::warn!(%error, "the spill did not end well");
        }
    }
}

/// When the first record was appended.
fn first_accepted(chunk: &Chunk) -> Option<Timestamp> {
    chunk.entries.iter().find_map(|entry| match entry {
        Entry::Record(record) => Some(Timestamp::from_unix_nanos(record.appended_at)),
        Entry::Gap { .. } => None,
    })
}

/// How many events an earlier run has left in a spill, without opening it.
///
/// # Errors
/// It cannot be read.
pub fn left_over(folder: &Path) -> Result<u64, String> {
    if !folder.is_dir() {
        return Ok(0);
    }
    let view = JournalView::open(folder).map_err(|error| error.to_string())?;
    let cursors = view.cursors().map_err(|error| error.to_string())?;
    let cursor = cursors.into_iter().find(|cursor| cursor.name == CURSOR);
    let passed = match cursor {
        Some(cursor) => cursor.position?.get(),
        None => view.start().get(),
    };
    Ok(view.end().get().saturating_sub(passed))
}
