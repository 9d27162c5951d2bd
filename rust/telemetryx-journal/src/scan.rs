//! Reading records out of one segment file: the single piece of code that decides what is an intact record.
//!
//! Used by readers, recovery, verification and the read-back after a failed sync. It knows nothing of durable ends or
//! gaps between segments; it says what stands at a position, and finds the next intact record after a bad one.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::format::{RECORD_HEADER, RECORD_MAGIC, RecordHeader};
use crate::offset::Offset;
use crate::status::DamageReason;
use crate::storage::{StorageFile, read_full_at};

/// A good size for one read: large enough to make the call cheap, small enough to stay in the cache.
pub(crate) const READ_BYTES: usize = 256 << 10;

/// Walks one segment file.
pub(crate) struct Scanner {
    file: Arc<dyn StorageFile>,
    /// What records must carry; `None` takes those of any segment (when the segment's own header is lost).
    tag: Option<u32>,
    /// Whether unreadable blocks are taken for damaged ones, instead of failing.
    pub(crate) salvage: bool,
    /// Where the next record should stand.
    pub(crate) position: u64,
    /// Bytes from here on do not count.
    pub(crate) limit: u64,
    window: Window,
}

/// Part of the file in memory. Bodies handed out are slices of it.
#[derive(Default)]
struct Window {
    bytes: Bytes,
    start: u64,
    filled: usize,
}

/// What stands at a position.
pub(crate) enum Step {
    Record(Found),
    /// Something that is no intact record.
    Bad(DamageReason),
    /// The limit.
    End,
}

/// An intact record (or end mark). `body` is empty if it was to be skipped.
pub(crate) struct Found {
    pub(crate) position: u64,
    pub(crate) header: RecordHeader,
    pub(crate) body: Bytes,
}

impl Scanner {
    pub(crate) fn new(
        file: Arc<dyn StorageFile>,
        tag: Option<u32>,
        position: u64,
        limit: u64,
    ) -> Scanner {
        Scanner {
            file,
            tag,
            salvage: false,
            position,
            limit,
            window: Window::default(),
        }
    }

    /// Reads what stands at `position` and, if it is a record whose first event is not before `expected`, moves past it.
    /// The body of a record that ends at or before `wanted` is neither read nor checked.
    pub(crate) fn step(&mut self, expected: Offset, wanted: Offset) -> io::Result<Step> {
        let position = self.position;
        if position >= self.limit {
            return Ok(Step::End);
        }
        let Some(header) = self.header_at(position)? else {
            return Ok(Step::Bad(DamageReason::RecordHeader));
        };
        if header.first < expected || position.saturating_add(header.stored_len()) > self.limit {
            return Ok(Step::Bad(DamageReason::RecordHeader));
        }
        let body = if header.end() <= wanted {
            Bytes::new()
        } else {
            match self.body_at(position, &header)? {
                Some(body) => body,
                None => return Ok(Step::Bad(DamageReason::RecordBody)),
            }
        };
        self.position = position + header.stored_len();
        Ok(Step::Record(Found {
            position,
            header,
            body,
        }))
    }

    /// Searches `from .. until` for an intact record that lies within the offsets `expected ..= end`, and moves before it.
    pub(crate) fn resync(
        &mut self,
        from: u64,
        until: u64,
        expected: Offset,
        end: Offset,
    ) -> io::Result<Option<RecordHeader>> {
        let until = until.min(self.limit);
        let mut position = from;
        while position < until {
            let Some(at) = self.load(position, RECORD_HEADER)? else {
                return Ok(None);
            };
            let view = self
                .window
                .bytes
                .get(at..self.window.filled)
                .unwrap_or_default();
            // A header must fit behind the candidate; the last 63 bytes are looked at again with what follows them.
            let view = view
                .get(..view.len() - (RECORD_HEADER - 1))
                .unwrap_or_default();
            match find_byte(view, RECORD_MAGIC[0]) {
                None => position += view.len() as u64,
                Some(ahead) => {
                    position += ahead as u64;
                    if let Some(header) = self.intact_at(position, expected, end)? {
                        self.position = position;
                        return Ok(Some(header));
                    }
                    position += 1;
                }
            }
        }
        Ok(None)
    }

    fn intact_at(
        &mut self,
        position: u64,
        expected: Offset,
        end: Offset,
    ) -> io::Result<Option<RecordHeader>> {
        let Some(header) = self.header_at(position)? else {
            return Ok(None);
        };
        let in_range = header.first >= expected && header.end() <= end;
        if !in_range || position.saturating_add(header.stored_len()) > self.limit {
            return Ok(None);
        }
        Ok(self.body_at(position, &header)?.map(|_| header))
    }

