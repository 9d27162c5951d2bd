//! Every row of the contract's status table, over real HTTP, with the whole body.
//!
//! | status | where |
//! | --- | --- |
//! | 202 | `accepts_…`, `part_of_a_batch_…`, `shedding_…` |
//! | 400 | `bad_input_…`, `one_bad_event_…`, `bodies_without_an_event_…` |
//! | 401, 403 | `keys_…`, `admin_…` |
//! | 404, 405 | `unknown_paths_and_methods_…` |
//! | 408, 413, 415 | `slow_body_…`, `too_large_…`, `unknown_content_…` |
//! | 429 | `rate_limit_…`, `spent_memory_budget_…`, `full_backlog_…` |
//! | 500 | `a_panicking_plug_in_…` |
//! | 503 | `full_disk_…`; while shutting down connections are closed, see `lifecycle.rs` |
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use support::{
    DEAD_ROUTE, SOON, TS, accepted, assert_answer, assert_books_balance, error, event, events,
    log_line, normalised, receipt, retry_after, service, settle, sha256, start, stored,
};
use telemetryx_ingestion::config::{Config, Language};
use telemetryx_ingestion::plugin::PluginError;
use telemetryx_ingestion::validators::{
    EventValidationError, EventValidator, ValidationPluginFactory,
};
use telemetryx_proto::v1;
use telemetryx_testkit::{Connection, Service, SmallDisk, eventually, eventually_some};

const JSON: (&str, &str) = ("content-type", "application/json");

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// The body of a 400 because each event is invalid.
fn all_invalid(errors: &[(&str, &str, &str)]) -> Value {
    let first = errors[0].2;
    let count = errors.len();
    let errors: Vec<_> = errors
        .iter()
        .enumerate()
        .map(|(index, (field, code, message))| {
            json!({"index": index, "field": field, "code": code, "message": message})
        })
        .collect();
    let message = match count {
        1 => format!("the event is invalid: {first}"),
        _ => format!("none of the {count} events is valid; the first: {first}"),
    };
    json!({
        "error": {
            "code": "all_events_invalid",
            "message": message,
        },
        "errors": errors,
    })
}

