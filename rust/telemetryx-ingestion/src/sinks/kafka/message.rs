//! One event as one message: key, value, headers, time.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use serde::Deserialize;
use telemetryx_common::{Event, json, wire};

use super::link::Ticket;

/// What the value of a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
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
pub(super) struct Scratch {
    key: Vec<u8>,
    value: Vec<u8>,
    number: Vec<u8>,
}

/// The message for `event`. It is copied when it is sent.
pub(super) fn record<'s>(
    topic: &'s str,
    format: Format,
    event: &Event<'_>,
    scratch: &'s mut Scratch,
    ticket: Box<Ticket>,
) -> BaseRecord<'s, [u8], [u8], Box<Ticket>> {
    scratch.key.clear();
    scratch.value.clear();
    scratch.number.clear();
    scratch.key.extend_from_slice(event.key().as_bytes());
    match format {
        Format::Protobuf => wire::encode_message(event, &mut scratch.value),
        Format::Json => json::write_event(event, &mut scratch.value),
    }
    json::write_number(u64::from(event.schema_version), &mut scratch.number);
    let header = |key, value| Header {
        key,
        value: Some(value),
    };
    let headers = OwnedHeaders::new_with_capacity(4)
        .insert(header("id", event.id.as_bytes()))
        .insert(header("type", event.event_type.as_str().as_bytes()))
        .insert(header("schema_version", scratch.number.as_slice()))
        .insert(header("content-type", format.content_type().as_bytes()));
    // librdkafka takes 0 for "now", and Kafka knows no time before 1970.
    let millis = event.ts.unix_nanos().div_euclid(1_000_000).max(1);
    BaseRecord::with_opaque_to(topic, ticket)
        .key(scratch.key.as_slice())
        .payload(scratch.value.as_slice())
        .timestamp(millis)
        .headers(headers)
}
