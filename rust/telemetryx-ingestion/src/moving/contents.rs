//! What is in the frames of a file.

use serde::{Deserialize, Serialize};

use crate::journal::Extent;
use crate::observe::DoorSaved;
use crate::route::Saved;

/// The journal as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    /// When the file was written, RFC 3339.
    pub(crate) written_at: String,
    /// Version of the binary that wrote it.
    pub(crate) version: String,
    /// `embedded`, `kafka` or `postgres`.
    pub(crate) engine: String,
    /// The journal's name, hexadecimal.
    pub(crate) identity: String,
    /// What each partition held.
    pub(crate) partitions: Vec<Partition>,
    /// The routes that had a position, in the order of the config.
    pub(crate) routes: Vec<Route>,
    /// What the doors turned away.
    pub(crate) door: DoorSaved,
    /// Since when the books are kept, RFC 3339.
    pub(crate) since: String,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partition {
    /// Its number.
    pub(crate) partition: u32,
    /// The oldest event that it held.
    pub(crate) start: u64,
    /// The offset behind its newest event.
    pub(crate) end: u64,
}

impl Partition {
    pub(crate) fn of(extent: &Extent) -> Self {
        Self {
            partition: extent.partition,
            start: extent.start,
            end: extent.end,
        }
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) name: String,
    /// The kind of its sink.
    pub(crate) sink: String,
    /// Its processors, in order, those of `processing.plugins` first.
    pub(crate) processors: Vec<String>,
    /// Its sink knows by log and offset what it has had.
    pub(crate) remembers_offsets: bool,
}

/// Where a route is in a partition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RouteState {
    /// Its name.
    pub(crate) route: String,
    pub(crate) partition: u32,
    /// The offset that it reads next.
    pub(crate) position: u64,
    /// What it saved with that.
    pub(crate) saved: Saved,
}

/// Who has passed the events that follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Names of routes.
    pub(crate) passed_by: Vec<String>,
}

/// Events that the journal cannot give any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) events: u64,
    pub(crate) why: String,
}

/// A dead letter, but for its event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letter {
    /// Since when, nanoseconds since 1970.
    pub(crate) at: i64,
    /// `None`: of the door.
    pub(crate) route: Option<String>,
    pub(crate) stage: String,
    pub(crate) code: String,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    /// Where its event was.
    pub(crate) partition: u32,
    pub(crate) offset: Option<u64>,
    /// True if its event is the one of the frame before it.
    pub(crate) here: bool,
    pub(crate) format: String,
    pub(crate) request_id: Option<String>,
}

/// There is no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Frames before this one.
    pub(crate) frames: u64,
    pub(crate) events: u64,
    /// Events that are in no frame though they were accepted.
    pub(crate) missing: u64,
    pub(crate) letters: u64,
}

/// The head of a frame of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventsHead {
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) events: u32,
}

impl EventsHead {
    const BYTES: usize = 16;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.partition.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.first.to_le_bytes());
        bytes[12..].copy_from_slice(&self.events.to_le_bytes());
        bytes
    }

    /// The head, and the events behind it.
    pub(crate) fn read(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (partition, rest) = payload.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        let (events, body) = rest.split_first_chunk()?;
        let head = Self {
            partition: u32::from_le_bytes(*partition),
            first: u64::from_le_bytes(*first),
            events: u32::from_le_bytes(*events),
        };
        Some((head, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_of_events_is_read_as_it_was_written() {
        let head = EventsHead {
            partition: 7,
            first: u64::MAX - 3,
            events: 9,
        };
        let mut payload = head.to_bytes().to_vec();
        payload.extend_from_slice(b"body");
        assert_eq!(EventsHead::read(&payload), Some((head, &b"body"[..])));
        assert_eq!(EventsHead::read(&payload[..15]), None);
    }
}
