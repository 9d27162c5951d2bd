//! The operator's side table, `<data_dir>/control.db`: dead letters, replays asked for, the books of the door.
//!
//! It is a SQLite file so that `telemetryx dead-letters` and `telemetryx replay` can read and change it whether the
//! service runs or not; the running service notices a change made by another process within a quarter of a second. One thread owns
//! the writing connection: all who wait share a transaction, as in the journal.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the thread, its queue, and the schema |
//! | `letters.rs` | dead letters: keep, list, ask for redrive, settle |
//! | `replays.rs` | replays: ask for, follow, end |

pub mod letters;
pub mod replays;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use telemetryx_common::Timestamp;

use crate::clock;
use crate::observe::DoorSaved;

pub use letters::{DeadLetter, Kept, LetterFilter, LetterState, Stage};
pub use replays::{Part, Replay, ReplayState, WholeReplay};

/// How often the service looks whether another process changed the file.
const POLL: Duration = Duration::from_millis(250);
/// Requests that may wait for the writing thread.
const QUEUE: usize = 1024;
/// The most requests in one transaction.
const SHARED: usize = 128;

/// What can go wrong with the control file: a disk that is full or broken. Try again later.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// SQLite's own words.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Too many requests wait, or the service is going down.
    #[error("the control file is busy")]
    Busy,
    /// What was asked for is not so.
    #[error("{0}")]
    Invalid(String),
}

type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Done> + Send>;
/// Tells whoever waits, once the transaction is on disk (or failed).
type Done = Box<dyn FnOnce() + Send>;

/// The running service's handle on the control file; a cheap clone.
#[derive(Clone)]
pub struct Control {
    path: PathBuf,
    queue: mpsc::SyncSender<Work>,
    changes: watch::Receiver<u64>,
}

impl Control {
    /// Opens or makes the file and starts its thread.
    ///
    /// # Errors
    /// [`ControlError`] if it cannot be opened or is not one of ours.
    pub fn start(data_dir: &Path, letters_max_bytes: u64) -> Result<Self, ControlError> {
        let path = data_dir.join(FILE);
        let connection = open(&path)?;
        connection
            .execute(
                "INSERT OR IGNORE INTO born VALUES (1, ?1)",
                [clock::now().unix_nanos()],
            )
            .map_err(|source| ControlError::Sqlite {
                path: path.clone(),
                source,
            })?;
        let (queue, requests) = mpsc::sync_channel(QUEUE);
        let (changed, changes) = watch::channel(0);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || run(&connection, &requests, &changed, letters_max_bytes))
            .map_err(|error| ControlError::Invalid(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            path,
            queue,
            changes,
        })
    }

    /// Wakes when a redrive or a replay was asked for, by whatever process.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// A connection of its own for reading, so that long lists do not hold up the writer.
    ///
    /// # Errors
    /// [`ControlError`] if the file cannot be opened.
    pub fn reader(&self) -> Result<Connection, ControlError> {
        open_existing(&self.path)
    }

    /// Runs `work` in the next transaction; resolves when that is on disk.
    async fn write<T: Send + 'static>(
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

    /// Saves what the door turned away.
    ///
    /// # Errors
    /// [`ControlError`]; the next save has the whole count again.
    pub async fn save_door(&self, books: DoorSaved) -> Result<(), ControlError> {
        let text = serde_json::to_string(&books).unwrap_or_default();
        self.write(move |db| {
            db.execute(
                "INSERT OR REPLACE INTO door (id, totals) VALUES (1, ?1)",
                [text],
            )
        })
        .await?;
        Ok(())
    }

    /// When the file was made: since when the books are kept.
    ///
    /// # Errors
    /// [`ControlError`] if it cannot be read.
    pub fn since(&self) -> Result<Timestamp, ControlError> {
        let at = self
            .reader()?
            .query_row("SELECT at FROM born", [], |row| row.get(0));
        at.map(Timestamp::from_unix_nanos)
            .map_err(|source| ControlError::Sqlite {
                path: self.path.clone(),
                source,
            })
    }

    /// What the door had turned away when it was last saved.
    ///
    /// # Errors
    /// [`ControlError`] if it cannot be read.
    pub fn door(&self) -> Result<DoorSaved, ControlError> {
        let found = self
            .reader()?
            .query_row("SELECT totals FROM door WHERE id = 1", [], |row| {
                row.get::<_, String>(0)
            });
        match found {
            Ok(text) => Ok(serde_json::from_str(&text).unwrap_or_default()),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(DoorSaved::default()),
            Err(source) => Err(ControlError::Sqlite {
                path: self.path.clone(),
                source,
            }),
        }
    }
}

