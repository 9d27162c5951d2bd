//! The load the service puts on the journal: many tasks, small records, each waiting for the disk. A small run goes with the tests; the
//! figures come from `cargo test --release -p telemetryx-journal --test throughput -- --ignored --nocapture`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test tells what it did"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use telemetryx_journal::{Journal, JournalOptions, Record};

async fn load(tasks: u32, lasting: Duration, body: usize) -> (f64, Vec<Duration>) {
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let journal = Journal::open(dir.path(), JournalOptions::default()).unwrap();
    let body = bytes::Bytes::from(vec![b'x'; body]);
    let started = Instant::now();
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            let (journal, body) = (journal.clone(), body.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while started.elapsed() < lasting {
                    let before = Instant::now();
                    journal
                        .append(Record::new(body.clone(), 1, 0, 0))
                        .await
                        .unwrap();
                    latencies.push(before.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for handle in handles {
        latencies.extend(handle.await.unwrap());
    }
    let pace = latencies.len() as f64 / started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    assert_eq!(journal.durable_end().get(), latencies.len() as u64);
    (pace, latencies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_few_syncs() {
    let (pace, _) = load(64, Duration::from_millis(300), 200).await;
    assert!(pace > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_appends_from_many_tasks() {
    for (tasks, body) in [(1, 200), (64, 200), (256, 200), (64, 19_300)] {
        let (pace, latencies) = load(tasks, Duration::from_secs(3), body).await;
        let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
        println!(
            "{tasks} tasks, {body} bytes: {pace:.0}/s, p50 {:?}, p99 {:?}, max {:?}",
            at(50),
            at(99),
            at(100)
        );
    }
}
