//! How a partition is made.
//!
//! `ATTACH PARTITION` looks through the whole default partition for rows that belong in the new one, and nobody else gets at
//! the default partition meanwhile. So in the path of deliveries it is only tried for a moment. Where that is not enough,
//! the keeper does it beside the deliveries, for a time to come: a constraint on the default partition says that no row of
//! the range is in it, is validated while others read and write, and then nothing needs to be looked through.
//!
//! Until the partition is there, the constraint refuses events of its range. Who is refused takes it away, and the events
//! land in the default partition.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_postgres::types::Type;

use super::encoding::COLUMNS;
use super::failure::Failure;
use super::partitions::{TimeRange, ranges, time_text};
use super::{Settings, schema};
use crate::postgres::Connection;

/// How long none is made in the path of deliveries after one could not be made.
const PAUSE: Duration = Duration::from_secs(300);
/// The longest wait for one statement that locks the default partition, whatever the sink's `timeout`.
const MOMENT_MAX: Duration = Duration::from_secs(2);
/// Says that no row of a range is in the default partition.
pub(super) const EXCLUSION: &str = "telemetryx_partition_to_come";
/// The longest that the default partition is looked through.
pub(super) const VALIDATING_AT_MOST: Duration = Duration::from_secs(3600);

/// Whether partitions are made in the path of deliveries. Outlives connections, which end with each error.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    pub(super) fn is_on(&self) -> bool {
        self.0.lock().is_some_and(|end| Instant::now() < end)
    }

    fn begin(&self) {
        *self.0.lock() = Some(Instant::now() + PAUSE);
    }
}

/// The longest wait for one statement in the path of deliveries: a batch has to be stored in the same `timeout`.
pub(super) fn moment(settings: &Settings) -> Duration {
    (settings.timeout / 8).clamp(Duration::from_millis(1), MOMENT_MAX)
}

/// Makes one partition, with what the default partition holds of it. False if that cannot be done in a moment: delivery
/// goes on, into the default partition, and `pause` begins.
pub(super) async fn make(
    connection: &Connection,
    settings: &Settings,
    pause: &Pause,
    range: TimeRange,
) -> Result<bool, Failure> {
    let Err(failure) = make_locked(connection, settings, range, moment(settings)).await else {
        return Ok(true);
    };
    connection.batch_execute("ROLLBACK").await?;
    pause.begin();
    tracing::warn!(
        table = settings.events,
        from = time_text(range.from),
        reason = %failure,
        "a partition cannot be made; its events land in the default partition"
    );
    Ok(false)
}

async fn make_locked(
    connection: &Connection,
    settings: &Settings,
    range: TimeRange,
    moment: Duration,
) -> Result<(), Failure> {
    // Others wait behind who waits for a lock, and so does the batch.
    let ms = moment.as_millis();
    connection
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = {ms}; SET LOCAL statement_timeout = {ms}"
        ))
        .await?;
    schema::lock(connection, settings).await?;
    let there = ranges(connection, settings).await?;
    if !there.iter().any(|other| other.overlaps(range)) {
        connection
            .batch_execute(&statements(settings, range)?)
            .await?;
    }
    connection.batch_execute("COMMIT").await?;
    Ok(())
}

/// What makes a partition. `ATTACH` lets others read and write the table meanwhile, where `CREATE … PARTITION OF` would
/// not; only the default partition is locked.
fn statements(settings: &Settings, range: TimeRange) -> Result<String, Failure> {
    let unnamed = || Failure::Retry("no name for a partition".to_owned());
    let name = settings.partition.name_of(range).ok_or_else(unnamed)?;
    let part = settings.qualified(&settings.beside_name(&name));
    let default = settings.default_partition();
    let events = &settings.events;
    let (from, to) = (time_text(range.from), time_text(range.to));
    Ok(format!(
        "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
         CREATE TABLE {part} (LIKE {events} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE);
         WITH moved AS (DELETE FROM {default} WHERE ts >= '{from}' AND ts < '{to}' RETURNING {COLUMNS})
             INSERT INTO {part} ({COLUMNS}) SELECT {COLUMNS} FROM moved;
         ALTER TABLE {events} ATTACH PARTITION {part} FOR VALUES FROM ('{from}') TO ('{to}')"
    ))
}

/// Makes one partition beside a default partition of any size, on a connection of its own.
///
/// # Errors
/// [`Failure`]; the partition is not there. Not made is also one of which the default partition has rows: they would not be
/// seen while it is looked through.
pub(super) async fn make_beside(
    connection: &Connection,
    settings: &Settings,
    range: TimeRange,
) -> Result<(), Failure> {
    // Held for as long as the connection; by it a validation is found that has to end.
    let row = connection
        .query_typed_one(
            "SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
            &[(&lock_name(settings), Type::TEXT)],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        // Another process is at it.
        return Ok(());
    }
    let default = settings.default_partition();
    let (from, to) = (time_text(range.from), time_text(range.to));
    let row = connection
        .query_typed_one(
            &format!("SELECT EXISTS (SELECT FROM {default} WHERE ts >= '{from}' AND ts < '{to}')"),
            &[],
        )
        .await?;
    if row.get::<_, bool>(0) {
        return Err(Failure::Retry(format!(
            "no partition from {from}: {default} is large, and has events of that time already"
        )));
    }
    // What a process that was killed left of an earlier range is taken away first.
    connection
        .batch_execute(&format!(
            "BEGIN; LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
             ALTER TABLE {default} DROP CONSTRAINT IF EXISTS {EXCLUSION};
             ALTER TABLE {default} ADD CONSTRAINT {EXCLUSION} CHECK (ts < '{from}' OR ts >= '{to}') NOT VALID;
             COMMIT"
        ))
        .await?;
    let made = async {
        // Old servers take a timeout only from the next message on.
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = {}",
            VALIDATING_AT_MOST.as_millis()
        );
        connection.batch_execute(&begin).await?;
        connection
            .batch_execute(&format!(
                "ALTER TABLE {default} VALIDATE CONSTRAINT {EXCLUSION}; COMMIT"
            ))
            .await?;
        make_locked(connection, settings, range, MOMENT_MAX).await
    };
    let made = made.await;
    if made.is_err() {
        connection.batch_execute("ROLLBACK").await?;
    }
    admit_all(connection, settings).await?;
    made
}

/// Lets the default partition take events of any time again, whoever is making a partition.
pub(super) async fn give_way(connection: &Connection, settings: &Settings) -> Result<(), Failure> {
    connection
        .query_typed(
            "SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND usename = session_user \
             AND datname = current_database() \
             AND ((classid::bigint << 32) | objid::bigint) = hashtextextended($1, 0)",
            &[(&lock_name(settings), Type::TEXT)],
        )
        .await?;
    admit_all(connection, settings).await
}

async fn admit_all(connection: &Connection, settings: &Settings) -> Result<(), Failure> {
    Ok(connection
        .batch_execute(&format!(
            "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {EXCLUSION}",
            settings.default_partition()
        ))
        .await?)
}

/// The name of the lock that is held by who makes a partition in this way.
pub(super) fn lock_name(settings: &Settings) -> String {
    format!("telemetryx makes a partition of {}", settings.events)
}
