//! A piece of the route's events, as one Parquet file for each type and hour. Rows are encoded and compressed as they come:
//! what is held is little more than the files themselves.

use std::collections::{BTreeMap, HashMap};
use std::io;

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use telemetryx_common::Event;

use super::names;
use super::rows::{self, Rows};
use crate::route::Origin;

/// Rows of one file that wait to be encoded together.
const ROWS_MAX: usize = 8192;
/// And their bytes.
const ROWS_BYTES_MAX: usize = 512 << 10;
/// What a file takes in memory before its first row: builders, names.
const FILE_BYTES: usize = 4 << 10;
/// A finished file lies in memory in chunks of this size, so that it never moves while it grows.
const CHUNK_BYTES: usize = 1 << 20;

/// Events of one stretch of a log, or such that processors made.
#[derive(Default)]
pub(super) struct Piece {
    files: Vec<GrowingFile>,
    /// By folder. Types whose names are very long may share one.
    folders: HashMap<String, usize>,
    /// By hour and type.
    places: BTreeMap<i64, HashMap<Box<str>, usize>>,
    /// The next event is often of the same hour and type as the last one.
    last: LastPlace,
    bytes: usize,
    journaled: Members,
    derived: Members,
}

/// Which events these are, in order.
#[derive(Debug, Default, Clone, Copy)]
struct Members {
    events: u64,
    first: u64,
    end: u64,
    check: u32,
}

#[derive(Default)]
struct LastPlace {
    hour: i64,
    event_type: String,
    place: Option<usize>,
}

struct GrowingFile {
    folder: String,
    rows: Rows,
    count: u64,
    bytes: usize,
    writer: Option<ArrowWriter<Chunks>>,
}

/// A file that is ready.
#[derive(Debug)]
pub(super) struct FinishedFile {
    /// Its folder within the sink's.
    pub(super) folder: String,
    pub(super) rows: u64,
    pub(super) content: Vec<Bytes>,
}

impl Piece {
    /// Adds an event. `at` is where the log is: the place of an event that a processor made.
    ///
    /// # Errors
    /// That of the encoder, for a fault of ours. The piece is of no use then.
    pub(super) fn push(
        &mut self,
        origin: Origin,
        at: u64,
        event: &Event<'_>,
    ) -> Result<(), ParquetError> {
        let (which, offset) = match origin {
            Origin::Journal(offset) => (&mut self.journaled, offset),
            Origin::Derived => (&mut self.derived, at),
        };
        which.add(offset, u64::from(origin != Origin::Derived), &event.id);
        let place = self.place(event);
        let Some(file) = self.files.get_mut(place) else {
            return Ok(());
        };
        let before = file.bytes;
        file.push(event)?;
        self.bytes = self.bytes + file.bytes - before;
        Ok(())
    }

    /// The file of an event.
    fn place(&mut self, event: &Event<'_>) -> usize {
        let (hour, name) = (names::hour_of(event.ts), event.event_type.as_str());
        if let Some(place) = self.last.place
            && self.last.hour == hour
            && self.last.event_type == name
        {
            return place;
        }
        let known = self.places.get(&hour).and_then(|types| types.get(name));
        let place = match known {
            Some(place) => *place,
            None => {
                let place = self.file_in(names::folder(name, hour));
                let types = self.places.entry(hour).or_default();
                types.insert(name.into(), place);
                place
            }
        };
        self.last.hour = hour;
        self.last.event_type.clear();
        self.last.event_type.push_str(name);
        self.last.place = Some(place);
        place
    }

    fn file_in(&mut self, folder: String) -> usize {
        let new = self.files.len();
        let place = *self.folders.entry(folder.clone()).or_insert(new);
        if place == new {
            self.bytes += FILE_BYTES;
            self.files.push(GrowingFile {
                folder,
                rows: Rows::new(),
                count: 0,
                bytes: FILE_BYTES,
                writer: None,
            });
        }
        place
    }

    /// How many files it has.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// About how many bytes it takes in memory: encoded files, and rows that are not encoded yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// From the offset of its first event up to behind that of its last one.
    pub(super) fn range(&self) -> (u64, u64) {
        let which = self.which();
        (which.first, which.end)
    }

    /// Which events it holds, as a number: those of the log, if there are any.
    pub(super) fn check(&self) -> u32 {
        self.which().check
    }

    fn which(&self) -> &Members {
        match self.journaled.events {
            0 => &self.derived,
            _ => &self.journaled,
        }
    }

    /// The files, finished one after the other.
    ///
    /// # Errors
    /// That of the encoder, for a fault of ours.
    pub(super) fn finish(self) -> Result<Vec<FinishedFile>, ParquetError> {
        self.files.into_iter().map(GrowingFile::finish).collect()
    }
}

impl Members {
    fn add(&mut self, offset: u64, length: u64, id: &str) {
        if self.events == 0 {
            self.first = offset;
        }
        self.events += 1;
        self.end = offset + length;
        self.check = crc32c::crc32c_append(self.check, &offset.to_le_bytes());
        self.check = crc32c::crc32c_append(self.check, id.as_bytes());
    }
}

impl GrowingFile {
    fn push(&mut self, event: &Event<'_>) -> Result<(), ParquetError> {
        self.count += 1;
        self.bytes += self.rows.push(event);
        if self.rows.len() >= ROWS_MAX || self.rows.bytes() >= ROWS_BYTES_MAX {
            self.encode()?;
        }
        Ok(())
    }

    fn encode(&mut self) -> Result<(), ParquetError> {
        if self.rows.len() == 0 {
            return Ok(());
        }
        let rows = self.rows.take()?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(ArrowWriter::try_new(
                Chunks::default(),
                rows::schema(),
                Some(rows::properties()),
            )?),
        };
        writer.write(&rows)?;
        self.bytes = FILE_BYTES + writer.bytes_written() + writer.memory_size();
        Ok(())
    }

    fn finish(mut self) -> Result<FinishedFile, ParquetError> {
        self.encode()?;
        let content = match self.writer {
            Some(writer) => writer.into_inner()?.into_vec(),
            None => Vec::new(),
        };
        Ok(FinishedFile {
            folder: self.folder,
            rows: self.count,
            content,
        })
    }
}

/// Bytes that were written, in chunks.
#[derive(Default)]
struct Chunks {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

impl Chunks {
    fn into_vec(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.full.push(self.open.into());
        }
        self.full
    }
}

impl io::Write for Chunks {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let written = bytes.len();
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.open.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.open.extend_from_slice(now);
            bytes = later;
            if self.open.len() == CHUNK_BYTES {
                self.full.push(std::mem::take(&mut self.open).into());
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
