//! The service as a child process, and the questions asked of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::command::load::Protocol;
use crate::command::load::http::{Connection, HttpError};
use crate::command::load::target::Target;

/// A start that takes longer than this has failed.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// After SIGTERM the service has this long; its own limit is `shutdown.timeout`, 30 s.
const END_WAIT_MAX: Duration = Duration::from_secs(45);
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// How much of the service's log an error shows.
const LOG_TAIL_BYTES: usize = 2000;
/// Signs notifications of Ring.
pub(super) const RING_KEY: &str = "crash-test";
/// Events asked for at once.
const PAGE_EVENTS: usize = 1000;

/// Why a crash test could not come to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum CrashTestError {
    /// Nothing was started yet.
    #[error("cannot {what}: {source}")]
    Prepare {
        /// What could not be done.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The service ended although nobody told it to, or did not become ready.
    #[error("the service {what}; the end of its log:\n{log_tail}")]
    Service {
        /// What it did.
        what: String,
        /// Its last lines.
        log_tail: String,
    },
    /// The service did not answer a question as the contract says.
    #[error("asked for {path}: {why}")]
    Question {
        /// What was asked for.
        path: String,
        /// What came.
        why: String,
    },
}

/// How to start the service; starts and ends it.
#[derive(Debug)]
pub(super) struct ServiceUnderTest {
    executable: PathBuf,
    dir: PathBuf,
    port: u16,
    tcp_port: u16,
    otlp_http_port: u16,
    otlp_grpc_port: u16,
    child: Option<Child>,
}

/// One route's books.
#[derive(Debug, serde::Deserialize)]
pub(super) struct RouteBooks {
    pub(super) pending: u64,
    pub(super) difference: i64,
}

/// What `/ledger` says, as far as it matters here.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Ledger {
    pub(super) accepted: u64,
    pub(super) routes: BTreeMap<String, RouteBooks>,
}

#[derive(serde::Deserialize)]
struct Stats {
    events_count: u64,
}

#[derive(serde::Deserialize)]
struct EventPage {
    events: Vec<StoredEvent>,
    #[serde(default, alias = "next", alias = "cursor")]
    next_cursor: Option<String>,
}

/// One element of `/events`.
#[derive(serde::Deserialize)]
pub(super) struct StoredEvent {
    pub(super) id: String,
    pub(super) payload: Box<serde_json::value::RawValue>,
}

impl ServiceUnderTest {
    pub(super) fn new(executable: PathBuf, dir: PathBuf) -> Result<Self, CrashTestError> {
        let prepare = |what: String| move |source| CrashTestError::Prepare { what, source };
        std::fs::create_dir_all(&dir).map_err(prepare(format!("make {}", dir.display())))?;
        // The child starts elsewhere: a relative path would point to another place there.
        let dir = dir
            .canonicalize()
            .map_err(prepare(format!("find {}", dir.display())))?;
        let ports = free_ports().map_err(prepare("find free ports".to_owned()))?;
        let [port, tcp_port, otlp_http_port, otlp_grpc_port] = ports;
        let service = Self {
            executable,
            dir,
            port,
            tcp_port,
            otlp_http_port,
            otlp_grpc_port,
            child: None,
        };
        std::fs::write(service.config_path(), service.config())
            .map_err(prepare("write the service's config".to_owned()))?;
        Ok(service)
    }

    /// Where a protocol is spoken.
    pub(super) fn target(&self, protocol: Protocol) -> Target {
        let port = match protocol {
            Protocol::Http | Protocol::Ring => self.port,
            Protocol::Tcp => self.tcp_port,
            Protocol::OtlpHttp => self.otlp_http_port,
            Protocol::OtlpGrpc => self.otlp_grpc_port,
        };
        Target::plain(format!("127.0.0.1:{port}"), protocol.path())
    }

    fn config(&self) -> String {
        let Self { port, tcp_port, .. } = self;
        format!(
            "http: {{ host: 127.0.0.1, port: {port} }}\n\
             tcp: {{ port: {tcp_port} }}\n\
             webhooks: {{ ring: {{ keys: [{RING_KEY}] }} }}\n"
        )
    }

