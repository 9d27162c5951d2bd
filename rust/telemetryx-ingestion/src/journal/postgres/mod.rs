//! The engine `postgres`: tables of PostgreSQL, which any number of processes may write and read.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | [`PostgresJournal`] |
//! | `settings.rs` | what the config says, checked |
//! | `schema.rs` | the tables: made if they are missing |
//! | `link.rs` | a connection that is opened again after it was lost |
//! | `core.rs` | what all parts share; the look at the tables, every `poll_interval` |
//! | `seen.rs` | what was last seen |
//! | `listen.rs` | what processes tell each other as it happens |
//! | `append.rs` | batches taken apart by partition, waiting to be written |
//! | `writer.rs` | writes all that waits with one commit |
//! | `lease.rs`, `members.rs`, `share.rs` | leases, and who reads which partitions |
//! | `failures.rs` | deliveries that failed, for whoever looks |
//! | `assignment.rs` | a partition that this process reads |
//! | `subscription.rs` | one reading of a partition, from its last commit |
//! | `reading.rs` | rows by offset; reads without a position of its own; offsets by time |
//! | `keeper.rs` | the pieces of the queue come and go |
//! | `table.rs` | what all processes know alike |
//!
//! An append resolves when the transaction is committed that wrote it, and with it all that waited. Offsets are counters in
//! rows that the transaction locks, so they are given in the order of commits: who reads never sees one before another that is
//! yet to come.

mod append;
mod assignment;
mod core;
mod failures;
mod keeper;
mod lease;
mod link;
mod listen;
mod members;
mod reading;
mod schema;
mod seen;
mod settings;
mod share;
mod subscription;
mod table;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use telemetryx_common::Timestamp;
use tokio::runtime::{Builder, Runtime};

use self::core::Core;
use self::settings::Settings;
use self::table::ControlTable;
use super::{
    AppendError, Assignments, Backlog, BatchLimit, Committed, Delivery, Durability, EncodedBatch,
    Extent, Journal, JournalError, JournalStatus, Position, SharedTable,
};
use crate::config::PostgresJournalConfig;
use crate::observe::Metrics;

/// How long the start waits for the server before it goes on without.
const START_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the end of a handle that was not closed takes at the most.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// The largest batch.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// What is wrong with these settings, with its key in front; nothing is reached.
#[must_use]
pub fn mistake(config: &PostgresJournalConfig) -> Option<String> {
    Settings::read(config).err()
}

/// The journal in tables.
pub struct PostgresJournal {
    core: Arc<Core>,
    table: Arc<ControlTable>,
    metrics: Arc<Metrics>,
    /// What keeps the lease; it ends once the server knows that this process is gone.
    keeping: parking_lot::Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Threads of its own, which are never as nice as those of the routes: who says too late that it lives loses its
    /// partitions.
    runtime: Option<Runtime>,
}

impl PostgresJournal {
    /// Connects, for these routes. While the server is away it waits for a few seconds; then it goes on, unhealthy, and is
    /// healthy once the server is there. `makes`: tables that are missing are made, and kept small.
    ///
    /// # Errors
    /// What is wrong with the settings; without `makes`, that nothing is there.
    pub async fn open(
        config: &PostgresJournalConfig,
        routes: &[String],
        makes: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let settings = Settings::read(config)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("journal")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let handle = runtime.handle().clone();
        let core = Arc::new(Core::new(settings, routes, makes, handle));
        if !makes && core.is_missing().await {
            // Where nothing may wait it cannot just be dropped.
            runtime.shutdown_background();
            return Err(schema::missing(core.settings()));
        }
        let own = || Arc::clone(&core);
        runtime.spawn(writer::write(own(), Arc::clone(&metrics)));
        runtime.spawn(own().keep_looking());
        runtime.spawn(listen::listen(own()));
        runtime.spawn(failures::keep(own()));
        if makes {
            runtime.spawn(keeper::keep(own()));
        }
        let keeping = runtime.spawn(lease::keep(own()));
        tokio::time::timeout(START_WAIT_MAX, core.ready())
            .await
            .ok();
        if let Some(problem) = core.seen().problem() {
            tracing::warn!(
                reason = problem.reason,
                "PostgreSQL is not there yet: nothing is accepted until it is"
            );
        }
        Ok(Self {
            table: Arc::new(ControlTable::new(
                Arc::clone(&core),
                runtime.handle().clone(),
            )),
            core,
            metrics,
            keeping: parking_lot::Mutex::new(Some(keeping)),
            runtime: Some(runtime),
        })
    }
}

