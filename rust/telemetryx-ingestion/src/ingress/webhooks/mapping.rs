//! From a delivery to an event: what its headers and its body say, and what stands in where they say nothing.

use std::borrow::Cow;
use std::ops::Range;

use ::http::{HeaderMap, HeaderName};
use telemetryx_common::ids::EventIds;
use telemetryx_common::{
    DecodeError, DecodeLimits, Document, ErrorCode, Event, EventError, EventType, FieldSet, Found,
    MAX_ID_BYTES, MAX_SOURCE_BYTES, MAX_TYPE_BYTES, Pointers, Source, Timestamp, TimestampError,
    json, read_document,
};

use super::signature::single;
use crate::config::{TimeUnit, WebhookBody, WebhookConfig, WebhookPart};
use crate::intake::{Decode, Raw, Refusal, Visit};

/// What the deliveries of one webhook become.
pub struct Mapping {
    webhook: String,
    id_header: Option<HeaderName>,
    type_header: Option<HeaderName>,
    id_prefix: String,
    type_prefix: String,
    /// All places in the body; the ranges say whose.
    places: Pointers,
    id: Range<usize>,
    time: Range<usize>,
    event_type: Range<usize>,
    source: Range<usize>,
    /// In the order of their names; their places follow `source`.
    attributes: Vec<String>,
    time_unit: TimeUnit,
    required: Vec<WebhookPart>,
    body: WebhookBody,
}

/// One delivery: what its headers say, and how its body is read.
pub struct Delivery<'d> {
    mapping: &'d Mapping,
    id: Option<&'d str>,
    event_type: Option<&'d str>,
}

impl Mapping {
    /// The mapping of a config that was settled.
    ///
    /// # Errors
    /// A key of the config, and what is wrong with it.
    pub fn new(webhook: &str, config: &WebhookConfig) -> Result<Self, (&'static str, String)> {
        let header = |key: &'static str, name: &Option<String>| match name {
            None => Ok(None),
            Some(name) => HeaderName::from_bytes(name.as_bytes())
                .map(Some)
                .map_err(|error| (key, error.to_string())),
        };
        let mut places = Vec::new();
        let mut range =
            |key: &'static str, pointers: &mut dyn Iterator<Item = &String>| {
                let start = places.len();
                for pointer in pointers {
                    places.push(pointer.parse().map_err(
                        |error: telemetryx_common::PointerError| (key, error.to_string()),
                    )?);
                }
                Ok::<_, (&'static str, String)>(start..places.len())
            };
        let id = range("id", &mut config.id.iter().flatten())?;
        let time = range("time", &mut config.time.iter().flatten())?;
        let event_type = range("type", &mut config.event_type.iter().flatten())?;
        let source = range("source", &mut config.source.iter().flatten())?;
        let attributes = config.attributes.iter().flatten();
        range("attributes", &mut attributes.clone().map(|(_, at)| at))?;
        Ok(Self {
            webhook: webhook.to_owned(),
            id_header: header("id_header", &config.id_header)?,
            type_header: header("type_header", &config.type_header)?,
            id_prefix: config.id_prefix.clone().unwrap_or_default(),
            type_prefix: config.type_prefix.clone().unwrap_or_default(),
            places: Pointers::new(places)
                .ok_or_else(|| ("attributes", "there are too many places".to_owned()))?,
            id,
            time,
            event_type,
            source,
            attributes: attributes.map(|(name, _)| name.clone()).collect(),
            time_unit: config.time_unit.unwrap_or(TimeUnit::Auto),
            required: config.required.clone().unwrap_or_default(),
            body: config.body.unwrap_or(WebhookBody::Json),
        })
    }

    fn names_an_id(&self) -> bool {
        self.id_header.is_some() || !self.id.is_empty()
    }

    /// The type of a delivery that has none.
    fn type_alone(&self) -> &str {
        self.type_prefix.trim_end_matches('.')
    }

    /// The time that stands in the body.
    fn time_of(&self, found: &Found<'_>) -> Option<Result<Timestamp, TimestampError>> {
        match (found, self.time_unit) {
            (Found::Text(text), _) => Some(Timestamp::parse(text)),
            (Found::Number(number), TimeUnit::Auto) => Some(Timestamp::from_epoch_number(number)),
            (Found::Number(number), TimeUnit::S) => Some(nanos(number, 9)),
            (Found::Number(number), TimeUnit::Ms) => Some(nanos(number, 6)),
            (Found::Number(number), TimeUnit::Us) => Some(nanos(number, 3)),
            (Found::Number(number), TimeUnit::Ns) => Some(nanos(number, 0)),
            (Found::Boolean(_) | Found::Null | Found::Nested, _) => None,
        }
    }
}

