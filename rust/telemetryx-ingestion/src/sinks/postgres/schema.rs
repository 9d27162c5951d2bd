//! Tables and their versions. All that makes or changes them runs under one lock, so that several processes may start
//! at once, and in one transaction, so that a version is there as a whole or not at all.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::failure::{Failure, within};
use super::partitions::PartitionBy;
use super::{PayloadType, Settings};
use crate::postgres::{Connection, quoted};

/// Steps from one version to the next; the first makes version 1. What was released is never changed.
pub(super) const MIGRATIONS: &[Migration] = &[version_1];

/// An index on a large table takes its time.
const UPGRADE_AT_MOST: Duration = Duration::from_secs(3600);

/// What events need: any other type would refuse their bytes, or take them for something else.
const COLUMN_TYPES: [(&str, &str); 8] = [
    ("id", "text"),
    ("ts", "timestamp with time zone"),
    ("type", "text"),
    ("source", "text"),
    ("schema_version", "integer"),
    ("partition_key", "text"),
    ("attributes", "jsonb"),
    ("received_at", "timestamp with time zone"),
];

/// The SQL of one step.
pub(super) type Migration = fn(&Settings) -> String;

fn version_1(settings: &Settings) -> String {
    let Settings {
        events, positions, ..
    } = settings;
    let payload = settings.payload.name();
    let [time, type_time] =
        ["_ts_id", "_type_ts"].map(|end| quoted(&settings.beside_name(end), '"'));
    let partitioned = settings.partition != PartitionBy::None;
    let by_time = if partitioned {
        "PARTITION BY RANGE (ts)"
    } else {
        ""
    };
    // Ids and types are compared by their bytes: a locale's order would take longer and mean nothing.
    let mut sql = format!(
        r#"
        CREATE TABLE IF NOT EXISTS {positions} (
            route text NOT NULL,
            log uuid NOT NULL,
            applied bigint NOT NULL,
            PRIMARY KEY (route, log)
        );
        CREATE TABLE {events} (
            id text COLLATE "C" NOT NULL,
            ts timestamptz NOT NULL,
            type text COLLATE "C" NOT NULL,
            source text NOT NULL,
            schema_version integer NOT NULL,
            partition_key text,
            attributes jsonb,
            payload {payload} NOT NULL,
            received_at timestamptz NOT NULL,
            PRIMARY KEY (id, ts)
        ) {by_time};
        CREATE INDEX {time} ON {events} (ts, id);
        CREATE INDEX {type_time} ON {events} (type, ts);
        "#
    );
    if partitioned {
        let default = settings.default_partition();
        sql += &format!("CREATE TABLE {default} PARTITION OF {events} DEFAULT;");
    }
    sql
}

/// Brings the schema to the last version of `migrations`.
///
/// # Errors
/// [`Failure`]; a table of a newer version, or one that is not ours, is left as it is.
pub(super) async fn upgrade(
    connection: &Connection,
    settings: &Settings,
    migrations: &[Migration],
) -> Result<(), Failure> {
    let there = within(settings.timeout, version(connection, settings)).await?;
    if there == Some(migrations.len()) {
        return Ok(());
    }
    // A server that hangs is not waited for as long where there is nothing yet that could take time.
    let at_most = match there {
        None | Some(0) => settings.timeout * 4,
        Some(_) => UPGRADE_AT_MOST,
    };
    let upgrading = async {
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = {}",
            at_most.as_millis()
        );
        connection.batch_execute(&begin).await?;
        upgrade_locked(connection, settings, migrations).await
    };
    match within(at_most, upgrading).await {
        Ok(()) => Ok(connection.batch_execute("COMMIT").await?),
        // The connection is given up, and the transaction with it.
        Err(failure) => Err(match failure {
            Failure::Duplicate(_) => Failure::Retry("another process makes the schema".to_owned()),
            // Nothing of it is an event's fault.
            Failure::Refused { message, .. } => Failure::Retry(message),
            other => other,
        }),
    }
}

