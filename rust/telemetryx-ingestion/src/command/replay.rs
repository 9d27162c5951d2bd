//! `telemetryx replay`: delivers again what the journal still holds.
//!
//! The request goes into the control file; the service serves it beside the route's own reading, now or at its next
//! start. In a fleet it goes to all, and whoever reads a partition for the route serves its part. The route's position and
//! books do not change.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::operator::{
    Bounds, DataDirArgs, Desk, Failure, Progress, Served, Unit, end, one_line, print,
};
use crate::config::{self, Config, RouteConfig};
use crate::control::{Moment, Part, ReplayState, partitions, replays};
use crate::journal::Extent;
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
/// Where the config says that processes share a journal, it works from any machine; the journal has several partitions then,
/// and an offset is that of an event in one of them.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// The route
    #[arg(long, value_name = "ROUTE")]
    route: String,
    /// The first event: an offset, or the time (RFC 3339) at or after which it was accepted; P:OFFSET for partition P alone
    /// where there are several
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
    let given = &args.data_dir.data_dir;
    refuse_if_harmful(route, given.as_deref().unwrap_or(&config.data_dir))?;
    let desk = match given {
        Some(_) => Desk::open(&args.data_dir, None)?,
        None => Desk::of(&config)?,
    };
    let parts = parts(&desk.bounds()?, args.from, args.to)?;
    if parts.is_empty() {
        print(b"There is nothing to replay: no event lies in that range.\n")?;
        return Ok(ExitCode::SUCCESS);
    }

    let id = desk.ask_replay(&args.route, &parts)?;
    let served = desk.served();
    let when = match served {
        Served::By(pid) => format!("the running service (process {pid}) begins within a second"),
        Served::ByNobody => {
            "no service runs on this directory; it runs at the next start".to_owned()
        }
        Served::ByFleet => "the fleet begins within some seconds".to_owned(),
    };
    let what = format!(
        "Replay {id}: {} events ({}) to route `{}`; {when}.\n",
        parts.iter().map(Part::events).sum::<u64>(),
        told(&parts),
        args.route
    );
    print(what.as_bytes())?;
    if args.no_wait || matches!(served, Served::ByNobody) {
        return Ok(ExitCode::SUCCESS);
    }
    follow(&desk, id)
}

/// Which events these are.
fn told(parts: &[Part]) -> String {
    match parts {
        [
            Part {
                partition: 0,
                first,
                behind,
            },
        ] => format!("{first} up to {behind}"),
        [part] => format!(
            "{} up to {} of partition {}",
            part.first, part.behind, part.partition
        ),
        parts => format!("of {} partitions", parts.len()),
    }
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

/// The events that are meant, of each partition that has some of them.
fn parts(journal: &Bounds<'_>, from: Moment, to: Option<Moment>) -> Result<Vec<Part>, Failure> {
    let extents = partitions(journal.extents(), from, to).map_err(Failure::wrong)?;
    let mut parts = Vec::new();
    for Extent {
        partition,
        start,
        end,
    } in extents
    {
        let of = match partition {
            0 => String::new(),
            partition => format!(" of partition {partition}"),
        };
        let resolve = |moment: Moment, name| match moment {
            Moment::Offset(offset) | Moment::InPartition(_, offset) if offset > end => {
                Err(Failure::failed(format!(
                    "{name} {offset} lies behind the end of the journal{of}, {end}"
                )))
            }
            Moment::Offset(offset) | Moment::InPartition(_, offset) => Ok(offset),
            Moment::Time(time) => journal.offset_at(partition, time),
        };
        let asked = resolve(from, "--from")?;
        let behind = to.map_or(Ok(end), |to| resolve(to, "--to"))?;
        if behind < asked {
            return Err(Failure::wrong(format!(
                "--to ({behind}) lies before --from ({asked})"
            )));
        }
        if start > asked {
            eprintln!(
                "note: the journal{of} begins at {start}; the {} events before it have expired",
                start - asked
            );
        }
        let part = Part {
            partition,
            first: asked.max(start).min(behind),
            behind,
        };
        if !part.is_empty() {
            parts.push(part);
        }
    }
    Ok(parts)
}

fn follow(desk: &Desk, id: i64) -> Result<ExitCode, Failure> {
    let mut replay = replays::get(desk.db(), id)?;
    let mut progress = Progress::new("replay", Unit::Events, replay.events());
    let mut looks = 0;
    while replay.state() == ReplayState::Pending {
        let note = match replay.error() {
            Some(error) => format!("waiting: {}", one_line(&error)),
            None => String::new(),
        };
        progress.show(replay.passed(), &note);
        looks += 1;
        if looks % LOOKS_PER_ASK == 0 && matches!(desk.served(), Served::ByNobody) {
            progress.end();
            return Err(Failure::failed(format!(
                "the service has stopped after {} events of it; replay {id} goes on at its next start",
                replay.passed()
            )));
        }
        std::thread::sleep(LOOK_EVERY);
        replay = replays::get(desk.db(), id)?;
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

#[cfg(test)]
mod tests {
    use super::super::operator::testing;
    use super::*;
    use crate::control::testing::Server;

    #[test]
    fn time_means_every_partition_and_an_offset_one_of_them() {
        let desk = testing::desk(&Server::new());
        let bounds = desk.bounds().unwrap();
        let parts = |from: &str, to: Option<&str>| {
            let to = to.map(|to| to.parse().unwrap());
            parts(&bounds, from.parse().unwrap(), to)
        };
        let ranges = |parts: Vec<Part>| -> Vec<_> {
            parts
                .iter()
                .map(|part| (part.partition, part.first, part.behind))
                .collect()
        };
        let all = parts("1970-01-01T00:00:15Z", None).unwrap();
        assert_eq!(told(&all), "of 3 partitions");
        assert_eq!(ranges(all), [(0, 15, 20), (1, 14, 20), (2, 13, 20)]);
        // Where no event is meant there is no part.
        let some = parts("1970-01-01T00:00:20Z", None).unwrap();
        assert_eq!(ranges(some), [(1, 19, 20), (2, 18, 20)]);
        let one = parts("2:3", Some("2:12")).unwrap();
        assert_eq!(told(&one), "10 up to 12 of partition 2");
        assert!(parts("1:20", None).unwrap().is_empty());
        assert!(parts("12", None).is_err());
        assert!(parts("1:21", None).is_err());
    }
}
