//! From where, and up to where: places in the journal as a person says them.

use std::str::FromStr;

use telemetryx_common::Timestamp;

use crate::journal::Extent;

/// A place in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The number of an event in the only partition there is.
    Offset(u64),
    /// The number of an event in one partition of several.
    InPartition(u32, u64),
    /// In each partition, the first event accepted at or after it.
    Time(Timestamp),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        if let Some((partition, offset)) = text.split_once(':')
            && let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
        {
            return Ok(Self::InPartition(partition, offset));
        }
        Timestamp::parse(text).map(Self::Time).map_err(|_| {
            "give an offset such as 1200 (3:1200 in partition 3), or a time such as 2026-01-31T23:59:59Z"
                .to_owned()
        })
    }
}

impl Moment {
    fn partition(self) -> Option<u32> {
        match self {
            Self::InPartition(partition, _) => Some(partition),
            Self::Offset(_) | Self::Time(_) => None,
        }
    }
}

/// Which of the journal's partitions are meant.
///
/// # Errors
/// What cannot be meant, for whoever said it.
pub fn partitions(
    extents: Vec<Extent>,
    from: Moment,
    to: Option<Moment>,
) -> Result<Vec<Extent>, String> {
    let said: Vec<_> = std::iter::once(from).chain(to).collect();
    let count = extents.len();
    if count > 1
        && said
            .iter()
            .any(|moment| matches!(moment, Moment::Offset(_)))
    {
        return Err(format!(
            "the journal has {count} partitions, each with offsets of its own: give a time, or PARTITION:OFFSET for one of them"
        ));
    }
    let mut named = said.into_iter().filter_map(Moment::partition);
    let Some(partition) = named.next() else {
        return Ok(extents);
    };
    if let Some(other) = named.find(|other| *other != partition) {
        return Err(format!(
            "it is one partition that is replayed from an offset to another: give both in {partition}, or both in {other}"
        ));
    }
    let held = extents
        .into_iter()
        .find(|extent| extent.partition == partition);
    held.map(|extent| vec![extent])
        .ok_or_else(|| format!("the journal has no partition {partition}: it has {count}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_an_offset_two_are_a_partition_and_an_offset_and_anything_else_must_be_a_time() {
        assert_eq!("1735689600".parse(), Ok(Moment::Offset(1_735_689_600)));
        assert_eq!("3:1200".parse(), Ok(Moment::InPartition(3, 1200)));
        assert_eq!(
            "1970-01-01T00:00:01Z".parse(),
            Ok(Moment::Time(Timestamp::from_unix_nanos(1_000_000_000)))
        );
        for wrong in ["", "-1", "yesterday", "2026-01-31", "3:", ":3", "3:4:5"] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn offset_alone_means_something_only_where_there_is_one_partition() {
        let extents = |count| -> Vec<_> {
            (0..count)
                .map(|partition| Extent {
                    partition,
                    start: 0,
                    end: 9,
                })
                .collect()
        };
        let meant = |count, from: &str, to: Option<&str>| {
            let to = to.map(|to| to.parse().unwrap());
            partitions(extents(count), from.parse().unwrap(), to).map(|meant| {
                meant
                    .iter()
                    .map(|extent| extent.partition)
                    .collect::<Vec<_>>()
            })
        };
        let time = "2026-01-31T23:59:59Z";
        assert_eq!(meant(1, "5", None), Ok(vec![0]));
        assert_eq!(meant(1, "0:5", Some("7")), Ok(vec![0]));
        assert_eq!(meant(3, time, None), Ok(vec![0, 1, 2]));
        assert_eq!(meant(3, "2:5", Some(time)), Ok(vec![2]));
        assert_eq!(meant(3, time, Some("1:5")), Ok(vec![1]));
        for (count, from, to, why) in [
            (3, "5", None, "PARTITION:OFFSET"),
            (3, time, Some("5"), "has 3 partitions"),
            (3, "1:5", Some("2:5"), "both in 1, or both in 2"),
            (3, "3:0", None, "no partition 3"),
        ] {
            let error = meant(count, from, to).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
