//! Read-only access for tools, to the directory of a stopped or running service. Takes no lock and changes nothing.
//!
//! Of a running journal a view shows what was on the disk when it was opened, possibly a few records not yet acknowledged.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::cursor::{self, CursorInfo};
use crate::error::{OpenError, ReadError};
use crate::format::SEGMENT_HEADER;
use crate::offset::Offset;
use crate::reader::{Reader, Source, Still};
use crate::record::Entry;
use crate::recovery;
use crate::segments::Segments;
use crate::shared::DamageBook;
use crate::status::Damage;
use crate::storage::{DiskStorage, Storage};

/// A journal's files, to look at.
#[derive(Clone)]
pub struct JournalView {
    still: Arc<Still>,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file's name.
    pub name: String,
    /// The offset of its first event.
    pub base: Offset,
    /// The offset after its last.
    pub end: Offset,
    /// Bytes that count, headers included.
    pub bytes: u64,
    /// When it was begun: wall clock, nanoseconds since the epoch.
    pub created_at: i64,
    /// Whether there is a newer one.
    pub sealed: bool,
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes read.
    pub bytes: u64,
    /// Bytes to read in all.
    pub bytes_total: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Intact records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Every damaged place. Empty: all is as it was written.
    pub damage: Vec<Damage>,
}

impl JournalView {
    /// Looks at a directory. One without segments is an empty journal; one that does not exist is an error.
    pub fn open(dir: &Path) -> Result<JournalView, OpenError> {
        if !dir.is_dir() {
            let error = io::Error::from(io::ErrorKind::NotFound);
            return Err(OpenError::io(format!("opening {}", dir.display()))(error));
        }
        JournalView::open_with(Arc::new(DiskStorage::existing(dir)))
    }

    /// The same for any storage.
    pub fn open_with(storage: Arc<dyn Storage>) -> Result<JournalView, OpenError> {
        let segments = Segments::default();
        let damage = DamageBook::default();
        let found = recovery::survey(&*storage, &segments, &damage)?;
        Ok(JournalView {
            still: Arc::new(Still {
                storage,
                segments,
                damage,
                found,
            }),
        })
    }

    /// The journal's name, [`Journal::id`](crate::Journal::id); `None` if no segment says it.
    #[must_use]
    pub fn id(&self) -> Option<u128> {
        self.still.found.journal
    }

    /// Bytes of records from the journal's beginning to its end, also of those that retention has removed.
    #[must_use]
    pub fn end_bytes(&self) -> u64 {
        let last = self.still.segments.last();
        last.map_or(0, |last| {
            last.base_bytes + last.extent().1.saturating_sub(SEGMENT_HEADER as u64)
        })
    }

    /// The oldest offset there is.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.still.found.start
    }

    /// Where the journal ends.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.still.found.end
    }

    /// The segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let all = self.still.segments.snapshot();
        let newest = all.last().map(|last| last.base);
        let info = |segment: &Arc<crate::segments::Segment>| {
            let (end, bytes) = segment.extent();
            SegmentInfo {
                name: segment.name.clone(),
                base: segment.base,
                end,
                bytes,
                created_at: segment.created_at,
                sealed: Some(segment.base) != newest,
            }
        };
        all.iter().map(info).collect()
    }

    /// The cursors as they stand on disk now.
    pub fn cursors(&self) -> io::Result<Vec<CursorInfo>> {
        cursor::list(&*self.still.storage)
    }

    /// Damage noticed so far: at the ends of segments when the view was opened, and wherever was read since.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        self.still.damage.snapshot().0
    }

    /// Reads from an offset.
    pub fn reader(&self, from: Offset) -> Result<Reader, ReadError> {
        Reader::new(Source::View(Arc::clone(&self.still)), from)
    }

    /// Reads everything and checks every checksum. Calls `progress` every MiB or so.
    pub fn verify(
        &self,
        mut progress: impl FnMut(VerifyProgress),
    ) -> Result<VerifyReport, ReadError> {
        const CHUNK_BYTES: usize = 1 << 20;
        let mut reader = self.reader(self.start())?;
        reader.salvage(true);
        let mut report = VerifyReport::default();
        let mut state = VerifyProgress {
            bytes: 0,
            bytes_total: self.still.segments.count_and_bytes().1,
        };
        loop {
            progress(state);
            let chunk = reader.next(CHUNK_BYTES)?;
            if chunk.is_empty() {
                break;
            }
            for entry in &chunk.entries {
                if let Entry::Record(record) = entry {
                    report.records += 1;
                    report.events += u64::from(record.events);
                    report.bytes += record.body.len() as u64;
                    state.bytes += (record.body.len() + crate::format::RECORD_HEADER) as u64;
                }
            }
        }
        state.bytes = state.bytes_total;
        progress(state);
        report.damage = self.damage();
        Ok(report)
    }
}
