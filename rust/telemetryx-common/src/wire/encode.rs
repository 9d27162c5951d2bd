//! Events to bytes, byte for byte as `prost` writes them.

use std::borrow::Cow;

use crate::{Event, Source};

/// Tags: field number × 8 + wire type.
const BATCH_EVENT: u8 = 0x0a;
const ID: u8 = 0x0a;
const TIME: u8 = 0x11;
const TYPE: u8 = 0x1a;
const SOURCE_NAME: u8 = 0x22;
const SOURCE_NUMBER: u8 = 0x28;
const SCHEMA_VERSION: u8 = 0x30;
const PARTITION_KEY: u8 = 0x3a;
const ATTRIBUTE: u8 = 0x42;
const PAYLOAD: u8 = 0x4a;
const RECEIVED: u8 = 0x51;
const ENTRY_NAME: u8 = 0x0a;
const ENTRY_VALUE: u8 = 0x12;

/// Appends the event, under that id, as one entry of an `EventBatch`.
///
/// Entries in a row are an `EventBatch`. Defaults that were filled in (type, source, version, payload) are written out,
/// so that a reader need not know them. Attributes are written in the order of their names.
#[inline]
pub fn encode_event(event: &Event<'_>, id: &str, out: &mut Vec<u8>) {
    let length = message_length(event, id);
    out.reserve(length + 11);
    out.push(BATCH_EVENT);
    put_varint(length as u64, out);
    put_message(event, id, out);
}

/// Appends the event as a message of its own: the bytes that [`encode_event`] puts behind tag and length.
pub fn encode_message(event: &Event<'_>, out: &mut Vec<u8>) {
    out.reserve(message_length(event, &event.id));
    put_message(event, &event.id, out);
}

#[inline]
fn put_message(event: &Event<'_>, id: &str, out: &mut Vec<u8>) {
    put_text(ID, id, out);
    put_time(TIME, event.ts.unix_nanos(), out);
    put_text(TYPE, event.event_type.as_str(), out);
    match &event.source {
        // A member of a oneof is written even if it is empty.
        Source::Name(name) => put_bytes(SOURCE_NAME, name.as_bytes(), out),
        Source::Number(number) => put_number(SOURCE_NUMBER, *number, out),
    }
    if event.schema_version != 0 {
        put_number(SCHEMA_VERSION, u64::from(event.schema_version), out);
    }
    put_text(PARTITION_KEY, partition_key(event), out);
    put_attributes(event, out);
    put_text(PAYLOAD, &event.payload, out);
    put_time(RECEIVED, event.received_at.unix_nanos(), out);
}

/// An `EventBatch` of one event, from the bytes of that event's own message.
#[must_use]
pub fn batch_of(event: &[u8]) -> Vec<u8> {
    let mut batch = Vec::with_capacity(event.len() + 11);
    append_message(event, &mut batch);
    batch
}

/// Appends an event as one entry of an `EventBatch`, from the bytes of that event's own message.
#[inline]
pub fn append_message(event: &[u8], out: &mut Vec<u8>) {
    out.reserve(event.len() + 11);
    put_bytes(BATCH_EVENT, event, out);
}

#[inline]
fn partition_key<'a>(event: &'a Event<'_>) -> &'a str {
    event.partition_key.as_deref().unwrap_or_default()
}

/// How long the message will be, without the tag and length in front of it.
#[inline]
fn message_length(event: &Event<'_>, id: &str) -> usize {
    let time = |nanos: i64| if nanos == 0 { 0 } else { 9 };
    let source = match &event.source {
        Source::Name(name) => bytes_length(name.len()),
        Source::Number(number) => 1 + varint_length(*number),
    };
    let version = match event.schema_version {
        0 => 0,
        version => 1 + varint_length(u64::from(version)),
    };
    let attributes = event.attributes.iter();
    let attributes: usize = attributes
        .map(|(name, value)| bytes_length(entry_length(name, value)))
        .sum();
    text_length(id)
        + time(event.ts.unix_nanos())
        + text_length(event.event_type.as_str())
        + source
        + version
        + text_length(partition_key(event))
        + attributes
        + text_length(&event.payload)
        + time(event.received_at.unix_nanos())
}

#[inline]
fn text_length(text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        bytes_length(text.len())
    }
}

#[inline]
fn bytes_length(length: usize) -> usize {
    1 + varint_length(length as u64) + length
}

#[inline]
fn varint_length(value: u64) -> usize {
    // Seven bits a byte, and one byte for zero.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn entry_length(name: &str, value: &str) -> usize {
    text_length(name) + text_length(value)
}

fn put_attributes(event: &Event<'_>, out: &mut Vec<u8>) {
    if event.attributes.is_sorted_by(|(a, _), (b, _)| a <= b) {
        for (name, value) in &event.attributes {
            put_attribute(name, value, out);
        }
        return;
    }
    // Decoded events are sorted; a processor's need not be.
    let mut sorted: Vec<&(Cow<'_, str>, Cow<'_, str>)> = event.attributes.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, value) in sorted {
        put_attribute(name, value, out);
    }
}

fn put_attribute(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(ATTRIBUTE);
    put_varint(entry_length(name, value) as u64, out);
    put_text(ENTRY_NAME, name, out);
    put_text(ENTRY_VALUE, value, out);
}

#[inline]
fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[inline]
fn put_number(tag: u8, value: u64, out: &mut Vec<u8>) {
    out.push(tag);
    put_varint(value, out);
}

#[inline]
fn put_time(tag: u8, nanos: i64, out: &mut Vec<u8>) {
    if nanos != 0 {
        let [a, b, c, d, e, f, g, h] = nanos.to_le_bytes();
        out.extend_from_slice(&[tag, a, b, c, d, e, f, g, h]);
    }
}

/// Text, unless it is empty.
#[inline]
fn put_text(tag: u8, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        put_bytes(tag, text.as_bytes(), out);
    }
}

#[inline]
fn put_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