impl<'d> Delivery<'d> {
    /// What the headers say. They are not signed by every sender: see the presets.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`]: a header is there and cannot be read, or twice.
    pub fn new(mapping: &'d Mapping, headers: &'d HeaderMap) -> Result<Self, Refusal> {
        let read = |name: &Option<HeaderName>| {
            let Some(name) = name.as_ref().filter(|name| headers.contains_key(*name)) else {
                return Ok(None);
            };
            match single(headers, name) {
                Some(text) => Ok(Some(text).filter(|text| !text.is_empty())),
                None => Err(Refusal::BadRequest {
                    code: "invalid_header",
                    message: format!("`{name}` must be there once, in visible ASCII characters"),
                }),
            }
        };
        Ok(Self {
            mapping,
            id: read(&mapping.id_header)?,
            event_type: read(&mapping.type_header)?,
        })
    }

    /// The event that the delivery is.
    fn event<'b>(
        &self,
        payload: Cow<'b, str>,
        found: &[Option<Found<'b>>],
        body: &[u8],
    ) -> Result<Event<'b>, EventError>
    where
        'd: 'b,
    {
        let mapping = self.mapping;
        let places = |range: &Range<usize>| {
            let found = found.get(range.clone()).unwrap_or_default();
            found.iter().flatten()
        };
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        // Which schema it has, the webhook says.
        event.given = FieldSet::PAYLOAD | FieldSet::SCHEMA_VERSION;
        event.payload = payload;

        match places(&mapping.time).find_map(|found| mapping.time_of(found)) {
            Some(Ok(ts)) => {
                event.ts = ts;
                event.given.insert(FieldSet::TS);
            }
            Some(Err(error)) => {
                let message = format!("the time of the delivery cannot be taken: {error}");
                return Err(EventError::new("ts", error.code(), message));
            }
            None => mapping.require(WebhookPart::Time, "ts")?,
        }
        let id = self.id.map(Cow::Borrowed);
        match id.or_else(|| places(&mapping.id).find_map(text)) {
            Some(id) => {
                event.id = short("id", prefixed(&mapping.id_prefix, id), MAX_ID_BYTES)?;
                event.given.insert(FieldSet::ID);
            }
            None => {
                mapping.require(WebhookPart::Id, "id")?;
                if mapping.names_an_id() {
                    // A second delivery of the same body is the same event.
                    let ids = EventIds::from_idempotency_key(&mapping.webhook, body);
                    event.id = ids.id_for(0, &mut [0; 36]).to_owned().into();
                }
            }
        }
        let name = self.event_type.map(Cow::Borrowed);
        match name.or_else(|| places(&mapping.event_type).find_map(text)) {
            Some(name) => {
                let name = prefixed(&mapping.type_prefix, name);
                event.event_type = EventType::from_name(short("type", name, MAX_TYPE_BYTES)?);
                event.given.insert(FieldSet::TYPE);
            }
            None => {
                mapping.require(WebhookPart::Type, "type")?;
                if !mapping.type_alone().is_empty() {
                    event.event_type = EventType::from_name(mapping.type_alone().into());
                    event.given.insert(FieldSet::TYPE);
                }
            }
        }
        event.source = match places(&mapping.source).find_map(source) {
            Some(Source::Name(name)) => Source::Name(short("source", name, MAX_SOURCE_BYTES)?),
            Some(number) => number,
            None => {
                mapping.require(WebhookPart::Source, "source")?;
                Source::Name(mapping.webhook.as_str().into())
            }
        };
        event.given.insert(FieldSet::SOURCE);
        let values = found.get(mapping.source.end..).unwrap_or_default();
        for (name, value) in std::iter::zip(&mapping.attributes, values) {
            if let Some(value) = value.as_ref().and_then(scalar) {
                event.attributes.push((name.as_str().into(), value));
                event.given.insert(FieldSet::ATTRIBUTES);
            }
        }
        Ok(event)
    }

    /// What a dead letter keeps of a body that is no event: an event without a time, so that it is not taken for one.
    fn kept(&self, body: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(body.len() + 128);
        kept.push(b'{');
        if let Some(id) = self.id {
            kept.extend_from_slice(b"\"id\":");
            json::write_str(&prefixed(&self.mapping.id_prefix, id.into()), &mut kept);
            kept.push(b',');
        }
        kept.extend_from_slice(b"\"type\":");
        let event_type = match self.event_type {
            Some(name) => prefixed(&self.mapping.type_prefix, name.into()),
            None => self.mapping.type_alone().into(),
        };
        json::write_str(&event_type, &mut kept);
        kept.extend_from_slice(b",\"source\":");
        json::write_str(&self.mapping.webhook, &mut kept);
        kept.extend_from_slice(b",\"payload\":");
        match read_document(body, &Pointers::default()) {
            Ok(document) => kept.extend_from_slice(document.text.as_bytes()),
            Err(_) => json::write_str(&String::from_utf8_lossy(body), &mut kept),
        }
        kept.push(b'}');
        kept
    }
}

