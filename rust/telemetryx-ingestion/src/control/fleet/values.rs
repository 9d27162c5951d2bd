//! The names and values in the table of a fleet. All JSON with a version; a letter's event follows behind its line, as it is.
//!
//! | name | value | written by |
//! | --- | --- | --- |
//! | `letter/<route>/<partition>/<offset>`, `letter/door/<unique>` | [`Letter`] and the event, never changed | who buries it; removed when it was sent again |
//! | `letter-state/<number>` | [`LetterState`]: asked for, or in vain | operators, and who sends it |
//! | `replay/<unique>` | [`Request`], never changed | operators |
//! | `replay-part/<number>/<partition>` | [`Progress`] | who runs the route over the partition |
//! | `fence/<route>/<partition>` | [`Process`] that took it over last | who runs the route over the partition |
//! | `door/<process>` | [`Door`] | each process its own |
//! | `doors-gone` | [`DoorsGone`]: the sum of those that are no more | the keeper |
//! | `keeper` | [`Beat`] of the process that does what one must do | who wants to be it |
//! | `born` | [`Born`] | who finds none |
//!
//! The number of a letter or a replay is the sequence number of its value: the same in all processes, and never another's.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::control::{Part, ReplayState};
use crate::observe::DoorSaved;

/// Of the values as they are written here. One that is newer is not understood, and passed over.
const VERSION: u32 = 1;

pub(super) const DOORS_GONE: &str = "doors-gone";
pub(super) const KEEPER: &str = "keeper";
pub(super) const BORN: &str = "born";

/// A name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name<'n> {
    Letter,
    LetterState(i64),
    Replay,
    ReplayPart(i64, u32),
    Fence(&'n str, u32),
    Door,
    DoorsGone,
    Keeper,
    Born,
}

impl<'n> Name<'n> {
    /// `None` for one that is not known here.
    pub(super) fn parse(name: &'n str) -> Option<Self> {
        let mut words = name.split('/');
        let kind = words.next()?;
        let (first, second) = (words.next(), words.next());
        Some(match (kind, first, second) {
            ("letter", Some(_), Some(_)) => Self::Letter,
            ("letter-state", Some(number), None) => Self::LetterState(number.parse().ok()?),
            ("replay", Some(_), None) => Self::Replay,
            ("replay-part", Some(number), Some(partition)) => {
                Self::ReplayPart(number.parse().ok()?, partition.parse().ok()?)
            }
            ("fence", Some(route), Some(partition)) => Self::Fence(route, partition.parse().ok()?),
            ("door", Some(_), None) => Self::Door,
            (DOORS_GONE, None, None) => Self::DoorsGone,
            (KEEPER, None, None) => Self::Keeper,
            (BORN, None, None) => Self::Born,
            _ => return None,
        })
    }
}

pub(super) fn letter_of_route(route: &str, partition: u32, offset: u64) -> String {
    format!("letter/{route}/{partition}/{offset}")
}

pub(super) fn letter_of_door() -> String {
    format!("letter/door/{}", uuid::Uuid::now_v7().simple())
}

pub(super) fn letter_state(number: i64) -> String {
    format!("letter-state/{number}")
}

pub(super) fn replay() -> String {
    format!("replay/{}", uuid::Uuid::now_v7().simple())
}

pub(super) fn replay_part(number: i64, partition: u32) -> String {
    format!("replay-part/{number}/{partition}")
}

pub(super) fn fence(route: &str, partition: u32) -> String {
    format!("fence/{route}/{partition}")
}

pub(super) fn door(process: &str) -> String {
    format!("door/{process}")
}

/// A dead letter, but for its event.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) by: String,
    pub(super) at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<String>,
    pub(super) stage: String,
    pub(super) code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<String>,
    pub(super) message: String,
    #[serde(default)]
    pub(super) partition: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<u64>,
    pub(super) format: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
}

