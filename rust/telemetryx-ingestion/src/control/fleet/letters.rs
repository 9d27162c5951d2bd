//! Dead letters of a fleet.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, params};

use super::values::{self, Letter, LetterState, Process};
use super::{Fleet, value, value_with};
use crate::admission::MemoryPermit;
use crate::control::letters::MATCHING;
use crate::control::{ControlError, DeadLetter, LetterFilter};
use crate::journal::Entry;

/// The most characters kept of a message or the like: a letter is to be hardly larger than its event.
const TEXT_MAX: usize = 1024;

impl Fleet {
    /// Keeps letters. One of a route and place that this process has kept stays one.
    pub(in crate::control) async fn keep(
        self: &Arc<Self>,
        letters: Vec<(i64, DeadLetter)>,
        memory: Option<MemoryPermit>,
    ) -> Result<(), ControlError> {
        let of_door = letters.iter().any(|(_, letter)| letter.route.is_none());
        let fleet = Arc::clone(self);
        // On its own: nobody may wait any more, and the memory is in use until it is done.
        let keeping = tokio::spawn(async move {
            let kept = fleet.bury(letters).await;
            drop(memory);
            if of_door && kept.is_ok() {
                fleet.trim().await;
            }
            kept
        });
        keeping.await.unwrap_or(Err(ControlError::Busy))
    }

    async fn bury(&self, letters: Vec<(i64, DeadLetter)>) -> Result<(), ControlError> {
        let _nobody_removes_strays = self.burying.read().await;
        let mut entries = Vec::with_capacity(letters.len());
        for (at, letter) in letters {
            let name = match (&letter.route, letter.offset) {
                (Some(route), Some(offset)) => {
                    values::letter_of_route(route, letter.partition, offset)
                }
                _ => values::letter_of_door(),
            };
            let head = Letter {
                by: self.process.clone(),
                at,
                route: letter.route,
                stage: letter.stage.as_str().to_owned(),
                code: letter.code,
                field: letter.field.map(cut),
                message: cut(letter.message),
                partition: letter.partition,
                offset: letter.offset,
                format: letter.format.to_owned(),
                request_id: letter.request_id.map(cut),
            };
            entries.push((name, value_with(&head, &letter.body)?));
        }
        let own = self.read(|db| {
            let names = entries.iter().map(|(name, _)| name.as_str());
            kept_by(db, &self.process, names)
        })?;
        entries.retain(|(name, _)| !own.contains(name));
        if !entries.is_empty() {
            self.change(entries).await?;
        }
        Ok(())
    }

    /// Keeps the letters of the door within the limit: the oldest go first.
    async fn trim(&self) {
        if self.trimming.swap(true, Ordering::AcqRel) {
            return;
        }
        let trimmed = async {
            let names = self.read(|db| oldest_over(db, self.letters_max_bytes))?;
            let removed = names.len();
            if removed > 0 {
                let gone = names.into_iter().map(|name| (name, None)).collect();
                self.change(gone).await?;
                tracing::warn!(
                    removed,
                    "dead_letters.max_bytes is reached: removed the oldest refused events"
                );
            }
            Ok::<_, ControlError>(())
        };
        if let Err(error) = trimmed.await {
            tracing::warn!(%error, "refused events cannot be held within dead_letters.max_bytes now");
        }
        self.trimming.store(false, Ordering::Release);
    }

    pub(in crate::control) async fn settle(&self, ids: &[i64]) -> Result<(), ControlError> {
        let gone = self.read(|db| {
            let mut gone = Vec::new();
            for id in ids {
                gone.extend(removal(db, *id)?);
            }
            Ok(gone)
        })?;
        self.remove(gone).await
    }

    pub(in crate::control) async fn forget_from(
        &self,
        route: &str,
        partition: u32,
        offset: u64,
    ) -> Result<(), ControlError> {
        // What comes behind it of others is not theirs to bury any more; and what came before is known then.
        let fence = Process {
            by: self.process.clone(),
        };
        let fence = (values::fence(route, partition), value(&fence)?);
        self.change(vec![fence]).await?;
        let gone = self.read(|db| {
            let mut statement = db.prepare(
                "SELECT id FROM dead_letters WHERE route = ?1 AND partition = ?2 AND position >= ?3",
            )?;
            let ids = statement.query_map(params![route, partition, offset.cast_signed()], |row| {
                row.get::<_, i64>(0)
            })?;
            let mut gone = Vec::new();
            for id in ids {
                gone.extend(removal(db, id?)?);
            }
            Ok(gone)
        })?;
        self.remove(gone).await
    }

