//! The bytes of one `Event` message to an event that borrows from them.
//!
//! Checks what every reader needs: the grammar, UTF-8, and types. The rules for what clients send are `decode`'s.

use std::borrow::Cow;

use super::WireError;
use super::reader::{Reader, WireType};
use crate::{ErrorCode, Event, EventType, FieldSet, Source, Timestamp};

/// Why a message is not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageError {
    /// The field that is wrong, empty if it is the message as a whole.
    pub(crate) field: &'static str,
    pub(crate) code: ErrorCode,
    pub(crate) message: &'static str,
    /// Bytes of the message before the mistake.
    pub(crate) offset: usize,
}

impl MessageError {
    /// The same error, of a message that begins at byte `base` of a batch.
    #[cold]
    pub(super) fn in_batch(self, base: usize) -> WireError {
        WireError {
            message: self.message,
            offset: base + self.offset,
        }
    }
}

impl From<WireError> for MessageError {
    #[cold]
    fn from(error: WireError) -> Self {
        MessageError {
            field: "",
            code: ErrorCode::InvalidProtobuf,
            message: error.message,
            offset: error.offset,
        }
    }
}

/// Reads one event. Fields that nobody knows are skipped; of fields given twice the last counts, as protobuf has it.
#[inline]
pub(crate) fn read_message(message: &[u8]) -> Result<Event<'_>, MessageError> {
    let mut event = Event::new(Timestamp::UNIX_EPOCH);
    event.given = FieldSet::EMPTY;
    let mut reader = Reader::new(message);
    while !reader.is_empty() {
        read_field(&mut reader, &mut event)?;
    }
    Ok(event)
}

#[inline]
fn read_field<'a>(reader: &mut Reader<'a>, event: &mut Event<'a>) -> Result<(), MessageError> {
    let (number, wire_type) = reader.tag()?;
    let given = match (number, wire_type) {
        (1, WireType::Bytes) => {
            event.id = text(reader, "id")?;
            (!event.id.is_empty()).then_some(FieldSet::ID)
        }
        (2, WireType::Fixed64) => {
            event.ts = Timestamp::from_unix_nanos(reader.fixed64()?);
            (event.ts != Timestamp::UNIX_EPOCH).then_some(FieldSet::TS)
        }
        (3, WireType::Bytes) => {
            let name = text(reader, "type")?;
            let named = !name.is_empty();
            event.event_type = match named {
                true => EventType::from_name(name),
                false => EventType::DEFAULT,
            };
            named.then_some(FieldSet::TYPE)
        }
        (4, WireType::Bytes) => {
            let name = text(reader, "source")?;
            let named = !name.is_empty();
            event.source = match named {
                true => Source::Name(name),
                false => Source::DEFAULT,
            };
            named.then_some(FieldSet::SOURCE)
        }
        (5, WireType::Varint) => {
            event.source = Source::Number(reader.varint()?);
            Some(FieldSet::SOURCE)
        }
        (6, WireType::Varint) => schema_version(reader, event)?,
        (7, WireType::Bytes) => {
            let key = text(reader, "partition_key")?;
            event.partition_key = (!key.is_empty()).then_some(key);
            event
                .partition_key
                .as_ref()
                .map(|_| FieldSet::PARTITION_KEY)
        }
        (8, WireType::Bytes) => {
            read_attribute(reader, event)?;
            Some(FieldSet::ATTRIBUTES)
        }
        (9, WireType::Bytes) => {
            let payload = text(reader, "payload")?;
            let given = !payload.is_empty();
            event.payload = if given {
                payload
            } else {
                Cow::Borrowed("null")
            };
            given.then_some(FieldSet::PAYLOAD)
        }
        (10, WireType::Fixed64) => {
            event.received_at = Timestamp::from_unix_nanos(reader.fixed64()?);
            None
        }
        (1..=10, _) => return Err(wrong_type(reader)),
        _ => {
            reader.skip(wire_type)?;
            None
        }
    };
    if let Some(field) = given {
        event.given.insert(field);
    }
    Ok(())
}

#[inline]
fn schema_version<'a>(
    reader: &mut Reader<'a>,
    event: &mut Event<'a>,
) -> Result<Option<FieldSet>, MessageError> {
    let offset = reader.pos();
    let version = u32::try_from(reader.varint()?).map_err(|_| MessageError {
        field: "schema_version",
        code: ErrorCode::InvalidValue,
        message: "`schema_version` must be from 1 to 4294967295",
        offset,
    })?;
    event.schema_version = version.max(1);
    Ok((version > 0).then_some(FieldSet::SCHEMA_VERSION))
}

/// One entry of the map of attributes: a message of a name and a value.
fn read_attribute<'a>(reader: &mut Reader<'a>, event: &mut Event<'a>) -> Result<(), MessageError> {
    let entry = reader.bytes()?;
    let base = reader.pos() - entry.len();
    let (name, value) = read_entry(entry).map_err(|error| MessageError {
        offset: base + error.offset,
        ..error
    })?;
    event.attributes.push((name, value));
    Ok(())
}

fn read_entry(entry: &[u8]) -> Result<(Cow<'_, str>, Cow<'_, str>), MessageError> {
    let mut reader = Reader::new(entry);
    let (mut name, mut value) = (Cow::Borrowed(""), Cow::Borrowed(""));
    while !reader.is_empty() {
        match reader.tag()? {
            (1, WireType::Bytes) => name = text(&mut reader, "attributes")?,
            (2, WireType::Bytes) => value = text(&mut reader, "attributes")?,
            (1 | 2, _) => return Err(wrong_type(&reader)),
            (_, wire_type) => reader.skip(wire_type)?,
        }
    }
    Ok((name, value))
}

#[inline]
fn text<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<Cow<'a, str>, MessageError> {
    let bytes = reader.bytes()?;
    match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(_) => Err(not_utf8(field, reader.pos() - bytes.len())),
    }
}

#[cold]
fn not_utf8(field: &'static str, offset: usize) -> MessageError {
    MessageError {
        field,
        code: ErrorCode::InvalidString,
        message: "bytes that are not UTF-8",
        offset,
    }
}

#[cold]
fn wrong_type(reader: &Reader<'_>) -> MessageError {
    MessageError {
        field: "",
        code: ErrorCode::InvalidProtobuf,
        message: "a field has a wire type that is not its own",
        offset: reader.pos(),
    }
}
