//! Real webhook deliveries: payloads come out byte for byte, through every format.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{decode, decode_lines, decode_proto};
use serde_json::value::RawValue;
use telemetryx_common::{json, wire};

const LINES: &str = include_str!("data/github-webhooks.ndjson");

#[derive(serde::Deserialize)]
struct Reference<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn reference() -> Vec<Reference<'static>> {
    let lines = LINES.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn payloads_survive_byte_for_byte() {
    let visited = decode_lines(LINES.as_bytes()).unwrap();
    assert_eq!(visited.len(), reference().len());
    let (mut stored, mut lines) = (Vec::new(), Vec::new());
    for (event, reference) in visited.iter().zip(reference()) {
        let event = event.as_ref().unwrap();
        assert_eq!(event.payload, reference.payload.get());
        assert_eq!(event.id, reference.id);
        assert_eq!(event.event_type.as_str(), reference.kind);
        assert_eq!(event.source.as_text(), reference.source);
        wire::encode_event(event, &event.id, &mut stored);
        json::write_line(event, &mut lines);
    }
    let read: Result<Vec<_>, _> = wire::events(&stored).collect();
    let read = read.unwrap();
    let posted = decode_lines(&lines).unwrap();
    let sent = decode_proto(&stored).unwrap();
    for (index, event) in visited.into_iter().enumerate() {
        let event = event.unwrap();
        assert_eq!(event.payload, read[index].payload);
        assert_eq!(event.payload, posted[index].as_ref().unwrap().payload);
        assert_eq!(event.payload, sent[index].as_ref().unwrap().payload);
        assert_eq!(event.ts, read[index].ts);
    }
}

#[test]
fn lines_and_an_array_hold_the_same_events() {
    let joined: Vec<_> = LINES.lines().collect();
    let array = format!("[{}]", joined.join(","));
    assert_eq!(decode_lines(LINES.as_bytes()), decode(&array));
}