    fn header_at(&mut self, position: u64) -> io::Result<Option<RecordHeader>> {
        let Some(at) = self.load(position, RECORD_HEADER)? else {
            return Ok(None);
        };
        let bytes = self.window.bytes.get(at..at + RECORD_HEADER);
        let header = bytes.and_then(|bytes| <&[u8; RECORD_HEADER]>::try_from(bytes).ok());
        Ok(header.and_then(|bytes| RecordHeader::decode(bytes, self.tag)))
    }

    /// The body behind a header that is known to fit below the limit, if its checksum holds.
    fn body_at(&mut self, position: u64, header: &RecordHeader) -> io::Result<Option<Bytes>> {
        let length = header.body_len as usize;
        let Some(at) = self.load(position, RECORD_HEADER + length)? else {
            return Ok(None);
        };
        let body = self
            .window
            .bytes
            .slice(at + RECORD_HEADER..at + RECORD_HEADER + length);
        Ok((crc32c::crc32c(&body) == header.body_crc).then_some(body))
    }

    /// Where in the window `position` stands, with `length` bytes behind it; `None` if the limit or the file ends before.
    fn load(&mut self, position: u64, length: usize) -> io::Result<Option<usize>> {
        if position.saturating_add(length as u64) > self.limit {
            return Ok(None);
        }
        if let Some(at) = self.window.find(position, length) {
            return Ok(Some(at));
        }
        let available = usize::try_from(self.limit - position).unwrap_or(usize::MAX);
        let wanted = READ_BYTES.max(length).min(available);
        self.window
            .refill(&*self.file, position, wanted, self.salvage)?;
        Ok(self.window.find(position, length))
    }
}

impl Window {
    fn find(&self, position: u64, length: usize) -> Option<usize> {
        let at = usize::try_from(position.checked_sub(self.start)?).ok()?;
        (at.checked_add(length)? <= self.filled).then_some(at)
    }

    fn refill(
        &mut self,
        file: &dyn StorageFile,
        position: u64,
        wanted: usize,
        salvage: bool,
    ) -> io::Result<()> {
        // Taken back without clearing if nobody holds a slice any more.
        let mut bytes = match std::mem::take(&mut self.bytes).try_into_mut() {
            Ok(bytes) if bytes.len() >= wanted => bytes,
            _ => BytesMut::zeroed(wanted),
        };
        self.filled = 0;
        let target = &mut bytes[..wanted];
        let filled = match read_full_at(file, target, position) {
            Err(error) if salvage && is_unreadable(&error) => {
                read_around_bad_blocks(file, target, position)?
            }
            filled => filled?,
        };
        self.bytes = bytes.freeze();
        self.start = position;
        self.filled = filled;
        Ok(())
    }
}

fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Reads block by block; a block that the device cannot read counts as zeros, and so fails its checksum.
fn read_around_bad_blocks(
    file: &dyn StorageFile,
    target: &mut [u8],
    position: u64,
) -> io::Result<usize> {
    const BLOCK: usize = 4096;
    let mut filled = 0;
    while filled < target.len() {
        let at = position + filled as u64;
        let to_boundary = BLOCK - (at % BLOCK as u64) as usize;
        let stop = target.len().min(filled + to_boundary);
        let block = &mut target[filled..stop];
        match read_full_at(file, block, at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if is_unreadable(&error) => {
                tracing::error!(at, %error, "the device cannot read a block");
                block.fill(0);
                filled = stop;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The first place of a byte. Blocks without it are passed over with a loop that the compiler can vectorise.
fn find_byte(bytes: &[u8], wanted: u8) -> Option<usize> {
    const BLOCK: usize = 256;
    let mut passed = 0;
    for block in bytes.chunks(BLOCK) {
        if block
            .iter()
            .fold(false, |found, byte| found | (*byte == wanted))
        {
            return block
                .iter()
                .position(|byte| *byte == wanted)
                .map(|at| passed + at);
        }
        passed += block.len();
    }
    None
}

/// The position after the last byte that is not zero in `from .. to`, or `from`.
pub(crate) fn content_end(file: &dyn StorageFile, from: u64, to: u64) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut end = to;
    while end > from {
        let start = end.saturating_sub(READ_BYTES as u64).max(from);
        let block = &mut buffer[..(end - start) as usize];
        let read = read_full_at(file, block, start)?;
        let block = &block[..read];
        if block.iter().fold(0, |all, byte| all | byte) != 0 {
            let last = block.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_wherever_it_stands() {
        let mut bytes = vec![0_u8; 1000];
        assert_eq!(find_byte(&bytes, 7), None);
        for at in [0, 1, 255, 256, 257, 999] {
            bytes[at] = 7;
            assert_eq!(find_byte(&bytes, 7), Some(at));
            bytes[at] = 0;
        }
    }
}