#[async_trait]
impl Journal for PostgresJournal {
    async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError> {
        let started = Instant::now();
        self.core.may_append()?;
        let bytes = batch.body.len();
        if bytes > BATCH_BYTES_MAX {
            return Err(AppendError::TooLarge {
                what: "the encoded batch",
                limit: format!("{BATCH_BYTES_MAX} bytes of an append to the queue"),
            });
        }
        let parts = append::parts(batch.body, self.core.seen().partitions());
        let parts = parts.map_err(AppendError::Unwritable)?;
        let position = writer::append(self.core.queue(), self.core.settings(), parts).await;
        self.metrics.append.record(started.elapsed().as_secs_f64());
        position
    }

    fn durability(&self) -> Durability {
        Durability::Committed
    }

    async fn subscribe(&self, route: &str) -> Result<Box<dyn Assignments>, JournalError> {
        members::subscribe(&self.core, route)
    }

    fn identity(&self) -> u128 {
        self.core.seen().identity()
    }

    fn status(&self) -> JournalStatus {
        let seen = self.core.seen();
        let problem = seen.problem();
        let extents = seen.extents();
        let mut warnings = seen.warnings();
        warnings.extend(self.core.members().idle());
        JournalStatus {
            engine: "postgres",
            state: if problem.is_none() { "ok" } else { "unhealthy" },
            since: problem.as_ref().map(|problem| problem.since.to_string()),
            reason: problem.map(|problem| problem.reason),
            start_offset: extents.iter().map(|extent| extent.start).sum(),
            end_offset: extents.iter().map(|extent| extent.end).sum(),
            segments: Some(seen.pieces().len()),
            bytes: seen.bytes(),
            damage: seen.damage(),
            warnings,
            spill: None,
        }
    }

    fn state_bytes_max(&self) -> usize {
        assignment::STATE_BYTES_MAX
    }

    fn backlog(&self) -> Backlog {
        self.core.seen().backlog()
    }

    fn extents(&self) -> Vec<Extent> {
        self.core.seen().extents()
    }

    fn commits(&self, route: &str) -> Vec<Committed> {
        self.core.seen().commits(route)
    }

    async fn refresh(&self) -> Result<(), JournalError> {
        self.core.refresh().await
    }

    async fn scan(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Result<Delivery, JournalError> {
        reading::scan(&self.core, partition, from, to, limit).await
    }

    async fn offset_at(&self, partition: u32, time: Timestamp) -> Result<u64, JournalError> {
        reading::offset_at(&self.core, partition, time).await
    }

    fn table(&self) -> Option<Arc<dyn SharedTable>> {
        Some(Arc::clone(&self.table) as Arc<dyn SharedTable>)
    }

    async fn close(&self) {
        self.core.stop();
        let patience = self.core.settings().patience;
        if tokio::time::timeout(patience, self.core.written())
            .await
            .is_err()
        {
            tracing::error!("not all that waited was committed; nothing acknowledged is lost");
        }
        let keeping = self.keeping.lock().take();
        if let Some(keeping) = keeping {
            tokio::time::timeout(patience, keeping).await.ok();
        }
    }
}

impl Drop for PostgresJournal {
    fn drop(&mut self) {
        self.core.stop();
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        let Some(keeping) = self.keeping.lock().take() else {
            return runtime.shutdown_background();
        };
        // Others shall know soon that this process reads nothing any more.
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::time::timeout(LEAVE_WAIT_MAX, keeping).await.ok();
            });
            runtime.shutdown_background();
        });
    }
}
