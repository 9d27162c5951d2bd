//! Replays: what an operator asked to be delivered again, and how far that is.
//!
//! One request has one number and a part for each partition that it touches; whoever runs the route over a partition
//! serves that part. In the table a part is a row; `number` is empty in the first row of a request, which is the
//! request's own: its number is that row's `id`.

use rusqlite::{Connection, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Control, ControlError, Keeper, found};
use crate::clock;

/// What becomes of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Which events of one partition are asked for: those from `first` up to `behind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub first: u64,
    /// The offset behind the last.
    pub behind: u64,
}

impl Part {
    /// How many events it has.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.behind.saturating_sub(self.first)
    }

    /// True if there is no event in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first >= self.behind
    }
}

/// One part of a replay: the events of a partition from `first` up to `behind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The number of the request; its other parts have the same.
    pub id: i64,
    /// The route.
    pub route: String,
    /// The partition.
    pub partition: u32,
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
    /// Why it failed, or waits.
    pub error: Option<String>,
}

/// A replay with all its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeReplay {
    /// Its number.
    pub id: i64,
    /// The route.
    pub route: String,
    /// Its parts, by partition; at least one.
    pub parts: Vec<Replay>,
}

impl WholeReplay {
    /// Pending while a part is; failed if one has.
    #[must_use]
    pub fn state(&self) -> ReplayState {
        let has = |state| self.parts.iter().any(|part| part.state == state);
        if has(ReplayState::Pending) {
            ReplayState::Pending
        } else if has(ReplayState::Failed) {
            ReplayState::Failed
        } else {
            ReplayState::Done
        }
    }

    /// Why it failed or waits: the words of the first part that says so.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let part = self.parts.iter().find(|part| part.error.is_some())?;
        let error = part.error.as_ref()?;
        Some(match self.parts.len() {
            1 => error.clone(),
            _ => format!("partition {}: {error}", part.partition),
        })
    }

    /// How many events were asked for.
    #[must_use]
    pub fn events(&self) -> u64 {
        let events = |part: &Replay| part.behind.saturating_sub(part.first);
        self.parts.iter().map(events).sum()
    }

    /// How many of them it is past.
    #[must_use]
    pub fn passed(&self) -> u64 {
        let passed = |part: &Replay| part.next.saturating_sub(part.first);
        self.parts.iter().map(passed).sum()
    }

    /// How many of them were delivered.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.parts.iter().map(|part| part.delivered).sum()
    }

    /// What `GET /replays/{id}` answers. One part is told as if there were no partitions, but for its number unless that
    /// is 0; several have `parts`, and totals above them.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut whole = json!({ "id": self.id, "route": self.route });
        if let [part] = self.parts.as_slice() {
            if part.partition != 0 {
                whole["partition"] = part.partition.into();
            }
            add(&mut whole, part);
            return whole;
        }
        whole["events"] = self.events().into();
        whole["passed"] = self.passed().into();
        whole["delivered"] = self.delivered().into();
        whole["state"] = json!(self.state());
        if let Some(error) = self.error() {
            whole["error"] = error.into();
        }
        let parts = self.parts.iter().map(|part| {
            let mut told = json!({ "partition": part.partition });
            add(&mut told, part);
            told
        });
        whole["parts"] = parts.collect();
        whole
    }
}

fn add(to: &mut Value, part: &Replay) {
    to["first"] = part.first.into();
    to["behind"] = part.behind.into();
    to["next"] = part.next.into();
    to["delivered"] = part.delivered.into();
    to["state"] = json!(part.state);
    if let Some(error) = &part.error {
        to["error"] = error.as_str().into();
    }
}

const NUMBER: &str = "coalesce(number, id)";
const COLUMNS: &str =
    "coalesce(number, id), route, partition, first, behind, next, delivered, state, error";