    pub(in crate::control) async fn bury_again(
        &self,
        id: i64,
        code: String,
        message: String,
    ) -> Result<(), ControlError> {
        let redrives = self.read(|db| {
            let mut statement =
                db.prepare("SELECT redrives FROM dead_letters WHERE id = ?1 AND name IS NOT NULL")?;
            statement
                .query_row([id], |row| row.get::<_, u32>(0))
                .optional()
        })?;
        let Some(redrives) = redrives else {
            return Ok(());
        };
        let state = LetterState {
            redrive: false,
            redrives: redrives + 1,
            code: Some(code),
            message: Some(cut(message)),
        };
        let entry = (values::letter_state(id), value(&state)?);
        self.change(vec![entry]).await.map(drop)
    }

    pub(in crate::control) async fn ask_redrive(
        &self,
        filter: &LetterFilter,
    ) -> Result<usize, ControlError> {
        let sql = format!(
            "SELECT id, redrives, code, message FROM dead_letters WHERE state = 'dead' AND {MATCHING} ORDER BY id"
        );
        let states = self.read(|db| {
            let mut statement = db.prepare(&sql)?;
            let rows =
                statement.query_map(params![filter.route, filter.stage, filter.id], |row| {
                    let redrives = row.get(1)?;
                    // The reason of the first time is in the letter.
                    let has_failed_again = redrives > 0;
                    let text = |index| match has_failed_again {
                        true => row.get::<_, String>(index).map(Some),
                        false => Ok(None),
                    };
                    let state = LetterState {
                        redrive: true,
                        redrives,
                        code: text(2)?,
                        message: text(3)?,
                    };
                    Ok((row.get::<_, i64>(0)?, state))
                })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let marked = states.len();
        let mut entries = Vec::with_capacity(marked);
        for (id, state) in states {
            entries.push((values::letter_state(id), value(&state)?));
        }
        if marked > 0 {
            self.change(entries).await?;
        }
        Ok(marked)
    }

    /// True if this process may send letters again: those of its own partitions, or those of the door.
    pub(in crate::control) fn may_redrive(&self, of_door: bool) -> bool {
        if of_door {
            *self.wanted_door.lock() = Some(Instant::now());
        }
        self.knows_all() && (!of_door || self.is_keeper())
    }

    /// Removes letters that another process buried where this one has taken over. It holds up those who bury here: one of
    /// them may be about to bury the same.
    pub(super) async fn remove_strays(&self) -> Result<(), ControlError> {
        let find = |db: &Connection| {
            let mut statement = db.prepare(
                "SELECT id FROM dead_letters JOIN strays USING (name) WHERE buried_by IS NOT ?1",
            )?;
            let ids = statement.query_map([&self.process], |row| row.get::<_, i64>(0))?;
            let mut gone = Vec::new();
            for id in ids {
                gone.extend(removal(db, id?)?);
            }
            Ok(gone)
        };
        if self.read(find)?.is_empty() {
            return Ok(());
        }
        let _nobody_buries = self.burying.write().await;
        let gone = self.read(find)?;
        self.remove(gone).await
    }

    pub(super) async fn remove(&self, entries: Vec<Entry>) -> Result<(), ControlError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.change(entries).await.map(drop)
    }
}

/// Which of these names are letters that this process buried.
fn kept_by<'n>(
    db: &Connection,
    process: &str,
    names: impl Iterator<Item = &'n str>,
) -> rusqlite::Result<HashSet<String>> {
    let mut find = db
        .prepare("SELECT EXISTS (SELECT 1 FROM dead_letters WHERE name = ?1 AND buried_by = ?2)")?;
    let mut kept = HashSet::new();
    for name in names {
        if find.query_row([name, process], |row| row.get(0))? {
            kept.insert(name.to_owned());
        }
    }
    Ok(kept)
}

/// What removes a letter: nothing if it is gone already.
fn removal(db: &Connection, id: i64) -> rusqlite::Result<Vec<Entry>> {
    let mut find = db.prepare_cached("SELECT name, has_state FROM dead_letters WHERE id = ?1")?;
    let found: Option<(String, bool)> = find
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((name, has_state)) = found else {
        return Ok(Vec::new());
    };
    let state = has_state.then(|| (values::letter_state(id), None));
    Ok(std::iter::once((name, None)).chain(state).collect())
}

/// The oldest letters of the door, as many as there are too many, and some more: so that not every letter that comes is the
/// end of another one.
fn oldest_over(db: &Connection, max_bytes: u64) -> rusqlite::Result<Vec<String>> {
    let kept: i64 = db.query_row("SELECT bytes FROM refused_bytes", [], |row| row.get(0))?;
    let mut names = Vec::new();
    if kept.cast_unsigned() <= max_bytes {
        return Ok(names);
    }
    let mut over = kept.cast_unsigned() - max_bytes + max_bytes / 32;
    let mut statement = db.prepare(
        "SELECT name, length(body) + length(message) + 200 FROM dead_letters WHERE stage = 'validation' ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()?
        && over > 0
    {
        over = over.saturating_sub(row.get::<_, i64>(1)?.cast_unsigned());
        names.push(row.get(0)?);
    }
    Ok(names)
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}
