//! On a real disk, with the real thread.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use telemetryx_journal::{
    AppendError, Closed, CursorError, Entry, FsyncPolicy, GapReason, Journal, JournalOptions,
    JournalView, Offset, OpenError, Record, Retention,
};

fn open(dir: &Path) -> Journal {
    Journal::open(dir, small()).expect("the journal opens")
}

fn small() -> JournalOptions {
    JournalOptions {
        segment_bytes: 16 << 10,
        ..JournalOptions::default()
    }
}

fn record(number: u64) -> Record {
    Record::new(format!("event {number} {}", "x".repeat(200)), 1, 0, 0)
}

fn fill(journal: &Journal, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let position = journal.append_blocking(record(number)).expect("durable");
        assert_eq!(position.first, Offset::new(number));
    }
}

fn read(journal: &Journal) -> Vec<Entry> {
    let mut reader = journal.reader(journal.start()).expect("a reader");
    let mut all = Vec::new();
    loop {
        let chunk = reader.next(1000).expect("a chunk");
        if chunk.is_empty() {
            return all;
        }
        all.extend(chunk.entries);
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    all.sort();
    all
}

fn overwrite(path: &Path, position: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, position).unwrap();
}

#[test]
fn a_second_open_is_refused_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    match Journal::open(dir.path(), small()) {
        Err(OpenError::Locked { pid }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    journal.close_blocking().unwrap();
    open(dir.path());
}

#[test]
fn everything_is_there_after_a_close_and_the_mark_says_it_was_clean() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..500);
    let before = read(&journal);
    journal.close_blocking().unwrap();
    assert_eq!(journal.append_blocking(record(0)), Err(AppendError::Closed));
    let journal = open(dir.path());
    assert!(journal.recovery().clean, "{}", journal.recovery());
    assert_eq!(read(&journal), before);
    assert!(segments(dir.path()).len() > 5);
    fill(&journal, 500..501);
}

#[test]
fn dropping_the_journal_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..10);
    drop(journal);
    let journal = open(dir.path());
    assert!(!journal.recovery().clean);
    assert_eq!(journal.durable_end(), Offset::new(10));
}

#[test]
fn garbage_behind_the_last_record_is_cut_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..3);
    let used = journal.status().bytes;
    drop(journal);
    overwrite(&segments(dir.path())[0], used, &[7; 100]);
    let journal = open(dir.path());
    assert_eq!(journal.recovery().torn_bytes, 100);
    assert_eq!(read(&journal).len(), 3);
    fill(&journal, 3..4);
}

#[test]
fn a_tail_cut_short_loses_only_the_record_it_hits() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..3);
    let used = journal.status().bytes;
    drop(journal);
    let file = OpenOptions::new()
        .write(true)
        .open(&segments(dir.path())[0])
        .unwrap();
    file.set_len(used - 10).unwrap();
    let journal = open(dir.path());
    assert!(journal.recovery().torn_bytes > 0);
    assert_eq!(journal.durable_end(), Offset::new(2));
}

#[test]
fn damage_in_the_middle_becomes_a_gap_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..200);
    journal.close_blocking().unwrap();
    drop(journal);
    let hit = &segments(dir.path())[1];
    let before = fs::read(hit).unwrap();
    overwrite(hit, 64 + 70, b"damage");
    let damaged = fs::read(hit).unwrap();
    assert_ne!(before, damaged);

    let journal = open(dir.path());
    let entries = read(&journal);
    let gaps: Vec<_> = entries
        .iter()
        .filter(|entry| {
            matches!(
                entry,
                Entry::Gap {
                    reason: GapReason::Damaged,
                    ..
                }
            )
        })
        .collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!(entries.len(), 200, "199 records and a gap");
    let entries_again = read(&journal);
    assert_eq!(entries, entries_again);
    let status = journal.status();
    assert_eq!(
        (status.damage_count, status.damaged_events),
        (1, 1),
        "counted once"
    );
    assert_eq!(fs::read(hit).unwrap(), damaged, "never rewritten");

    let view = JournalView::open(dir.path()).unwrap();
    let report = view.verify(|_| {}).unwrap();
    assert_eq!(
        (report.records, report.damage.len()),
        (199, 1),
        "{report:?}"
    );
    assert!(view.segments().len() > 2);
}

