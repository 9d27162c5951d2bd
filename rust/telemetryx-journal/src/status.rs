//! What the journal says about itself: health, damage found, what recovery did. Plain values to look at.

use std::fmt;
use std::sync::Arc;

use crate::offset::Offset;

/// Whether appends can work now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Health {
    /// All is well.
    #[default]
    Ok,
    /// A write or sync failed; appends fail until the journal has reopened by itself.
    Unhealthy {
        /// Wall clock at the first failure, nanoseconds since the epoch.
        since: i64,
        /// The first reason.
        reason: Arc<str>,
    },
    /// The disk is full; appends fail until there is room.
    NoSpace {
        /// Wall clock at the first refusal, nanoseconds since the epoch.
        since: i64,
    },
}

impl Health {
    /// Whether all is well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Health::Ok)
    }
}

/// What kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DamageReason {
    /// The segment's own header fails its checksum. Its records are still read; no event is lost by this alone.
    SegmentHeader,
    /// Where a record should be, no intact header stands.
    RecordHeader,
    /// The header is intact and the body fails its checksum.
    RecordBody,
    /// Nothing is broken, but the events are not there (a file removed or cut by someone else).
    Missing,
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DamageReason::SegmentHeader => "the segment's header is damaged",
            DamageReason::RecordHeader => "a record's header is damaged",
            DamageReason::RecordBody => "a record's body is damaged",
            DamageReason::Missing => "records are missing",
        })
    }
}

/// A place where durable bytes are no longer what was written. The file is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Damage {
    /// The file.
    pub segment: String,
    /// Where in it, in bytes.
    pub byte: u64,
    /// The first event lost.
    pub from: Offset,
    /// The offset after the last event lost; equal to `from` if none was.
    pub to: Offset,
    /// What is wrong.
    pub reason: DamageReason,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.segment, self.byte, self.reason)?;
        match self.to.since(self.from) {
            0 => Ok(()),
            events => write!(f, "; {events} events lost, {} up to {}", self.from, self.to),
        }
    }
}

/// What the journal found when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The oldest offset kept.
    pub start: Offset,
    /// Where the next event goes.
    pub end: Offset,
    /// Segments found, after removing unfinished ones.
    pub segments: usize,
    /// Bytes of the segments.
    pub bytes: u64,
    /// Whether the journal had been closed, or nothing was written since it was last recovered.
    pub clean: bool,
    /// Bytes of never acknowledged writes cut off the tail.
    pub torn_bytes: u64,
    /// Files of segments that never held anything, removed.
    pub removed: Vec<String>,
    /// Damage found. Only the last segment is read in full; damage in older ones is found when they are read or verified.
    pub damage: Vec<Damage>,
    /// Cursors with both slots damaged; they hold back retention until forgotten.
    pub damaged_cursors: Vec<String>,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.clean {
            "closed cleanly"
        } else {
            "not closed cleanly"
        };
        write!(
            f,
            "{how}: events {} up to {} in {} segments ({} bytes)",
            self.start, self.end, self.segments, self.bytes
        )?;
        if self.torn_bytes > 0 {
            write!(f, "; cut {} bytes of a torn write", self.torn_bytes)?;
        }
        for name in &self.removed {
            write!(f, "; removed the unfinished {name}")?;
        }
        for damage in &self.damage {
            write!(f, "; DAMAGE in {damage}")?;
        }
        for name in &self.damaged_cursors {
            write!(f, "; DAMAGED cursor {name}")?;
        }
        Ok(())
    }
}

/// What the slowest cursor opened in this process has not passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events between it and the durable end.
    pub events: u64,
    /// About how many bytes they take, headers included (exact to about a MiB).
    pub bytes: u64,
}

/// The state of a journal at one moment.
#[derive(Clone, Debug, Default)]
pub struct JournalStatus {
    /// Whether appends can work.
    pub health: Health,
    /// The oldest offset kept.
    pub start: Offset,
    /// The durable end.
    pub end: Offset,
    /// Number of segment files.
    pub segments: usize,
    /// Bytes in them that count.
    pub bytes: u64,
    /// Every damaged place known, each once; at most [`DAMAGE_KEPT`](crate::DAMAGE_KEPT), see `damage_count`.
    pub damage: Vec<Damage>,
    /// How many damaged places were met in all.
    pub damage_count: u64,
    /// Events lost in them.
    pub damaged_events: u64,
    /// Failed writes and syncs.
    pub failures: u64,
    /// Groups committed.
    pub groups: u64,
    /// Successful syncs of record data.
    pub syncs: u64,
    /// Bytes waiting to become durable.
    pub pending_bytes: usize,
    /// What the slowest cursor has not passed.
    pub backlog: Backlog,
}
