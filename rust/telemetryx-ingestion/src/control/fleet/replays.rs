//! Replays of a fleet.

use rusqlite::{Connection, params};

use super::values::{self, Progress, Request};
use super::{Fleet, value};
use crate::clock;
use crate::control::{ControlError, Part, Replay};
use crate::journal::Entry;

/// Replays that are over and still can be asked for.
const OVER_KEPT: u32 = 100;

impl Fleet {
    pub(in crate::control) async fn ask_replay(
        &self,
        route: &str,
        parts: Vec<Part>,
    ) -> Result<i64, ControlError> {
        let request = Request {
            at: clock::now().unix_nanos(),
            route: route.to_owned(),
            parts,
        };
        let name = values::replay();
        let number = self.change(vec![(name, value(&request)?)]).await?;
        self.remove(self.read(too_old)?).await?;
        Ok(number.cast_signed())
    }

    pub(in crate::control) async fn save_replay(&self, part: &Replay) -> Result<(), ControlError> {
        let progress = Progress {
            next: part.next,
            delivered: part.delivered,
            state: part.state,
            error: part.error.clone(),
        };
        let name = values::replay_part(part.id, part.partition);
        self.change(vec![(name, value(&progress)?)]).await.map(drop)
    }
}

/// What removes the oldest that are over.
fn too_old(db: &Connection) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = db.prepare(
        "WITH over AS (
             SELECT number FROM replays GROUP BY number HAVING sum(state = 'pending') = 0
             ORDER BY number DESC LIMIT -1 OFFSET ?1)
         SELECT name, number, partition FROM replays JOIN over USING (number)",
    )?;
    let rows = statement.query_map(params![OVER_KEPT], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
    })?;
    let mut entries = Vec::new();
    for row in rows {
        let (name, number, partition) = row?;
        entries.push((name, None));
        entries.push((values::replay_part(number, partition), None));
    }
    Ok(entries)
}
