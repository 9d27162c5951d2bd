//! `postgres`: raw events in a table, partitioned by time; answers `/events`.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | settings and the sink |
//! | `schema.rs` | tables, indexes, and their versions |
//! | `partitions.rs` | which partitions there are, and which there should be |
//! | `making.rs` | how one is made |
//! | `writing.rs` | a batch as one transaction: straight into the table, or over a staging table |
//! | `encoding.rs` | events as rows of a binary `COPY` |
//! | `keeping.rs` | retention and partitions ahead, beside the deliveries |
//! | `reading.rs` | `/events` |
//! | `failure.rs` | what the server's errors mean |
//!
//! A transaction holds the rows and how far the route is, so a batch that comes again is known as one. Whatever comes
//! again, rows are unique by id and time, and one that is there is skipped.

mod encoding;
mod failure;
mod keeping;
mod making;
mod partitions;
mod reading;
mod schema;
mod writing;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use self::failure::{Failure, within};
use self::making::Pause;
use self::partitions::PartitionBy;
use self::reading::PostgresEvents;
use self::writing::Writer;
use super::tls::TlsFiles;
use super::{DeliverError, RejectedBySink, Sink, SinkContext, SinkFactory, timeout};
use crate::config::{Duration, Secret};
use crate::plugin::{PluginError, settings};
use crate::postgres::{Connector, NAME_BYTES_MAX, ServerConfig, quoted};
use crate::query::EventStore;
use crate::route::EventBatch;

