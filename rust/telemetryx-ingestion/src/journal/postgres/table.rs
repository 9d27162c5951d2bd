//! What all processes know alike: a row a name. Changes are numbered under the lock of one row, which is held until they are
//! committed: whoever has seen a number has seen all before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::{Entry, Followed, JournalError, SharedTable, TableChange};
use super::core::Core;
use super::link::Fault;

/// Rows that are read at once.
const ROWS_MAX: i64 = 64;
/// Changes that wait for one who follows.
const WAITING_MAX: usize = 256;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

const PUT: &str = "WITH counted AS (UPDATE {s}.journal SET sequence = sequence + $3 RETURNING sequence), \
    put AS (INSERT INTO {s}.control (name, sequence, value, changed_at) \
        SELECT name, counted.sequence - $3 + number, value, clock_timestamp() \
        FROM counted, unnest($1::text[], $2::bytea[], $4::bigint[]) AS new (name, value, number) \
        ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence, value = excluded.value, \
        changed_at = excluded.changed_at) \
    SELECT sequence, pg_notify({channel}, 't ' || sequence) FROM counted";
const CHANGES: &str =
    "SELECT name, sequence, value FROM {s}.control WHERE sequence > $1 ORDER BY sequence LIMIT $2";
/// Names that are gone are forgotten after a while; who was cut off for longer may keep them until it starts anew.
const FORGET: &str = "DELETE FROM {s}.control WHERE value IS NULL AND changed_at < clock_timestamp() - interval '7 days'";

/// The table of a journal.
pub(super) struct ControlTable {
    core: Arc<Core>,
    runtime: tokio::runtime::Handle,
}

impl ControlTable {
    /// Who follows is told of on a thread; what is told is read on this runtime.
    pub(super) fn new(core: Arc<Core>, runtime: tokio::runtime::Handle) -> Self {
        Self { core, runtime }
    }
}

/// Forgets names that are gone since long.
pub(super) async fn tidy(core: &Core) -> Result<(), Fault> {
    core.books().rows(FORGET, &[]).await.map(|_| ())
}

#[async_trait]
impl SharedTable for ControlTable {
    async fn put(&self, entries: Vec<Entry>) -> Result<u64, JournalError> {
        if !self.core.is_ready() {
            self.core.refresh().await?;
        }
        let count = entries.len() as i64;
        // A row changes once in a statement: of equal names the last counts.
        let mut last: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
        for (place, (name, _)) in entries.iter().enumerate() {
            last.insert(name, place);
        }
        let (mut names, mut values, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (name, value)) in entries.iter().enumerate() {
            if last.get(name.as_str()) == Some(&place) {
                names.push(name.as_str());
                values.push(value.as_deref());
                numbers.push(place as i64 + 1);
            }
        }
        let put = self
            .core
            .books()
            .rows(PUT, &[&names, &values, &count, &numbers])
            .await?;
        let sequence = put
            .first()
            .map_or(0, |row| row.get::<_, i64>(0))
            .unsigned_abs();
        self.core.seen().set_changed(sequence);
        Ok(sequence)
    }

    fn follow(
        &self,
        mut on: Box<dyn FnMut(TableChange) + Send>,
    ) -> Result<Box<dyn Followed>, JournalError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, mut told) = mpsc::channel(WAITING_MAX);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("journal-table".to_owned());
        thread
            .spawn(move || {
                while let Some(change) = told.blocking_recv() {
                    if stopped.load(Ordering::Acquire) {
                        return;
                    }
                    on(change);
                }
            })
            .map_err(|error| JournalError::Io(error.to_string()))?;
        let core = Arc::clone(&self.core);
        let reading = self.runtime.spawn(async move {
            let closed = core.closed().clone();
            tokio::select! {
                () = follow(&core, &tell) => {}
                () = closed.cancelled() => {}
            }
        });
        Ok(Box::new(Following { stop, reading }))
    }
}

struct Following {
    stop: Arc<AtomicBool>,
    reading: tokio::task::JoinHandle<()>,
}

impl Followed for Following {}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.reading.abort();
    }
}

/// Tells everything there is, and what comes, until nobody is told any more.
async fn follow(core: &Core, tell: &mpsc::Sender<TableChange>) {
    let (mut next, mut up_to_date, mut identity) = (0_i64, false, 0);
    let mut changes = core.seen().changes();
    loop {
        core.ready().await;
        changes.borrow_and_update();
        if core.seen().identity() != identity {
            (next, identity) = (0, core.seen().identity());
        }
        match core.books().rows(CHANGES, &[&next, &ROWS_MAX]).await {
            Ok(rows) => {
                for row in &rows {
                    let (name, sequence, value): (&str, i64, Option<&[u8]>) =
                        (row.get(0), row.get(1), row.get(2));
                    next = sequence;
                    let change = TableChange::Value {
                        sequence: sequence.unsigned_abs(),
                        name: name.to_owned(),
                        value: value.map(Bytes::copy_from_slice),
                    };
                    if tell.send(change).await.is_err() {
                        return;
                    }
                }
                if rows.len() as i64 == ROWS_MAX {
                    continue;
                }
                if !up_to_date {
                    up_to_date = true;
                    if tell.send(TableChange::UpToDate).await.is_err() {
                        return;
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
            Err(fault) => {
                tracing::debug!(reason = fault.words(), "the table of names cannot be read");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
