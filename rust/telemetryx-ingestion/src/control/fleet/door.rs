//! The books of all doors: each process has its own under its name, and the sum is what counts.
//!
//! Processes come and go. Books that have not changed for long are added to those of the doors that are gone, by the keeper,
//! in two steps: first the sum that says whose books are in it, then the name is removed. Whenever that breaks off, each is
//! counted once. A process that was only quiet goes on under another name with what came since.

use rusqlite::Connection;

use super::values::{self, Added, Door, DoorsGone};
use super::{Fleet, copy, value};
use crate::clock;
use crate::control::ControlError;
use crate::observe::DoorSaved;

/// Names are remembered so long after their books were added to those that are gone: by then they have been removed.
const REMEMBERED_NS: i64 = 6 * 3600 * 1_000_000_000;

/// What this process has saved of its own books.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnDoor {
    /// How often it had to take another name.
    generation: u32,
    /// What is counted under former names, or among those that are gone.
    before: DoorSaved,
    /// What stands under the present name.
    saved: Option<DoorSaved>,
}

impl Fleet {
    /// Saves the books of this process.
    pub(in crate::control) async fn save_door(&self, books: DoorSaved) -> Result<(), ControlError> {
        let _one_at_a_time = self.saving_door.lock().await;
        let mut own = self.door.lock().clone();
        let mut name = self.door_name(&own);
        if let Some(saved) = &own.saved {
            let (stands, gone) = self.read(|db| {
                let (gone, _) = copy::doors_gone(db)?;
                Ok((copy::find::<Door>(db, &name)?.is_some(), gone))
            })?;
            let added = gone.added.get(&name);
            if !stands || added.is_some() {
                let counted = added.map_or(saved, |added| &added.books);
                own = OwnDoor {
                    generation: own.generation + 1,
                    before: own.before.plus(counted.clone()),
                    saved: None,
                };
                name = self.door_name(&own);
                *self.door.lock() = own.clone();
            }
        }
        let books = books.minus(&own.before);
        let door = Door { books };
        // Should it fail it may stand there all the same; it is no more than the next save brings.
        self.change(vec![(name, value(&door)?)]).await?;
        self.door.lock().saved = Some(door.books);
        Ok(())
    }

    fn door_name(&self, own: &OwnDoor) -> String {
        match own.generation {
            0 => values::door(&self.process),
            generation => values::door(&format!("{}.{generation}", self.process)),
        }
    }

    /// What all others turned away.
    pub(in crate::control) fn doors_elsewhere(&self) -> Result<DoorSaved, ControlError> {
        let OwnDoor { before, saved, .. } = self.door.lock().clone();
        let sum = self.read(|db| {
            let (gone, _) = copy::doors_gone(db)?;
            let DoorsGone { books, added } = gone;
            let doors = copy::doors(db)?.into_iter();
            let counted = doors.filter(|(name, ..)| !added.contains_key(name));
            Ok(counted.fold(books, |sum, (_, door, _)| sum.plus(door.books)))
        })?;
        Ok(sum.minus(&before).minus(&saved.unwrap_or_default()))
    }

    /// Adds the books that have not changed for long to those that are gone. Only the keeper may.
    pub(super) async fn add_idle_doors(&self) -> Result<(), ControlError> {
        let now = clock::now().unix_nanos();
        let (mut gone, idle, removed) = self.read(|db| {
            let (gone, _) = copy::doors_gone(db)?;
            let idle = self.idle_doors(db)?;
            // Of those in the sum already: added, and then the keeper was gone.
            let doors = copy::doors(db)?.into_iter().map(|(name, ..)| name);
            let removed: Vec<_> = doors.filter(|name| gone.added.contains_key(name)).collect();
            Ok((gone, idle, removed))
        })?;
        let stands = |name: &String| removed.contains(name);
        gone.added
            .retain(|name, added| stands(name) || now - added.at < REMEMBERED_NS);
        let mut names = removed;
        if !idle.is_empty() {
            for (name, books) in idle {
                gone.books = gone.books.plus(books.clone());
                names.push(name.clone());
                gone.added.insert(name, Added { at: now, books });
            }
            let entry = (values::DOORS_GONE.to_owned(), value(&gone)?);
            let sequence = self.change(vec![entry]).await?;
            let (_, stands) = self.read(copy::doors_gone)?;
            if stands != Some(sequence.cast_signed()) {
                // Another keeper came in between: what is in its sum is not known here.
                return Ok(());
            }
        }
        self.remove(names.into_iter().map(|name| (name, None)).collect())
            .await
    }

    /// The books that have not changed for long, and are not in the sum yet; but for this process's own.
    pub(super) fn idle_doors(&self, db: &Connection) -> rusqlite::Result<Vec<(String, DoorSaved)>> {
        let own = self.door_name(&self.door.lock());
        let (DoorsGone { added, .. }, _) = copy::doors_gone(db)?;
        let idle = i64::try_from(self.pace.idle_door.as_nanos()).unwrap_or(i64::MAX);
        let since = clock::now().unix_nanos() - idle;
        let doors = copy::doors(db)?.into_iter();
        Ok(doors
            .filter(|(name, _, seen_at)| {
                *seen_at < since && *name != own && !added.contains_key(name)
            })
            .map(|(name, door, _)| (name, door.books))
            .collect())
    }
}
