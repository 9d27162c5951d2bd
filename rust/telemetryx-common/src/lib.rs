//! Events: what they are, how they are read from a request body, and how they are stored.
//!
//! This crate knows bytes and clocks only as parameters: no I/O, no async, no global state. The service calls it on
//! the way in (decode, check, [`wire::encode_event`]) and on the way out ([`wire::events`], [`json::write_event`]).
//!
//! # Path of an event
//!
//! 1. [`decode_json`], [`decode_ndjson`] or [`decode_protobuf`] walks the body once and hands each event to the caller
//!    as an [`Event`] that borrows from the body, or as an [`EventError`] that says what is wrong and where.
//! 2. [`ValidationRules::check`] adds the rules that need a clock or the config.
//! 3. [`EventIds`] names the events that came without an id.
//! 4. [`wire::encode_event`] writes the one form that the journal stores and that routes read back, without copying.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `event.rs`, `field.rs` | [`Event`], its parts, the names of its fields |
//! | `timestamp.rs` | [`Timestamp`]: reading RFC 3339 and epoch numbers, writing RFC 3339 |
//! | `error.rs` | what can be wrong with an event or with a whole body |
//! | `scan.rs` | the strict one-pass JSON scanner |
//! | `decode.rs` | the three formats of `POST /ingest` |
//! | `document.rs` | a JSON document that becomes a payload, and the values that pointers name in it |
//! | `validate.rs` | rules that need a clock or the config |
//! | `ids.rs` | ids for events that came without one |
//! | `wire.rs` | the stored form, `telemetryx.v1.EventBatch` |
//! | `json.rs` | events as JSON text |

#![forbid(unsafe_code)]

mod decode;
mod document;
mod error;
mod event;
mod field;
pub mod ids;
pub mod json;
mod scan;
mod timestamp;
mod validate;
pub mod wire;

pub use decode::{
    DecodeLimits, MAX_DEPTH, MAX_ID_BYTES, MAX_SOURCE_BYTES, MAX_TYPE_BYTES, decode_json,
    decode_ndjson, decode_protobuf,
};
pub use document::{Document, Found, Pointer, PointerError, Pointers, read_document};
pub use error::{DecodeError, ErrorCode, EventError};
pub use event::{Event, EventType, Source};
pub use field::FieldSet;
pub use ids::EventIds;
pub use timestamp::{Timestamp, TimestampError};
pub use validate::ValidationRules;
