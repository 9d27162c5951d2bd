//! A segment's events, read block by block and cut into pieces for the file.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use telemetryx_common::wire;

use super::order::Segment;
use super::{MoveError, refused};
use crate::journal::{BatchLimit, Journal, Slice};

/// Most events of a piece. Partitions take turns by pieces.
const PIECE_EVENTS: usize = 512;
/// Most bytes of a piece; one event alone may be larger.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// Bytes of all blocks in memory at a time.
const BLOCKS_BYTES: usize = 64 << 20;
const BLOCK_BYTES_MIN: usize = 256 << 10;
const BLOCK_BYTES_MAX: usize = 8 << 20;
/// Why something that the journal gives is not carried.
const NO_EVENT: &str = "no event: it cannot be decoded";

/// A run of offsets.
#[derive(Debug)]
pub(super) enum Piece {
    /// Events as they were stored.
    Events(Slice),
    /// None, any more.
    Missing {
        first: u64,
        events: u64,
        why: String,
    },
}

impl Piece {
    /// When its first event was accepted, in nanoseconds; what is missing has no time and goes first.
    fn accepted_at(&self) -> i64 {
        let Self::Events(slice) = self else {
            return i64::MIN;
        };
        let first = wire::events(&slice.body).next().and_then(Result::ok);
        first.map_or(i64::MIN, |event| event.received_at.unix_nanos())
    }
}

/// Reads a segment.
pub(super) struct SegmentReader<'j> {
    journal: &'j dyn Journal,
    segment: Segment,
    /// The offset behind what was read.
    next: u64,
    pieces: VecDeque<Piece>,
    block_bytes: usize,
}

impl<'j> SegmentReader<'j> {
    /// One of `readers` that are used at the same time.
    pub(super) fn new(journal: &'j dyn Journal, segment: Segment, readers: usize) -> Self {
        Self {
            journal,
            segment,
            next: segment.from,
            pieces: VecDeque::new(),
            block_bytes: (BLOCKS_BYTES / readers.max(1)).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX),
        }
    }

    pub(super) fn partition(&self) -> u32 {
        self.segment.partition
    }

    /// Takes the piece that [`accepted_at`](Self::accepted_at) has spoken of.
    pub(super) fn take(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    /// When the next piece was accepted; `None` at the end of the segment.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(super) async fn accepted_at(&mut self) -> Result<Option<i64>, MoveError> {
        while self.pieces.is_empty() && self.next < self.segment.to {
            self.read().await?;
        }
        Ok(self.pieces.front().map(Piece::accepted_at))
    }

    async fn read(&mut self) -> Result<(), MoveError> {
        let Segment { partition, to, .. } = self.segment;
        let limit = BatchLimit {
            events: usize::MAX,
            bytes: self.block_bytes,
            wait: Duration::ZERO,
        };
        let delivery = self.journal.scan(partition, self.next, to, limit).await?;
        if delivery.end <= self.next {
            return refused(format!(
                "partition {partition} gives nothing at offset {}, though it ends at {to}",
                self.next
            ));
        }
        let mut whys = delivery.gaps.iter();
        let mut miss = |pieces: &mut VecDeque<Piece>, first: u64, end: u64| {
            if end > first {
                let why = whys.next().and_then(|why| why.split_once(": "));
                pieces.push_back(Piece::Missing {
                    first,
                    events: end - first,
                    why: why.map_or_else(String::new, |(_, why)| why.to_owned()),
                });
            }
        };
        for slice in delivery.slices {
            miss(&mut self.pieces, self.next, slice.first);
            self.next = slice.first + u64::from(slice.events);
            cut(slice, &mut self.pieces);
        }
        let end = delivery.end.min(to);
        miss(&mut self.pieces, self.next, end);
        self.next = self.next.max(end);
        Ok(())
    }
}

/// Cuts a slice into pieces; what is no event is missing.
fn cut(slice: Slice, pieces: &mut VecDeque<Piece>) {
    let Slice {
        mut first,
        mut events,
        mut body,
    } = slice;
    while events > 0 {
        let (found, length) =
            wire::first_part(&body, PIECE_EVENTS.min(events as usize), PIECE_BYTES);
        let found = u32::try_from(found).unwrap_or_default();
        if found == 0 {
            return miss(first, events, pieces);
        }
        let part = body.split_to(length);
        if wire::events(&part).all(|event| event.is_ok()) {
            pieces.push_back(Piece::Events(Slice {
                first,
                events: found,
                body: part,
            }));
        } else {
            cut_bad(first, part, pieces);
        }
        first += u64::from(found);
        events -= found;
    }
}

/// Cuts where some are no events.
fn cut_bad(first: u64, mut body: Bytes, pieces: &mut VecDeque<Piece>) {
    let mut first = first;
    while !body.is_empty() {
        let (_, length) = wire::first_part(&body, 1, usize::MAX);
        let one = body.split_to(length.max(1));
        if wire::events(&one).all(|event| event.is_ok()) {
            pieces.push_back(Piece::Events(Slice {
                first,
                events: 1,
                body: one,
            }));
        } else {
            miss(first, 1, pieces);
        }
        first += 1;
    }
}

fn miss(first: u64, events: u32, pieces: &mut VecDeque<Piece>) {
    pieces.push_back(Piece::Missing {
        first,
        events: events.into(),
        why: NO_EVENT.to_owned(),
    });
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, Timestamp};

    use super::*;

    fn encoded(ids: &[&str]) -> Vec<u8> {
        let mut body = Vec::new();
        for id in ids {
            wire::encode_event(&Event::new(Timestamp::UNIX_EPOCH), id, &mut body);
        }
        body
    }

    fn pieces(body: Vec<u8>, events: u32) -> Vec<(u64, u64, bool)> {
        let mut pieces = VecDeque::new();
        let slice = Slice {
            first: 10,
            events,
            body: body.into(),
        };
        cut(slice, &mut pieces);
        let shown = pieces.into_iter().map(|piece| match piece {
            Piece::Events(slice) => (slice.first, slice.events.into(), true),
            Piece::Missing { first, events, .. } => (first, events, false),
        });
        shown.collect()
    }

    #[test]
    fn large_slices_are_cut_and_what_is_no_event_is_missing_alone() {
        let ids: Vec<_> = (0..PIECE_EVENTS + 1).map(|_| "x").collect();
        let count = ids.len() as u32;
        let expected = [
            (10, PIECE_EVENTS as u64, true),
            (10 + PIECE_EVENTS as u64, 1, true),
        ];
        assert_eq!(pieces(encoded(&ids), count), expected);

        let mut mixed = encoded(&["a"]);
        mixed.extend(wire::batch_of(b"\xff\xff\xff"));
        mixed.extend(encoded(&["b"]));
        let expected = [(10, 1, true), (11, 1, false), (12, 1, true)];
        assert_eq!(pieces(mixed, 3), expected);
        assert_eq!(pieces(b"junk".to_vec(), 1), [(10, 1, false)]);
        // Fewer events than it says.
        let expected = [(10, 1, true), (11, 1, false)];
        assert_eq!(pieces(encoded(&["a"]), 2), expected);
    }
}
