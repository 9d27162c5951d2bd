//! What can go wrong, one enum a seam; each says what the caller shall do.
//!
//! Errors are `Clone` where one failure is told to many waiters; the cause is then kept as text.

use std::io;
use std::sync::Arc;

use crate::offset::Offset;

/// Why an append was not acknowledged. Unless it says otherwise the record is not stored; see each variant.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppendError {
    /// Too much waits to become durable. **Slow down and try again** (429 or 503 with `Retry-After`).
    #[error("too much waits to become durable ({pending} of {limit} bytes)")]
    Full {
        /// Bytes waiting now.
        pending: usize,
        /// The configured bound.
        limit: usize,
    },
    /// The body is larger than allowed. **Final**: refuse it.
    #[error("the body has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// The body's size.
        bytes: usize,
        /// The configured bound.
        limit: usize,
    },
    /// The record holds no event. **A mistake in the caller.**
    #[error("a record must hold at least one event")]
    NoEvents,
    /// The disk is full. **Try again later** (503); the journal goes on by itself when there is room.
    #[error("no space left on the device")]
    NoSpace,
    /// The write or sync of this very record failed. **Try again later** (503). After a crash right now the record may or may
    /// not be there, so a retry may store it twice.
    #[error("could not make it durable: {reason}")]
    SyncFailed {
        /// What the operating system said.
        reason: Arc<str>,
    },
    /// An earlier sync failed and the journal has not been able to reopen yet; nothing was written. **Try again later** (503).
    #[error("the journal is not healthy: {reason}")]
    Unhealthy {
        /// What the operating system said first.
        reason: Arc<str>,
    },
    /// The journal was closed. **Stop.**
    #[error("the journal is closed")]
    Closed,
}

impl AppendError {
    /// Whether the same append may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            AppendError::Full { .. }
            | AppendError::NoSpace
            | AppendError::SyncFailed { .. }
            | AppendError::Unhealthy { .. } => true,
            AppendError::TooLarge { .. } | AppendError::NoEvents | AppendError::Closed => false,
        }
    }
}

/// Why a journal could not be opened. Nothing was changed on disk, unless a tail was already cut.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it. **Stop that one, or use another directory.**
    #[error("the journal is in use by process {pid}")]
    Locked {
        /// The process that holds the lock; 0 if unknown.
        pid: u32,
    },
    /// Reading or writing failed. **Show it to the operator.**
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the file's name.
        doing: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A segment of another journal lies among ours. **Move it away.**
    #[error("segment {segment} belongs to another journal")]
    ForeignSegment {
        /// The file.
        segment: String,
    },
    /// A segment was written by a newer version of this crate. **Upgrade.**
    #[error("segment {segment} has format version {version}, which this build does not know")]
    Version {
        /// The file.
        segment: String,
        /// Its version.
        version: u32,
    },
    /// A setting makes no sense. **Mend the configuration.**
    #[error("{0}")]
    Options(&'static str),
}

impl OpenError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io {
            doing: doing.into(),
            source,
        }
    }
}

/// Why a read failed. Damage is not an error: it is an [`Entry::Gap`](crate::Entry::Gap).
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading a file failed. **Try again**; if it stays, see [`Reader::salvage`](crate::Reader::salvage).
    #[error("cannot read {segment}: {source}")]
    Io {
        /// The file.
        segment: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The offset lies beyond the durable end. **A mistake in the caller.**
    #[error("offset {asked} lies beyond the durable end {end}")]
    Beyond {
        /// What was asked for.
        asked: Offset,
        /// Where the journal ends.
        end: Offset,
    },
}

/// Why a cursor could not be opened or saved.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The name has other characters than `A-Z a-z 0-9 _ . -`, or not 1 to 64 of them. **A mistake in the caller.**
    #[error("{name:?} is no cursor name: use 1 to 64 of A-Z a-z 0-9 _ . -")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The cursor is open already. **Drop the other first.**
    #[error("the cursor {name} is open already")]
    InUse {
        /// Its name.
        name: String,
    },
    /// Both slots exist and neither is valid. Nothing was touched. **The caller must decide**: restore the file, or
    /// [`forget_cursor`](crate::Journal::forget_cursor) and begin anew.
    #[error("the cursor {name} is damaged: {files}")]
    Damaged {
        /// Its name.
        name: String,
        /// The files and what is wrong with each.
        files: String,
    },
    /// Reading or writing failed. The last committed state is safe. **Try again later.**
    #[error("cursor {name}: {source}")]
    Io {
        /// Its name.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A commit beyond the durable end or, but for `reset`, before the present position. **A mistake in the caller.**
    #[error("cursor {name} cannot move from {from} to {to} (the journal ends at {end})")]
    OutOfRange {
        /// Its name.
        name: String,
        /// Where it stands.
        from: Offset,
        /// Where it was to go.
        to: Offset,
        /// The durable end.
        end: Offset,
    },
    /// The state is larger than [`MAX_STATE_BYTES`](crate::MAX_STATE_BYTES). **A mistake in the caller.**
    #[error("the state of cursor {name} has {bytes} bytes")]
    StateTooLarge {
        /// Its name.
        name: String,
        /// The state's size.
        bytes: usize,
    },
    /// The journal was closed, or the cursor was forgotten. **Stop.**
    #[error("the cursor {name} is gone or the journal is closed")]
    Closed {
        /// Its name.
        name: String,
    },
}

/// The journal was closed; nothing more will become durable. **Stop.**
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal is closed")]
pub struct Closed;