/// What became of a letter since it was kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LetterState {
    /// True if it is to be sent again.
    pub(super) redrive: bool,
    pub(super) redrives: u32,
    /// The reason that came last, in place of the letter's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

/// A replay that was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) at: i64,
    pub(super) route: String,
    pub(super) parts: Vec<Part>,
}

/// How far a part of a replay is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) next: u64,
    pub(super) delivered: u64,
    pub(super) state: ReplayState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// Who did it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) by: String,
}

/// What one process turned away.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Door {
    pub(super) books: DoorSaved,
}

/// What processes that are gone turned away.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct DoorsGone {
    pub(super) books: DoorSaved,
    /// Whose books were added last, and may still stand under their own name: those do not count any more.
    pub(super) added: BTreeMap<String, Added>,
}

/// What one of them had, and when it was added.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Added {
    pub(super) at: i64,
    pub(super) books: DoorSaved,
}

/// The keeper is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Beat {
    pub(super) by: String,
    /// Differs from one to the next.
    pub(super) count: u64,
}

/// Since when the books are kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Born {
    pub(super) at: i64,
}

#[derive(Serialize)]
struct Written<'v, T> {
    v: u32,
    #[serde(flatten)]
    value: &'v T,
}

/// Why a value is passed over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is of version {0}, which is newer than this process")]
    Newer(u32),
    #[error("{0}")]
    Damaged(#[from] serde_json::Error),
}

/// One line of JSON, and what follows it.
pub(super) fn encode<T: Serialize>(value: &T, behind: &[u8]) -> Result<Bytes, serde_json::Error> {
    let mut bytes = serde_json::to_vec(&Written { v: VERSION, value })?;
    if !behind.is_empty() {
        bytes.push(b'\n');
        bytes.extend_from_slice(behind);
    }
    Ok(bytes.into())
}

/// The value, and what follows its line.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    // JSON as it is written here has no line break.
    let (line, behind) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &bytes[bytes.len()..]),
    };
    let Version { v } = serde_json::from_slice(line)?;
    if v > VERSION {
        return Err(Unreadable::Newer(v));
    }
    Ok((serde_json::from_slice(line)?, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(
            Name::parse(&letter_of_route("door", 3, 17)),
            Some(Name::Letter)
        );
        assert_eq!(Name::parse(&letter_of_door()), Some(Name::Letter));
        assert_eq!(Name::parse(&letter_state(9)), Some(Name::LetterState(9)));
        assert_eq!(Name::parse(&replay()), Some(Name::Replay));
        assert_eq!(
            Name::parse(&replay_part(9, 2)),
            Some(Name::ReplayPart(9, 2))
        );
        assert_eq!(
            Name::parse(&fence("a.b-c", 11)),
            Some(Name::Fence("a.b-c", 11))
        );
        assert_eq!(Name::parse(&door("p")), Some(Name::Door));
        assert_eq!(Name::parse("doors-gone"), Some(Name::DoorsGone));
        assert_eq!(Name::parse("letter-state/x"), None);
        assert_eq!(Name::parse("of a later version/1"), None);
    }

    #[test]
    fn event_stands_behind_its_letter_byte_for_byte_and_a_newer_value_is_passed_over() {
        let event = b"\n{\"a\":1}\n\xff";
        let value = encode(&Process { by: "p\n".into() }, event).unwrap();
        let (process, behind): (Process, _) = decode(&value).unwrap();
        assert_eq!((process.by.as_str(), behind), ("p\n", event.as_slice()));
        let alone = encode(&Born { at: -5 }, b"").unwrap();
        let (born, behind): (Born, _) = decode(&alone).unwrap();
        assert_eq!((born.at, behind.len()), (-5, 0));
        let newer = br#"{"v":2,"at":1}"#;
        assert!(matches!(decode::<Born>(newer), Err(Unreadable::Newer(2))));
        assert!(matches!(decode::<Born>(b"{"), Err(Unreadable::Damaged(_))));
    }
}
