//! Dead letters: events that could not go on, with why, until they are sent again or removed.

use std::time::Duration;

use rusqlite::{Connection, Row, TransactionBehavior, params};
use serde::Serialize;
use serde_json::Value;
use telemetryx_common::{Timestamp, json, wire};

use super::{Control, ControlError, Keeper};
use crate::admission::MemoryPermit;
use crate::clock;

/// Where an event could not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// At the door: it was refused, and the client was told.
    Validation,
    /// In a route's processor.
    Processing,
    /// At a route's sink.
    Delivery,
}

impl Stage {
    /// The name in lists and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Processing => "processing",
            Self::Delivery => "delivery",
        }
    }
}

/// An event that could not go on, about to be kept.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The route it could not pass; `None` at the door.
    pub route: Option<String>,
    /// Where.
    pub stage: Stage,
    /// What kind of fault, snake_case.
    pub code: String,
    /// The field at fault, if one is.
    pub field: Option<String>,
    /// What is wrong, for a person; a server's own words where there are any.
    pub message: String,
    /// The partition of the journal that has it; 0 at the door.
    pub partition: u32,
    /// Where in that partition; `None` at the door.
    pub offset: Option<u64>,
    /// How `body` is written: `json`, `protobuf`, or `stored` for an event as the journal has it.
    pub format: &'static str,
    /// The event.
    pub body: Vec<u8>,
    /// The request that brought it, if it is known.
    pub request_id: Option<String>,
}

/// What becomes of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterState {
    /// It lies there.
    Dead,
    /// It is to be sent again.
    Redrive,
}

/// A dead letter as it lies in the file.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// Its number.
    pub id: i64,
    /// Since when, RFC 3339.
    pub at: String,
    /// The route; absent for the door.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// `validation`, `processing` or `delivery`.
    pub stage: String,
    /// What kind of fault.
    pub code: String,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// The partition of the journal that has it; absent in JSON: 0.
    #[serde(skip_serializing_if = "is_first")]
    pub partition: u32,
    /// Where in that partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How `body` is written.
    pub format: String,
    /// The event's bytes.
    #[serde(skip)]
    pub body: Vec<u8>,
    /// The request that brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How often it was sent again in vain.
    pub redrives: u32,
    /// `dead`, or `redrive` once it is to be sent again.
    pub state: String,
}

/// The only partition of a journal that has one; JSON does not name it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
fn is_first(partition: &u32) -> bool {
    *partition == 0
}

impl Kept {
    /// The event as JSON, or as near to it as its bytes allow.
    #[must_use]
    pub fn event(&self) -> Value {
        if self.format == "stored" {
            let mut text = Vec::new();
            for event in wire::events(&self.body).flatten() {
                json::write_event(&event, &mut text);
            }
            return serde_json::from_slice(&text).unwrap_or_default();
        }
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&self.body).into())
    }
}

/// Letters that were selected to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// How many match.
    pub selected: u64,
    /// How many of them lay there; the others were on their way already.
    pub marked: u64,
}

/// How far the letters are that were selected with [`ask_redrive_and_follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Still to be sent.
    pub waiting: u64,
    /// Sent in vain; they lie there again.
    pub dead: u64,
}

/// Which letters are meant.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// Of this route only.
    pub route: Option<String>,
    /// Of this stage only.
    pub stage: Option<String>,
    /// This one only.
    pub id: Option<i64>,
}

impl LetterFilter {
    /// True if it lets every letter through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.route.is_none() && self.stage.is_none() && self.id.is_none()
    }
}

pub(super) const COLUMNS: &str = "id, at, route, stage, code, field, message, partition, position, format, body, request_id, redrives, state";
pub(super) const MATCHING: &str =
    "(?1 IS NULL OR route = ?1) AND (?2 IS NULL OR stage = ?2) AND (?3 IS NULL OR id = ?3)";

