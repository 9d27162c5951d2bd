//! Partitions by time: made ahead, made on demand for older events, dropped once all they hold is too old.
//!
//! ```text
//!            retain.age, or 31 days                 now  next  next
//!   default  |  made on demand                     |  made ahead  |  default
//! ```
//! What lies outside lands in the default partition, so that events of any time whatever make no partitions without end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::civil;
use serde::Deserialize;
use telemetryx_common::Event;
use tokio_postgres::types::Type;

use super::Settings;
use super::encoding::micros;
use super::failure::Failure;
use super::making::{self, Pause};
use crate::clock;
use crate::postgres::Connection;

/// How far back partitions are made on demand where nothing says how long events are kept.
const BACK: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// Partitions made ahead, beside that of now.
const AHEAD: usize = 2;
/// Partitions made before one batch is stored; what the others would hold lands in the default partition.
const AT_ONCE: usize = 4;
const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// What a partition holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PartitionBy {
    /// A day, in UTC.
    #[default]
    Day,
    /// An hour.
    Hour,
    /// A month, in UTC.
    Month,
    /// There are none: one plain table.
    None,
}

/// A range of time, in microseconds since 1970: from the first up to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimeRange {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl TimeRange {
    fn contains(self, at: i64) -> bool {
        self.from <= at && at < self.to
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.from < other.to && other.from < self.to
    }
}

impl PartitionBy {
    /// The partition that holds this time; `None` if there are no partitions.
    pub(super) fn range_of(self, at: i64) -> Option<TimeRange> {
        let even = |length: i64| {
            let from = at.div_euclid(length) * length;
            TimeRange {
                from,
                to: from.saturating_add(length),
            }
        };
        match self {
            Self::Day => Some(even(DAY)),
            Self::Hour => Some(even(HOUR)),
            Self::Month => {
                let first = date_of(at)?.first_of_month();
                let next = first.checked_add(jiff::Span::new().months(1)).ok()?;
                Some(TimeRange {
                    from: micros_of(first)?,
                    to: micros_of(next)?,
                })
            }
            Self::None => None,
        }
    }

    /// About how long a partition is.
    pub(super) fn length(self) -> Option<Duration> {
        let micros = match self {
            Self::Day => DAY,
            Self::Hour => HOUR,
            Self::Month => 30 * DAY,
            Self::None => return None,
        };
        Some(Duration::from_micros(micros.unsigned_abs()))
    }

    /// The end of a partition's name.
    pub(super) fn name_of(self, range: TimeRange) -> Option<String> {
        let time = jiff::Timestamp::from_microsecond(range.from).ok()?;
        let form = match self {
            Self::Day => "_p%Y%m%d",
            Self::Hour => "_p%Y%m%d%H",
            Self::Month => "_p%Y%m",
            Self::None => return None,
        };
        Some(time.strftime(form).to_string())
    }
}

fn date_of(at: i64) -> Option<civil::Date> {
    let time = jiff::Timestamp::from_microsecond(at).ok()?;
    Some(jiff::tz::Offset::UTC.to_datetime(time).date())
}

fn micros_of(date: civil::Date) -> Option<i64> {
    let time = jiff::tz::Offset::UTC
        .to_timestamp(date.at(0, 0, 0, 0))
        .ok()?;
    Some(time.as_microsecond())
}

/// The partitions that are there, as far as this process knows.
pub(super) struct Partitions {
    /// In order.
    known: Vec<TimeRange>,
}

impl Partitions {
    /// Asks the server which there are, and makes those of now and the near future.
    pub(super) async fn load(
        connection: &Connection,
        settings: &Settings,
        pause: &Pause,
    ) -> Result<Self, Failure> {
        let mut this = Self {
            known: ranges(connection, settings).await?,
        };
        let missing = this.missing_ahead(settings);
        this.make(connection, settings, pause, missing).await?;
        Ok(this)
    }

