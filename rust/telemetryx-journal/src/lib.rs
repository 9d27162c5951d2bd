//! An embedded, durable journal for one process.
//!
//! You append records of opaque bytes; each holds one or more events and gets consecutive [`Offset`]s. An append resolves when the
//! record is on the disk (`fdatasync`), and only then; all who wait share one write and one sync. Readers see what is durable, in
//! order; cursors remember, durably, how far each of them has got. After a crash everything acknowledged is there; a torn write that
//! was never acknowledged is cut; damage is reported as a gap and never skipped in silence.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! use telemetryx_journal::{Entry, Journal, JournalOptions, Record};
//!
//! let journal = Journal::open(dir.path(), JournalOptions::default())?;
//! let position = journal.append_blocking(Record::new("two events", 2, 0, 0))?; // durable from here on
//!
//! let mut cursor = journal.cursor("mailer")?;
//! let chunk = journal.reader(cursor.position())?.next(1 << 20)?;
//! for entry in &chunk.entries {
//!     match entry {
//!         Entry::Record(record) => assert_eq!(record.body, "two events"),
//!         Entry::Gap { from, to, reason } => eprintln!("{from} up to {to} cannot be read: {reason:?}"),
//!     }
//! }
//! cursor.commit(position.end(), b"whatever belongs to it")?;
//! journal.close_blocking()?;
//! # Ok(()) }
//! ```
//!
//! # The path of a record
//!
//! [`Journal::append`] checks it, computes the checksum of its body on the caller's thread and puts it into a bounded queue
//! (`service.rs`). The writer thread takes all that waits, lays headers and bodies out in few slices, writes them with one call,
//! syncs once (`writer/`), moves the durable end (`shared.rs`) and answers everyone. A [`Reader`] takes large reads from the page cache and
//! hands out slices of them (`reader.rs`); what is an intact record is decided in one place (`scan.rs`).
//!
//! | file | purpose |
//! | --- | --- |
//! | `journal.rs` | [`Journal`], the handle |
//! | `service.rs` | the queue, the thread, the waiters |
//! | `writer/` | the state machine that alone changes segments: groups, rolling, failures, retention |
//! | `recovery/` | opening: where the last segment ends, what is damage and what a torn write |
//! | `format.rs` | the bytes of a segment |
//! | `scan.rs` | finding intact records |
//! | `reader.rs`, `view.rs` | reading a live journal, looking at one from outside |
//! | `cursor/` | cursors: two slots each, the table of all |
//! | `segments.rs`, `shared.rs` | what writer and readers share |
//! | `storage/`, `clock.rs` | the doors to disk and time |
//! | `sim/` | a disk that loses, tears and reorders (feature `sim`) |
//!
//! # Decisions
//!
//! **A failed sync is final.** Linux drops the pages and calls the next sync good. So the segment is closed at its last durable
//! offset, the cache dropped, the file read back, and only then a new one begun ([`Health`] tells).
//!
//! **Every record says what was durable when it was written.** That, end marks, later segments and cursors are the proofs that tell
//! damage from a torn write (`recovery/tail.rs`).
//!
//! **A directory entry is as fragile as data.** A segment is written under another name, synced, renamed, and its directory
//! synced before anything in it is acknowledged.
//!
//! **The disk is a parameter.** `tests/simulation.rs` runs thousands of power cuts in seconds, each replayable by its seed.

#![deny(unsafe_code)]
// `cfg(fuzzing)` is set by cargo-fuzz.
#![allow(unexpected_cfgs)]

mod clock;
mod cursor;
mod error;
mod format;
mod journal;
mod offset;
mod options;
mod reader;
mod record;
mod recovery;
mod scan;
mod segments;
mod service;
mod shared;
#[cfg(any(test, feature = "sim", fuzzing))]
pub mod sim;
mod status;
mod storage;
mod view;
mod writer;

pub use clock::{Clock, SystemClock};
pub use cursor::{Cursor, CursorInfo, MAX_STATE_BYTES};
pub use error::{AppendError, Closed, CursorError, OpenError, ReadError};
pub use journal::{Append, Journal};
pub use offset::{Offset, Position};
pub use options::{FsyncPolicy, JournalOptions, Observer, Retention};
pub use reader::Reader;
pub use record::{Chunk, Entry, GapReason, Record, StoredRecord};
pub use shared::DAMAGE_KEPT;
pub use status::{Backlog, Damage, DamageReason, Health, JournalStatus, RecoveryReport};
pub use storage::{DiskStorage, LockError, Storage, StorageFile, StorageLock};
pub use view::{JournalView, SegmentInfo, VerifyProgress, VerifyReport};
