//! What stands in the files of a journal and `JournalView` does not tell: its id, bytes counted from its beginning, what
//! routes saved with their positions. The bytes are those drawn in `telemetryx-journal`, `format.rs` and `cursor/slot.rs`;
//! whatever does not look like them is shown as unknown, so a new version of a format costs a column, not the command.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::route::Books;

const SEGMENT_MAGIC: &[u8] = b"TXJSEG\r\n\x01\0\0\0";
const SEGMENT_HEADER: usize = 64;
const SLOT_MAGIC: &[u8] = b"TXJCUR\r\n\x01\0\0\0";
const SLOT_HEADER: usize = 48;
/// No slot is longer than its largest state and a block.
const SLOT_MAX: u64 = telemetryx_journal::MAX_STATE_BYTES as u64 + 4096;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// The journal's id.
    pub(super) journal: u128,
    /// Bytes of records in all segments before this one, since the journal was made.
    pub(super) base_bytes: u64,
}

/// Reads the header of a segment file.
pub(super) fn segment(path: &Path) -> Option<Segment> {
    let mut header = [0; SEGMENT_HEADER];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    let (covered, _) = header.split_at(60);
    let intact = header.starts_with(SEGMENT_MAGIC)
        && crc32c::crc32c(covered) == u32::from_le_bytes(take(&header, 60)?);
    intact.then_some(Segment {
        journal: u128::from_le_bytes(take(&header, 16)?),
        base_bytes: u64::from_le_bytes(take(&header, 40)?),
    })
}

/// Bytes of records in a segment that holds `bytes` that count.
pub(super) fn record_bytes(bytes: u64) -> u64 {
    bytes.saturating_sub(SEGMENT_HEADER as u64)
}

/// What a route saved with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    /// The position it belongs to.
    pub(super) position: u64,
    /// Bytes of records before the position, about.
    pub(super) bytes: u64,
    /// The books; `None` before the route's first commit.
    pub(super) books: Option<Books>,
    sequence: u64,
}

/// Reads the newer of a cursor's two slots.
pub(super) fn saved(folder: &Path, name: &str) -> Option<Saved> {
    ["a", "b"]
        .iter()
        .filter_map(|side| slot(&folder.join(format!("{name}.{side}"))))
        .max_by_key(|saved| saved.sequence)
}

fn slot(path: &Path) -> Option<Saved> {
    #[derive(Deserialize)]
    struct State {
        books: Books,
    }
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(SLOT_MAX).read_to_end(&mut bytes).ok()?;
    let length = u32::from_le_bytes(take(&bytes, 40)?) as usize;
    let covered = bytes.get(16..SLOT_HEADER + length)?;
    let intact = bytes.starts_with(SLOT_MAGIC)
        && crc32c::crc32c(covered) == u32::from_le_bytes(take(&bytes, 12)?);
    let state = bytes.get(SLOT_HEADER..SLOT_HEADER + length)?;
    intact.then_some(Saved {
        sequence: u64::from_le_bytes(take(&bytes, 16)?),
        position: u64::from_le_bytes(take(&bytes, 24)?),
        bytes: u64::from_le_bytes(take(&bytes, 32)?),
        books: serde_json::from_slice(state)
            .ok()
            .map(|State { books }| books),
    })
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use telemetryx_journal::{Journal, JournalOptions, Record};

    use super::*;

    #[test]
    fn tells_what_the_journal_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path(), JournalOptions::default()).unwrap();
        let position = journal
            .append_blocking(Record::new(vec![1; 100], 3, 0, 0))
            .unwrap();
        let mut cursor = journal.cursor("store").unwrap();
        let cursors = dir.path().join("cursors");
        let fresh = saved(&cursors, "store").unwrap();
        assert_eq!((fresh.position, fresh.books), (0, None));

        let books = Books {
            delivered: 2,
            dead: 1,
            ..Books::default()
        };
        let state = serde_json::json!({ "books": books, "sink": { "large": [1, 2] } });
        cursor
            .commit(position.end(), state.to_string().as_bytes())
            .unwrap();
        let committed = saved(&cursors, "store").unwrap();
        assert_eq!(
            (committed.position, committed.bytes, committed.books),
            (3, 164, Some(books))
        );

        let header = segment(&dir.path().join("00000000000000000000.seg")).unwrap();
        assert_eq!((header.journal, header.base_bytes), (journal.id(), 0));
        std::fs::write(cursors.join("store.a"), "garbage").unwrap();
        std::fs::write(cursors.join("store.b"), vec![255; 9000]).unwrap();
        assert_eq!(saved(&cursors, "store"), None);
        assert_eq!(segment(&cursors.join("store.b")), None);
    }
}
