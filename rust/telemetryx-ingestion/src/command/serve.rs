//! `telemetryx serve`: runs the service until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::WRONG;
use crate::config::{self, Config};
use crate::observe;
use crate::service::{Service, StartError};

/// Exit code when a second signal ends the drain.
const HURRIED: u8 = 130;

/// Serves until SIGINT or SIGTERM, then drains; a second signal ends it at once.
#[must_use]
pub fn run(path: Option<PathBuf>) -> ExitCode {
    observe::init_logs();
    let config = match Config::load(path.as_deref(), config::environment()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(WRONG);
        }
    };
    raise_file_limit();
    let service = match Service::start(&config) {
        Ok(service) => service,
        Err(error) => {
            eprintln!("telemetryx: {error}");
            return ExitCode::from(if matches!(error, StartError::Plugins(_)) { WRONG } else { 1 });
        }
    };
    let signals = service.handle().block_on(async {
        Some((signal(SignalKind::interrupt()).ok()?, signal(SignalKind::terminate()).ok()?))
    });
    let Some((mut interrupt, mut terminate)) = signals else {
        eprintln!("telemetryx: cannot wait for signals");
        return ExitCode::FAILURE;
    };
    service.handle().block_on(either(&mut interrupt, &mut terminate));
    service.handle().spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        tracing::warn!("second signal: ending at once; nothing acknowledged is lost");
        std::process::exit(HURRIED.into());
    });
    service.shut_down();
    ExitCode::SUCCESS
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
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
