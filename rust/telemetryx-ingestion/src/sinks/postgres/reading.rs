//! `/events` from the table: pages of events, newest first, by keyset (time and id), never by counting off.

use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::BytesMut;
use futures_util::StreamExt;
use parking_lot::Mutex;
use telemetryx_common::{Event, EventType, Source, Timestamp};
use tokio::sync::Semaphore;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::Shared;
use super::encoding::{from_server, to_server};
use crate::postgres::Connection;
use crate::postgres::words;
use crate::query::{Cursor, EventPage, EventQuery, EventStore, StoreError};

/// Queries at the same time, each on a connection of its own.
const CONNECTIONS: usize = 2;
/// What an event takes beside its payload, about.
const EVENT_BYTES: usize = 300;
const SETTINGS: &str = "SET default_transaction_read_only = on; SET lock_timeout = '5s'";
const COLUMNS: &str = "id, ts, type, source, schema_version, partition_key, attributes::text, payload::text, \
                       received_at";

/// Reads the table with connections of its own, which are kept for the next queries.
pub(super) struct PostgresEvents {
    shared: Arc<Shared>,
    turns: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl PostgresEvents {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            turns: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
        }
    }

    async fn page(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let (sql, values) = select(&self.shared.settings.events, query)?;
        let unavailable =
            |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("PostgreSQL: {error}"));
        let Ok(_turn) = self.turns.acquire().await else {
            return Err(unavailable(&"shutting down"));
        };
        let kept = self.idle.lock().pop();
        let connection = match kept.filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => {
                let opened = self.shared.connector.open(SETTINGS).await;
                opened.map_err(|error| unavailable(&error))?
            }
        };
        let mut page = Reading::new(query);
        match page.read(&connection, &sql, values).await {
            Ok(true) => self.idle.lock().push(connection),
            // What the server still sends is not wanted.
            Ok(false) => {}
            // Nothing was stored yet: the route makes the table as it starts.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
            Err(error) => return Err(unavailable(&words(&error))),
        }
        Ok(EventPage {
            events: page.events,
            next: page.next,
        })
    }
}

#[async_trait]
impl EventStore for PostgresEvents {
    async fn events(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let within = self.shared.settings.timeout;
        tokio::time::timeout(within, self.page(query))
            .await
            .unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!(
                    "PostgreSQL: no answer within {within:?}"
                )))
            })
    }
}

type Values = Vec<(Box<dyn ToSql + Sync + Send>, Type)>;

/// The query of one page and one event more, which tells whether there is a next page.
fn select(table: &str, query: &EventQuery) -> Result<(String, Values), StoreError> {
    let mut conditions = Vec::new();
    let mut values: Values = Vec::new();
    let mut value = |value: Box<dyn ToSql + Sync + Send>, of_type: Type| {
        values.push((value, of_type));
        format!("${}", values.len())
    };
    let mut time = |ts: Timestamp| value(Box::new(Micros::at_or_after(ts)), Type::TIMESTAMPTZ);
    if let Some(from) = query.from {
        conditions.push(format!("ts >= {}", time(from)));
    }
    if let Some(to) = query.to {
        conditions.push(format!("ts < {}", time(to)));
    }
    if let Some(after) = &query.after {
        let ts = time(after.ts);
        let id = value(Box::new(id_of(after)?), Type::TEXT);
        // The first condition tells the planner which partitions it can leave out.
        conditions.push(format!("ts <= {ts} AND (ts, id) < ({ts}, {id})"));
    }
    for (column, text) in [("type", &query.of_type), ("source", &query.source)] {
        if let Some(text) = text {
            // There is none with a NUL in the table, and the server takes none in a question.
            let text = match text.contains('\0') {
                true => return Ok((format!("{} LIMIT 0", nothing(table)), Vec::new())),
                false => text.clone(),
            };
            conditions.push(format!("{column} = {}", value(Box::new(text), Type::TEXT)));
        }
    }
    let conditions = match conditions.as_slice() {
        [] => String::new(),
        some => format!("WHERE {}", some.join(" AND ")),
    };
    let limit = u64::from(query.limit) + 1;
    let sql = format!(
        "SELECT {COLUMNS} FROM {table} {conditions} ORDER BY ts DESC, id DESC LIMIT {limit}"
    );
    Ok((sql, values))
}

