//! A journal from one engine to another, by way of a file: its events, the positions of its routes with what they saved, and
//! its dead letters.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | what both ends share |
//! | `format.rs` | the file, byte by byte: frames, checksums, the end |
//! | `contents.rs` | what is in its frames |
//! | `order.rs` | the order of the events in it |
//! | `reading.rs` | a partition's events, cut for the file |
//! | `export.rs` | from a journal into a file |
//! | `import.rs` | from a file into an empty journal |
//! | `placing.rs` | where the routes are in that journal |
//! | `letters.rs` | dead letters, out of one control file and into another |
//!
//! It knows the trait [`Journal`](crate::journal::Journal) and no engine. Offsets of the old journal mean nothing in the
//! new one, which may have another number of partitions. What carries a route over is the order of the events in the file:
//! those first that all routes have passed, then those that all but one have, and so on. Hence what a route has passed is the
//! beginning of each new partition wherever that can be, and its position there is a number again.
//!
//! Events that the old journal had removed, or could not read any more, are in nobody's partition and stay in the books:
//! accepted and what became of it go on from where they were.

mod contents;
mod export;
mod format;
mod import;
mod letters;
mod order;
mod placing;
mod reading;

use std::io;

use crate::control::ControlError;
use crate::journal::{AppendError, JournalError};

pub(crate) use contents::Route;
pub(crate) use export::{Exported, Source, export};
pub(crate) use format::{FileReader, FileWriter};
pub(crate) use import::{Imported, NewRoute, Target, import, verify};

use format::FileError;

/// Why a journal was not carried over. One message, for a person.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    /// The file cannot be read or is not whole.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file cannot be written.
    #[error("the file cannot be written: {0}")]
    Write(io::Error),
    /// The journal cannot be read, or a position not be saved.
    #[error("the journal: {0}")]
    Journal(#[from] JournalError),
    /// The journal does not take an event.
    #[error("the journal takes no event: {0}")]
    Append(#[from] AppendError),
    /// Dead letters cannot be read or kept.
    #[error("dead letters: {0}")]
    Control(#[from] ControlError),
    /// Dead letters cannot be read.
    #[error("dead letters: {0}")]
    Letters(#[from] rusqlite::Error),
    /// The journal is not empty.
    #[error("the journal is not empty: {0}")]
    NotEmpty(String),
    /// It makes no sense, or would do harm.
    #[error("{0}")]
    Refused(String),
}

fn refused<T>(why: impl Into<String>) -> Result<T, MoveError> {
    Err(MoveError::Refused(why.into()))
}

#[cfg(test)]
mod tests;
