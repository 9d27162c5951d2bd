//! The copy of the table in SQLite: the tables of the control file, with what must be known besides, and how a change of the
//! table changes them. Only the thread of [`super`] writes it.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;

use super::values::{
    self, Beat, Born, DoorsGone, Letter, LetterState, Name, Process, Progress, Request, decode,
};
use crate::clock;
use crate::control::{ControlError, open};
use crate::journal::TableChange;

/// Beside the tables of the control file: the names of letters and replays, whatever has no table there, and names whose
/// letter or replay is gone.
const TABLES: &str = "
    ALTER TABLE dead_letters ADD COLUMN name TEXT;
    ALTER TABLE dead_letters ADD COLUMN buried_by TEXT;
    ALTER TABLE dead_letters ADD COLUMN has_state INTEGER NOT NULL DEFAULT 0;
    CREATE UNIQUE INDEX dead_letters_name ON dead_letters (name);
    ALTER TABLE replays ADD COLUMN name TEXT;
    CREATE INDEX replays_name ON replays (name);
    CREATE UNIQUE INDEX replays_number ON replays (number, partition);
    CREATE TABLE other (name TEXT PRIMARY KEY, value BLOB NOT NULL, sequence INTEGER NOT NULL, seen_at INTEGER NOT NULL);
    CREATE TABLE orphans (name TEXT PRIMARY KEY, seen_at INTEGER NOT NULL);
    CREATE TABLE strays (name TEXT PRIMARY KEY);
";

/// What a change was about, as far as somebody waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Something was asked for.
    pub(super) asked: bool,
}

/// Makes the copy at `path`, where nothing is. It is nothing to anybody after this process: no change waits for the disk.
pub(super) fn make(path: &Path) -> Result<Connection, ControlError> {
    let db = open(path)?;
    db.pragma_update(None, "synchronous", "OFF")
        .and_then(|()| db.execute_batch(TABLES))
        .map_err(|source| ControlError::Sqlite {
            path: path.to_owned(),
            source,
        })?;
    Ok(db)
}

/// Applies changes in one transaction. `process` is this one's name.
pub(super) fn apply_all(
    db: &Connection,
    changes: &[TableChange],
    process: &str,
) -> rusqlite::Result<Effect> {
    let transaction = db.unchecked_transaction()?;
    let mut effect = Effect::default();
    for change in changes {
        if let TableChange::Value {
            sequence,
            name,
            value,
        } = change
        {
            let number = sequence.cast_signed();
            apply(db, number, name, value.as_deref(), process, &mut effect)?;
        }
    }
    transaction.commit()?;
    Ok(effect)
}

fn apply(
    db: &Connection,
    sequence: i64,
    name: &str,
    value: Option<&[u8]>,
    process: &str,
    effect: &mut Effect,
) -> rusqlite::Result<()> {
    let Some(parsed) = Name::parse(name) else {
        tracing::debug!(name, "the table of the fleet has a name of a newer version");
        return Ok(());
    };
    match parsed {
        Name::Letter => letter(db, sequence, name, value, process),
        Name::LetterState(number) => letter_state(db, number, name, value, effect),
        Name::Replay => replay(db, sequence, name, value, effect),
        Name::ReplayPart(number, partition) => progress(db, number, partition, name, value),
        Name::Fence(..) | Name::Door | Name::DoorsGone | Name::Keeper => {
            other(db, sequence, name, value)
        }
        Name::Born => match read::<Born>(name, value) {
            Some((born, _)) => {
                // Two that found none at the same time both wrote: the books are as old as the older says.
                db.execute(
                    "INSERT INTO born VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET at = min(at, excluded.at)",
                    [born.at],
                )?;
                Ok(())
            }
            None => Ok(()),
        },
    }
}

/// The value, if there is one that is understood.
fn read<'v, T: DeserializeOwned>(name: &str, value: Option<&'v [u8]>) -> Option<(T, &'v [u8])> {
    decode(value?)
        .inspect_err(|error| {
            tracing::warn!(name, %error, "the table of the fleet has a value that cannot be read");
        })
        .ok()
}

fn letter(
    db: &Connection,
    sequence: i64,
    name: &str,
    value: Option<&[u8]>,
    process: &str,
) -> rusqlite::Result<()> {
    let mut former = db.prepare_cached("SELECT id, has_state FROM dead_letters WHERE name = ?1")?;
    let former: Option<(i64, bool)> = former
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((id, has_state)) = former {
        let mut delete = db.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
        delete.execute([id])?;
        if has_state {
            orphan(db, &values::letter_state(id))?;
        }
    }
    db.prepare_cached("DELETE FROM strays WHERE name = ?1")?
        .execute([name])?;
    let Some((letter, body)) = read::<Letter>(name, value) else {
        return Ok(());
    };
    if former.is_none() && is_stray(db, sequence, &letter, process)? {
        db.execute("INSERT OR REPLACE INTO strays VALUES (?1)", [name])?;
    }
    let mut insert = db.prepare_cached(
        "INSERT INTO dead_letters (id, at, route, stage, code, field, message, partition, position, format, body,
             request_id, name, buried_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT DO NOTHING",
    )?;
    insert.execute(params![
        sequence,
        letter.at,
        letter.route,
        letter.stage,
        letter.code,
        letter.field,
        letter.message,
        letter.partition,
        letter.offset.map(u64::cast_signed),
        letter.format,
        body,
        letter.request_id,
        name,
        letter.by,
    ])?;
    Ok(())
}

