//! The table of segments, shared by the writer (which alone changes it) and any number of readers.
//!
//! Files are opened when someone needs them and closed when nobody does, so that the number of descriptors does not grow with
//! the journal.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::format::{SEGMENT_HEADER, segment_name};
use crate::offset::Offset;
use crate::storage::{Storage, StorageFile};

/// A record about each this many bytes is remembered, so that seeking reads at most this much.
const INDEX_STEP: u64 = 1 << 20;

/// One segment file, as far as it counts.
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) base: Offset,
    /// Record bytes in all segments before.
    pub(crate) base_bytes: u64,
    pub(crate) created_at: i64,
    /// What its records carry; `None` if neither its header nor any record could tell.
    pub(crate) tag: Option<u32>,
    /// The offset after its last durable event, and the file position after its last durable byte. One lock, because a
    /// reader that saw one without the other would take the difference for damage.
    extent: Mutex<(Offset, u64)>,
    /// Not before any record in it was appended.
    pub(crate) last_appended_at: AtomicI64,
    index: Mutex<Vec<Mark>>,
    file: Mutex<Weak<OpenFile>>,
}

/// A remembered place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) offset: Offset,
    pub(crate) position: u64,
    pub(crate) appended_at: i64,
}

/// What stays open while someone holds it.
pub(crate) type OpenFile = Arc<dyn StorageFile>;

impl Segment {
    pub(crate) fn new(base: Offset, base_bytes: u64, created_at: i64, tag: Option<u32>) -> Segment {
        Segment {
            name: segment_name(base),
            base,
            base_bytes,
            created_at,
            tag,
            extent: Mutex::new((base, SEGMENT_HEADER as u64)),
            last_appended_at: AtomicI64::new(created_at),
            index: Mutex::new(Vec::new()),
            file: Mutex::new(Weak::new()),
        }
    }

    /// How far it counts: in events and in bytes of the file.
    pub(crate) fn extent(&self) -> (Offset, u64) {
        *self.extent.lock()
    }

    /// Makes more of the file count.
    pub(crate) fn publish(&self, end: Offset, length: u64) {
        *self.extent.lock() = (end, length);
    }

    /// Record bytes that count.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.extent().1.saturating_sub(SEGMENT_HEADER as u64)
    }

    pub(crate) fn open(&self, storage: &dyn Storage) -> io::Result<Arc<OpenFile>> {
        let mut slot = self.file.lock();
        if let Some(file) = slot.upgrade() {
            return Ok(file);
        }
        let file = Arc::new(storage.open(&self.name)?);
        *slot = Arc::downgrade(&file);
        Ok(file)
    }

    pub(crate) fn keep_open(&self, file: &Arc<OpenFile>) {
        *self.file.lock() = Arc::downgrade(file);
    }

    /// Remembers a record, if it lies far enough behind the last one remembered.
    pub(crate) fn remember(&self, mark: Mark) {
        let mut index = self.index.lock();
        let last = index
            .last()
            .map_or(SEGMENT_HEADER as u64, |last| last.position);
        if mark.position >= last + INDEX_STEP {
            index.push(mark);
        }
    }

    /// The last remembered record that begins at or before an offset.
    pub(crate) fn nearest(&self, offset: Offset) -> Mark {
        self.last_mark(|mark| mark.offset <= offset)
    }

    /// The last remembered record appended before a time.
    pub(crate) fn nearest_before_time(&self, time: i64) -> Mark {
        self.last_mark(|mark| mark.appended_at < time)
    }

    fn last_mark(&self, holds: impl Fn(&Mark) -> bool) -> Mark {
        let index = self.index.lock();
        let after = index.partition_point(|mark| holds(mark));
        let found = after.checked_sub(1).and_then(|at| index.get(at)).copied();
        found.unwrap_or(Mark {
            offset: self.base,
            position: SEGMENT_HEADER as u64,
            appended_at: self.created_at,
        })
    }

    /// About where, in record bytes since the journal began, an offset stands: between the two marks around it.
    fn estimate(&self, offset: Offset) -> u64 {
        let (end, length) = self.extent();
        let low = self.nearest(offset);
        let high = {
            let index = self.index.lock();
            index
                .get(index.partition_point(|mark| mark.offset <= offset))
                .copied()
        };
        let (high_offset, high_position) =
            high.map_or((end, length), |mark| (mark.offset, mark.position));
        let events = high_offset.since(low.offset).max(1);
        let bytes = high_position.saturating_sub(low.position);
        let passed = u128::from(bytes) * u128::from(offset.since(low.offset).min(events))
            / u128::from(events);
        let position = low.position + u64::try_from(passed).unwrap_or(bytes);
        self.base_bytes + position.saturating_sub(SEGMENT_HEADER as u64)
    }
}

/// All segments, oldest first. The end of each but the last is the base of the next.
#[derive(Default)]
pub(crate) struct Segments {
    list: RwLock<VecDeque<Arc<Segment>>>,
}

impl Segments {
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        self.list.write().push_back(segment);
    }

    pub(crate) fn pop_front(&self) {
        self.list.write().pop_front();
    }

    /// Takes a segment that never held anything off the end again.
    pub(crate) fn pop_back(&self) {
        self.list.write().pop_back();
    }

    pub(crate) fn first(&self) -> Option<Arc<Segment>> {
        self.list.read().front().cloned()
    }

    pub(crate) fn second(&self) -> Option<Arc<Segment>> {
        self.list.read().get(1).cloned()
    }

    pub(crate) fn last(&self) -> Option<Arc<Segment>> {
        self.list.read().back().cloned()
    }

    pub(crate) fn snapshot(&self) -> Vec<Arc<Segment>> {
        self.list.read().iter().cloned().collect()
    }

    pub(crate) fn count_and_bytes(&self) -> (usize, u64) {
        let list = self.list.read();
        (
            list.len(),
            list.iter().map(|segment| segment.extent().1).sum(),
        )
    }

    /// The segment that holds an offset, or will: the last one whose base is not beyond it. `None` before the first.
    pub(crate) fn holding(&self, offset: Offset) -> Option<Arc<Segment>> {
        let list = self.list.read();
        let after = list.partition_point(|segment| segment.base <= offset);
        after.checked_sub(1).and_then(|at| list.get(at)).cloned()
    }

    /// The segment after the one with this base.
    pub(crate) fn after(&self, base: Offset) -> Option<Arc<Segment>> {
        let list = self.list.read();
        list.get(list.partition_point(|segment| segment.base <= base))
            .cloned()
    }

    /// The last segment created before a time, or the first.
    pub(crate) fn created_before(&self, time: i64) -> Option<Arc<Segment>> {
        let list = self.list.read();
        let after = list.partition_point(|segment| segment.created_at < time);
        list.get(after.saturating_sub(1)).cloned()
    }

    /// About where, in record bytes since the journal began, an offset stands.
    pub(crate) fn estimate_bytes(&self, offset: Offset) -> u64 {
        match self.holding(offset).or_else(|| self.first()) {
            Some(segment) if offset <= segment.base => segment.base_bytes,
            Some(segment) => segment.estimate(offset),
            None => 0,
        }
    }
}
