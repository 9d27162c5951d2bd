//! `--from` and `--to`: an offset, or a time that stands for one.

use std::str::FromStr;

use telemetryx_common::Timestamp;
use telemetryx_journal::{Entry, JournalView, Offset, ReadError};

use super::Failure;

/// Bytes read at a time while looking for a time.
const READ_BYTES: usize = 1 << 20;

/// A place in the journal as a person says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The number of an event.
    Offset(u64),
    /// The first event accepted at or after it.
    Time(Timestamp),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        Timestamp::parse(text).map(Self::Time).map_err(|_| {
            "give an offset such as 1200, or a time such as 2026-01-31T23:59:59Z".to_owned()
        })
    }
}

impl Moment {
    /// The offset that is meant; one beyond the end is refused, `name` says where it was given.
    pub(crate) fn resolve(self, journal: &JournalView, name: &str) -> Result<Offset, Failure> {
        match self {
            Self::Offset(offset) if offset > journal.end().get() => Err(Failure::failed(format!(
                "{name} {offset} lies behind the end of the journal, {}",
                journal.end()
            ))),
            Self::Offset(offset) => Ok(Offset::new(offset)),
            Self::Time(time) => Ok(offset_at(journal, time.unix_nanos())?),
        }
    }
}

/// The first event appended at or after a time, or the end. Reads one segment: the last that was begun before that time.
fn offset_at(journal: &JournalView, nanos: i64) -> Result<Offset, ReadError> {
    let segments = journal.segments();
    let begun_before = segments.partition_point(|segment| segment.created_at < nanos);
    let Some(segment) = segments.get(begun_before.saturating_sub(1)) else {
        return Ok(journal.end());
    };
    let mut reader = journal.reader(segment.base)?;
    loop {
        let chunk = reader.next(READ_BYTES)?;
        if chunk.is_empty() {
            return Ok(journal.end());
        }
        for entry in chunk.entries {
            if let Entry::Record(record) = entry
                && record.appended_at >= nanos
            {
                return Ok(record.first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use telemetryx_journal::{Journal, JournalOptions, Record};

    use super::*;

    #[test]
    fn number_is_an_offset_and_anything_else_must_be_a_time() {
        assert_eq!("1735689600".parse(), Ok(Moment::Offset(1_735_689_600)));
        assert_eq!(
            "1970-01-01T00:00:01Z".parse(),
            Ok(Moment::Time(Timestamp::from_unix_nanos(1_000_000_000)))
        );
        for wrong in ["", "-1", "yesterday", "2026-01-31"] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn time_is_found_in_whatever_segment_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let options = JournalOptions {
            segment_bytes: 4096,
            ..JournalOptions::default()
        };
        let journal = Journal::open(dir.path(), options).unwrap();
        for _ in 0..30 {
            let record = Record::new(vec![7; 1000], 2, 0, 0);
            journal.append_blocking(record).unwrap();
        }
        let mut reader = journal.reader(Offset::ZERO).unwrap();
        let mut times = Vec::new();
        while let Some(chunk) = Some(reader.next(1).unwrap()).filter(|chunk| !chunk.is_empty()) {
            for entry in chunk.entries {
                if let Entry::Record(record) = entry {
                    times.push((record.first, record.appended_at));
                }
            }
        }
        let view = JournalView::open(dir.path()).unwrap();
        assert!(view.segments().len() > 3);
        let at = |nanos| offset_at(&view, nanos).unwrap();
        for (first, time) in &times {
            let earliest = times.iter().find(|(_, other)| other >= time).unwrap().0;
            assert_eq!(at(*time), earliest.min(*first));
        }
        assert_eq!(at(0), Offset::ZERO);
        assert_eq!(at(i64::MAX), view.end());
        let beyond = Moment::Offset(61).resolve(&view, "--from").unwrap_err();
        assert!(beyond.message.contains("--from 61 lies behind the end"));
    }
}
