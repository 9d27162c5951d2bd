//! `telemetryx dead-letters`: what was refused or could not be processed or delivered, and why; sends it again.
//!
//! Works on the control file of the data directory, whether the service runs or not; and on what a fleet shares.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use rusqlite::Connection;
use serde_json::json;
use telemetryx_common::wire;

use super::operator::{
    Align, DataDirArgs, Desk, Failure, Progress, Served, Table, Unit, end, one_line, print,
    terminal_width,
};
use crate::config::{self, Config};
use crate::control::{Kept, LetterFilter, letters};

/// On a terminal with fewer columns a letter takes two lines: little of its message would fit on one.
const NARROW_BELOW: usize = 120;
/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Every how many looks it asks whether the service still runs.
const LOOKS_PER_ASK: u32 = 15;

/// See what was refused or could not be delivered, and send it again
///
/// A dead letter is an event that could not go on: refused at the door (stage `validation`), by a route's processor
/// (`processing`), or by its sink (`delivery`). It is kept with the reason until it is sent again with success. The
/// commands work on a running and on a stopped service's data directory; where the config says that processes share a
/// journal, on the letters of all of them, from any machine.
#[derive(Debug, Clone, Args)]
pub struct DeadLettersArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        which: Which,
        /// Show at most this many
        #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Print JSON, as `GET /dead-letters` does
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter with its event
    ///
    /// The event is printed as JSON, byte for byte as it was sent or stored; one that is not JSON as its raw bytes
    /// (escaped on a terminal).
    Show {
        /// Its number, as `list` shows it
        id: i64,
        /// Print JSON, as `GET /dead-letters/{id}` does
        #[arg(long)]
        json: bool,
    },
    /// Send dead letters again
    ///
    /// Refused events take the whole way in again, so they are accepted once the cause is mended; letters of a route
    /// go to its sink. A running service picks them up within a second, a fleet within some seconds, a stopped service
    /// at its next start. What fails again stays a dead letter, with the new reason.
    Redrive {
        #[command(flatten)]
        which: Which,
        /// Only this one
        #[arg(long, value_name = "N")]
        id: Option<i64>,
        /// All there are
        #[arg(long, conflicts_with_all = ["route", "stage", "id"])]
        all: bool,
        /// Wait until each is gone or dead again; exit 1 if any is dead again
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Debug, Clone, Args)]
struct Which {
    /// Only those of this route (events refused at the door have none)
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Only those of this stage
    #[arg(long, value_name = "STAGE", value_parser = ["validation", "processing", "delivery"])]
    stage: Option<String>,
}

impl Which {
    fn filter(self, id: Option<i64>) -> LetterFilter {
        LetterFilter {
            route: self.route,
            stage: self.stage,
            id,
        }
    }
}

/// Runs the command.
#[must_use]
pub fn run(args: DeadLettersArgs, config: Option<PathBuf>) -> ExitCode {
    end(act(args, config.as_deref()))
}

fn act(args: DeadLettersArgs, config: Option<&Path>) -> Result<ExitCode, Failure> {
    let desk = Desk::open(&args.data_dir, config)?;
    match args.action {
        Action::List { which, limit, json } => list(desk.db(), &which.filter(None), limit, json),
        Action::Show { id, json } => show(desk.db(), id, json),
        Action::Redrive {
            which,
            id,
            all,
            wait,
        } => {
            let filter = which.filter(id);
            if !all && filter.is_open() {
                return Err(Failure::wrong(
                    "nothing is selected: name letters with --id, --route or --stage, or send all with --all",
                ));
            }
            if args.data_dir.data_dir.is_none() {
                warn_of_unknown_route(&filter, &Config::load(config, config::environment())?);
            }
            redrive(&desk, &filter, wait)
        }
    }
}

