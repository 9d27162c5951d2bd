//! `journal export`: a journal, its routes' positions and its dead letters, as one file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::{BinaryBytes, HumanCount};

use super::super::operator::{Failure, Progress, Unit, print};
use super::opened::Opened;
use crate::config::Config;
use crate::moving::{self, Exported, FileWriter, Source};

/// Bytes written at a time.
const BUFFER: usize = 1 << 20;
/// What is not whole has this behind its name.
const PARTIAL: &str = "partial";

#[derive(Debug, Clone, Args)]
pub(super) struct ExportArgs {
    /// Where to write it: a file that is not there yet, or `-` for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Leave out the events that every route has passed
    ///
    /// They stay in the books. They cannot be replayed from the new journal, and a route that is new there never gets
    /// them.
    #[arg(long)]
    only_undelivered: bool,
    /// Export even though a route was not stopped in order, and its sink may take some events again
    ///
    /// Only for sinks that know by offset what they have had: `redis`, `clickhouse` and `parquet`.
    #[arg(long)]
    accept_doubles: bool,
}

pub(super) fn run(config: &Config, args: &ExportArgs) -> Result<ExitCode, Failure> {
    let is_stdout = args.file.as_os_str() == "-";
    if !is_stdout && args.file.exists() {
        return Err(Failure::failed(format!(
            "{} is there already: remove it, or give another name",
            args.file.display()
        )));
    }
    let opened = Opened::existing(config)?;
    let started = Instant::now();
    let exported = if is_stdout {
        let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        write(&opened, config, args, out)?.0
    } else {
        to_file(&opened, config, args)?
    };
    let pending = opened.pending_replays()?;
    opened.close();
    let text = told(&exported, started, pending);
    if is_stdout {
        eprint!("{text}");
    } else {
        print(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Under another name until it is whole and on the disk.
fn to_file(opened: &Opened, config: &Config, args: &ExportArgs) -> Result<Exported, Failure> {
    let mut partial = args.file.clone().into_os_string();
    partial.push(".");
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let named =
        |path: &Path, error: io::Error| Failure::failed(format!("{}: {error}", path.display()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Events of clients are in it.
        options.mode(0o600);
    }
    let file = options
        .open(&partial)
        .map_err(|error| named(&partial, error))?;
    let out = BufWriter::with_capacity(BUFFER, file);
    let written = write(opened, config, args, out).and_then(|(exported, out)| {
        let file = out
            .into_inner()
            .map_err(|error| named(&partial, error.into_error()))?;
        let synced = file
            .sync_all()
            .and_then(|()| std::fs::rename(&partial, &args.file));
        synced.map_err(|error| named(&args.file, error))?;
        let folder = args
            .file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or_else(|| Path::new(".")));
        // The file is on the disk; its name is too, if that can be seen to.
        if let Ok(folder) = folder {
            folder.sync_all().ok();
        }
        Ok(exported)
    });
    if written.is_err() {
        std::fs::remove_file(&partial).ok();
    }
    written
}

fn write<W: Write>(
    opened: &Opened,
    config: &Config,
    args: &ExportArgs,
    out: W,
) -> Result<(Exported, W), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("the file cannot be written: {error}"));
    let file = FileWriter::begin(out).map_err(failed)?;
    let routes = super::opened::routes(config)?;
    let db = opened.control().reader()?;
    let source = Source {
        journal: opened.journal(),
        letters: &db,
        routes: routes.into_iter().map(|(route, _)| route).collect(),
        door: opened.doors()?,
        since: opened.control().since()?,
        only_undelivered: args.only_undelivered,
        accept_doubles: args.accept_doubles,
    };
    let mut shown: Option<Progress> = None;
    let exported = opened.block_on(moving::export(source, file, |done, total| {
        let progress = shown.get_or_insert_with(|| Progress::new("export", Unit::Events, total));
        progress.show(done, "");
    }));
    if let Some(progress) = shown {
        progress.end();
    }
    exported.map_err(|error| Failure::failed(error.to_string()))
}

fn told(exported: &Exported, started: Instant, pending_replays: u64) -> String {
    let end = exported.end;
    let mut text = format!(
        "{} events, the positions of {} routes, {} dead letters: {} in {:.1} s\n",
        HumanCount(end.events),
        exported.routes,
        HumanCount(end.letters),
        BinaryBytes(exported.bytes),
        started.elapsed().as_secs_f64(),
    );
    if end.missing > 0 {
        text.push_str(&format!(
            "{} events were accepted and are not in it: removed, damaged, or left out. The books keep them.\n",
            HumanCount(end.missing)
        ));
    }
    if pending_replays > 0 {
        text.push_str(&format!(
            "{pending_replays} replays are not over and are not carried: ask for them again.\n"
        ));
    }
    text
}
