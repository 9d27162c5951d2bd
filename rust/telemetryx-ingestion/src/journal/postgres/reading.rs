//! Rows of the queue, found by offset.

use bytes::Bytes;
use telemetryx_common::Timestamp;
use tokio_postgres::types::ToSql;

use super::super::{BatchLimit, Delivery, JournalError, Slice};
use super::core::Core;
use super::link::Fault;
use super::seen::Piece;

/// Rows that are asked for at once.
const ROWS_MAX: i64 = 1024;
/// Bytes that are asked for at once; one row alone may be larger.
pub(super) const READ_BYTES: usize = 1 << 20;
/// Events that were there are removed.
const EXPIRED: &str = "removed before this route came to them";
/// Somebody deleted or changed them, or the server lost them.
const MISSING: &str = "their rows are missing, or changed";
/// A piece may be dropped, and another begun, between the look at where they begin and the question.
const TRIES: u32 = 3;

/// A row of the queue.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) slice: Slice,
    /// Bytes that the partition had before it.
    pub(super) bytes_before: u64,
}

impl Row {
    /// False: it says that it has more events than there can be in its bytes, so somebody changed it.
    fn is_sound(&self) -> bool {
        self.slice.events as usize <= self.slice.body.len()
    }

    fn end(&self) -> u64 {
        self.slice.first + u64::from(self.slice.events)
    }
}

