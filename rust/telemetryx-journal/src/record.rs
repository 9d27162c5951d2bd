//! What goes in ([`Record`]) and what comes out ([`Chunk`] of [`Entry`]). The body is opaque to this crate.

use bytes::Bytes;

use crate::offset::Offset;

/// Events to append together: they get consecutive offsets and are stored whole or not at all.
#[derive(Clone, Debug)]
pub struct Record {
    /// The bytes to keep. What they mean is the caller's business.
    pub body: Bytes,
    /// How many events the body holds; at least 1.
    pub events: u32,
    /// The earliest event time inside, in nanoseconds since the epoch (the caller's clock; only stored).
    pub time_min: i64,
    /// The latest event time inside.
    pub time_max: i64,
}

impl Record {
    /// A record of `events` events whose times lie in `time_min ..= time_max` (nanoseconds since the epoch).
    pub fn new(body: impl Into<Bytes>, events: u32, time_min: i64, time_max: i64) -> Record {
        Record {
            body: body.into(),
            events,
            time_min,
            time_max,
        }
    }
}

/// A record as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The offset of its first event.
    pub first: Offset,
    /// How many events it holds.
    pub events: u32,
    /// When it was appended: wall clock in nanoseconds since the epoch, never going backwards within a journal.
    pub appended_at: i64,
    /// The earliest event time, as appended.
    pub time_min: i64,
    /// The latest event time, as appended.
    pub time_max: i64,
    /// The bytes, as appended; a slice of the read buffer, not a copy. Keeping it keeps that buffer.
    pub body: Bytes,
}

impl StoredRecord {
    /// The offset after its last event.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first + u64::from(self.events)
    }
}

/// Why events between two offsets cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// Retention removed them.
    Expired,
    /// They were durable once, and what is on the disk now fails its checksum or is missing.
    Damaged,
}

/// One thing a reader meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record, intact.
    Record(StoredRecord),
    /// Events that cannot be read any more: `from .. to`. The caller books them; the reader has moved on to `to`.
    Gap {
        /// The first event missing.
        from: Offset,
        /// The offset after the last event missing.
        to: Offset,
        /// Why.
        reason: GapReason,
    },
}

impl Entry {
    /// The offset after the last event of this entry.
    #[must_use]
    pub fn end(&self) -> Offset {
        match self {
            Entry::Record(record) => record.end(),
            Entry::Gap { to, .. } => *to,
        }
    }
}

/// What one read returned, in order of offsets, without holes. Empty at the durable end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Chunk {
    /// Whether there is nothing (the reader stands at the durable end).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