fn list(
    db: &Connection,
    filter: &LetterFilter,
    limit: u32,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let count = letters::count(db, filter)?;
    let list = letters::list(db, filter, None, limit)?;
    let mut text = if as_json {
        json!({ "count": count, "dead_letters": list }).to_string()
    } else if list.is_empty() {
        "No dead letters.".to_owned()
    } else {
        let shown = if count == list.len() as u64 {
            String::new()
        } else {
            format!("; the newest {} are shown", list.len())
        };
        let s = if count == 1 { "" } else { "s" };
        format!(
            "{}{count} dead letter{s}{shown}.",
            table(&list, terminal_width())
        )
    };
    text.push('\n');
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// One line a letter, the message cut to the terminal; on a narrow one the message stands below its letter.
fn table(list: &[Kept], width: Option<usize>) -> String {
    use Align::{Left, Right};
    let columns = [
        ("ID", Right),
        ("WHEN", Left),
        ("ROUTE", Left),
        ("STAGE", Left),
        ("CODE", Left),
        ("FIELD", Left),
        ("OFFSET", Right),
        ("MESSAGE", Left),
    ];
    let narrow = width.is_some_and(|width| width < NARROW_BELOW);
    let mut table = Table::new(columns);
    for letter in list {
        let mut row = row(letter);
        if narrow {
            row[7].clear();
        }
        table.push(row);
    }
    let text = table.render(width);
    if !narrow {
        return text;
    }
    let mut lines = text.lines();
    let mut interleaved = format!("{}\n", lines.next().unwrap_or_default());
    for (line, letter) in lines.zip(list) {
        let mut below = Table::new([("", Left), ("", Left)]);
        below.push(["   ".to_owned(), message(letter)]);
        let below = below.render(width);
        let below = below.lines().last().unwrap_or_default();
        interleaved.push_str(&format!("{line}\n{below}\n"));
    }
    interleaved
}

fn row(letter: &Kept) -> [String; 8] {
    let or_dash = |text: Option<&str>| {
        text.filter(|text| !text.is_empty())
            .unwrap_or("-")
            .to_owned()
    };
    [
        letter.id.to_string(),
        seconds(&letter.at),
        or_dash(letter.route.as_deref()),
        letter.stage.clone(),
        letter.code.clone(),
        or_dash(letter.field.as_deref()),
        place(letter),
        message(letter),
    ]
}

/// Its offset, behind the number of its partition where there are several.
fn place(letter: &Kept) -> String {
    match (letter.partition, letter.offset) {
        (_, None) => "-".to_owned(),
        (0, Some(offset)) => offset.to_string(),
        (partition, Some(offset)) => format!("{partition}:{offset}"),
    }
}

fn message(letter: &Kept) -> String {
    if letter.state == "dead" {
        letter.message.clone()
    } else {
        format!("(to be sent again) {}", letter.message)
    }
}

/// An RFC 3339 time without the fraction of its second.
fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

fn show(db: &Connection, id: i64, as_json: bool) -> Result<ExitCode, Failure> {
    let letter = letters::list(db, &only(id), None, 1)?
        .pop()
        .ok_or_else(|| no_letter(id))?;
    let mut out = Vec::new();
    if as_json {
        let mut shown = json!(letter);
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("event".to_owned(), letter.event());
        }
        out.extend_from_slice(shown.to_string().as_bytes());
    } else {
        out.extend_from_slice(fields(&letter).as_bytes());
        out.push(b'\n');
        out.extend_from_slice(&event_text(&letter, io::stdout().is_terminal()));
    }
    out.push(b'\n');
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn fields(letter: &Kept) -> String {
    let route = letter.route.as_deref().unwrap_or("- (refused at the door)");
    let state = match letter.state.as_str() {
        "dead" => "dead",
        _ => "to be sent again",
    };
    let rows = [
        ("id", letter.id.to_string()),
        ("since", letter.at.clone()),
        ("route", route.to_owned()),
        ("stage", letter.stage.clone()),
        ("code", letter.code.clone()),
        ("field", letter.field.clone().unwrap_or_else(|| "-".into())),
        ("message", letter.message.clone()),
        ("offset", place(letter)),
        ("format", letter.format.clone()),
        (
            "request id",
            letter.request_id.clone().unwrap_or_else(|| "-".into()),
        ),
        ("redrives", letter.redrives.to_string()),
        ("state", state.to_owned()),
    ];
    rows.iter()
        .map(|(name, value)| format!("{name:<11} {}\n", one_line(value)))
        .collect()
}

/// The event as JSON where it can be, not re-written: what was wrong with it must stay visible.
fn event_text(letter: &Kept, terminal: bool) -> Vec<u8> {
    let mut text = Vec::new();
    if letter.format == "stored" {
        for event in wire::events(&letter.body).flatten() {
            telemetryx_common::json::write_event(&event, &mut text);
        }
    }
    if text.is_empty() {
        text.extend_from_slice(&letter.body);
    }
    if !terminal {
        return text;
    }
    // Escaped: on a terminal such bytes could do anything.
    match std::str::from_utf8(&text) {
        Ok(readable) => readable
            .split('\n')
            .map(one_line)
            .collect::<Vec<_>>()
            .join("\n")
            .into_bytes(),
        Err(_) => text.escape_ascii().to_string().into_bytes(),
    }
}

fn only(id: i64) -> LetterFilter {
    LetterFilter {
        id: Some(id),
        ..LetterFilter::default()
    }
}

fn no_letter(id: i64) -> Failure {
    Failure::failed(format!("there is no dead letter {id}"))
}

/// A letter of a route that the service does not have lies there until it has.
fn warn_of_unknown_route(filter: &LetterFilter, config: &Config) {
    if let Some(route) = &filter.route
        && !config.routes.iter().any(|known| known.name == **route)
    {
        eprintln!("note: the config has no route `{route}`; nobody takes its letters until it has");
    }
}

fn redrive(desk: &Desk, filter: &LetterFilter, wait: bool) -> Result<ExitCode, Failure> {
    let asked = desk.ask_redrive(filter)?;
    if asked.selected == 0 {
        if let Some(id) = filter.id {
            return Err(no_letter(id));
        }
        print(b"No dead letter matches.\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let s = if asked.selected == 1 { "" } else { "s" };
    let already = match asked.selected - asked.marked {
        0 => String::new(),
        already => format!(" ({already} of them on the way already)"),
    };
    let served = desk.served();
    let when = match served {
        Served::By(pid) => {
            format!("the running service (process {pid}) picks them up within a second")
        }
        Served::ByNobody => {
            "no service runs on this directory; they are sent at its next start".to_owned()
        }
        Served::ByFleet => "the fleet picks them up within some seconds".to_owned(),
    };
    let selected = asked.selected;
    print(format!("{selected} dead letter{s} to be sent again{already}: {when}.\n").as_bytes())?;
    match (wait, served) {
        (false, _) => Ok(ExitCode::SUCCESS),
        (true, Served::ByNobody) => Err(Failure::failed(
            "there is nothing to wait for: no service runs",
        )),
        (true, Served::By(_) | Served::ByFleet) => follow(desk, selected),
    }
}

fn follow(desk: &Desk, selected: u64) -> Result<ExitCode, Failure> {
    let mut progress = Progress::new("redrive", Unit::Events, selected);
    let mut looks = 0;
    let dead = loop {
        let state = letters::followed(desk.db())?;
        progress.show(selected - state.waiting, "");
        if state.waiting == 0 {
            break state.dead;
        }
        looks += 1;
        if looks % LOOKS_PER_ASK == 0 && matches!(desk.served(), Served::ByNobody) {
            progress.end();
            return Err(Failure::failed(format!(
                "the service has stopped; {} letters are sent at its next start",
                state.waiting
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    progress.end();
    let gone = selected - dead;
    print(format!("{gone} sent again, {dead} dead again.\n").as_bytes())?;
    Ok(if dead == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Kept {
        Kept {
            id: 7,
            at: "2026-01-31T23:59:59.123Z".into(),
            route: None,
            stage: "validation".into(),
            code: "missing_field".into(),
            field: Some("source".into()),
            message: "`source` must be given\u{1b}[2J".into(),
            partition: 0,
            offset: None,
            format: "json".into(),
            body: b"{\"id\":\"\x1b[2J\xff\"}".to_vec(),
            request_id: None,
            redrives: 0,
            state: "dead".into(),
        }
    }

    #[test]
    fn narrow_terminal_still_shows_the_message() {
        let wide = table(&[letter()], None);
        assert!(
            wide.ends_with("source       -  `source` must be given\\u{1b}[2J\n"),
            "{wide}"
        );
        let narrow = table(&[letter()], Some(80));
        let lines: Vec<_> = narrow.lines().collect();
        assert_eq!(lines.len(), 3, "{narrow}");
        assert!(lines[1].contains("2026-01-31T23:59:59Z") && lines[1].ends_with("source       -"));
        assert_eq!(lines[2], "     `source` must be given\\u{1b}[2J");
    }

    #[test]
    fn bytes_that_are_no_text_go_raw_into_a_file_and_escaped_to_a_terminal() {
        assert_eq!(event_text(&letter(), false), letter().body);
        let shown = String::from_utf8(event_text(&letter(), true)).unwrap();
        assert_eq!(shown, r#"{\"id\":\"\x1b[2J\xff\"}"#);
    }
}