/// What there is from an offset on.
#[derive(Debug)]
pub(super) enum Found {
    /// Rows in their order. The first may begin before the offset.
    Rows(Vec<Row>),
    /// Nothing before this offset.
    Gap { to: u64, why: &'static str },
}

fn rows_of(piece: &Piece) -> String {
    format!(
        "SELECT q.first_offset, q.events, q.bytes_before, q.body FROM (\
             SELECT first_offset, bytes_before FROM {{s}}.queue_{n} WHERE partition = $1 AND first_offset <= $2 \
             ORDER BY first_offset DESC LIMIT 1) AS begin, LATERAL (\
             SELECT * FROM {{s}}.queue_{n} WHERE partition = $1 AND first_offset >= begin.first_offset \
             AND first_offset < $3 ORDER BY first_offset LIMIT {ROWS_MAX}) AS q \
         WHERE q.bytes_before < begin.bytes_before + $4 ORDER BY q.first_offset",
        n = piece.number
    )
}

fn time_at(piece: &Piece) -> String {
    format!(
        "SELECT first_offset, events, (extract(epoch FROM received_at) * 1000000)::bigint FROM {{s}}.queue_{} \
         WHERE partition = $1 AND first_offset <= $2 ORDER BY first_offset DESC LIMIT 1",
        piece.number
    )
}

/// The rows that hold `from` and what follows, up to `to` and about so many bytes; `from` is before `to`, and `to` not behind
/// the end.
pub(super) async fn rows(
    core: &Core,
    partition: u32,
    from: u64,
    to: u64,
    bytes: usize,
) -> Result<Found, JournalError> {
    let number_of = partition.cast_signed();
    let number =
        |number: u64| i64::try_from(number).map_err(|error| JournalError::Io(error.to_string()));
    let bytes = i64::try_from(bytes.clamp(1, READ_BYTES)).unwrap_or(i64::MAX);
    let mut hole = None;
    for turn in 0..TRIES {
        if turn > 0 {
            core.refresh().await?;
        }
        hole = None;
        let start = core.seen().start(partition).offset;
        if from < start {
            return Ok(Found::Gap {
                to: start.min(to),
                why: EXPIRED,
            });
        }
        let pieces = core.seen().pieces();
        let piece = pieces
            .iter()
            .rfind(|piece| piece.start(partition).offset <= from);
        let Some(piece) = piece else { continue };
        let after = pieces.iter().find(|later| later.number > piece.number);
        let after = after.map(|later| later.start(partition).offset.min(to));
        let dropped = after.unwrap_or(to);
        let (from_number, to_number) = (number(from)?, number(to)?);
        let parameters: [&(dyn ToSql + Sync); 4] = [&number_of, &from_number, &to_number, &bytes];
        // What decides that something is not there comes from the server that told of the pieces.
        let is_last = turn + 1 == TRIES;
        let read = match asked(core, is_last, &rows_of(piece), &parameters).await {
            Ok(read) => read,
            Err(fault) if fault.is_missing() => {
                hole = (is_last && is_listed(core, piece).await?).then_some(dropped);
                continue;
            }
            Err(fault) => return Err(fault.into()),
        };
        let rows = read.iter().map(row).filter(Row::is_sound);
        let mut rows: Vec<_> = rows.collect();
        // From the one that holds it, up to the first that does not follow the one before it.
        let is_first = rows.first().is_some_and(|row| row.slice.first <= from);
        let mut end = rows.first().map_or(0, |row| row.slice.first);
        let mut follows = |row: &Row| {
            let is_next = row.slice.first == end;
            end = row.end();
            is_next
        };
        let whole = rows.iter().map_while(|row| follows(row).then_some(row));
        let whole = if is_first { whole.count() } else { 0 };
        let next = rows.get(whole).map(|row| row.slice.first);
        rows.truncate(whole);
        if rows.last().is_some_and(|row| row.end() > from) {
            return Ok(Found::Rows(rows));
        }
        // Pieces are told of a little later than they are made: it is looked once more.
        let next = match next {
            Some(next) => Some(next),
            None => {
                match asked(core, is_last, &next_in(piece), &[&number_of, &from_number]).await {
                    Ok(rows) => rows
                        .first()
                        .and_then(|row| row.get::<_, Option<i64>>(0))
                        .map(i64::unsigned_abs),
                    Err(fault) if fault.is_missing() => {
                        hole = (is_last && is_listed(core, piece).await?).then_some(dropped);
                        continue;
                    }
                    Err(fault) => return Err(fault.into()),
                }
            }
        };
        hole = Some(next.or(after).map_or(to, |next| next.min(to)));
    }
    let Some(to) = hole.filter(|to| *to > from) else {
        return Err(JournalError::Io(format!(
            "partition {partition}: the rows from offset {from} on are not there"
        )));
    };
    core.seen().add_damage(format!(
        "partition {partition}: the events from offset {from} up to {to} are not in the queue, or their row was changed"
    ));
    Ok(Found::Gap { to, why: MISSING })
}

/// True if a piece whose table is not there is in the books: dropped in order, it would not be; somebody else has.
async fn is_listed(core: &Core, piece: &Piece) -> Result<bool, JournalError> {
    core.refresh().await?;
    let now = core.seen().pieces();
    Ok(now.iter().any(|now| now.number == piece.number))
}

/// Asks where events are read, or where it was looked for pieces.
async fn asked(
    core: &Core,
    where_looked: bool,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, Fault> {
    match where_looked {
        true => core.rows_where_looked(sql, parameters).await,
        false => core.reads().rows(sql, parameters).await,
    }
}

/// Where the next row begins.
fn next_in(piece: &Piece) -> String {
    format!(
        "SELECT min(first_offset) FROM {{s}}.queue_{} WHERE partition = $1 AND first_offset > $2",
        piece.number
    )
}

fn row(row: &tokio_postgres::Row) -> Row {
    let (first, events, bytes, body): (i64, i32, i64, &[u8]) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    Row {
        slice: Slice {
            first: first.unsigned_abs(),
            events: events.unsigned_abs(),
            body: Bytes::copy_from_slice(body),
        },
        bytes_before: bytes.unsigned_abs(),
    }
}

/// Reads from `from` up to `to`, or the end, as much as fits.
pub(super) async fn scan(
    core: &Core,
    partition: u32,
    from: u64,
    to: u64,
    limit: BatchLimit,
) -> Result<Delivery, JournalError> {
    let mut delivery = Delivery::at(partition, from);
    if to > core.seen().end(partition).offset {
        core.refresh().await?;
    }
    let to = to.min(core.seen().end(partition).offset);
    while delivery.end < to && !delivery.is_full(limit) {
        match rows(
            core,
            partition,
            delivery.end,
            to,
            limit.bytes - delivery.bytes,
        )
        .await?
        {
            Found::Gap { to, why } => delivery.miss(to, why),
            Found::Rows(rows) => {
                for row in rows {
                    let room = usize::try_from(to - delivery.end).unwrap_or(usize::MAX);
                    let so_far = usize::try_from(delivery.end - from).unwrap_or(usize::MAX);
                    let limit = BatchLimit {
                        events: limit.events.min(so_far.saturating_add(room)),
                        ..limit
                    };
                    if delivery.add(row.slice, limit).is_some() {
                        return Ok(delivery);
                    }
                }
            }
        }
    }
    Ok(delivery)
}

/// The first offset that was put into the queue at or after `time`, by the server's clock; the end if there is none.
pub(super) async fn offset_at(
    core: &Core,
    partition: u32,
    time: Timestamp,
) -> Result<u64, JournalError> {
    core.refresh().await?;
    let pieces = core.seen().pieces();
    let end = core.seen().end(partition).offset;
    // Times of a partition never fall, and a piece holds none that is older than the piece.
    let place = pieces
        .iter()
        .rposition(|piece| piece.made_at <= time)
        .unwrap_or_default();
    let Some(piece) = pieces.get(place) else {
        return Ok(end);
    };
    let mut from = piece.start(partition).offset;
    let next = pieces.get(place + 1);
    let mut to = next.map_or(end, |next| next.start(partition).offset);
    let wanted =
        time.unix_nanos().div_euclid(1000) + i64::from(time.unix_nanos().rem_euclid(1000) > 0);
    let (sql, number_of) = (time_at(piece), partition.cast_signed());
    while from < to {
        let middle = from + (to - from) / 2;
        let asked = i64::try_from(middle).map_err(|error| JournalError::Io(error.to_string()))?;
        let parameters: [&(dyn ToSql + Sync); 2] = [&number_of, &asked];
        let found = match core.reads().rows(&sql, &parameters).await {
            Ok(found) => found,
            // Somebody dropped it.
            Err(fault) if fault.is_missing() => break,
            Err(fault) => return Err(fault.into()),
        };
        let Some(row) = found.first() else { break };
        let (first, events, received): (i64, i32, i64) = (row.get(0), row.get(1), row.get(2));
        let first = first.unsigned_abs();
        if received >= wanted {
            to = first.max(from);
        } else {
            // Where a row is missing, the one that is found ends before the middle.
            from = (first + u64::from(events.unsigned_abs())).max(middle + 1);
        }
    }
    Ok(from)
}
