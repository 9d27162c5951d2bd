//! `clickhouse`: raw events in a table of ClickHouse, over its HTTP interface.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | settings and the sink |
//! | `server.rs` | statements and answers over HTTP, versions |
//! | `table.rs` | the tables, in the form of today's servers and of old ones |
//! | `writing.rs` | a batch as one insert, exactly once |
//! | `rows.rs` | events as rows of `RowBinary` |
//!
//! ClickHouse has no transactions. What makes a batch come once: each row has the offset that its event has in the journal,
//! so what is there already can be asked for; and each insert carries the number of its writer and fails if there is a
//! newer one, so that none that was given up can come late. `writing.rs` has the order of steps.

mod rows;
mod server;
mod table;
mod writing;

use std::path::PathBuf;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::server::{Login, Server};
use self::table::{PartitionBy, Table};
use self::writing::Writer;
use super::secret::SinkSecret;
use super::tls::TlsFiles;
use super::web::{Web, WebConfig};
use super::{DeliverError, Sink, SinkContext, SinkFactory};
use crate::config::{Duration, Secret};
use crate::plugin::{PluginError, settings};
use crate::route::{Cause, EventBatch};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClickhouseConfig {
    url: Option<Secret>,
    url_file: Option<PathBuf>,
    user: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    #[serde(default = "default_database")]
    database: String,
    #[serde(default = "default_table")]
    table: String,
    #[serde(default)]
    partition: PartitionBy,
    tls: Option<TlsFiles>,
    timeout: Option<Duration>,
}

fn default_database() -> String {
    "default".to_owned()
}

fn default_table() -> String {
    "events".to_owned()
}

struct ClickhouseSink {
    route: String,
    server: Server,
    table: Table,
    writer: tokio::sync::Mutex<Option<Writer>>,
    /// The journal that the route reads, once it is known.
    log: Mutex<Option<u128>>,
}

/// What is saved with the route's cursor.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// Hexadecimal.
    log: String,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: ClickhouseConfig = settings(parameters)?;
    let mut mistakes = Vec::new();
    for (key, name) in [("database", &config.database), ("table", &config.table)] {
        if name.is_empty() || name.len() > table::NAME_BYTES_MAX || name.contains('\0') {
            let most = table::NAME_BYTES_MAX;
            mistakes.push(format!("`{key}`: a name has 1 to {most} bytes"));
        }
    }
    let password = SinkSecret::of("password", config.password, config.password_file);
    let password = password.unwrap_or_else(|error| {
        mistakes.push(error.to_string());
        None
    });
    let has_login = config.user.is_some() || password.is_some();
    let login = Login {
        user: config
            .user
            .or_else(|| has_login.then(|| "default".to_owned())),
        password,
    };
    let web = Web::new(WebConfig {
        url: config.url,
        url_file: config.url_file,
        tls: config.tls,
        timeout: config.timeout,
        ..WebConfig::default()
    });
    let web = match web {
        Ok(web) => {
            if has_login && web.has_login() {
                mistakes.push(
                    "`url` has a user, and `user` or `password` is set as well: leave one out"
                        .to_owned(),
                );
            }
            Some(web)
        }
        Err(found) => {
            mistakes.extend(found);
            None
        }
    };
    let Some(web) = web.filter(|_| mistakes.is_empty()) else {
        return Err(PluginError::Several(mistakes));
    };
    Ok(Box::new(ClickhouseSink {
        route: context.route.to_owned(),
        server: Server::new(web, login),
        table: Table::new(&config.database, &config.table, config.partition),
        writer: tokio::sync::Mutex::default(),
        log: Mutex::default(),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "clickhouse",
        constructor: construct,
        // Each insert is a part that the server has to merge later: few large ones are better.
        flush_interval: std::time::Duration::from_secs(1),
    }
}

#[async_trait]
impl Sink for ClickhouseSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let log = match batch.cause() {
            Cause::Journal(stretch) => stretch.log,
            Cause::Redrive(letter) => letter.log,
            // Of the journal that the route reads.
            Cause::Replay => self.log.lock().ok_or_else(|| {
                let reason = "a replay waits until the route has delivered something";
                DeliverError::Retryable(reason.to_owned())
            })?,
        };
        *self.log.lock() = Some(log);
        let mut slot = self.writer.lock().await;
        let mut writer = match slot.take() {
            Some(writer) if writer.is_of(log) => writer,
            _ => Writer::open(&self.server, &self.table, &self.route, log).await?,
        };
        let done = writer.store(&self.server, &self.table, batch).await;
        // After an error nobody knows what became of it: the next one is told by another writer.
        match &done {
            Ok(()) => *slot = Some(writer),
            Err(DeliverError::Refused { .. }) => {
                // Somebody may have changed the table since it was looked at: that is no event's fault.
                self.table.ready(&self.server).await?;
                *slot = Some(writer);
            }
            Err(_) => {}
        }
        done
    }

    async fn check(&self) -> Result<(), DeliverError> {
        self.table.ready(&self.server).await.map(drop)
    }

    fn not_before(&self) -> Option<Instant> {
        self.server.web().not_before()
    }

    fn save(&self) -> Option<Value> {
        let log = (*self.log.lock())?;
        let log = format!("{log:032x}");
        serde_json::to_value(Saved { log }).ok()
    }

    fn remembers_offsets(&self) -> bool {
        true
    }

    fn moved(&self, _state: Value) -> Value {
        // It is about the log of the former journal.
        Value::Null
    }

    fn restore(&self, state: Value) -> Result<(), PluginError> {
        if state.is_null() {
            return Ok(());
        }
        let wrong = |error: &dyn std::fmt::Display| {
            PluginError::Settings(format!("what was saved of ClickHouse: {error}"))
        };
        let saved: Saved = serde_json::from_value(state).map_err(|error| wrong(&error))?;
        let log = u128::from_str_radix(&saved.log, 16).map_err(|error| wrong(&error))?;
        *self.log.lock() = Some(log);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
