//! How bodies become events: the part of the path that is a protocol's own.

use telemetryx_common::{
    DecodeError, DecodeLimits, Event, EventError, decode_json, decode_ndjson, decode_protobuf,
};

/// Turns the bodies of one protocol into events.
pub trait Decode: Sync {
    /// Calls `visit` for each event of `body`, in order. An event that cannot be one is an `Err` and the others go on.
    ///
    /// # Errors
    /// [`DecodeError`]: the body as a whole cannot be read; nothing of it is kept then.
    fn decode(
        &self,
        body: &[u8],
        limits: &DecodeLimits,
        visit: &mut Visit<'_>,
    ) -> Result<(), DecodeError>;
}

/// Takes one event, and what the client sent of it.
pub type Visit<'v> = dyn FnMut(Raw<'_>, Result<Event<'_>, EventError>) + 'v;

/// What a dead letter keeps of an event that is refused, so that it can be sent again.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'e> {
    /// The client's own JSON.
    Json(&'e [u8]),
    /// The client's own `telemetryx.v1.Event`.
    Protobuf(&'e [u8]),
    /// It came in another form: the event it became is kept, as JSON, and nothing of what became none.
    Converted,
}

/// The forms of `POST /ingest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One event, an array of events, or `{"events":[…]}`.
    Json,
    /// One JSON event a line.
    Ndjson,
    /// `telemetryx.v1.EventBatch`.
    Protobuf,
}

impl Decode for Format {
    fn decode(
        &self,
        body: &[u8],
        limits: &DecodeLimits,
        visit: &mut Visit<'_>,
    ) -> Result<(), DecodeError> {
        match self {
            Self::Json => decode_json(body, limits, |raw, event| visit(Raw::Json(raw), event)),
            Self::Ndjson => decode_ndjson(body, limits, |raw, event| visit(Raw::Json(raw), event)),
            Self::Protobuf => {
                decode_protobuf(body, limits, |raw, event| visit(Raw::Protobuf(raw), event))
            }
        }
    }
}
