//! The bytes of a segment file, and nothing else: no I/O, no policy. All numbers are little-endian.
//!
//! A segment is named `{base offset:020}.seg` and holds a header, then records back to back, then (once sealed) an end mark;
//! whatever follows (zeros laid out ahead, a torn write) does not count.
//!
//! ```text
//! segment header, 64 bytes                      record header, 64 bytes, then the body
//!  0  magic        "TXJSEG\r\n"                  0  magic       0x8a 'T' 'X' 'R'
//!  8  version      u32 = 1                       4  header crc  u32  CRC-32C of bytes 8..64
//! 12  reserved     u32 = 0                       8  body length u32
//! 16  journal id   u128                         12  body crc    u32  CRC-32C of the body
//! 32  base offset  u64                          16  first       u64  offset of the first event
//! 40  base byte    u64  record bytes in all     24  events      u32  0 in an end mark only
//!                       segments before         28  tag         u32  the header crc of this segment
//! 48  created at   i64                          32  appended at i64
//! 56  reserved     u32 = 0                      40  time min    i64
//! 60  header crc   u32  CRC-32C of 0..60        48  time max    i64
//!                                               56  flags       u8   1 = end mark
//!                                               57  unsynced    u56  events between the durable end and `first`
//!                                                                    when this was written
//! ```
//!
//! Why the odd fields:
//!
//! - **`unsynced`** tells what was durable when a record was written: all below `first - unsynced`. So an intact record
//!   proves that a broken one before it was either durable once (damage: report it) or part of the same torn write (cut it).
//! - **`tag`** ties a record to its segment. The search for intact records after damage looks at every byte, also inside
//!   bodies, and a client may send a body that looks like a record; it cannot know the tag, which depends on the random
//!   journal id. It also unmasks stale blocks of another segment.
//! - **The end mark** is a record without events, written when a segment is sealed, after everything before it is durable.
//!   It proves where the segment ends, so damage to the very last record is not taken for a torn write. It is also the mark of
//!   a clean close.

use crate::offset::Offset;

/// Length of a segment's header.
pub(crate) const SEGMENT_HEADER: usize = 64;
/// Where the records of a segment begin.
pub(crate) const RECORDS_START: u64 = SEGMENT_HEADER as u64;
/// Length of a record's header.
pub(crate) const RECORD_HEADER: usize = 64;
/// First bytes of a record. The first byte is rare in text.
pub(crate) const RECORD_MAGIC: [u8; 4] = [0x8a, b'T', b'X', b'R'];

const SEGMENT_MAGIC: [u8; 8] = *b"TXJSEG\r\n";
const VERSION: u32 = 1;
const FLAG_END: u8 = 1;
const UNSYNCED_MAX: u64 = (1 << 56) - 1;

/// The name of the segment whose first event has this offset.
pub(crate) fn segment_name(base: Offset) -> String {
    format!("{:020}.seg", base.get())
}

/// The base offset that a file's name tells, if it is a segment's.
pub(crate) fn parse_segment_name(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Offset::new)
}

/// What stands at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) journal: u128,
    pub(crate) base: Offset,
    /// Record bytes (headers, bodies, end marks) in all segments before this one.
    pub(crate) base_bytes: u64,
    pub(crate) created_at: i64,
}

/// Why a segment header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadSegmentHeader {
    Broken,
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        put(&mut bytes, 0, SEGMENT_MAGIC);
        put(&mut bytes, 8, VERSION.to_le_bytes());
        put(&mut bytes, 16, self.journal.to_le_bytes());
        put(&mut bytes, 32, self.base.get().to_le_bytes());
        put(&mut bytes, 40, self.base_bytes.to_le_bytes());
        put(&mut bytes, 48, self.created_at.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Result<SegmentHeader, BadSegmentHeader> {
        if take::<8>(bytes, 0) != SEGMENT_MAGIC || crc32c::crc32c(&bytes[..60]) != Self::tag(bytes)
        {
            return Err(BadSegmentHeader::Broken);
        }
        let version = u32::from_le_bytes(take(bytes, 8));
        if version != VERSION {
            return Err(BadSegmentHeader::Version(version));
        }
        Ok(SegmentHeader {
            journal: u128::from_le_bytes(take(bytes, 16)),
            base: Offset::new(u64::from_le_bytes(take(bytes, 32))),
            base_bytes: u64::from_le_bytes(take(bytes, 40)),
            created_at: i64::from_le_bytes(take(bytes, 48)),
        })
    }

    /// What records of this segment carry.
    pub(crate) fn tag(bytes: &[u8; SEGMENT_HEADER]) -> u32 {
        u32::from_le_bytes(take(bytes, 60))
    }
}

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) first: Offset,
    pub(crate) events: u32,
    pub(crate) tag: u32,
    pub(crate) appended_at: i64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
    pub(crate) unsynced: u64,
}

