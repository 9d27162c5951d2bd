//! Thousands of random schedules on the simulated disk: appends, crashes, torn and reordered writes, failing syncs, short writes, full
//! disks, flipped bits, cursors, retention, rolls. Each follows from its seed alone.
//!
//! | file | purpose |
//! | --- | --- |
//! | `main.rs` | the loop over seeds, and the replay of one |
//! | `workload.rs` | actions: what happens to the journal |
//! | `model.rs` | predicted state and invariants: what must be true of it |
//!
//! `TELEMETRYX_SEED=n cargo test -p telemetryx-journal --test simulation` replays one seed with every action printed.
//! `TELEMETRYX_SCHEDULES=n` runs another number of schedules.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test tells what it did"
)]

mod model;
mod workload;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use workload::{Counts, Schedule};

const SCHEDULES: u64 = 10_000;

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// Schedules that once broke a promise.
///
/// - A damaged segment was removed as empty, and with it the proof that what its predecessor held behind its base had been
///   refused: a refused record stood where an acknowledged one had been.
/// - An empty segment was removed although the full disk had no room to mark the end of the one before it, and with it the proof
///   that what stood there behind damage had been durable: acknowledged events were cut.
/// - A close called itself clean although a failed sync had lost what was acknowledged without one, and the full disk had no room for
///   the segment that would have shown the loss to the next recovery.
/// - Refused records behind damage were kept in front of the end mark, where the next recovery took them for acknowledged ones.
/// - Bytes of a segment of which not even the tag was left were reported as cut, and were not.
/// - The same of an empty segment that was kept: its cut was not synced.
const ONCE_BROKEN: [u64; 6] = [
    832_099_376_538_053,
    934_358_050_602_683,
    361_941_457_669_453,
    11_659_794_234_332,
    403_973_977_512_056,
    816_764_294_885_883,
];

#[test]
fn schedules_that_once_broke_a_promise_keep_it() {
    for seed in ONCE_BROKEN {
        Schedule::new(seed, false).run();
    }
}

#[test]
fn every_schedule_keeps_every_promise() {
    if let Some(seed) = number_from_env("TELEMETRYX_SEED") {
        Schedule::new(seed, true).run();
        return;
    }
    let schedules = number_from_env("TELEMETRYX_SCHEDULES").unwrap_or(SCHEDULES);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let base = u64::from(now.subsec_nanos()) << 20 | (now.as_secs() & 0xfffff);
    println!("{schedules} schedules from base seed {base}");
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let counts = std::thread::scope(|scope| {
        let worker = || {
            let mut counts = Counts::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= schedules {
                    return counts;
                }
                let seed = base.wrapping_add(number);
                match catch_unwind(AssertUnwindSafe(|| Schedule::new(seed, false).run())) {
                    Ok(more) => counts.add(&more),
                    Err(panic) => {
                        next.store(schedules, Ordering::Relaxed);
                        println!("FAILED: replay with TELEMETRYX_SEED={seed}");
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut counts = Counts::default();
        for handle in handles {
            match handle.join() {
                Ok(more) => counts.add(&more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        counts
    });
    let took = started.elapsed();
    let pace = schedules as f64 / took.as_secs_f64();
    println!("{counts:?}\n{took:.1?}, {pace:.0} schedules/s");
    if schedules >= SCHEDULES {
        counts.assert_everything_happened();
    }
}