#[test]
fn damage_to_the_very_last_record_is_noticed_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..3);
    let used = journal.status().bytes;
    journal.close_blocking().unwrap();
    drop(journal);
    overwrite(&segments(dir.path())[0], used - 20, b"damage");
    let journal = open(dir.path());
    assert_eq!(journal.recovery().damage.len(), 1, "{}", journal.recovery());
    assert_eq!(journal.durable_end(), Offset::new(3));
    assert!(
        matches!(read(&journal).last(), Some(Entry::Gap { from, to, .. }) if (from.get(), to.get()) == (2, 3))
    );
}

#[test]
fn a_segment_removed_by_hand_is_reported_as_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..200);
    drop(journal);
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    let journal = open(dir.path());
    assert_eq!(journal.recovery().damage.len(), 1);
    assert_eq!(
        read(&journal)
            .iter()
            .filter(|entry| matches!(entry, Entry::Gap { .. }))
            .count(),
        1
    );
    assert_eq!(
        journal.status().damage_count,
        1,
        "found when opened and when read: one place"
    );
}

#[test]
fn a_cursor_survives_one_damaged_slot_and_refuses_to_guess_with_two() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..10);
    let mut cursor = journal.cursor("mailer").unwrap();
    assert!(matches!(
        journal.cursor("mailer"),
        Err(CursorError::InUse { .. })
    ));
    for position in 1..=4 {
        cursor
            .commit(Offset::new(position), &[position as u8])
            .unwrap();
    }
    assert!(matches!(
        cursor.commit(Offset::new(3), b""),
        Err(CursorError::OutOfRange { .. })
    ));
    assert!(matches!(
        cursor.commit(Offset::new(11), b""),
        Err(CursorError::OutOfRange { .. })
    ));
    cursor.reset(Offset::new(2), b"again").unwrap();
    cursor.commit(Offset::new(6), b"six").unwrap();
    drop((cursor, journal));

    let (a, b) = (
        dir.path().join("cursors/mailer.a"),
        dir.path().join("cursors/mailer.b"),
    );
    overwrite(&b, 20, &[0xff; 4]);
    let journal = open(dir.path());
    let cursor = journal.cursor("mailer").unwrap();
    assert!(cursor.damaged_slot().is_some());
    let stands = (cursor.position().get(), cursor.state().to_vec());
    assert!(
        [(6, b"six".to_vec()), (2, b"again".to_vec())].contains(&stands),
        "{stands:?}"
    );
    drop((cursor, journal));

    overwrite(&a, 20, &[0xff; 4]);
    let journal = open(dir.path());
    assert_eq!(journal.recovery().damaged_cursors, ["mailer"]);
    let before = fs::read(&a).unwrap();
    match journal.cursor("mailer") {
        Err(CursorError::Damaged { files, .. }) => {
            assert!(files.contains("mailer.a") && files.contains("mailer.b"))
        }
        other => panic!("{:?}", other.map(|cursor| cursor.position())),
    }
    assert_eq!(fs::read(&a).unwrap(), before, "untouched");
    journal.forget_cursor("mailer").unwrap();
    assert_eq!(journal.cursor("mailer").unwrap().position(), Offset::ZERO);
    for name in ["", "a/b", "ü", &"x".repeat(65)] {
        assert!(
            matches!(journal.cursor(name), Err(CursorError::Name { .. })),
            "{name}"
        );
    }
}

#[test]
fn retention_waits_for_every_cursor_and_readers_hear_what_expired() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        retain: Retention {
            bytes: Some(40_000),
            age: None,
        },
        ..small()
    };
    let journal = Journal::open(dir.path(), options).unwrap();
    let mut cursor = journal.cursor("slow").unwrap();
    fill(&journal, 0..500);
    assert_eq!(journal.start(), Offset::ZERO, "held by the cursor");
    assert_eq!(journal.backlog().events, 500);
    cursor.commit(Offset::new(490), b"").unwrap();
    fill(&journal, 500..600);
    assert!(
        journal.start() > Offset::new(300) && journal.start() <= Offset::new(490),
        "{}",
        journal.start()
    );
    let first = journal
        .reader(Offset::ZERO)
        .unwrap()
        .next(1)
        .unwrap()
        .entries
        .remove(0);
    let expired = Entry::Gap {
        from: Offset::ZERO,
        to: journal.start(),
        reason: GapReason::Expired,
    };
    assert_eq!(first, expired);
    cursor.commit(Offset::new(600), b"").unwrap();
    assert_eq!((journal.backlog().events, journal.backlog().bytes), (0, 0));
}

