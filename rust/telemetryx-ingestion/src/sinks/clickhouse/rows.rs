//! Events as rows of `RowBinary`: texts with their length before them, numbers with the least significant byte first.

use telemetryx_common::{Event, Timestamp, json};

use super::table::Form;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Appends one row, as [`Form::structure`] says.
pub(super) fn write(form: Form, event: &Event<'_>, offset: u64, out: &mut Vec<u8>) {
    text(event.id.as_bytes(), out);
    time(form, event.ts, out);
    text(event.event_type.as_str().as_bytes(), out);
    text(event.source.as_text().as_bytes(), out);
    out.extend_from_slice(&event.schema_version.to_le_bytes());
    match &event.partition_key {
        None => out.push(1),
        Some(key) => {
            out.push(0);
            text(key.as_bytes(), out);
        }
    }
    match form {
        Form::New => {
            varint(event.attributes.len(), out);
            for (name, _) in &event.attributes {
                text(name.as_bytes(), out);
            }
            varint(event.attributes.len(), out);
            for (_, value) in &event.attributes {
                text(value.as_bytes(), out);
            }
        }
        Form::Old => {
            let mut attributes = Vec::new();
            json::write_attributes(event, &mut attributes);
            text(&attributes, out);
        }
    }
    text(event.payload.as_bytes(), out);
    time(form, event.received_at, out);
    out.extend_from_slice(&offset.to_le_bytes());
}

/// A time; in the old form the seconds that its type has, and then all of it.
fn time(form: Form, at: Timestamp, out: &mut Vec<u8>) {
    if form == Form::Old {
        out.extend_from_slice(&seconds(at).to_le_bytes());
    }
    out.extend_from_slice(&at.unix_nanos().to_le_bytes());
}

/// What `DateTime` can say of a time: 1970 to 2106, and what is beyond as the nearest.
pub(super) fn seconds(at: Timestamp) -> u32 {
    let seconds = at.unix_nanos().div_euclid(NANOS_PER_SECOND).max(0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
