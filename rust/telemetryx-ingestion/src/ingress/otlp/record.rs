//! What of a record becomes fields of its event, beside the payload that holds all of it.

use std::borrow::Cow;

use telemetryx_common::{
    ErrorCode, Event, EventError, EventType, FieldSet, MAX_DEPTH, MAX_SOURCE_BYTES, Source,
    Timestamp,
};

use super::Signal;
use super::attributes::{self, Attribute};
use super::to_json::write_hex;
use super::wire::{Broken, Reader, Value, utf8};

/// The attribute of a resource that says who sends.
const SERVICE_NAME: &str = "service.name";
/// `<trace id>-<span id>` in hexadecimal digits, and the longest of the kinds.
const SPAN_ID_BYTES: usize = 49 + "-producer".len();

/// What of a record becomes fields of its event.
#[derive(Default)]
pub(super) struct Head<'b> {
    time: u64,
    /// Of a log record.
    observed: u64,
    trace: &'b [u8],
    span: &'b [u8],
    /// Of a span.
    kind: u64,
    severity: &'b str,
    name: &'b str,
    attributes: Vec<Attribute<'b>>,
}

impl<'b> Head<'b> {
    /// Of a log record.
    pub(super) fn of_log(record: &'b [u8]) -> Result<Self, Broken> {
        let mut head = Self::default();
        let mut reader = Reader::new(record);
        while let Some((number, value)) = reader.next()? {
            match (number, value) {
                (1, Value::Fixed64(time)) => head.time = time,
                (11, Value::Fixed64(time)) => head.observed = time,
                (3, Value::Bytes(severity)) => head.severity = utf8(severity)?,
                (6, Value::Bytes(attribute)) => head.attribute(attribute)?,
                (12, Value::Bytes(name)) => head.name = utf8(name)?,
                _ => {}
            }
        }
        Ok(head)
    }

    /// Of a span.
    pub(super) fn of_span(span: &'b [u8]) -> Result<Self, Broken> {
        let mut head = Self::default();
        let mut reader = Reader::new(span);
        while let Some((number, value)) = reader.next()? {
            match (number, value) {
                (1, Value::Bytes(id)) => head.trace = id,
                (2, Value::Bytes(id)) => head.span = id,
                (5, Value::Bytes(name)) => head.name = utf8(name)?,
                (6, Value::Varint(kind)) => head.kind = kind,
                (7, Value::Fixed64(time)) => head.time = time,
                (9, Value::Bytes(attribute)) => head.attribute(attribute)?,
                _ => {}
            }
        }
        Ok(head)
    }

    /// Of a data point of the metric `name`; `attributes` is the number of its attributes.
    pub(super) fn of_point(
        point: &'b [u8],
        name: &'b str,
        attributes: u32,
    ) -> Result<Self, Broken> {
        let mut head = Self {
            name,
            ..Self::default()
        };
        let mut reader = Reader::new(point);
        while let Some((number, value)) = reader.next()? {
            match (number, value) {
                (3, Value::Fixed64(time)) => head.time = time,
                (_, Value::Bytes(attribute)) if number == attributes => {
                    head.attribute(attribute)?
                }
                _ => {}
            }
        }
        Ok(head)
    }

    fn attribute(&mut self, pair: &'b [u8]) -> Result<(), Broken> {
        self.attributes.extend(attributes::of_pair(pair)?);
        Ok(())
    }

    /// The id of a span; empty for everything else, and for a span whose ids are not what they should be. Both sides of a
    /// call may be spans of one id (Zipkin's shared spans), so that it has the kind as well.
    pub(super) fn id(&self) -> Vec<u8> {
        let is_id = |id: &[u8], length| id.len() == length && id.iter().any(|byte| *byte != 0);
        let mut id = Vec::new();
        if is_id(self.trace, 16) && is_id(self.span, 8) {
            id.reserve_exact(SPAN_ID_BYTES);
            write_hex(self.trace, &mut id);
            id.push(b'-');
            write_hex(self.span, &mut id);
            let kind: &[u8] = match self.kind {
                2 => b"-server",
                3 => b"-client",
                4 => b"-producer",
                5 => b"-consumer",
                _ => b"",
            };
            id.extend_from_slice(kind);
        }
        id
    }