/// The file's name in the data directory.
pub const FILE: &str = "control.db";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        route TEXT,
        stage TEXT NOT NULL,
        code TEXT NOT NULL,
        field TEXT,
        message TEXT NOT NULL,
        partition INTEGER NOT NULL DEFAULT 0,
        position INTEGER,
        format TEXT NOT NULL,
        body BLOB NOT NULL,
        request_id TEXT,
        redrives INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL DEFAULT 'dead'
    );
    CREATE UNIQUE INDEX IF NOT EXISTS dead_letters_place ON dead_letters (route, partition, position)
        WHERE position IS NOT NULL;
    CREATE INDEX IF NOT EXISTS dead_letters_redrive ON dead_letters (route) WHERE state = 'redrive';
    CREATE TABLE IF NOT EXISTS refused_bytes (id INTEGER PRIMARY KEY CHECK (id = 1), bytes INTEGER NOT NULL);
    INSERT OR IGNORE INTO refused_bytes VALUES (1, 0);
    CREATE TRIGGER IF NOT EXISTS dead_letters_kept AFTER INSERT ON dead_letters WHEN new.stage = 'validation' BEGIN
        UPDATE refused_bytes SET bytes = bytes + length(new.body) + length(new.message) + 200;
    END;
    CREATE TRIGGER IF NOT EXISTS dead_letters_gone AFTER DELETE ON dead_letters WHEN old.stage = 'validation' BEGIN
        UPDATE refused_bytes SET bytes = bytes - length(old.body) - length(old.message) - 200;
    END;
    CREATE TABLE IF NOT EXISTS replays (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        number INTEGER,
        at INTEGER NOT NULL,
        route TEXT NOT NULL,
        partition INTEGER NOT NULL DEFAULT 0,
        first INTEGER NOT NULL,
        behind INTEGER NOT NULL,
        next INTEGER NOT NULL,
        delivered INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL DEFAULT 'pending',
        error TEXT
    );
    CREATE INDEX IF NOT EXISTS replays_pending ON replays (route) WHERE state = 'pending';
    CREATE TABLE IF NOT EXISTS born (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS door (id INTEGER PRIMARY KEY CHECK (id = 1), totals TEXT NOT NULL);
    PRAGMA user_version = 1;
";

/// Files of before there were partitions. Only adds, so that the version that made such a file can still use it.
const ADD_PARTITIONS: &str = "
    ALTER TABLE dead_letters ADD COLUMN partition INTEGER NOT NULL DEFAULT 0;
    DROP INDEX IF EXISTS dead_letters_position;
    ALTER TABLE replays ADD COLUMN number INTEGER;
    ALTER TABLE replays ADD COLUMN partition INTEGER NOT NULL DEFAULT 0;
";

/// Opens or makes the control file at `path`.
///
/// # Errors
/// [`ControlError`] if it cannot be opened or is not one of ours.
pub fn open(path: &Path) -> Result<Connection, ControlError> {
    let db = prepare(Connection::open(path), path)?;
    db.pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| make_tables(&db))
        .map_err(|source| ControlError::Sqlite {
            path: path.to_owned(),
            source,
        })?;
    Ok(db)
}

/// Makes the tables that are missing, and brings those of an older version up to date.
fn make_tables(db: &Connection) -> rusqlite::Result<()> {
    let transaction = rusqlite::Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let is_old = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_table_info('dead_letters'))
            AND NOT EXISTS (SELECT 1 FROM pragma_table_info('dead_letters') WHERE name = 'partition')",
        [],
        |row| row.get(0),
    )?;
    if is_old {
        transaction.execute_batch(ADD_PARTITIONS)?;
    }
    transaction.execute_batch(SCHEMA)?;
    transaction.commit()
}

/// Opens the control file at `path`, which must exist. Makes no table, unless the file is of an older version, so it does
/// not wait for whoever is writing.
///
/// # Errors
/// [`ControlError`] if it cannot be opened or is not one of ours.
pub fn open_existing(path: &Path) -> Result<Connection, ControlError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = prepare(Connection::open_with_flags(path, flags), path)?;
    let version = db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    version
        .and_then(|version| match version {
            0 => make_tables(&db),
            _ => Ok(()),
        })
        .map_err(|source| ControlError::Sqlite {
            path: path.to_owned(),
            source,
        })?;
    Ok(db)
}

fn prepare(
    connection: rusqlite::Result<Connection>,
    path: &Path,
) -> Result<Connection, ControlError> {
    connection
        .and_then(|db| {
            db.busy_timeout(Duration::from_secs(5))?;
            // A dead letter must be on disk before its route moves on.
            db.pragma_update(None, "synchronous", "FULL")?;
            db.pragma_update(None, "cache_size", -1024)?;
            Ok(db)
        })
        .map_err(|source| ControlError::Sqlite {
            path: path.to_owned(),
            source,
        })
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
