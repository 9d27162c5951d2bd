//! Opens the engine that the config names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use telemetryx_journal::JournalView;

#[cfg(feature = "kafka")]
use super::kafka::{KafkaJournal, SpillJournal};
use super::{EmbeddedJournal, Journal};
#[cfg(feature = "kafka")]
use crate::config::Role;
use crate::config::{Config, JournalEngine, KafkaSpill};
use crate::observe::Metrics;

/// Why a journal cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The one in files.
    #[error("the journal in {}: {error}", path.display())]
    Embedded {
        /// Its directory.
        path: PathBuf,
        /// Why.
        error: telemetryx_journal::OpenError,
    },
    /// The one in a topic of Kafka.
    #[error("the journal in Kafka: {0}")]
    Kafka(String),
    /// The one in tables of PostgreSQL.
    #[error("the journal in PostgreSQL: {0}")]
    Postgres(String),
    /// What the one in a topic of Kafka keeps on this machine.
    #[error("the spill in {}: {error}", path.display())]
    Spill {
        /// Its directory.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

impl OpenError {
    /// True if another process has it open.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let Self::Embedded { error, .. } = self else {
            return false;
        };
        matches!(error, telemetryx_journal::OpenError::Locked { .. })
    }
}

/// Who opens a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A service.
    Serve,
    /// An import, which fills one that is empty; what is missing is made.
    Fill,
    /// An operator's command. It may run beside a service with the same `data_dir`: nothing is opened there, and what a server
    /// keeps is not made.
    Look,
}

/// What a journal is opened for.
pub struct OpenedFor {
    /// The names of the routes.
    pub routes: Vec<String>,
    /// True if routes append events themselves, and cannot get on if there is no room.
    pub routes_append: bool,
    /// By whom.
    pub purpose: Purpose,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// Fails if an earlier run has left accepted events in a spill on this machine's disk, which Kafka does not have yet.
///
/// # Errors
/// [`OpenError::Spill`], which says what to do about them.
#[cfg_attr(
    not(feature = "kafka"),
    allow(clippy::unnecessary_wraps, unused_variables)
)]
pub fn nothing_is_spilled(config: &Config) -> Result<(), OpenError> {
    #[cfg(feature = "kafka")]
    {
        let path = spill_path(config);
        let left = left_over(&path)?;
        if left > 0 {
            let error = format!(
                "it holds {left} accepted events that Kafka does not have yet: run the service with journal.engine: kafka \
                 and journal.kafka.spill: embedded, at least until they are handed over"
            );
            return Err(OpenError::Spill { path, error });
        }
    }
    Ok(())
}

#[cfg(feature = "kafka")]
fn spill_path(config: &Config) -> PathBuf {
    config.data_dir.join("spill").join("journal")
}

#[cfg(feature = "kafka")]
fn left_over(path: &Path) -> Result<u64, OpenError> {
    super::kafka::left_over(path).map_err(|error| OpenError::Spill {
        path: path.to_owned(),
        error,
    })
}

/// Says if a journal in files, which this config does not use, has events that a route has not passed.
fn say_what_is_left(path: &Path) {
    let view = path
        .is_dir()
        .then(|| JournalView::open(path).ok())
        .flatten();
    let Some(view) = view else { return };
    let cursors = view.cursors().unwrap_or_default().into_iter();
    let passed = cursors.filter_map(|cursor| cursor.position.ok()).min();
    let passed = passed.unwrap_or_else(|| view.start());
    let events = view.end().get().saturating_sub(passed.get());
    if events > 0 {
        tracing::warn!(
            events,
            path = %path.display(),
            "an embedded journal lies here with events that not every route has passed, and this config does not use it: carry \
             it over with `telemetryx journal export` and `import`, or start once more with journal.engine: embedded"
        );
    }
}

