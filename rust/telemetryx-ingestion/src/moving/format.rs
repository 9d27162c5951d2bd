//! The file: a line that says what it is, then frames, the last of which says how many there were.
//!
//! ```text
//! file    "telemetryx journal export 1\n"   frame   frame   …   frame 'Z'
//! frame   kind 1 byte │ length 4 bytes │ payload │ check 4 bytes          numbers are little-endian
//!
//! kind    payload
//! H       the header, JSON: once, first
//! R       where a route is in a partition and what it saved, JSON
//! G       which routes have passed the events that follow, JSON
//! E       partition 4 │ first offset 8 │ events 4 │ a telemetryx.v1.EventBatch, as it was stored
//! X       events that the journal cannot give any more, JSON
//! L       a dead letter: a line of JSON, then its event. With "here": of the frame E before it, which has this event alone
//! Z       how many frames, events and letters there are, JSON: once, last
//! ```
//!
//! A frame's check is the CRC-32C of all bytes of the file up to it but for the checks: a frame that is changed, missing,
//! doubled or elsewhere is found, and so is everything behind it. A file without its last frame is not whole.

use std::io::{self, Read, Write};

use serde::Serialize;

/// What a file begins with.
const BEGINNING: &[u8] = b"telemetryx journal export 1\n";
/// What the file of any version begins with.
const NAME: &[u8] = b"telemetryx journal export ";
/// Longer frames are none: the largest hold a route's state or an event of the largest size.
const FRAME_BYTES_MAX: u32 = 256 << 20;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The journal as a whole.
    Header,
    /// Where a route is in a partition.
    Route,
    /// Who has passed what follows.
    Group,
    /// Events.
    Events,
    /// Events that are missing.
    Missing,
    /// A dead letter.
    Letter,
    /// There is no more.
    End,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Header => b'H',
            Self::Route => b'R',
            Self::Group => b'G',
            Self::Events => b'E',
            Self::Missing => b'X',
            Self::Letter => b'L',
            Self::End => b'Z',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Header,
            Self::Route,
            Self::Group,
            Self::Events,
            Self::Missing,
            Self::Letter,
            Self::End,
        ];
        all.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system's words.
    #[error("the file cannot be read: {0}")]
    Io(io::Error),
    /// It is something else.
    #[error("this is no file of `telemetryx journal export`")]
    Foreign,
    /// It was written by another version.
    #[error("the file has version {0}, and this binary reads version 1: use a newer one")]
    Version(String),
    /// It ends before its end.
    #[error("the file is not whole: it ends after {frames} frames, at byte {at}; export again")]
    Truncated {
        /// Frames that are whole.
        frames: u64,
        /// How long it is.
        at: u64,
    },
    /// A checksum is wrong.
    #[error("the file is damaged at frame {frame}, at byte {at} or behind it; export again")]
    Damaged {
        /// The frame, from 0.
        frame: u64,
        /// Where it begins.
        at: u64,
    },
    /// It goes on behind its end.
    #[error(
        "the file goes on behind its end: it is put together of several, or something else was added"
    )]
    Behind,
    /// A checksum is right and the frame makes no sense.
    #[error("frame {frame} of the file makes no sense: {why}")]
    Senseless {
        /// The frame, from 0.
        frame: u64,
        /// What is wrong.
        why: String,
    },
}

/// Writes a file.
pub(crate) struct FileWriter<W> {
    out: W,
    check: u32,
    frames: u64,
    bytes: u64,
}

impl<W: Write> FileWriter<W> {
    /// Begins one.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(BEGINNING)?;
        Ok(Self {
            out,
            check: crc32c::crc32c(BEGINNING),
            frames: 0,
            bytes: BEGINNING.len() as u64,
        })
    }

    /// How many frames were written.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// How many bytes were written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes a frame whose payload is these parts, one after the other.
    ///
    /// # Errors
    /// The system's; or the payload is too long.
    pub(crate) fn frame(&mut self, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).ok();
        let length = length.filter(|length| *length <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| io::Error::other("a frame would be too long"))?;
        let mut head = [kind.byte(), 0, 0, 0, 0];
        head[1..].copy_from_slice(&length.to_le_bytes());
        for part in std::iter::once(&head[..]).chain(parts.iter().copied()) {
            self.check = crc32c::crc32c_append(self.check, part);
            self.out.write_all(part)?;
        }
        self.out.write_all(&self.check.to_le_bytes())?;
        self.frames += 1;
        self.bytes += u64::from(length) + 9;
        Ok(())
    }

    /// Writes a frame of JSON.
    ///
    /// # Errors
    /// As [`frame`](Self::frame).
    pub(crate) fn json(&mut self, kind: Kind, value: &impl Serialize) -> io::Result<()> {
        self.frame(kind, &[&serde_json::to_vec(value)?])
    }

    /// Hands out what all was written to, written to its end.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads a file.
pub(crate) struct FileReader<R> {
    input: R,
    check: u32,
    frames: u64,
    bytes: u64,
    payload: Vec<u8>,
}

