//! Whatever is written is read back the same, and is what `prost` would have written.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;

use common::{decode, decode_lines, decode_proto};
use proptest::prelude::*;
use prost::Message;
use telemetryx_common::{
    DecodeError, ErrorCode, Event, EventType, FieldSet, Source, Timestamp, json, wire,
};
use telemetryx_proto::v1;

fn text(max: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{1,20}",
        any::<String>().prop_map(|text| text.replace('\0', "")),
    ]
    .prop_map(move |text| match text.len() <= max && !text.is_empty() {
        true => text,
        false => "x".to_owned(),
    })
}

fn payload() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "null",
        "{}",
        "{ \"a\" : [1, 2.50, \"\\u00e9\"] }",
        "[\n1,\r\n2]",
        "\"é😀\"",
        "-1.5e-7",
    ])
    .prop_map(str::to_owned)
}

prop_compose! {
    fn event()(
        (id, kind, source, number) in (text(128), text(128), text(256), any::<Option<u64>>()),
        (ts, received) in (any::<i64>(), any::<i64>()),
        schema_version in 1_u32..,
        key in prop::option::of(text(64)),
        attributes in prop::collection::btree_map(text(64), any::<String>().prop_map(|t| t.replace('\0', "")), 0..4),
        payload in payload(),
    ) -> Event<'static> {
        let mut event = Event::new(Timestamp::from_unix_nanos(if ts == 0 { 1 } else { ts }));
        event.id = id.into();
        event.event_type = EventType::from_name(kind.into());
        event.source = match number {
            Some(number) => Source::Number(number),
            None => Source::Name(source.into()),
        };
        event.schema_version = schema_version;
        event.partition_key = key.map(Into::into);
        event.attributes = attributes.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        event.payload = payload.into();
        event.received_at = Timestamp::from_unix_nanos(received);
        event
    }
}

/// The same event without what a request cannot set.
fn as_requested(mut event: Event<'_>) -> Event<'_> {
    event.given = FieldSet::TS;
    event.received_at = Timestamp::UNIX_EPOCH;
    event
}

fn to_prost(event: &Event<'_>) -> v1::Event {
    let text = |text: &Cow<'_, str>| text.to_string();
    let attributes = event.attributes.iter();
    let attributes: BTreeMap<_, _> = attributes.map(|(k, v)| (text(k), text(v))).collect();
    v1::Event {
        id: text(&event.id),
        time_unix_nano: event.ts.unix_nanos(),
        r#type: event.event_type.as_str().to_owned(),
        source: Some(match &event.source {
            Source::Name(name) => v1::event::Source::SourceName(text(name)),
            Source::Number(number) => v1::event::Source::SourceNumber(*number),
        }),
        schema_version: event.schema_version,
        partition_key: event.partition_key.as_ref().map(text).unwrap_or_default(),
        attributes,
        payload: text(&event.payload).into_bytes().into(),
        received_unix_nano: event.received_at.unix_nanos(),
    }
}

proptest! {
    #[test]
    fn stored_bytes_are_those_of_prost_and_are_read_back(
        events in prop::collection::vec(event(), 0..4)
    ) {
        let mut stored = Vec::new();
        for event in &events {
            wire::encode_event(event, &event.id, &mut stored);
        }
        let theirs = v1::EventBatch { events: events.iter().map(to_prost).collect() };
        prop_assert_eq!(&stored, &theirs.encode_to_vec());
        for event in &events {
            let mut alone = Vec::new();
            wire::encode_message(event, &mut alone);
            prop_assert_eq!(alone, to_prost(event).encode_to_vec());
        }

        let read: Result<Vec<_>, _> = wire::events(&stored).collect();
        let mut read = read.unwrap();
        for event in &mut read {
            event.given = FieldSet::TS;
        }
        prop_assert_eq!(&read, &events);

        match decode_proto(&stored) {
            Err(error) => prop_assert!(events.is_empty() && error == DecodeError::Empty),
            Ok(sent) => for (sent, event) in sent.into_iter().zip(events) {
                prop_assert_eq!(as_requested(sent.unwrap()), as_requested(event));
            }
        }
    }

    #[test]
    fn json_that_is_written_is_read_back_as_an_object_and_as_a_line(event in event()) {
        let (mut object, mut line) = (Vec::new(), Vec::new());
        json::write_event(&event, &mut object);
        json::write_line(&event, &mut line);
        let theirs: serde_json::Value = serde_json::from_slice(&object).unwrap();
        prop_assert_eq!(&theirs, &serde_json::from_slice::<serde_json::Value>(&line).unwrap());
        prop_assert_eq!(theirs["type"].as_str(), Some(event.event_type.as_str()));
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);

        let object = String::from_utf8(object).unwrap();
        let read = decode(&object).unwrap().remove(0).unwrap();
        prop_assert_eq!(as_requested(read), as_requested(event.clone()));
        prop_assert_eq!(decode_lines(&line).unwrap().len(), 1);
    }

    #[test]
    fn strings_are_escaped_as_serde_json_reads_them(text: String) {
        let mut out = Vec::new();
        json::write_str(&text, &mut out);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}

#[test]
fn unsorted_attributes_are_stored_in_order() {
    let mut event = Event::new(Timestamp::from_unix_nanos(1));
    event.attributes = vec![
        ("b".into(), "1".into()),
        ("a".into(), "".into()),
        ("".into(), "3".into()),
    ];
    let mut stored = Vec::new();
    wire::encode_event(&event, "", &mut stored);
    let theirs = v1::EventBatch {
        events: vec![to_prost(&event)],
    };
    assert_eq!(stored, theirs.encode_to_vec());
}

fn sent(event: v1::Event) -> Result<Event<'static>, ErrorCode> {
    let body = v1::EventBatch {
        events: vec![event],
    }
    .encode_to_vec();
    let visited = decode_proto(&body).unwrap().remove(0);
    visited
        .map(Event::into_owned)
        .map_err(|(error, _)| error.code)
}