/// The longest ending that is put behind the table's name.
const ENDING_BYTES_MAX: usize = 16;
/// Partitions that the server still plans for quickly.
const PARTITIONS_MAX: u128 = 2000;
const TIMEOUT: Duration = Duration::secs(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostgresConfig {
    url: Option<Secret>,
    url_file: Option<PathBuf>,
    password_file: Option<PathBuf>,
    tls: Option<TlsFiles>,
    #[serde(default = "default_schema")]
    schema: String,
    #[serde(default = "default_table")]
    table: String,
    #[serde(default)]
    partition: PartitionBy,
    #[serde(default)]
    retain: RetainConfig,
    #[serde(default)]
    payload: PayloadType,
    timeout: Option<Duration>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetainConfig {
    age: Option<Duration>,
}

/// How payloads are kept.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PayloadType {
    /// Byte for byte as they came.
    #[default]
    Json,
    /// As the server takes them apart: can be indexed; order, spaces and equal keys are lost.
    Jsonb,
}

fn default_schema() -> String {
    "public".to_owned()
}

fn default_table() -> String {
    "events".to_owned()
}

/// What is to be stored where.
#[derive(Debug)]
struct Settings {
    route: String,
    schema_name: String,
    table_name: String,
    /// These are quoted, with the schema.
    schema: String,
    events: String,
    positions: String,
    migrated: String,
    payload: PayloadType,
    partition: PartitionBy,
    retain: Option<std::time::Duration>,
    /// The longest wait for a connection, and for a batch.
    timeout: std::time::Duration,
}

impl Settings {
    fn new(config: &PostgresConfig, route: &str) -> Result<Self, PluginError> {
        for (key, name, most) in [
            ("schema", &config.schema, NAME_BYTES_MAX),
            ("table", &config.table, NAME_BYTES_MAX - ENDING_BYTES_MAX),
        ] {
            if name.is_empty() || name.len() > most || name.contains('\0') {
                return Err(PluginError::Settings(format!(
                    "`{key}`: a name has 1 to {most} bytes"
                )));
            }
        }
        let timeout = timeout::checked("timeout", config.timeout, TIMEOUT, timeout::BOUNDS)
            .map_err(PluginError::Settings)?;
        let retain = config.retain.age.map(std::time::Duration::from);
        if let (Some(age), Some(length)) = (retain, config.partition.length())
            && age.as_micros() / length.as_micros() > PARTITIONS_MAX
        {
            return Err(PluginError::Settings(format!(
                "`retain.age`: it takes more than {PARTITIONS_MAX} partitions: make each longer with `partition`"
            )));
        }
        let schema = quoted(&config.schema, '"');
        let table = |name: &str| format!("{schema}.{}", quoted(name, '"'));
        Ok(Self {
            route: route.to_owned(),
            events: table(&config.table),
            positions: table("telemetryx_positions"),
            migrated: table("telemetryx_migrations"),
            schema_name: config.schema.clone(),
            table_name: config.table.clone(),
            schema,
            payload: config.payload,
            partition: config.partition,
            retain,
            timeout,
        })
    }

    /// The name of something that belongs to the table.
    fn beside_name(&self, ending: &str) -> String {
        format!("{}{ending}", self.table_name)
    }

    fn default_partition(&self) -> String {
        self.qualified(&self.beside_name("_default"))
    }

    /// A name in the table's schema, for SQL.
    fn qualified(&self, name: &str) -> String {
        format!("{}.{}", self.schema, quoted(name, '"'))
    }
}

struct PostgresSink {
    shared: Arc<Shared>,
    writer: Mutex<Option<Writer>>,
    events: Arc<PostgresEvents>,
    keeper: OnceLock<JoinHandle<()>>,
}

/// What all connections share.
struct Shared {
    connector: Connector,
    settings: Settings,
    pause: Pause,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: PostgresConfig = settings(parameters)?;
    let settings = Settings::new(&config, context.route)?;
    let server = ServerConfig {
        url: config.url,
        url_file: config.url_file,
        password_file: config.password_file,
        tls: config.tls,
    };
    let shared = Arc::new(Shared {
        connector: Connector::new(server, settings.timeout)?,
        settings,
        pause: Pause::default(),
    });
    Ok(Box::new(PostgresSink {
        events: Arc::new(PostgresEvents::new(Arc::clone(&shared))),
        shared,
        writer: Mutex::new(None),
        keeper: OnceLock::new(),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "postgres",
        constructor: construct,
        flush_interval: std::time::Duration::from_millis(200),
    }
}

#[async_trait]
impl Sink for PostgresSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let rejected = too_large_versions(batch);
        if !rejected.is_empty() {
            return Err(DeliverError::Rejected(rejected));
        }
        self.with_writer(async |writer| writer.store(&self.shared, batch).await)
            .await
    }

    async fn check(&self) -> Result<(), DeliverError> {
        self.with_writer(async |writer| writer.check().await).await
    }

    fn events(&self) -> Option<Arc<dyn EventStore>> {
        Some(Arc::clone(&self.events) as Arc<dyn EventStore>)
    }
}

impl PostgresSink {
    /// Runs `work` on the writing connection, opening it if needed. After an error it is opened anew: who answers there
    /// may be another server by then.
    async fn with_writer(
        &self,
        work: impl AsyncFnOnce(&mut Writer) -> Result<(), Failure>,
    ) -> Result<(), DeliverError> {
        let mut slot = self.writer.lock().await;
        let mut writer = match slot.take() {
            Some(writer) => writer,
            None => Writer::open(&self.shared).await?,
        };
        self.keeper.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move { keeping::keep(&shared).await })
        });
        let done = within(self.shared.settings.timeout, work(&mut writer)).await;
        if matches!(done, Ok(()) | Err(Failure::Refused { .. })) {
            *slot = Some(writer);
        }
        Ok(done?)
    }
}

impl Drop for PostgresSink {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
    }
}

/// The column has 31 bits; a version may have 32.
fn too_large_versions(batch: &EventBatch<'_>) -> Vec<RejectedBySink> {
    let events = batch.events().iter().enumerate();
    events
        .filter(|(_, event)| i32::try_from(event.schema_version).is_err())
        .map(|(index, event)| RejectedBySink {
            index,
            code: "out_of_range",
            message: format!(
                "schema_version {} is more than an integer of PostgreSQL holds, 2147483647",
                event.schema_version
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests;