impl<R: Read> FileReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`FileError`]: it is none of ours.
    pub(crate) fn begin(mut input: R) -> Result<Self, FileError> {
        let mut beginning = Vec::new();
        let longest = BEGINNING.len() as u64;
        let read = input.by_ref().take(longest).read_to_end(&mut beginning);
        read.map_err(FileError::Io)?;
        if beginning != BEGINNING {
            let version = beginning.strip_prefix(NAME);
            return Err(version.map_or(FileError::Foreign, |version| {
                let version = String::from_utf8_lossy(version);
                FileError::Version(version.trim().to_owned())
            }));
        }
        Ok(Self {
            input,
            check: crc32c::crc32c(BEGINNING),
            frames: 0,
            bytes: longest,
            payload: Vec::new(),
        })
    }

    /// How many frames were read.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// How many bytes were read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next frame.
    ///
    /// # Errors
    /// [`FileError`]; nothing can be read on then.
    pub(crate) fn next(&mut self) -> Result<(Kind, &[u8]), FileError> {
        let damaged = FileError::Damaged {
            frame: self.frames,
            at: self.bytes,
        };
        let mut head = [0; 5];
        self.fill(&mut head)?;
        let mut check = crc32c::crc32c_append(self.check, &head);
        let [byte, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        let Some(kind) = Kind::of(byte).filter(|_| length <= FRAME_BYTES_MAX) else {
            return Err(damaged);
        };
        // Grows as bytes come: a length that is wrong takes no memory.
        self.payload.clear();
        let mut input = self.input.by_ref().take(length.into());
        let read = input.read_to_end(&mut self.payload);
        if read.map_err(FileError::Io)? < length as usize {
            return Err(self.truncated(5 + self.payload.len()));
        }
        check = crc32c::crc32c_append(check, &self.payload);
        let mut told = [0; 4];
        self.fill(&mut told)?;
        if u32::from_le_bytes(told) != check {
            return Err(damaged);
        }
        self.check = check;
        self.frames += 1;
        self.bytes += u64::from(length) + 9;
        Ok((kind, &self.payload))
    }

    /// Makes sure that nothing comes behind the end.
    ///
    /// # Errors
    /// [`FileError::Behind`].
    pub(crate) fn finish(&mut self) -> Result<(), FileError> {
        let mut more = [0];
        match self.input.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(FileError::Behind),
            Err(error) => Err(FileError::Io(error)),
        }
    }

    /// That the frame which was read last makes no sense.
    pub(crate) fn senseless(&self, why: impl std::fmt::Display) -> FileError {
        FileError::Senseless {
            frame: self.frames.saturating_sub(1),
            why: why.to_string(),
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), FileError> {
        match self.input.read_exact(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.truncated(0)),
            read => read.map_err(FileError::Io),
        }
    }

    fn truncated(&self, more: usize) -> FileError {
        FileError::Truncated {
            frames: self.frames,
            at: self.bytes + more as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(frames: usize) -> Vec<u8> {
        let mut file = FileWriter::begin(Vec::new()).unwrap();
        for number in 0..frames {
            let payload = vec![number as u8; 7 * number];
            file.frame(Kind::Events, &[b"head", &payload]).unwrap();
        }
        file.json(Kind::End, &frames).unwrap();
        file.finish().unwrap()
    }

    fn read(file: &[u8]) -> Result<Vec<(Kind, Vec<u8>)>, FileError> {
        let mut reader = FileReader::begin(file)?;
        let mut frames = Vec::new();
        loop {
            let (kind, payload) = reader.next()?;
            frames.push((kind, payload.to_vec()));
            if kind == Kind::End {
                reader.finish()?;
                assert_eq!(reader.bytes(), file.len() as u64);
                return Ok(frames);
            }
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let frames = read(&file(3)).unwrap();
        assert_eq!(frames.len(), 4);
        assert_eq!(
            frames[1],
            (Kind::Events, b"head\x01\x01\x01\x01\x01\x01\x01".to_vec())
        );
        assert_eq!(frames[3], (Kind::End, b"3".to_vec()));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let file = file(4);
        for cut in 0..file.len() {
            let error = read(&file[..cut]).unwrap_err();
            let expected = matches!(
                error,
                FileError::Truncated { .. } | FileError::Foreign | FileError::Version(_)
            );
            assert!(expected, "cut at {cut}: {error}");
        }
        for place in 0..file.len() {
            for bit in 0..8 {
                let mut flipped = file.clone();
                flipped[place] ^= 1 << bit;
                read(&flipped).expect_err("a flipped bit");
            }
        }
    }

    #[test]
    fn frames_that_are_doubled_missing_or_elsewhere_are_found() {
        let (one, two) = (file(1), file(2));
        // The first frame has no payload but `head`.
        let (from, to) = (BEGINNING.len(), BEGINNING.len() + 13);
        assert_eq!(one[..to], two[..to]);
        let mut doubled = two[..to].to_vec();
        doubled.extend_from_slice(&two[from..]);
        assert!(matches!(
            read(&doubled),
            Err(FileError::Damaged { frame: 1, .. })
        ));
        let mut missing = two[..from].to_vec();
        missing.extend_from_slice(&two[to..]);
        assert!(matches!(
            read(&missing),
            Err(FileError::Damaged { frame: 0, .. })
        ));
        let mut longer = one;
        longer.push(b'\n');
        assert!(matches!(read(&longer), Err(FileError::Behind)));
    }

    #[test]
    fn foreign_files_and_other_versions_are_told_apart() {
        for foreign in [&b""[..], b"{}", &[0; 100], b"telemetryx journal exp"] {
            assert!(matches!(read(foreign), Err(FileError::Foreign)));
        }
        let mut newer = file(1);
        newer[NAME.len()] = b'2';
        let Err(FileError::Version(version)) = read(&newer) else {
            panic!("another version");
        };
        assert_eq!(version, "2");
    }

    #[test]
    fn length_that_is_wrong_takes_no_memory() {
        let mut file = BEGINNING.to_vec();
        file.push(b'E');
        file.extend_from_slice(&FRAME_BYTES_MAX.to_le_bytes());
        let mut reader = FileReader::begin(file.as_slice()).unwrap();
        assert!(matches!(reader.next(), Err(FileError::Truncated { .. })));
        assert!(reader.payload.capacity() < 1 << 20);
    }
}
