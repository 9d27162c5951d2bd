//! A real S3 server, `s3s-fs`, as a child process: its buckets are folders, its objects files.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::process::Process;
use crate::service::free_port;
use crate::tools::tool;

const READY_WAIT_MAX: Duration = Duration::from_secs(20);
const ACCESS_KEY: &str = "test";
/// The only secret that is right.
const SECRET_KEY: &str = "test1234";

/// A running (or killed, or hung) server with one bucket. Dropping it kills it and removes what it kept.
#[derive(Debug)]
pub struct S3Server {
    process: Process,
    _scratch: TempDir,
    root: PathBuf,
    port: u16,
}

impl S3Server {
    /// The name of its bucket.
    pub const BUCKET: &str = "events";

    /// Starts one.
    ///
    /// # Panics
    /// If `target/tools/bin/s3s-fs` is not there (`scripts/install-servers`) or does not start.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(None)
    }

    /// Starts one that keeps everything in this folder, which must be empty.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    #[must_use]
    pub fn start_on(folder: &Path) -> Self {
        Self::start_in(Some(folder))
    }

    #[track_caller]
    fn start_in(folder: Option<&Path>) -> Self {
        let scratch = tempfile::Builder::new().prefix("telemetryx-s3-").tempdir();
        let scratch = scratch.expect("a temporary directory can be made");
        let root = folder.unwrap_or_else(|| scratch.path()).to_owned();
        std::fs::create_dir(root.join(Self::BUCKET)).expect("a bucket can be made");
        let mut server = Self {
            _scratch: scratch,
            root,
            port: free_port(),
            process: Process::default(),
        };
        server.restart();
        server
    }

    /// Where it listens; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The options that a client of it needs, behind `port`: that of the server, or of a proxy before it.
    #[must_use]
    pub fn options(port: u16) -> String {
        format!(
            "endpoint: 'http://127.0.0.1:{port}', access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET_KEY}"
        )
    }

    /// The folder of its bucket.
    #[must_use]
    pub fn bucket(&self) -> PathBuf {
        self.root.join(Self::BUCKET)
    }

    /// SIGKILL, and waits until it is gone; nothing if it does not run.
    #[track_caller]
    pub fn kill(&mut self) {
        if self.process.is_there() {
            self.process.kill();
        }
    }

    /// Starts it again where it was; kills it first if it still runs.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let child = Command::new(tool("bin/s3s-fs"))
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is target/tools/bin/s3s-fs (scripts/install-servers)");
        self.process.began(child);
        eventually(READY_WAIT_MAX, "the S3 server takes connections", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
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
}