/// True if this process had taken the partition over when another one buried the letter there: the other's commit fails, and
/// the event is this one's to deliver or to bury.
fn is_stray(
    db: &Connection,
    sequence: i64,
    letter: &Letter,
    process: &str,
) -> rusqlite::Result<bool> {
    let Some(route) = &letter.route else {
        return Ok(false);
    };
    if letter.by == process {
        return Ok(false);
    }
    let fence = values::fence(route, letter.partition);
    let fence: Option<(Process, i64)> = find(db, &fence)?;
    Ok(fence.is_some_and(|(fence, since)| fence.by == process && since < sequence))
}

fn letter_state(
    db: &Connection,
    number: i64,
    name: &str,
    value: Option<&[u8]>,
    effect: &mut Effect,
) -> rusqlite::Result<()> {
    let state = read::<LetterState>(name, value).map(|(state, _)| state);
    let changed = match &state {
        Some(state) => {
            let mut update = db.prepare_cached(
                "UPDATE dead_letters SET state = ?2, redrives = ?3, code = coalesce(?4, code),
                     message = coalesce(?5, message), has_state = 1 WHERE id = ?1",
            )?;
            let lies = if state.redrive { "redrive" } else { "dead" };
            update.execute(params![
                number,
                lies,
                state.redrives,
                state.code,
                state.message
            ])?
        }
        None => db.execute(
            "UPDATE dead_letters SET state = 'dead', redrives = 0, has_state = 0 WHERE id = ?1",
            [number],
        )?,
    };
    match (value, changed) {
        (None, _) => not_orphan(db, name)?,
        (Some(_), 0) => orphan(db, name)?,
        (Some(_), _) => {}
    }
    effect.asked |= changed > 0 && state.is_some_and(|state| state.redrive);
    Ok(())
}

fn replay(
    db: &Connection,
    sequence: i64,
    name: &str,
    value: Option<&[u8]>,
    effect: &mut Effect,
) -> rusqlite::Result<()> {
    db.execute("DELETE FROM replays WHERE name = ?1", [name])?;
    let Some((request, _)) = read::<Request>(name, value) else {
        return Ok(());
    };
    let mut insert = db.prepare_cached(
        "INSERT INTO replays (number, at, route, partition, first, behind, next, name)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, ?7) ON CONFLICT DO NOTHING",
    )?;
    for part in request.parts {
        insert.execute(params![
            sequence,
            request.at,
            request.route,
            part.partition,
            part.first.cast_signed(),
            part.behind.cast_signed(),
            name,
        ])?;
    }
    effect.asked = true;
    Ok(())
}

fn progress(
    db: &Connection,
    number: i64,
    partition: u32,
    name: &str,
    value: Option<&[u8]>,
) -> rusqlite::Result<()> {
    if value.is_none() {
        return not_orphan(db, name);
    }
    let Some((progress, _)) = read::<Progress>(name, value) else {
        return Ok(());
    };
    let mut update = db.prepare_cached(
        "UPDATE replays SET next = ?3, delivered = ?4, state = ?5, error = ?6 WHERE number = ?1 AND partition = ?2",
    )?;
    let changed = update.execute(params![
        number,
        partition,
        progress.next.cast_signed(),
        progress.delivered.cast_signed(),
        progress.state.as_str(),
        progress.error,
    ])?;
    if changed == 0 {
        orphan(db, name)?;
    }
    Ok(())
}

fn other(db: &Connection, sequence: i64, name: &str, value: Option<&[u8]>) -> rusqlite::Result<()> {
    match value {
        Some(value) => db.execute(
            "INSERT OR REPLACE INTO other VALUES (?1, ?2, ?3, ?4)",
            params![name, value, sequence, clock::now().unix_nanos()],
        )?,
        None => db.execute("DELETE FROM other WHERE name = ?1", [name])?,
    };
    Ok(())
}

/// A name whose letter or replay is gone: it is to be removed, unless whoever removed that does so.
fn orphan(db: &Connection, name: &str) -> rusqlite::Result<()> {
    let now = clock::now().unix_nanos();
    db.execute(
        "INSERT OR IGNORE INTO orphans VALUES (?1, ?2)",
        params![name, now],
    )?;
    Ok(())
}

fn not_orphan(db: &Connection, name: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM orphans WHERE name = ?1", [name])?;
    Ok(())
}

/// One of the values without a table of their own, and its sequence number.
pub(super) fn find<T: DeserializeOwned>(
    db: &Connection,
    name: &str,
) -> rusqlite::Result<Option<(T, i64)>> {
    let mut statement = db.prepare_cached("SELECT value, sequence FROM other WHERE name = ?1")?;
    let row: Option<(Vec<u8>, i64)> = statement
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.and_then(|(value, sequence)| Some((read(name, Some(&value))?.0, sequence))))
}

/// The keeper's last beat.
pub(super) fn keeper(db: &Connection) -> rusqlite::Result<Option<(Beat, i64)>> {
    find(db, values::KEEPER)
}

/// The sum of the doors that are gone, and the sequence number of that.
pub(super) fn doors_gone(db: &Connection) -> rusqlite::Result<(DoorsGone, Option<i64>)> {
    let found = find(db, values::DOORS_GONE)?;
    Ok(found.map_or_else(Default::default, |(gone, sequence)| (gone, Some(sequence))))
}

/// The doors' books under their own names, and since when this process has seen no change of each.
pub(super) fn doors(db: &Connection) -> rusqlite::Result<Vec<(String, values::Door, i64)>> {
    let mut statement =
        db.prepare("SELECT name, value, seen_at FROM other WHERE name GLOB 'door/*'")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?))
    })?;
    let mut doors = Vec::new();
    for row in rows {
        let (name, value, seen_at): (String, _, _) = row?;
        if let Some((door, _)) = read(&name, Some(&value)) {
            doors.push((name, door, seen_at));
        }
    }
    Ok(doors)
}