async fn upgrade_locked(
    connection: &Connection,
    settings: &Settings,
    migrations: &[Migration],
) -> Result<(), Failure> {
    lock(connection, settings).await?;
    let Settings {
        schema, migrated, ..
    } = settings;
    // A role that may not make a schema may not ask for it "if it does not exist" either.
    let found = connection
        .query_typed_opt(
            "SELECT 1 FROM pg_namespace WHERE nspname = $1",
            &[(&settings.schema_name, Type::TEXT)],
        )
        .await?;
    if found.is_none() {
        connection
            .batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}"))
            .await?;
    }
    let now = version(connection, settings).await?;
    if now.is_none() {
        let make = format!(
            r#"CREATE TABLE IF NOT EXISTS {migrated} (
                "table" text NOT NULL,
                version integer NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY ("table", version)
            )"#
        );
        connection.batch_execute(&make).await?;
    }
    let now = now.unwrap_or_default();
    let known = migrations.len();
    if now > known {
        return Err(Failure::Retry(format!(
            "table {} has schema version {now}, this binary knows {known}: use a newer one",
            settings.events
        )));
    }
    for (index, migration) in migrations.iter().enumerate().skip(now) {
        let version = index as i32 + 1;
        connection.batch_execute(&migration(settings)).await?;
        connection
            .execute_typed(
                &format!(r#"INSERT INTO {migrated} ("table", version) VALUES ($1, $2)"#),
                &[(&settings.table_name, Type::TEXT), (&version, Type::INT4)],
            )
            .await?;
        tracing::info!(
            table = settings.events,
            version,
            "PostgreSQL schema upgraded"
        );
    }
    Ok(())
}

/// Waits for the lock under which tables are made and changed; held until the transaction ends.
pub(super) async fn lock(connection: &Connection, settings: &Settings) -> Result<(), Failure> {
    let name = format!("telemetryx {}", settings.schema_name);
    connection
        .execute_typed(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
            &[(&name, Type::TEXT)],
        )
        .await?;
    Ok(())
}

/// The version that is there; `None` if nothing is there.
async fn version(connection: &Connection, settings: &Settings) -> Result<Option<usize>, Failure> {
    let found = connection
        .query_typed_one(
            "SELECT to_regclass($1) IS NOT NULL",
            &[(&settings.migrated, Type::TEXT)],
        )
        .await?;
    if !found.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = format!(
        r#"SELECT coalesce(max(version), 0) FROM {} WHERE "table" = $1"#,
        settings.migrated
    );
    let row = connection
        .query_typed_one(&sql, &[(&settings.table_name, Type::TEXT)])
        .await?;
    Ok(Some(row.get::<_, i32>(0).unsigned_abs() as usize))
}

/// The table is as the settings say, and events fit its columns.
///
/// # Errors
/// [`Failure::Retry`] naming what would have to change: nothing could be stored.
pub(super) async fn verify(connection: &Connection, settings: &Settings) -> Result<(), Failure> {
    // What a trigger fills before the row is stored may be empty until then.
    let rows = connection
        .query_typed(
            "SELECT c.relkind = 'p', a.attname::text, format_type(a.atttypid, a.atttypmod), \
             a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT EXISTS \
             (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 7 = 7 AND t.tgenabled <> 'D') \
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE c.oid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped",
            &[(&settings.events, Type::TEXT)],
        )
        .await?;
    let wrong = |words: String| Err(Failure::Retry(format!("table {}{words}", settings.events)));
    let Some(first) = rows.first() else {
        // It was made once, and whoever removed it may put it back.
        return wrong(format!(
            " is missing; to have it made anew: DELETE FROM {} WHERE \"table\" = '{}'",
            settings.migrated,
            settings.table_name.replace('\'', "''")
        ));
    };
    let is_partitioned: bool = first.get(0);
    if is_partitioned != (settings.partition != PartitionBy::None) {
        let not = if is_partitioned { "" } else { "not " };
        return wrong(format!(
            " is {not}partitioned, and `partition` says otherwise: name another `table`"
        ));
    }
    let columns: HashMap<&str, &str> = rows.iter().map(|row| (row.get(1), row.get(2))).collect();
    let ours = COLUMN_TYPES
        .into_iter()
        .chain([("payload", settings.payload.name())]);
    for (name, kind) in ours.clone() {
        match columns.get(name) {
            Some(found) if *found == kind => {}
            Some(found) => {
                let says = match name {
                    "payload" => ", as `payload` says",
                    _ => "",
                };
                return wrong(format!(
                    ": column {name} is {found}, and must be {kind}{says}"
                ));
            }
            None => return wrong(format!(" has no column {name}")),
        }
    }
    for row in &rows {
        let name: &str = row.get(1);
        let is_ours = ours.clone().any(|(ours, _)| ours == name);
        if row.get(3) && !is_ours {
            return wrong(format!(
                ": column {name} is NOT NULL without a default, and no event can fill it"
            ));
        }
    }
    Ok(())
}

impl PayloadType {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Jsonb => "jsonb",
        }
    }
}
