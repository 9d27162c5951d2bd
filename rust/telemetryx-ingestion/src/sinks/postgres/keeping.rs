//! What has to be done from time to time, whether events come or not: partitions ahead, retention. On a connection of
//! its own, so that delivery does not wait for it.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::encoding::micros;
use super::failure::{Failure, within};
use super::partitions::{self, PartitionBy, Partitions};
use super::{Settings, Shared, making, schema};
use crate::clock;
use crate::postgres::Connection;

/// How often.
const EVERY: Duration = Duration::from_secs(60);
/// Rows deleted in one transaction.
const AT_ONCE: i64 = 5000;
/// How long rows are deleted each time.
const DELETING: Duration = Duration::from_secs(30);
/// How long that takes at the most, without partitions made beside a large default one; the rest is for the next time.
const AT_MOST: Duration = Duration::from_secs(120);
/// A lock that is not had within this time is tried for again the next time: others wait behind who waits for it.
const SETTINGS: &str = "SET lock_timeout = '2s'";

/// Keeps the table for as long as it is polled.
pub(super) async fn keep(shared: &Shared) {
    let mut said = String::new();
    loop {
        let words = match keep_once(shared).await {
            Ok(()) => String::new(),
            Err(failure) => failure.to_string(),
        };
        if !words.is_empty() && words != said {
            tracing::warn!(
                table = shared.settings.events,
                reason = words,
                "the table is not kept as it should be"
            );
        }
        said = words;
        tokio::time::sleep(EVERY).await;
    }
}

async fn keep_once(shared: &Shared) -> Result<(), Failure> {
    let Shared {
        connector,
        settings,
        pause,
    } = shared;
    let kept = async {
        let connection = connector.open(SETTINGS).await.map_err(Failure::Retry)?;
        let partitions = Partitions::load(&connection, settings, pause).await?;
        let removed = remove_old(&connection, settings).await;
        Ok((connection, partitions, removed))
    };
    let (connection, partitions, mut done) = within(AT_MOST, kept).await?;
    for range in partitions.missing_ahead(settings) {
        // Events of now come meanwhile.
        if range.from > micros(clock::now()) {
            let making = making::make_beside(&connection, settings, range);
            let made = within(making::VALIDATING_AT_MOST, making).await;
            done = done.and(made);
        }
    }
    done
}

/// Drops partitions of which all is too old, and deletes what is too old elsewhere.
///
/// # Errors
/// The first partition that cannot be dropped; all else is done.
async fn remove_old(connection: &Connection, settings: &Settings) -> Result<(), Failure> {
    let Some(age) = settings.retain else {
        return Ok(());
    };
    let oldest = micros(clock::now()).saturating_sub_unsigned(age.as_micros() as u64);
    let mut done = Ok(());
    for (range, name) in partitions::named_ranges(connection, settings).await? {
        if range.to <= oldest
            && let Err(failure) = drop_partition(connection, settings, &name).await
        {
            connection.batch_execute("ROLLBACK").await?;
            let words = format!("partition {name} cannot be dropped: {failure}");
            done = done.and(Err(Failure::Retry(words)));
        }
    }
    delete_old(connection, settings, oldest).await?;
    done
}

async fn drop_partition(
    connection: &Connection,
    settings: &Settings,
    name: &str,
) -> Result<(), Failure> {
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
    Ok(())
}

/// Partitions are dropped as a whole; the plain table, or the default partition, loses row by row what is older.
async fn delete_old(
    connection: &Connection,
    settings: &Settings,
    oldest: i64,
) -> Result<(), Failure> {
    let rows = match settings.partition {
        PartitionBy::None => settings.events.clone(),
        _ => settings.default_partition(),
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
