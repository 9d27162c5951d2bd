//! Mutated bytes as segments and cursors: no panic, and recovery leaves something that opens again.
//!
//! `TELEMETRYX_MUTATIONS=n` sets how many, by default a million: about a minute.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use telemetryx_journal::sim::{Random, SimClock, SimStorage, SteppedJournal};
use telemetryx_journal::{JournalOptions, JournalView, Offset, Record};

fn mutations() -> u64 {
    std::env::var("TELEMETRYX_MUTATIONS").map_or(1_000_000, |text| text.parse().expect("a number"))
}

fn open(storage: &SimStorage) -> Result<SteppedJournal, telemetryx_journal::OpenError> {
    let options = JournalOptions {
        segment_bytes: 4096,
        cursor_bytes: 0,
        ..JournalOptions::default()
    };
    SteppedJournal::open(
        Arc::new(storage.clone()),
        Arc::new(SimClock::new()),
        options,
    )
}

/// A small journal with a cursor, as bytes.
fn original() -> Vec<(String, Vec<u8>)> {
    let storage = SimStorage::new(1);
    let mut journal = open(&storage).unwrap();
    for number in 0..6_u8 {
        let _waiter = journal
            .append(Record::new(vec![number; 20 * usize::from(number)], 2, 0, 1))
            .unwrap();
        journal.turn();
    }
    let mut cursor = journal.journal.cursor("one").unwrap();
    cursor.commit(Offset::new(3), b"state").unwrap();
    drop(cursor);
    drop(journal);
    storage.dump().into_iter().collect()
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let length = bytes.len() as u64;
        let at = random.below(length.min(1200)) as usize;
        match random.below(5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 0xff, 0x8a][random.below(3) as usize],
            3 => {
                let piece: Vec<u8> = bytes
                    .iter()
                    .skip(at)
                    .take(random.below(300) as usize)
                    .copied()
                    .collect();
                let to = random.below(length.min(1200)) as usize;
                bytes.splice(to..to, piece);
            }
            _ => {
                let end = (at + random.below(100) as usize).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
        }
    }
}

#[test]
fn mutated_files_never_panic_and_a_recovery_lasts() {
    let original = original();
    for seed in 0..mutations() {
        let mut random = Random::new(seed);
        let storage = SimStorage::new(seed);
        let hit = random.below(original.len() as u64) as usize;
        for (number, (name, bytes)) in original.iter().enumerate() {
            let mut bytes = bytes.clone();
            if number == hit {
                mutate(&mut bytes, &mut random);
            }
            storage.put(name, &bytes);
        }
        if let Ok(view) = JournalView::open_with(Arc::new(storage.clone())) {
            view.verify(|_| {})
                .expect("verification reports, it does not fail");
        }
        let Ok(first) = open(&storage) else { continue };
        let end = first.journal.durable_end();
        drop(first.journal.cursor("one"));
        drop(first);
        let again = open(&storage).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(again.journal.durable_end(), end, "seed {seed}");
    }
}