/// Opens the journal that the config names.
///
/// # Errors
/// [`OpenError`].
pub async fn open(config: &Config, opened_for: OpenedFor) -> Result<Arc<dyn Journal>, OpenError> {
    let spills = config.journal.engine == JournalEngine::Kafka
        && config.journal.kafka.spill == KafkaSpill::Embedded;
    let purpose = opened_for.purpose;
    if purpose == Purpose::Serve && !spills {
        nothing_is_spilled(config)?;
    }
    if purpose == Purpose::Serve && config.journal.engine != JournalEngine::Embedded {
        say_what_is_left(&config.data_dir.join("journal"));
    }
    match config.journal.engine {
        JournalEngine::Embedded => {
            let path = config.data_dir.join("journal");
            let settings = &config.journal.embedded;
            let OpenedFor {
                routes,
                routes_append,
                metrics,
                ..
            } = opened_for;
            let opened = EmbeddedJournal::open(&path, settings, routes_append, metrics);
            let journal = opened.map_err(|error| OpenError::Embedded {
                path: path.clone(),
                error,
            })?;
            for unused in journal.unused_cursors(&routes) {
                tracing::warn!(
                    route = unused,
                    files = %path.join("cursors").join(unused.as_str()).display(),
                    "a route that is not in the config holds back the journal's retention: \
                     add it again, or stop the service and delete its cursor files (.a and .b)"
                );
            }
            Ok(Arc::new(journal))
        }
        #[cfg(feature = "kafka")]
        JournalEngine::Kafka => {
            let OpenedFor {
                routes, metrics, ..
            } = opened_for;
            let settings = &config.journal.kafka;
            if purpose != Purpose::Serve {
                let makes = purpose == Purpose::Fill;
                let opened = KafkaJournal::open(settings, &routes, makes, metrics).await;
                return Ok(Arc::new(opened.map_err(OpenError::Kafka)?));
            }
            let path = spill_path(config);
            let left = left_over(&path)?;
            let opened = KafkaJournal::open(settings, &routes, true, Arc::clone(&metrics)).await;
            let kafka = Arc::new(opened.map_err(OpenError::Kafka)?);
            if settings.spill == KafkaSpill::None {
                return Ok(kafka);
            }
            let accepts = config.has(Role::Ingest);
            let folder = (accepts || left > 0).then_some(&*path);
            let bytes_max = settings.spill_max_bytes.bytes();
            let journal = SpillJournal::open(kafka, folder, accepts, bytes_max, metrics);
            let journal = journal.map_err(|error| OpenError::Spill {
                path: path.clone(),
                error,
            });
            Ok(Arc::new(journal?))
        }
        JournalEngine::Postgres => {
            let OpenedFor {
                routes, metrics, ..
            } = opened_for;
            let settings = &config.journal.postgres;
            let makes = purpose != Purpose::Look;
            let opened = super::postgres::PostgresJournal::open(settings, &routes, makes, metrics);
            let opened = opened.await;
            Ok(Arc::new(opened.map_err(OpenError::Postgres)?))
        }
        #[cfg(not(feature = "kafka"))]
        JournalEngine::Kafka => Err(OpenError::Kafka(
            "this build has no Kafka client".to_owned(),
        )),
    }
}

/// False if the journal that the config names would be made by opening it. One that a server keeps is only known once it
/// is open.
#[must_use]
pub fn is_made(config: &Config) -> bool {
    is_shared(config) || config.data_dir.join("journal").is_dir()
}

/// How an operator makes the journal that the config names an empty one, for a person.
#[must_use]
pub fn how_to_empty(config: &Config) -> String {
    match config.journal.engine {
        JournalEngine::Embedded => {
            let dir = config.data_dir.display();
            format!("with the service stopped, `rm -r {dir}/journal {dir}/control.db*`")
        }
        JournalEngine::Kafka => {
            let topic = &config.journal.kafka.topic;
            format!(
                "with every process of the fleet stopped, delete the topics `{topic}` and `{topic}.control`, or name \
                 another one in `journal.kafka.topic`"
            )
        }
        JournalEngine::Postgres => {
            let schema = &config.journal.postgres.schema;
            format!(
                "with every process of the fleet stopped, `DROP SCHEMA {schema} CASCADE`, or name another one in \
                 `journal.postgres.schema`"
            )
        }
    }
}

/// True if the journal that the config names is one that several processes share: it has a
/// [table](super::SharedTable) then.
#[must_use]
pub fn is_shared(config: &Config) -> bool {
    config.journal.engine != JournalEngine::Embedded
}
