//! `telemetryx serve`: runs the service until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::WRONG;
use super::complain;
use crate::config::{self, Config};
use crate::observe;
use crate::service::{self, Service};

/// Exit code when a second signal ends the drain.
const HURRIED: u8 = 130;

/// Serves until SIGINT or SIGTERM, then drains; a second signal ends it at once.
#[must_use]
pub fn run(path: Option<PathBuf>) -> ExitCode {
    observe::init_logs();
    // Before anything else: a signal that comes during the start is not lost.
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("telemetryx: cannot wait for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let loaded = Config::load_with_plugins(
        path.as_deref(),
        config::environment(),
        service::check_plugins,
    );
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return ExitCode::from(WRONG);
        }
    };
    raise_file_limit();
    let service = match Service::start(&config) {
        Ok(service) => service,
        Err(error) => {
            complain(format_args!("telemetryx: {error}"));
            return ExitCode::FAILURE;
        }
    };
    signals.wait();
    std::thread::spawn(move || {
        signals.wait();
        tracing::warn!("second signal: ending at once; nothing acknowledged is lost");
        std::process::exit(HURRIED.into());
    });
    service.shut_down();
    ExitCode::SUCCESS
}

/// SIGINT and SIGTERM, on a runtime of their own: heard however busy the service is.
struct Signals {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        drop(entered);
        Ok(Self {
            runtime,
            interrupt,
            terminate,
        })
    }

    /// Waits for the next one.
    fn wait(&mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
    }
}

/// As many open files as the system lets us have: each connection is one.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
