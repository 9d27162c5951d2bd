//! `sqlite`: raw events in one file, stored once by id; answers `/events`.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the sink: one transaction a batch |
//! | `schema.rs` | tables, indexes, and how a connection is set up |
//! | `retention.rs` | removing what is too old or too much |
//! | `reading.rs` | `/events` |
//!
//! A batch is one transaction; they are synced together before the route's cursor moves past them. A redelivered event meets its own id and is skipped.

mod reading;
mod retention;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use serde::Deserialize;
use telemetryx_common::{Event, Source};

use self::reading::SqliteEvents;
use self::retention::Retention;
use super::{DeliverError, Sink, SinkContext, SinkFactory};
use crate::config::{ByteSize, Duration};
use crate::plugin::{PluginError, settings};
use crate::query::EventStore;
use crate::route::EventBatch;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SqliteConfig {
    path: Option<PathBuf>,
    retain: RetainConfig,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetainConfig {
    age: Option<Duration>,
    bytes: Option<ByteSize>,
}

struct SqliteSink {
    path: PathBuf,
    writer: Mutex<Writer>,
    events: Arc<SqliteEvents>,
}

struct Writer {
    connection: Option<Connection>,
    /// A sync of the log failed: the next one may report success though pages are gone. What the log holds must first be
    /// written into the file and synced there.
    log_is_doubtful: bool,
    retention: Retention,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: SqliteConfig = settings(parameters)?;
    let path = config
        .path
        .unwrap_or_else(|| context.data_dir.join(format!("{}.db", context.route)));
    Ok(Box::new(SqliteSink {
        events: Arc::new(SqliteEvents::new(path.clone())),
        writer: Mutex::new(Writer {
            connection: None,
            log_is_doubtful: false,
            retention: Retention::new(&config.retain),
        }),
        path,
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "sqlite",
        constructor: construct,
        flush_interval: std::time::Duration::from_millis(200),
    }
}

#[async_trait]
impl Sink for SqliteSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        tokio::task::block_in_place(|| {
            self.with_connection(|connection| insert(connection, batch.events()))
        })
    }

    async fn flush(&self) -> Result<(), DeliverError> {
        tokio::task::block_in_place(|| {
            // A checkpoint moves transactions from the log into the file: not between the two.
            let mut writer = self.writer.lock();
            let failed = |error: &dyn std::fmt::Display| {
                DeliverError::Retryable(format!("{}: {error}", self.path.display()))
            };
            if writer.log_is_doubtful {
                if let Some(connection) = &writer.connection {
                    schema::checkpoint(connection).map_err(|error| failed(&error))?;
                }
                writer.log_is_doubtful = false;
            }
            schema::sync_wal(&self.path).map_err(|error| {
                writer.log_is_doubtful = true;
                failed(&error)
            })
        })
    }

    async fn check(&self) -> Result<(), DeliverError> {
        tokio::task::block_in_place(|| {
            self.with_connection(|connection| connection.query_row("SELECT 1", [], |_| Ok(())))
        })
    }

    fn events(&self) -> Option<Arc<dyn EventStore>> {
        Some(Arc::clone(&self.events) as Arc<dyn EventStore>)
    }
}

impl SqliteSink {
    /// Runs `work` on the writing connection, opening it if needed. After an error the connection is opened anew: the
    /// file may have been replaced, or its disk have come back.
    fn with_connection(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
    ) -> Result<(), DeliverError> {
        let mut writer = self.writer.lock();
        let Writer {
            connection,
            retention,
            ..
        } = &mut *writer;
        let done = match connection {
            Some(open) => work(open).and_then(|()| retention.apply(open, Instant::now())),
            None => schema::open_writer(&self.path).and_then(|mut open| {
                work(&mut open)?;
                retention.apply(&open, Instant::now())?;
                *connection = Some(open);
                Ok(())
            }),
        };
        done.map_err(|error| {
            *connection = None;
            DeliverError::Retryable(format!("{}: {error}", self.path.display()))
        })
    }
}

fn insert(connection: &mut Connection, events: &[Event<'_>]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO events (id, ts, type, source, schema_version, partition_key, attributes, payload, received_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
        )?;
        let mut attributes = Vec::new();
        for event in events {
            let source: &dyn rusqlite::ToSql = match &event.source {
                Source::Name(name) => name,
                Source::Number(number) => &schema::SourceNumber(*number),
            };
            let attributes = if event.attributes.is_empty() {
                None
            } else {
                attributes.clear();
                telemetryx_common::json::write_attributes(event, &mut attributes);
                std::str::from_utf8(&attributes).ok()
            };
            insert.execute(params![
                event.id,
                event.ts.unix_nanos(),
                event.event_type.as_str(),
                source,
                event.schema_version,
                event.partition_key,
                attributes,
                event.payload,
                event.received_at.unix_nanos(),
            ])?;
        }
    }
    transaction.commit()
}
