//! What a fleet does without being asked for. Most of it does no harm if several processes do it. What one alone must do
//! is done by the keeper: sending letters of the door again, and adding up the books of doors that are gone.
//!
//! The keeper is whoever wrote the name `keeper` last, as long as he writes it again and again; he does so only while there
//! is work. Who wants to be it, because there is work and the keeper is silent, writes it and waits a moment: if two do so
//! at the same time, the order of the table decides. A process without contact to the table stops being it by itself.

use std::sync::Weak;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::values::{self, Beat, Born};
use super::{Fleet, Pace, copy, value};
use crate::clock;
use crate::control::ControlError;
use crate::control::letters::to_redrive;

/// Names removed at a time.
const AT_ONCE: u32 = 1000;

/// What this process knows of the keeper.
#[derive(Debug, Default)]
pub(super) struct Keeping(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when this one is it.
    since: Option<Instant>,
    /// When its last beat was begun that has come back.
    beat: Option<Instant>,
    /// The last beat of whoever it is, and since when nothing came after it.
    seen: Option<(i64, Instant)>,
    /// Those who wait for it know that this one is it.
    is_told: bool,
    /// Since when there is work.
    work: Option<Instant>,
    count: u64,
}

/// Looks again and again what is to be done, until this process goes down.
pub(super) async fn run(fleet: Weak<Fleet>, pace: Pace) {
    let mut looks = tokio::time::interval(pace.look);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(fleet) = fleet.upgrade() else {
            return;
        };
        if !fleet.knows_all() {
            continue;
        }
        if let Err(error) = fleet.look().await {
            tracing::debug!(%error, "what is to be done for the fleet waits");
        }
    }
}

impl Fleet {
    async fn look(&self) -> Result<(), ControlError> {
        if !self
            .read(|db| db.query_row("SELECT EXISTS (SELECT 1 FROM born)", [], |row| row.get(0)))?
        {
            self.set_born(self.started.unix_nanos()).await?;
        }
        let orphans = self.read(|db| orphans(db, self.pace.orphan))?;
        self.remove(orphans.into_iter().map(|name| (name, None)).collect())
            .await?;
        self.remove_strays().await?;
        let wanted = *self.wanted_door.lock();
        if wanted.is_none_or(|wanted| wanted.elapsed() >= self.pace.interest) {
            return Ok(());
        }
        self.want_to_keep().await?;
        let is_keeper = self.is_keeper();
        let was_keeper = std::mem::replace(&mut self.keeping.0.lock().is_told, is_keeper);
        if is_keeper && !was_keeper {
            self.asked.send_modify(|count| *count += 1);
        }
        if is_keeper {
            self.add_idle_doors().await?;
        }
        Ok(())
    }

    /// Says since when the books are kept, in nanoseconds since 1970.
    pub(in crate::control) async fn set_born(&self, at: i64) -> Result<(), ControlError> {
        let entry = (values::BORN.to_owned(), value(&Born { at })?);
        self.change(vec![entry]).await.map(drop)
    }

    /// Says that this process is there, if it is the keeper or should be.
    async fn want_to_keep(&self) -> Result<(), ControlError> {
        let (keeper, has_work) = self.read(|db| {
            let has_work = !to_redrive(db, None, 1)?.is_empty() || !self.idle_doors(db)?.is_empty();
            Ok((copy::keeper(db)?, has_work))
        })?;
        let now = Instant::now();
        let is_own = keeper
            .as_ref()
            .is_some_and(|(beat, _)| beat.by == self.process);
        let count = {
            let mut state = self.keeping.0.lock();
            state.work = has_work.then(|| state.work.unwrap_or(now));
            let sequence = keeper.as_ref().map(|(_, sequence)| *sequence);
            if state.seen.map(|(seen, _)| seen) != sequence {
                state.seen = sequence.map(|sequence| (sequence, now));
            }
            let is_due = match (state.work, state.seen) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(_), Some(_)) if is_own => state
                    .beat
                    .is_none_or(|beat| now.duration_since(beat) >= self.pace.beat),
                // A keeper who had nothing to do says so now that he has.
                (Some(work), Some((_, seen))) => {
                    now.duration_since(seen) >= self.pace.silence
                        && now.duration_since(work) >= 3 * self.pace.look
                }
            };
            if !is_own {
                state.since = None;
            }
            if !is_due {
                return Ok(());
            }
            state.count += 1;
            state.count
        };
        let beat = Beat {
            by: self.process.clone(),
            count,
        };
        let entry = (values::KEEPER.to_owned(), value(&beat)?);
        self.change(vec![entry]).await?;
        let mut state = self.keeping.0.lock();
        state.beat = Some(now);
        state.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// True if this process is the keeper, and has been for long enough that no other one can think so.
    pub(super) fn is_keeper(&self) -> bool {
        {
            let state = self.keeping.0.lock();
            let (Some(since), Some(beat)) = (state.since, state.beat) else {
                return false;
            };
            // Well before another one may think that it is gone.
            let silent = beat.elapsed() >= self.pace.silence * 2 / 3;
            if silent || since.elapsed() < self.pace.settle {
                return false;
            }
        }
        let keeper = self.read(copy::keeper).ok().flatten();
        keeper.is_some_and(|(beat, _)| beat.by == self.process)
    }
}

/// Names whose letter or replay has been gone for `long`.
fn orphans(db: &Connection, long: Duration) -> rusqlite::Result<Vec<String>> {
    let long = i64::try_from(long.as_nanos()).unwrap_or(i64::MAX);
    let before = clock::now().unix_nanos() - long;
    let mut statement = db.prepare("SELECT name FROM orphans WHERE seen_at <= ?1 LIMIT ?2")?;
    let names = statement.query_map((before, AT_ONCE), |row| row.get(0))?;
    names.collect()
}