    /// Makes what these events need and may have.
    pub(super) async fn make_for(
        &mut self,
        connection: &Connection,
        settings: &Settings,
        pause: &Pause,
        events: &[Event<'_>],
    ) -> Result<(), Failure> {
        let missing = self.missing(settings, events, micros(clock::now()));
        let newest = missing.into_iter().rev().take(AT_ONCE).collect();
        self.make(connection, settings, pause, newest).await
    }

    /// Makes these, one after the other, for as long as that takes only a moment.
    async fn make(
        &mut self,
        connection: &Connection,
        settings: &Settings,
        pause: &Pause,
        missing: Vec<TimeRange>,
    ) -> Result<(), Failure> {
        if missing.is_empty() || pause.is_on() {
            return Ok(());
        }
        let begun = Instant::now();
        for range in missing {
            let made = making::make(connection, settings, pause, range).await?;
            if !made || begun.elapsed() > making::moment(settings) {
                break;
            }
        }
        self.known = ranges(connection, settings).await?;
        Ok(())
    }

    /// Those of now and the near future that are not there, in order.
    pub(super) fn missing_ahead(&self, settings: &Settings) -> Vec<TimeRange> {
        let now = settings.partition.range_of(micros(clock::now()));
        let ahead = std::iter::successors(now, |range| settings.partition.range_of(range.to));
        ahead
            .take(AHEAD + 1)
            .filter(|range| !self.known.iter().any(|known| known.overlaps(*range)))
            .collect()
    }

    fn has(&self, at: i64) -> bool {
        self.range(at).is_some()
    }

    /// The partition that holds this time.
    fn range(&self, at: i64) -> Option<TimeRange> {
        let behind = self.known.partition_point(|range| range.from <= at);
        let found = self.known[..behind].last().copied();
        found.filter(|range| range.contains(at))
    }

    /// Ranges of partitions that these events should have and that are not there.
    fn missing(&self, settings: &Settings, events: &[Event<'_>], now: i64) -> BTreeSet<TimeRange> {
        let mut missing = BTreeSet::new();
        if settings.partition == PartitionBy::None {
            return missing;
        }
        let back = settings.retain.unwrap_or(BACK);
        let oldest = now.saturating_sub_unsigned(back.as_micros() as u64);
        // Events of a batch are mostly of one partition.
        let mut last = TimeRange { from: 0, to: 0 };
        for event in events {
            let at = micros(event.ts);
            if last.contains(at) {
                continue;
            }
            let Some(range) = self.range(at).or_else(|| settings.partition.range_of(at)) else {
                continue;
            };
            last = range;
            let ahead = range
                .to
                .saturating_sub(range.from)
                .saturating_mul(AHEAD as i64 + 1);
            if !self.has(at) && at >= oldest && at < now.saturating_add(ahead) {
                missing.insert(range);
            }
        }
        missing
    }
}

/// As the server reads it.
pub(super) fn time_text(micros: i64) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S%.f+00").to_string(),
        Err(_) => "infinity".to_owned(),
    }
}

/// Partitions with their names, in order; not the default one.
pub(super) async fn named_ranges(
    connection: &Connection,
    settings: &Settings,
) -> Result<Vec<(TimeRange, String)>, Failure> {
    let bound = |which: &str| {
        format!(
            "(extract(epoch FROM (regexp_match(bound, '{which} \\(''([-0-9:. +]+)''\\)'))[1]::timestamptz) \
             * 1000000)::bigint"
        )
    };
    let sql = format!(
        "SELECT part.oid::regclass::text, {}, {} FROM pg_inherits \
         JOIN pg_class part ON part.oid = inhrelid, pg_get_expr(part.relpartbound, part.oid) bound \
         WHERE inhparent = to_regclass($1) AND bound <> 'DEFAULT'",
        bound("FROM"),
        bound("TO")
    );
    let rows = connection
        .query_typed(&sql, &[(&settings.events, Type::TEXT)])
        .await?;
    let mut found: Vec<_> = rows
        .iter()
        .map(|row| {
            // Somebody else's may be open at one end.
            let from: Option<i64> = row.get(1);
            let to: Option<i64> = row.get(2);
            let range = TimeRange {
                from: from.unwrap_or(i64::MIN),
                to: to.unwrap_or(i64::MAX),
            };
            (range, row.get(0))
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The same without their names.
pub(super) async fn ranges(
    connection: &Connection,
    settings: &Settings,
) -> Result<Vec<TimeRange>, Failure> {
    let named = named_ranges(connection, settings).await?;
    Ok(named.into_iter().map(|(range, _)| range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(by: PartitionBy, at: &str) -> (String, String, String) {
        let at: jiff::Timestamp = at.parse().unwrap();
        let range = by.range_of(at.as_microsecond()).unwrap();
        assert!(range.contains(at.as_microsecond()));
        (
            by.name_of(range).unwrap(),
            time_text(range.from),
            time_text(range.to),
        )
    }

    #[test]
    fn a_partition_is_an_hour_a_day_or_a_month_of_utc() {
        let of = |name: &str, from: &str, to: &str| (name.into(), from.into(), to.into());
        assert_eq!(
            range(PartitionBy::Day, "2024-02-29T23:59:59.999999Z"),
            of(
                "_p20240229",
                "2024-02-29 00:00:00+00",
                "2024-03-01 00:00:00+00"
            )
        );
        assert_eq!(
            range(PartitionBy::Month, "2025-12-31T23:00:00Z"),
            of(
                "_p202512",
                "2025-12-01 00:00:00+00",
                "2026-01-01 00:00:00+00"
            )
        );
        assert_eq!(
            range(PartitionBy::Hour, "1969-12-31T23:30:00Z"),
            of(
                "_p1969123123",
                "1969-12-31 23:00:00+00",
                "1970-01-01 00:00:00+00"
            )
        );
        assert_eq!(PartitionBy::None.range_of(0), None);
    }
}
