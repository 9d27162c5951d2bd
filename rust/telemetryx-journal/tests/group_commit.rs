//! Many tasks that each wait for the disk share its syncs. How fast that is, `benches/journal.rs` measures.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use telemetryx_journal::{Journal, JournalOptions, Record};

const TASKS: u64 = 64;
const EACH: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_few_syncs_and_each_gets_an_offset_of_its_own() {
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let journal = Journal::open(dir.path(), JournalOptions::default()).unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let mut offsets = Vec::new();
                for _ in 0..EACH {
                    let position = journal.append(Record::new("event", 1, 0, 0)).await.unwrap();
                    assert!(
                        journal.durable_end() > position.first,
                        "durable when it resolves"
                    );
                    offsets.push(position.first.get());
                }
                offsets
            })
        })
        .collect();
    let mut offsets = Vec::new();
    for task in tasks {
        offsets.extend(task.await.unwrap());
    }
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq(0..TASKS * EACH));
    let syncs = journal.status().syncs;
    assert!(
        syncs * 4 < TASKS * EACH,
        "{syncs} syncs for {} appends",
        TASKS * EACH
    );
}
