//! What a fleet shares: its table, which one process of it follows, and the copy that it asks.
//!
//! A change is put into the table, and done once it has come back and is in the copy: who changed something sees it. All
//! processes see the changes in one order; where that is not enough, because only one may do a thing, the route over a
//! partition does it, which the journal gives to one process at a time, or the keeper (`keeper.rs`).
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | [`Fleet`]: changes, and waiting for them |
//! | `values.rs` | the names and values in the table |
//! | `place.rs` | where the copy lies |
//! | `copy.rs` | the copy, and how a change of the table changes it |
//! | `letters.rs` | dead letters |
//! | `replays.rs` | replays |
//! | `door.rs` | the books of all doors |
//! | `keeper.rs` | what is done without being asked for |

mod copy;
mod door;
mod keeper;
mod letters;
mod place;
mod replays;
mod values;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;
use serde::Serialize;
use telemetryx_common::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{ControlError, open_existing};
use crate::clock;
use crate::journal::{Entry, Followed, SharedTable, TableChange};

use door::OwnDoor;
use keeper::Keeping;
use place::Place;

/// Changes that wait for the copy; there may be a letter in each.
const WAITING: usize = 64;
/// How long a change may take to come back.
const COMES_BACK: Duration = Duration::from_secs(30);
/// The pause before the copy is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// Entries put at a time.
const PUT_ENTRIES: usize = 256;
/// Bytes put at a time; one entry alone may be larger.
const PUT_BYTES: usize = 4 << 20;

/// How long things take that others wait for, or that wait for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two looks for what is to be done.
    look: Duration,
    /// The keeper says so often that it is there.
    beat: Duration,
    /// After so long without a word of it another one may be the keeper, if there is work for one.
    silence: Duration,
    /// A new keeper does nothing for so long: another one may have come at the same time.
    settle: Duration,
    /// A name without its letter or replay is removed after that.
    orphan: Duration,
    /// Who has not wanted to send letters of the door for so long does not want to be the keeper.
    interest: Duration,
    /// The books of a door that have not changed for so long are added to those that are gone.
    idle_door: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(1),
            beat: Duration::from_secs(4),
            silence: Duration::from_secs(15),
            settle: Duration::from_secs(1),
            orphan: Duration::from_secs(10),
            interest: Duration::from_secs(90),
            idle_door: Duration::from_secs(3600),
        }
    }
}

/// How far the copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Applied {
    /// The number behind that of the last change.
    behind: u64,
    /// All that there was at the beginning is in it.
    is_whole: bool,
}

/// One process's part in the fleet's table.
pub(super) struct Fleet {
    table: Arc<dyn SharedTable>,
    /// The name of this process; a new one at each start.
    process: String,
    /// The books are as old as the first process.
    pub(super) started: Timestamp,
    pace: Pace,
    letters_max_bytes: u64,
    applied: watch::Receiver<Applied>,
    asked: Arc<watch::Sender<u64>>,
    /// When somebody here last wanted to send letters of the door again.
    wanted_door: parking_lot::Mutex<Option<Instant>>,
    keeping: Keeping,
    trimming: AtomicBool,
    door: parking_lot::Mutex<OwnDoor>,
    saving_door: tokio::sync::Mutex<()>,
    /// Read by those who bury letters of routes, written by who removes strays.
    burying: tokio::sync::RwLock<()>,
    _followed: Box<dyn Followed>,
    place: Arc<Place>,
}

impl Fleet {
    pub(super) fn start(
        table: Arc<dyn SharedTable>,
        dir: Option<&Path>,
        letters_max_bytes: u64,
        runtime: &Handle,
    ) -> Result<Arc<Self>, ControlError> {
        Self::start_at_pace(table, dir, letters_max_bytes, runtime, Pace::default())
    }

