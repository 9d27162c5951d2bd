//! What can be wrong with an event, and with a whole body.
//!
//! An [`EventError`] concerns one event: the others of its batch go on, and the event becomes a dead letter. A
//! [`DecodeError`] concerns the body: nothing of it may be kept, not even events that were visited before the error.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

/// What is wrong, for programs. [`ErrorCode::as_str`] is what clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// A required field was not given.
    MissingField,
    /// A field has a JSON type that it cannot have.
    InvalidType,
    /// A timestamp that cannot be read.
    InvalidTimestamp,
    /// A timestamp that can be read but not stored: only 1677-09-21 to 2262-04-11 fits.
    TimestampOutOfRange,
    /// A timestamp further ahead of the service's clock than configured.
    TimestampInFuture,
    /// A text over its limit.
    TooLong,
    /// Text that is not JSON.
    InvalidJson,
    /// Bytes that are not protobuf.
    InvalidProtobuf,
    /// A number that no 64-bit float can hold, such as `1e999`.
    InvalidNumber,
    /// A string with a NUL, a lone surrogate, or bytes that are not UTF-8.
    InvalidString,
    /// Nested deeper than [`MAX_DEPTH`](crate::MAX_DEPTH).
    TooDeep,
    /// A field or attribute given twice.
    DuplicateField,
    /// A field that no event has, with a value that cannot be an attribute.
    UnknownField,
    /// A value of the right type that is not permitted.
    InvalidValue,
    /// Refused by an allow or deny list.
    NotAllowed,
    /// A payload over its limit.
    PayloadTooLarge,
    /// A schema version that is not accepted for this type.
    SchemaVersionNotAccepted,
    /// A payload that is not as its schema says.
    SchemaViolation,
    /// Its source sends more than its rate limit allows. Not final: the same event may be taken later.
    RateLimited,
    /// Refused by a plug-in, for a reason of its own.
    Plugin,
    /// A body without an event.
    Empty,
    /// An event over its limit.
    EventTooLarge,
    /// More events in a body than its limit.
    TooManyEvents,
    /// Events that together are over their limit.
    BatchTooLarge,
}

impl ErrorCode {
    /// The code as clients see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::MissingField => "missing_field",
            ErrorCode::InvalidType => "invalid_type",
            ErrorCode::InvalidTimestamp => "invalid_timestamp",
            ErrorCode::TimestampOutOfRange => "timestamp_out_of_range",
            ErrorCode::TimestampInFuture => "timestamp_in_future",
            ErrorCode::TooLong => "too_long",
            ErrorCode::InvalidJson => "invalid_json",
            ErrorCode::InvalidProtobuf => "invalid_protobuf",
            ErrorCode::InvalidNumber => "invalid_number",
            ErrorCode::InvalidString => "invalid_string",
            ErrorCode::TooDeep => "too_deep",
            ErrorCode::DuplicateField => "duplicate_field",
            ErrorCode::UnknownField => "unknown_field",
            ErrorCode::InvalidValue => "invalid_value",
            ErrorCode::NotAllowed => "not_allowed",
            ErrorCode::PayloadTooLarge => "payload_too_large",
            ErrorCode::SchemaVersionNotAccepted => "schema_version_not_accepted",
            ErrorCode::SchemaViolation => "schema_violation",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Plugin => "plugin",
            ErrorCode::Empty => "empty",
            ErrorCode::EventTooLarge => "event_too_large",
            ErrorCode::TooManyEvents => "too_many_events",
            ErrorCode::BatchTooLarge => "batch_too_large",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one event is refused. Final but for [`ErrorCode::RateLimited`]: the same event will be refused again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("event {index}: {message}")]
pub struct EventError {
    /// Place of the event in its body, from 0.
    pub index: u32,
    /// The field that is wrong, empty if it is the event as a whole.
    pub field: Cow<'static, str>,
    /// What is wrong, for programs.
    pub code: ErrorCode,
    /// What is wrong, where, and what would be right, for people.
    pub message: String,
}

impl EventError {
    /// An error of the event at index 0; see [`EventError::at`].
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        code: ErrorCode,
        message: impl Into<String>,
    ) -> Self {
        EventError {
            index: 0,
            field: field.into(),
            code,
            message: message.into(),
        }
    }

    /// The same error, of the event at that index.
    #[must_use]
    pub fn at(mut self, index: u32) -> Self {
        self.index = index;
        self
    }
}

/// Why a whole body is refused. Final: the same body will be refused again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body cannot be taken apart into events. Answer 400.
    #[error("{message} at line {line}, column {column} (byte {offset})")]
    Malformed {
        /// [`ErrorCode::InvalidJson`], [`ErrorCode::InvalidProtobuf`], or what else made it unreadable.
        code: ErrorCode,
        /// What is wrong, and what was expected.
        message: Cow<'static, str>,
        /// Line, from 1. In protobuf: always 1.
        line: usize,
        /// Column in characters, from 1. In protobuf: in bytes.
        column: usize,
        /// Bytes before the mistake.
        offset: usize,
    },
    /// No event in the body. Answer 400.
    #[error("the body holds no event: send one event, an array of events, or {{\"events\":[…]}}")]
    Empty,
    /// An event is over its limit. Answer 413.
    #[error("event {index} is {bytes} bytes long, more than the limit of {limit}")]
    EventTooLarge {
        /// Place of the event in the body, from 0.
        index: u32,
        /// Its length.
        bytes: usize,
        /// The limit it breaks.
        limit: usize,
    },
    /// Too many events in one body. Answer 413.
    #[error("the body holds more than {limit} events: send them in several requests")]
    TooManyEvents {
        /// The limit.
        limit: usize,
    },
    /// The events of one body are too long together, where they are longer than the body. Answer 413.
    #[error("the events of the body are longer than {limit} bytes: send them in several requests")]
    BatchTooLarge {
        /// The limit.
        limit: usize,
    },
}

impl DecodeError {
    /// What is wrong, for programs.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            DecodeError::Malformed { code, .. } => *code,
            DecodeError::Empty => ErrorCode::Empty,
            DecodeError::EventTooLarge { .. } => ErrorCode::EventTooLarge,
            DecodeError::TooManyEvents { .. } => ErrorCode::TooManyEvents,
            DecodeError::BatchTooLarge { .. } => ErrorCode::BatchTooLarge,
        }
    }

    /// Whether the body is too large (413) rather than wrong (400).
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(
            self,
            DecodeError::EventTooLarge { .. }
                | DecodeError::TooManyEvents { .. }
                | DecodeError::BatchTooLarge { .. }
        )
    }
}
