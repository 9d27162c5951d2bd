//! Any bytes as a segment: a view, a verification and a recovery must neither panic nor allocate more than the file's length allows.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use telemetryx_journal::sim::{SimClock, SimStorage, SteppedJournal};
use telemetryx_journal::{JournalOptions, JournalView};

fuzz_target!(|bytes: &[u8]| {
    let storage = SimStorage::new(0);
    storage.put("00000000000000000000.seg", bytes);
    if let Ok(view) = JournalView::open_with(Arc::new(storage.clone())) {
        view.verify(|_| {}).ok();
    }
    let open = || SteppedJournal::open(Arc::new(storage.clone()), Arc::new(SimClock::new()), JournalOptions::default());
    if let Ok(first) = open() {
        let end = first.journal.durable_end();
        drop(first);
        let again = open().expect("what recovery left behind opens");
        assert_eq!(again.journal.durable_end(), end);
        assert_eq!(again.journal.recovery().torn_bytes, 0);
    }
});
