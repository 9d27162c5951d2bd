//! Replays: what an operator asked to be delivered again, and how far that is.

use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::{Control, ControlError};
use crate::clock;

/// What becomes of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// It waits for the service, or is under way.
    Pending,
    /// Everything was delivered again.
    Done,
    /// It cannot be done; `error` says why.
    Failed,
}

impl ReplayState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// A replay of the events from `first` up to `behind`.
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// Its number.
    pub id: i64,
    /// The route.
    pub route: String,
    /// The first offset.
    pub first: u64,
    /// The offset behind the last.
    pub behind: u64,
    /// The offset that is delivered next.
    pub next: u64,
    /// Events delivered so far.
    pub delivered: u64,
    /// What became of it.
    pub state: ReplayState,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

const COLUMNS: &str = "id, route, first, behind, next, delivered, state, error";

fn replay(row: &Row<'_>) -> rusqlite::Result<Replay> {
    let offset = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let state = match row.get_ref(6)?.as_str()? {
        "done" => ReplayState::Done,
        "failed" => ReplayState::Failed,
        _ => ReplayState::Pending,
    };
    Ok(Replay {
        id: row.get(0)?,
        route: row.get(1)?,
        first: offset(2)?,
        behind: offset(3)?,
        next: offset(4)?,
        delivered: offset(5)?,
        state,
        error: row.get(7)?,
    })
}

/// Asks for a replay; its number.
///
/// # Errors
/// SQLite's.
pub fn ask(db: &Connection, route: &str, first: u64, behind: u64) -> rusqlite::Result<i64> {
    db.query_row(
        "INSERT INTO replays (at, route, first, behind, next) VALUES (?1, ?2, ?3, ?4, ?3) RETURNING id",
        params![clock::now().unix_nanos(), route, first.cast_signed(), behind.cast_signed()],
        |row| row.get(0),
    )
}

/// One replay.
///
/// # Errors
/// SQLite's; no row if there is none of that number.
pub fn get(db: &Connection, id: i64) -> rusqlite::Result<Replay> {
    db.query_row(
        &format!("SELECT {COLUMNS} FROM replays WHERE id = ?1"),
        [id],
        replay,
    )
}

impl Control {
    /// The oldest replay of `route` that is not over.
    ///
    /// # Errors
    /// [`ControlError`] if the file cannot be read.
    pub fn next_replay(&self, route: &str) -> Result<Option<Replay>, ControlError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM replays WHERE route = ?1 AND state = 'pending' ORDER BY id LIMIT 1"
        );
        match self.reader()?.query_row(&sql, [route], replay) {
            Ok(found) => Ok(Some(found)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(source) => Err(ControlError::Sqlite {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Saves how far a replay is.
    ///
    /// # Errors
    /// [`ControlError`]; the next save has it again.
    pub async fn save_replay(&self, replay: Replay) -> Result<(), ControlError> {
        self.write(move |db| {
            db.execute(
                "UPDATE replays SET next = ?2, delivered = ?3, state = ?4, error = ?5 WHERE id = ?1",
                params![
                    replay.id,
                    replay.next.cast_signed(),
                    replay.delivered.cast_signed(),
                    replay.state.as_str(),
                    replay.error
                ],
            )
        })
        .await?;
        Ok(())
    }
}
