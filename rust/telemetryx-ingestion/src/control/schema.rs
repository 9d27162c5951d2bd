//! The tables of the control file, and how it is opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::ControlError;

/// The file's name in the data directory.
pub const FILE: &str = "control.db";

/// What this version writes into `user_version`. A file of a newer version is refused.
const VERSION: i64 = 1;

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
    DROP INDEX IF EXISTS dead_letters_position;
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
";

/// Files of before there were partitions. Only adds, so that the version that made such a file can still use it.
const ADD_PARTITIONS: &str = "
    ALTER TABLE dead_letters ADD COLUMN partition INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE replays ADD COLUMN number INTEGER;
    ALTER TABLE replays ADD COLUMN partition INTEGER NOT NULL DEFAULT 0;
";

/// Opens or makes the control file at `path`.
///
/// # Errors
/// [`ControlError`] if it cannot be opened or is not one of ours; one of a newer version is left as it is.
pub fn open(path: &Path) -> Result<Connection, ControlError> {
    let (db, _) = prepare(Connection::open(path), path)?;
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
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Opens the control file at `path`, which must exist. Makes no table, unless the file is of an older version, so it does
/// not wait for whoever is writing.
///
/// # Errors
/// [`ControlError`] if it cannot be opened or is not one of ours.
pub fn open_existing(path: &Path) -> Result<Connection, ControlError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let (db, version) = prepare(Connection::open_with_flags(path, flags), path)?;
    if version < VERSION {
        make_tables(&db).map_err(|source| ControlError::Sqlite {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(db)
}

/// The connection as it is used here, and which version the file has.
fn prepare(
    connection: rusqlite::Result<Connection>,
    path: &Path,
) -> Result<(Connection, i64), ControlError> {
    let prepared = connection.and_then(|db| {
        db.busy_timeout(Duration::from_secs(5))?;
        // A dead letter must be on disk before its route moves on.
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "cache_size", -1024)?;
        let version = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok((db, version))
    });
    let path = || path.to_owned();
    match prepared {
        Ok((_, version)) if version > VERSION => Err(ControlError::Newer {
            path: path(),
            version,
            known: VERSION,
        }),
        Ok(prepared) => Ok(prepared),
        Err(source) => Err(ControlError::Sqlite {
            path: path(),
            source,
        }),
    }
}
