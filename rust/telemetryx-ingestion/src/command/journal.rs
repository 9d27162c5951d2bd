//! `telemetryx journal`: looks into the journal of a data directory, also of a stopped service.
//!
//! | file | what |
//! | --- | --- |
//! | `inspect.rs` | segments, routes' positions and books, damage |
//! | `verify.rs` | every checksum |
//! | `cat.rs` | the events as NDJSON |
//! | `raw.rs` | what stands in the files and `JournalView` does not tell |
//!
//! Takes no lock and changes nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::operator::{DataDir, DataDirArgs, Failure, end};

mod cat;
mod inspect;
mod verify;

/// Look into a data directory's journal: what it holds, whether it is whole, its events
///
/// Works on a running and on a stopped service's directory; takes no lock and changes nothing. Of a running service it
/// shows what was on the disk when the command began.
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
}

/// Runs the command.
#[must_use]
pub fn run(args: JournalArgs, config: Option<PathBuf>) -> ExitCode {
    end(act(args, config.as_deref()))
}

fn act(args: JournalArgs, config: Option<&Path>) -> Result<ExitCode, Failure> {
    let dir = DataDir::find(&args.data_dir, config)?;
    match args.action {
        Action::Inspect { json } => inspect::run(&dir, json),
        Action::Verify => verify::run(&dir),
        Action::Cat(args) => cat::run(&dir, &args),
    }
}
