//! The journal that a config names, opened as a service would: to be exported, or to be filled.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::super::operator::Failure;
use crate::config::Config;
use crate::control::Control;
use crate::journal::{self, Journal, OpenedFor, Purpose};
use crate::moving::Route;
use crate::observe::{DoorSaved, Metrics};
use crate::route::Plugins;
use crate::service;

/// How long the server of a journal, and the fleet's table, may take to answer.
const ANSWERS: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// See the module. Nobody else can open one in files meanwhile.
pub(super) struct Opened {
    journal: Arc<dyn Journal>,
    control: Control,
    // The last: what it runs ends before it.
    runtime: Runtime,
}

impl Opened {
    /// One that is there.
    pub(super) fn existing(config: &Config) -> Result<Self, Failure> {
        if !journal::is_made(config) {
            return Err(Failure::failed(format!(
                "there is no journal in {}: no service has run there",
                config.data_dir.display()
            )));
        }
        Self::open(config, Purpose::Look)
    }

    /// One that is empty, and made if it is not there.
    pub(super) fn to_fill(config: &Config) -> Result<Self, Failure> {
        Self::open(config, Purpose::Fill)
    }

    fn open(config: &Config, purpose: Purpose) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        if !journal::is_shared(config) {
            let made = std::fs::create_dir_all(&config.data_dir);
            made.map_err(|error| {
                Failure::failed(format!("{}: {error}", config.data_dir.display()))
            })?;
        }
        let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
        journal::nothing_is_spilled(config).map_err(|error| failed(&error))?;
        let names = config.routes.iter().map(|route| route.name.as_str());
        let opened_for = OpenedFor {
            routes: names.map(str::to_owned).collect(),
            routes_append: false,
            purpose,
            metrics: Arc::new(Metrics::install()),
        };
        let journal = runtime.block_on(journal::open(config, opened_for));
        let journal = journal.map_err(|error| {
            let hint = if error.is_in_use() {
                "; stop the service first"
            } else {
                ""
            };
            Failure::failed(format!("{error}{hint}"))
        })?;
        runtime.block_on(answers(&*journal))?;
        let control = match journal.table() {
            // It trims nothing: that is for those who keep letters.
            Some(table) => {
                let control = Control::start_shared(table, None, u64::MAX, runtime.handle());
                let control = control.map_err(|error| failed(&error))?;
                runtime.block_on(control.up_to_date(ANSWERS))?;
                control
            }
            None => Control::start(&config.data_dir, u64::MAX)?,
        };
        Ok(Self {
            journal,
            control,
            runtime,
        })
    }

    pub(super) fn journal(&self) -> &dyn Journal {
        &*self.journal
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// What all doors have turned away.
    pub(super) fn doors(&self) -> Result<DoorSaved, Failure> {
        let own = self.control.door()?;
        Ok(own.plus(self.control.doors_elsewhere()?))
    }

    /// Replays that are not over.
    pub(super) fn pending_replays(&self) -> Result<u64, Failure> {
        let db = self.control.reader()?;
        let sql =
            "SELECT count(DISTINCT coalesce(number, id)) FROM replays WHERE state = 'pending'";
        let count = db.query_row(sql, [], |row| row.get::<_, i64>(0))?;
        Ok(count.cast_unsigned())
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Closes it in order.
    pub(super) fn close(self) {
        self.runtime.block_on(self.journal.close());
    }
}

/// Waits until whoever keeps the journal answers.
async fn answers(journal: &dyn Journal) -> Result<(), Failure> {
    let until = tokio::time::Instant::now() + ANSWERS;
    loop {
        let seen = journal.refresh().await;
        let status = journal.status();
        if seen.is_ok() && status.state != "unhealthy" {
            return Ok(());
        }
        if tokio::time::Instant::now() >= until {
            let reason = seen.err().map(|error| error.to_string());
            let reason = status.reason.or(reason).unwrap_or_default();
            return Err(Failure::failed(format!(
                "the journal is not available: {reason}"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The routes of a config, with plug-ins that run nowhere.
pub(super) fn routes(config: &Config) -> Result<Vec<(Route, Plugins)>, Failure> {
    let mut routes = Vec::with_capacity(config.routes.len());
    for (place, route) in config.routes.iter().enumerate() {
        let plugins = service::plugins_of_route(config, place).map_err(|errors| {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            Failure::wrong(lines.join("\n"))
        })?;
        let processors = plugins.processors.iter();
        let route = Route {
            name: route.name.as_str().to_owned(),
            sink: route.sink.kind.clone(),
            processors: processors.map(|(name, _)| name.clone()).collect(),
            remembers_offsets: plugins.sink.remembers_offsets(),
        };
        routes.push((route, plugins));
    }
    Ok(routes)
}