fn replay(row: &Row<'_>) -> rusqlite::Result<Replay> {
    let offset = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let state = match row.get_ref(7)?.as_str()? {
        "done" => ReplayState::Done,
        "failed" => ReplayState::Failed,
        _ => ReplayState::Pending,
    };
    Ok(Replay {
        id: row.get(0)?,
        route: row.get(1)?,
        partition: row.get(2)?,
        first: offset(3)?,
        behind: offset(4)?,
        next: offset(5)?,
        delivered: offset(6)?,
        state,
        error: row.get(8)?,
    })
}

/// Asks for a replay; its number.
///
/// # Errors
/// SQLite's; then nothing was asked for. A replay of no part is none.
pub fn ask(db: &Connection, route: &str, parts: &[Part]) -> rusqlite::Result<i64> {
    // The write lock first: whoever serves it sees all parts or none.
    let transaction = rusqlite::Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let number = insert(&transaction, route, parts)?;
    transaction.commit()?;
    Ok(number)
}

fn insert(db: &Connection, route: &str, parts: &[Part]) -> rusqlite::Result<i64> {
    let at = clock::now().unix_nanos();
    let mut number = None;
    for part in parts {
        let id = db.query_row(
            "INSERT INTO replays (number, at, route, partition, first, behind, next)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5) RETURNING id",
            params![
                number,
                at,
                route,
                part.partition,
                part.first.cast_signed(),
                part.behind.cast_signed()
            ],
            |row| row.get::<_, i64>(0),
        )?;
        number = number.or(Some(id));
    }
    number.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// One replay.
///
/// # Errors
/// SQLite's; no row if there is none of that number.
pub fn get(db: &Connection, id: i64) -> rusqlite::Result<WholeReplay> {
    let sql = format!("SELECT {COLUMNS} FROM replays WHERE {NUMBER} = ?1 ORDER BY partition");
    let mut statement = db.prepare(&sql)?;
    let parts = statement.query_map([id], replay)?;
    let parts = parts.collect::<rusqlite::Result<Vec<_>>>()?;
    match parts.first() {
        Some(first) => Ok(WholeReplay {
            id,
            route: first.route.clone(),
            parts,
        }),
        None => Err(rusqlite::Error::QueryReturnedNoRows),
    }
}

impl Control {
    /// The oldest replay of `route` that is not over in `partition`.
    ///
    /// # Errors
    /// [`ControlError`] if the file cannot be read.
    pub fn next_replay(&self, route: &str, partition: u32) -> Result<Option<Replay>, ControlError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM replays WHERE route = ?1 AND partition = ?2 AND state = 'pending'
             ORDER BY {NUMBER} LIMIT 1"
        );
        if let Keeper::Fleet(fleet) = &self.keeper
            && !fleet.knows_all()
        {
            return Ok(None);
        }
        self.read(|db| found(db.query_row(&sql, params![route, partition], replay)))
    }

    /// Asks for a replay; its number.
    ///
    /// # Errors
    /// [`ControlError`]; also if `parts` is empty.
    pub async fn ask_replay(&self, route: &str, parts: Vec<Part>) -> Result<i64, ControlError> {
        if parts.is_empty() {
            return Err(ControlError::Invalid("a replay of nothing".into()));
        }
        match &self.keeper {
            Keeper::File(file) => {
                let route = route.to_owned();
                file.ask(move |db| insert(db, &route, &parts)).await
            }
            Keeper::Fleet(fleet) => fleet.ask_replay(route, parts).await,
        }
    }

    /// Saves how far this part of a replay is.
    ///
    /// # Errors
    /// [`ControlError`]; the next save has it again.
    pub async fn save_replay(&self, replay: Replay) -> Result<(), ControlError> {
        let file = match &self.keeper {
            Keeper::File(file) => file,
            Keeper::Fleet(fleet) => return fleet.save_replay(&replay).await,
        };
        let sql = format!(
            "UPDATE replays SET next = ?3, delivered = ?4, state = ?5, error = ?6
             WHERE {NUMBER} = ?1 AND partition = ?2"
        );
        file.write(move |db| {
            db.execute(
                &sql,
                params![
                    replay.id,
                    replay.partition,
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
