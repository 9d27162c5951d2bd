//! Laying out a group of records as few slices as is worth it. No I/O, no decisions.

use std::io::IoSlice;
use std::ops::Range;

use tokio::sync::oneshot;

use crate::error::AppendError;
use crate::format::{RECORD_HEADER, RecordHeader};
use crate::offset::{Offset, Position};
use crate::record::Record;

/// Bodies up to this size are copied next to their headers: one long slice costs the kernel less than many short ones. Larger
/// ones are written from where they are.
const COPY_MAX: usize = 8 << 10;

/// A record that waits to become durable.
pub(crate) struct Pending {
    pub(crate) record: Record,
    /// Computed by whoever appends, so that the writer thread need not touch large bodies.
    pub(crate) body_crc: u32,
    pub(crate) waiter: oneshot::Sender<Result<Position, AppendError>>,
}

impl Pending {
    /// Bytes it will take in the segment.
    pub(crate) fn stored_len(&self) -> usize {
        RECORD_HEADER + self.record.body.len()
    }
}

/// What all records of a group have in common.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) tag: u32,
    pub(crate) appended_at: i64,
    /// The durable end at the time of writing.
    pub(crate) durable: Offset,
}

/// Buffers that are used again from group to group.
#[derive(Default)]
pub(crate) struct Layout {
    scratch: Vec<u8>,
    pieces: Vec<Piece>,
}

enum Piece {
    Scratch(Range<usize>),
    /// The body of the record with this number in the group.
    Body(usize),
}

impl Layout {
    /// Lays out the records from offset `first` on; returns the offset after them.
    pub(crate) fn fill(&mut self, group: &[Pending], first: Offset, stamp: Stamp) -> Offset {
        self.scratch.clear();
        self.pieces.clear();
        let mut next = first;
        let mut run = 0;
        for (number, pending) in group.iter().enumerate() {
            let record = &pending.record;
            let header = RecordHeader {
                body_len: record.body.len() as u32,
                body_crc: pending.body_crc,
                first: next,
                events: record.events,
                tag: stamp.tag,
                appended_at: stamp.appended_at,
                time_min: record.time_min,
                time_max: record.time_max,
                unsynced: next.since(stamp.durable),
            };
            self.scratch.extend_from_slice(&header.encode());
            if record.body.len() <= COPY_MAX {
                self.scratch.extend_from_slice(&record.body);
            } else {
                self.pieces.push(Piece::Scratch(run..self.scratch.len()));
                self.pieces.push(Piece::Body(number));
                run = self.scratch.len();
            }
            next = header.end();
        }
        if run < self.scratch.len() {
            self.pieces.push(Piece::Scratch(run..self.scratch.len()));
        }
        next
    }

    /// The slices to write.
    pub(crate) fn slices<'a>(&'a self, group: &'a [Pending]) -> Vec<IoSlice<'a>> {
        let slice = |piece: &Piece| match piece {
            Piece::Scratch(range) => self.scratch.get(range.clone()),
            Piece::Body(number) => group.get(*number).map(|pending| &pending.record.body[..]),
        };
        self.pieces
            .iter()
            .filter_map(slice)
            .map(IoSlice::new)
            .collect()
    }
}
