//! What has to be done from time to time, whether events come or not: partitions ahead, retention. On a connection of
//! its own, so that delivery does not wait for it.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::connection::{Connection, Connector};
use super::encoding::micros;
use super::failure::{Failure, within};
use super::partitions::{self, Partitions};
use super::{Settings, schema};
use crate::clock;

/// How often.
const EVERY: Duration = Duration::from_secs(60);
/// Rows deleted in one transaction.
const AT_ONCE: i64 = 5000;
/// How long rows are deleted each time.
const DELETING: Duration = Duration::from_secs(30);
/// How long all of it takes at the most; the rest is for the next time.
const AT_MOST: Duration = Duration::from_secs(120);
/// A lock that is not had within this time is tried for again the next time: others wait behind who waits for it.
const SETTINGS: &str = "SET lock_timeout = '2s'";

/// Keeps the table for as long as it is polled.
pub(super) async fn keep(connector: &Connector, settings: &Settings) {
    loop {
        let done = async {
            let connection = connector.open(SETTINGS).await.map_err(Failure::Retry)?;
            Partitions::load(&connection, settings).await?;
            remove_old(&connection, settings).await
        };
        if let Err(failure) = within(AT_MOST, done).await {
            tracing::warn!(table = settings.events, reason = %failure, "retention waits");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Drops partitions of which all is too old, and deletes what is too old elsewhere.
async fn remove_old(connection: &Connection, settings: &Settings) -> Result<(), Failure> {
    let Some(age) = settings.retain else {
        return Ok(());
    };
    let oldest = micros(clock::now()).saturating_sub_unsigned(age.as_micros() as u64);
    for (range, name) in partitions::named_ranges(connection, settings).await? {
        if range.to <= oldest {
            // Alone: who makes a partition meanwhile locks the same tables in another order.
            connection.batch_execute("BEGIN").await?;
            schema::lock(connection, settings).await?;
            connection
                .batch_execute(&format!("DROP TABLE {name}; COMMIT"))
                .await?;
            tracing::info!(
                partition = name,
                "a partition was dropped: all of it is too old"
            );
        }
    }
    // Partitions are dropped as a whole; the plain table, or the default partition, row by row.
    let rows = match settings.partition {
        partitions::PartitionBy::None => settings.events.clone(),
        _ => settings.qualified(&settings.beside_name("_default")),
    };
    let delete = format!(
        "DELETE FROM {rows} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {rows} WHERE ts < '{}' ORDER BY ts LIMIT $1))",
        partitions::time_text(oldest)
    );
    let begun = Instant::now();
    while connection
        .execute_typed(&delete, &[(&AT_ONCE, Type::INT8)])
        .await?
        == AT_ONCE.unsigned_abs()
        && begun.elapsed() < DELETING
    {}
    Ok(())
}