#[test]
fn limits_refuse_and_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        max_record_bytes: 1000,
        max_pending_bytes: 2000,
        ..small()
    };
    let journal = Journal::open(dir.path(), options).unwrap();
    assert_eq!(
        journal.append_blocking(Record::new("", 0, 0, 0)),
        Err(AppendError::NoEvents)
    );
    let large = Record::new(vec![0; 1001], 1, 0, 0);
    assert_eq!(
        journal.append_blocking(large),
        Err(AppendError::TooLarge {
            bytes: 1001,
            limit: 1000
        })
    );
    let appends: Vec<_> = (0..100)
        .map(|_| journal.append(Record::new(vec![0; 900], 1, 0, 0)))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let answers: Vec<_> = appends
        .into_iter()
        .map(|append| runtime.block_on(append))
        .collect();
    assert!(
        answers
            .iter()
            .any(|answer| matches!(answer, Err(AppendError::Full { limit: 2000, .. })))
    );
    assert!(answers.iter().any(Result::is_ok));
    assert!(journal.reader(Offset::new(1000)).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_are_woken_by_an_append_and_by_the_close() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let journal = journal.clone();
            tokio::spawn(async move { journal.wait_beyond(Offset::ZERO).await })
        })
        .collect();
    let blocked = {
        let journal = journal.clone();
        std::thread::spawn(move || journal.wait_beyond_blocking(Offset::ZERO, None))
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    journal.append(record(0)).await.unwrap();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), Ok(Offset::new(1)));
    }
    assert_eq!(blocked.join().unwrap(), Ok(Offset::new(1)));
    let late = tokio::spawn({
        let journal = journal.clone();
        async move { journal.wait_beyond(Offset::new(1)).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    journal.close().await.unwrap();
    assert_eq!(late.await.unwrap(), Err(Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_commit_in_few_groups_and_everyone_gets_an_own_place() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let tasks: Vec<_> = (0..64_u64)
        .map(|task| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let mut places = Vec::new();
                for number in 0..50 {
                    let body = format!("{task} {number}");
                    let position = journal
                        .append(Record::new(body.clone(), 1, 0, 0))
                        .await
                        .unwrap();
                    places.push((position.first, body));
                }
                places
            })
        })
        .collect();
    let mut places = Vec::new();
    for task in tasks {
        places.extend(task.await.unwrap());
    }
    places.sort();
    let stored: Vec<_> = read(&journal)
        .into_iter()
        .map(|entry| match entry {
            Entry::Record(record) => (
                record.first,
                String::from_utf8(record.body.to_vec()).unwrap(),
            ),
            Entry::Gap { .. } => panic!("a gap"),
        })
        .collect();
    assert_eq!(stored, places);
    assert!(journal.status().groups < 3200, "groups are shared");
}

#[test]
fn records_are_found_by_the_time_of_their_append() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, 0..150);
    for entry in read(&journal) {
        let Entry::Record(record) = entry else {
            panic!("a gap")
        };
        let found = journal.offset_at(record.appended_at).unwrap();
        assert!(found <= record.first);
        assert!(journal.offset_at(record.appended_at + 1).unwrap() > record.first);
    }
    assert_eq!(journal.offset_at(i64::MAX).unwrap(), Offset::new(150));
    assert_eq!(journal.offset_at(0).unwrap(), Offset::ZERO);
}

#[test]
fn with_an_interval_readers_see_only_what_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        fsync: FsyncPolicy::Interval(Duration::from_millis(200)),
        ..small()
    };
    let journal = Journal::open(dir.path(), options).unwrap();
    let position = journal.append_blocking(record(0)).unwrap();
    assert_eq!(
        journal.durable_end(),
        Offset::ZERO,
        "written and not synced"
    );
    assert_eq!(
        journal.wait_beyond_blocking(position.first, Some(Duration::from_secs(10))),
        Ok(Offset::new(1))
    );
}
