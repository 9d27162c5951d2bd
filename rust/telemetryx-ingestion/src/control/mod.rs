//! What operators and the service share beside the journal: dead letters, replays asked for, the books of the door.
//!
//! It is a SQLite file, `<data_dir>/control.db`, so that `telemetryx dead-letters` and `telemetryx replay` can read and
//! change it whether the service runs or not; the running service notices a change made by another process within a
//! quarter of a second.
//!
//! In a fleet, what holds is in the [table](SharedTable) that the journal's engine keeps for all: every change goes there
//! first. Each process has a file as well, but only as a copy to ask: it is made anew at every start.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | [`Control`]: which of the two it is |
//! | `schema.rs` | the tables of the file |
//! | `file.rs` | the file of a service that is alone: the thread that writes |
//! | `fleet/` | the table of a fleet, and the copy of it |
//! | `letters.rs` | dead letters: keep, list, ask for redrive, settle |
//! | `replays.rs` | replays: ask for, follow, end |
//! | `moment.rs` | from where and up to where, as a person says it |

mod file;
mod fleet;
pub mod letters;
mod moment;
pub mod replays;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::watch;

use telemetryx_common::Timestamp;

use crate::clock;
use crate::journal::{JournalError, SharedTable};
use crate::observe::DoorSaved;

use file::FileHandle;
use fleet::Fleet;

pub use letters::{DeadLetter, Kept, LetterFilter, LetterState, Stage};
pub use moment::{Moment, partitions};
pub use replays::{Part, Replay, ReplayState, WholeReplay};
pub use schema::{FILE, open, open_existing};

/// What can go wrong: a disk that is full or broken, a server that is away. Try again later.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// SQLite's own words.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version of the service made the file. **Upgrade.**
    #[error("{}: it has schema version {version}, this binary knows {known}: use a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it has.
        version: i64,
        /// What this binary knows.
        known: i64,
    },
    /// Too many requests wait, or the service is going down.
    #[error("the control file is busy")]
    Busy,
    /// The fleet's table was not changed, or nobody knows.
    #[error("the table of the fleet: {0}")]
    Table(JournalError),
    /// The fleet's table did not tell in time what it holds.
    #[error("the table of the fleet has told nothing new for {} s", .0.as_secs())]
    Late(Duration),
    /// What was asked for is not so.
    #[error("{0}")]
    Invalid(String),
}

/// The running service's handle on all this; a cheap clone.
#[derive(Clone)]
pub struct Control {
    path: PathBuf,
    keeper: Keeper,
}

/// Who holds what is true.
#[derive(Clone)]
enum Keeper {
    File(FileHandle),
    Fleet(Arc<Fleet>),
}

impl Control {
    /// Opens or makes the file of a service that is alone, and starts its thread.
    ///
    /// # Errors
    /// [`ControlError`] if it cannot be opened or is not one of ours.
    pub fn start(data_dir: &Path, letters_max_bytes: u64) -> Result<Self, ControlError> {
        let path = data_dir.join(FILE);
        let keeper = Keeper::File(FileHandle::start(&path, letters_max_bytes)?);
        Ok(Self { path, keeper })
    }

    /// Begins to follow a fleet's table; the copy lies in `dir`, or, without one, in a folder of its own that goes with it.
    /// What must be done without being asked for runs on `runtime`.
    ///
    /// Until the copy is [up to date](Self::up_to_date) nothing is handed out to be done, and lists are not whole.
    ///
    /// # Errors
    /// [`ControlError`] if the copy cannot be made, or the table not be followed.
    pub fn start_shared(
        table: Arc<dyn SharedTable>,
        dir: Option<&Path>,
        letters_max_bytes: u64,
        runtime: &Handle,
    ) -> Result<Self, ControlError> {
        let fleet = Fleet::start(table, dir, letters_max_bytes, runtime)?;
        Ok(Self {
            path: fleet.path().to_owned(),
            keeper: Keeper::Fleet(fleet),
        })
    }