    /// The event, without its id, and without a time if the record has none. `shared` are the attributes of its resource
    /// and scope.
    pub(super) fn into_event<'e>(
        self,
        signal: Signal,
        source: Option<&'e str>,
        shared: &'e [Attribute<'_>],
        payload: &'e str,
    ) -> Event<'e>
    where
        'b: 'e,
    {
        let mut nanos = [self.time, self.observed].into_iter();
        // Beyond 2262 is the last moment there is: far ahead, and refused as such.
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        match nanos.find(|nanos| *nanos > 0) {
            Some(nanos) => {
                event.ts = Timestamp::from_unix_nanos(i64::try_from(nanos).unwrap_or(i64::MAX));
            }
            None => event.given = FieldSet::EMPTY,
        }
        event.given |= FieldSet::TYPE | FieldSet::SCHEMA_VERSION | FieldSet::PAYLOAD;
        event.event_type = EventType::Custom(Cow::Borrowed(signal.event_type()));
        event.payload = Cow::Borrowed(payload);
        if let Some(source) = source {
            event.given |= FieldSet::SOURCE;
            event.source = Source::Name(Cow::Borrowed(source));
        }
        let mut own = self.attributes;
        let labels = [("name", self.name), ("severity", self.severity)];
        for (label, text) in labels.into_iter().filter(|(_, text)| !text.is_empty()) {
            own.push((Cow::Borrowed(label), Cow::Borrowed(text)));
        }
        event.attributes = attributes::joined(shared, own);
        if !event.attributes.is_empty() {
            event.given |= FieldSet::ATTRIBUTES;
        }
        event
    }
}

/// Who sends, as the attributes of the resource have it.
pub(super) fn source<'e>(resource: &'e [Attribute<'_>]) -> Option<&'e str> {
    let (_, name) = resource.iter().find(|(name, _)| name == SERVICE_NAME)?;
    Some(name.as_ref()).filter(|name| !name.is_empty())
}

/// What is to be known of JSON text that was written.
#[derive(Clone, Copy, Default)]
pub(super) struct Text {
    /// Most brackets open in it.
    pub(super) depth_max: usize,
    /// Whether it has a NUL, which many stores cannot hold.
    pub(super) has_nul: bool,
    /// Whether it is not all there: it is over the limit of an event.
    pub(super) is_cut: bool,
}

impl Text {
    /// Of both texts together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            depth_max: self.depth_max.max(other.depth_max),
            has_nul: self.has_nul || other.has_nul,
            is_cut: self.is_cut || other.is_cut,
        }
    }
}

/// What makes it an event that nobody could store; `text` is of its payload.
pub(super) fn fault(event: &Event<'_>, text: Text) -> Option<EventError> {
    let source = event.source.as_text().len();
    let (field, code, message) = if source > MAX_SOURCE_BYTES {
        let message = format!(
            "`{SERVICE_NAME}` is {source} bytes long: it may have {MAX_SOURCE_BYTES} bytes at most"
        );
        ("source", ErrorCode::TooLong, message)
    } else if text.has_nul {
        let message = "a text has a NUL character, which many stores cannot hold".to_owned();
        ("payload", ErrorCode::InvalidString, message)
    } else if text.depth_max >= MAX_DEPTH {
        let message = format!(
            "values are nested too deep: as JSON deeper than {}",
            MAX_DEPTH - 1
        );
        ("payload", ErrorCode::TooDeep, message)
    } else {
        return None;
    };
    Some(EventError::new(field, code, message))
}
