//! From the body of a request to events.
//!
//! Each decoder walks its body once and visits every event in order. A bad event is visited as an
//! [`EventError`](crate::EventError), both with their own bytes, and the others go on. If the body itself is broken the decoder returns a
//! [`DecodeError`]: then the caller must forget what it visited before.
//!
//! The rules of the fields that need neither clock nor config are checked here, so no [`Event`](crate::Event) breaks
//! them.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `decode/json.rs` | one event, an array, or `{"events":[…]}` |
//! | `decode/ndjson.rs` | one event a line |
//! | `decode/protobuf.rs` | `telemetryx.v1.EventBatch` |
//! | `decode/object.rs` | one event as a JSON object: fields, aliases, attributes |
//! | `decode/draft.rs` | an event while it is read, and the rules that all formats share |

use std::borrow::Cow;

use crate::scan::Mistake;
use crate::{DecodeError, ErrorCode};

mod draft;
mod json;
mod ndjson;
mod object;
mod protobuf;

pub use json::decode_json;
pub use ndjson::decode_ndjson;
pub use protobuf::decode_protobuf;

/// How deep an event may be nested. The event itself is the first level, so a payload may have 127, which is also
/// where `serde_json` stops.
pub const MAX_DEPTH: usize = 128;
/// How long an `id` may be, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// How long a `type` may be, in bytes.
pub const MAX_TYPE_BYTES: usize = 128;
/// How long a `source` may be, in bytes.
pub const MAX_SOURCE_BYTES: usize = 256;

/// How deep a payload stands: the event is the first level.
pub(crate) const PAYLOAD_LEVEL: usize = 1;

/// What a body may hold at most. Breaking a limit refuses the body as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Length of one event, as it stands in its body. Default: 1 MiB.
    pub max_event_bytes: usize,
    /// Events in one body. Default: 50,000.
    pub max_events: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits {
            max_event_bytes: 1 << 20,
            max_events: 50_000,
        }
    }
}

impl DecodeLimits {
    /// Whether an event of that index and length may be there.
    #[inline]
    fn check(&self, index: u32, bytes: usize) -> Result<(), DecodeError> {
        if index as usize >= self.max_events {
            return Err(DecodeError::TooManyEvents {
                limit: self.max_events,
            });
        }
        if bytes > self.max_event_bytes {
            return Err(DecodeError::EventTooLarge {
                index,
                bytes,
                limit: self.max_event_bytes,
            });
        }
        Ok(())
    }
}

/// The body as text, if it is text.
pub(crate) fn utf8(body: &[u8]) -> Result<&str, DecodeError> {
    simdutf8::basic::from_utf8(body).map_err(|_| not_utf8(body))
}

#[cold]
fn not_utf8(body: &[u8]) -> DecodeError {
    let offset = match std::str::from_utf8(body) {
        Ok(_) => 0,
        Err(error) => error.valid_up_to(),
    };
    let message = "bytes that are not UTF-8";
    malformed(body, offset, ErrorCode::InvalidString, message)
}

#[cold]
pub(crate) fn syntax(body: &[u8], mistake: Mistake) -> DecodeError {
    let code = ErrorCode::InvalidJson;
    malformed(body, mistake.offset, code, mistake.message)
}

/// The error with line and column, which are counted only now.
#[cold]
fn malformed(
    body: &[u8],
    offset: usize,
    code: ErrorCode,
    message: impl Into<Cow<'static, str>>,
) -> DecodeError {
    let before = body.get(..offset).unwrap_or(body);
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    let in_line = before.get(line_start..).unwrap_or_default();
    let continuations = in_line.iter().filter(|byte| **byte & 0xc0 == 0x80).count();
    DecodeError::Malformed {
        code,
        message: message.into(),
        line: memchr::memchr_iter(b'\n', before).count() + 1,
        column: in_line.len() - continuations + 1,
        offset,
    }
}
