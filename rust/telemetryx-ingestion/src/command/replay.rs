//! `telemetryx replay`: delivers again what the journal still holds.
//!
//! The request goes into the control file; the service serves it beside the route's own reading, now or at its next
//! start. The route's position and books do not change.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rusqlite::Connection;

use super::operator::{
    DataDir, DataDirArgs, Failure, Moment, Progress, Unit, end, one_line, print,
};
use crate::config::{self, Config, RouteConfig};
use crate::control::{Part, ReplayState, replays};
use crate::sinks::{self, Emitter, SinkContext};

/// How often it looks how far the replay is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Every how many looks it asks whether the service still runs.
const LOOKS_PER_ASK: u32 = 15;
/// How like a name must be to be the one that was meant.
const LIKE: f64 = 0.7;

/// Deliver events again to one route, from an offset or a time on
///
/// For a sink that lost what it had. Redelivery is harmless: what the sink still has, it keeps once. The route's own
/// position, its books and the other routes do not change. If the service runs, this follows the replay to its end
/// (exit 0 when it is done, saying how many events were left out; 1 if it failed); if not, the replay runs at the next start.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// The route
    #[arg(long, value_name = "ROUTE")]
    route: String,
    /// The first event: an offset, or the time (RFC 3339) at or after which it was accepted
    #[arg(long, value_name = "T|OFFSET")]
    from: Moment,
    /// The event to stop before, given likewise [default: the end of the journal]
    #[arg(long, value_name = "T|OFFSET")]
    to: Option<Moment>,
    /// Do not follow it
    #[arg(long)]
    no_wait: bool,
}

/// Runs the command.
#[must_use]
pub fn run(args: ReplayArgs, config: Option<PathBuf>) -> ExitCode {
    end(act(args, config.as_deref()))
}

fn act(args: ReplayArgs, config: Option<&Path>) -> Result<ExitCode, Failure> {
    let config = Config::load(config, config::environment())?;
    let route = find_route(&config, &args.route)?;
    let data_dir = args
        .data_dir
        .data_dir
        .unwrap_or_else(|| config.data_dir.clone());
    refuse_if_harmful(route, &data_dir)?;
    let dir = DataDir::at(data_dir)?;
    let db = dir.control()?;
    let (first, behind) = range(&dir, args.from, args.to)?;
    if first == behind {
        print(b"There is nothing to replay: no event lies in that range.\n")?;
        return Ok(ExitCode::SUCCESS);
    }

    let part = Part {
        partition: 0,
        first,
        behind,
    };
    let id = replays::ask(&db, &args.route, &[part])?;
    let service = dir.service();
    let when = match service {
        Some(pid) => format!("the running service (process {pid}) begins within a second"),
        None => "no service runs on this directory; it runs at the next start".to_owned(),
    };
    let what = format!(
        "Replay {id}: {} events ({first} up to {behind}) to route `{}`; {when}.\n",
        behind - first,
        args.route
    );
    print(what.as_bytes())?;
    if args.no_wait || service.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    follow(&dir, &db, id)
}

fn find_route<'c>(config: &'c Config, name: &str) -> Result<&'c RouteConfig, Failure> {
    let known = || config.routes.iter().map(|route| route.name.as_str());
    if let Some(route) = config.routes.iter().find(|route| route.name == *name) {
        return Ok(route);
    }
    let nearest = known()
        .map(|known| (strsim::jaro_winkler(known, name), known))
        .filter(|(likeness, _)| *likeness > LIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, nearest)| format!("; did you mean `{nearest}`?"))
        .unwrap_or_default();
    let all = match known().collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "it has none".to_owned(),
        all => format!("it has {all}"),
    };
    Err(Failure::failed(format!(
        "the config has no route `{}` ({all}){nearest}",
        one_line(name)
    )))
}

/// Some sinks count each delivery; they say so at once, not when the service comes to it.
fn refuse_if_harmful(route: &RouteConfig, data_dir: &Path) -> Result<(), Failure> {
    let context = SinkContext {
        route: route.name.as_str(),
        data_dir,
        emitter: &Emitter::default(),
    };
    // Settings that the sink does not take are the service's to refuse.
    let why = sinks::build(&route.sink, context)
        .ok()
        .and_then(|sink| sink.refuses_replay());
    match why {
        Some(why) => Err(Failure::failed(format!(
            "route `{}` takes no replay: {why}",
            route.name
        ))),
        None => Ok(()),
    }
}

fn range(dir: &DataDir, from: Moment, to: Option<Moment>) -> Result<(u64, u64), Failure> {
    let journal = dir.journal()?;
    let asked = from.resolve(&journal, "--from")?;
    let behind = to.map_or_else(|| Ok(journal.end()), |to| to.resolve(&journal, "--to"))?;
    if behind < asked {
        return Err(Failure::wrong(format!(
            "--to ({behind}) lies before --from ({asked})"
        )));
    }
    let first = asked.max(journal.start());
    if first > asked {
        eprintln!(
            "note: the journal begins at {}; the {} events before it have expired",
            journal.start(),
            journal.start().since(asked)
        );
    }
    Ok((first.get().min(behind.get()), behind.get()))
}

fn follow(dir: &DataDir, db: &Connection, id: i64) -> Result<ExitCode, Failure> {
    let mut replay = replays::get(db, id)?;
    let mut progress = Progress::new("replay", Unit::Events, replay.events());
    let mut looks = 0;
    while replay.state() == ReplayState::Pending {
        let note = match replay.error() {
            Some(error) => format!("waiting: {}", one_line(&error)),
            None => String::new(),
        };
        progress.show(replay.passed(), &note);
        looks += 1;
        if looks % LOOKS_PER_ASK == 0 && dir.service().is_none() {
            progress.end();
            return Err(Failure::failed(format!(
                "the service has stopped after {} events of it; replay {id} goes on at its next start",
                replay.passed()
            )));
        }
        std::thread::sleep(LOOK_EVERY);
        replay = replays::get(db, id)?;
    }
    progress.end();
    match replay.state() {
        ReplayState::Failed => Err(Failure::failed(format!(
            "replay {id} failed: {}",
            one_line(&replay.error().unwrap_or_default())
        ))),
        ReplayState::Pending | ReplayState::Done => {
            let left_out = replay.events().saturating_sub(replay.delivered());
            let rest = match left_out {
                0 => String::new(),
                _ => format!(
                    "; {left_out} were left out (filtered, rejected or missing: the service's log says which)"
                ),
            };
            print(
                format!(
                    "Done: {} events delivered again{rest}.\n",
                    replay.delivered()
                )
                .as_bytes(),
            )?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
