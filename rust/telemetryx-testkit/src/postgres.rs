//! A real PostgreSQL server of one's own, on a free port and in a temporary directory.

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{eventually, free_port};

/// A start that takes longer than this fails the test.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// A running (or killed) server; its superuser `postgres` needs no password from this machine. Dropping it ends it and
/// removes what it kept.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    binaries: PathBuf,
    /// The server refuses to run as root: then it runs as this user and group.
    owner: Option<(u32, u32)>,
    port: u16,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Panics
    /// If PostgreSQL is not installed (`scripts/install-servers` does), or does not start.
    #[must_use]
    pub fn start() -> Self {
        let mut server = Self::prepare();
        server.restart();
        server
    }

    /// As [`start`](Self::start), with these environment variables.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_in(environment: &[(String, String)]) -> Self {
        let mut server = Self::prepare();
        environment.clone_into(&mut server.environment);
        server.restart();
        server
    }

    /// As [`start`](Self::start), after `change` had a look at the data directory; `settings` are as `name=value`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(settings: &[&str], change: impl FnOnce(&Self)) -> Self {
        let mut server = Self::prepare();
        server.settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        change(&server);
        server.restart();
        server
    }

    fn prepare() -> Self {
        let folder = tempfile::Builder::new().prefix("telemetryx-pg-").tempdir();
        let server = Self {
            folder: folder.expect("a temporary directory can be made"),
            binaries: binaries(),
            owner: rustix::process::geteuid().is_root().then(owner),
            port: free_port(),
            settings: Vec::new(),
            environment: Vec::new(),
            child: None,
        };
        server.give(server.folder.path());
        let data = server.data_dir();
        let made = server
            .command("initdb")
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"])
            .args(["--no-sync", "-D"])
            .arg(data)
            .output()
            .expect("initdb can be run");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        server
    }

    /// Makes a file the server's own, as it wants its keys to be.
    ///
    /// # Panics
    /// If that is not permitted.
    pub fn give(&self, path: &Path) {
        if let Some((user, group)) = self.owner {
            chown(path, Some(user), Some(group)).expect("files can be given to the server's user");
        }
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where it listens; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For the superuser and the database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it again where it was; kills it first if it still runs.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        eventually(READY_WAIT_MAX, "PostgreSQL is ready", || {
            // Until all of a killed server is gone, a new one refuses to start.
            let ended = self.child.as_mut().map(|child| child.try_wait());
            if !matches!(ended, Some(Ok(None))) {
                self.child = Some(self.spawn());
            }
            self.try_sql("SELECT 1").is_ok()
        });
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"));
        let log = log.expect("a log can be written");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data_dir());
        let port = format!("port={}", self.port);
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        let fixed = [
            &port,
            &sockets,
            "listen_addresses=127.0.0.1",
            "shared_buffers=64MB",
        ];
        let settings = self.settings.iter().map(String::as_str);
        for setting in fixed.into_iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let environment = self.environment.iter();
        command
            .envs(environment.map(|(name, value)| (name, value)))
            .stdout(log.try_clone().expect("the log can be shared"))
            .stderr(log)
            .spawn()
            .expect("PostgreSQL can be started")
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs SQL as the superuser; rows as lines, columns parted by `|`.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        match self.try_sql(sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// As [`sql`](Self::sql).
    ///
    /// # Errors
    /// What `psql` says.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let output = self
            .command("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url())
            .output()
            .map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// Waits until the day (of UTC) will not end within the next minute: for tests that ask for a day more than once.
    ///
    /// # Panics
    /// If time stands still.
    pub fn wait_past_midnight(&self) {
        eventually(Duration::from_secs(90), "midnight is past", || {
            self.sql("SELECT (now() AT TIME ZONE 'UTC')::time < '23:59'") == "t"
        });
    }

    /// SIGKILL, as the power fails; nothing if it does not run.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let parts = processes(child.id());
            child.kill().expect("PostgreSQL can be killed");
            child.wait().expect("PostgreSQL can be waited for");
            parts
                .into_iter()
                .for_each(|part| signal(part, Signal::KILL));
        }
    }

    /// Stops all its processes where they are (SIGSTOP): connections stay and nobody answers.
    pub fn hang(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Ends what [`hang`](Self::hang) began.
    pub fn go_on(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, what: Signal) {
        if let Some(child) = &self.child {
            signal(child.id(), what);
            processes(child.id())
                .into_iter()
                .for_each(|part| signal(part, what));
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env("LC_ALL", "C");
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.floor_char_boundary(log.len().saturating_sub(3000));
            let end = log.get(from..).unwrap_or_default();
            eprintln!("--- the end of PostgreSQL's log ---\n{end}");
        }
        self.kill();
    }
}

/// The processes that this one started.
fn processes(of: u32) -> Vec<u32> {
    let found = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    found
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // Behind the name in parentheses: state, parent.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            (parent.parse() == Ok(of)).then_some(process)
        })
        .collect()
}

/// It may be gone already; then there is nothing to do.
fn signal(process: u32, what: Signal) {
    if let Some(process) = Pid::from_raw(process.cast_signed()) {
        let _gone = kill_process(process, what);
    }
}

/// Where Debian keeps the newest version's programs.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let newest = versions
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let binaries = entry.path().join("bin");
            binaries
                .join("initdb")
                .exists()
                .then_some((version, binaries))
        })
        .max();
    newest
        .expect("PostgreSQL is installed; scripts/install-servers does that")
        .1
}

/// The user that Debian's package makes.
fn owner() -> (u32, u32) {
    let id = |what: &str| {
        let output = Command::new("id").args([what, "postgres"]).output();
        let output = output.expect("there is an `id` command");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().parse().expect("there is a user `postgres`")
    };
    (id("-u"), id("-g"))
}
