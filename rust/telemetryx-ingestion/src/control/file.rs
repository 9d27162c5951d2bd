//! The control file of a service that is alone with its journal: what it says holds, and other processes may change it.
//! One thread owns the writing connection: all who wait share a transaction, as in the journal.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::schema::open;
use super::{ControlError, letters};
use crate::clock;

/// How often the service looks whether another process changed the file.
const POLL: Duration = Duration::from_millis(250);
/// Requests that may wait for the writing thread.
const QUEUE: usize = 1024;
/// The most requests in one transaction.
const SHARED: usize = 128;

type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Done> + Send>;
/// Tells whoever waits, once the transaction is on disk (or failed).
type Done = Box<dyn FnOnce() + Send>;

/// Hands work to the thread that writes; a cheap clone.
#[derive(Clone)]
pub(super) struct FileHandle {
    queue: mpsc::SyncSender<Work>,
    changed: Arc<watch::Sender<u64>>,
}

impl FileHandle {
    /// Opens or makes the file and starts its thread.
    pub(super) fn start(path: &Path, letters_max_bytes: u64) -> Result<Self, ControlError> {
        let connection = open(path)?;
        connection
            .execute(
                "INSERT OR IGNORE INTO born VALUES (1, ?1)",
                [clock::now().unix_nanos()],
            )
            .map_err(|source| ControlError::Sqlite {
                path: path.to_owned(),
                source,
            })?;
        let (queue, requests) = mpsc::sync_channel(QUEUE);
        let changed = Arc::new(watch::Sender::new(0));
        let tell = Arc::clone(&changed);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || run(&connection, &requests, &tell, letters_max_bytes))
            .map_err(|error| ControlError::Invalid(format!("cannot start a thread: {error}")))?;
        Ok(Self { queue, changed })
    }

    /// Wakes when a redrive or a replay was asked for, by whatever process.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Runs `work` in the next transaction; resolves when that is on disk.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ControlError> {
        let (tell, told) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let value = work(connection)?;
            Ok(Box::new(move || drop(tell.send(value))))
        });
        self.queue.try_send(work).map_err(|_| ControlError::Busy)?;
        told.await.map_err(|_| ControlError::Busy)
    }

    /// As [`write`](Self::write), of work that asks the routes or the door for something.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ControlError> {
        let value = self.write(work).await?;
        self.changed.send_modify(|count| *count += 1);
        Ok(value)
    }
}

fn run(
    db: &Connection,
    requests: &mpsc::Receiver<Work>,
    changed: &watch::Sender<u64>,
    letters_max_bytes: u64,
) {
    let mut version = None;
    loop {
        match requests.recv_timeout(POLL) {
            Ok(first) => {
                let all = std::iter::once(first).chain(requests.try_iter().take(SHARED - 1));
                if let Err(error) = transact(db, all, letters_max_bytes) {
                    tracing::error!(%error, "the control file cannot be written");
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let now = data_version(db);
        if version != now {
            version = now;
            if is_asked(db) {
                changed.send_modify(|count| *count += 1);
            }
        }
    }
}

/// Runs all in one transaction; a piece of work that fails is undone alone, and whoever waits for it hears nothing.
fn transact(
    db: &Connection,
    all: impl Iterator<Item = Work>,
    letters_max_bytes: u64,
) -> rusqlite::Result<()> {
    let transaction = db.unchecked_transaction()?;
    let mut done = Vec::new();
    for work in all {
        db.execute_batch("SAVEPOINT work")?;
        match work(db) {
            Ok(tell) => done.push(tell),
            Err(error) => {
                tracing::error!(%error, "a change of the control file failed");
                db.execute_batch("ROLLBACK TO work")?;
            }
        }
        db.execute_batch("RELEASE work")?;
    }
    letters::trim(db, letters_max_bytes)?;
    transaction.commit()?;
    for tell in done {
        tell();
    }
    Ok(())
}

/// Changes when another connection has written; whoever asks for something does so on a connection of its own.
fn data_version(db: &Connection) -> Option<i64> {
    db.query_row("PRAGMA data_version", [], |row| row.get(0))
        .ok()
}

/// True if a redrive or a replay waits.
fn is_asked(db: &Connection) -> bool {
    let asked = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE state = 'redrive')
             OR EXISTS (SELECT 1 FROM replays WHERE state = 'pending')",
        [],
        |row| row.get(0),
    );
    asked.unwrap_or(true)
}
