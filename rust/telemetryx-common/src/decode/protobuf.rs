//! `application/x-protobuf`: `telemetryx.v1.EventBatch`.

use super::draft::Draft;
use super::{DecodeLimits, PAYLOAD_LEVEL, malformed};
use crate::scan::{Broken, Fault, Mistake, Scanner};
use crate::wire::{EVENTS, MessageError, Reader, WireError, WireType, read_message};
use crate::{DecodeError, ErrorCode, Event, EventError, EventType, FieldSet, Source, Timestamp};

/// Visits the events of a protobuf body, a `telemetryx.v1.EventBatch`.
///
/// Fields that nobody knows are skipped, `received_unix_nano` is ignored. An event whose own bytes are damaged is a
/// rejected event, and the others go on.
///
/// # Errors
///
/// What makes the whole body unreadable. Then what was visited before does not count.
pub fn decode_protobuf<'a>(
    body: &'a [u8],
    limits: &DecodeLimits,
    mut visit: impl FnMut(&'a [u8], Result<Event<'a>, EventError>),
) -> Result<(), DecodeError> {
    let broken = |error| broken_batch(body, error);
    let mut reader = Reader::new(body);
    let mut index = 0;
    while !reader.is_empty() {
        let (field, wire_type) = reader.tag().map_err(broken)?;
        match (field, wire_type) {
            (EVENTS, WireType::Bytes) => {
                let message = reader.bytes().map_err(broken)?;
                limits.check(index, message.len())?;
                visit(
                    message,
                    read_event(message, reader.pos() - message.len(), index),
                );
                index += 1;
            }
            (EVENTS, _) => {
                return Err(broken_batch(
                    body,
                    WireError {
                        message: "`events` must be messages",
                        offset: reader.pos(),
                    },
                ));
            }
            _ => reader.skip(wire_type).map_err(broken)?,
        }
    }
    if index == 0 {
        return Err(DecodeError::Empty);
    }
    Ok(())
}

#[cold]
fn broken_batch(body: &[u8], error: WireError) -> DecodeError {
    match malformed(
        body,
        error.offset,
        ErrorCode::InvalidProtobuf,
        error.message,
    ) {
        DecodeError::Malformed {
            code,
            message,
            offset,
            ..
        } => DecodeError::Malformed {
            code,
            message,
            line: 1,
            column: offset + 1,
            offset,
        },
        other => other,
    }
}

/// Reads one event and applies the rules of requests.
#[inline]
fn read_event(message: &[u8], base: usize, index: u32) -> Result<Event<'_>, EventError> {
    let event = match read_message(message) {
        Ok(event) => event,
        Err(error) => return Err(broken_event(error, base, index)),
    };
    let mut draft = Draft::from_event(event, base);
    check_text(&mut draft);
    draft.sort_attributes(0);
    check_payload(&mut draft, message);
    draft.event.received_at = Timestamp::UNIX_EPOCH;
    draft.finish(index, 0)
}

#[cold]
fn broken_event(error: MessageError, base: usize, index: u32) -> EventError {
    let offset = base + error.offset;
    let message = match error.field {
        "" => format!("{} (byte {offset} of the body)", error.message),
        field => format!("`{field}`: {} (byte {offset} of the body)", error.message),
    };
    EventError::new(error.field, error.code, message).at(index)
}

/// Lengths, and NULs, which JSON's scanner would have found.
#[inline]
fn check_text(draft: &mut Draft<'_>) {
    draft.check_lengths(0);
    let event = &draft.event;
    let partition_key = event.partition_key.as_deref().unwrap_or_default();
    let source = match &event.source {
        Source::Name(name) => name.as_ref(),
        Source::Number(_) => "",
    };
    let kind = match &event.event_type {
        EventType::Custom(name) => name.as_ref(),
        EventType::Heartbeat => "",
    };
    let texts = [
        ("id", event.id.as_ref()),
        ("type", kind),
        ("source", source),
        ("partition_key", partition_key),
    ];
    let attributes = event.attributes.iter();
    let attributes = attributes.flat_map(|(name, value)| [name, value]);
    let attributes = attributes.map(|text| ("attributes", text.as_ref()));
    let found = texts
        .into_iter()
        .chain(attributes)
        .find(|(_, text)| memchr::memchr(0, text.as_bytes()).is_some());
    if let Some((field, _)) = found {
        let (code, message) = (
            ErrorCode::InvalidString,
            "NUL cannot be stored: leave it out",
        );
        let offset = 0;
        draft.fail_with(
            field,
            Fault {
                offset,
                code,
                message,
            },
        );
    }
}

/// The payload must be JSON, by the same rules as in a JSON body.
#[inline]
fn check_payload(draft: &mut Draft<'_>, message: &[u8]) {
    if !draft.event.given.contains(FieldSet::PAYLOAD) {
        return;
    }
    let mut scanner = Scanner::new(&draft.event.payload);
    scanner.skip_whitespace();
    let scanned = scanner.value(PAYLOAD_LEVEL).and_then(|_| scanner.finish());
    let fault = match scanned {
        Ok(()) => scanner.take_fault(),
        Err(Broken) => {
            let Mistake { offset, message } = scanner.mistake();
            let code = ErrorCode::InvalidJson;
            Some(Fault {
                offset,
                code,
                message,
            })
        }
    };
    if let Some(mut fault) = fault {
        // The payload borrows from the message: the distance of the two is where it stands.
        let payload = draft.event.payload.as_ptr().addr();
        fault.offset += payload.saturating_sub(message.as_ptr().addr());
        draft.fail_with("payload", fault);
    }
}
