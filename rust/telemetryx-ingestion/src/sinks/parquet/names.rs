//! Where an event's file lies: `type=…/date=…/hour=…`, escaped as Hive does, and what the file is named.

use std::fmt::Write;

use sha2::{Digest, Sha256};
use telemetryx_common::Timestamp;

/// Folders of file systems and S3 servers that stand on them take 255 bytes for a name.
const VALUE_BYTES_MAX: usize = 200;
/// How Hive writes a value that is empty.
const EMPTY: &str = "__HIVE_DEFAULT_PARTITION__";
const NANOS_PER_HOUR: i64 = 3_600_000_000_000;

/// The hour of UTC in which `ts` lies, counted from 1970.
pub(super) fn hour_of(ts: Timestamp) -> i64 {
    ts.unix_nanos().div_euclid(NANOS_PER_HOUR)
}

/// The folder of events of this type and hour. Two types may share one, if their names are very long.
pub(super) fn folder(event_type: &str, hour: i64) -> String {
    let start = Timestamp::from_unix_nanos(hour.saturating_mul(NANOS_PER_HOUR)).to_string();
    // `2026-11-21T21:00:00Z`. The first hour that can be stored is not a whole one: it begins within.
    let date = start.get(..10).unwrap_or_default();
    format!(
        "type={}/date={date}/hour={:02}",
        escaped(event_type),
        hour.rem_euclid(24)
    )
}

/// A value as a part of a path: whatever is no ASCII letter, digit, `_`, `-` or `.` becomes `%` and two hex digits. What is
/// too long is cut, and ends in a digest of the whole.
fn escaped(value: &str) -> String {
    if value.is_empty() {
        return EMPTY.to_owned();
    }
    let mut out = String::with_capacity(value.len());
    for character in value.chars() {
        let before = out.len();
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
                    out.push(char::from(byte));
                }
                _ => write!(out, "%{byte:02X}").unwrap_or_default(),
            }
        }
        if out.len() > VALUE_BYTES_MAX {
            let digest = Sha256::digest(value.as_bytes());
            let digest: [u8; 8] = digest.first_chunk().copied().unwrap_or_default();
            out.truncate(before);
            write!(out, "-{:016x}", u64::from_be_bytes(digest)).unwrap_or_default();
            break;
        }
    }
    out
}

/// The name of the files of a piece of a route. `check` tells pieces with the same offsets and other events apart, so that
/// none is ever written over another one.
pub(super) fn piece(route: &str, log: u128, first: u64, end: u64, check: u32) -> String {
    format!("{route}-{log:032x}-{first}-{end}-{check:08x}.parquet")
}

/// The name of the files of a dead letter that was sent again. `check` tells it from one of the same number in a data
/// directory that was put back from a backup.
pub(super) fn letter(route: &str, log: u128, number: i64, check: u32) -> String {
    format!("{route}-{log:032x}-letter-{number}-{check:08x}.parquet")
}

/// Where the plan of a route is.
pub(super) fn plan(route: &str, log: u128) -> String {
    format!("_telemetryx/{route}-{log:032x}.json")
}

/// Something that is never there, to ask for.
pub(super) fn probe(route: &str) -> String {
    format!("_telemetryx/{route}.probe")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use object_store::path::Path;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> i64 {
        hour_of(Timestamp::parse(text).unwrap())
    }

    #[test]
    fn folders_are_those_that_hive_would_make() {
        for (event_type, ts, expected) in [
            (
                "Login",
                "2026-11-21T21:59:59.999999999Z",
                "type=Login/date=2026-11-21/hour=21",
            ),
            (
                "a b",
                "1969-12-31T23:59:59Z",
                "type=a%20b/date=1969-12-31/hour=23",
            ),
            (
                "../..",
                "1970-01-01T00:00:00Z",
                "type=..%2F../date=1970-01-01/hour=00",
            ),
            (
                "a=b%2F",
                "2026-11-21T09:00:00Z",
                "type=a%3Db%252F/date=2026-11-21/hour=09",
            ),
            (
                "",
                "2026-11-21T09:00:00Z",
                "type=__HIVE_DEFAULT_PARTITION__/date=2026-11-21/hour=09",
            ),
            (
                "ü",
                "2262-04-11T23:00:00Z",
                "type=%C3%BC/date=2262-04-11/hour=23",
            ),
        ] {
            assert_eq!(folder(event_type, at(ts)), expected);
        }
        assert_eq!(
            folder("x", hour_of(Timestamp::from_unix_nanos(i64::MIN))),
            "type=x/date=1677-09-21/hour=00"
        );
    }

    proptest! {
        #[test]
        fn any_type_is_one_short_part_of_a_path(types in prop::collection::vec(".{0,1000}", 1..5)) {
            let mut folders = HashSet::new();
            for event_type in types.iter().collect::<HashSet<_>>() {
                let folder = folder(event_type, 0);
                prop_assert!(folders.insert(folder.clone()), "{folder} twice");
                prop_assert_eq!(folder.split('/').count(), 3);
                prop_assert!(folder.split('/').all(|part| part.len() < 255));
                let path = Path::parse(&folder).unwrap();
                prop_assert_eq!(path.as_ref(), &folder);
            }
        }
    }
}
