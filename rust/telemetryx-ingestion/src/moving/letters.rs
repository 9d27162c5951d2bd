//! Dead letters, out of one control file and into another.

use std::collections::HashSet;

use rusqlite::{Connection, Row, params};

use super::MoveError;
use super::contents::Letter;
use crate::control::{Control, DeadLetter, Stage};

const COLUMNS: &str =
    "id, at, route, stage, code, field, message, partition, position, format, request_id, body";
/// Letters kept at a time.
const AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 4 << 20;

/// The letters of routes, as far as they hold: one behind its route's position comes again, and one that was sent again is
/// booked already.
pub(super) struct Letters<'c> {
    db: &'c Connection,
    routes: Vec<Lettered>,
}

/// A route.
pub(super) struct Lettered {
    pub(super) name: String,
    /// Where it is in each partition.
    pub(super) positions: Vec<(u32, u64)>,
    /// Numbers of letters that were sent again.
    pub(super) redriven: HashSet<i64>,
}

type Told<'f> = &'f mut dyn FnMut(Letter, Vec<u8>) -> Result<(), MoveError>;

impl<'c> Letters<'c> {
    pub(super) fn new(db: &'c Connection, routes: Vec<Lettered>) -> Self {
        Self { db, routes }
    }

    /// Those with offsets of a partition from `first` up to `end`, by offset.
    pub(super) fn between(
        &self,
        partition: u32,
        first: u64,
        end: u64,
    ) -> Result<Vec<(Letter, Vec<u8>)>, MoveError> {
        let mut found = Vec::new();
        self.each_between(partition, first, end, &mut |letter, body| {
            found.push((letter, body));
            Ok(())
        })?;
        found.sort_by_key(|(letter, _)| letter.offset);
        Ok(found)
    }

    /// The same one by one, route by route.
    pub(super) fn each_between(
        &self,
        partition: u32,
        first: u64,
        end: u64,
        tell: Told<'_>,
    ) -> Result<(), MoveError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM dead_letters
             WHERE route = ?1 AND partition = ?2 AND position >= ?3 AND position < ?4 ORDER BY position"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        for route in &self.routes {
            let positions = route.positions.iter();
            let position = positions.filter(|(number, _)| *number == partition);
            let position = position.map(|(_, position)| *position).next();
            let end = end.min(position.unwrap_or_default());
            if end <= first {
                continue;
            }
            let range = params![
                route.name,
                partition,
                first.cast_signed(),
                end.cast_signed()
            ];
            let mut rows = statement.query(range)?;
            while let Some(row) = rows.next()? {
                if !route.redriven.contains(&row.get(0)?) {
                    tell(letter(row)?, row.get(11)?)?;
                }
            }
        }
        Ok(())
    }

    /// Those whose event is nowhere any more.
    pub(super) fn each_without_event(&self, tell: Told<'_>) -> Result<(), MoveError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM dead_letters WHERE route = ?1 AND position IS NULL ORDER BY id"
        );
        let mut statement = self.db.prepare(&sql)?;
        for route in &self.routes {
            let mut rows = statement.query([&route.name])?;
            while let Some(row) = rows.next()? {
                if !route.redriven.contains(&row.get(0)?) {
                    tell(letter(row)?, row.get(11)?)?;
                }
            }
        }
        Ok(())
    }

    /// Those of the door.
    pub(super) fn each_of_door(&self, tell: Told<'_>) -> Result<(), MoveError> {
        let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE route IS NULL ORDER BY id");
        let mut statement = self.db.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            tell(letter(row)?, row.get(11)?)?;
        }
        Ok(())
    }
}

fn letter(row: &Row<'_>) -> rusqlite::Result<Letter> {
    Ok(Letter {
        at: row.get(1)?,
        route: row.get(2)?,
        stage: row.get(3)?,
        code: row.get(4)?,
        field: row.get(5)?,
        message: row.get(6)?,
        partition: row.get(7)?,
        offset: row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
        here: false,
        format: row.get(9)?,
        request_id: row.get(10)?,
    })
}

/// Letters on their way into the new control file, some at a time.
pub(super) struct Keeping<'c> {
    control: &'c Control,
    waiting: Vec<(i64, DeadLetter)>,
    bytes: usize,
    kept: u64,
}

impl<'c> Keeping<'c> {
    pub(super) fn new(control: &'c Control) -> Self {
        Self {
            control,
            waiting: Vec::new(),
            bytes: 0,
            kept: 0,
        }
    }

    /// How many were kept.
    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    /// Keeps one, in its new place.
    pub(super) async fn keep(
        &mut self,
        letter: Letter,
        body: Vec<u8>,
        place: (u32, Option<u64>),
    ) -> Result<(), MoveError> {
        let format = match letter.format.as_str() {
            "json" => "json",
            "protobuf" => "protobuf",
            _ => "stored",
        };
        let stage = match letter.stage.as_str() {
            "validation" => Stage::Validation,
            "processing" => Stage::Processing,
            _ => Stage::Delivery,
        };
        self.bytes += body.len();
        let (partition, offset) = place;
        self.waiting.push((
            letter.at,
            DeadLetter {
                route: letter.route,
                stage,
                code: letter.code,
                field: letter.field,
                message: letter.message,
                partition,
                offset,
                format,
                body,
                request_id: letter.request_id,
            },
        ));
        if self.waiting.len() >= AT_ONCE || self.bytes >= BYTES_AT_ONCE {
            self.flush().await?;
        }
        Ok(())
    }

    /// Keeps those that wait.
    pub(super) async fn flush(&mut self) -> Result<(), MoveError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        self.kept += waiting.len() as u64;
        if !waiting.is_empty() {
            self.control.keep_since(waiting, None).await?;
        }
        Ok(())
    }
}