fn kept(row: &Row<'_>) -> rusqlite::Result<Kept> {
    Ok(Kept {
        id: row.get(0)?,
        at: Timestamp::from_unix_nanos(row.get(1)?).to_string(),
        route: row.get(2)?,
        stage: row.get(3)?,
        code: row.get(4)?,
        field: row.get(5)?,
        message: row.get(6)?,
        partition: row.get(7)?,
        offset: row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
        format: row.get(9)?,
        body: row.get(10)?,
        request_id: row.get(11)?,
        redrives: row.get(12)?,
        state: row.get(13)?,
    })
}

/// The letters that match, newest first, at most `limit`, older than `before`.
///
/// # Errors
/// SQLite's.
pub fn list(
    db: &Connection,
    filter: &LetterFilter,
    before: Option<i64>,
    limit: u32,
) -> rusqlite::Result<Vec<Kept>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM dead_letters WHERE {MATCHING} AND (?4 IS NULL OR id < ?4) ORDER BY id DESC LIMIT ?5"
    );
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map(
        params![filter.route, filter.stage, filter.id, before, limit],
        kept,
    )?;
    rows.collect()
}

/// How many letters match.
///
/// # Errors
/// SQLite's.
pub fn count(db: &Connection, filter: &LetterFilter) -> rusqlite::Result<u64> {
    let sql = format!("SELECT count(*) FROM dead_letters WHERE {MATCHING}");
    db.query_row(
        &sql,
        params![filter.route, filter.stage, filter.id],
        |row| row.get::<_, i64>(0).map(i64::cast_unsigned),
    )
}

/// The letters of routes with offsets of `partition` from `first` up to `end`: route, offset, why.
///
/// # Errors
/// SQLite's.
pub fn dead_between(
    db: &Connection,
    partition: u32,
    first: u64,
    end: u64,
) -> rusqlite::Result<Vec<(String, u64, String)>> {
    let mut statement = db.prepare(
        "SELECT route, position, code || ': ' || message FROM dead_letters
         WHERE route IS NOT NULL AND partition = ?1 AND position >= ?2 AND position < ?3 ORDER BY position",
    )?;
    let range = params![partition, first.cast_signed(), end.cast_signed()];
    let rows = statement.query_map(range, |row| {
        Ok((
            row.get(0)?,
            row.get::<_, i64>(1)?.cast_unsigned(),
            row.get(2)?,
        ))
    })?;
    rows.collect()
}

/// Asks for the letters that match to be sent again; how many.
///
/// # Errors
/// SQLite's.
pub fn ask_redrive(db: &Connection, filter: &LetterFilter) -> rusqlite::Result<usize> {
    let sql =
        format!("UPDATE dead_letters SET state = 'redrive' WHERE state = 'dead' AND {MATCHING}");
    db.execute(&sql, params![filter.route, filter.stage, filter.id])
}

/// As [`ask_redrive`], and remembers in this connection which they are: see [`followed`].
///
/// # Errors
/// SQLite's; then nothing was asked for.
pub fn ask_redrive_and_follow(db: &Connection, filter: &LetterFilter) -> rusqlite::Result<Asked> {
    make_followed(db)?;
    // The write lock first: what is selected is what is marked.
    let transaction = rusqlite::Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let selected = select_followed(&transaction, filter)?;
    let marked = ask_redrive(&transaction, filter)?;
    transaction.commit()?;
    Ok(Asked {
        selected,
        marked: marked as u64,
    })
}

/// Remembers in this connection which letters match now, without asking for anything; how many.
///
/// # Errors
/// SQLite's.
pub fn follow(db: &Connection, filter: &LetterFilter) -> rusqlite::Result<u64> {
    make_followed(db)?;
    select_followed(db, filter)
}

fn make_followed(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS followed (id INTEGER PRIMARY KEY); DELETE FROM followed;",
    )
}

fn select_followed(db: &Connection, filter: &LetterFilter) -> rusqlite::Result<u64> {
    let selected = db.execute(
        &format!("INSERT INTO followed SELECT id FROM dead_letters WHERE {MATCHING}"),
        params![filter.route, filter.stage, filter.id],
    )?;
    Ok(selected as u64)
}

