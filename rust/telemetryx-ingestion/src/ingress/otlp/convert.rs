//! Export requests to events: one for each log record, span and data point. `docs/protocols.md` says what becomes what.
//!
//! The payload is the record's own `ResourceLogs` (`ResourceSpans`, `ResourceMetrics`) in OTLP/JSON, with nothing else in it:
//! its resource, its scope and its schema urls. What is around a record is written once for all that share it.

use std::borrow::Cow;

use telemetryx_common::{DecodeError, DecodeLimits, ErrorCode, EventError, FieldSet, json};

use super::Signal;
use super::attributes::{self, Attribute};
use super::record::{self, Head, Text};
use super::schema::{self, Kind, Message};
use super::to_json::JsonWriter;
use super::wire::{Broken, Reader, Value, message_of, utf8};
use crate::intake::{Decode, Raw, Visit};

/// Most bytes that one request may become: a large resource with many small records is written once a record. What is over
/// it could not be one record of the journal anyway.
const WRITTEN_MAX: usize = 64 << 20;

const RESOURCE: u32 = 1;
const SCOPE: u32 = 1;
const RECORDS: u32 = 2;
const SCHEMA_URL: u32 = 3;
/// Attributes of a resource and of a scope.
const OF_RESOURCE: u32 = 1;
const OF_SCOPE: u32 = 3;
/// Of a metric: the one of its fields that has its points, and the number of the points in each of them.
const METRIC_DATA: [u32; 5] = [5, 7, 9, 10, 11];
const POINTS: u32 = 1;

impl Decode for Signal {
    fn decode(
        &self,
        body: &[u8],
        limits: &DecodeLimits,
        visit: &mut Visit<'_>,
    ) -> Result<(), DecodeError> {
        let mut request = Request {
            signal: *self,
            limits: *limits,
            index: 0,
            payload: Vec::with_capacity(4096),
            written: 0,
            joinable: body.len(),
            visit,
        };
        request.resources(body).map_err(|stop| match stop {
            Stop::Broken(Broken(message)) => DecodeError::Malformed {
                code: ErrorCode::InvalidProtobuf,
                message: format!(
                    "this is no OTLP request: {message}, in or behind record {}",
                    request.index
                )
                .into(),
                line: 1,
                column: 1,
                offset: 0,
            },
            Stop::TooLarge(error) => error,
        })
    }
}

/// Why a request as a whole is refused.
enum Stop {
    Broken(Broken),
    TooLarge(DecodeError),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A request under way.
struct Request<'r, 'v> {
    signal: Signal,
    limits: DecodeLimits,
    /// Of the next record.
    index: u32,
    /// The payload of the next record, as far as it is known.
    payload: Vec<u8>,
    /// Bytes written, for this record and those before it.
    written: usize,
    /// See [`message_of`].
    joinable: usize,
    visit: &'r mut Visit<'v>,
}

/// What the records of one scope have in common.
struct Around<'a> {
    source: Option<&'a str>,
    attributes: &'a [Attribute<'a>],
    /// What follows a record in its payload.
    after: Vec<u8>,
    /// Of what is before and after.
    text: Text,
}

impl Request<'_, '_> {
    fn resources(&mut self, body: &[u8]) -> Result<(), Stop> {
        let mut reader = Reader::new(body);
        while let Some((number, value)) = reader.next()? {
            if let (1, Value::Bytes(resource)) = (number, value) {
                self.resource(resource)?;
            }
        }
        Ok(())
    }

