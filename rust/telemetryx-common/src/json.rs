//! Events as JSON text, in the form of `POST /ingest` plus `received_at`, which a request may carry and which is ignored
//! there. So what is written here can be posted again.

use crate::scan::find_special;
use crate::{Event, EventError, Source};

/// Appends the event as one JSON object, defaults written out.
///
/// ```text
/// {"id":…,"ts":…,"type":…,"source":…,"schema_version":…,"attributes":{…},"partition_key":…,"payload":…,"received_at":…}
/// ```
///
/// An empty id and a missing partition key are left out: they have no text that would mean the same. The payload is
/// written byte for byte, which may be several lines: see [`write_line`].
pub fn write_event(event: &Event<'_>, out: &mut Vec<u8>) {
    write_event_with(event, out, |payload, out| out.extend_from_slice(payload));
}

/// Appends the event as one line of NDJSON, with the line feed.
///
/// As [`write_event`], but line breaks inside the payload, which can only stand between its tokens, become spaces.
pub fn write_line(event: &Event<'_>, out: &mut Vec<u8>) {
    write_event_with(event, out, |payload, out| {
        let start = out.len();
        out.extend_from_slice(payload);
        if memchr::memchr2(b'\n', b'\r', payload).is_some() {
            let written = out.get_mut(start..).unwrap_or_default();
            for byte in written
                .iter_mut()
                .filter(|byte| matches!(byte, b'\n' | b'\r'))
            {
                *byte = b' ';
            }
        }
    });
    out.push(b'\n');
}

fn write_event_with(
    event: &Event<'_>,
    out: &mut Vec<u8>,
    write_payload: impl FnOnce(&[u8], &mut Vec<u8>),
) {
    out.push(b'{');
    if !event.id.is_empty() {
        out.extend_from_slice(b"\"id\":");
        write_str(&event.id, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"ts\":\"");
    event.ts.write_to(out);
    out.extend_from_slice(b"\",\"type\":");
    write_str(event.event_type.as_str(), out);
    out.extend_from_slice(b",\"source\":");
    match &event.source {
        Source::Name(name) => write_str(name, out),
        Source::Number(number) => write_number(*number, out),
    }
    out.extend_from_slice(b",\"schema_version\":");
    write_number(u64::from(event.schema_version), out);
    out.extend_from_slice(b",\"attributes\":");
    write_attributes(event, out);
    if let Some(key) = &event.partition_key {
        out.extend_from_slice(b",\"partition_key\":");
        write_str(key, out);
    }
    out.extend_from_slice(b",\"payload\":");
    write_payload(event.payload.as_bytes(), out);
    out.extend_from_slice(b",\"received_at\":\"");
    event.received_at.write_to(out);
    out.extend_from_slice(b"\"}");
}

/// Appends the attributes of the event as one JSON object.
pub fn write_attributes(event: &Event<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (place, (name, value)) in event.attributes.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_str(name, out);
        out.push(b':');
        write_str(value, out);
    }
    out.push(b'}');
}

/// Appends the error as `{"index":…,"field":…,"code":…,"message":…}`, an entry of `errors` in an answer.
pub fn write_error(error: &EventError, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"index\":");
    write_number(u64::from(error.index), out);
    out.extend_from_slice(b",\"field\":");
    write_str(&error.field, out);
    out.extend_from_slice(b",\"code\":");
    write_str(error.code.as_str(), out);
    out.extend_from_slice(b",\"message\":");
    write_str(&error.message, out);
    out.push(b'}');
}

/// Appends the number in decimal.
pub fn write_number(mut number: u64, out: &mut Vec<u8>) {
    let mut text = [b'0'; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[start..]);
}

/// Appends the text as a JSON string: in quotes, with quotes, backslashes and control characters escaped.
pub fn write_str(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut start = 0;
    loop {
        let end = find_special(bytes, start);
        out.extend_from_slice(&bytes[start..end]);
        match bytes.get(end) {
            Some(special) => write_escaped(*special, out),
            None => break,
        }
        start = end + 1;
    }
    out.push(b'"');
}

fn write_escaped(byte: u8, out: &mut Vec<u8>) {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}
