//! Reading in order from any offset up to the durable end. Damage and expired events come as gaps, never as silence.

use std::io;
use std::sync::Arc;

use crate::error::ReadError;
use crate::offset::Offset;
use crate::record::{Chunk, Entry, GapReason, StoredRecord};
use crate::recovery::Surveyed;
use crate::scan::{Found, Scanner, Step};
use crate::segments::{Mark, OpenFile, Segment, Segments};
use crate::shared::{DamageBook, Shared};
use crate::status::{Damage, DamageReason};
use crate::storage::Storage;

/// Reads a journal in order. Synchronous: it reads from the page cache. Holds one file open.
pub struct Reader {
    source: Source,
    /// The next offset to hand out.
    position: Offset,
    current: Option<Open>,
    salvage: bool,
}

/// Where a reader reads: a live journal, or a view of its files.
#[derive(Clone)]
pub(crate) enum Source {
    Live(Arc<Shared>),
    View(Arc<Still>),
}

/// A journal's files as they were when a view was opened.
pub(crate) struct Still {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) segments: Segments,
    pub(crate) damage: DamageBook,
    pub(crate) found: Surveyed,
}

/// The segment being read.
struct Open {
    segment: Arc<Segment>,
    /// Keeps the descriptor shared with other readers.
    _file: Arc<OpenFile>,
    scanner: Scanner,
    /// The offset that should stand at the scanner's position; not beyond the reader's.
    expected: Offset,
    /// Where the segment ended when last looked at, and whether that is final.
    end: Offset,
    sealed: bool,
}

impl Source {
    fn segments(&self) -> &Segments {
        match self {
            Source::Live(shared) => &shared.segments,
            Source::View(still) => &still.segments,
        }
    }

    fn storage(&self) -> &dyn Storage {
        match self {
            Source::Live(shared) => &*shared.storage,
            Source::View(still) => &*still.storage,
        }
    }

    fn damage(&self) -> &DamageBook {
        match self {
            Source::Live(shared) => &shared.damage,
            Source::View(still) => &still.damage,
        }
    }

    fn end(&self) -> Offset {
        match self {
            Source::Live(shared) => shared.end.get(),
            Source::View(still) => still.found.end,
        }
    }

    fn start(&self) -> Offset {
        match self {
            Source::Live(shared) => shared.start(),
            Source::View(still) => still.found.start,
        }
    }
}

impl Reader {
    pub(crate) fn new(source: Source, from: Offset) -> Result<Reader, ReadError> {
        let mut reader = Reader {
            source,
            position: from,
            current: None,
            salvage: false,
        };
        reader.seek(from)?;
        Ok(reader)
    }

    /// The next offset to be handed out. Inside a record, if the reader was asked to start there.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Goes to any offset up to the durable end.
    pub fn seek(&mut self, to: Offset) -> Result<(), ReadError> {
        let end = self.source.end();
        if to > end {
            return Err(ReadError::Beyond { asked: to, end });
        }
        self.position = to;
        self.current = None;
        Ok(())
    }

    /// Whether blocks that the device cannot read shall count as damaged (and so become a gap) instead of failing the read.
    /// Off at first: an I/O error may pass, a gap that was handed out does not come back.
    pub fn salvage(&mut self, on: bool) {
        self.salvage = on;
        self.current = None;
    }

    /// Reads on: about `max_bytes` of bodies, at least one entry unless the reader stands at the durable end. If the reader was
    /// asked to start inside a record it returns the whole record.
    pub fn next(&mut self, max_bytes: usize) -> Result<Chunk, ReadError> {
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        while bytes < max_bytes.max(1) {
            let entry = match self.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                // What was read so far is handed out; the error comes again if it stays.
                Err(_) if !chunk.is_empty() => break,
                Err(error) => return Err(error),
            };
            self.position = entry.end();
            if let Entry::Record(record) = &entry {
                bytes += record.body.len();
            }
            chunk.entries.push(entry);
        }
        Ok(chunk)
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        loop {
            if self.current.is_none() {
                if self.position >= self.source.end() {
                    return Ok(None);
                }
                if let Some(expired) = self.enter_segment()? {
                    return Ok(Some(expired));
                }
            }
            let Some(open) = &mut self.current else {
                return Ok(None);
            };
            if self.position >= open.end && !open.look_again(self.source.segments()) {
                if open.sealed {
                    self.current = None;
                    continue;
                }
                return Ok(None);
            }
            let read = open.advance(self.position, self.source.damage());
            match read.map_err(|source| io_error(&open.segment, source))? {
                Some(entry) => return Ok(Some(entry)),
                None => continue,
            }
        }
    }

    /// Opens the segment that holds the position; a gap if retention removed it.
    fn enter_segment(&mut self) -> Result<Option<Entry>, ReadError> {
        loop {
            let Some(segment) = self.source.segments().holding(self.position) else {
                let to = self.source.start();
                return Ok((to > self.position).then_some(Entry::Gap {
                    from: self.position,
                    to,
                    reason: GapReason::Expired,
                }));
            };
            let file = match segment.open(self.source.storage()) {
                // Removed by retention between the look into the table and here: then the table has changed, too.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && self
                            .source
                            .segments()
                            .holding(self.position)
                            .is_none_or(|now| !Arc::ptr_eq(&now, &segment)) =>
                {
                    continue;
                }
                file => file.map_err(|source| io_error(&segment, source))?,
            };
            let mut open = Open::new(segment, file, self.position, self.salvage);
            open.look_again(self.source.segments());
            self.current = Some(open);
            return Ok(None);
        }
    }
}