fn nothing(table: &str) -> String {
    format!("SELECT {COLUMNS} FROM {table}")
}

/// The id in a cursor of ours.
fn id_of(cursor: &Cursor) -> Result<String, StoreError> {
    let id = BASE64_URL_SAFE_NO_PAD.decode(&cursor.place).ok();
    let id = id.and_then(|id| String::from_utf8(id).ok());
    id.filter(|id| !id.contains('\0')).ok_or(StoreError::Cursor)
}

/// A page while it is read.
struct Reading {
    limit: usize,
    bytes_left: usize,
    events: Vec<Event<'static>>,
    /// Set once there is one event more than fits.
    next: Option<Cursor>,
}

impl Reading {
    fn new(query: &EventQuery) -> Self {
        Self {
            limit: query.limit as usize,
            bytes_left: query.max_bytes,
            events: Vec::new(),
            next: None,
        }
    }

    /// Adds events until the page is full. False if there are rows left on the way.
    async fn read(
        &mut self,
        connection: &Connection,
        sql: &str,
        values: Values,
    ) -> Result<bool, tokio_postgres::Error> {
        let values = values
            .iter()
            .map(|(value, of_type)| (&**value as &(dyn ToSql + Sync), of_type.clone()));
        let mut rows = pin!(connection.query_typed_raw(sql, values).await?);
        while let Some(row) = rows.next().await {
            let row = row?;
            // A page holds at least one event, however large.
            if self.events.len() == self.limit || (self.bytes_left == 0 && !self.events.is_empty())
            {
                self.next = self.events.last().map(|last| Cursor {
                    ts: last.ts,
                    place: BASE64_URL_SAFE_NO_PAD.encode(last.id.as_bytes()),
                });
                return Ok(self.events.len() == self.limit);
            }
            let event = event(&row)?;
            self.bytes_left = self
                .bytes_left
                .saturating_sub(EVENT_BYTES + event.payload.len());
            self.events.push(event);
        }
        Ok(true)
    }
}

fn event(row: &Row) -> Result<Event<'static>, tokio_postgres::Error> {
    let mut event = Event::new(row.try_get::<_, Micros>(1)?.timestamp());
    event.id = row.try_get::<_, String>(0)?.into();
    event.event_type = EventType::from_name(row.try_get::<_, String>(2)?.into());
    let source: String = row.try_get(3)?;
    // The table has text. Digits are shown as the number that they most likely were.
    event.source = match source.parse::<u64>() {
        Ok(number) if number.to_string() == source => Source::Number(number),
        _ => Source::Name(source.into()),
    };
    event.schema_version = row.try_get::<_, i32>(4)?.unsigned_abs();
    event.partition_key = row.try_get::<_, Option<String>>(5)?.map(Into::into);
    if let Some(text) = row.try_get::<_, Option<&str>>(6)? {
        let attributes: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).unwrap_or_default();
        event.attributes = attributes
            .into_iter()
            .filter_map(|(name, value)| Some((name.into(), value.as_str()?.to_owned().into())))
            .collect();
    }
    event.payload = row.try_get::<_, String>(7)?.into();
    event.received_at = row.try_get::<_, Micros>(8)?.timestamp();
    Ok(event)
}

/// A `timestamptz` as the server sends and takes it.
#[derive(Debug, Clone, Copy)]
struct Micros(i64);

impl Micros {
    /// The first that is not before this time.
    fn at_or_after(ts: Timestamp) -> Self {
        let nanos = ts.unix_nanos();
        Self(to_server(
            nanos.div_euclid(1000) + i64::from(nanos.rem_euclid(1000) > 0),
        ))
    }

    fn timestamp(self) -> Timestamp {
        from_server(self.0)
    }
}

type Fault = Box<dyn std::error::Error + Sync + Send>;

impl<'a> FromSql<'a> for Micros {
    fn from_sql(of_type: &Type, raw: &'a [u8]) -> Result<Self, Fault> {
        i64::from_sql(of_type, raw).map(Self)
    }

    fn accepts(of_type: &Type) -> bool {
        *of_type == Type::TIMESTAMPTZ
    }
}

impl ToSql for Micros {
    fn to_sql(&self, of_type: &Type, out: &mut BytesMut) -> Result<IsNull, Fault> {
        self.0.to_sql(of_type, out)
    }

    fn accepts(of_type: &Type) -> bool {
        *of_type == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}
