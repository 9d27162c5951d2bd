//! Batches into the table, each in one transaction together with the route's position.
//!
//! What the route reads for the first time is copied straight into the table. Only if the server finds an id that is
//! there already, or if the events came before, it goes over a staging table, and known ids are skipped.

use std::collections::HashSet;
use std::pin::{Pin, pin};

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::join;
use telemetryx_common::Event;
use tokio_postgres::types::Type;
use tokio_postgres::{CopyInSink, SimpleQueryMessage, Statement};
use uuid::Uuid;

use super::encoding::{COLUMNS, CopyRows};
use super::failure::{Failure, within};
use super::partitions::Partitions;
use super::schema::{self, MIGRATIONS};
use super::{Settings, Shared, making};
use crate::postgres::{Connection, quoted};
use crate::route::{Cause, EventBatch, Stretch};

/// For the session. A commit that is not on the server's disk is none.
const SETTINGS: &str = "SELECT set_config('synchronous_commit', 'on', false) \
                        WHERE current_setting('synchronous_commit') = 'off'";

/// The one connection that writes.
pub(super) struct Writer {
    connection: Connection,
    partitions: Partitions,
    copy: Statement,
    /// Over the staging table: into it, and on from it. Made when it is needed for the first time.
    staging: Option<(Statement, Statement)>,
    position: Option<Position>,
}

/// How far the route's events of one log are in the table.
#[derive(Clone, Copy)]
struct Position {
    log: u128,
    applied: u64,
}

impl Writer {
    /// Connects, and makes or upgrades what is missing.
    pub(super) async fn open(shared: &Shared) -> Result<Self, Failure> {
        let Shared {
            connector,
            settings,
            pause,
        } = shared;
        let at_most = settings.timeout;
        let connection = connector.open(SETTINGS).await.map_err(Failure::Retry)?;
        schema::upgrade(&connection, settings, MIGRATIONS).await?;
        // Several short statements, some of which may wait for a lock.
        let partitions = within(at_most * 4, async {
            schema::verify(&connection, settings).await?;
            Partitions::load(&connection, settings, pause).await
        })
        .await?;
        let copy = within(at_most, copy_into(&connection, &settings.events)).await?;
        Ok(Self {
            connection,
            partitions,
            copy,
            staging: None,
            position: None,
        })
    }

    /// Asks the server whether it is there.
    pub(super) async fn check(&self) -> Result<(), Failure> {
        Ok(self.connection.batch_execute("").await?)
    }

    /// Stores the batch.
    ///
    /// # Errors
    /// [`Failure`]; nothing of it is stored. After [`Failure::Refused`] the writer can be used again, else not.
    pub(super) async fn store(
        &mut self,
        shared: &Shared,
        batch: &EventBatch<'_>,
    ) -> Result<(), Failure> {
        let Shared {
            settings, pause, ..
        } = shared;
        let events = batch.events();
        self.partitions
            .make_for(&self.connection, settings, pause, events)
            .await?;
        let stretch = match batch.cause() {
            Cause::Journal(stretch) => Some(stretch),
            // Their offsets may be old ones: the position stays.
            Cause::Replay | Cause::Redrive(_) => None,
        };
        let position = match stretch {
            Some(stretch) => Some(self.position(settings, stretch.log).await?),
            None => None,
        };
        let step = stretch.zip(position);
        if let Some((stretch, position)) = step
            && stretch.first >= position.applied
        {
            match self.straight(settings, events, stretch, position).await {
                Err(Failure::Duplicate(_)) => self.roll_back().await?,
                done => return self.settled(settings, done, Some(stretch)).await,
            }
        }
        // A position never goes back.
        let step = step.filter(|(stretch, position)| stretch.end > position.applied);
        let done = self.over_staging(settings, events, step).await;
        let stretch = step.map(|(stretch, _)| stretch);
        self.settled(settings, done, stretch).await
    }

