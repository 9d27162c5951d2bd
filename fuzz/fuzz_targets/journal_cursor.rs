//! Any bytes as the two slots of a cursor: opened, or refused as damaged; never a panic.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use telemetryx_journal::sim::{SimClock, SimStorage, SteppedJournal};
use telemetryx_journal::{CursorError, JournalOptions};

fuzz_target!(|slots: (&[u8], &[u8])| {
    let storage = SimStorage::new(0);
    storage.put("cursors/fuzz.a", slots.0);
    storage.put("cursors/fuzz.b", slots.1);
    let journal = SteppedJournal::open(Arc::new(storage), Arc::new(SimClock::new()), JournalOptions::default())
        .expect("no cursor keeps a journal from opening");
    match journal.journal.cursor("fuzz") {
        Ok(cursor) => assert!(cursor.position() <= journal.journal.durable_end()),
        Err(CursorError::Damaged { .. }) => journal.journal.forget_cursor("fuzz").expect("forgotten"),
        Err(error) => panic!("{error}"),
    }
});
