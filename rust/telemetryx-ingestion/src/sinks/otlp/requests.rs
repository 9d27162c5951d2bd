//! Events as export requests.
//!
//! The payload of an event that came in as OTLP is its `ResourceLogs` (`ResourceSpans`, `ResourceMetrics`), so it goes on with
//! all that came. Requests of protobuf put one behind the other are the request that holds all of them.

use telemetryx_common::{Event, json};

use crate::ingress::otlp::Signal;
use crate::route::EventBatch;

/// Who says so in records of events that did not come in as OTLP.
const SCOPE: &str = "telemetryx";

/// Records of one signal.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The request.
    pub(super) body: Vec<u8>,
    /// The event of each record, by its place in the batch.
    pub(super) places: Vec<usize>,
}

/// Requests for those events of the batch that are `wanted`, by their places.
pub(super) fn of(batch: &EventBatch<'_>, wanted: impl Fn(usize) -> bool) -> Vec<(Signal, Part)> {
    let mut parts = Signal::ALL.map(|signal| (signal, Part::default()));
    let events = batch.events().iter().enumerate();
    for (index, event) in events.filter(|(index, _)| wanted(*index)) {
        let (signal, request) = request(event);
        if let Some((_, part)) = parts.iter_mut().find(|(of, _)| *of == signal) {
            part.body.extend_from_slice(&request);
            part.places.push(index);
        }
    }
    parts
        .into_iter()
        .filter(|(_, part)| !part.places.is_empty())
        .collect()
}

/// A request with this event alone.
fn request(event: &Event<'_>) -> (Signal, Vec<u8>) {
    let kind = event.event_type.as_str();
    let signal = Signal::ALL
        .into_iter()
        .find(|signal| signal.event_type() == kind);
    let own = signal.and_then(|signal| Some((signal, own_request(signal, event)?)));
    own.unwrap_or_else(|| {
        // It cannot fail: what is written is a log record.
        let record = Signal::Logs
            .from_json(&log_record(event))
            .unwrap_or_default();
        (Signal::Logs, record)
    })
}

/// The payload as a request, if it is one: others may call their events so.
fn own_request(signal: Signal, event: &Event<'_>) -> Option<Vec<u8>> {
    let payload = event.payload.as_bytes();
    if !payload.starts_with(b"{") || !event.payload.contains(signal.scopes_name()) {
        return None;
    }
    let json = [
        b"{\"",
        signal.resources_name().as_bytes(),
        b"\":[",
        payload,
        b"]}",
    ]
    .concat();
    signal.from_json(&json).ok()
}

/// Any event as a request with one log record, in OTLP/JSON.
fn log_record(event: &Event<'_>) -> Vec<u8> {
    let mut out = b"{\"resourceLogs\":[{\"resource\":{\"attributes\":[".to_vec();
    attribute("service.name", &event.source.as_text(), &mut out);
    out.extend_from_slice(b"]},\"scopeLogs\":[{\"scope\":{\"name\":");
    json::write_str(SCOPE, &mut out);
    out.extend_from_slice(b"},\"logRecords\":[{\"timeUnixNano\":\"");
    json::write_number(event.ts.unix_nanos().max(0).cast_unsigned(), &mut out);
    out.extend_from_slice(b"\",\"observedTimeUnixNano\":\"");
    json::write_number(
        event.received_at.unix_nanos().max(0).cast_unsigned(),
        &mut out,
    );
    out.extend_from_slice(b"\",\"eventName\":");
    json::write_str(event.event_type.as_str(), &mut out);
    out.extend_from_slice(b",\"attributes\":[");
    attribute("telemetryx.id", &event.id, &mut out);
    for (name, value) in &event.attributes {
        out.push(b',');
        attribute(name, value, &mut out);
    }
    out.extend_from_slice(b"],\"body\":{\"stringValue\":");
    json::write_str(&event.payload, &mut out);
    out.extend_from_slice(b"}}]}]}]}");
    out
}

fn attribute(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"key\":");
    json::write_str(name, out);
    out.extend_from_slice(b",\"value\":{\"stringValue\":");
    json::write_str(value, out);
    out.extend_from_slice(b"}}");
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message;
    use telemetryx_common::{EventType, Source, Timestamp};

    use super::*;
    use crate::route::Cause;

    fn event(kind: &str, payload: &str) -> Event<'static> {
        let mut event = Event::new(Timestamp::from_unix_nanos(5));
        event.id = "i".into();
        event.event_type = EventType::from_name(kind.to_owned().into());
        event.source = Source::Number(7);
        event.attributes = vec![("a".into(), "\"b\"".into())];
        event.payload = payload.to_owned().into();
        event
    }

    #[test]
    fn events_of_other_kinds_are_log_records_with_the_payload_as_text() {
        for (kind, payload) in [
            ("login", "{\"a\": [1.0]}"),
            ("otel.log", "{\"scopeLogs\":7}"),
            ("otel.span", "null"),
            ("otel.metric", "{\"scopeMetrics\":[{}"),
        ] {
            let (signal, bytes) = request(&event(kind, payload));
            assert_eq!(signal, Signal::Logs);
            let request = ExportLogsServiceRequest::decode(&bytes[..]).unwrap();
            let logs = &request.resource_logs[0];
            let service = logs.resource.as_ref().unwrap().attributes[0].value.clone();
            assert_eq!(service.unwrap().value, Some(Value::StringValue("7".into())));
            let record = &logs.scope_logs[0].log_records[0];
            assert_eq!(
                (record.time_unix_nano, record.event_name.as_str()),
                (5, kind)
            );
            let body = record.body.clone().unwrap().value;
            assert_eq!(body, Some(Value::StringValue(payload.to_owned())));
            let names: Vec<_> = record
                .attributes
                .iter()
                .map(|pair| pair.key.as_str())
                .collect();
            assert_eq!(names, ["telemetryx.id", "a"]);
        }
    }

    #[test]
    fn a_request_has_what_is_wanted_and_no_more() {
        let mut batch = EventBatch::new(Cause::Replay, Timestamp::UNIX_EPOCH);
        for offset in 0..5 {
            batch.push(offset, event("t", &offset.to_string()));
        }
        let parts = of(&batch, |index| index != 1);
        assert_eq!(parts.len(), 1);
        let (signal, part) = &parts[0];
        assert_eq!(
            (*signal, &part.places[..]),
            (Signal::Logs, &[0, 2, 3, 4][..])
        );
        let request = ExportLogsServiceRequest::decode(&part.body[..]).unwrap();
        assert_eq!(request.resource_logs.len(), 4);
        assert!(of(&batch, |_| false).is_empty());
    }
}