/// How far the letters are that this connection asked for last.
///
/// # Errors
/// SQLite's.
pub fn followed(db: &Connection) -> rusqlite::Result<Followed> {
    db.query_row(
        "SELECT count(*) FILTER (WHERE state = 'redrive'), count(*) FILTER (WHERE state = 'dead')
         FROM dead_letters JOIN followed USING (id)",
        [],
        |row| {
            Ok(Followed {
                waiting: row.get::<_, i64>(0)?.cast_unsigned(),
                dead: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        },
    )
}

/// The letters that are to be sent again, oldest first: those of a route in one partition, or (`None`) of the door.
///
/// # Errors
/// SQLite's.
pub fn to_redrive(
    db: &Connection,
    of: Option<(&str, u32)>,
    limit: u32,
) -> rusqlite::Result<Vec<Kept>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM dead_letters
         WHERE state = 'redrive' AND route IS ?1 AND (?2 IS NULL OR partition = ?2) ORDER BY id LIMIT ?3"
    );
    let (route, partition) = of.unzip();
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map(params![route, partition, limit], kept)?;
    rows.collect()
}

/// Keeps the letters of the door within `max_bytes`: the oldest go first. Those of routes hold accepted events and stay.
pub(super) fn trim(db: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    let kept = || {
        db.query_row("SELECT bytes FROM refused_bytes", [], |row| {
            row.get::<_, i64>(0)
        })
    };
    let mut removed = 0;
    while kept()?.cast_unsigned() > max_bytes {
        let oldest = db.execute(
            "DELETE FROM dead_letters WHERE id IN
             (SELECT id FROM dead_letters WHERE stage = 'validation' ORDER BY id LIMIT 64)",
            [],
        )?;
        if oldest == 0 {
            break;
        }
        removed += oldest;
    }
    if removed > 0 {
        tracing::warn!(
            removed,
            "dead_letters.max_bytes is reached: removed the oldest refused events"
        );
    }
    Ok(())
}

/// How long a client waits for a fleet to keep letters of the door, who has been told what is wrong with his events: what
/// takes longer is kept all the same, or not.
const DOOR_WAITS: Duration = Duration::from_secs(5);

impl Control {
    /// Keeps letters; they are on disk when this resolves. A letter of a route and place already kept stays one.
    /// `memory` is given back when the letters are, even if nobody waits any more.
    ///
    /// # Errors
    /// [`ControlError`]: none may be on disk; try again.
    pub async fn keep(
        &self,
        letters: Vec<DeadLetter>,
        memory: Option<MemoryPermit>,
    ) -> Result<(), ControlError> {
        let at = clock::now().unix_nanos();
        let of_door = letters.iter().any(|letter| letter.route.is_none());
        let letters = letters.into_iter().map(|letter| (at, letter)).collect();
        let keeping = self.keep_since(letters, memory);
        if !of_door || matches!(self.keeper, Keeper::File(_)) {
            return keeping.await;
        }
        let kept = tokio::time::timeout(DOOR_WAITS, keeping).await;
        kept.unwrap_or(Err(ControlError::Late(DOOR_WAITS)))
    }

    /// As [`keep`](Self::keep), of letters that have been dead since these times, in nanoseconds since 1970.
    ///
    /// # Errors
    /// [`ControlError`]: none may be on disk; try again.
    pub async fn keep_since(
        &self,
        letters: Vec<(i64, DeadLetter)>,
        memory: Option<MemoryPermit>,
    ) -> Result<(), ControlError> {
        let file = match &self.keeper {
            Keeper::File(file) => file,
            Keeper::Fleet(fleet) => return fleet.keep(letters, memory).await,
        };
        file.write(move |db| {
            let mut insert = db.prepare_cached(
                "INSERT INTO dead_letters (at, route, stage, code, field, message, partition, position, format, body, request_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING",
            )?;
            for (at, letter) in letters {
                insert.execute(params![
                    at,
                    letter.route,
                    letter.stage.as_str(),
                    letter.code,
                    letter.field,
                    letter.message,
                    letter.partition,
                    letter.offset.map(u64::cast_signed),
                    letter.format,
                    letter.body,
                    letter.request_id,
                ])?;
            }
            drop(memory);
            Ok(())
        })
        .await
    }