    pub(super) fn start(&mut self) -> Result<(), CrashTestError> {
        let prepare = |what: &str| {
            let what = what.to_owned();
            move |source| CrashTestError::Prepare { what, source }
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.map_err(prepare("open the service's log"))?;
        let mut command = Command::new(&self.executable);
        // The user's settings would make another service of it.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("TELEMETRYX_") || name.starts_with("OTEL_"))
            {
                command.env_remove(name);
            }
        }
        let child = command
            .arg("--config")
            .arg(self.config_path())
            .arg("serve")
            .current_dir(&self.dir)
            .env("TELEMETRYX_DATA_DIR", self.dir.join("data"))
            // Its usual ports may be those of another service.
            .env(
                "TELEMETRYX_OTLP__HTTP_PORT",
                self.otlp_http_port.to_string(),
            )
            .env(
                "TELEMETRYX_OTLP__GRPC_PORT",
                self.otlp_grpc_port.to_string(),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(prepare("start the service"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it answers; says how long that took.
    pub(super) async fn wait_until_ready(&mut self) -> Result<Duration, CrashTestError> {
        let begun = Instant::now();
        loop {
            if matches!(self.get("/healthz").await, Ok((200, _))) {
                return Ok(begun.elapsed());
            }
            self.expect_running()?;
            if begun.elapsed() > READY_WAIT_MAX {
                return Err(self.failure(format!(
                    "was not ready within {} s",
                    READY_WAIT_MAX.as_secs()
                )));
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    pub(super) fn expect_running(&mut self) -> Result<(), CrashTestError> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => Ok(()),
            Some(Ok(Some(status))) => Err(self.failure(format!("ended by itself, {status}"))),
            _ => Err(self.failure("is not there".to_owned())),
        }
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) -> Result<(), CrashTestError> {
        self.expect_running()?;
        if let Some(mut child) = self.child.take() {
            child
                .kill()
                .await
                .map_err(|source| CrashTestError::Prepare {
                    what: "kill it".to_owned(),
                    source,
                })?;
        }
        Ok(())
    }

    /// SIGTERM; says how the service ended, `None` if it had to be killed in the end.
    pub(super) async fn terminate(&mut self) -> Result<Option<ExitStatus>, CrashTestError> {
        self.expect_running()?;
        let Some(mut child) = self.child.take() else {
            return Ok(None);
        };
        let signal = |source: std::io::Error| CrashTestError::Prepare {
            what: "signal it".to_owned(),
            source,
        };
        let pid = child
            .id()
            .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .map_err(|errno| signal(errno.into()))?;
        }
        match tokio::time::timeout(END_WAIT_MAX, child.wait()).await {
            Ok(status) => status.map(Some).map_err(signal),
            Err(_) => child.kill().await.map(|()| None).map_err(signal),
        }
    }

    pub(super) async fn ledger(&self) -> Result<Ledger, CrashTestError> {
        self.ask("/ledger").await
    }

    pub(super) async fn events_counted(&self) -> Result<u64, CrashTestError> {
        self.ask("/stats")
            .await
            .map(|stats: Stats| stats.events_count)
    }

    /// The lines of `ledger_difference` in `/metrics` that are not 0.
    pub(super) async fn differences_in_metrics(&self) -> Result<Vec<String>, CrashTestError> {
        let path = "/metrics";
        let (status, body) = self
            .get(path)
            .await
            .map_err(|error| unanswered(path, &error))?;
        if status != 200 {
            return Err(CrashTestError::Question {
                path: path.to_owned(),
                why: format!("answered {status}"),
            });
        }
        let text = String::from_utf8_lossy(&body);
        let lines = text
            .lines()
            .filter(|line| line.starts_with("ledger_difference{") && !line.ends_with(" 0"));
        Ok(lines.map(str::to_owned).collect())
    }

    /// All stored events, page by page, each handed to `seen`.
    pub(super) async fn stored_events(
        &self,
        mut seen: impl FnMut(&StoredEvent),
    ) -> Result<(), CrashTestError> {
        let mut cursor = None::<String>;
        loop {
            let path = match &cursor {
                Some(cursor) => format!("/events?limit={PAGE_EVENTS}&cursor={cursor}"),
                None => format!("/events?limit={PAGE_EVENTS}"),
            };
            let page: EventPage = self.ask(&path).await?;
            page.events.iter().for_each(&mut seen);
            match page.next_cursor {
                Some(next) if !page.events.is_empty() && Some(&next) != cursor.as_ref() => {
                    cursor = Some(next)
                }
                _ => return Ok(()),
            }
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, CrashTestError> {
        let (status, body) = self
            .get(path)
            .await
            .map_err(|error| unanswered(path, &error))?;
        let question = |why: String| CrashTestError::Question {
            path: path.to_owned(),
            why,
        };
        if status != 200 {
            return Err(question(format!(
                "answered {status}: {}",
                String::from_utf8_lossy(&body)
            )));
        }
        serde_json::from_slice(&body).map_err(|error| question(error.to_string()))
    }

    async fn get(&self, path: &str) -> Result<(u16, Vec<u8>), HttpError> {
        let target = Target::plain(format!("127.0.0.1:{}", self.port), path);
        let mut connection = Connection::open(&target).await?;
        connection
            .get(&target.address, &target.path, "application/json")
            .await
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("config.yaml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("service.log")
    }

    fn failure(&self, what: String) -> CrashTestError {
        CrashTestError::Service {
            what,
            log_tail: tail(&self.log_path()),
        }
    }
}

/// Taken together and given back: free a moment ago, and the same ports over all starts, as in real life.
fn free_ports<const COUNT: usize>() -> std::io::Result<[u16; COUNT]> {
    let bind = |_| TcpListener::bind("127.0.0.1:0");
    let taken: Vec<_> = (0..COUNT).map(bind).collect::<Result<_, _>>()?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&taken) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn unanswered(path: &str, error: &HttpError) -> CrashTestError {
    CrashTestError::Question {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}