    /// Waits until everything that the table held when it was begun to be followed is known.
    ///
    /// # Errors
    /// [`ControlError::Late`] after `wait`.
    pub async fn up_to_date(&self, wait: Duration) -> Result<(), ControlError> {
        match &self.keeper {
            Keeper::File(_) => Ok(()),
            Keeper::Fleet(fleet) => fleet.up_to_date(wait).await,
        }
    }

    /// Wakes when a redrive or a replay was asked for, by whatever process.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        match &self.keeper {
            Keeper::File(file) => file.changes(),
            Keeper::Fleet(fleet) => fleet.changes(),
        }
    }

    /// A connection of its own for reading, so that long lists do not hold up the writer.
    ///
    /// # Errors
    /// [`ControlError`] if the file cannot be opened.
    pub fn reader(&self) -> Result<Connection, ControlError> {
        open_existing(&self.path)
    }

    /// Asks SQLite.
    fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ControlError> {
        question(&self.reader()?).map_err(|source| ControlError::Sqlite {
            path: self.path.clone(),
            source,
        })
    }

    /// Saves what the door turned away.
    ///
    /// # Errors
    /// [`ControlError`]; the next save has the whole count again.
    pub async fn save_door(&self, books: DoorSaved) -> Result<(), ControlError> {
        let file = match &self.keeper {
            Keeper::File(file) => file,
            Keeper::Fleet(fleet) => return fleet.save_door(books).await,
        };
        let text = serde_json::to_string(&books).unwrap_or_default();
        file.write(move |db| {
            db.execute(
                "INSERT OR REPLACE INTO door (id, totals) VALUES (1, ?1)",
                [text],
            )
        })
        .await?;
        Ok(())
    }

    /// Since when the books are kept: when the file was made, or the first process of the fleet began; this one, while that
    /// is not known.
    ///
    /// # Errors
    /// [`ControlError`] if it cannot be read.
    pub fn since(&self) -> Result<Timestamp, ControlError> {
        let at =
            self.read(|db| found(db.query_row("SELECT at FROM born", [], |row| row.get(0))))?;
        let unknown = || match &self.keeper {
            Keeper::File(_) => clock::now(),
            Keeper::Fleet(fleet) => fleet.started,
        };
        Ok(at.map_or_else(unknown, Timestamp::from_unix_nanos))
    }

    /// Says since when the books are kept: those of the journal that this one takes over from go on here.
    ///
    /// # Errors
    /// [`ControlError`]; try again.
    pub async fn set_since(&self, since: Timestamp) -> Result<(), ControlError> {
        let at = since.unix_nanos();
        match &self.keeper {
            Keeper::File(file) => {
                let set = move |db: &Connection| {
                    db.execute("INSERT OR REPLACE INTO born VALUES (1, ?1)", [at])
                };
                file.write(set).await.map(drop)
            }
            Keeper::Fleet(fleet) => fleet.set_born(at).await,
        }
    }

    /// What the door's books of this process go on from: what was last saved. In a fleet each process begins anew.
    ///
    /// # Errors
    /// [`ControlError`] if it cannot be read.
    pub fn door(&self) -> Result<DoorSaved, ControlError> {
        if matches!(self.keeper, Keeper::Fleet(_)) {
            return Ok(DoorSaved::default());
        }
        let text = self.read(|db| {
            found(
                db.query_row("SELECT totals FROM door WHERE id = 1", [], |row| {
                    row.get::<_, String>(0)
                }),
            )
        })?;
        let saved = text.map(|text| serde_json::from_str(&text).unwrap_or_default());
        Ok(saved.unwrap_or_default())
    }

    /// What the doors of the fleet's other processes turned away, those that are gone included, as they last saved it.
    ///
    /// # Errors
    /// [`ControlError`] if it cannot be read.
    pub fn doors_elsewhere(&self) -> Result<DoorSaved, ControlError> {
        match &self.keeper {
            Keeper::File(_) => Ok(DoorSaved::default()),
            Keeper::Fleet(fleet) => fleet.doors_elsewhere(),
        }
    }
}

/// What a question for one row found.
fn found<T>(row: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match row {
        Ok(value) => Ok(Some(value)),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) use fleet::testing;
#[cfg(test)]
mod tests;
