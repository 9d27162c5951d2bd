//! The real service as a child process, on a port and a directory of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::http::{Connection, Response};

/// A start that takes longer than this fails the test.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);
/// The service's own limit for ending is `shutdown.timeout`, 30 s.
const END_WAIT_MAX: Duration = Duration::from_secs(40);
const POLL_PAUSE: Duration = Duration::from_millis(2);
/// How much of the log is shown when a test fails.
const LOG_TAIL_BYTES: usize = 6000;

/// A port that was free a moment ago, and that this process was not given before: the system gives one again as soon as
/// it is free.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let mut given = GIVEN.lock().expect("nobody panics in here");
        if given.insert(address.port()) {
            return address.port();
        }
    }
}

/// How a service is to be started.
#[derive(Debug)]
pub struct ServiceBuilder {
    binary: PathBuf,
    config: Option<String>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    data_dir: Option<PathBuf>,
    speaks_tls: bool,
    otlp: bool,
}

/// Ports for OTLP.
#[derive(Debug, Clone, Copy)]
struct OtlpPorts {
    http: u16,
    grpc: u16,
}

/// The service ended before it was ready, or never was.
#[derive(Debug)]
pub struct StartError {
    /// How it ended; `None` if it had to be killed.
    pub status: Option<ExitStatus>,
    /// What it wrote to standard error.
    pub log: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(
                out,
                "the service ended at its start, {status}; its log:\n{}",
                self.log
            ),
            None => write!(
                out,
                "the service was not ready in {READY_WAIT_MAX:?}; its log:\n{}",
                self.log
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// How a run to the end went.
#[derive(Debug)]
pub struct Exit {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl ServiceBuilder {
    /// Settings as YAML, over the built-in ones. Data directory, address and port are set by the harness.
    #[must_use]
    pub fn config(mut self, yaml: &str) -> Self {
        self.config = Some(yaml.to_owned());
        self
    }

    /// An environment variable for the service.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// An argument after `serve`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A data directory that outlives the service, in place of a temporary one.
    #[must_use]
    pub fn data_dir(mut self, data_dir: &Path) -> Self {
        self.data_dir = Some(data_dir.to_owned());
        self
    }

    /// Its HTTP port speaks TLS: whether it is ready is read from its log, and `get` and the like are not for it.
    #[must_use]
    pub fn speaks_tls(mut self) -> Self {
        self.speaks_tls = true;
        self
    }

    /// With OTLP, on free ports; without this it is off.
    #[must_use]
    pub fn otlp(mut self) -> Self {
        self.otlp = true;
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// If it does not; the message shows its log.
    #[track_caller]
    pub fn start(self) -> Service {
        match self.try_start() {
            Ok(service) => service,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts it and waits until it answers; for a test of a start that must fail.
    pub fn try_start(self) -> Result<Service, StartError> {
        let mut service = self.prepare();
        service.spawn();
        service.wait_until_ready()?;
        Ok(service)
    }

    /// Starts nothing: for the commands of one that is not running.
    pub fn start_nothing(self) -> Service {
        self.prepare()
    }

    /// Runs another subcommand of the binary to its end, with the same settings and data directory.
    pub fn run(self, arguments: &[&str]) -> Exit {
        self.prepare().run(arguments)
    }

    fn prepare(self) -> Service {
        let scratch = tempfile::Builder::new()
            .prefix("telemetryx-test-")
            .tempdir();
        let scratch = scratch.expect("a temporary directory can be made");
        let data_dir = self
            .data_dir
            .clone()
            .unwrap_or_else(|| scratch.path().join("data"));
        if let Some(config) = &self.config {
            std::fs::write(scratch.path().join("config.yaml"), config)
                .expect("the config can be written");
        }
        Service {
            otlp: self.otlp.then(|| OtlpPorts {
                http: free_port(),
                grpc: free_port(),
            }),
            builder: self,
            scratch,
            data_dir,
            port: free_port(),
            child: None,
            logged_before: 0,
        }
    }
}

/// A running (or killed, or ended) service. Dropping it kills it and removes what it kept.
#[derive(Debug)]
pub struct Service {
    builder: ServiceBuilder,
    scratch: TempDir,
    data_dir: PathBuf,
    port: u16,
    otlp: Option<OtlpPorts>,
    child: Option<Child>,
    /// Length of the log before the last start.
    logged_before: usize,
}

impl Service {
    /// To start this binary, for example `env!("CARGO_BIN_EXE_telemetryx")`.
    pub fn builder(binary: impl Into<PathBuf>) -> ServiceBuilder {
        ServiceBuilder {
            binary: binary.into(),
            config: None,
            environment: Vec::new(),
            arguments: Vec::new(),
            data_dir: None,
            speaks_tls: false,
            otlp: false,
        }
    }

    /// Starts it with nothing but the built-in settings.
    #[track_caller]
    pub fn start(binary: impl Into<PathBuf>) -> Self {
        Self::builder(binary).start()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it listens; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>` for OTLP over HTTP.
    ///
    /// # Panics
    /// If it was started without [`ServiceBuilder::otlp`].
    #[track_caller]
    pub fn otlp_http_address(&self) -> String {
        let ports = self.otlp.expect("the service was built with OTLP");
        format!("127.0.0.1:{}", ports.http)
    }

    /// `127.0.0.1:<port>` for OTLP over gRPC.
    ///
    /// # Panics
    /// If it was started without [`ServiceBuilder::otlp`].
    #[track_caller]
    pub fn otlp_grpc_address(&self) -> String {
        let ports = self.otlp.expect("the service was built with OTLP");
        format!("127.0.0.1:{}", ports.grpc)
    }

    /// Where it keeps what it keeps.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it is not running.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the service is running").id()
    }

    /// Resident memory, in KiB.
    #[track_caller]
    pub fn rss_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// Most resident memory it ever had, in KiB.
    #[track_caller]
    pub fn rss_peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    /// What it has written to standard error, over all starts.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// True while the process lives.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL, and waits until it is gone.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the service is running");
        child.kill().expect("the service can be killed");
        child.wait().expect("the service can be waited for");
    }

    /// SIGTERM only; see `wait`.
    #[track_caller]
    pub fn signal_term(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: connections stay open, and nothing answers.
    #[track_caller]
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a pid is not 0");
        kill_process(pid, signal).expect("it can be signalled");
    }

    /// SIGTERM, and waits until it has ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal_term();
        self.wait()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If that takes over 40 s.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the service is running");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("the service can be waited for") {
                return status;
            }
            if begun.elapsed() > END_WAIT_MAX {
                self.child = Some(child);
                panic!("the service did not end within {END_WAIT_MAX:?}");
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// Starts it again where it was; kills it first if it still runs. Says how long it took until it answered.
    #[track_caller]
    pub fn restart(&mut self) -> Duration {
        match self.try_restart() {
            Ok(took) => took,
            Err(error) => panic!("{error}"),
        }
    }

    /// As `restart`, for a start that must fail.
    pub fn try_restart(&mut self) -> Result<Duration, StartError> {
        if self.is_running() {
            self.kill();
        }
        self.child = None;
        let begun = Instant::now();
        self.spawn();
        self.wait_until_ready()?;
        Ok(begun.elapsed())
    }

    /// Other settings from the next start on.
    pub fn set_config(&mut self, yaml: &str) {
        std::fs::write(self.config_path(), yaml).expect("the config can be written");
        self.builder.config = Some(yaml.to_owned());
    }

    /// Runs another subcommand to its end, with this service's settings and data directory.
    pub fn run(&self, arguments: &[&str]) -> Exit {
        let output = self
            .command()
            .args(arguments)
            .output()
            .expect("the binary can be started");
        Exit {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A connection that stays open.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(&self.address()).expect("the service takes connections")
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        match self.connect().request(method, path, headers, body) {
            Ok(response) => response,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// `GET`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// `POST` of these bytes.
    #[track_caller]
    pub fn post(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Response {
        self.request(
            "POST",
            path,
            &[("content-type", content_type)],
            body.as_ref(),
        )
    }

    /// `POST` of this JSON text.
    #[track_caller]
    pub fn post_json(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.post(path, "application/json", body)
    }

    /// The binary with this service's settings and directory, no arguments yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.builder.binary);
        for (name, _) in std::env::vars_os() {
            let foreign = |name: &str| name.starts_with("TELEMETRYX_") || name.starts_with("OTEL_");
            if name.to_str().is_some_and(foreign) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.scratch.path())
            .env("TELEMETRYX_DATA_DIR", &self.data_dir)
            .env("TELEMETRYX_HTTP__HOST", "127.0.0.1")
            .env("TELEMETRYX_HTTP__PORT", self.port.to_string())
            .env("TELEMETRYX_OTLP__ENABLED", self.otlp.is_some().to_string())
            .envs(self.otlp.iter().flat_map(|ports| {
                [
                    ("TELEMETRYX_OTLP__HTTP_PORT", ports.http.to_string()),
                    ("TELEMETRYX_OTLP__GRPC_PORT", ports.grpc.to_string()),
                ]
            }))
            .envs(
                self.builder
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            );
        if self.builder.config.is_some() {
            command.arg("--config").arg(self.config_path());
        }
        command
    }

    fn spawn(&mut self) {
        self.logged_before = self.log().len();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let child = self
            .command()
            .arg("serve")
            .args(&self.builder.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the log can be opened"))
            .spawn();
        self.child = Some(child.expect("the binary can be started"));
    }

    fn wait_until_ready(&mut self) -> Result<(), StartError> {
        let begun = Instant::now();
        loop {
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || begun.elapsed() > READY_WAIT_MAX {
                if let Some(mut child) = self.child.take() {
                    kill_quietly(&mut child);
                }
                return Err(StartError {
                    status: ended,
                    log: self.log(),
                });
            }
            if self.is_ready().unwrap_or(false) {
                return Ok(());
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }

    fn is_ready(&self) -> Result<bool, Error> {
        if self.builder.speaks_tls {
            let log = self.log();
            let new = log.get(self.logged_before..).unwrap_or_default();
            return Ok(new.contains("\"message\":\"ready\""));
        }
        let answer = Connection::open(&self.address())?.request("GET", "/healthz", &[], b"")?;
        Ok(answer.status == 200)
    }

    #[track_caller]
    fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        number.expect("/proc knows the memory")
    }

    fn config_path(&self) -> PathBuf {
        self.scratch.path().join("config.yaml")
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("service.log")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            kill_quietly(child);
        }
        if std::thread::panicking() {
            let log = self.log();
            let start = log.ceil_char_boundary(log.len().saturating_sub(LOG_TAIL_BYTES));
            eprintln!(
                "--- the end of the service's log ---\n{}",
                log.get(start..).unwrap_or_default()
            );
        }
    }
}

/// It may be gone already; then there is nothing to do.
fn kill_quietly(child: &mut Child) {
    if child.kill().is_ok() {
        let _status = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_that_fails_shows_status_and_log() {
        let script = tempfile::tempdir().unwrap();
        let binary = script.path().join("fails");
        std::fs::write(&binary, "#!/bin/sh\necho \"cannot $1\" >&2\nexit 2\n").unwrap();
        std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let error = Service::builder(&binary).try_start().unwrap_err();
        assert_eq!(error.status.unwrap().code(), Some(2));
        assert_eq!(error.log, "cannot serve\n");

        let exit = Service::builder(&binary).run(&["journal", "verify"]);
        assert_eq!(
            (exit.code, exit.stderr.as_str()),
            (Some(2), "cannot journal\n")
        );
    }
}