#[test]
fn accepts_every_json_form_and_ndjson() {
    let service = Service::start(env!("CARGO_BIN_EXE_telemetryx"));
    let (one, two) = (event("a"), events(["b", "c"]));
    let wrapped = format!(r#"{{"events":{}}}"#, events(["d", "e", "f"]));
    let lines = format!("{}\n\n{}\r\n", event("g"), event("h"));
    for (content_type, body, count) in [
        ("application/json", one.as_str(), 1),
        ("application/json; charset=utf-8", &two, 2),
        ("APPLICATION/JSON", &wrapped, 3),
        ("application/x-ndjson", &lines, 2),
    ] {
        assert_answer(
            &service.post("/ingest", content_type, body),
            202,
            accepted(count),
        );
    }
    // No content type: JSON.
    let answer = service.request("POST", "/ingest", &[], event("i").as_bytes());
    assert_answer(&answer, 202, accepted(1));
    settle(&service);
    assert_eq!(stored(&service).len(), 9);
}

#[test]
fn accepts_protobuf_and_keeps_each_field() {
    let service = start("");
    let nanos = 1_767_225_600_123_456_789;
    let batch = v1::EventBatch {
        events: vec![
            v1::Event {
                id: "p1".into(),
                time_unix_nano: nanos,
                r#type: "Heartbeat".into(),
                source: Some(v1::event::Source::SourceNumber(u64::MAX)),
                schema_version: 3,
                partition_key: "k".into(),
                attributes: [("a".into(), "b".into())].into(),
                payload: r#"{ "spaced" : 1.50 }"#.into(),
                received_unix_nano: 7,
            },
            v1::Event {
                time_unix_nano: nanos,
                ..Default::default()
            },
        ],
    };
    let answer = service.post("/ingest", "application/x-protobuf", batch.encode_to_vec());
    assert_answer(&answer, 202, accepted(2));
    settle(&service);
    let found = service.get("/events?type=Heartbeat").text().to_owned();
    assert!(
        found.contains(r#""payload":{ "spaced" : 1.50 }"#),
        "{found}"
    );
    let found: Value = serde_json::from_str(&found).unwrap();
    let mut found = found["events"][0].clone();
    let received = found
        .as_object_mut()
        .unwrap()
        .remove("received_at")
        .unwrap();
    assert!(
        received.as_str().unwrap() > "2026",
        "the service's own time, not the client's: {received}"
    );
    assert_eq!(
        found,
        json!({
            "id": "p1", "ts": "2026-01-01T00:00:00.123456789Z", "type": "Heartbeat", "source": u64::MAX,
            "schema_version": 3, "partition_key": "k", "attributes": {"a": "b"}, "payload": {"spaced": 1.5},
        })
    );
    let other = service.get("/events?type=event").json()["events"][0].clone();
    assert_eq!(
        (
            &other["source"],
            &other["schema_version"],
            &other["payload"]
        ),
        (&json!("unknown"), &json!(1), &Value::Null)
    );
    assert_eq!(
        other["id"].as_str().unwrap().len(),
        36,
        "an id was assigned: {other}"
    );
}

#[test]
fn accepts_every_content_encoding() {
    let service = start("");
    let body = events(["a", "b"]);
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    deflate.write_all(body.as_bytes()).unwrap();
    let mut members = gzip(&body.as_bytes()[..10]);
    members.extend(gzip(&body.as_bytes()[10..]));
    for (encoding, sent) in [
        ("gzip", gzip(body.as_bytes())),
        ("x-gzip", gzip(body.as_bytes())),
        ("GZIP", members),
        ("deflate", zlib(body.as_bytes())),
        ("deflate", deflate.finish().unwrap()),
        ("zstd", zstd(body.as_bytes())),
        ("identity", body.clone().into_bytes()),
    ] {
        let headers = [JSON, ("content-encoding", encoding)];
        let answer = service.request("POST", "/ingest", &headers, &sent);
        assert_answer(&answer, 202, accepted(2));
    }
    settle(&service);
    assert_eq!(
        service.get("/stats").json(),
        json!({"sources_count": 1, "events_count": 14})
    );
    assert_eq!(stored(&service).len(), 2);
}

#[test]
fn part_of_a_batch_is_accepted_and_the_rest_reported_by_index_and_kept() {
    let service = start("");
    let body = format!(
        r#"[{{}},{},{{"ts":"{TS}","id":[]}},{}]"#,
        event("a"),
        event("b")
    );
    let answer = service.post_json("/ingest", &body);
    let message = "`id` cannot be an array: it is a string or an integer";
    let found = normalised(&answer)["errors"][1]["message"].clone();
    assert!(
        found.as_str().unwrap().starts_with("`id`"),
        "{message} {found}"
    );
    assert_answer(
        &answer,
        202,
        json!({
            "accepted": 2, "rejected": 2, "request_id": "ID", "receipt": "RECEIPT", "durability": "fsynced",
            "errors": [
                {"index": 0, "field": "ts", "code": "missing_field",
                 "message": "`ts` is missing: when did the event happen? (byte 1 of the body)"},
                {"index": 2, "field": "id", "code": "invalid_type", "message": found},
            ],
        }),
    );
    let letters = service.get("/dead-letters").json();
    assert_eq!(letters["count"], 2);
    let letter = &letters["dead_letters"][0];
    assert_eq!(
        (&letter["stage"], &letter["code"]),
        (&json!("validation"), &json!("invalid_type")),
        "{letters}"
    );
    let request_id = answer.header("x-request-id").unwrap();
    assert_eq!(letter["request_id"], request_id, "{letters}");
    let one = service
        .get(&format!("/dead-letters/{}", letter["id"]))
        .json();
    assert_eq!(one["event"], json!({"ts": TS, "id": []}), "{one}");
    settle(&service);
    assert_eq!(stored(&service).len(), 2);
    assert_eq!(assert_books_balance(&service)["door"]["refused"], 2);
}

/// Headers and body of a request, and the body of its 400.
type Row<'a> = (&'a [(&'a str, &'a str)], Vec<u8>, Value);

/// Each is refused with code, position and message; and the same connection then takes a good request.
#[test]
fn bad_input_is_400_with_code_and_position_and_the_connection_stays_usable() {
    let service = start("");
    let mut connection = service.connect();
    let mut good = 0;
    let with = |payload: &str| format!(r#"{{"ts":1700000000,"payload":{payload}}}"#).into_bytes();
    let plain: &[(&str, &str)] = &[JSON];
    let encoded = |name: &'static str| [JSON, ("content-encoding", name)];
    let (gz, df, zs) = (encoded("gzip"), encoded("deflate"), encoded("zstd"));
    let protobuf: &[(&str, &str)] = &[("content-type", "application/x-protobuf")];
    let packed = gzip(event("never").as_bytes());
    let mut wrong_checksum = packed.clone();
    let at = wrong_checksum.len() - 6;
    wrong_checksum[at] ^= 1;
    let cut = |bytes: Vec<u8>, end: usize| bytes[..bytes.len() - end].to_vec();
    let rows: Vec<Row<'_>> = vec![
        (
            plain,
            br#"{"ts":"#.to_vec(),
            error(
                "invalid_json",
                "the text ends too early at line 1, column 7 (byte 6)",
            ),
        ),
        (
            plain,
            b"[{\"ts\":1700000000},\n {\"ts\":17 00}]".to_vec(),
            error(
                "invalid_json",
                "expected `,` or `}` at line 2, column 11 (byte 30)",
            ),
        ),
        (
            plain,
            with("1")[..20].to_vec(),
            error(
                "invalid_json",
                "the text ends too early at line 1, column 21 (byte 20)",
            ),
        ),
        (
            plain,
            vec![b'['; 10_000],
            error(
                "invalid_json",
                "the text ends too early at line 1, column 10001 (byte 10000)",
            ),
        ),
        (
            plain,
            with("\"a\0b\""),
            error(
                "invalid_json",
                "control characters in strings must be escaped at line 1, column 30 (byte 29)",
            ),
        ),
        (
            plain,
            b"{\"ts\":1700000000,\"payload\":\"\xc3\xa9\xff\"}".to_vec(),
            error(
                "invalid_string",
                "bytes that are not UTF-8 at line 1, column 30 (byte 30)",
            ),
        ),
        (
            plain,
            with(r#""a\u0000b""#),
            all_invalid(&[(
                "payload",
                "invalid_string",
                "`payload`: NUL cannot be stored: leave `\\u0000` out (byte 29 of the body)",
            )]),
        ),
        (
            plain,
            with(r#""\udc00""#),
            all_invalid(&[(
                "payload",
                "invalid_string",
                "`payload`: half of a surrogate pair stands alone, which is no character (byte 28 of the body)",
            )]),
        ),
        (
            plain,
            with(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))),
            all_invalid(&[(
                "payload",
                "too_deep",
                "`payload`: it is nested too deep (byte 154 of the body)",
            )]),
        ),
        (
            plain,
            br#"{"ts":1700000000,"ts":1700000000}"#.to_vec(),
            all_invalid(&[(
                "ts",
                "duplicate_field",
                "`ts` is given twice, perhaps under another of its names (byte 17 of the body)",
            )]),
        ),
        (
            plain,
            br#"{"ts":1700000000,"data":1,"payload":1}"#.to_vec(),
            all_invalid(&[(
                "payload",
                "duplicate_field",
                "`payload` is given twice, perhaps under another of its names (byte 26 of the body)",
            )]),
        ),
        (
            plain,
            with("1e999"),
            all_invalid(&[(
                "payload",
                "invalid_number",
                "`payload`: the number is too large for a 64-bit float (byte 27 of the body)",
            )]),
        ),
        (
            protobuf,
            vec![0xff; 4],
            error(
                "invalid_protobuf",
                "a number ends too early at line 1, column 1 (byte 0)",
            ),
        ),
        (
            protobuf,
            vec![0x0a, 5, b'a', b'b'],
            error(
                "invalid_protobuf",
                "a length reaches beyond the end at line 1, column 3 (byte 2)",
            ),
        ),
        (
            &gz,
            packed[..12].to_vec(),
            error(
                "invalid_encoding",
                "the body is not gzip: incomplete deflate stream",
            ),
        ),
        (
            &gz,
            cut(packed.clone(), 5),
            error(
                "invalid_encoding",
                "the body is not gzip: unexpected end of file",
            ),
        ),
        (
            &gz,
            b"{}".to_vec(),
            error(
                "invalid_encoding",
                "the body is not gzip: unexpected end of file",
            ),
        ),
        (
            &gz,
            wrong_checksum,
            error(
                "invalid_encoding",
                "the body is not gzip: corrupt gzip stream does not have a matching checksum",
            ),
        ),
        (
            &gz,
            vec![],
            error(
                "invalid_encoding",
                "the body is not gzip: unexpected end of file",
            ),
        ),
        (
            &df,
            cut(zlib(event("never").as_bytes()), 10),
            error(
                "invalid_encoding",
                "the body is not deflate: incomplete deflate stream",
            ),
        ),
        (
            &zs,
            cut(zstd(event("never").as_bytes()), 3),
            error("invalid_encoding", "the body is not zstd: incomplete frame"),
        ),
        (
            &zs,
            b"xxxxxxx".to_vec(),
            error(
                "invalid_encoding",
                "the body is not zstd: Unknown frame descriptor",
            ),
        ),
    ];
    for (headers, body, expected) in rows {
        let answer = connection
            .request("POST", "/ingest", headers, &body)
            .unwrap();
        assert_answer(&answer, 400, expected);
        good += 1;
        let answer = connection
            .request(
                "POST",
                "/ingest",
                plain,
                event(&format!("good-{good}")).as_bytes(),
            )
            .unwrap();
        assert_answer(&answer, 202, accepted(1));
    }
    settle(&service);
    assert_eq!(stored(&service).len(), good);
    assert_eq!(service.get("/ledger").json()["accepted"], good);
}

#[test]
fn timestamps_that_cannot_be_are_refused_by_index_and_kept_as_dead_letters() {
    let service = start("");
    let tomorrow = std::time::SystemTime::now() + Duration::from_secs(24 * 3600);
    let tomorrow = tomorrow
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let body = format!(
        r#"[{{}},{{"ts":"yesterday"}},{{"ts":"0000-01-01T00:00:00Z"}},{{"ts":{tomorrow}}},{}]"#,
        event("a")
    );
    let answer = service.post_json("/ingest", body).expect_status(202).json();
    let found: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            (
                error["index"].as_u64().unwrap(),
                error["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (0, "missing_field"),
            (1, "invalid_timestamp"),
            (2, "timestamp_out_of_range"),
            (3, "timestamp_in_future")
        ]
    );
    assert_eq!(
        service.get("/dead-letters?stage=validation").json()["count"],
        4
    );
}

#[test]
fn one_bad_event_after_another_is_400_with_each_by_index() {
    let service = start("");
    let answer = service.post(
        "/ingest",
        "application/x-ndjson",
        b"{}\n\xff\n{\"ts\":\n1\n",
    );
    assert_answer(
        &answer,
        400,
        all_invalid(&[
            (
                "ts",
                "missing_field",
                "`ts` is missing: when did the event happen? (byte 0 of the body)",
            ),
            (
                "",
                "invalid_string",
                "bytes that are not UTF-8 (byte 3 of the body)",
            ),
            (
                "",
                "invalid_json",
                "the text ends too early (byte 11 of the body)",
            ),
            (
                "",
                "invalid_type",
                "an event is a JSON object, not an integer (byte 12 of the body)",
            ),
        ]),
    );
    assert_eq!(service.get("/dead-letters").json()["count"], 4);
    assert_eq!(assert_books_balance(&service)["accepted"], 0);
}

#[test]
fn bodies_without_an_event_are_400() {
    let service = start("");
    let expected = error(
        "empty",
        "the body holds no event: send one event, an array of events, or {\"events\":[…]}",
    );
    for (content_type, body) in [
        ("application/json", ""),
        ("application/json", " \n"),
        ("application/json", "[]"),
        ("application/json", r#"{"events":[]}"#),
        ("application/x-ndjson", ""),
        ("application/x-ndjson", "\n\r\n \n"),
        ("application/x-protobuf", ""),
    ] {
        assert_answer(
            &service.post("/ingest", content_type, body),
            400,
            expected.clone(),
        );
    }
}

#[test]
fn keys_are_asked_for_and_a_key_sends_for_its_source_only() {
    let service = start(&format!(
        "auth: {{ keys: [ {{ name: any, sha256: {} }}, {{ name: door, sha256: {}, source: door }} ] }}",
        sha256("open-sesame"),
        sha256("door-key"),
    ));
    let body = event("a");
    let post =
        |headers: &[(&str, &str)]| service.request("POST", "/ingest", headers, body.as_bytes());
    let answer = post(&[]);
    assert_answer(
        &answer,
        401,
        error(
            "unauthorized",
            "send an API key: `Authorization: Bearer <key>` or `X-Api-Key: <key>`",
        ),
    );
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    for wrong in ["nonsense", "", "open-sesame "] {
        let answer = post(&[
            ("authorization", &format!("Basic {wrong}")),
            ("x-api-key", "x"),
        ]);
        assert_answer(
            &answer,
            401,
            error("unauthorized", "this API key is not known"),
        );
    }
    assert_answer(&post(&[("x-api-key", "open-sesame")]), 202, accepted(1));
    assert_answer(
        &post(&[("authorization", "bearer open-sesame")]),
        202,
        accepted(1),
    );
    assert_answer(&post(&[("x-api-key", "door-key")]), 202, accepted(1));

    let foreign = body.replace("\"door\"", "\"window\"");
    let mixed = format!("[{body},{foreign}]");
    let message = "this API key may send for the source `door` only";
    let headers = [("x-api-key", "door-key")];
    let answer = service.request("POST", "/ingest", &headers, mixed.as_bytes());
    let mut expected = accepted(1);
    expected["rejected"] = 1.into();
    expected["errors"] =
        json!([{"index": 1, "field": "source", "code": "not_allowed", "message": message}]);
    assert_answer(&answer, 202, expected);
    let answer = service.request("POST", "/ingest", &headers, foreign.as_bytes());
    assert_answer(
        &answer,
        403,
        error("forbidden", "this API key may not send for this source"),
    );
    // What is asked of everybody needs no key.
    service.get("/health").expect_status(200);
}

#[test]
fn admin_endpoints_ask_for_the_token() {
    let service = start("admin: { token: letmein }");
    for path in ["/events", "/dead-letters", "/replays/1"] {
        let with = |token: &str| {
            let token = format!("Bearer {token}");
            service.request("GET", path, &[("authorization", &token)], b"")
        };
        let answer = service.get(path);
        assert_answer(
            &answer,
            401,
            error(
                "unauthorized",
                "send the admin token: `Authorization: Bearer <token>`",
            ),
        );
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_answer(
            &with("letmeout"),
            403,
            error("forbidden", "this is not the admin token"),
        );
        // The store's file is made as its route starts.
        eventually(SOON, "the token opens it", || {
            [200, 404].contains(&with("letmein").status)
        });
    }
    service.get("/stats").expect_status(200);
}

#[test]
fn slow_body_is_408_and_cut_off() {
    let service = start("http: { body_timeout: 200ms }");
    let mut connection = service.connect();
    connection
        .send_raw(b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"ts\":")
        .unwrap();
    let answer = connection.read_response().unwrap();
    assert_answer(
        &answer,
        408,
        error("body_timeout", "the body did not arrive within 200ms"),
    );
    assert!(connection.closes_within(SOON));
}

#[test]
fn too_large_is_413_whatever_is_too_large() {
    let service = start("http: { max_body: 64KiB, max_event: 1KiB, max_batch: 10 }");
    let mut connection = service.connect();
    let body = error(
        "too_large",
        "the body is over the limit of 65536 bytes (http.max_body)",
    );
    let large = vec![b' '; (64 << 10) + 1];
    let answer = connection
        .request("POST", "/ingest", &[JSON], &large)
        .unwrap();
    assert_answer(&answer, 413, body.clone());

    let mut chunked =
        b"POST /ingest HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in large.chunks(10_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let mut other = service.connect();
    other.send_raw(&chunked).unwrap();
    assert_answer(&other.read_response().unwrap(), 413, body.clone());

    for (encoding, bomb) in [
        ("gzip", gzip(&large)),
        ("deflate", zlib(&large)),
        ("zstd", zstd(&large)),
    ] {
        assert!(bomb.len() < 1000);
        let answer = connection
            .request("POST", "/ingest", &[("content-encoding", encoding)], &bomb)
            .unwrap();
        assert_answer(&answer, 413, body.clone());
    }
    let long = format!(
        r#"[{},{{"ts":1,"payload":"{}"}}]"#,
        event("a"),
        "x".repeat(1025 - 21)
    );
    let answer = connection
        .request("POST", "/ingest", &[JSON], long.as_bytes())
        .unwrap();
    assert_answer(
        &answer,
        413,
        error(
            "event_too_large",
            "event 1 is 1025 bytes long, more than the limit of 1024",
        ),
    );
    let many = events((0..11).map(|n| n.to_string()));
    let answer = connection
        .request("POST", "/ingest", &[JSON], many.as_bytes())
        .unwrap();
    assert_answer(
        &answer,
        413,
        error(
            "too_many_events",
            "the body holds more than 10 events: send them in several requests",
        ),
    );
    // Just within each limit; and nothing of what was refused was kept.
    let many = events((0..10).map(|n| n.to_string()));
    let answer = connection
        .request("POST", "/ingest", &[JSON], many.as_bytes())
        .unwrap();
    assert_answer(&answer, 202, accepted(10));
    assert_eq!(service.get("/ledger").json()["accepted"], 10);
}

#[test]
fn unknown_content_types_and_encodings_are_415() {
    let service = start("");
    assert_answer(
        &service.post("/ingest", "text/plain", event("a")),
        415,
        error(
            "unsupported_media_type",
            "the content type `text/plain` is not known: send application/json, application/x-ndjson or \
             application/x-protobuf",
        ),
    );
    for encoding in ["br", "gzip, gzip"] {
        let headers = [JSON, ("content-encoding", encoding)];
        let message = format!(
            "the content encoding `{encoding}` is not known: send gzip, deflate, zstd or none"
        );
        assert_answer(
            &service.request("POST", "/ingest", &headers, b"x"),
            415,
            error("unsupported_media_type", &message),
        );
    }
}

#[test]
fn unknown_paths_and_methods_are_404_and_405() {
    let service = start("");
    for path in [
        "/",
        "/nothing",
        "/ingest/",
        "/stats%2F",
        "//ingest",
        "/v2/ingest",
    ] {
        let message = format!("there is nothing at `{path}`");
        assert_answer(&service.get(path), 404, error("not_found", &message));
    }
    let assert_takes = |method: &str, path: &str, methods: &str| {
        let answer = service.request(method, path, &[], b"{}");
        let message = format!("this endpoint takes {methods}");
        assert_answer(&answer, 405, error("method_not_allowed", &message));
        assert_eq!(answer.header("allow"), Some(methods), "{method} {path}");
    };
    assert_takes("GET", "/ingest", "POST");
    assert_takes("PUT", "/ingest", "POST");
    assert_takes("POST", "/dead-letters", "GET");
    assert_takes("PUT", "/dead-letters/redrive", "POST");
    assert_takes("GET", "/replays", "POST");
    for path in [
        "/health",
        "/healthz",
        "/metrics",
        "/stats",
        "/stats/x",
        "/events",
        "/receipts/x",
        "/ledger",
        "/status",
    ] {
        assert_takes("POST", path, "GET, HEAD");
    }
}

#[test]
fn rate_limit_is_429_and_says_when_to_come_back() {
    let service =
        start("admission: { rate_limit: { enabled: true, per: all, rps: 0.5, burst: 2 } }");
    for id in ["a", "b"] {
        assert_answer(&service.post_json("/ingest", event(id)), 202, accepted(1));
    }
    for _ in 0..3 {
        let answer = service.post_json("/ingest", event("c"));
        assert_answer(
            &answer,
            429,
            error("rate_limited", "the rate limit is spent"),
        );
        assert!((1..=2).contains(&retry_after(&answer)));
    }
    // Only what is sent is limited; and the books say how often.
    assert_eq!(assert_books_balance(&service)["door"]["rate_limited"], 3);
    let line = log_line(&service, "rate_limited");
    assert_eq!(line["reason"], "limit_exceeded");
}

#[test]
fn each_key_has_a_rate_of_its_own() {
    let service = start(&format!(
        "admission: {{ rate_limit: {{ enabled: true, per: key, rps: 0.01, burst: 1 }} }}
auth: {{ keys: [ {{ name: a, sha256: {} }}, {{ name: b, sha256: {} }} ] }}",
        sha256("a"),
        sha256("b")
    ));
    let post = |key: &str| {
        service
            .request(
                "POST",
                "/ingest",
                &[("x-api-key", key)],
                event(key).as_bytes(),
            )
            .status
    };
    assert_eq!(
        (post("a"), post("a"), post("b"), post("b")),
        (202, 429, 202, 429)
    );
}

#[test]
fn spent_memory_budget_is_429_and_comes_back_by_itself() {
    let service = start("admission: { memory_budget: 1MiB }\nhttp: { max_body: 1MiB }");
    // One client has sent most of what the budget has, and does not end.
    let mut holder = service.connect();
    let mut request =
        b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n[".to_vec();
    request.resize(request.len() + 900_000, b' ');
    holder.send_raw(&request).unwrap();
    let body = format!("{}{}", event("a"), " ".repeat(100_000));
    eventually(SOON, "the budget is taken", || {
        service.get("/status").json()["memory"]["used"].as_u64() >= Some(900_000)
    });
    let mut connection = service.connect();
    let answer = connection
        .request("POST", "/ingest", &[JSON], body.as_bytes())
        .unwrap();
    assert_answer(
        &answer,
        429,
        error(
            "memory_budget_spent",
            "too many bytes are under way; try again",
        ),
    );
    assert_eq!(retry_after(&answer), 1);
    assert_eq!(
        log_line(&service, "processing_paused")["reason"],
        "buffer_full"
    );
    drop(holder);
    eventually(SOON, "the budget is given back", || {
        service.get("/status").json()["memory"]["used"] == 0
    });
    assert_answer(&service.post_json("/ingest", &body), 202, accepted(1));
    // The refused client's connection is still good: what it had sent was read and forgotten.
    let answer = connection
        .request("POST", "/ingest", &[JSON], event("b").as_bytes())
        .unwrap();
    assert_answer(&answer, 202, accepted(1));
}

#[test]
fn full_backlog_is_429_with_policy_reject() {
    let service = start(&format!(
        "admission: {{ overflow: {{ policy: reject, max_backlog_events: 3 }} }}\n{DEAD_ROUTE}"
    ));
    assert_answer(
        &service.post_json("/ingest", events(["a", "b", "c"])),
        202,
        accepted(3),
    );
    let answer = service.post_json("/ingest", event("d"));
    assert_answer(
        &answer,
        429,
        error("backlog_full", "the backlog is full; try again later"),
    );
    assert_eq!(retry_after(&answer), 1);
    assert_eq!(
        log_line(&service, "queue_saturated")["reason"],
        "queue_full_reject"
    );
    let ledger = assert_books_balance(&service);
    assert_eq!(
        (&ledger["accepted"], &ledger["door"]["overloaded"]),
        (&json!(3), &json!(1))
    );
}

#[test]
fn shedding_is_202_without_a_receipt_and_counted() {
    let service = start(&format!(
        "admission: {{ overflow: {{ policy: drop, max_backlog_events: 2 }} }}\n{DEAD_ROUTE}"
    ));
    service
        .post_json("/ingest", events(["a", "b"]))
        .expect_status(202);
    let answer = service.post_json("/ingest", format!("[{},{},{{}}]", event("c"), event("d")));
    let mut expected =
        json!({"accepted": 2, "rejected": 1, "request_id": "ID", "durability": "shed"});
    expected["errors"] = json!([{
        "index": 2, "field": "ts", "code": "missing_field",
        "message": normalised(&answer)["errors"][0]["message"],
    }]);
    assert_answer(&answer, 202, expected);
    let ledger = assert_books_balance(&service);
    assert_eq!(
        (
            &ledger["accepted"],
            &ledger["door"]["shed"],
            &ledger["door"]["refused"]
        ),
        (&json!(2), &json!(2), &json!(1))
    );
    assert_eq!(
        support::metric(&service, "ingestion_dropped_total") as u64,
        2
    );
    assert_eq!(
        log_line(&service, "load_shedding")["reason"],
        "queue_full_drop_or_sample"
    );
}

#[test]
fn sampling_keeps_its_share_and_counts_the_rest() {
    let service = start(&format!(
        "admission: {{ overflow: {{ policy: sample, sample_rate: 0.25, max_backlog_events: 1 }} }}\n{DEAD_ROUTE}"
    ));
    let mut connection = service.connect();
    let mut kept = 0;
    for n in 0..101 {
        let answer = connection
            .request("POST", "/ingest", &[JSON], event(&n.to_string()).as_bytes())
            .unwrap();
        let body = answer.expect_status(202).json();
        match body["durability"].as_str().unwrap() {
            "fsynced" => kept += 1,
            "shed" => assert!(body.get("receipt").is_none()),
            other => panic!("{other}"),
        }
    }
    assert!(
        (23..=29).contains(&kept),
        "a quarter of 100, and the first: {kept}"
    );
    let ledger = assert_books_balance(&service);
    assert_eq!(
        (&ledger["accepted"], &ledger["door"]["shed"]),
        (&json!(kept), &json!(101 - kept))
    );
}

struct Panics;

impl EventValidator for Panics {
    fn validate(&self, event: &telemetryx_common::Event<'_>) -> Result<(), EventValidationError> {
        assert!(event.id != "panic", "as this test asked for");
        Ok(())
    }
}

fn panics(_settings: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    Ok(Box::new(Panics))
}

inventory::submit! { ValidationPluginFactory { name: "PanicsInTests", constructor: panics } }

/// The same service in this process, since the binary has no plug-in that panics.
#[test]
fn a_panicking_plug_in_is_500_for_that_request_and_no_other() {
    let scratch = tempfile::tempdir().unwrap();
    let config = format!(
        "{{ data_dir: {:?}, http: {{ port: 0 }}, otlp: {{ enabled: false }}, validation: {{ plugins: [ {{ name: PanicsInTests }} ] }} }}",
        scratch.path()
    );
    let config = Config::from_text(&config, Language::Yaml).unwrap();
    let service = telemetryx_ingestion::service::Service::start(&config).unwrap();
    let mut connection = Connection::open(&service.address().to_string()).unwrap();
    let mut post = |body: String| {
        connection
            .request("POST", "/ingest", &[JSON], body.as_bytes())
            .unwrap()
    };
    assert_answer(&post(event("a")), 202, accepted(1));
    let answer = post(events(["b", "panic"]));
    assert_answer(
        &answer,
        500,
        error(
            "internal",
            "an internal fault; the log has it under this request id",
        ),
    );
    assert_answer(&post(event("c")), 202, accepted(1));
    let metrics = connection.request("GET", "/metrics", &[], b"").unwrap();
    assert!(
        metrics
            .text()
            .contains("\ntelemetryx_internal_errors_total 1\n"),
        "{}",
        metrics.text()
    );
    let ledger = connection
        .request("GET", "/ledger", &[], b"")
        .unwrap()
        .json();
    assert_eq!(
        ledger["accepted"], 2,
        "nothing of the request that panicked is kept"
    );
    service.shut_down();
}

#[test]
fn full_disk_is_503_until_there_is_room() {
    let disk = SmallDisk::of_kib(4096);
    let service = service()
        .data_dir(&disk.path().join("data"))
        .config("journal: { embedded: { segment_size: 64KiB } }")
        .start();
    assert_answer(
        &service.post_json("/ingest", event("before")),
        202,
        accepted(1),
    );
    settle(&service);
    let filler = disk.fill();
    let big = format!(r#"{{"ts":"{TS}","payload":"{}"}}"#, "x".repeat(200_000));
    let answer = eventually_some(SOON, "the disk is full", || {
        let answer = service.post_json("/ingest", &big);
        (answer.status != 202).then_some(answer)
    });
    assert_answer(
        &answer,
        503,
        error("unavailable", "no space left for the journal"),
    );
    assert_eq!(retry_after(&answer), 1);
    let health = service.get("/health");
    assert_eq!(
        (health.status, &health.json()["journal"]["state"]),
        (503, &json!("no_space"))
    );
    std::fs::remove_file(filler).unwrap();
    eventually(SOON, "there is room again", || {
        service.post_json("/ingest", &big).status == 202
    });
    eventually(SOON, "the journal is well", || {
        service.get("/health").status == 200
    });
}

#[test]
fn request_id_is_taken_or_made_and_on_every_answer() {
    let service = start("");
    let with = |id: &str, method: &str, path: &str, body: &[u8]| {
        service.request(method, path, &[("x-request-id", id)], body)
    };
    for (method, path, body) in [
        ("POST", "/ingest", event("a")),
        ("POST", "/ingest", "{".into()),
        ("GET", "/ingest", String::new()),
        ("GET", "/nothing", String::new()),
        ("GET", "/healthz", String::new()),
        ("GET", "/metrics", String::new()),
        ("GET", "/events", String::new()),
    ] {
        let answer = with("my-request-7", method, path, body.as_bytes());
        assert_eq!(
            answer.header("x-request-id"),
            Some("my-request-7"),
            "{method} {path}"
        );
    }
    let answer = with("my-request-8", "POST", "/ingest", event("b").as_bytes());
    assert_eq!(answer.json()["request_id"], "my-request-8");
    // One that would spoil a log is not taken.
    for bad in ["two words", &"x".repeat(129), "caf\u{e9}"] {
        let made = with(bad, "GET", "/healthz", b"")
            .header("x-request-id")
            .unwrap()
            .to_owned();
        assert!(made.len() == 16 && made != bad);
    }
}

#[test]
fn retry_with_the_same_idempotency_key_is_stored_once() {
    let service = start("");
    let body = format!(r#"[{{"ts":"{TS}"}},{{"ts":"{TS}"}}]"#);
    let post = |key: &str| {
        service.request(
            "POST",
            "/ingest",
            &[JSON, ("idempotency-key", key)],
            body.as_bytes(),
        )
    };
    for key in ["k1", "k1", "k2", "k1"] {
        assert_answer(&post(key), 202, accepted(2));
    }
    settle(&service);
    assert_eq!(stored(&service).len(), 4);
    assert_eq!(
        service.get("/stats").json()["events_count"],
        8,
        "what a client sends twice is counted twice"
    );
    for bad in [String::new(), "x".repeat(257)] {
        assert_answer(
            &post(&bad),
            400,
            error(
                "invalid_idempotency_key",
                "`Idempotency-Key` must be 1 to 256 visible ASCII characters",
            ),
        );
    }
    assert!(!receipt(&post("k3")).is_empty());
}
