//! What writer, readers, cursors and handles share: the durable end, the segments, the cursors, what is known to be wrong.
//!
//! Everything hot is an atomic; the locks here are taken once a segment, a commit or a damaged place.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::cursor::CursorTable;
use crate::offset::Offset;
use crate::segments::Segments;
use crate::status::{Damage, Health};
use crate::storage::Storage;

/// How many damaged places are kept for [`JournalStatus::damage`](crate::JournalStatus::damage); all are counted.
pub const DAMAGE_KEPT: usize = 1000;

/// Shared by everything that belongs to one open journal.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) segments: Segments,
    pub(crate) cursors: CursorTable,
    pub(crate) damage: DamageBook,
    pub(crate) health: Mutex<Health>,
    pub(crate) counters: Counters,
    pub(crate) end: DurableEnd,
    /// What each file of a cursor takes of the disk at least.
    pub(crate) cursor_bytes: u64,
}

/// Counted since the journal was opened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) failures: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        cursor_bytes: u64,
    ) -> Shared {
        Shared {
            storage,
            clock,
            segments: Segments::default(),
            cursors: CursorTable::default(),
            damage: DamageBook::default(),
            health: Mutex::new(Health::Ok),
            counters: Counters::default(),
            end: DurableEnd::new(),
            cursor_bytes,
        }
    }

    /// The oldest offset kept.
    pub(crate) fn start(&self) -> Offset {
        match self.segments.first() {
            Some(first) => first.base,
            None => self.end.get(),
        }
    }
}

/// The end of what is durable, and those who wait for it to move.
pub(crate) struct DurableEnd {
    end: AtomicU64,
    /// Record bytes up to the end, since the journal began.
    bytes: AtomicU64,
    changed: watch::Sender<(Offset, bool)>,
    /// For those who block a thread. The count keeps the writer from the lock when nobody does.
    blocked: AtomicUsize,
    lock: Mutex<()>,
    condition: Condvar,
}

impl DurableEnd {
    fn new() -> DurableEnd {
        DurableEnd {
            end: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            changed: watch::Sender::new((Offset::ZERO, false)),
            blocked: AtomicUsize::new(0),
            lock: Mutex::new(()),
            condition: Condvar::new(),
        }
    }

    pub(crate) fn get(&self) -> Offset {
        Offset::new(self.end.load(Ordering::SeqCst))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Moves the end and wakes who waits.
    pub(crate) fn publish(&self, end: Offset, bytes: u64) {
        self.bytes.store(bytes, Ordering::Release);
        self.end.store(end.get(), Ordering::SeqCst);
        self.changed.send_modify(|value| value.0 = end);
        self.wake_blocked();
    }

    /// Tells who waits that nothing more will come.
    pub(crate) fn close(&self) {
        self.changed.send_modify(|value| value.1 = true);
        self.wake_blocked();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.changed.borrow().1
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<(Offset, bool)> {
        self.changed.subscribe()
    }

    fn wake_blocked(&self) {
        if self.blocked.load(Ordering::SeqCst) > 0 {
            // Taken so that nobody is between looking and sleeping.
            drop(self.lock.lock());
            self.condition.notify_all();
        }
    }

    /// Blocks until the end lies beyond `offset`, the journal is closed, or the deadline passes.
    pub(crate) fn block_until_beyond(&self, offset: Offset, deadline: Option<std::time::Instant>) {
        self.blocked.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock();
        while self.get() <= offset && !self.is_closed() {
            match deadline {
                None => self.condition.wait(&mut guard),
                Some(deadline) => {
                    if self.condition.wait_until(&mut guard, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        drop(guard);
        self.blocked.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Every damaged place, counted once however often it is met.
#[derive(Default)]
pub(crate) struct DamageBook {
    inner: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    kept: Vec<Damage>,
    known: HashSet<(String, u64, Offset)>,
    count: u64,
    events: u64,
}

impl DamageBook {
    /// Books a damaged place and logs it, unless it is known.
    pub(crate) fn report(&self, damage: Damage) {
        let mut book = self.inner.lock();
        // Bounded: with more places than this, some may be counted again when read again.
        if book.known.len() >= 16 * DAMAGE_KEPT {
            book.known.clear();
        }
        if !book
            .known
            .insert((damage.segment.clone(), damage.byte, damage.from))
        {
            return;
        }
        tracing::error!(segment = damage.segment, byte = damage.byte, from = %damage.from, to = %damage.to,
            reason = %damage.reason, "damage in the journal");
        book.count += 1;
        book.events += damage.to.since(damage.from);
        if book.kept.len() < DAMAGE_KEPT {
            book.kept.push(damage);
        }
    }

    /// The places kept, how many there were, and the events lost in them.
    pub(crate) fn snapshot(&self) -> (Vec<Damage>, u64, u64) {
        let book = self.inner.lock();
        (book.kept.clone(), book.count, book.events)
    }
}
