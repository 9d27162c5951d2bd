//! `telemetryx crash-test`: does this machine keep the promise?
//!
//! Starts this same program on a scratch directory of the user's own disk, loads it with events whose ids are known,
//! kills it at random moments again and again, and then holds what was acknowledged against what is stored and counted.
//!
//! | file | what |
//! | --- | --- |
//! | `crash_test.rs` | options and the report for people |
//! | `crash_test/rounds.rs` | load, kill, start again; also used by `tests/crash.rs` |
//! | `crash_test/senders.rs` | a load for each protocol |
//! | `crash_test/service.rs` | the service as a child process, and the questions asked of it |
//! | `crash_test/verdict.rs` | acknowledged against stored and counted |
//!
//! A kill takes the process, not the machine: it proves what the program does, not what the disk does with a power cut.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

mod rounds;
mod senders;
mod service;
mod verdict;

pub use self::rounds::{CrashPlan, run_rounds};
pub use self::service::CrashTestError;
pub use self::verdict::{Counts, CrashReport};

use super::load::{Protocol, thousands};

/// How the service is ended in each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CrashSignal {
    /// SIGKILL: it is gone at once.
    Kill,
    /// SIGTERM: it finishes what is under way and exits 0.
    Term,
    /// One or the other, at random.
    Mixed,
}

/// Kill the service again and again under load, and count what was lost.
#[derive(Debug, Clone, clap::Args)]
pub struct CrashTestOptions {
    /// How often the service is ended and started again.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: u32,
    /// Where to put the scratch directory; choose the disk that the service will use.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Choose the moments as an earlier run did, which printed this number.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// How to end the service.
    #[arg(long, value_enum, default_value_t = CrashSignal::Kill)]
    pub signal: CrashSignal,
    /// Speak only this; may be repeated [default: all of them at once].
    #[arg(long, value_enum)]
    pub protocol: Vec<Protocol>,
    /// Events a second to send meanwhile, over all protocols; 0 is as fast as answers come.
    #[arg(long, value_name = "EVENTS", default_value_t = 20_000)]
    pub rate: u64,
}

/// Runs the rounds and prints what was acknowledged, recovered, lost and doubled. Fails if anything was lost, doubled or
/// miscounted; then the scratch directory stays.
pub fn run(options: &CrashTestOptions) -> ExitCode {
    let seed = options.seed.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos() as u64
            % 1_000_000_000
    });
    let dir = options.dir.join(format!(
        "telemetryx-crash-test-{seed}-{}",
        std::process::id()
    ));
    match run_in(options, seed, &dir) {
        Ok(report) => conclude(&report, seed, &dir),
        Err(error) => {
            eprintln!("crash-test: {error}");
            eprintln!("seed {seed}; everything is kept in {}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn run_in(
    options: &CrashTestOptions,
    seed: u64,
    dir: &std::path::Path,
) -> Result<CrashReport, CrashTestError> {
    let executable = std::env::current_exe().map_err(|source| CrashTestError::Prepare {
        what: "find this program".to_owned(),
        source,
    })?;
    let mut plan = CrashPlan {
        rounds: options.rounds,
        signal: options.signal,
        rate: options.rate,
        ..CrashPlan::new(executable, dir.to_owned(), seed)
    };
    if !options.protocol.is_empty() {
        plan.protocols.clone_from(&options.protocol);
    }
    println!(
        "seed {seed}, {} rounds in {}",
        options.rounds,
        dir.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| CrashTestError::Prepare {
        what: "start".to_owned(),
        source,
    })?;
    runtime.block_on(run_rounds(&plan, |line| println!("{line}")))
}

fn conclude(report: &CrashReport, seed: u64, dir: &std::path::Path) -> ExitCode {
    println!();
    println!(
        "{:<12}{:>14}{:>14}{:>14}{:>8}{:>8}{:>20}",
        "", "sent", "acknowledged", "recovered", "lost", "doubled", "stored, answer lost"
    );
    for (protocol, counts) in &report.by_protocol {
        print_counts(&protocol.to_string(), counts);
    }
    print_counts("all", &report.total);
    println!("longest start {} ms", report.start_longest.as_millis());
    for fault in &report.faults {
        println!("fault: {fault}");
    }
    if !report.passed() {
        println!(
            "FAILED; seed {seed}; everything is kept in {}",
            dir.display()
        );
        return ExitCode::FAILURE;
    }
    if let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
    println!("passed");
    ExitCode::SUCCESS
}

fn print_counts(name: &str, counts: &Counts) {
    println!(
        "{name:<12}{:>14}{:>14}{:>14}{:>8}{:>8}{:>20}",
        thousands(counts.sent),
        thousands(counts.acknowledged),
        thousands(counts.recovered),
        thousands(counts.lost),
        thousands(counts.doubled),
        thousands(counts.stored_unacknowledged)
    );
}
