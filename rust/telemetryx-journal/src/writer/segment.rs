//! The segment being written: creating it, appending to it, sealing it. It reports failures and decides nothing.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::format::{RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentHeader};
use crate::offset::Offset;
use crate::segments::{OpenFile, Segment};
use crate::storage::{Storage, StorageFile, is_no_space, write_all_at};

/// How far ahead of the records zeros are laid out, and up to which size of group that is worth it.
///
/// `fdatasync` after a write into reserved but never written space must also record in the file system's journal that the
/// space is written now; into space written before it need not. Measured on ext4 (virtio disk, 2 cores; p50 of 1000 to 2000
/// write + `fdatasync`, microseconds):
///
/// | group   | growing file | `fallocate` only | zeros 512 KiB ahead | whole segment of zeros |
/// | ------- | ------------ | ---------------- | ------------------- | ---------------------- |
/// | 4 KiB   | 194          | 191              | 103                 | 115                    |
/// | 13 KiB  | 171          | 167              | 103                 | 120                    |
/// | 64 KiB  | 202          | 173              | 107                 | 126                    |
/// | 256 KiB | 273          | 286              | 293                 | 158                    |
/// | 1 MiB   | 586          | 591              | 578                 | 730                    |
///
/// So zeros ahead nearly halve the latency of small groups, and `fallocate` alone gains nothing but reserved space. Zeros for
/// the whole segment at once would stall appends for 100 to 400 ms at each roll; 1 MiB and more ahead show in the p99. Large
/// groups write more than they would save, so they go without.
const ZEROS_AHEAD: u64 = 512 << 10;
const ZEROS_WORTH: u64 = 32 << 10;

static ZEROS: [u8; ZEROS_AHEAD as usize] = [0; ZEROS_AHEAD as usize];

/// What a segment's name ends in until it has its header.
pub(crate) const UNFINISHED: &str = ".new";

/// Owns the newest segment's file.
pub(crate) struct SegmentWriter {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) tag: u32,
    /// Where the next record goes.
    pub(crate) position: u64,
    /// The offset of the next record.
    pub(crate) next: Offset,
    /// Space reserved for it.
    capacity: u64,
    /// Up to here zeros (or records) were written.
    zeroed: u64,
}

impl SegmentWriter {
    /// Makes a new segment, durable itself and in its directory, before anything in it can be acknowledged. `wanted` bytes are
    /// reserved, or as much as there is room for, at least `needed`.
    pub(crate) fn create(
        storage: &dyn Storage,
        header: &SegmentHeader,
        wanted: u64,
        needed: u64,
    ) -> io::Result<SegmentWriter> {
        let bytes = header.encode();
        let tag = SegmentHeader::tag(&bytes);
        let segment = Arc::new(Segment::new(
            header.base,
            header.base_bytes,
            header.created_at,
            Some(tag),
        ));
        // Under another name first, so that a segment never exists without its header. A segment of the same name has nothing
        // durable in it (or its base would not be this one) and is replaced in one step.
        let unfinished = format!("{}{UNFINISHED}", segment.name);
        match storage.remove(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = Arc::new(storage.create_new(&unfinished)?);
        let made = reserve(&**file, wanted.max(needed), needed).and_then(|capacity| {
            write_all_at(&**file, &mut [IoSlice::new(&bytes)], 0).map_err(|(_, error)| error)?;
            file.sync_data()?;
            storage.rename(&unfinished, &segment.name)?;
            storage.sync_dir("")?;
            Ok(capacity)
        });
        let capacity = match made {
            Ok(capacity) => capacity,
            Err(error) => {
                match storage.remove(&unfinished) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::debug!(%error, unfinished, "could not remove the unfinished segment");
                    }
                    _ => {}
                }
                return Err(error);
            }
        };
        segment.keep_open(&file);
        Ok(SegmentWriter {
            segment,
            file,
            tag,
            position: SEGMENT_HEADER as u64,
            next: header.base,
            capacity,
            zeroed: SEGMENT_HEADER as u64,
        })
    }

    /// Whether these bytes still belong into this segment. The first record always does.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.is_empty() || self.position + bytes + RECORD_HEADER as u64 <= self.capacity
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.position == SEGMENT_HEADER as u64
    }

    /// Writes at the present position without moving it; on failure says how many bytes went out.
    pub(crate) fn write(
        &mut self,
        slices: &mut [IoSlice<'_>],
        bytes: u64,
    ) -> Result<(), (u64, io::Error)> {
        let end = self.position + bytes;
        if end > self.zeroed {
            if bytes <= ZEROS_WORTH {
                self.lay_zeros(end);
            } else {
                self.zeroed = end;
            }
        }
        write_all_at(&**self.file, slices, self.position)
    }

    /// Best effort: without zeros everything works, slower.
    fn lay_zeros(&mut self, needed: u64) {
        self.zeroed = self.zeroed.max(self.position);
        let ahead = ZEROS_AHEAD.min(self.capacity.saturating_sub(self.zeroed));
        let zeros = ZEROS.get(..ahead as usize).unwrap_or_default();
        if let Err((_, error)) = write_all_at(&**self.file, &mut [IoSlice::new(zeros)], self.zeroed)
        {
            tracing::debug!(%error, "could not lay out zeros ahead");
        }
        self.zeroed = (self.zeroed + ahead).max(needed);
    }

    /// Ends the segment. Everything before must be durable already: the mark says so.
    pub(crate) fn seal(&mut self, appended_at: i64) -> io::Result<()> {
        let length = write_end_mark(
            &**self.file,
            self.tag,
            self.position,
            self.next,
            appended_at,
        )?;
        self.position = length;
        self.segment.publish(self.next, length);
        Ok(())
    }
}

/// Marks where a segment ends and cuts off what follows; returns the file's length. A full disk only costs the mark.
pub(crate) fn write_end_mark(
    file: &dyn StorageFile,
    tag: u32,
    position: u64,
    end: Offset,
    appended_at: i64,
) -> io::Result<u64> {
    let mark = RecordHeader::end_mark(end, tag, appended_at).encode();
    let length = match write_all_at(file, &mut [IoSlice::new(&mark)], position) {
        Ok(()) => position + RECORD_HEADER as u64,
        Err((_, error)) if is_no_space(&error) => position,
        Err((_, error)) => return Err(error),
    };
    file.set_len(length)?;
    file.sync_data()?;
    Ok(length)
}

/// Reserves `wanted` bytes, or less if the disk is nearly full, but at least `needed`.
fn reserve(file: &dyn StorageFile, wanted: u64, needed: u64) -> io::Result<u64> {
    let mut bytes = wanted;
    loop {
        match file.preallocate(bytes) {
            Ok(()) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(wanted),
            Err(error) if is_no_space(&error) && bytes > needed => bytes = (bytes / 2).max(needed),
            Err(error) => return Err(error),
        }
    }
}
