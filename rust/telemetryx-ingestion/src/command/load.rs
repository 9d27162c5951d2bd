//! `telemetryx load`: sends events and says how fast and how well they were taken in.
//!
//! | file | what |
//! | --- | --- |
//! | `load.rs` | options, and what they mean |
//! | `load/report.rs` | progress line, figures at the end |
//! | `load/engine.rs` | connections and their schedule |
//! | `load/protocol.rs` | what can be spoken |
//! | `load/template.rs` | a request built once and patched in place; `digits.rs`: what is patched in; `otlp.rs`, `ring.rs`: bodies |
//! | `load/target.rs` | where requests go, with TLS or without |
//! | `load/http.rs` | the least HTTP/1.1; `grpc.rs`, `framed.rs`: of the others |
//! | `load/verdict.rs` | what an answer says about its events |
//! | `load/tally.rs` | counts and latencies |
//! | `load/stats_lag.rs` | `--wait-stats`: from a 202 to being counted |
//!
//! It runs on one thread: on a small machine it shares the cores with the server it measures.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

mod digits;
pub(crate) mod engine;
mod framed;
mod grpc;
pub(crate) mod http;
mod otlp;
mod protocol;
mod report;
mod ring;
mod stats_lag;
pub(crate) mod tally;
pub(crate) mod target;
pub(crate) mod template;
mod verdict;

pub use self::protocol::Protocol;
pub(crate) use self::report::thousands;
pub use self::template::BodyFormat;

use self::engine::{Acknowledged, Load, LoadPlan, OnAcknowledged};
use self::report::{Outcome, Progress, process_cpu_time};
use self::stats_lag::Probers;
use self::target::Target;
use self::template::Shape;
use super::tls::TlsOptions;

/// How often it is asked whether all connections have ended.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// A longer id than this is refused by the service.
const ID_PREFIX_BYTES_MAX: usize = 115;

/// Send events to a service and measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadOptions {
    /// Where to send, by default to this machine at the protocol's usual port; without a path, that of the protocol is
    /// added.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
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
    /// What is spoken [default: what the URL says: tcp:// is tcp, grpc:// is otlp-grpc, a path of /v1/logs is otlp-http,
    /// of /webhooks/ring is ring, all else is http; https://, tls:// and grpcs:// are the same over TLS]. Statuses of gRPC are shown as those of HTTP with the same meaning.
    #[arg(long, value_enum)]
    pub protocol: Option<Protocol>,
    /// How bodies are written, with `--protocol http` and `tcp`.
    #[arg(long, value_enum, default_value_t = BodyFormat::Json)]
    pub format: BodyFormat,
    /// Requests under way on each connection, with `--protocol tcp`.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,
    /// End after this many requests, if the time is not up before.
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// A line for each request's head, like 'x-api-key: secret'; may be repeated.
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    pub header: Vec<String>,
    /// The key that signs requests, with `--protocol ring`.
    #[arg(long, value_name = "KEY")]
    pub hmac_key: Option<String>,
    /// Address of this machine to connect from.
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Give events the ids PREFIX-<number of 12 digits>; without it the service assigns ids.
    #[arg(long, value_name = "PREFIX", value_parser = parse_id_prefix)]
    pub ids: Option<String>,
    /// Append the ids of acknowledged events, one a line, each after its 202 arrived.
    #[arg(long, value_name = "FILE", requires = "ids")]
    pub ack_log: Option<PathBuf>,
    /// Also measure the time from a 202 until the event is counted in /stats.
    #[arg(long)]
    pub wait_stats: bool,
    /// TLS, where the URL asks for it.
    #[command(flatten)]
    pub tls: TlsOptions,
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
    let plan = plan_load(options)?;
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

fn plan_load(options: &LoadOptions) -> Result<LoadPlan, String> {
    let url = match &options.url {
        Some(url) => url,
        None => options.protocol.unwrap_or(Protocol::Http).usual_url()?,
    };
    let (by_url, url) = Protocol::of_url(url);
    let protocol = options.protocol.unwrap_or(by_url);
    let tls = || options.tls.config(protocol.alpn());
    let target = Target::parse(&url, protocol.path(), tls)?;
    if !protocol.has_batches() && options.batch > 1 {
        return Err(format!("{protocol} has no batches: one event a request"));
    }
    if protocol == Protocol::Ring && options.hmac_key.is_none() {
        return Err("ring is signed: it needs --hmac-key".to_owned());
    }
    if protocol == Protocol::Tcp && options.format == BodyFormat::Ndjson {
        return Err("a frame has JSON or protobuf, no NDJSON".to_owned());
    }
    let shape = Shape {
        protocol,
        format: options.format,
        headers: options.header.clone(),
        hmac_key: options.hmac_key.clone().unwrap_or_default(),
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
        rate: options.rate,
        connections: options.connections as usize,
        from: options.from,
        in_flight: options.in_flight as usize,
        requests: options.requests,
        warm_up: options.warm_up,
        duration: Some(options.duration),
        keep_going: options.keep_going,
        on_acknowledged,
        ..LoadPlan::new(target, shape)
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
    let mut look = tokio::time::interval(LOOK_PAUSE);
    let interrupted = loop {
        tokio::select! {
            _ = &mut interrupt => break true,
            () = tokio::time::sleep_until(until) => break false,
            _ = tick.tick() => progress.show(load),
            _ = look.tick() => {
                if load.connections_open() == 0 {
                    break false;
                }
            }
        }
    };
    progress.end();
    interrupted
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

fn parse_header(text: &str) -> Result<String, String> {
    let is_line = |text: &str| !text.contains(['\r', '\n']);
    match text.split_once(':') {
        Some((name, _)) if !name.is_empty() && is_line(text) => Ok(text.to_owned()),
        _ => Err("needs a name, a colon and a value".to_owned()),
    }
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
    fn protocol_is_what_the_url_says_unless_it_is_named() {
        let plan = |arguments: &[&str]| plan_load(&parse(arguments).unwrap());
        let spoken = |arguments: &[&str]| {
            let LoadPlan { target, shape, .. } = plan(arguments).unwrap();
            (shape.protocol, target.address, target.path)
        };
        let is = |protocol, port: u16, path: &str| (protocol, format!("h:{port}"), path.to_owned());
        assert_eq!(
            spoken(&["--url", "http://h:1"]),
            is(Protocol::Http, 1, "/ingest")
        );
        assert_eq!(spoken(&["--url", "tcp://h:2"]), is(Protocol::Tcp, 2, "/"));
        assert_eq!(
            spoken(&["--url", "http://h:3/v1/logs"]),
            is(Protocol::OtlpHttp, 3, "/v1/logs")
        );
        assert_eq!(
            spoken(&["--url", "http://h:4", "--protocol", "otlp-http"]),
            is(Protocol::OtlpHttp, 4, "/v1/logs")
        );
        assert_eq!(
            spoken(&["--url", "grpc://h:5"]),
            is(Protocol::OtlpGrpc, 5, Protocol::OtlpGrpc.path())
        );
        for url in ["https://h", "tls://h:1", "grpcs://h:1"] {
            let message = plan(&["--url", url]).err().unwrap();
            assert_eq!(
                message,
                "https:// needs --ca-file: whose servers are trusted"
            );
        }
        let ring = ["--url", "http://h:6/webhooks/ring"];
        assert_eq!(
            plan(&ring).err().unwrap(),
            "ring is signed: it needs --hmac-key"
        );
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        assert!(parse_duration("10").unwrap_err().contains("unit"));
        assert!(parse_duration("s").is_err());
    }
}
