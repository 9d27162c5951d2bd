//! OTLP logs as an SDK sends them: one resource, one scope, many records.

use super::digits::{put, put_varint, put_zeros};
use super::template::{Body, ID_DIGITS, SOURCE_DIGITS, Shape, Slot, TYPE_DIGITS, Time};

/// An `ExportLogsServiceRequest`. The id is the attribute `id` of a record, its type the event name, its source
/// `service.name` of the resource; the body is text.
pub(super) fn logs(shape: &Shape) -> Body {
    let text = vec![b'x'; shape.payload_bytes.unwrap_or(60)];
    let mut records = Vec::new();
    let mut slots: Vec<Slot> = (0..shape.batch)
        .map(|_| write_record(&mut records, shape.id_prefix.as_deref(), &text))
        .collect();

    let mut resource = Vec::new();
    let name = [b"source-".as_slice(), &[b'0'; SOURCE_DIGITS]].concat();
    let attribute = write_attribute(b"service.name", &name);
    put_message(&mut resource, 0x0a, &attribute);
    let scope_logs = message(0x12, &records);
    let mut resource_logs = Vec::new();
    put_message(&mut resource_logs, 0x0a, &resource);
    let source = resource_logs.len() - SOURCE_DIGITS;
    let shift_scope = resource_logs.len() + scope_logs.len() - records.len();
    put(&mut resource_logs, &scope_logs);
    let bytes = message(0x0a, &resource_logs);
    let shift = bytes.len() - resource_logs.len();

    for slot in &mut slots {
        let fields = slot.id.iter_mut().chain(&mut slot.kind);
        fields
            .chain([&mut slot.time])
            .for_each(|at| *at += shift + shift_scope);
        // All records share the resource: the last one's source is that of all.
        slot.source = shift + source;
    }
    Body {
        bytes,
        slots,
        time: Time::Nanos,
        content_type: "application/x-protobuf",
    }
}

/// One `log_records` element of `ScopeLogs`.
fn write_record(records: &mut Vec<u8>, id_prefix: Option<&str>, text: &[u8]) -> Slot {
    let mut record = Vec::new();
    let time = put(&mut record, &[0x09]);
    put(&mut record, &[0; 8]);
    // Severity INFO.
    put(&mut record, &[0x10, 9]);
    put_message(&mut record, 0x1a, b"INFO");
    put_message(&mut record, 0x2a, &message(0x0a, text));
    let id = id_prefix.map(|prefix| {
        let id = [prefix.as_bytes(), b"-", &[b'0'; ID_DIGITS]].concat();
        put_message(&mut record, 0x32, &write_attribute(b"id", &id));
        record.len() - ID_DIGITS
    });
    put_message(
        &mut record,
        0x32,
        &write_attribute(b"http.route", b"/orders/{id}"),
    );
    put(&mut record, &[0x62, 5 + TYPE_DIGITS as u8]);
    put(&mut record, b"type-");
    let kind = put_zeros(&mut record, TYPE_DIGITS);

    put_message(records, 0x12, &record);
    let start = records.len() - record.len();
    Slot {
        id: id.map(|at| at + start),
        time: time + start,
        kind: Some(kind + start),
        source: 0,
    }
}

/// A `KeyValue` with a text; the text is at its end.
fn write_attribute(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut attribute = message(0x0a, key);
    put_message(&mut attribute, 0x12, &message(0x0a, value));
    attribute
}

fn put_message(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    put_varint(out, body.len());
    put(out, body);
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 6);
    put_message(&mut out, tag, body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::load::protocol::Protocol;
    use crate::command::load::target::Target;
    use crate::command::load::template::Template;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn requests_are_what_the_official_types_read() {
        let shape = Shape {
            protocol: Protocol::OtlpGrpc,
            batch: 3,
            id_prefix: Some("o".to_owned()),
            ..Shape::default()
        };
        let target = Target::plain("h:1", "/");
        let mut template = Template::new(&target, &shape);
        let request = template.fill(41, UNIX_EPOCH + Duration::from_millis(1_700_000_000_005));
        assert_eq!(request[1..5], (request.len() as u32 - 5).to_be_bytes());
        let read = ExportLogsServiceRequest::decode(&request[5..]).unwrap();
        assert_eq!(read.encode_to_vec(), request[5..]);
        let logs = &read.resource_logs[0];
        let name = logs.resource.as_ref().unwrap().attributes[0].clone();
        assert_eq!(name.key, "service.name");
        assert_eq!(
            name.value.unwrap().value,
            Some(Value::StringValue("source-000043".to_owned()))
        );
        let records = &logs.scope_logs[0].log_records;
        assert_eq!(records.len(), 3);
        assert_eq!(records[1].time_unix_nano, 1_700_000_000_005_000_000);
        assert_eq!(records[1].event_name, "type-0002");
        let id = records[1].attributes[0].clone();
        assert_eq!(id.key, "id");
        assert_eq!(
            id.value.unwrap().value,
            Some(Value::StringValue("o-000000000042".to_owned()))
        );
    }
}