fn at(time_unix_nano: i64) -> v1::Event {
    v1::Event {
        time_unix_nano,
        ..v1::Event::default()
    }
}

#[test]
fn protobuf_events_have_the_defaults_and_rules_of_json() {
    let event = sent(v1::Event {
        received_unix_nano: 9,
        ..at(5)
    })
    .unwrap();
    assert_eq!(event, Event::new(Timestamp::from_unix_nanos(5)));
    let with = |change: fn(&mut v1::Event)| {
        let mut event = at(5);
        change(&mut event);
        sent(event).map(|event| event.given)
    };
    assert_eq!(sent(at(0)), Err(ErrorCode::MissingField));
    assert_eq!(with(|e| e.id = "i".repeat(129)), Err(ErrorCode::TooLong));
    assert_eq!(
        with(|e| e.r#type = "a\0".into()),
        Err(ErrorCode::InvalidString)
    );
    assert_eq!(
        with(|e| e.payload = "{]".into()),
        Err(ErrorCode::InvalidJson)
    );
    assert_eq!(
        with(|e| e.payload = "[1e999]".into()),
        Err(ErrorCode::InvalidNumber)
    );
    assert_eq!(
        with(|e| e.payload = "1 2".into()),
        Err(ErrorCode::InvalidJson)
    );
    assert_eq!(
        with(|e| e.payload = vec![b'"', 0xff, b'"'].into()),
        Err(ErrorCode::InvalidString)
    );
    assert_eq!(with(|e| e.id = "x".into()), Ok(FieldSet::TS | FieldSet::ID));
}

#[test]
fn unknown_protobuf_fields_are_skipped_and_damage_is_placed() {
    let mut body = vec![
        0x18, 5, 0x25, 1, 2, 3, 4, 0x0a, 12, 0x11, 1, 0, 0, 0, 0, 0, 0, 0, 0xa0, 1,
    ];
    body.push(7);
    body.extend([0x1b, 0x08, 1, 0x1c]);
    assert_eq!(decode_proto(&body).unwrap().len(), 1);
    // A damaged event does not take the next with it.
    let mut batch = vec![0x0a, 2, 0x0a, 9];
    wire::encode_event(&Event::new(Timestamp::from_unix_nanos(1)), "x", &mut batch);
    let visited = decode_proto(&batch).unwrap();
    let (error, _) = visited[0].as_ref().unwrap_err();
    assert_eq!((error.code, error.index), (ErrorCode::InvalidProtobuf, 0));
    assert!(error.message.ends_with("(byte 4 of the body)"), "{error}");
    assert_eq!(visited[1].as_ref().unwrap().id, "x");

    let garbage = decode_proto(&[0x0a, 0xff, 0xff, 0x03]).unwrap_err();
    assert_eq!(garbage.code(), ErrorCode::InvalidProtobuf);
    assert!(wire::events(&[0x0a, 5, 1]).next().unwrap().is_err());
}

#[test]
fn the_first_part_of_a_batch_is_whole_events_within_the_limits() {
    let mut batch = Vec::new();
    for nanos in 1..=3 {
        let event = Event::new(Timestamp::from_unix_nanos(nanos));
        wire::encode_event(&event, "x", &mut batch);
    }
    let one = batch.len() / 3;
    for (max_events, max_bytes, expected) in [
        (10, 1000, (3, 3 * one)),
        (2, 1000, (2, 2 * one)),
        (10, 2 * one, (2, 2 * one)),
        (10, 2 * one - 1, (1, one)),
        (10, 1, (1, one)),
        (0, 1000, (0, 0)),
    ] {
        let part = wire::first_part(&batch, max_events, max_bytes);
        assert_eq!(part, expected, "{max_events}, {max_bytes}");
    }
    assert_eq!(wire::first_part(&[], 10, 10), (0, 0));
}
