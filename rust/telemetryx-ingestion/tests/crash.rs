//! The promise, under real kills: what was acknowledged is stored once and counted once, however the service ends.
//!
//! Proves what the program does when its process goes away; what a power cut does to a disk is the simulated storage's
//! part, in `telemetryx-journal`. The moments are random: a failure prints the seed, `TELEMETRYX_SEED=…` chooses it again.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use telemetryx_ingestion::command::crash_test::{
    Counts, CrashPlan, CrashReport, CrashSignal, run_rounds,
};
use telemetryx_testkit::TestSeed;

fn run(change: impl FnOnce(CrashPlan) -> CrashPlan) -> CrashReport {
    let seed = TestSeed::new().seed();
    let scratch = tempfile::tempdir().unwrap();
    let plan = CrashPlan::new(
        env!("CARGO_BIN_EXE_telemetryx").into(),
        scratch.path().join("crash"),
        seed,
    );
    let plan = change(CrashPlan {
        rate: 10_000,
        ..plan
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let report = runtime.block_on(run_rounds(&plan, |line| println!("{line}")));
    let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert!(report.passed(), "seed {seed}: {report:#?}");
    let acknowledged = |(_, counts): &(_, Counts)| counts.acknowledged > 0;
    assert!(
        report.by_protocol.iter().all(acknowledged),
        "seed {seed}: nothing was acknowledged: {report:#?}"
    );
    report
}

#[test]
fn twenty_kills_under_load_lose_and_double_nothing() {
    let report = run(|plan| CrashPlan {
        rounds: 20,
        signal: CrashSignal::Kill,
        ..plan
    });
    assert!(report.kills >= 20);
}

#[test]
fn sigterm_under_load_ends_cleanly_and_loses_nothing() {
    let report = run(|plan| CrashPlan {
        rounds: 6,
        signal: CrashSignal::Term,
        ..plan
    });
    assert_eq!((report.kills, report.terminations), (0, 6));
}

#[test]
fn kills_and_terms_at_full_load_lose_and_double_nothing() {
    run(|plan| CrashPlan {
        rounds: 6,
        signal: CrashSignal::Mixed,
        rate: 0,
        batch: 1,
        ..plan
    });
}
