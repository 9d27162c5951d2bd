//! A real brain, the one of `python/brain`, as a child process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::process::Process;
use crate::service::free_port;

/// It reads some megabytes of Python first.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
const END_WAIT_MAX: Duration = Duration::from_secs(20);

/// A running (or killed, or hung) brain. Dropping it kills it and removes its directory.
#[derive(Debug)]
pub struct Brain {
    process: Process,
    folder: TempDir,
    port: u16,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Brain {
    /// `program`, which is `telemetryx-brain` or one that does as it does (it is told `--listen`, and says `ready on` in
    /// its log), with these arguments beside its address.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start(program: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        Self::run_in(scratch(), program, arguments)
    }

    /// The same with this text as its module.
    #[track_caller]
    pub fn of(program: &Path, module: &str) -> Self {
        let folder = scratch();
        let file = folder.path().join("of_the_test.py");
        std::fs::write(&file, module).expect("a file can be written");
        let file = file.to_str().expect("the path is text").to_owned();
        Self::run_in(folder, program, vec!["--module".to_owned(), file])
    }

    #[track_caller]
    fn run_in(folder: TempDir, program: &Path, arguments: Vec<String>) -> Self {
        let mut brain = Self {
            folder,
            port: free_port(),
            program: program.to_owned(),
            arguments,
            process: Process::default(),
        };
        brain.run();
        brain
    }

    /// Where it listens; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A directory of its own, in which it runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// SIGKILL, and waits until it is gone.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Panics
    /// If it does not end, or not well.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.process.signal(Signal::TERM);
        let mut child = self.process.take();
        eventually(
            END_WAIT_MAX,
            "the brain ends",
            || matches!(child.try_wait(), Ok(Some(status)) if status.success()),
        );
    }

    /// Starts it again where it was.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.process.is_there() {
            self.kill();
        }
        self.run();
    }

    /// SIGSTOP: connections stay open, and nothing answers.
    #[track_caller]
    pub fn hang(&self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }

    #[track_caller]
    fn run(&mut self) {
        let log = File::create(self.folder.path().join("log")).expect("a file can be made");
        let child = Command::new(&self.program)
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process.began(child.expect("the program is there"));
        let mut ended = None;
        eventually(READY_WAIT_MAX, "the brain is ready", || {
            ended = self
                .process
                .child()
                .and_then(|child| child.try_wait().ok()?);
            ended.is_some() || self.log().contains("ready on")
        });
        assert!(ended.is_none(), "the brain ended: {}", self.log());
    }
}

fn scratch() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("telemetryx-brain-")
        .tempdir();
    folder.expect("a temporary directory can be made")
}
