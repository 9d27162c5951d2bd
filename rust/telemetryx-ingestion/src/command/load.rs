//! `telemetryx load`: sends events and says how fast and how well they were taken in.
//!
//! | file | what |
//! | --- | --- |
//! | `load.rs` | options, progress line, report |
//! | `load/engine.rs` | connections and their schedule |
//! | `load/template.rs` | a request built once and patched in place |
//! | `load/http.rs` | the least HTTP/1.1 |
//! | `load/tally.rs` | counts and latencies |
//! | `load/stats_lag.rs` | `--wait-stats`: from a 202 to being counted |
//!
//! It runs on one thread: on a small machine it shares the cores with the server it measures.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) mod engine;
pub(crate) mod http;
mod stats_lag;
pub(crate) mod tally;
pub(crate) mod template;

pub use self::template::BodyFormat;

use self::engine::{Acknowledged, Load, LoadPlan, OnAcknowledged};
use self::http::Target;
use self::stats_lag::{Probers, StatsLag};
use self::tally::Tally;
use self::template::Shape;

/// How often a line of progress is written where it cannot be rewritten in place.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// A longer id than this is refused by the service.
const ID_PREFIX_BYTES_MAX: usize = 115;

/// Send events to a service and measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadOptions {
    /// Where to send; without a path, /ingest is added.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Events a second over all connections; 0 is as fast as answers come.
    #[arg(long, value_name = "EVENTS", default_value_t = 1000)]
    pub rate: u64,
    /// How long to send, like 10s, 500ms or 2m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Send this long before the counting starts.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// Events a request.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch: u32,
    /// Connections kept open, each with one request under way.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// Bytes of each event's payload [default: what makes a JSON event 189 bytes].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub payload_bytes: Option<u32>,
    /// Different event types.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub type_count: u32,
    /// Different sources.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub source_count: u32,
    /// How bodies are written.
    #[arg(long, value_enum, default_value_t = BodyFormat::Json)]
    pub format: BodyFormat,
    /// Give events the ids PREFIX-<number of 12 digits>; without it the service assigns ids.
    #[arg(long, value_name = "PREFIX", value_parser = parse_id_prefix)]
    pub ids: Option<String>,
    /// Append the ids of acknowledged events, one a line, each after its 202 arrived.
    #[arg(long, value_name = "FILE", requires = "ids")]
    pub ack_log: Option<PathBuf>,
    /// Also measure the time from a 202 until the event is counted in /stats.
    #[arg(long)]
    pub wait_stats: bool,
    /// End with one line of JSON on standard output, for programs.
    #[arg(long)]
    pub json: bool,
    /// Connect again after errors in place of giving the connection up.
    #[arg(long)]
    pub keep_going: bool,
}

