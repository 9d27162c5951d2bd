//! `telemetryx journal`: looks into the journal of a data directory, also of a stopped service.
//!
//! | file | what |
//! | --- | --- |
//! | `inspect.rs` | segments, routes' positions and books, damage |
//! | `verify.rs` | every checksum |
//! | `cat.rs` | the events as NDJSON |
//! | `export.rs`, `import.rs` | into a file, and into another journal |
//! | `opened.rs` | the journal of a config, opened as a service would |
//!
//! `inspect`, `verify` and `cat` take no lock and change nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::operator::{DataDir, DataDirArgs, Failure, end};
use crate::config::{self, Config};
use crate::journal;
use crate::service;

mod cat;
mod export;
mod import;
mod inspect;
mod opened;
mod verify;

/// Look into a data directory's journal, or carry a journal over to another engine
///
/// `inspect`, `verify` and `cat` work on a running and on a stopped service's directory; they take no lock and change
/// nothing. Of a running service they show what was on the disk when the command began. `export` and `import` are for
/// every engine, and need the service to be stopped.
#[derive(Debug, Clone, Args)]
pub struct JournalArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Show segments, the routes' positions and books, and damage known so far
    Inspect {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read everything and check every checksum
    ///
    /// Exits 0 if all is as it was written, 1 if anything is damaged; each damaged place is on a line of its own.
    Verify,
    /// Print events as NDJSON, in the form of `POST /ingest`
    ///
    /// So what is printed can be posted again. Events that are damaged or have expired are said on standard error;
    /// damage ends in exit 1.
    Cat(cat::CatArgs),
    /// Write a stopped service's journal into a file: events, the routes' positions and states, dead letters
    ///
    /// For `journal import` with another config. Stop every process that uses the journal first: a service on the same
    /// data directory is noticed at once, other processes of a fleet by what they change; then the export ends in exit
    /// 1. What is not whole is never at FILE.
    Export(export::ExportArgs),
    /// Take a file of `journal export` into an empty journal
    ///
    /// Every key keeps its order, and every route goes on where it was; where that cannot be, it is said how many events
    /// it sees again. A file that is damaged or not whole is refused before anything is written, and so is a journal
    /// that is not empty. An import that was ended early has to be begun again, with the journal made empty.
    Import(import::ImportArgs),
}

/// Runs the command.
#[must_use]
pub fn run(args: JournalArgs, config: Option<PathBuf>) -> ExitCode {
    end(act(args, config.as_deref()))
}

fn act(args: JournalArgs, config: Option<&Path>) -> Result<ExitCode, Failure> {
    let dir = || DataDir::find(&args.data_dir, config);
    let whole = || load(&args.data_dir, config);
    match &args.action {
        Action::Inspect { json } => inspect::run(&dir()?, *json),
        Action::Verify => verify::run(&dir()?),
        Action::Cat(args) => cat::run(&dir()?, args),
        Action::Export(args) => export::run(&whole()?, args),
        Action::Import(args) => import::run(&whole()?, args),
    }
}

/// The config, its plug-ins checked as for a service, with the data directory that was given.
fn load(data_dir: &DataDirArgs, path: Option<&Path>) -> Result<Config, Failure> {
    let mut config =
        Config::load_with_plugins(path, config::environment(), service::check_plugins)?;
    if let Some(dir) = &data_dir.data_dir {
        if journal::is_shared(&config) {
            let words =
                "--data-dir is for a journal in files; that of the config is kept by a server";
            return Err(Failure::wrong(words));
        }
        config.data_dir.clone_from(dir);
    }
    Ok(config)
}
