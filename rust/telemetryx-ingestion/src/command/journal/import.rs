//! `journal import`: what `journal export` wrote, into an empty journal.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::HumanCount;

use super::super::operator::{Align, Failure, Progress, Table, Unit, print, terminal_width};
use super::opened::{self, Opened};
use crate::config::Config;
use crate::journal;
use crate::moving::{self, FileReader, Imported, MoveError, NewRoute, Target};
use crate::route::RouteFilter;

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

#[derive(Debug, Clone, Args)]
pub(super) struct ImportArgs {
    /// The file, or `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(config: &Config, args: &ImportArgs) -> Result<ExitCode, Failure> {
    if args.file.as_os_str() == "-" {
        return take_in(config, io::stdin().lock(), None);
    }
    let named = |error: io::Error| Failure::failed(format!("{}: {error}", args.file.display()));
    let mut file = File::open(&args.file).map_err(named)?;
    // All of it is read before anything is written.
    let events = verify(&file)?;
    file.rewind().map_err(named)?;
    take_in(config, file, Some(events))
}

/// Reads the file to its end; how many events it has.
fn verify(file: &File) -> Result<u64, Failure> {
    let bytes = file.metadata()?.len();
    let mut shown = Progress::new("check", Unit::Bytes, bytes);
    let reader = FileReader::begin(BufReader::with_capacity(BUFFER, file));
    let mut reader = reader.map_err(|error| unchanged(&error))?;
    let end = moving::verify(&mut reader, |done| shown.show(done, ""));
    shown.end();
    end.map(|end| end.events).map_err(|error| unchanged(&error))
}

fn unchanged(error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("{error}. Nothing was changed."))
}

fn take_in(config: &Config, input: impl Read, events: Option<u64>) -> Result<ExitCode, Failure> {
    let input = BufReader::with_capacity(BUFFER, input);
    let mut reader = FileReader::begin(input).map_err(|error| unchanged(&error))?;
    let routes = new_routes(config)?;
    let opened = Opened::to_fill(config)?;
    let started = Instant::now();
    let target = Target {
        journal: opened.journal(),
        control: opened.control(),
        routes,
    };
    let mut shown: Option<Progress> = None;
    let imported = opened.block_on(moving::import(target, &mut reader, |done, most| {
        let total = events.unwrap_or(most);
        let progress = shown.get_or_insert_with(|| Progress::new("import", Unit::Events, total));
        progress.show(done, "");
    }));
    if let Some(progress) = shown {
        progress.end();
    }
    let imported = imported.map_err(|error| failed(config, &error, &opened));
    let engine = opened.journal().status().engine;
    opened.close();
    let text = told(&imported?, engine, started);
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What failed, and what to do about what is there by now.
fn failed(config: &Config, error: &MoveError, opened: &Opened) -> Failure {
    // What is not known to be there may be there.
    let seen = opened.block_on(opened.journal().refresh());
    let mut extents = opened.journal().extents().into_iter();
    let is_empty = seen.is_ok() && extents.all(|extent| extent.end == 0);
    if is_empty && !matches!(error, MoveError::NotEmpty(_)) {
        return unchanged(error);
    }
    let how = journal::how_to_empty(config);
    Failure::failed(format!(
        "{error}\ntelemetryx: An import needs an empty journal, and what one has begun is of no use to a service. To make it \
         empty: {how}"
    ))
}

fn new_routes(config: &Config) -> Result<Vec<NewRoute>, Failure> {
    let routes = opened::routes(config)?.into_iter().zip(&config.routes);
    let routes = routes.map(|((route, plugins), config)| NewRoute {
        route,
        filter: RouteFilter::new(&config.filter, plugins.sink.leaves_out()),
        processors: plugins.processors,
        sink: plugins.sink,
    });
    Ok(routes.collect())
}

fn told(imported: &Imported, engine: &str, started: Instant) -> String {
    use Align::{Left, Right};
    let mut text = format!(
        "{} events are in {} of the journal `{}`, with {} dead letters; {:.1} s\n",
        HumanCount(imported.events),
        match imported.partitions {
            1 => "the partition".to_owned(),
            partitions => format!("{partitions} partitions"),
        },
        engine,
        HumanCount(imported.letters),
        started.elapsed().as_secs_f64(),
    );
    if imported.carried > 0 {
        text.push_str(&format!(
            "{} more were accepted before and are in the books only.\n",
            HumanCount(imported.carried)
        ));
    }
    let mut table = Table::new([
        ("ROUTE", Left),
        ("PENDING", Right),
        ("AGAIN", Right),
        ("DELIVERED", Right),
        ("FILTERED", Right),
        ("DEAD", Right),
        ("EXPIRED", Right),
    ]);
    for route in &imported.routes {
        let number = |number: u64| HumanCount(number).to_string();
        table.push([
            route.name.clone(),
            number(route.pending),
            number(route.again),
            number(route.books.delivered),
            number(route.books.filtered),
            number(route.books.dead),
            number(route.books.expired),
        ]);
    }
    if !imported.routes.is_empty() {
        text.push_str(&table.render(terminal_width()));
    }
    for note in &imported.notes {
        text.push_str(&format!("NOTE: {note}\n"));
    }
    text
}
