//! The rules of the event, one test each, through the public decoders.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{decode, decode_lines, one, refused};
use telemetryx_common::{
    DecodeError, DecodeLimits, ErrorCode, EventType, FieldSet, Source, decode_json, decode_ndjson,
};

const TS: &str = r#""ts":"2025-01-01T00:00:00Z""#;

fn with(fields: &str) -> String {
    format!("{{{TS},{fields}}}")
}

#[test]
fn an_event_with_only_a_time_has_every_default() {
    let event = one(&format!("{{{TS}}}"));
    assert_eq!(event.id, "");
    assert_eq!(event.ts.to_string(), "2025-01-01T00:00:00Z");
    assert_eq!(event.event_type.as_str(), "event");
    assert_eq!(event.source, Source::Name("unknown".into()));
    assert_eq!(event.schema_version, 1);
    assert_eq!(event.partition_key, None);
    assert!(event.attributes.is_empty());
    assert_eq!(event.payload, "null");
    assert_eq!(event.given, FieldSet::TS);
}

#[test]
fn every_field_is_read_under_every_name() {
    for (names, value, check) in [
        (&["id", "event_id"][..], "\"x\"", "id"),
        (&["type", "event_type", "eventType"], "\"x\"", "type"),
        (&["source", "sourceId", "source_id"], "\"x\"", "source"),
        (&["schema_version", "schemaVersion"], "7", "schema_version"),
        (&["partition_key", "partitionKey"], "\"x\"", "partition_key"),
        (&["payload", "data", "metadata"], "[7]", "payload"),
    ] {
        for name in names {
            let event = one(&with(&format!("\"{name}\":{value}")));
            let text = match check {
                "id" => event.id.to_string(),
                "type" => event.event_type.to_string(),
                "source" => event.source.to_string(),
                "schema_version" => event.schema_version.to_string(),
                "partition_key" => event.partition_key.clone().unwrap().to_string(),
                _ => event.payload.to_string(),
            };
            assert_eq!(text, value.trim_matches('"'), "{name}");
            assert!(event.given.contains(FieldSet::from_name(check).unwrap()));
            assert!(event.attributes.is_empty());
        }
    }
    let timestamp = one(r#"{"timestamp":1735689600}"#);
    assert_eq!(timestamp.ts.to_string(), "2025-01-01T00:00:00Z");
}

#[test]
fn a_key_written_with_escapes_is_the_same_key() {
    assert_eq!(one(&with(r#""\u0069d":"x""#)).id, "x");
}

#[test]
fn a_field_given_twice_is_refused_also_under_another_name() {
    for fields in [
        r#""id":"a","id":"a""#,
        r#""id":"a","event_id":"b""#,
        r#""timestamp":1735689600"#,
        r#""payload":1,"metadata":1"#,
        r#""id":"","id":"a""#,
        r#""attributes":{},"attributes":{}"#,
        r#""attributes":{"a":"1","b":"2","a":"1"}"#,
        r#""colour":"1","colour":"2""#,
        r#""colour":"1","attributes":{"colour":"2"}"#,
        r#""attributes":{"a":"1","\u0061":"2"}"#,
    ] {
        let error = refused(&with(fields));
        assert_eq!(error.code, ErrorCode::DuplicateField, "{fields}: {error}");
    }
}

#[test]
fn integer_ids_are_their_decimal_text_and_u64_sources_stay_numbers() {
    assert_eq!(
        one(&with(r#""id":12345678901234567890123"#)).id,
        "12345678901234567890123"
    );
    assert_eq!(one(&with(r#""id":-5"#)).id, "-5");
    assert_eq!(
        one(&with(r#""source":18446744073709551615"#)).source,
        Source::Number(u64::MAX)
    );
    assert_eq!(
        one(&with(r#""source":"7""#)).source,
        Source::Name("7".into())
    );
    assert_eq!(
        one(&with(r#""type":"Heartbeat""#)).event_type,
        EventType::Heartbeat
    );
}

#[test]
fn null_is_a_field_that_is_not_given() {
    let event = one(&with(
        r#""id":null,"type":null,"source":null,"schema_version":null,"attributes":null,"partition_key":null"#,
    ));
    assert_eq!(event, one(&format!("{{{TS}}}")));
    assert_eq!(event.given, FieldSet::TS);
    assert_eq!(refused(r#"{"ts":null}"#).code, ErrorCode::MissingField);
}

#[test]
fn a_wrong_type_is_refused_and_says_what_would_be_right() {
    for (fields, field, right) in [
        (r#""id":1.5"#, "id", "a string or an integer"),
        (r#""id":["a"]"#, "id", "not an array"),
        (r#""type":5"#, "type", "must be a string, not an integer"),
        (
            r#""source":true"#,
            "source",
            "from 0 to 18446744073709551615",
        ),
        (r#""source":1.0"#, "source", "not a number with fraction"),
        (
            r#""schema_version":"1""#,
            "schema_version",
            "an integer from 1",
        ),
        (
            r#""schema_version":1.0"#,
            "schema_version",
            "an integer from 1",
        ),
        (r#""partition_key":1"#, "partition_key", "a string"),
        (r#""attributes":[]"#, "attributes", "an object of strings"),
        (r#""attributes":"x""#, "attributes", "an object of strings"),
        (
            r#""attributes":{"a":1}"#,
            "attributes",
            "write it in double quotes",
        ),
        (r#""attributes":{"a":{}}"#, "attributes", "`payload`"),
    ] {
        let error = refused(&with(fields));
        assert_eq!(
            (error.code, &*error.field),
            (ErrorCode::InvalidType, field),
            "{fields}"
        );
        assert!(error.message.contains(right), "{fields}: {error}");
        assert!(error.message.contains("(byte "), "{error}");
    }
    assert_eq!(refused("[[1]]").code, ErrorCode::InvalidType);
    assert_eq!(
        refused("\"x\"").message,
        "an event is a JSON object, not a string (byte 0 of the body)"
    );
}

#[test]
fn values_out_of_range_are_refused() {
    for fields in [
        r#""source":-1"#,
        r#""source":18446744073709551616"#,
        r#""schema_version":0"#,
        r#""schema_version":-1"#,
        r#""schema_version":4294967296"#,
    ] {
        assert_eq!(
            refused(&with(fields)).code,
            ErrorCode::InvalidValue,
            "{fields}"
        );
    }
}

#[test]
fn lengths_are_limited_in_bytes() {
    for (field, limit) in [("id", 128), ("type", 128), ("source", 256)] {
        let fits = format!("{}a", "é".repeat((limit - 1) / 2));
        one(&with(&format!("\"{field}\":\"{fits}\"")));
        let error = refused(&with(&format!("\"{field}\":\"{fits}é\"")));
        assert_eq!((error.code, &*error.field), (ErrorCode::TooLong, field));
    }
    let error = refused(&with(&format!("\"id\":1{}", "0".repeat(128))));
    assert_eq!(error.code, ErrorCode::TooLong);
}

#[test]
fn empty_text_is_not_given() {
    let event = one(&with(r#""id":"","type":"","source":"","partition_key":"""#));
    assert_eq!(event, one(&format!("{{{TS}}}")));
}

#[test]
fn unknown_scalars_become_attributes_and_the_rest_is_refused() {
    let event = one(&with(
        r#""z":"text","b":true,"a":-1.50e1,"attributes":{"m":"é\n"}"#,
    ));
    let attributes: Vec<_> = event.attributes.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        attributes,
        [("a", "-1.50e1"), ("b", "true"), ("m", "é\n"), ("z", "text")]
    );
    assert_eq!(event.attribute("b"), Some("true"));
    for (fields, advice) in [
        (r#""paylod":{}"#, "did you mean `payload`?"),
        (r#""x":null"#, "`payload`"),
        (r#""event":[]"#, "a batch is `{\"events\":[…]}`"),
    ] {
        let error = refused(&with(fields));
        assert_eq!(error.code, ErrorCode::UnknownField);
        assert!(error.message.contains(advice), "{error}");
    }
}

#[test]
fn received_at_is_ignored_so_that_our_own_output_can_be_posted() {
    let event = one(&with(r#""received_at":"2020-01-01T00:00:00Z""#));
    assert!(event.attributes.is_empty());
    assert_eq!(event.received_at.unix_nanos(), 0);
}

#[test]
fn a_missing_or_bad_time_is_refused() {
    assert_eq!(refused("{}").code, ErrorCode::MissingField);
    for (ts, code) in [
        ("\"soon\"", ErrorCode::InvalidTimestamp),
        ("\"0000-01-01T00:00:00Z\"", ErrorCode::TimestampOutOfRange),
        ("1e40", ErrorCode::TimestampOutOfRange),
        ("true", ErrorCode::InvalidType),
    ] {
        let error = refused(&format!("{{\"ts\":{ts}}}"));
        assert_eq!((error.code, &*error.field), (code, "ts"), "{ts}");
    }
}

#[test]
fn payloads_are_kept_byte_for_byte_and_their_faults_found_at_any_depth() {
    let payload = "{ \"b\" : [1.0, 1e2,\n \"\\u00e9\\/\"],\"a\":null , \"a\":0 }";
    assert_eq!(
        one(&with(&format!("\"payload\": {payload} "))).payload,
        payload
    );
    for (inner, code) in [
        ("1e999", ErrorCode::InvalidNumber),
        ("\"\\u0000\"", ErrorCode::InvalidString),
        ("\"\\udead\"", ErrorCode::InvalidString),
        (
            &*format!("{}{}", "[".repeat(127), "]".repeat(127)),
            ErrorCode::TooDeep,
        ),
        (
            &*format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)),
            ErrorCode::TooDeep,
        ),
    ] {
        let error = refused(&with(&format!("\"payload\":{{\"deep\":[{inner}]}}")));
        assert_eq!((error.code, &*error.field), (code, "payload"), "{error}");
    }
}

#[test]
fn a_bad_event_is_reported_by_index_with_its_own_bytes_and_the_others_go_on() {
    let body = r#" [ {"ts":1735689600} , {"ts":"x","payload":[{}]} , 7 , {"ts":1735689601} ] "#;
    let results = decode(body).unwrap();
    assert_eq!(results.len(), 4);
    assert!(results[0].is_ok() && results[3].is_ok());
    let (error, raw) = results[1].as_ref().unwrap_err();
    assert_eq!((error.index, error.code), (1, ErrorCode::InvalidTimestamp));
    assert_eq!(raw, r#"{"ts":"x","payload":[{}]}"#);
    let (error, raw) = results[2].as_ref().unwrap_err();
    assert_eq!((error.index, raw.as_str()), (2, "7"));
}

#[test]
fn the_three_shapes_of_a_json_body_mean_the_same() {
    let event = format!("{{{TS}}}");
    let shapes = [
        event.clone(),
        format!("[{event}]"),
        format!("{{\"events\":[{event}]}}"),
        format!(" {{ \"ev\\u0065nts\" : [ {event} ] }} "),
    ];
    for body in &shapes {
        assert_eq!(decode(body).unwrap(), [Ok(one(&event))], "{body}");
    }
    let unlike = one(&format!("{{\"events\":3,{TS}}}"));
    assert_eq!(unlike.attribute("events"), Some("3"));
}

#[test]
fn a_broken_body_says_where_and_what() {
    for (body, line, column, offset, code) in [
        ("{\"ts\":1735689600}x", 1, 18, 17, ErrorCode::InvalidJson),
        (
            "[{\"ts\":1735689600},\n  {\"é\": tru}]",
            2,
            12,
            32,
            ErrorCode::InvalidJson,
        ),
        ("[1,]", 1, 4, 3, ErrorCode::InvalidJson),
        ("[1 2]", 1, 4, 3, ErrorCode::InvalidJson),
        ("{\"a\":\"\u{0}\"}", 1, 7, 6, ErrorCode::InvalidJson),
        (
            "{\"events\":[1],\"a\":1}",
            1,
            14,
            13,
            ErrorCode::UnknownField,
        ),
        ("{\"events\":[1]]", 1, 14, 13, ErrorCode::InvalidJson),
        ("[", 1, 2, 1, ErrorCode::InvalidJson),
    ] {
        match decode(body).unwrap_err() {
            DecodeError::Malformed {
                code: c,
                line: l,
                column: k,
                offset: o,
                ..
            } => {
                assert_eq!((l, k, o, c), (line, column, offset, code), "{body}");
            }
            other => panic!("{body}: {other}"),
        }
    }
    let invalid = decode_json(b"[\"a\n\xff\"]", &DecodeLimits::default(), |_, _| {}).unwrap_err();
    assert_eq!(invalid.code(), ErrorCode::InvalidString);
    assert_eq!(
        invalid.to_string(),
        "bytes that are not UTF-8 at line 2, column 1 (byte 4)"
    );
}

#[test]
fn a_body_without_events_is_empty() {
    for body in ["", " \n", "[]", "{\"events\":[]}"] {
        assert_eq!(decode(body), Err(DecodeError::Empty), "{body}");
    }
    assert_eq!(decode_lines(b"\n \r\n\t\n"), Err(DecodeError::Empty));
}

#[test]
fn limits_refuse_the_body() {
    let limits = DecodeLimits {
        max_event_bytes: 20,
        max_events: 2,
    };
    let small = r#"{"ts":1735689600}"#;
    let large = r#"{"ts":1735689600,"a":1}"#;
    let too_large = DecodeError::EventTooLarge {
        index: 1,
        bytes: 23,
        limit: 20,
    };
    let too_many = DecodeError::TooManyEvents { limit: 2 };
    for (events, expected) in [
        (&[small, small][..], Ok(())),
        (&[small, large], Err(too_large)),
        (&[small, small, small], Err(too_many)),
    ] {
        let array = format!("[{}]", events.join(","));
        assert_eq!(decode_json(array.as_bytes(), &limits, |_, _| {}), expected);
        let lines = events.join("\n");
        assert_eq!(
            decode_ndjson(lines.as_bytes(), &limits, |_, _| {}),
            expected
        );
    }
}

#[test]
fn a_broken_line_is_a_rejected_event_and_the_others_go_on() {
    let body = b"{\"ts\":1735689600}\r\n\n{\"ts\":17\n\xff{}\n  {\"ts\":1735689601} {}\n[]\n{\"ts\":1735689602}";
    let results = decode_lines(body).unwrap();
    let codes: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|(error, _)| error.code))
        .collect();
    assert_eq!(
        codes,
        [
            None,
            Some(ErrorCode::InvalidJson),
            Some(ErrorCode::InvalidString),
            Some(ErrorCode::InvalidJson),
            Some(ErrorCode::InvalidType),
            None
        ]
    );
    let (error, raw) = results[1].as_ref().unwrap_err();
    assert_eq!((error.index, raw.as_str()), (1, "{\"ts\":17"));
    assert_eq!(
        error.message,
        "the text ends too early (byte 28 of the body)"
    );
}