fn io_error(segment: &Segment, source: io::Error) -> ReadError {
    ReadError::Io {
        segment: segment.name.clone(),
        source,
    }
}

impl Open {
    fn new(segment: Arc<Segment>, file: Arc<OpenFile>, position: Offset, salvage: bool) -> Open {
        let Mark {
            offset, position, ..
        } = segment.nearest(position);
        let mut scanner = Scanner::new(Arc::clone(&*file), segment.tag, position, position);
        scanner.salvage = salvage;
        Open {
            end: segment.base,
            sealed: false,
            segment,
            _file: file,
            scanner,
            expected: offset,
        }
    }

    /// Looks how far the segment goes now; whether that is further than before.
    fn look_again(&mut self, segments: &Segments) -> bool {
        // In this order: once there is a next segment, the extent of this one is final.
        let next = segments.after(self.segment.base);
        let (end, length) = self.segment.extent();
        let end = next.as_ref().map_or(end, |next| next.base);
        let further = end > self.end;
        self.end = end;
        self.sealed = next.is_some();
        self.scanner.limit = length;
        further
    }

    /// One step on towards `wanted` and past it: an entry to hand out, or `None` if it was before `wanted`.
    fn advance(&mut self, wanted: Offset, damage: &DamageBook) -> io::Result<Option<Entry>> {
        let end = self.end;
        let at = self.scanner.position;
        let (to, reason) = match self.scanner.step(self.expected, wanted)? {
            Step::Record(found)
                if found.header.first == self.expected && found.header.end() <= end =>
            {
                return Ok(self.take(found, wanted));
            }
            // Intact, but what should stand before it is not there (or it is what a failed sync left behind): look at it again
            // after the gap.
            Step::Record(found) => {
                let to = found.header.first.min(end);
                if to > self.expected {
                    self.scanner.position = found.position;
                }
                (to, DamageReason::Missing)
            }
            Step::End => (end, DamageReason::Missing),
            Step::Bad(reason) => {
                let limit = self.scanner.limit;
                match self.scanner.resync(at + 1, limit, self.expected, end)? {
                    Some(header) => (header.first, reason),
                    None => {
                        self.scanner.position = limit;
                        (end, reason)
                    }
                }
            }
        };
        Ok(self.gap(at, to, reason, wanted, damage))
    }

    fn take(&mut self, found: Found, wanted: Offset) -> Option<Entry> {
        let header = found.header;
        self.expected = header.end();
        self.segment.remember(Mark {
            offset: header.first,
            position: found.position,
            appended_at: header.appended_at,
        });
        (header.end() > wanted).then(|| {
            Entry::Record(StoredRecord {
                first: header.first,
                events: header.events,
                appended_at: header.appended_at,
                time_min: header.time_min,
                time_max: header.time_max,
                body: found.body,
            })
        })
    }

    fn gap(
        &mut self,
        byte: u64,
        to: Offset,
        reason: DamageReason,
        wanted: Offset,
        damage: &DamageBook,
    ) -> Option<Entry> {
        let from = self.expected;
        self.expected = to;
        // Broken bytes between two records that follow each other cost nothing.
        if to > from {
            damage.report(Damage {
                segment: self.segment.name.clone(),
                byte,
                from,
                to,
                reason,
            });
        }
        let from = from.max(wanted);
        (to > from).then_some(Entry::Gap {
            from,
            to,
            reason: GapReason::Damaged,
        })
    }
}