    /// Remembers how far the route is, if the batch is stored; else makes the connection as it was before, if it can be.
    async fn settled(
        &mut self,
        settings: &Settings,
        done: Result<(), Failure>,
        stretch: Option<Stretch>,
    ) -> Result<(), Failure> {
        match &done {
            Ok(()) => {
                if let Some(Stretch { log, end, .. }) = stretch {
                    self.position = Some(Position { log, applied: end });
                }
            }
            Err(Failure::Refused { .. }) => {
                self.roll_back().await?;
                // Somebody may have changed the table since it was looked at: that is no event's fault.
                schema::verify(&self.connection, settings).await?;
            }
            Err(Failure::Excluded(_)) => {
                self.roll_back().await?;
                making::give_way(&self.connection, settings).await?;
            }
            Err(Failure::Duplicate(_) | Failure::Retry(_)) => {}
        }
        done
    }

    /// Ends a transaction that is still open.
    async fn roll_back(&self) -> Result<(), Failure> {
        Ok(self.connection.batch_execute("ROLLBACK").await?)
    }

    /// Copies straight into the table.
    async fn straight(
        &self,
        settings: &Settings,
        events: &[Event<'_>],
        stretch: Stretch,
        position: Position,
    ) -> Result<(), Failure> {
        let known = self.known_ids(settings, events).await?;
        let step = Some((stretch, position));
        let copy = pin!(self.begin_copy(settings, step, &self.copy).await?);
        // Sent behind the last row. Where the server refuses a row, this rolls back.
        self.copy(copy, settings, unknown(events, &known), async || {
            Ok(self.connection.batch_execute("COMMIT").await?)
        })
        .await
    }

    /// Copies into the staging table, and from there what is not known.
    async fn over_staging(
        &mut self,
        settings: &Settings,
        events: &[Event<'_>],
        step: Option<(Stretch, Position)>,
    ) -> Result<(), Failure> {
        let (into, on) = match &self.staging {
            Some(made) => made.clone(),
            None => {
                let made = self.make_staging(settings).await?;
                self.staging.insert(made).clone()
            }
        };
        let known = self.known_ids(settings, events).await?;
        let copy = pin!(self.begin_copy(settings, step, &into).await?);
        self.copy(copy, settings, unknown(events, &known), async || {
            let inserted = self.connection.execute(&on, &[]).await;
            inserted.map_err(|error| match Failure::from(error) {
                // What our own key finds is skipped: this is a key that somebody else gave the table.
                Failure::Duplicate(message) => Failure::Refused {
                    code: "constraint",
                    message,
                },
                other => other,
            })?;
            Ok(self.connection.batch_execute("COMMIT").await?)
        })
        .await
    }

    async fn make_staging(&self, settings: &Settings) -> Result<(Statement, Statement), Failure> {
        const STAGING: &str = "pg_temp.telemetryx_staging";
        let events = &settings.events;
        self.connection
            .batch_execute(&format!(
                "CREATE TEMP TABLE telemetryx_staging ON COMMIT DELETE ROWS \
                 AS SELECT {COLUMNS} FROM {events} WITH NO DATA"
            ))
            .await?;
        let into = copy_into(&self.connection, STAGING).await?;
        let on = format!(
            "INSERT INTO {events} ({COLUMNS}) SELECT {COLUMNS} FROM {STAGING} ON CONFLICT (id, ts) DO NOTHING"
        );
        Ok((into, self.connection.prepare(&on).await?))
    }

    /// Begins a transaction and a `COPY` in it. Both are sent at once: each way to the server and back is time in which
    /// it stores nothing.
    async fn begin_copy(
        &self,
        settings: &Settings,
        step: Option<(Stretch, Position)>,
        statement: &Statement,
    ) -> Result<CopyInSink<Bytes>, Failure> {
        let (begun, copy) = join(
            self.begin(settings, step),
            self.connection.copy_in(statement),
        )
        .await;
        // If it is not begun, what there is of the copy is dropped here, and fails.
        begun?;
        Ok(copy?)
    }

    /// Begins a transaction, and moves the route's position in it.
    async fn begin(
        &self,
        settings: &Settings,
        step: Option<(Stretch, Position)>,
    ) -> Result<(), Failure> {
        let Some((stretch, position)) = step else {
            return Ok(self.connection.batch_execute("BEGIN").await?);
        };
        let sql = format!(
            "BEGIN; UPDATE {} SET applied = {} WHERE route = {} AND log = '{}' AND applied = {}",
            settings.positions,
            stretch.end,
            quoted(&settings.route, '\''),
            Uuid::from_u128(stretch.log),
            position.applied,
        );
        let answers = self.connection.simple_query(&sql).await?;
        match answers.last() {
            Some(SimpleQueryMessage::CommandComplete(1)) => Ok(()),
            _ => Err(Failure::Retry(format!(
                "another process delivers for the route `{}` into table {}",
                settings.route, settings.events
            ))),
        }
    }

    /// Where the route is in this log, as the server has it.
    async fn position(&mut self, settings: &Settings, log: u128) -> Result<Position, Failure> {
        if let Some(position) = self.position
            && position.log == log
        {
            return Ok(position);
        }
        let Settings {
            positions, route, ..
        } = settings;
        let key = Uuid::from_u128(log);
        self.connection
            .execute_typed(
                &format!(
                    "INSERT INTO {positions} (route, log, applied) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING"
                ),
                &[(route, Type::TEXT), (&key, Type::UUID)],
            )
            .await?;
        let row = self
            .connection
            .query_typed_one(
                &format!("SELECT applied FROM {positions} WHERE route = $1 AND log = $2"),
                &[(route, Type::TEXT), (&key, Type::UUID)],
            )
            .await?;
        let position = Position {
            log,
            applied: row.get::<_, i64>(0).max(0).unsigned_abs(),
        };
        self.position = Some(position);
        Ok(position)
    }

    /// Of the events without a time of their own, the ids that are there already: such an event has its time of receipt,
    /// so the same one sent again has another, and its key does not tell.
    async fn known_ids(
        &self,
        settings: &Settings,
        events: &[Event<'_>],
    ) -> Result<HashSet<String>, Failure> {
        let ids: Vec<&str> = events
            .iter()
            .filter(|event| is_untimed(event))
            .map(|event| event.id.as_ref())
            .collect();
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let rows = self
            .connection
            .query_typed(
                &format!("SELECT id FROM {} WHERE id = ANY ($1)", settings.events),
                &[(&ids, Type::TEXT_ARRAY)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Sends the rows; `then` is sent behind them without waiting for what becomes of them.
    async fn copy<'e>(
        &self,
        mut copy: Pin<&mut CopyInSink<Bytes>>,
        settings: &Settings,
        events: impl Iterator<Item = &'e Event<'e>>,
        then: impl AsyncFnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut rows = CopyRows::new(settings.payload);
        for event in events {
            rows.push(event);
            if let Some(chunk) = rows.full_chunk() {
                copy.feed(chunk).await?;
            }
        }
        copy.feed(rows.finish()).await?;
        let (copied, done) = join(copy.as_mut().finish(), then()).await;
        copied?;
        done
    }
}

async fn copy_into(connection: &Connection, table: &str) -> Result<Statement, Failure> {
    let sql = format!("COPY {table} ({COLUMNS}) FROM STDIN (FORMAT binary)");
    Ok(connection.prepare(&sql).await?)
}

/// Its time is that of receipt.
fn is_untimed(event: &Event<'_>) -> bool {
    event.ts == event.received_at
}

/// The events without those that are known, and of the ones without a time of their own each id once.
fn unknown<'e>(
    events: &'e [Event<'e>],
    known: &'e HashSet<String>,
) -> impl Iterator<Item = &'e Event<'e>> {
    let mut seen = HashSet::new();
    events.iter().filter(move |event| {
        !is_untimed(event) || !known.contains(event.id.as_ref()) && seen.insert(event.id.as_ref())
    })
}
