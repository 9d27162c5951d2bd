//! The rounds: load without end, a kill at a random moment, a new start, again and again; then the verdict.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::CrashSignal;
use super::senders::Sender;
use super::service::{CrashTestError, ServiceUnderTest};
use super::verdict::CrashReport;
use crate::command::load::Protocol;

/// One round in this many is killed while it still starts.
const EARLY_KILL_EVERY: u64 = 5;
/// Such a round's kill comes within this time of the start.
const EARLY_KILL_MILLIS_MAX: u64 = 60;
/// Routes get this long to deliver everything in the end.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(300);

/// One crash test.
#[derive(Debug, Clone)]
pub struct CrashPlan {
    /// The binary to start, with `serve`.
    pub executable: PathBuf,
    /// Scratch directory; made, and left for the caller to remove.
    pub dir: PathBuf,
    /// Chooses the moments and signals.
    pub seed: u64,
    /// How often the service is ended.
    pub rounds: u32,
    /// How it is ended.
    pub signal: CrashSignal,
    /// What is spoken, all at once.
    pub protocols: Vec<Protocol>,
    /// Events a second over all protocols; 0: as fast as answers come.
    pub rate: u64,
    /// Events a request, where a protocol has batches.
    pub batch: usize,
    /// Connections that send, over all protocols.
    pub connections: usize,
    /// Longest time from ready to the end of a round.
    pub round_max: Duration,
}

impl CrashPlan {
    /// 20 rounds of SIGKILL under load of every protocol.
    pub fn new(executable: PathBuf, dir: PathBuf, seed: u64) -> Self {
        Self {
            executable,
            dir,
            seed,
            rounds: 20,
            signal: CrashSignal::Kill,
            protocols: Protocol::value_variants().to_vec(),
            rate: 20_000,
            batch: 10,
            connections: 16,
            round_max: Duration::from_millis(1500),
        }
    }
}

/// Runs all rounds and comes to the verdict; `say` gets a line for each step.
pub async fn run_rounds(
    plan: &CrashPlan,
    mut say: impl FnMut(&str),
) -> Result<CrashReport, CrashTestError> {
    let mut service = ServiceUnderTest::new(plan.executable.clone(), plan.dir.clone())?;
    let mut report = CrashReport::default();
    let mut random = Random(plan.seed);

    service.start()?;
    report.started(service.wait_until_ready().await?);
    let start = |protocol: &Protocol| Sender::start(plan, *protocol, &service);
    let senders: Vec<_> = plan.protocols.iter().map(start).collect();
    for round in 1..=plan.rounds {
        let ended = end_round(plan, &mut service, &mut random, &mut report).await?;
        let count: u64 = senders.iter().map(Sender::acknowledged).sum();
        say(&format!(
            "round {round:>3}: {ended}, {count} events acknowledged so far"
        ));
        service.start()?;
        // Sometimes the next kill hits a service that is still reading its journal back.
        if random.below(EARLY_KILL_EVERY) == 0 && plan.signal != CrashSignal::Term {
            let millis = random.below(EARLY_KILL_MILLIS_MAX);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            service.kill().await?;
            report.kills += 1;
            say(&format!(
                "           SIGKILL again {millis} ms after the start"
            ));
            service.start()?;
        }
        report.started(service.wait_until_ready().await?);
        check_books(&service, &format!("after round {round}"), &mut report).await?;
    }
    let sent = futures_util::future::join_all(senders.into_iter().map(Sender::stop)).await;
    say("waiting until every route has delivered everything");
    drain(&mut service).await?;
    check_books(&service, "at the end", &mut report).await?;
    report.judge(&service, &sent).await?;
    service.terminate().await?;
    Ok(report)
}

async fn end_round(
    plan: &CrashPlan,
    service: &mut ServiceUnderTest,
    random: &mut Random,
    report: &mut CrashReport,
) -> Result<String, CrashTestError> {
    let millis = random.below(plan.round_max.as_millis() as u64);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    let terminate = match plan.signal {
        CrashSignal::Kill => false,
        CrashSignal::Term => true,
        CrashSignal::Mixed => random.below(2) == 0,
    };
    if !terminate {
        service.kill().await?;
        report.kills += 1;
        return Ok(format!("SIGKILL {millis} ms after ready"));
    }
    let begun = Instant::now();
    let status = service.terminate().await?;
    report.terminations += 1;
    match status {
        Some(status) if status.success() => {}
        Some(status) => report
            .faults
            .push(format!("SIGTERM ended in {status}, not in exit 0")),
        None => report
            .faults
            .push("SIGTERM did not end the service in time".to_owned()),
    }
    Ok(format!(
        "SIGTERM {millis} ms after ready, gone after {} ms",
        begun.elapsed().as_millis()
    ))
}

/// At every moment each route's books must balance.
async fn check_books(
    service: &ServiceUnderTest,
    when: &str,
    report: &mut CrashReport,
) -> Result<(), CrashTestError> {
    for (route, books) in service.ledger().await?.routes {
        if books.difference != 0 {
            report.faults.push(format!(
                "ledger of route {route} is off by {} {when}",
                books.difference
            ));
        }
    }
    for line in service.differences_in_metrics().await? {
        report.faults.push(format!("/metrics {when}: {line}"));
    }
    Ok(())
}

async fn drain(service: &mut ServiceUnderTest) -> Result<(), CrashTestError> {
    let begun = Instant::now();
    loop {
        service.expect_running()?;
        let pending: u64 = service
            .ledger()
            .await?
            .routes
            .values()
            .map(|books| books.pending)
            .sum();
        if pending == 0 {
            return Ok(());
        }
        if begun.elapsed() > DRAIN_WAIT_MAX {
            let why = format!(
                "{pending} events still pending after {} s",
                DRAIN_WAIT_MAX.as_secs()
            );
            return Err(CrashTestError::Question {
                path: "/ledger".to_owned(),
                why,
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit.max(1)
    }
}
