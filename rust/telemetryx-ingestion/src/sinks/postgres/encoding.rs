//! Events as rows of a binary `COPY`, written straight into the buffer that is sent.
//!
//! ```text
//! "PGCOPY\n\xff\r\n\0" | flags: u32 = 0 | header extension: u32 = 0
//! each row:  columns: u16 = 9 | each column: length: i32, -1 is null | bytes
//! end:       -1: i16
//! ```
//! All numbers are big-endian. A `timestamptz` is an i64 of microseconds since 2000, a `jsonb` a 1 and the text.

use bytes::Bytes;
use telemetryx_common::{Event, Source, Timestamp, json};

use super::PayloadType;

/// The columns, in the order in which they are written.
pub(super) const COLUMNS: &str =
    "id, ts, type, source, schema_version, partition_key, attributes, payload, received_at";
const COLUMN_COUNT: u16 = 9;
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: [u8; 2] = (-1i16).to_be_bytes();
const NULL: [u8; 4] = (-1i32).to_be_bytes();
const JSONB_VERSION: u8 = 1;
/// A chunk is sent once it has so many bytes.
const CHUNK_BYTES: usize = 128 << 10;
/// 2000-01-01, in microseconds since 1970.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// Microseconds since 1970; what is less is cut off.
pub(super) fn micros(ts: Timestamp) -> i64 {
    ts.unix_nanos().div_euclid(1000)
}

/// Microseconds since 1970 as the server sends and takes a `timestamptz`.
pub(super) const fn to_server(micros: i64) -> i64 {
    micros - EPOCH_2000
}

/// The reverse of [`to_server`]; times that no event can have are the nearest that one can have.
pub(super) const fn from_server(micros: i64) -> Timestamp {
    let nanos = micros.saturating_add(EPOCH_2000).saturating_mul(1000);
    Timestamp::from_unix_nanos(nanos)
}

/// Rows on their way, chunk by chunk.
pub(super) struct CopyRows {
    payload: PayloadType,
    chunk: Vec<u8>,
}

impl CopyRows {
    pub(super) fn new(payload: PayloadType) -> Self {
        let mut chunk = Self::empty_chunk();
        chunk.extend_from_slice(HEADER);
        Self { payload, chunk }
    }

    fn empty_chunk() -> Vec<u8> {
        Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8)
    }

    /// Adds a row.
    pub(super) fn push(&mut self, event: &Event<'_>) {
        let out = &mut self.chunk;
        out.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
        field(out, event.id.as_bytes());
        time(out, event.ts);
        field(out, event.event_type.as_str().as_bytes());
        match &event.source {
            Source::Name(name) => field(out, name.as_bytes()),
            Source::Number(number) => sized(out, |out| json::write_number(*number, out)),
        }
        field(out, &event.schema_version.to_be_bytes());
        match &event.partition_key {
            Some(key) => field(out, key.as_bytes()),
            None => out.extend_from_slice(&NULL),
        }
        if event.attributes.is_empty() {
            out.extend_from_slice(&NULL);
        } else {
            sized(out, |out| {
                out.push(JSONB_VERSION);
                json::write_attributes(event, out);
            });
        }
        match self.payload {
            PayloadType::Json => field(out, event.payload.as_bytes()),
            PayloadType::Jsonb => sized(out, |out| {
                out.push(JSONB_VERSION);
                out.extend_from_slice(event.payload.as_bytes());
            }),
        }
        time(out, event.received_at);
    }

    /// A chunk, if there is enough for one.
    pub(super) fn full_chunk(&mut self) -> Option<Bytes> {
        let is_full = self.chunk.len() >= CHUNK_BYTES;
        is_full.then(|| std::mem::replace(&mut self.chunk, Self::empty_chunk()).into())
    }

    /// The last chunk.
    pub(super) fn finish(mut self) -> Bytes {
        self.chunk.extend_from_slice(&END);
        self.chunk.into()
    }
}

#[inline]
fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[inline]
fn time(out: &mut Vec<u8>, ts: Timestamp) {
    field(out, &to_server(micros(ts)).to_be_bytes());
}

/// A field whose length is known once it is written.
#[inline]
fn sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_the_microsecond_before_also_before_1970_and_2000() {
        for (nanos, cut) in [
            (1, 0),
            (-1, -1000),
            (1_999, 1_000),
            (946_684_800_000_000_001, 946_684_800_000_000_000),
        ] {
            let stored = to_server(micros(Timestamp::from_unix_nanos(nanos)));
            assert_eq!(from_server(stored).unix_nanos(), cut, "{nanos}");
        }
        assert_eq!(from_server(i64::MIN).unix_nanos(), i64::MIN, "-infinity");
        assert_eq!(from_server(i64::MAX).unix_nanos(), i64::MAX, "infinity");
    }

    #[test]
    fn a_row_is_what_the_server_documents() {
        let mut rows = CopyRows::new(PayloadType::Jsonb);
        let mut event = Event::new(Timestamp::from_unix_nanos(946_684_800_000_001_000));
        event.id = "i".into();
        event.source = Source::Number(42);
        rows.push(&event);
        assert_eq!(rows.full_chunk(), None);
        let received = to_server(0).to_be_bytes();
        let expected: &[&[u8]] = &[
            HEADER,
            b"\0\x09\0\0\0\x01i",
            b"\0\0\0\x08\0\0\0\0\0\0\0\x01",
            b"\0\0\0\x05event",
            b"\0\0\0\x0242",
            b"\0\0\0\x04\0\0\0\x01",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0\x05\x01null",
            b"\0\0\0\x08",
            &received,
            b"\xff\xff",
        ];
        assert_eq!(rows.finish(), expected.concat());
    }
}