    /// Removes letters that were sent again with success; those already gone are no error.
    ///
    /// # Errors
    /// [`ControlError`]; try again.
    pub async fn settle(&self, ids: Vec<i64>) -> Result<(), ControlError> {
        let file = match &self.keeper {
            Keeper::File(file) => file,
            Keeper::Fleet(fleet) => return fleet.settle(&ids).await,
        };
        file.write(move |db| {
            let mut delete = db.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
            ids.iter().try_for_each(|id| delete.execute([id]).map(drop))
        })
        .await
    }

    /// Forgets the letters of `route` from `offset` of `partition` on: it goes back to there, and what it then cannot
    /// deliver it keeps anew.
    ///
    /// # Errors
    /// [`ControlError`]; try again.
    pub async fn forget_from(
        &self,
        route: &str,
        partition: u32,
        offset: u64,
    ) -> Result<(), ControlError> {
        let file = match &self.keeper {
            Keeper::File(file) => file,
            Keeper::Fleet(fleet) => return fleet.forget_from(route, partition, offset).await,
        };
        let route = route.to_owned();
        file.write(move |db| {
            db.execute(
                "DELETE FROM dead_letters WHERE route = ?1 AND partition = ?2 AND position >= ?3",
                params![route, partition, offset.cast_signed()],
            )
        })
        .await?;
        Ok(())
    }

    /// A letter that was sent again in vain lies there again, with the new reason.
    ///
    /// # Errors
    /// [`ControlError`]; try again.
    pub async fn bury_again(
        &self,
        id: i64,
        code: String,
        message: String,
    ) -> Result<(), ControlError> {
        let file = match &self.keeper {
            Keeper::File(file) => file,
            Keeper::Fleet(fleet) => return fleet.bury_again(id, code, message).await,
        };
        file.write(move |db| {
            db.execute(
                "UPDATE dead_letters SET state = 'dead', redrives = redrives + 1, code = ?2, message = ?3 WHERE id = ?1",
                params![id, code, message],
            )
        })
        .await?;
        Ok(())
    }

    /// Asks for the letters that match to be sent again; how many lay there.
    ///
    /// # Errors
    /// [`ControlError`]; in a fleet some may be asked for then.
    pub async fn ask_redrive(&self, filter: LetterFilter) -> Result<usize, ControlError> {
        match &self.keeper {
            Keeper::File(file) => file.ask(move |db| ask_redrive(db, &filter)).await,
            Keeper::Fleet(fleet) => fleet.ask_redrive(&filter).await,
        }
    }

    /// The letters that are to be sent again, oldest first: those of a route in one partition, which whoever runs the
    /// route over it sends; or (`None`) those of the door, which in a fleet are handed to one process at a time.
    ///
    /// # Errors
    /// [`ControlError`] if the file cannot be read.
    pub fn letters_to_redrive(
        &self,
        of: Option<(&str, u32)>,
        limit: u32,
    ) -> Result<Vec<Kept>, ControlError> {
        if let Keeper::Fleet(fleet) = &self.keeper
            && !fleet.may_redrive(of.is_none())
        {
            return Ok(Vec::new());
        }
        self.read(|db| to_redrive(db, of, limit))
    }

    /// Letters with offsets of `partition` from `first` up to `end`: route, offset, why.
    ///
    /// # Errors
    /// [`ControlError`] if the file cannot be read.
    pub fn dead_between(
        &self,
        partition: u32,
        first: u64,
        end: u64,
    ) -> Result<Vec<(String, u64, String)>, ControlError> {
        self.read(|db| dead_between(db, partition, first, end))
    }
}
