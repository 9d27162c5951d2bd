//! The tables, and how they are made: in one transaction under one lock, so that several processes may start at once.
//!
//! ```text
//! journal      one row: version, identity, the number of the last change of `control`
//! partitions   a row each: the next offset, bytes so far. An append locks those that it writes, in their order
//! queue        events: what one append put into one partition is a row. Its rows are in pieces: queue_1, queue_2 …
//! pieces       where each piece begins, in every partition
//! positions    a row a route and partition: how far it is, what it saved, who reads it, what it waits for
//! members      the processes that read, and until when each is taken to live
//! control      what all processes must know alike
//! ```
//!
//! The view `ingestion_queue` is for people: each row of the queue once a route, `pending`, `failed` or `complete`.
//!
//! Tables that change often are small and leave room in their pages, so that a change needs no index and its leftovers are
//! taken away at the next one. The queue only grows at one end and is dropped at the other: there is nothing to vacuum.

use std::sync::Arc;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::link::Fault;
use super::settings::Settings;
use crate::postgres::Connection;

/// What this program makes and knows.
const VERSION: i32 = 1;

const TABLES: &str = r"
CREATE TABLE {s}.journal (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    identity uuid NOT NULL,
    sequence bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

CREATE TABLE {s}.partitions (
    partition integer PRIMARY KEY,
    next_offset bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    received_at timestamptz NOT NULL DEFAULT '-infinity',
    piece bigint NOT NULL DEFAULT 1
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE {s}.queue (
    partition integer NOT NULL,
    first_offset bigint NOT NULL,
    events integer NOT NULL,
    bytes_before bigint NOT NULL,
    received_at timestamptz NOT NULL,
    body bytea NOT NULL
);
ALTER TABLE {s}.queue ALTER body SET STORAGE EXTERNAL;

CREATE TABLE {s}.pieces (
    piece bigint PRIMARY KEY,
    starts bigint[] NOT NULL,
    bytes_before bigint[] NOT NULL,
    made_at timestamptz NOT NULL
);

CREATE TABLE {s}.positions (
    route text NOT NULL,
    partition integer NOT NULL,
    position bigint,
    bytes_passed bigint NOT NULL DEFAULT 0,
    state bytea NOT NULL DEFAULT '',
    version bigint NOT NULL DEFAULT 0,
    owner uuid,
    claim uuid,
    attempts integer NOT NULL DEFAULT 0,
    failed_from bigint,
    failed_to bigint,
    next_attempt_at timestamptz,
    last_error text,
    PRIMARY KEY (route, partition)
) WITH (
    fillfactor = 20, toast_tuple_target = 4000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 1000
);

CREATE TABLE {s}.members (
    member uuid PRIMARY KEY,
    name text NOT NULL,
    routes text[] NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

CREATE TABLE {s}.control (
    name text PRIMARY KEY,
    sequence bigint NOT NULL,
    value bytea,
    changed_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 200);
CREATE INDEX control_sequence ON {s}.control (sequence);

-- Begins the piece of this number, unless another process has.
CREATE FUNCTION {s}.make_piece(number bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF number <> (SELECT coalesce(max(piece), 0) + 1 FROM {s}.pieces) THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE TABLE {s}.queue_%s (PRIMARY KEY (partition, first_offset)) INHERITS ({s}.queue) '
        'WITH (toast_tuple_target = 8160, autovacuum_enabled = false, toast.autovacuum_enabled = false)', number);
    -- Times of arrival never go back, whatever the clock does; the piece has none that is older than itself.
    INSERT INTO {s}.pieces (piece, starts, bytes_before, made_at)
        SELECT number, array_agg(locked.next_offset ORDER BY partition), array_agg(locked.bytes ORDER BY partition),
            greatest(clock_timestamp(), max(locked.received_at))
        FROM (SELECT * FROM {s}.partitions ORDER BY partition FOR UPDATE) locked;
    UPDATE {s}.partitions SET piece = number, received_at = greatest(received_at, clock_timestamp());
END $$;

-- What several requests put into the queue, with one commit. Rows name their partition by its place in `parts`.
CREATE FUNCTION {s}.append(
    parts integer[], part_events bigint[], part_bytes bigint[],
    row_part integer[], row_at bigint[], row_bytes_at bigint[], row_events integer[], bodies bytea[],
    OUT firsts bigint[], OUT bytes_before bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    changed record;
    times timestamptz[] := '{}';
    told text := 'e';
BEGIN
    firsts := '{}';
    bytes_before := '{}';
    FOR place IN 1 .. cardinality(parts) LOOP
        UPDATE {s}.partitions p
            SET next_offset = p.next_offset + part_events[place], bytes = p.bytes + part_bytes[place],
                received_at = greatest(p.received_at, clock_timestamp())
            WHERE p.partition = parts[place]
            RETURNING p.next_offset, p.bytes, p.received_at, p.piece INTO STRICT changed;
        firsts := firsts || (changed.next_offset - part_events[place]);
        bytes_before := bytes_before || (changed.bytes - part_bytes[place]);
        times := times || changed.received_at;
        told := told || ' ' || parts[place] || ':' || changed.next_offset || ':' || changed.bytes;
    END LOOP;
    EXECUTE format(
        'INSERT INTO {s}.queue_%s (partition, first_offset, events, bytes_before, received_at, body) '
        'SELECT $1[part], $2[part] + at, events, $3[part] + bytes_at, $4[part], body '
        'FROM unnest($5, $6, $7, $8, $9) AS put (part, at, bytes_at, events, body)', changed.piece)
        USING parts, firsts, bytes_before, times, row_part, row_at, row_bytes_at, row_events, bodies;
    PERFORM pg_notify({channel}, told);
END $$;

-- Drops the oldest piece if every route has passed it. False: one has not.
CREATE FUNCTION {s}.drop_piece(number bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ends bigint[];
BEGIN
    SELECT starts INTO ends FROM {s}.pieces WHERE piece = number + 1;
    IF ends IS NULL OR number <> (SELECT min(piece) FROM {s}.pieces) OR EXISTS (
        SELECT FROM {s}.positions WHERE coalesce(position, 0) < ends[partition + 1]
    ) THEN
        RETURN false;
    END IF;
    -- Somebody else may have.
    EXECUTE format('DROP TABLE IF EXISTS {s}.queue_%s', number);
    DELETE FROM {s}.pieces WHERE piece = number;
    RETURN true;
END $$;

CREATE VIEW {s}.ingestion_queue AS
SELECT p.route || '/' || q.partition || '/' || q.first_offset AS id,
    p.route, q.partition, q.first_offset, q.events,
    CASE WHEN q.first_offset + q.events <= coalesce(p.position, 0) THEN 'complete'
         WHEN f.failed THEN 'failed' ELSE 'pending' END AS status,
    CASE WHEN f.failed THEN p.attempts ELSE 0 END AS attempts,
    CASE WHEN f.failed THEN p.next_attempt_at END AS next_attempt_at,
    CASE WHEN f.failed THEN p.last_error END AS last_error,
    q.received_at, q.body AS payload
FROM {s}.queue q JOIN {s}.positions p USING (partition),
    LATERAL (SELECT p.attempts > 0 AND q.first_offset < p.failed_to AND q.first_offset + q.events > p.failed_from
        AND q.first_offset + q.events > coalesce(p.position, 0) AS failed) f;
";

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) identity: u128,
    pub(super) partitions: u32,
}

/// Finds the tables, or makes them if `makes`.
///
/// # Errors
/// [`Fault`], or in words of ours that these tables are not for this program, or not there.
pub(super) async fn prepare(
    connection: &Connection,
    settings: &Arc<Settings>,
    makes: bool,
) -> Result<Found, Fault> {
    if let Some(found) = find(connection, settings).await? {
        return Ok(found);
    }
    if !makes {
        return Err(Fault::Away(missing(settings)));
    }
    let made = make(connection, settings).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = connection.batch_execute(end).await;
    made?;
    ended?;
    find(connection, settings)
        .await?
        .ok_or_else(|| Fault::Away("the tables that were made are not there".to_owned()))
}

/// What is said where there are no tables.
pub(super) fn missing(settings: &Settings) -> String {
    format!(
        "there is no journal in the schema {} of this database: no service has run with it",
        settings.schema
    )
}

/// Finds the tables; `None` if they are not there.
///
/// # Errors
/// As of [`prepare`].
pub(super) async fn find(
    connection: &Connection,
    settings: &Settings,
) -> Result<Option<Found>, Fault> {
    let text = [(&settings.schema as &(dyn ToSql + Sync), Type::TEXT)];
    let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'journal')";
    let rows = connection.query_typed(there, &text).await?;
    if !rows.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let sql =
        "SELECT version, identity, (SELECT count(*) FROM {s}.partitions)::int4 FROM {s}.journal";
    let rows = match connection.query_typed(&settings.sql(sql), &[]).await {
        Ok(rows) => rows,
        Err(error) => return Err(foreign(error.into(), settings)),
    };
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let (version, identity, partitions): (i32, Uuid, i32) = (row.get(0), row.get(1), row.get(2));
    if version > VERSION {
        return Err(Fault::Away(format!(
            "the schema {} is of version {version}, made by a newer program; this one knows {VERSION}: start that one, or name \
             another schema in journal.postgres.schema",
            settings.schema
        )));
    }
    Ok(Some(Found {
        identity: identity.as_u128(),
        partitions: partitions.unsigned_abs(),
    }))
}

/// A table of that name without the columns is somebody else's.
fn foreign(fault: Fault, settings: &Settings) -> Fault {
    match fault {
        Fault::Refused { code, words } if code == SqlState::UNDEFINED_COLUMN => {
            Fault::Away(format!(
                "the schema {} has a table `journal` that this program did not make ({words}): name another schema in \
                 journal.postgres.schema",
                settings.schema
            ))
        }
        other => other,
    }
}

/// Leaves its transaction open.
async fn make(connection: &Connection, settings: &Settings) -> Result<(), Fault> {
    let text = [(&settings.schema as &(dyn ToSql + Sync), Type::TEXT)];
    connection.batch_execute("BEGIN").await?;
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('telemetryx journal ' || $1, 0))";
    connection.query_typed(lock, &text).await?;
    if find(connection, settings).await?.is_some() {
        return Ok(());
    }
    // Who may not make schemas may have been given one.
    let there = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1";
    if connection.query_typed(there, &text).await?.is_empty() {
        connection
            .batch_execute(&settings.sql("CREATE SCHEMA {s}"))
            .await?;
    }
    // What is written within `$$` is read again as a format, where `%` stands for something.
    connection.batch_execute(&settings.sql(TABLES)).await?;
    let rows = format!(
        "INSERT INTO {{s}}.partitions (partition) SELECT generate_series(0, {});
         SELECT {{s}}.make_piece(1);
         INSERT INTO {{s}}.journal (version, identity) VALUES ({VERSION}, '{}')",
        settings.partitions - 1,
        Uuid::now_v7()
    );
    connection.batch_execute(&settings.sql(&rows)).await?;
    Ok(())
}