impl RecordHeader {
    /// The mark that everything below `end` is durable and nothing follows in this segment.
    pub(crate) fn end_mark(end: Offset, tag: u32, appended_at: i64) -> RecordHeader {
        RecordHeader {
            body_len: 0,
            body_crc: 0,
            first: end,
            events: 0,
            tag,
            appended_at,
            time_min: 0,
            time_max: 0,
            unsynced: 0,
        }
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER] {
        let mut bytes = [0; RECORD_HEADER];
        put(&mut bytes, 0, RECORD_MAGIC);
        put(&mut bytes, 8, self.body_len.to_le_bytes());
        put(&mut bytes, 12, self.body_crc.to_le_bytes());
        put(&mut bytes, 16, self.first.get().to_le_bytes());
        put(&mut bytes, 24, self.events.to_le_bytes());
        put(&mut bytes, 28, self.tag.to_le_bytes());
        put(&mut bytes, 32, self.appended_at.to_le_bytes());
        put(&mut bytes, 40, self.time_min.to_le_bytes());
        put(&mut bytes, 48, self.time_max.to_le_bytes());
        let flags = if self.is_end_mark() { FLAG_END } else { 0 };
        // Larger numbers would claim less as durable than is true, which is the safe side.
        let word = (self.unsynced.min(UNSYNCED_MAX) << 8) | u64::from(flags);
        put(&mut bytes, 56, word.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[8..]);
        put(&mut bytes, 4, crc.to_le_bytes());
        bytes
    }

    /// `None` if these bytes are no record header of the segment with this tag (`None`: of any segment).
    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER], tag: Option<u32>) -> Option<RecordHeader> {
        if take::<4>(bytes, 0) != RECORD_MAGIC
            || u32::from_le_bytes(take(bytes, 4)) != crc32c::crc32c(&bytes[8..])
        {
            return None;
        }
        let word = u64::from_le_bytes(take(bytes, 56));
        let header = RecordHeader {
            body_len: u32::from_le_bytes(take(bytes, 8)),
            body_crc: u32::from_le_bytes(take(bytes, 12)),
            first: Offset::new(u64::from_le_bytes(take(bytes, 16))),
            events: u32::from_le_bytes(take(bytes, 24)),
            tag: u32::from_le_bytes(take(bytes, 28)),
            appended_at: i64::from_le_bytes(take(bytes, 32)),
            time_min: i64::from_le_bytes(take(bytes, 40)),
            time_max: i64::from_le_bytes(take(bytes, 48)),
            unsynced: word >> 8,
        };
        let flagged_end = word.to_le_bytes()[0] & FLAG_END != 0;
        let consistent = flagged_end == header.is_end_mark()
            && (!flagged_end || header.body_len == 0)
            && header.first.checked_add(u64::from(header.events)).is_some()
            && tag.is_none_or(|tag| tag == header.tag);
        consistent.then_some(header)
    }

    pub(crate) fn is_end_mark(&self) -> bool {
        self.events == 0
    }

    /// The offset after the last event. Cannot overflow: `decode` looked.
    pub(crate) fn end(&self) -> Offset {
        self.first + u64::from(self.events)
    }

    /// Bytes of header and body.
    pub(crate) fn stored_len(&self) -> u64 {
        RECORD_HEADER as u64 + u64::from(self.body_len)
    }

    /// Everything below this offset was durable when the record was written.
    pub(crate) fn proves_durable(&self) -> Offset {
        Offset::new(self.first.get().saturating_sub(self.unsynced))
    }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

fn take<const N: usize>(bytes: &[u8; 64], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        RecordHeader {
            body_len: 5,
            body_crc: 6,
            first: Offset::new(7),
            events: 8,
            tag: 9,
            appended_at: -10,
            time_min: 11,
            time_max: 12,
            unsynced: 3,
        }
    }

    #[test]
    fn record_header_comes_back_as_it_went_in() {
        let bytes = header().encode();
        assert_eq!(RecordHeader::decode(&bytes, Some(9)), Some(header()));
        assert_eq!(
            RecordHeader::decode(&bytes, Some(1)),
            None,
            "another segment's tag"
        );
        assert_eq!(header().proves_durable(), Offset::new(4));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let record = header().encode();
        let segment = SegmentHeader {
            journal: 1 << 100,
            base: Offset::new(5),
            base_bytes: 77,
            created_at: 9,
        };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
        for bit in 0..64 * 8 {
            let mut bytes = record;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&bytes, Some(9)), None, "bit {bit}");
            let mut bytes = segment.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn segment_names_sort_like_offsets_and_nothing_else_passes_for_one() {
        assert_eq!(
            parse_segment_name(&segment_name(Offset::new(42))),
            Some(Offset::new(42))
        );
        for other in [
            "42.seg",
            "00000000000000000042.sag",
            "LOCK",
            "99999999999999999999.seg",
            "+0000000000000000042.seg",
        ] {
            assert_eq!(parse_segment_name(other), None, "{other}");
        }
    }
}