/// Runs the load. Fails if nothing was accepted, or if a connection failed and `--keep-going` was not given.
pub fn run(options: &LoadOptions) -> ExitCode {
    match run_load(options) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("load: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run_load(options: &LoadOptions) -> Result<ExitCode, String> {
    let target = Target::parse(&options.url, "/ingest")?;
    let plan = plan_load(options, target)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let (outcome, interrupted) = runtime.block_on(load_and_watch(options, plan));
    outcome.print(options.json);
    if interrupted {
        return Ok(ExitCode::from(130));
    }
    let failed =
        outcome.tally.accepted == 0 || (outcome.tally.errors_count() > 0 && !options.keep_going);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn plan_load(options: &LoadOptions, target: Target) -> Result<LoadPlan, String> {
    let shape = Shape {
        format: options.format,
        batch: options.batch as usize,
        id_prefix: options.ids.clone(),
        payload_bytes: options.payload_bytes.map(|bytes| bytes as usize),
        type_count: options.type_count,
        source_count: options.source_count,
    };
    let on_acknowledged = options
        .ack_log
        .clone()
        .map(|path| open_ack_log(path, shape.clone()))
        .transpose()?;
    Ok(LoadPlan {
        target,
        shape,
        rate: options.rate,
        connections: options.connections as usize,
        warm_up: options.warm_up,
        duration: Some(options.duration),
        keep_going: options.keep_going,
        on_acknowledged,
    })
}

fn open_ack_log(path: PathBuf, shape: Shape) -> Result<OnAcknowledged, String> {
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let log = Mutex::new((file, Vec::new()));
    Ok(Arc::new(move |request: &Acknowledged| {
        let (file, lines) = &mut *log.lock();
        lines.clear();
        for id in request.numbers().filter_map(|number| shape.id(number)) {
            lines.extend_from_slice(id.as_bytes());
            lines.push(b'\n');
        }
        if let Err(error) = file.write_all(lines) {
            // Going on would report acknowledged events as never sent.
            eprintln!("load: cannot write {}: {error}", path.display());
            std::process::exit(1);
        }
    }))
}

async fn load_and_watch(options: &LoadOptions, plan: LoadPlan) -> (Outcome, bool) {
    let target = plan.target.clone();
    let started = Instant::now();
    let load = Load::start(plan);
    let measure_from = load.measure_from();
    let probers = options
        .wait_stats
        .then(|| Probers::start(&target, measure_from));
    let interrupted = watch(&load, measure_from + options.duration).await;

    let stats_lag = match probers {
        Some(probers) => Some(probers.stop().await),
        None => None,
    };
    let tally = if interrupted {
        load.stop().await
    } else {
        load.finished().await
    };
    let elapsed = tally.last_answer().map_or(Duration::ZERO, |last| {
        last.saturating_duration_since(measure_from)
    });
    let outcome = Outcome {
        tally,
        elapsed,
        cpu: process_cpu_time(),
        wall: started.elapsed(),
        stats_lag,
    };
    (outcome, interrupted)
}

/// Shows progress until the time is up, every connection has failed, or the user interrupts (then true).
async fn watch(load: &Load, until: Instant) -> bool {
    let mut progress = Progress::new(load.measure_from());
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    let interrupted = loop {
        tokio::select! {
            _ = &mut interrupt => break true,
            () = tokio::time::sleep_until(until) => break false,
            _ = tick.tick() => {
                progress.show(load);
                if load.connections_open() == 0 {
                    break false;
                }
            }
        }
    };
    progress.end();
    interrupted
}

/// The line that tells how it goes.
struct Progress {
    started: Instant,
    shown: Instant,
    in_place: bool,
}

impl Progress {
    fn new(started: Instant) -> Self {
        Self {
            started,
            shown: started,
            in_place: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, load: &Load) {
        let now = Instant::now();
        // Nothing counts while it warms up.
        let least = if self.in_place {
            Duration::ZERO
        } else {
            LINE_EVERY - Duration::from_millis(100)
        };
        if now.saturating_duration_since(self.shown) <= least {
            return;
        }
        let mut tally = load.tally();
        let (accepted, p99) = tally.take_interval();
        let rate = accepted as f64 / (now - self.shown).as_secs_f64();
        self.shown = now;
        let line = format!(
            "{:>4} s  {:>12} events/s  p99 {:>10}  {} accepted, {} errors, {} connections",
            now.saturating_duration_since(self.started).as_secs(),
            thousands(rate as u64),
            millis(p99.as_micros() as u64),
            thousands(tally.accepted),
            tally.errors_count(),
            load.connections_open()
        );
        if self.in_place {
            eprint!("\r\x1b[K{line}")
        } else {
            eprintln!("{line}")
        }
    }

    fn end(&self) {
        if self.in_place {
            eprint!("\r\x1b[K");
        }
    }
}

/// The figures at the end.
struct Outcome {
    tally: Tally,
    /// From the first counted moment to the last answer.
    elapsed: Duration,
    cpu: Option<Duration>,
    wall: Duration,
    stats_lag: Option<StatsLag>,
}

impl Outcome {
    fn per_second(&self, count: u64) -> f64 {
        if self.elapsed.is_zero() {
            0.0
        } else {
            count as f64 / self.elapsed.as_secs_f64()
        }
    }

    /// The share of one core that the generator took.
    fn cpu_share(&self) -> Option<f64> {
        self.cpu
            .map(|cpu| cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9))
    }

    fn print(&self, json: bool) {
        if json {
            println!("{}", self.to_json());
            return;
        }
        let tally = &self.tally;
        for (status, count) in tally.statuses() {
            println!("status {status}    {:>14}", thousands(*count));
        }
        for (error, count) in tally.errors() {
            println!("error         {:>14}  {error}", thousands(*count));
        }
        println!(
            "events/s      {:>14}",
            thousands(self.per_second(tally.accepted) as u64)
        );
        println!(
            "requests/s    {:>14}",
            thousands(self.per_second(tally.requests()) as u64)
        );
        println!("latency        {}", quantiles(&tally.latency));
        if let Some(lag) = &self.stats_lag {
            println!(
                "202 to /stats  {} ({} probes)",
                quantiles(&lag.micros),
                lag.micros.len()
            );
            if let Some(failure) = &lag.failure {
                println!("               a prober gave up: {failure}");
            }
        }
        if let Some(share) = self.cpu_share() {
            println!("generator CPU {:>13.0}%  of one core", share * 100.0);
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let tally = &self.tally;
        let statuses: serde_json::Map<_, _> = tally
            .statuses()
            .iter()
            .map(|(status, count)| (status.to_string(), (*count).into()))
            .collect();
        let mut report = serde_json::json!({
            "statuses": statuses,
            "errors": tally.errors(),
            "accepted": tally.accepted,
            "requests": tally.requests(),
            "seconds": self.elapsed.as_secs_f64(),
            "events_per_second": self.per_second(tally.accepted),
            "requests_per_second": self.per_second(tally.requests()),
            "latency_ms": quantiles_json(&tally.latency),
            "generator_cpu": self.cpu_share(),
        });
        if let (Some(lag), Some(object)) = (&self.stats_lag, report.as_object_mut()) {
            object.insert("stats_lag_ms".to_owned(), quantiles_json(&lag.micros));
            object.insert("stats_lag_failure".to_owned(), lag.failure.clone().into());
        }
        report
    }
}

fn quantiles(micros: &Histogram<u64>) -> String {
    let at = |quantile| millis(micros.value_at_quantile(quantile));
    format!(
        "p50 {}   p95 {}   p99 {}   max {}",
        at(0.50),
        at(0.95),
        at(0.99),
        millis(micros.max())
    )
}

fn quantiles_json(micros: &Histogram<u64>) -> serde_json::Value {
    let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
    serde_json::json!({
        "p50": at(0.50), "p95": at(0.95), "p99": at(0.99), "max": micros.max() as f64 / 1000.0,
        "mean": micros.mean() / 1000.0, "count": micros.len(),
    })
}

fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// CPU time of this process, from `/proc` (so: Linux only).
fn process_cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which is in parentheses: state is field 3, user and system time are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let ticks = times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
    ))
}

