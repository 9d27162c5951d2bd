//! `parquet`: raw events as Parquet files in an object store (S3, GCS, Azure) or a folder, one file for each type and hour of
//! a piece of the route's events.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | settings and the sink |
//! | `writer.rs` | which events go into which piece, and how pieces get into the store |
//! | `plan.rs` | what is recorded before a piece is written, so that a crash leaves neither gap nor double |
//! | `piece.rs` | a piece: files that are encoded as rows come |
//! | `rows.rs` | the schema, and events as columns |
//! | `names.rs` | folders and names |
//! | `location.rs` | where the store is, and who we are there |
//! | `store.rs` | what is done with it |
//! | `http.rs` | connections: TLS and deadlines |

mod http;
mod location;
mod names;
mod piece;
mod plan;
mod rows;
mod store;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use self::location::Location;
use self::store::Store;
use self::writer::{Roll, Writer};
use super::tls::TlsFiles;
use super::{DeliverError, Sink, SinkContext, SinkFactory, timeout};
use crate::config::{ByteSize, Duration};
use crate::plugin::{PluginError, settings};
use crate::route::{Cause, EventBatch};

const TIMEOUT: Duration = Duration::secs(10);
const ROLL_BYTES_MIN: u64 = 64 << 10;
const ROLL_BYTES_MAX: u64 = 1 << 30;
const ROLL_AGE_MIN: std::time::Duration = std::time::Duration::from_millis(10);
const ROLL_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ParquetConfig {
    url: String,
    #[serde(default)]
    options: BTreeMap<String, toml::Value>,
    #[serde(default)]
    roll: RollConfig,
    tls: Option<TlsFiles>,
    timeout: Option<Duration>,
}

/// When a piece is written: the first that is reached.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RollConfig {
    bytes: ByteSize,
    age: Duration,
}

impl Default for RollConfig {
    fn default() -> Self {
        Self {
            bytes: ByteSize::mib(128),
            age: Duration::secs(60),
        }
    }
}

impl RollConfig {
    fn limits(&self) -> Result<Roll, PluginError> {
        let wrong = |key, between| {
            Err(PluginError::Settings(format!(
                "`roll.{key}`: it lies between {between}"
            )))
        };
        if !(ROLL_BYTES_MIN..=ROLL_BYTES_MAX).contains(&self.bytes.bytes()) {
            return wrong("bytes", "64KiB and 1GiB");
        }
        let age = std::time::Duration::from(self.age);
        if !(ROLL_AGE_MIN..=ROLL_AGE_MAX).contains(&age) {
            return wrong("age", "10ms and 1d");
        }
        Ok(Roll {
            bytes: self.bytes.as_usize(),
            age,
        })
    }
}

struct ParquetSink {
    route: String,
    roll: Roll,
    location: Location,
    open: Mutex<Open>,
    shared: parking_lot::Mutex<Shared>,
}

/// What one delivery or flush at a time works with.
struct Open {
    /// Opened anew after each error: secrets and certificates may have changed.
    store: Option<Arc<Store>>,
    writer: Writer,
}

/// What is told without waiting.
#[derive(Default)]
struct Shared {
    due: Option<Instant>,
    /// What is kept must not be written yet.
    rebuilding: bool,
    /// The route has gone back: what is kept is to be forgotten.
    forget: bool,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: ParquetConfig = settings(parameters)?;
    let roll = config.roll.limits()?;
    let timeout = timeout::checked("timeout", config.timeout, TIMEOUT, timeout::BOUNDS)
        .map_err(PluginError::Settings)?;
    Ok(Box::new(ParquetSink {
        route: context.route.to_owned(),
        roll,
        location: Location::new(&config.url, config.options, config.tls, timeout)?,
        open: Mutex::new(Open {
            store: None,
            writer: Writer::new(context.route, roll),
        }),
        shared: parking_lot::Mutex::default(),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "parquet",
        constructor: construct,
        flush_interval: std::time::Duration::from_millis(200),
    }
}

#[async_trait]
impl Sink for ParquetSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        self.work(async |writer, store| match batch.cause() {
            Cause::Journal(stretch) => {
                writer.open(store, stretch).await?;
                let taken = tokio::task::block_in_place(|| writer.take(batch, stretch));
                taken.map_err(str::to_owned)
            }
            Cause::Redrive(letter) => writer::write_letter(&self.route, store, batch, letter).await,
            Cause::Replay => Err("it takes no replay".to_owned()),
        })
        .await?;
        if matches!(batch.cause(), Cause::Redrive(_)) {
            // The letter is settled with the next commit.
            self.hurry();
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), DeliverError> {
        if self.keeps_until().is_none() {
            return Ok(());
        }
        self.work(async |writer, store| writer.flush(store).await)
            .await
    }

    fn keeps_until(&self) -> Option<Instant> {
        self.shared.lock().due
    }

    fn hurry(&self) {
        let mut shared = self.shared.lock();
        if shared.due.is_some() && !shared.rebuilding {
            shared.due = Some(Instant::now());
        }
    }

    fn tries_for_ever(&self) -> bool {
        // Whatever fails is the store, or the way to it.
        true
    }

    async fn check(&self) -> Result<(), DeliverError> {
        self.work(async |_, store| store.check(&self.route).await)
            .await
    }

    fn restore(&self, _state: Value) -> Result<(), PluginError> {
        *self.shared.lock() = Shared {
            forget: true,
            ..Shared::default()
        };
        Ok(())
    }

    fn remembers_offsets(&self) -> bool {
        true
    }

    fn refuses_replay(&self) -> Option<&'static str> {
        Some(
            "the `parquet` sink adds files: delivered again, events would be there twice; \
             to write anew what the journal still has, give the route a new name",
        )
    }
}

impl ParquetSink {
    /// Runs `work`, and tells until when the writer keeps what it has then.
    async fn work(
        &self,
        work: impl AsyncFnOnce(&mut Writer, &Store) -> Result<(), String>,
    ) -> Result<(), DeliverError> {
        let mut open = self.open.lock().await;
        let Open { store, writer } = &mut *open;
        if std::mem::take(&mut self.shared.lock().forget) {
            *writer = Writer::new(&self.route, self.roll);
        }
        let done = match self.opened(store) {
            Ok(opened) => work(writer, &opened).await,
            Err(why) => Err(why),
        };
        if done.is_err() {
            *store = None;
        }
        let mut shared = self.shared.lock();
        shared.due = writer.due();
        shared.rebuilding = writer.is_rebuilding();
        drop(shared);
        done.map_err(DeliverError::Retryable)
    }

    fn opened(&self, slot: &mut Option<Arc<Store>>) -> Result<Arc<Store>, String> {
        if let Some(store) = slot {
            return Ok(Arc::clone(store));
        }
        let opened = tokio::task::block_in_place(|| self.location.open());
        let opened = Arc::new(opened.map_err(|error| error.to_string())?);
        *slot = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests;