    pub(super) fn start_at_pace(
        table: Arc<dyn SharedTable>,
        dir: Option<&Path>,
        letters_max_bytes: u64,
        runtime: &Handle,
        pace: Pace,
    ) -> Result<Arc<Self>, ControlError> {
        let failed = |error| ControlError::Invalid(format!("dead letters and replays: {error}"));
        let place = Arc::new(Place::take(dir).map_err(failed)?);
        let db = copy::make(place.file())?;
        let process = uuid::Uuid::now_v7().simple().to_string();
        let (tell, told) = mpsc::sync_channel(WAITING);
        let (apply, applied) = watch::channel(Applied::default());
        let asked = Arc::new(watch::Sender::new(0));
        let copying = Copying {
            db,
            process: process.clone(),
            applied: apply,
            asked: Arc::clone(&asked),
            _place: Arc::clone(&place),
        };
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || copying.run(&told))
            .map_err(failed)?;
        // Nobody takes it any more only when this process goes down.
        let on = move |change| drop(tell.send(change));
        let followed = {
            let _inside = runtime.enter();
            table.follow(Box::new(on)).map_err(ControlError::Table)?
        };
        let fleet = Arc::new(Self {
            table,
            process,
            started: clock::now(),
            pace,
            letters_max_bytes,
            applied,
            asked,
            wanted_door: parking_lot::Mutex::default(),
            keeping: Keeping::default(),
            trimming: AtomicBool::new(false),
            door: parking_lot::Mutex::default(),
            saving_door: tokio::sync::Mutex::default(),
            burying: tokio::sync::RwLock::default(),
            _followed: followed,
            place,
        });
        runtime.spawn(keeper::run(Arc::downgrade(&fleet), pace));
        Ok(fleet)
    }

    /// Where the copy is.
    pub(super) fn path(&self) -> &Path {
        self.place.file()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// True once the copy is as the table was when this process began, or newer.
    pub(super) fn knows_all(&self) -> bool {
        self.applied.borrow().is_whole
    }

    pub(super) async fn up_to_date(&self, wait: Duration) -> Result<(), ControlError> {
        self.wait_for(wait, |applied| applied.is_whole).await
    }

    async fn wait_for(
        &self,
        wait: Duration,
        is_enough: impl FnMut(&Applied) -> bool,
    ) -> Result<(), ControlError> {
        let mut applied = self.applied.clone();
        match tokio::time::timeout(wait, applied.wait_for(is_enough)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ControlError::Busy),
            Err(_) => Err(ControlError::Late(wait)),
        }
    }

    /// Changes the table; resolves once the change is in the copy. Returns the sequence number of the last entry.
    async fn change(&self, entries: Vec<Entry>) -> Result<u64, ControlError> {
        let mut last = 0;
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut bytes = 0;
            let mut part = Vec::new();
            while let Some(entry) = entries.next_if(|(name, value)| {
                bytes += name.len() + value.as_ref().map_or(0, Bytes::len);
                part.is_empty() || (part.len() < PUT_ENTRIES && bytes <= PUT_BYTES)
            }) {
                part.push(entry);
            }
            last = self.table.put(part).await.map_err(ControlError::Table)?;
        }
        self.wait_for(COMES_BACK, |applied| applied.behind > last)
            .await?;
        Ok(last)
    }

    /// Asks the copy.
    fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ControlError> {
        let path = self.place.file();
        question(&open_existing(path)?).map_err(|source| ControlError::Sqlite {
            path: PathBuf::from(path),
            source,
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // At once: the thread that writes it ends when nobody tells it anything any more.
        self.place.clear().ok();
    }
}

/// A value that is to be put.
fn value<T: Serialize>(value: &T) -> Result<Option<Bytes>, ControlError> {
    value_with(value, b"")
}

fn value_with<T: Serialize>(value: &T, behind: &[u8]) -> Result<Option<Bytes>, ControlError> {
    let bytes = values::encode(value, behind);
    bytes
        .map(Some)
        .map_err(|error| ControlError::Invalid(error.to_string()))
}

/// The thread that writes the copy.
struct Copying {
    db: Connection,
    process: String,
    applied: watch::Sender<Applied>,
    asked: Arc<watch::Sender<u64>>,
    _place: Arc<Place>,
}

impl Copying {
    /// Until nobody tells any more.
    fn run(self, changes: &mpsc::Receiver<TableChange>) {
        while let Ok(first) = changes.recv() {
            let mut some = vec![first];
            some.extend(changes.try_iter().take(WAITING - 1));
            let mut is_known = false;
            let effect = loop {
                match copy::apply_all(&self.db, &some, &self.process) {
                    Ok(effect) => break effect,
                    // Nothing may be left out: the copy would never be right again.
                    Err(error) if !is_known => {
                        is_known = true;
                        tracing::error!(%error, "the copy of the fleet's table cannot be written");
                    }
                    Err(_) if self.applied.is_closed() => return,
                    Err(_) => {}
                }
                std::thread::sleep(PAUSE);
            };
            let mut became_whole = false;
            self.applied.send_modify(|applied| {
                for change in &some {
                    match change {
                        TableChange::Value { sequence, .. } => applied.behind = sequence + 1,
                        TableChange::UpToDate => {
                            became_whole = !applied.is_whole;
                            applied.is_whole = true;
                        }
                    }
                }
            });
            if effect.asked || became_whole {
                self.asked.send_modify(|count| *count += 1);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
