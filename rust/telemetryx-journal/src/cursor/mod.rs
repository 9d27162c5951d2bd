//! Cursors: where a reader has got to, with a few bytes of its own, saved together and durably.
//!
//! A full disk has room again only once cursors have moved and old segments go. So a commit must do with the room that is there:
//! both slots are made when the cursor is, and each has room for twice what it holds.
//!
//! | file | purpose |
//! | --- | --- |
//! | `mod.rs` | [`Cursor`]: open, commit, reset |
//! | `slot.rs` | the bytes of a slot, choosing between the two |
//! | `table.rs` | all cursors of a journal, and the slowest of them |

mod slot;
mod table;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::CursorError;
use crate::offset::Offset;
use crate::shared::Shared;
use crate::storage::{Storage, StorageFile, is_no_space, write_all_at};

pub use slot::MAX_STATE_BYTES;
use slot::{Found, Side, Slot};
pub(crate) use table::CursorTable;

/// A named position in the journal, with opaque bytes saved in the same step. One owner at a time; dropping it changes
/// nothing on disk.
pub struct Cursor {
    shared: Arc<Shared>,
    name: String,
    position: Offset,
    state: Vec<u8>,
    /// The number of the last attempt, so that a later one always wins over an earlier one that failed half way.
    sequence: u64,
    /// Where the next commit goes: never the slot that holds the last good one.
    next: Side,
    next_exists: bool,
    fault: Option<String>,
    forgotten: Arc<AtomicBool>,
    buffer: Vec<u8>,
    /// The slot files, kept open once used.
    files: [Option<Arc<dyn StorageFile>>; 2],
}

/// A cursor as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorInfo {
    /// Its name.
    pub name: String,
    /// Its position, or what is wrong with its files.
    pub position: Result<Offset, String>,
    /// Bytes of records before its position, counted from the journal's beginning.
    pub bytes: u64,
    /// What was saved with the position.
    pub state: Vec<u8>,
    /// What is wrong with the other slot, if anything is; the position is good all the same.
    pub fault: Option<String>,
}

impl Cursor {
    /// Opens a cursor, or makes it at the oldest offset kept.
    pub(crate) fn open(shared: &Arc<Shared>, name: &str) -> Result<Cursor, CursorError> {
        check_name(name)?;
        let io = |source| CursorError::Io {
            name: name.to_owned(),
            source,
        };
        let mut opened = None;
        let forgotten = shared.cursors.open(name, || {
            let found = slot::read(&*shared.storage, name, slot::From::Device).map_err(io)?;
            let (slot, side, mut other_exists, fault) = match found {
                Found::Valid {
                    slot,
                    side,
                    other_exists,
                    fault,
                } => (slot, side, other_exists, fault),
                Found::Nothing => (create(shared, name).map_err(io)?, Side::A, false, None),
                Found::Damaged(files) => {
                    return Err(CursorError::Damaged {
                        name: name.to_owned(),
                        files,
                    });
                }
            };
            if !other_exists {
                other_exists = create_older(shared, name, side.other(), &slot).map_err(io)?;
            }
            let at = (slot.position, slot.bytes);
            opened = Some((slot, side, other_exists, fault));
            Ok(at)
        })?;
        let (Some(forgotten), Some((slot, side, next_exists, fault))) = (forgotten, opened) else {
            return Err(CursorError::InUse {
                name: name.to_owned(),
            });
        };
        if let Some(fault) = &fault {
            tracing::warn!(
                name,
                fault,
                "one slot of the cursor is damaged; going on from the other"
            );
        }
        Ok(Cursor {
            shared: Arc::clone(shared),
            name: name.to_owned(),
            position: slot.position,
            state: slot.state,
            sequence: slot.sequence,
            next: side.other(),
            next_exists,
            fault,
            forgotten,
            buffer: Vec::new(),
            files: [None, None],
        })
    }

    /// The cursor's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last committed position: everything before it is done with.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }

    /// The bytes committed with it; empty for a new cursor.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// What was wrong with the other slot when the cursor was opened. After a power cut during a commit that is to be
    /// expected; otherwise it is damage, and the cursor may stand one commit further back than it did.
    #[must_use]
    pub fn damaged_slot(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Saves a position, not before the present one, with its state. Durable when it returns. After an error the cursor still
    /// stands where it stood; on disk it may stand at either.
    ///
    /// Blocks for one write and sync of a small file.
    pub fn commit(&mut self, position: Offset, state: &[u8]) -> Result<(), CursorError> {
        if position < self.position {
            return Err(self.out_of_range(position));
        }
        self.save(position, state)
    }

    /// Like [`commit`](Self::commit), but may also move backwards: for replay.
    pub fn reset(&mut self, position: Offset, state: &[u8]) -> Result<(), CursorError> {
        self.save(position, state)
    }

    fn save(&mut self, position: Offset, state: &[u8]) -> Result<(), CursorError> {
        if self.forgotten.load(Ordering::Acquire) || self.shared.end.is_closed() {
            return Err(CursorError::Closed {
                name: self.name.clone(),
            });
        }
        if position > self.shared.end.get() {
            return Err(self.out_of_range(position));
        }
        if state.len() > MAX_STATE_BYTES {
            return Err(CursorError::StateTooLarge {
                name: self.name.clone(),
                bytes: state.len(),
            });
        }
        let bytes = self.shared.segments.estimate_bytes(position);
        self.sequence += 1;
        slot::encode(&mut self.buffer, self.sequence, position, bytes, state);
        self.write_slot().map_err(|source| CursorError::Io {
            name: self.name.clone(),
            source,
        })?;
        self.next = self.next.other();
        self.next_exists = true;
        self.position = position;
        self.state.clear();
        self.state.extend_from_slice(state);
        self.shared.cursors.moved(&self.name, position, bytes);
        Ok(())
    }

    fn write_slot(&mut self) -> io::Result<()> {
        let path = self.next.file(&self.name);
        if !self.next_exists {
            return put_whole(&self.shared, &path, &self.buffer);
        }
        let kept = &mut self.files[self.next as usize];
        let file = match kept {
            Some(file) => file,
            None => kept.insert(self.shared.storage.open(&path)?),
        };
        take_room(&self.shared, &**file, self.buffer.len());
        write_all_at(&**file, &mut [IoSlice::new(&self.buffer)], 0).map_err(|(_, error)| error)?;
        file.sync_data()
    }

    fn out_of_range(&self, to: Offset) -> CursorError {
        CursorError::OutOfRange {
            name: self.name.clone(),
            from: self.position,
            to,
            end: self.shared.end.get(),
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if !self.forgotten.load(Ordering::Acquire) {
            self.shared.cursors.closed(&self.name);
        }
    }
}

/// Removes a cursor's files and its hold on retention.
pub(crate) fn forget(shared: &Shared, name: &str) -> Result<(), CursorError> {
    check_name(name)?;
    let remove = || {
        for side in [Side::A, Side::B] {
            match shared.storage.remove(&side.file(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        shared.storage.sync_dir(slot::FOLDER)
    };
    shared
        .cursors
        .forget(name, remove)
        .map_err(|source| CursorError::Io {
            name: name.to_owned(),
            source,
        })
}

/// Where a cursor stands on disk, with its state; `None` if there is none.
pub(crate) fn saved(shared: &Shared, name: &str) -> Result<Option<(Offset, Vec<u8>)>, CursorError> {
    check_name(name)?;
    let found = slot::read(&*shared.storage, name, slot::From::Cache);
    match found.map_err(|source| CursorError::Io {
        name: name.to_owned(),
        source,
    })? {
        Found::Nothing => Ok(None),
        Found::Valid { slot, .. } => Ok(Some((slot.position, slot.state))),
        Found::Damaged(files) => Err(CursorError::Damaged {
            name: name.to_owned(),
            files,
        }),
    }
}

/// All cursors on disk, as they stand.
pub(crate) fn list(storage: &dyn Storage) -> io::Result<Vec<CursorInfo>> {
    let mut all = Vec::new();
    for name in slot::names(storage)? {
        let (position, bytes, state, fault) = match slot::read(storage, &name, slot::From::Cache)? {
            Found::Nothing => continue,
            Found::Valid { slot, fault, .. } => (Ok(slot.position), slot.bytes, slot.state, fault),
            Found::Damaged(files) => (Err(files), 0, Vec::new(), None),
        };
        all.push(CursorInfo {
            name,
            position,
            bytes,
            state,
            fault,
        });
    }
    Ok(all)
}

fn check_name(name: &str) -> Result<(), CursorError> {
    if slot::is_valid_name(name) {
        return Ok(());
    }
    Err(CursorError::Name {
        name: name.to_owned(),
    })
}

fn create(shared: &Shared, name: &str) -> io::Result<Slot> {
    let position = shared.start();
    let slot = Slot {
        sequence: 1,
        position,
        bytes: shared.segments.estimate_bytes(position),
        state: Vec::new(),
    };
    put_slot(shared, &Side::A.file(name), &slot)?;
    Ok(slot)
}

/// Makes the other slot of a cursor that has but this one: the same, and older. `false` if the disk is full: then the next commit
/// makes it.
fn create_older(shared: &Shared, name: &str, side: Side, newer: &Slot) -> io::Result<bool> {
    let older = Slot {
        sequence: newer.sequence.saturating_sub(1),
        ..newer.clone()
    };
    match put_slot(shared, &side.file(name), &older) {
        Err(error) if is_no_space(&error) => Ok(false),
        made => made.map(|()| true),
    }
}

fn put_slot(shared: &Shared, path: &str, slot: &Slot) -> io::Result<()> {
    let mut buffer = Vec::new();
    slot::encode(
        &mut buffer,
        slot.sequence,
        slot.position,
        slot.bytes,
        &slot.state,
    );
    put_whole(shared, path, &buffer)
}

/// Makes a file appear with all its bytes or not at all.
fn put_whole(shared: &Shared, path: &str, bytes: &[u8]) -> io::Result<()> {
    let storage = &*shared.storage;
    let unfinished = format!("{path}.new");
    match storage.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create_new(&unfinished)?;
    take_room(shared, &*file, bytes.len());
    write_all_at(&*file, &mut [IoSlice::new(bytes)], 0).map_err(|(_, error)| error)?;
    file.sync_data()?;
    storage.rename(&unfinished, path)?;
    storage.sync_dir(slot::FOLDER)
}

/// Sees to it that a slot of so many bytes can grow to twice as many with what its file has of the disk. Best effort: without, a
/// commit takes what it needs when it needs it.
fn take_room(shared: &Shared, file: &dyn StorageFile, bytes: usize) {
    let twice = 2 * bytes as u64;
    let taken = file.len().and_then(|room| {
        if room >= twice {
            return Ok(());
        }
        // Twice and more, so that not every commit takes some.
        file.preallocate(twice.next_power_of_two().max(shared.cursor_bytes))
    });
    if let Err(error) = taken {
        tracing::debug!(%error, bytes, "could not take room for a cursor to grow");
    }
}