impl Decode for Delivery<'_> {
    fn decode(
        &self,
        body: &[u8],
        limits: &DecodeLimits,
        visit: &mut Visit<'_>,
    ) -> Result<(), DecodeError> {
        if body.len() > limits.max_event_bytes {
            return Err(DecodeError::EventTooLarge {
                index: 0,
                bytes: body.len(),
                limit: limits.max_event_bytes,
            });
        }
        let event = match read_document(body, &self.mapping.places) {
            Ok(Document { text, found }) => self.event(Cow::Borrowed(text), &found, body),
            Err(error) => match self.as_text(body, &error) {
                Some(payload) => self.event(Cow::Owned(payload), &[], body),
                None => Err(error),
            },
        };
        match event {
            Ok(event) => visit(Raw::Converted, Ok(event)),
            Err(error) => visit(Raw::Json(&self.kept(body)), Err(error)),
        }
        Ok(())
    }
}

impl Delivery<'_> {
    /// The body as a JSON string, if it is text that may be anything but JSON.
    fn as_text(&self, body: &[u8], error: &EventError) -> Option<String> {
        let may = self.mapping.body == WebhookBody::Text
            && matches!(error.code, ErrorCode::InvalidJson | ErrorCode::Empty)
            && !body.contains(&0);
        let text = std::str::from_utf8(body).ok().filter(|_| may)?;
        let mut payload = Vec::with_capacity(body.len() + 16);
        json::write_str(text, &mut payload);
        String::from_utf8(payload).ok()
    }
}

impl Mapping {
    fn require(&self, part: WebhookPart, field: &'static str) -> Result<(), EventError> {
        if !self.required.contains(&part) {
            return Ok(());
        }
        let message = format!(
            "the delivery has no `{field}` where webhooks.{} says it is",
            self.webhook
        );
        Err(EventError::new(field, ErrorCode::MissingField, message))
    }
}

fn prefixed<'t>(prefix: &str, text: Cow<'t, str>) -> Cow<'t, str> {
    match prefix {
        "" => text,
        prefix => format!("{prefix}{text}").into(),
    }
}

/// A text or a number, as text; an empty one is not there.
fn text<'b>(found: &Found<'b>) -> Option<Cow<'b, str>> {
    match found {
        Found::Text(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Found::Number(number) => Some(Cow::Borrowed(*number)),
        Found::Boolean(_) | Found::Null | Found::Nested => None,
    }
}

/// The same, and `true` and `false`.
fn scalar<'b>(found: &Found<'b>) -> Option<Cow<'b, str>> {
    match found {
        Found::Text(text) => Some(text.clone()),
        Found::Number(text) | Found::Boolean(text) => Some(Cow::Borrowed(*text)),
        Found::Null | Found::Nested => None,
    }
}

/// A name, or a number that stays one.
fn source<'b>(found: &Found<'b>) -> Option<Source<'b>> {
    let name = text(found)?;
    match (found, name.parse()) {
        (Found::Number(_), Ok(number)) => Some(Source::Number(number)),
        _ => Some(Source::Name(name)),
    }
}

fn short<'b>(
    field: &'static str,
    text: Cow<'b, str>,
    limit: usize,
) -> Result<Cow<'b, str>, EventError> {
    if text.len() <= limit {
        return Ok(text);
    }
    let message = format!(
        "`{field}` is {} bytes long: it may have {limit} bytes at most",
        text.len()
    );
    Err(EventError::new(field, ErrorCode::TooLong, message))
}

/// A number of units, each of 10^`power` nanoseconds, exactly; what is less than a nanosecond is cut off.
fn nanos(number: &str, power: usize) -> Result<Timestamp, TimestampError> {
    let invalid = TimestampError::Invalid("it is not a plain number");
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole.trim_start_matches('-')) || !plain(fraction) {
        return Err(invalid);
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(power);
    let digits: String = whole.chars().chain(digits.map(char::from)).collect();
    let nanos = digits.parse().map_err(|_| TimestampError::OutOfRange)?;
    Ok(Timestamp::from_unix_nanos(nanos))
}
