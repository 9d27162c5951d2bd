//! What the operator's commands share: where the data lies, who uses it, and how results and failures are told.
//!
//! | file | what |
//! | --- | --- |
//! | `desk.rs` | what an operator looks at and changes: a data directory, or what a fleet shares |
//! | `moment.rs` | `--from` and `--to` in the journal of a data directory |
//! | `progress.rs` | a bar on a terminal, a line now and then elsewhere |
//! | `table.rs` | columns for people |
//!
//! All of it works on the directory of a running and of a stopped service, and makes none that is not there; and on a fleet
//! from any machine that has its config.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rusqlite::Connection;
use rustix::fs::FlockOperation;
use telemetryx_journal::JournalView;

use super::WRONG;
use crate::config::{self, Config};
use crate::control;

mod desk;
mod moment;
mod progress;
mod table;

#[cfg(test)]
pub(super) use desk::testing;
pub(super) use desk::{Bounds, Desk, Served};
pub(super) use moment::resolve;
pub(super) use progress::{Progress, Unit};
pub(super) use table::{Align, Table};

/// Which data directory is meant.
#[derive(Debug, Clone, Args)]
pub(super) struct DataDirArgs {
    /// The data directory [default: `data_dir` of the config]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Why a command did not do what was asked; one message, for a person.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// What was asked makes no sense, whatever the state of the data.
    pub(super) fn wrong(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: WRONG,
        }
    }

    /// It cannot be done.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }
}

impl From<config::ConfigErrors> for Failure {
    fn from(errors: config::ConfigErrors) -> Self {
        Self::wrong(errors.to_string())
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::failed(format!("{}: {error}", control::FILE))
    }
}

impl From<telemetryx_journal::ReadError> for Failure {
    fn from(error: telemetryx_journal::ReadError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// Ends a command: tells the failure, if it is one.
pub(super) fn end(outcome: Result<ExitCode, Failure>) -> ExitCode {
    outcome.unwrap_or_else(|failure| {
        if failure.code == WRONG {
            // Each line of a config's mistakes says by itself where it is.
            eprintln!("{}", failure.message);
        } else {
            eprintln!("telemetryx: {}", failure.message);
        }
        ExitCode::from(failure.code)
    })
}

/// Prints to standard output. Whoever reads it may have had enough (`| head`): that is no failure.
pub(super) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// How wide the terminal is that standard output goes to; `None` if it goes to something else, which cuts nothing.
pub(super) fn terminal_width() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Text from elsewhere, made fit for one line of a terminal: nothing in it can move the cursor.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if drives_terminal(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// A character that a terminal obeys in place of showing it: controls, and those that change the order of the others or
/// cannot be seen.
pub(super) fn drives_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A service's directory, of which nothing is locked or changed by looking.
pub(super) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The directory that was given, else the config's.
    pub(super) fn find(args: &DataDirArgs, config: Option<&Path>) -> Result<Self, Failure> {
        match &args.data_dir {
            Some(path) => Self::at(path.clone()),
            None => Self::at(Config::load(config, config::environment())?.data_dir),
        }
    }

    /// The directory at `path`, which must be there.
    pub(super) fn at(path: PathBuf) -> Result<Self, Failure> {
        if path.is_dir() {
            return Ok(Self { path });
        }
        Err(Failure::failed(format!(
            "there is no data directory {} (give it with --data-dir, or the config with --config)",
            path.display()
        )))
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Its journal, to look at.
    pub(super) fn journal(&self) -> Result<JournalView, Failure> {
        let path = self.journal_path();
        if !path.is_dir() {
            return Err(Failure::failed(format!(
                "there is no journal in {}: no service has run there",
                self.path.display()
            )));
        }
        JournalView::open(&path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
    }

    /// Its dead letters and replays.
    pub(super) fn control(&self) -> Result<Connection, Failure> {
        let path = self.path.join(control::FILE);
        if !path.is_file() {
            return Err(Failure::failed(format!(
                "there is no {}: no service has run there",
                path.display()
            )));
        }
        control::open_existing(&path).map_err(|error| Failure::failed(error.to_string()))
    }

    /// The process that uses the directory now, if there is one; 0 if it did not say who it is.
    ///
    /// Asks for a shared lock for an instant. A service that starts in that very instant is refused, so it is not for a
    /// tight loop.
    pub(super) fn service(&self) -> Option<u32> {
        let mut file = File::open(self.journal_path().join("LOCK")).ok()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).ok();
                Some(text.trim().parse().unwrap_or_default())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_that_is_not_there_is_said_and_not_made() {
        let scratch = tempfile::tempdir().unwrap();
        let missing = scratch.path().join("missing");
        let failure = DataDir::at(missing).err().unwrap();
        assert!(
            failure.message.contains("missing") && failure.code == 1,
            "{failure:?}"
        );
        let empty = DataDir::at(scratch.path().to_owned()).unwrap();
        assert!(
            empty
                .control()
                .err()
                .unwrap()
                .message
                .contains("control.db")
        );
        assert!(
            empty
                .journal()
                .err()
                .unwrap()
                .message
                .contains("no journal")
        );
        assert_eq!(empty.service(), None);
        assert_eq!(
            scratch.path().read_dir().unwrap().count(),
            0,
            "nothing was made"
        );
    }

    #[test]
    fn text_of_clients_cannot_drive_the_terminal() {
        assert_eq!(
            one_line("a\u{1b}[2Jb\nc\u{9b}é"),
            "a\\u{1b}[2Jb\\nc\\u{9b}é"
        );
    }
}
