//! Tables, indexes, and how a connection is set up.
//!
//! Times are nanoseconds since the Unix epoch, so that they sort and compare; the view `events_utc` shows them as text.
//! A source that was sent as a number is an integer here.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{Connection, OpenFlags, ToSql};

/// What this version writes into `user_version`. A file of a newer version is refused.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS events (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        ts INTEGER NOT NULL,
        type TEXT NOT NULL,
        source NOT NULL,
        schema_version INTEGER NOT NULL,
        partition_key TEXT,
        attributes TEXT,
        payload TEXT NOT NULL,
        received_at INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS events_ts ON events (ts);
    CREATE INDEX IF NOT EXISTS events_type_ts ON events (type, ts);
    CREATE INDEX IF NOT EXISTS events_source_ts ON events (source, ts);
    CREATE VIEW IF NOT EXISTS events_utc AS SELECT
        id,
        strftime('%Y-%m-%dT%H:%M:%S', ts / 1000000000, 'unixepoch') || printf('.%09dZ', ts % 1000000000) AS ts,
        type, source, schema_version, partition_key, coalesce(attributes, '{}') AS attributes, payload,
        strftime('%Y-%m-%dT%H:%M:%S', received_at / 1000000000, 'unixepoch')
            || printf('.%09dZ', received_at % 1000000000) AS received_at
    FROM events;
";

/// Opens or makes the file for writing.
pub(super) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // A power cut can take the newest transactions, none in part; `sync_wal` makes them durable before the route's
    // cursor moves past them. A sync for each transaction would compete with those of the journal.
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "cache_size", -16 * 1024)?;
    db.pragma_update(None, "wal_autocheckpoint", 4000)?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > VERSION {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "the file has schema version {version}, this binary knows {VERSION}: use a newer one"
        )));
    }
    db.execute_batch(SCHEMA)?;
    db.pragma_update(None, "user_version", VERSION)?;
    sync_folder(path).map_err(|error| {
        rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR),
            Some(format!("syncing the folder: {error}")),
        )
    })?;
    Ok(db)
}

/// Makes durable that the file and its log are there at all.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Makes durable every transaction committed so far: those that no checkpoint has moved into the file are in its log.
pub(super) fn sync_wal(path: &Path) -> std::io::Result<()> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match File::open(log) {
        Ok(log) => log.sync_data(),
        // A checkpoint at the end of the last connection removes the log once its content is synced into the file.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes all that the log holds into the file, and syncs that.
pub(super) fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    let busy: bool = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    match busy {
        false => Ok(()),
        true => Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            Some("a reader holds up the checkpoint".to_owned()),
        )),
    }
}

/// Opens the file for reading; an error if there is none.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "cache_size", -4 * 1024)?;
    Ok(db)
}

/// A source that is a number: an integer; one larger than SQLite's integers as a blob of its 8 bytes, most significant
/// first, so that it is told apart from a text of the same digits.
pub(super) struct SourceNumber(pub(super) u64);

impl SourceNumber {
    pub(super) fn value(&self) -> Value {
        match i64::try_from(self.0) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Blob(self.0.to_be_bytes().to_vec()),
        }
    }
}

impl ToSql for SourceNumber {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(self.value()))
    }
}
