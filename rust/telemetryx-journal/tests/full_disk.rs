//! A full disk frees itself: its cursors can still be committed, and what they have passed is removed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use telemetryx_journal::sim::{Faults, SimClock, SimStorage, SteppedJournal};
use telemetryx_journal::{AppendError, Cursor, JournalOptions, Record, Retention, Storage};

/// A journal that keeps nothing beyond its cursors.
struct Full {
    storage: SimStorage,
    clock: SimClock,
    journal: SteppedJournal,
}

impl Full {
    fn open() -> Self {
        let (storage, clock) = (SimStorage::new(1), SimClock::new());
        let options = JournalOptions {
            segment_bytes: 4096,
            retain: Retention {
                bytes: Some(0),
                age: None,
            },
            ..JournalOptions::default()
        };
        let journal =
            SteppedJournal::open(Arc::new(storage.clone()), Arc::new(clock.clone()), options)
                .unwrap();
        Self {
            storage,
            clock,
            journal,
        }
    }

    fn append(&mut self) -> Result<(), AppendError> {
        self.clock.advance(Duration::from_secs(2));
        let mut waiter = self
            .journal
            .append(Record::new(vec![7; 1000], 1, 0, 1))
            .unwrap();
        self.journal.turn();
        waiter.answer().unwrap().map(|_| ())
    }

    /// Leaves no byte on the disk, neither behind the newest segment nor within.
    fn fill(&mut self) {
        for _ in 0..10 {
            self.append().unwrap();
        }
        let used: usize = self.storage.dump().values().map(Vec::len).sum();
        self.storage.set_faults(Faults {
            capacity: used as u64,
            ..Faults::default()
        });
        while self.append().is_ok() {}
        assert!(matches!(self.append(), Err(AppendError::NoSpace)));
    }

    /// Everything is passed, with so many bytes of state.
    fn pass(&self, cursor: &mut Cursor, state: usize) {
        let end = self.journal.journal.durable_end();
        cursor.commit(end, &vec![1; state]).unwrap();
    }
}

#[test]
fn cursors_that_were_never_committed_free_a_full_disk() {
    let mut full = Full::open();
    let mut first = full.journal.journal.cursor("first").unwrap();
    let mut second = full.journal.journal.cursor("second").unwrap();
    full.fill();
    full.pass(&mut first, 0);
    full.pass(&mut second, 30_000);
    full.append().unwrap();
}

#[test]
fn a_state_that_grows_while_the_disk_is_full_does_not_keep_it_full() {
    let mut full = Full::open();
    let mut cursor = full.journal.journal.cursor("one").unwrap();
    for state in [100_000, 100_000] {
        full.append().unwrap();
        full.pass(&mut cursor, state);
    }
    full.fill();
    full.pass(&mut cursor, 110_000);
    full.pass(&mut cursor, 200_000);
    full.append().unwrap();
}

#[test]
fn a_cursor_with_one_slot_opens_on_a_full_disk_and_goes_on_once_there_is_room() {
    let mut full = Full::open();
    drop(full.journal.journal.cursor("one").unwrap());
    full.storage.remove("cursors/one.b").unwrap();
    full.fill();
    let mut cursor = full.journal.journal.cursor("one").unwrap();
    let end = full.journal.journal.durable_end();
    assert!(cursor.commit(end, b"").is_err());
    assert_eq!(cursor.position().get(), 0);
    full.storage.set_faults(Faults::default());
    full.pass(&mut cursor, 0);
    drop(cursor);
    let cursor = full.journal.journal.cursor("one").unwrap();
    assert_eq!((cursor.position(), cursor.damaged_slot()), (end, None));
}