/// Reads `10s`, `500ms`, `2m` or `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_start = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_start);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time needs a unit, like 500ms, 10s, 2m or 1h".to_owned()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{number}` is not a number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

fn parse_id_prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > ID_PREFIX_BYTES_MAX {
        return Err(format!("needs 1 to {ID_PREFIX_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: LoadOptions,
    }

    fn parse(arguments: &[&str]) -> Result<LoadOptions, clap::Error> {
        let arguments = std::iter::once("load").chain(arguments.iter().copied());
        Command::try_parse_from(arguments).map(|command| command.options)
    }

    #[test]
    fn options_are_read_as_the_contract_writes_them() {
        let arguments =
            "--url http://h:1 --rate 0 --duration 10s --batch 100 --connections 64 --format ndjson";
        let options = parse(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(
            (options.rate, options.batch, options.connections),
            (0, 100, 64)
        );
        assert_eq!(options.duration, Duration::from_secs(10));
        assert_eq!(options.format, BodyFormat::Ndjson);
    }

    #[test]
    fn ack_log_without_ids_is_refused() {
        assert!(parse(&["--ack-log", "file"]).is_err());
        assert!(parse(&["--ack-log", "file", "--ids", "a"]).is_ok());
        assert!(parse(&["--batch", "0"]).is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        assert!(parse_duration("10").unwrap_err().contains("unit"));
        assert!(parse_duration("s").is_err());
    }

    #[test]
    fn numbers_are_grouped_for_reading() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn own_cpu_time_is_known() {
        assert!(process_cpu_time().is_some());
    }
}