    fn resource(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.payload.clear();
        self.payload.push(b'{');
        let resource = message_of(bytes, RESOURCE, &mut self.joinable)?;
        let mut text = Text::default();
        if let Some(resource) = &resource {
            self.payload.extend_from_slice(b"\"resource\":");
            text = self.write(1, &schema::RESOURCE, resource)?;
            self.payload.push(b',');
        }
        self.payload
            .extend_from_slice(self.signal.scopes().as_bytes());
        let attributes = shared(text, resource.as_deref(), OF_RESOURCE)?;
        let mut after = b"}]".to_vec();
        text = text.and(self.write_schema_url(bytes, &mut after)?);
        after.push(b'}');
        let around = Around {
            source: record::source(&attributes),
            attributes: &attributes,
            after,
            text,
        };
        let before = self.payload.len();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            if let (RECORDS, Value::Bytes(scope)) = (number, value) {
                self.payload.truncate(before);
                self.scope(scope, &around)?;
            }
        }
        Ok(())
    }

    fn scope(&mut self, bytes: &[u8], resource: &Around<'_>) -> Result<(), Stop> {
        // An empty scope takes two bytes, and the same time as a full one.
        self.count(resource.after.len() + attributes::bytes(resource.attributes))?;
        let scope = message_of(bytes, SCOPE, &mut self.joinable)?;
        let mut text = resource.text;
        if let Some(scope) = &scope {
            self.payload.extend_from_slice(b"\"scope\":");
            text = text.and(self.write(3, &schema::SCOPE, scope)?);
            self.payload.push(b',');
        }
        self.payload
            .extend_from_slice(self.signal.records().as_bytes());
        let attributes = shared(text, scope.as_deref(), OF_SCOPE)?;
        let attributes = attributes::joined(resource.attributes, attributes);
        let mut after = b"]".to_vec();
        text = text.and(self.write_schema_url(bytes, &mut after)?);
        after.extend_from_slice(&resource.after);
        let around = Around {
            source: resource.source,
            attributes: &attributes,
            after,
            text,
        };
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            let (RECORDS, Value::Bytes(record)) = (number, value) else {
                continue;
            };
            match self.signal {
                Signal::Logs => {
                    self.record(&schema::LOG_RECORD, record, Head::of_log, &around, 4)?;
                }
                Signal::Traces => {
                    self.record(&schema::SPAN, record, Head::of_span, &around, 4)?;
                }
                Signal::Metrics => self.metric(record, &around)?,
            }
        }
        Ok(())
    }

    /// One event for each data point; the metric around it is part of what they have in common.
    fn metric(&mut self, bytes: &[u8], around: &Around<'_>) -> Result<(), Stop> {
        self.count(around.after.len())?;
        let (mut name, mut kind) = ("", None);
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match (number, value) {
                (1, Value::Bytes(text)) => name = utf8(text)?,
                _ if METRIC_DATA.contains(&number) => kind = Some(number),
                _ => {}
            }
        }
        let Some((kind, Data { key, data, point })) =
            kind.and_then(|kind| Some((kind, Data::of(kind)?)))
        else {
            return Ok(());
        };
        let parts = message_of(bytes, kind, &mut self.joinable)?;
        let parts = parts.ok_or(Broken("the data of a metric are no message"))?;
        let before = self.payload.len();
        let mut text = self.write(4, &schema::METRIC, &without(bytes, &METRIC_DATA)?)?;
        self.reopen();
        self.payload.extend_from_slice(key.as_bytes());
        text = text.and(self.write(5, data, &without(&parts, &[POINTS])?)?);
        self.reopen();
        self.payload.extend_from_slice(b"\"dataPoints\":[");
        let around = Around {
            after: [b"]}}", around.after.as_slice()].concat(),
            text: around.text.and(text),
            ..*around
        };
        let attributes = point.field_named("attributes");
        let attributes = attributes.map_or(0, |field| field.number);
        let mut reader = Reader::new(&parts);
        while let Some((number, value)) = reader.next()? {
            if let (POINTS, Value::Bytes(bytes)) = (number, value) {
                let head = |bytes| Head::of_point(bytes, name, attributes);
                self.record(point, bytes, head, &around, 7)?;
            }
        }
        self.payload.truncate(before);
        Ok(())
    }

    /// One event. `head` reads what becomes its fields.
    fn record<'b>(
        &mut self,
        message: &Message,
        bytes: &'b [u8],
        head: impl FnOnce(&'b [u8]) -> Result<Head<'b>, Broken>,
        around: &Around<'_>,
        depth: usize,
    ) -> Result<(), Stop> {
        let index = self.index;
        if index as usize >= self.limits.max_events {
            return Err(Stop::TooLarge(DecodeError::TooManyEvents {
                limit: self.limits.max_events,
            }));
        }
        let before = self.payload.len();
        let text = around.text.and(self.write(depth, message, bytes)?);
        let limit = self.limits.max_event_bytes;
        let length = self.payload.len() + around.after.len();
        if text.is_cut || length > limit {
            self.payload.truncate(before);
            self.index += 1;
            let message = format!("as an event it is longer than {limit} bytes (http.max_event)");
            let error = EventError::new("", ErrorCode::EventTooLarge, message);
            (self.visit)(Raw::Converted, Err(error.at(index)));
            return Ok(());
        }
        self.payload.extend_from_slice(&around.after);
        self.count(length + attributes::bytes(around.attributes))?;
        // Only now: the attributes of a record that is cut could be as many as fit into a body.
        let head = head(bytes)?;
        self.index += 1;
        let payload = utf8(&self.payload)?;
        let id = if self.signal == Signal::Traces {
            head.id()
        } else {
            Vec::new()
        };
        let Around {
            source, attributes, ..
        } = around;
        let mut event = head.into_event(self.signal, *source, attributes, payload);
        if !id.is_empty() {
            event.given |= FieldSet::ID;
            event.id = Cow::Borrowed(utf8(&id)?);
        }
        match record::fault(&event, text) {
            None => (self.visit)(Raw::Converted, Ok(event)),
            Some(error) => {
                let mut raw = Vec::new();
                json::write_event(&event, &mut raw);
                (self.visit)(Raw::Json(&raw), Err(error.at(index)));
            }
        }
        self.payload.truncate(before);
        Ok(())
    }

    fn write(&mut self, depth: usize, message: &Message, bytes: &[u8]) -> Result<Text, Stop> {
        let limit = self.limits.max_event_bytes;
        let mut writer = JsonWriter::new(&mut self.payload, depth, limit);
        writer.message(message, bytes)?;
        Ok(Text {
            depth_max: writer.depth_max,
            has_nul: writer.has_nul,
            is_cut: writer.is_cut,
        })
    }

    /// Appends `,"schemaUrl":…` if there is one.
    fn write_schema_url(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Text, Broken> {
        let mut url = None;
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            if let (SCHEMA_URL, Value::Bytes(text)) = (number, value) {
                url = Some(text);
            }
        }
        let mut text = Text::default();
        let Some(url) = url else {
            return Ok(text);
        };
        text.is_cut = url.len() > self.limits.max_event_bytes;
        if !text.is_cut {
            let url = utf8(url)?;
            out.extend_from_slice(b",\"schemaUrl\":");
            json::write_str(url, out);
            text.has_nul = url.contains('\0');
        }
        Ok(text)
    }

    /// Takes back the end of an object, so that it can go on.
    fn reopen(&mut self) {
        self.payload.pop();
        if self.payload.last() != Some(&b'{') {
            self.payload.push(b',');
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Stop> {
        self.written += bytes;
        if self.written > WRITTEN_MAX {
            return Err(Stop::TooLarge(DecodeError::BatchTooLarge {
                limit: WRITTEN_MAX,
            }));
        }
        Ok(())
    }
}

/// One of the kinds of metric.
struct Data {
    /// Its name in JSON.
    key: &'static str,
    data: &'static Message,
    point: &'static Message,
}

impl Data {
    /// The one that is the field `number` of a metric.
    fn of(number: u32) -> Option<Self> {
        let (_, field) = schema::METRIC.field(number)?;
        let Kind::Message(data) = field.kind else {
            return None;
        };
        let Kind::Message(point) = data.field(POINTS)?.1.kind else {
            return None;
        };
        Some(Self {
            key: field.key,
            data,
            point,
        })
    }
}

/// The attributes of a resource or a scope. One that is cut has none: they could be as many as fit into a body.
fn shared(text: Text, message: Option<&[u8]>, number: u32) -> Result<Vec<Attribute<'_>>, Broken> {
    match message {
        Some(message) if !text.is_cut => attributes::of_message(message, number),
        _ => Ok(Vec::new()),
    }
}

/// The message without some of its fields.
fn without(bytes: &[u8], numbers: &[u32]) -> Result<Vec<u8>, Broken> {
    let mut kept = Vec::new();
    let mut reader = Reader::new(bytes);
    let mut start = 0;
    while let Some((number, _)) = reader.next()? {
        let end = bytes.len() - reader.left();
        if !numbers.contains(&number) {
            kept.extend_from_slice(bytes.get(start..end).unwrap_or_default());
        }
        start = end;
    }
    Ok(kept)
}
