//! `--from` and `--to` in the journal of a data directory: an offset, or a time that stands for one.

use telemetryx_journal::{Entry, JournalView, Offset, ReadError};

use super::Failure;
use crate::control::Moment;

/// Bytes read at a time while looking for a time.
const READ_BYTES: usize = 1 << 20;

/// The offset that is meant; one beyond the end is refused, `name` says where it was given.
pub(crate) fn resolve(
    moment: Moment,
    journal: &JournalView,
    name: &str,
) -> Result<Offset, Failure> {
    match moment {
        Moment::InPartition(partition @ 1.., _) => Err(Failure::failed(format!(
            "{name}: this journal has no partition {partition}"
        ))),
        Moment::Offset(offset) | Moment::InPartition(_, offset) if offset > journal.end().get() => {
            Err(Failure::failed(format!(
                "{name} {offset} lies behind the end of the journal, {}",
                journal.end()
            )))
        }
        Moment::Offset(offset) | Moment::InPartition(_, offset) => Ok(Offset::new(offset)),
        Moment::Time(time) => Ok(offset_at(journal, time.unix_nanos())?),
    }
}

/// The first event appended at or after a time, or the end. Reads one segment: the last that was begun before that time.
pub(super) fn offset_at(journal: &JournalView, nanos: i64) -> Result<Offset, ReadError> {
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
        let beyond = resolve(Moment::Offset(61), &view, "--from").unwrap_err();
        assert!(beyond.message.contains("--from 61 lies behind the end"));
        assert!(resolve(Moment::InPartition(1, 0), &view, "--from").is_err());
    }
}
