//! `/events` from the file: pages of events, newest first, by keyset (time and place), never by counting off.

use std::path::PathBuf;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};
use telemetryx_common::{Event, EventType, Source, Timestamp};

use super::schema;
use crate::query::{Cursor, EventPage, EventQuery, EventStore, StoreError};

/// What an event takes beside its payload, about.
const EVENT_BYTES: usize = 300;
const COLUMNS: &str =
    "seq, id, ts, type, source, schema_version, partition_key, attributes, payload, received_at";

/// Reads the file with connections of its own; the last one is kept for the next query.
pub(super) struct SqliteEvents {
    path: PathBuf,
    idle: Mutex<Option<Connection>>,
}

impl SqliteEvents {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::new(None),
        }
    }

    /// One page; behind `after`, a time and a place.
    fn page(&self, query: &EventQuery, after: Option<(i64, i64)>) -> rusqlite::Result<EventPage> {
        let kept = self.idle.lock().take();
        let connection = match kept {
            Some(connection) => connection,
            // Nothing was stored yet: the route makes the file as it starts.
            None if matches!(self.path.try_exists(), Ok(false)) => {
                return Ok(EventPage {
                    events: Vec::new(),
                    next: None,
                });
            }
            None => schema::open_reader(&self.path)?,
        };
        let page = select(&connection, query, after)?;
        *self.idle.lock() = Some(connection);
        Ok(page)
    }
}

#[async_trait]
impl EventStore for SqliteEvents {
    async fn events(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let after = query.after.as_ref().map(|cursor| {
            let place = i64::from_str_radix(&cursor.place, 16).map_err(|_| StoreError::Cursor)?;
            Ok((cursor.ts.unix_nanos(), place))
        });
        let after = after.transpose()?;
        // A page is small, and its query runs on an index.
        tokio::task::block_in_place(|| self.page(query, after))
            .map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

/// One page. Behind a cursor these are two ranges of the index, each read from its start: the rest of the cursor's own
/// moment, then what is older. As one condition SQLite would step over all events of that moment again for each page.
fn select(
    connection: &Connection,
    query: &EventQuery,
    after: Option<(i64, i64)>,
) -> rusqlite::Result<EventPage> {
    let mut page = Reading::new(query);
    match after {
        None => page.read(connection, query, "", &[])?,
        Some((ts, place)) => {
            let ts = Value::from(ts);
            let same_moment = "ts = ? AND seq < ?";
            page.read(connection, query, same_moment, &[ts.clone(), place.into()])?;
            page.read(connection, query, "ts < ?", &[ts])?;
        }
    }
    Ok(EventPage {
        events: page.events,
        next: page.next,
    })
}

/// A page while it is read.
struct Reading {
    limit: usize,
    bytes_left: usize,
    events: Vec<Event<'static>>,
    /// The last event read: time and place.
    last: Option<(Timestamp, i64)>,
    /// Set once there is one event more than fits.
    next: Option<Cursor>,
}

impl Reading {
    fn new(query: &EventQuery) -> Self {
        Self {
            limit: query.limit as usize,
            bytes_left: query.max_bytes,
            events: Vec::new(),
            last: None,
            next: None,
        }
    }

    /// Adds the events of one range, until the page is full.
    fn read(
        &mut self,
        connection: &Connection,
        query: &EventQuery,
        range: &str,
        bounds: &[Value],
    ) -> rusqlite::Result<()> {
        if self.next.is_some() {
            return Ok(());
        }
        let (mut conditions, mut values) = conditions(query);
        if !range.is_empty() {
            conditions.push(range);
            values.extend_from_slice(bounds);
        }
        let conditions = match conditions.as_slice() {
            [] => String::new(),
            some => format!("WHERE {}", some.join(" AND ")),
        };
        values.push(
            i64::try_from(self.limit - self.events.len() + 1)
                .unwrap_or(i64::MAX)
                .into(),
        );
        let sql =
            format!("SELECT {COLUMNS} FROM events {conditions} ORDER BY ts DESC, seq DESC LIMIT ?");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            // A page holds at least one event, however large.
            if self.events.len() == self.limit || (self.bytes_left == 0 && !self.events.is_empty())
            {
                self.next = self.last.map(|(ts, place)| Cursor {
                    ts,
                    place: format!("{place:x}"),
                });
                break;
            }
            let event = event(row)?;
            self.bytes_left = self
                .bytes_left
                .saturating_sub(EVENT_BYTES + event.payload.len());
            self.last = Some((event.ts, row.get(0)?));
            self.events.push(event);
        }
        Ok(())
    }
}

fn conditions<'a>(query: &EventQuery) -> (Vec<&'a str>, Vec<Value>) {
    let mut conditions = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(from) = query.from {
        conditions.push("ts >= ?");
        values.push(from.unix_nanos().into());
    }
    if let Some(to) = query.to {
        conditions.push("ts < ?");
        values.push(to.unix_nanos().into());
    }
    if let Some(of_type) = &query.of_type {
        conditions.push("type = ?");
        values.push(of_type.clone().into());
    }
    if let Some(source) = &query.source {
        // The same digits may have come as a number or as text.
        match source.parse() {
            Ok(number) => {
                conditions.push("source IN (?, ?)");
                values.push(schema::SourceNumber(number).value());
            }
            Err(_) => conditions.push("source = ?"),
        }
        values.push(source.clone().into());
    }
    (conditions, values)
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event<'static>> {
    let mut event = Event::new(Timestamp::from_unix_nanos(row.get(2)?));
    event.id = row.get::<_, String>(1)?.into();
    event.event_type = EventType::from_name(row.get::<_, String>(3)?.into());
    event.source = match row.get_ref(4)? {
        ValueRef::Integer(number) => Source::Number(number.cast_unsigned()),
        ValueRef::Blob(bytes) => Source::Number(bytes.try_into().map_or(0, u64::from_be_bytes)),
        text => Source::Name(text.as_str()?.to_owned().into()),
    };
    event.schema_version = row.get(5)?;
    event.partition_key = row.get::<_, Option<String>>(6)?.map(Into::into);
    if let ValueRef::Text(text) = row.get_ref(7)? {
        let attributes: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(text).unwrap_or_default();
        event.attributes = attributes
            .into_iter()
            .filter_map(|(name, value)| Some((name.into(), value.as_str()?.to_owned().into())))
            .collect();
    }
    event.payload = row.get::<_, String>(8)?.into();
    event.received_at = Timestamp::from_unix_nanos(row.get(9)?);
    Ok(event)
}
