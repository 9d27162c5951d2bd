//! The stored form of events: `telemetryx.v1.EventBatch` of `proto/events.proto`, written and read without copying.
//!
//! ```text
//! EventBatch   0a <length> Event   0a <length> Event   …
//! Event        0a id   11 ts   1a type   22 source name | 28 source number   30 schema version
//!              3a partition key   42 <length> (0a name  12 value)…   4a payload   51 received
//! ```
//!
//! Entries in a row are a batch, so batches are joined by joining their bytes. What is written is byte for byte what
//! `prost` writes; the code is by hand because `prost` owns its strings and would copy every field twice.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `wire/encode.rs` | events to bytes |
//! | `wire/message.rs` | the bytes of one `Event` to an event, also used for requests |
//! | `wire/reader.rs` | tags, varints, lengths |

use thiserror::Error;

use crate::Event;

mod encode;
mod message;
mod reader;

pub use encode::{append_message, batch_of, encode_event, encode_message};
pub(crate) use message::{MessageError, read_message};
pub(crate) use reader::{Reader, WireType};

/// Field number of `EventBatch.events`.
pub(crate) const EVENTS: u32 = 1;

/// Bytes that are not an `EventBatch`. Final: reading them again will not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{message} (byte {offset})")]
pub struct WireError {
    /// What is wrong.
    pub message: &'static str,
    /// Bytes before the mistake.
    pub offset: usize,
}

/// The events of an `EventBatch`, in order, borrowing from it.
///
/// For bytes that [`encode_event`] wrote: only what is needed to be safe is checked. After an error the iterator ends.
#[must_use]
pub fn events(body: &[u8]) -> Events<'_> {
    Events {
        reader: Reader::new(body),
    }
}

/// How many events the first part of an `EventBatch` has that is as large as the limits allow, and its length in bytes.
///
/// At least one event if there is any, even if it is larger than `max_bytes`; what is not an event ends the part.
#[must_use]
pub fn first_part(body: &[u8], max_events: usize, max_bytes: usize) -> (usize, usize) {
    let mut reader = Reader::new(body);
    let (mut events, mut length) = (0, 0);
    while events < max_events && !reader.is_empty() {
        let is_event = matches!(reader.tag(), Ok((EVENTS, WireType::Bytes)));
        if !is_event || reader.bytes().is_err() || (events > 0 && reader.pos() > max_bytes) {
            break;
        }
        events += 1;
        length = reader.pos();
    }
    (events, length)
}

/// See [`events`].
#[derive(Debug, Clone)]
pub struct Events<'a> {
    reader: Reader<'a>,
}

impl<'a> Events<'a> {
    fn read(&mut self) -> Result<Option<Event<'a>>, WireError> {
        while !self.reader.is_empty() {
            let (field, wire_type) = self.reader.tag()?;
            if field == EVENTS && wire_type == WireType::Bytes {
                let message = self.reader.bytes()?;
                let base = self.reader.pos() - message.len();
                return read_message(message)
                    .map(Some)
                    .map_err(|error| error.in_batch(base));
            }
            self.reader.skip(wire_type)?;
        }
        Ok(None)
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.reader.end();
        }
        read.transpose()
    }
}

impl std::iter::FusedIterator for Events<'_> {}
