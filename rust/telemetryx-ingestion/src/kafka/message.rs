//! One event as one message: key, value, headers, time.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::util::IntoOpaque;
use serde::Deserialize;
use telemetryx_common::{Event, Timestamp, json, wire};

/// The attribute, and the header, that continues a trace (W3C Trace Context).
const TRACE_PARENT: &str = "traceparent";

/// What the value of a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// `telemetryx.v1.Event` of `proto/events.proto`: the bytes that the journal keeps.
    #[default]
    Protobuf,
    /// A JSON object, as `/events` shows it.
    Json,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// Room for the parts of one message, used for one after the other.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    key: Vec<u8>,
    value: Vec<u8>,
    number: Vec<u8>,
}

impl Scratch {
    fn write(&mut self, format: Format, event: &Event<'_>) {
        self.key.clear();
        self.value.clear();
        self.key.extend_from_slice(event.key().as_bytes());
        match format {
            Format::Protobuf => wire::encode_message(event, &mut self.value),
            Format::Json => json::write_event(event, &mut self.value),
        }
    }
}

/// Bytes of key and value of the message for `event`.
pub(crate) fn bytes(format: Format, event: &Event<'_>, scratch: &mut Scratch) -> usize {
    scratch.write(format, event);
    scratch.key.len() + scratch.value.len()
}

/// The message for `event`, with its id in the header of that name. It is copied when it is sent.
pub(crate) fn record<'s, D: IntoOpaque>(
    topic: &'s str,
    format: Format,
    id_header: &str,
    event: &Event<'_>,
    scratch: &'s mut Scratch,
    opaque: D,
) -> BaseRecord<'s, [u8], [u8], D> {
    scratch.number.clear();
    scratch.write(format, event);
    json::write_number(u64::from(event.schema_version), &mut scratch.number);
    let header = |key, value| Header {
        key,
        value: Some(value),
    };
    let mut headers = OwnedHeaders::new_with_capacity(5)
        .insert(header(id_header, event.id.as_bytes()))
        .insert(header("type", event.event_type.as_str().as_bytes()))
        .insert(header("schema_version", scratch.number.as_slice()))
        .insert(header("content-type", format.content_type().as_bytes()));
    if let Some(parent) = event.attribute(TRACE_PARENT) {
        headers = headers.insert(header(TRACE_PARENT, parent.as_bytes()));
    }
    BaseRecord::with_opaque_to(topic, opaque)
        .key(scratch.key.as_slice())
        .payload(scratch.value.as_slice())
        .headers(headers)
}

/// A time as Kafka keeps it, in milliseconds. librdkafka takes 0 for "now", and Kafka knows no time before 1970.
pub(crate) fn millis(time: Timestamp) -> i64 {
    time.unix_nanos().div_euclid(1_000_000).max(1)
}
