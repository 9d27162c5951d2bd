//! Removing stored events that are too old, or the oldest when there are too many bytes. A little at a time, so that it
//! never holds up a delivery for long.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::RetainConfig;
use crate::clock;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// The most events removed at a time.
const AT_ONCE: u32 = 5000;
/// The most free pages given back to the disk at a time.
const PAGES: u32 = 2000;

pub(super) struct Retention {
    age: Option<Duration>,
    bytes: Option<u64>,
    next: Option<Instant>,
}

impl Retention {
    pub(super) fn new(config: &RetainConfig) -> Self {
        Self {
            age: config.age.map(Duration::from),
            bytes: config.bytes.map(crate::config::ByteSize::bytes),
            next: None,
        }
    }

    /// Removes some of what is due.
    pub(super) fn apply(&mut self, db: &Connection, now: Instant) -> rusqlite::Result<()> {
        if self.age.is_none() && self.bytes.is_none() || self.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        let mut removed = 0;
        if let Some(age) = self.age {
            let oldest = clock::now()
                .unix_nanos()
                .saturating_sub_unsigned(age.as_nanos() as u64);
            removed += db
                .prepare_cached("DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE ts < ?1 ORDER BY ts LIMIT ?2)")?
                .execute([oldest, AT_ONCE.into()])?;
        }
        if let Some(bytes) = self.bytes
            && used(db)? > bytes
        {
            removed += db
                .prepare_cached("DELETE FROM events WHERE seq IN (SELECT seq FROM events ORDER BY seq LIMIT ?1)")?
                .execute([AT_ONCE])?;
        }
        if removed > 0 {
            db.execute_batch(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        }
        // As long as there is more to remove, go on with the next batch.
        self.next = (removed == 0).then(|| now + EVERY);
        Ok(())
    }
}

/// Bytes of pages in use.
fn used(db: &Connection) -> rusqlite::Result<u64> {
    let pragma =
        |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    Ok(
        ((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?)
            .max(0)
            .cast_unsigned(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::{insert, schema};
    use super::*;
    use telemetryx_common::{Event, Timestamp};

    fn store(count: usize, ts: Timestamp) -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let mut db = schema::open_writer(&folder.path().join("store.db")).unwrap();
        let events: Vec<_> = (0..count)
            .map(|index| {
                let mut event = Event::new(ts);
                event.id = format!("{}-{index}", ts.unix_nanos()).into();
                event.payload = format!("\"{}\"", "x".repeat(500)).into();
                event
            })
            .collect();
        insert(&mut db, &events).unwrap();
        (folder, db)
    }

    fn count(db: &Connection) -> i64 {
        db.query_row("SELECT count(*) FROM events", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn events_older_than_the_age_go_and_younger_ones_stay() {
        let (_folder, mut db) = store(6000, Timestamp::from_unix_nanos(1));
        let mut young = Event::new(clock::now());
        young.id = "young".into();
        insert(&mut db, &[young]).unwrap();
        let mut retention = Retention {
            age: Some(Duration::from_secs(3600)),
            bytes: None,
            next: None,
        };
        retention.apply(&db, Instant::now()).unwrap();
        assert_eq!(count(&db), 1001);
        retention.apply(&db, Instant::now()).unwrap();
        assert_eq!(count(&db), 1);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_bytes() {
        let (_folder, db) = store(8000, Timestamp::from_unix_nanos(1));
        let full = used(&db).unwrap();
        let mut retention = Retention {
            age: None,
            bytes: Some(full / 2),
            next: None,
        };
        retention.apply(&db, Instant::now()).unwrap();
        assert_eq!(count(&db), 3000);
        retention.apply(&db, Instant::now() + EVERY).unwrap();
        assert_eq!(count(&db), 3000, "enough is enough");
    }
}
