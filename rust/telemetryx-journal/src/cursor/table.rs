//! Which cursors there are and where the slowest stands. Retention asks for all on disk, the backlog for those opened here.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::slot::{self, Found};
use crate::offset::Offset;
use crate::storage::Storage;

/// Nobody is behind.
const NOBODY: u64 = u64::MAX;

/// All cursors of a journal. Every change happens under one lock; the slowest is also kept in atomics.
pub(crate) struct CursorTable {
    cursors: Mutex<HashMap<String, Known>>,
    slowest: AtomicU64,
    slowest_bytes: AtomicU64,
}

/// A cursor on disk.
struct Known {
    position: Offset,
    bytes: u64,
    /// Set while a [`Cursor`](super::Cursor) exists; cleared by dropping it.
    open: bool,
    /// Opened at least once since the journal was: counts for the backlog even while it is being reopened.
    counted: bool,
    /// Told to a cursor that is forgotten while open.
    forgotten: Arc<AtomicBool>,
}

impl Default for CursorTable {
    fn default() -> CursorTable {
        CursorTable {
            cursors: Mutex::default(),
            slowest: AtomicU64::new(NOBODY),
            slowest_bytes: AtomicU64::new(NOBODY),
        }
    }
}

impl CursorTable {
    /// Reads what is on disk when the journal opens: the highest position, and the damaged cursors, which hold everything.
    pub(crate) fn load(&self, storage: &dyn Storage) -> io::Result<(Offset, Vec<String>)> {
        let mut highest = Offset::ZERO;
        let mut damaged = Vec::new();
        let mut cursors = self.cursors.lock();
        for name in slot::names(storage)? {
            let (position, bytes) = match slot::read(storage, &name, slot::From::Device)? {
                Found::Nothing => continue,
                Found::Valid { slot, .. } => (slot.position, slot.bytes),
                Found::Damaged(files) => {
                    tracing::error!(
                        name,
                        files,
                        "cursor is damaged; it holds back retention until it is forgotten"
                    );
                    damaged.push(name.clone());
                    (Offset::ZERO, 0)
                }
            };
            highest = highest.max(position);
            cursors.insert(name, Known::new(position, bytes, false));
        }
        Ok((highest, damaged))
    }

    /// Registers a cursor as open; `None` if it is open already. The closure says where it stands and runs under the lock, so
    /// that retention cannot pass it meanwhile.
    pub(crate) fn open<E>(
        &self,
        name: &str,
        find: impl FnOnce() -> Result<(Offset, u64), E>,
    ) -> Result<Option<Arc<AtomicBool>>, E> {
        let mut cursors = self.cursors.lock();
        if cursors.get(name).is_some_and(|known| known.open) {
            return Ok(None);
        }
        let (position, bytes) = find()?;
        let known = Known::new(position, bytes, true);
        let forgotten = Arc::clone(&known.forgotten);
        cursors.insert(name.to_owned(), known);
        self.settle(&cursors);
        Ok(Some(forgotten))
    }

    pub(crate) fn moved(&self, name: &str, position: Offset, bytes: u64) {
        let mut cursors = self.cursors.lock();
        if let Some(known) = cursors.get_mut(name) {
            known.position = position;
            known.bytes = bytes;
        }
        self.settle(&cursors);
    }

    pub(crate) fn closed(&self, name: &str) {
        if let Some(known) = self.cursors.lock().get_mut(name) {
            known.open = false;
        }
    }

    /// Removes a cursor; the closure removes its files, under the lock.
    pub(crate) fn forget<E>(
        &self,
        name: &str,
        remove: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut cursors = self.cursors.lock();
        remove()?;
        if let Some(known) = cursors.remove(name) {
            known.forgotten.store(true, Ordering::Release);
        }
        self.settle(&cursors);
        Ok(())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.cursors.lock().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Runs something while no cursor can open or move, knowing what all of them have passed (`None`: there is no cursor).
    pub(crate) fn while_held<T>(&self, run: impl FnOnce(Option<Offset>) -> T) -> T {
        let cursors = self.cursors.lock();
        run(cursors.values().map(|known| known.position).min())
    }

    /// Where the slowest cursor opened here stands, in events and bytes.
    pub(crate) fn slowest(&self) -> Option<(Offset, u64)> {
        let position = self.slowest.load(Ordering::Acquire);
        (position != NOBODY).then(|| {
            (
                Offset::new(position),
                self.slowest_bytes.load(Ordering::Acquire),
            )
        })
    }

    fn settle(&self, cursors: &HashMap<String, Known>) {
        let counted = || cursors.values().filter(|known| known.counted);
        let position = counted().map(|known| known.position.get()).min();
        let bytes = counted().map(|known| known.bytes).min();
        self.slowest_bytes
            .store(bytes.unwrap_or(NOBODY), Ordering::Release);
        self.slowest
            .store(position.unwrap_or(NOBODY), Ordering::Release);
    }
}

impl Known {
    fn new(position: Offset, bytes: u64, open: bool) -> Known {
        Known {
            position,
            bytes,
            open,
            counted: open,
            forgotten: Arc::default(),
        }
    }
}
