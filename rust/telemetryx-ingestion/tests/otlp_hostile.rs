//! OTLP byte by byte: what each mistake and each attack is answered, and that nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;
use serde_json::{Value, json};
use support::{SOON, service, settle, stored};
use telemetryx_testkit::{Response, Service, eventually};
use tokio::net::TcpStream;

const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const GRPC: (&str, &str) = ("content-type", "application/grpc");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

type Headers<'h> = &'h [(&'h str, &'h str)];

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// What a call was answered: HTTP status, headers with trailers, body.
struct Called {
    http: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Called {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The status of gRPC; an answer without one panics.
    fn code(&self) -> u32 {
        assert_eq!(self.http, 200);
        self.header("grpc-status").unwrap().parse().unwrap()
    }
}

/// A right call with these logs, over gRPC.
async fn export(service: &Service, logs: &[u8]) -> Called {
    let address = service.otlp_grpc_address();
    call(&address, LOGS, &[GRPC], framed(logs), true).await
}

/// One call, its body as it is; `ends` says whether the client says that it is all.
async fn call(
    address: &str,
    path: &str,
    headers: Headers<'_>,
    body: Vec<u8>,
    ends: bool,
) -> Called {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::post(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from(body)).boxed();
    let body = if ends {
        body
    } else {
        let never = futures_util::stream::pending();
        let stream = futures_util::StreamExt::chain(body.into_data_stream(), never);
        let frames = futures_util::TryStreamExt::map_ok(stream, http_body::Frame::data);
        StreamBody::new(frames).boxed()
    };
    let answer = sender
        .send_request(request.body(body).unwrap())
        .await
        .unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let mut headers = head.headers;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    connection.abort();
    Called {
        http: head.status.as_u16(),
        headers,
        body: body.to_bytes().to_vec(),
    }
}

fn frame(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    frame(0, message.len() as u32, message)
}

fn log(time: u64, text: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: time,
        body: Some(text_value(text)),
        ..LogRecord::default()
    }
}

fn text_value(text: &str) -> AnyValue {
    AnyValue {
        value: Some(any_value::Value::StringValue(text.to_owned())),
    }
}

fn request(log_records: Vec<LogRecord>) -> Vec<u8> {
    let scope_logs = vec![ScopeLogs {
        log_records,
        ..ScopeLogs::default()
    }];
    let resource_logs = vec![ResourceLogs {
        scope_logs,
        ..ResourceLogs::default()
    }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

/// A request whose one record has lists in lists.
fn deep(levels: usize) -> Vec<u8> {
    let mut value = text_value("x");
    for _ in 0..levels {
        let list = ArrayValue {
            values: vec![value],
        };
        value = AnyValue {
            value: Some(any_value::Value::ArrayValue(list)),
        };
    }
    request(vec![LogRecord {
        body: Some(value),
        ..log(1, "")
    }])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// 512 MiB of zeros.
fn bomb() -> Vec<u8> {
    let zeros = vec![0; 1 << 20];
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
    for _ in 0..512 {
        packer.write_all(&zeros).unwrap();
    }
    packer.finish().unwrap()
}

fn post(service: &Service, path: &str, headers: Headers<'_>, body: &[u8]) -> Response {
    let mut connection =
        telemetryx_testkit::Connection::open(&service.otlp_http_address()).unwrap();
    connection.request("POST", path, headers, body).unwrap()
}

fn status_of(answer: &Response) -> Status {
    assert_eq!(
        answer.header("content-type"),
        Some("application/x-protobuf")
    );
    Status::decode(answer.body.as_slice()).unwrap()
}

/// A good client is served over both transports.
async fn assert_serves(service: &Service, time: &mut u64) {
    *time += 1;
    let body = request(vec![log(*time, "good")]);
    post(service, "/v1/logs", &[PROTOBUF, GZIP], &gzip(&body)).expect_status(200);
    *time += 1;
    let body = request(vec![log(*time, "good")]);
    let called = export(service, &body).await;
    assert_eq!((called.code(), called.body), (0, framed(&[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attack_over_grpc_has_its_status_and_harms_nobody() {
    let service = service()
        .otlp()
        .config("http: { body_timeout: 1s }")
        .start();
    let address = service.otlp_grpc_address();
    let mut time = 0;
    assert_serves(&service, &mut time).await;
    let before = service.rss_kib();
    let good = request(vec![log(1, "x")]);
    let bomb = bomb();
    assert!(bomb.len() < 4 << 20);
    let packed = frame(1, bomb.len() as u32, &bomb);
    let (with_gzip, with_snappy) = (("grpc-encoding", "gzip"), ("grpc-encoding", "snappy"));
    let cases: [(&str, u32, Headers<'_>, Vec<u8>, bool); 13] = [
        ("a bomb", 8, &[GRPC, with_gzip], packed, true),
        (
            "4 GiB announced",
            8,
            &[GRPC],
            frame(0, u32::MAX, b"x"),
            true,
        ),
        (
            "4 GiB announced, then silence",
            4,
            &[GRPC],
            frame(0, u32::MAX, b"x"),
            false,
        ),
        (
            "over http.max_body",
            8,
            &[GRPC],
            framed(&vec![0; 6 << 20]),
            true,
        ),
        ("no frame", 3, &[GRPC], vec![0, 0], true),
        (
            "shorter than its frame says",
            3,
            &[GRPC],
            frame(0, 100, &good),
            true,
        ),
        (
            "two messages",
            3,
            &[GRPC],
            [framed(&good), framed(&good)].concat(),
            true,
        ),
        ("cut off", 3, &[GRPC], framed(&good[..good.len() - 3]), true),
        ("deep", 3, &[GRPC], framed(&deep(60)), true),
        (
            "packed without an encoding",
            3,
            &[GRPC],
            frame(1, good.len() as u32, &good),
            true,
        ),
        (
            "packed, not with what it says",
            3,
            &[GRPC, with_gzip],
            frame(1, good.len() as u32, &good),
            true,
        ),
        (
            "an encoding that is not known",
            12,
            &[GRPC, with_snappy],
            framed(&good),
            true,
        ),
        (
            "a flag that is not known",
            3,
            &[GRPC],
            frame(2, good.len() as u32, &good),
            true,
        ),
    ];
    for (what, code, headers, body, ends) in cases {
        let called = call(&address, LOGS, headers, body, ends).await;
        println!("{what}: {:?}", called.header("grpc-message"));
        assert_eq!(called.code(), code, "{what}");
        assert!(!called.header("grpc-message").unwrap().is_empty());
        // A client that may try again would do so for ever.
        assert_eq!(called.header("google.rpc.retryinfo-bin"), None, "{what}");
        assert_serves(&service, &mut time).await;
    }
    let called = call(&address, "/nobody/Nothing", &[GRPC], framed(&good), true).await;
    assert_eq!(called.code(), 12);
    let called = call(&address, LOGS, &[JSON], b"{}".to_vec(), true).await;
    assert_eq!(called.http, 415);
    assert_serves(&service, &mut time).await;
    let peak = service.rss_peak_kib();
    println!("{before} KiB became {peak} KiB");
    assert!(peak < before + 48 * 1024);
    eventually(SOON, "no memory is held", || {
        service.get("/status").json()["memory"]["used"] == 0
    });
    settle(&service);
    assert_eq!(stored(&service).len() as u64, time, "only what was good");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attack_over_http_has_its_status_and_harms_nobody() {
    let service = service()
        .otlp()
        .config("http: { body_timeout: 1s }")
        .start();
    let mut time = 0;
    assert_serves(&service, &mut time).await;
    let before = service.rss_kib();
    let good = request(vec![log(1, "x")]);
    let cases: [(&str, u16, i32, Headers<'_>, Vec<u8>); 7] = [
        ("a bomb", 413, 8, &[PROTOBUF, GZIP], bomb()),
        ("over http.max_body", 413, 8, &[PROTOBUF], vec![0; 6 << 20]),
        (
            "cut off",
            400,
            3,
            &[PROTOBUF],
            good[..good.len() - 3].to_vec(),
        ),
        ("deep", 400, 3, &[PROTOBUF], deep(60)),
        ("not gzip", 400, 3, &[PROTOBUF, GZIP], good.clone()),
        (
            "an encoding that is not known",
            415,
            12,
            &[PROTOBUF, ("content-encoding", "br")],
            good.clone(),
        ),
        (
            "JSON",
            400,
            3,
            &[PROTOBUF],
            b"{\"resourceLogs\":[]}".to_vec(),
        ),
    ];
    for (what, http, code, headers, body) in cases {
        let answer = post(&service, "/v1/logs", headers, &body);
        let status = status_of(&answer);
        println!("{what}: {}", status.message);
        assert_eq!((answer.status, status.code), (http, code), "{what}");
        assert!(
            status.details.is_empty() && !status.message.is_empty(),
            "{what}"
        );
        assert_serves(&service, &mut time).await;
    }
    let nested = "{\"resourceLogs\":[{\"resource\":".repeat(100_000);
    for text in ["{\"resourceLogs\":[", "[]", "{\"resourceLogs\":7}", &nested] {
        let answer = post(&service, "/v1/logs", &[JSON], text.as_bytes()).expect_status(400);
        assert_eq!(answer.json()["code"], 3, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let text = ("content-type", "text/plain");
    post(&service, "/v1/logs", &[text], b"x").expect_status(415);
    post(&service, "/v1/nothing", &[PROTOBUF], b"").expect_status(404);
    let mut connection =
        telemetryx_testkit::Connection::open(&service.otlp_http_address()).unwrap();
    assert_eq!(
        connection
            .request("GET", "/v1/logs", &[], b"")
            .unwrap()
            .status,
        405
    );
    assert_serves(&service, &mut time).await;
    let peak = service.rss_peak_kib();
    println!("{before} KiB became {peak} KiB");
    assert!(peak < before + 48 * 1024);
    settle(&service);
    assert_eq!(stored(&service).len() as u64, time, "only what was good");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_refused_are_counted_and_the_others_are_taken() {
    let service = service().otlp().start();
    let body = request(vec![
        log(1, "good"),
        log(u64::MAX, "of the future"),
        log(2, "NUL \0"),
    ]);
    let expected = |response: &[u8]| {
        let response = ExportLogsServiceResponse::decode(response).unwrap();
        let partial = response.partial_success.unwrap();
        assert_eq!(partial.rejected_log_records, 2);
        assert!(
            partial.error_message.contains("record 1: `ts` is 2262-"),
            "{partial:?}"
        );
    };
    expected(
        &post(&service, "/v1/logs", &[PROTOBUF], &body)
            .expect_status(200)
            .body,
    );
    let called = export(&service, &body).await;
    assert_eq!(called.code(), 0);
    expected(&called.body[5..]);
    // Sent twice, and so stored once; and on the main port as well.
    let records = json!([{"timeUnixNano": "3"}, {"timeUnixNano": "9223372036854775807"}]);
    let text = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string();
    let answer = service
        .post_json("/v1/logs", &text)
        .expect_status(200)
        .json();
    assert_eq!(answer["partialSuccess"]["rejectedLogRecords"], "1");
    let none = post(&service, "/v1/logs", &[PROTOBUF], b"").expect_status(200);
    assert_eq!(none.body, b"");
    settle(&service);
    assert_eq!(stored(&service).len(), 2);
    let ledger = support::assert_books_balance(&service);
    assert_eq!(ledger["door"]["refused"], 5, "{ledger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_come_back_is_told_when() {
    let limit = "admission: { rate_limit: { enabled: true, rps: 0.01, burst: 1 } }";
    let service = service().otlp().config(limit).start();
    let body = request(vec![log(1, "x")]);
    post(&service, "/v1/logs", &[PROTOBUF], &body).expect_status(200);
    let answer = post(&service, "/v1/logs", &[PROTOBUF], &body).expect_status(429);
    let after = support::retry_after(&answer);
    assert!((90..=100).contains(&after), "{after}");
    let status = status_of(&answer);
    assert_eq!((status.code, status.details.len()), (8, 1));
    assert_eq!(
        status.details[0].kind,
        "type.googleapis.com/google.rpc.RetryInfo"
    );
    let answer = post(&service, "/v1/logs", &[JSON], b"{}").expect_status(429);
    let delay = answer.json()["details"][0]["retryDelay"]
        .as_str()
        .unwrap()
        .to_owned();
    let (seconds, nanos) = delay.strip_suffix('s').unwrap().split_once('.').unwrap();
    assert!(seconds.starts_with('9') && nanos.len() == 9, "{delay}");
    let called = export(&service, &body).await;
    assert_eq!(called.code(), 8);
    for name in ["grpc-status-details-bin", "google.rpc.retryinfo-bin"] {
        assert!(called.header(name).is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_for_as_everywhere() {
    let service = service()
        .otlp()
        .config(
            // Of `secret-secret-1`.
            "auth: { keys: [ { name: k, sha256: a2467fec8d229377a4318150ecc260b210c7f55cf7fae0cd3ea08ea650be3ca0 } ] }",
        )
        .start();
    let body = request(vec![log(1, "x")]);
    let answer = post(&service, "/v1/logs", &[PROTOBUF], &body).expect_status(401);
    assert_eq!(status_of(&answer).code, 16);
    let address = service.otlp_grpc_address();
    let called = call(&address, LOGS, &[GRPC], framed(&body), true).await;
    assert_eq!(called.code(), 16);
    let key = ("authorization", "Bearer secret-secret-1");
    let called = call(&address, LOGS, &[GRPC, key], framed(&body), true).await;
    assert_eq!(called.code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_its_limit_is_refused_alone() {
    let service = service().otlp().config("http: { max_event: 4KiB }").start();
    let large = "x".repeat(5000);
    let mut time = 0;
    let mut three = || {
        time += 3;
        request(vec![log(time, "a"), log(time, &large), log(time + 1, "b")])
    };
    let expected = |response: &[u8]| {
        let response = ExportLogsServiceResponse::decode(response).unwrap();
        let partial = response.partial_success.unwrap();
        assert_eq!(partial.rejected_log_records, 1);
        let message = "record 1: as an event it is longer than 4096 bytes (http.max_event)";
        assert_eq!(partial.error_message, message);
    };
    let answer = post(&service, "/v1/logs", &[PROTOBUF], &three());
    expected(&answer.expect_status(200).body);
    let called = export(&service, &three()).await;
    assert_eq!(called.code(), 0);
    expected(&called.body[5..]);
    // The only one of its request, too.
    let alone = request(vec![log(1, &large)]);
    let answer = post(&service, "/v1/logs", &[PROTOBUF], &alone).expect_status(200);
    let answer = ExportLogsServiceResponse::decode(answer.body.as_slice()).unwrap();
    assert_eq!(answer.partial_success.unwrap().rejected_log_records, 1);
    settle(&service);
    assert_eq!(stored(&service).len(), 4);
    let ledger = support::assert_books_balance(&service);
    assert_eq!(ledger["door"]["refused"], 3, "{ledger}");
    let letters = service.get("/dead-letters").json();
    assert_eq!(
        (&letters["count"], &letters["dead_letters"][0]["code"]),
        (&json!(3), &json!("event_too_large"))
    );
}

/// Whatever a request has so many small attributes of: they take memory as far as an event may have them.
#[tokio::test(flavor = "multi_thread")]
async fn many_small_attributes_take_little_memory() {
    let service = service().otlp().start();
    let mut time = 0;
    assert_serves(&service, &mut time).await;
    // Tag, length, the key `a`, and `true`.
    let attribute = [7, 0x0a, 1, b'a', 0x12, 2, 0x10, 1];
    let many = |tag: u8| -> Vec<u8> {
        let one = [&[tag], &attribute[..]].concat();
        one.repeat((5 << 20) / one.len() - 10)
    };
    let in_message = |tag: u8, bytes: &[u8]| {
        let mut message = vec![tag];
        prost::encode_length_delimiter(bytes.len(), &mut message).unwrap();
        message.extend_from_slice(bytes);
        message
    };
    // An empty record beside a resource, in a scope, and a record.
    let record = [0x12, 2, 0x12, 0];
    let of_resource = [in_message(0x0a, &many(0x0a)), record.to_vec()].concat();
    let of_scope = [in_message(0x0a, &many(0x1a)), vec![0x12, 0]].concat();
    let of_scope = in_message(0x12, &of_scope);
    let of_record = in_message(0x12, &in_message(0x12, &many(0x32)));
    let bodies = [of_resource, of_scope, of_record];
    let before = service.rss_kib();
    for (n, body) in bodies.iter().cycle().take(9).enumerate() {
        let body = in_message(0x0a, body);
        assert!(body.len() < 5 << 20);
        let answer = post(&service, "/v1/logs", &[PROTOBUF], &body).expect_status(200);
        let answer = ExportLogsServiceResponse::decode(answer.body.as_slice()).unwrap();
        let partial = answer.partial_success.unwrap();
        assert_eq!(partial.rejected_log_records, 1, "{n}: {partial:?}");
        assert_serves(&service, &mut time).await;
    }
    let peak = service.rss_peak_kib();
    println!("{before} KiB became {peak} KiB");
    assert!(peak < before + 24 * 1024, "{before} KiB became {peak} KiB");
    settle(&service);
    assert_eq!(stored(&service).len() as u64, time, "only what was good");
}

#[test]
fn slow_body_over_http_is_to_be_sent_again() {
    let service = service()
        .otlp()
        .config("http: { body_timeout: 200ms }")
        .start();
    for (content_type, address) in [
        ("application/x-protobuf", service.otlp_http_address()),
        ("application/json", service.address()),
    ] {
        let mut connection = telemetryx_testkit::Connection::open(&address).unwrap();
        let head = format!(
            "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: 100\r\n\r\n{{"
        );
        connection.send_raw(head.as_bytes()).unwrap();
        let answer = connection.read_response().unwrap().expect_status(503);
        assert_eq!(support::retry_after(&answer), 1);
        let code = match content_type {
            "application/json" => answer.json()["code"].as_i64().unwrap(),
            _ => status_of(&answer).code.into(),
        };
        assert_eq!(code, 14);
    }
    // What is no OTLP is answered as before.
    let mut connection = service.connect();
    connection
        .send_raw(b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .unwrap();
    connection.read_response().unwrap().expect_status(408);
}

/// What the overflow policy drops is answered 200, as a client would only send it again; but it is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_overflow_policy_drops_is_told_as_a_warning() {
    for policy in ["drop", "sample, sample_rate: 0.25"] {
        let route = support::DEAD_ROUTE;
        let config = format!(
            "admission: {{ overflow: {{ policy: {policy}, max_backlog_events: 2 }} }}\n{route}"
        );
        let service = service().otlp().config(&config).start();
        let mut time = 0;
        // Eleven records, of which the last is invalid.
        let mut eleven = || {
            time += 10;
            let mut logs: Vec<_> = (0..10).map(|n| log(time + n, "x")).collect();
            logs.push(log(u64::MAX, "of the future"));
            request(logs)
        };
        let whole = post(
            &service,
            "/v1/logs",
            &[PROTOBUF],
            &request(vec![log(1, "x"); 2]),
        );
        assert_eq!(whole.expect_status(200).body, b"");
        let (mut shed, mut kept) = (0, 2);
        let mut hear = |rejected: i64, message: &str| {
            assert_eq!(rejected, 1);
            let (dropped, rest) = message
                .split_once(" dropped by the overflow policy")
                .unwrap();
            let dropped: u64 = dropped.parse().unwrap();
            assert!(rest.starts_with("; record 10: `ts` is 2262-"), "{message}");
            match policy {
                "drop" => assert_eq!(dropped, 10),
                _ => assert!((6..=9).contains(&dropped), "three of four: {message}"),
            }
            shed += dropped;
            kept += 10 - dropped;
        };
        let mut hear_protobuf = |response: &[u8]| {
            let response = ExportLogsServiceResponse::decode(response).unwrap();
            let partial = response.partial_success.unwrap();
            hear(partial.rejected_log_records, &partial.error_message);
        };
        for _ in 0..4 {
            let answer = post(&service, "/v1/logs", &[PROTOBUF], &eleven());
            hear_protobuf(&answer.expect_status(200).body);
            let called = export(&service, &eleven()).await;
            assert_eq!(called.code(), 0);
            hear_protobuf(&called.body[5..]);
        }
        let mut records: Vec<_> = (0..10)
            .map(|n| json!({"timeUnixNano": n.to_string()}))
            .collect();
        records.push(json!({"timeUnixNano": "9223372036854775807"}));
        let text = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]});
        let answer = post(&service, "/v1/logs", &[JSON], text.to_string().as_bytes());
        let answer = answer.expect_status(200).json();
        let partial = &answer["partialSuccess"];
        let rejected = partial["rejectedLogRecords"].as_str().unwrap();
        hear(
            rejected.parse().unwrap(),
            partial["errorMessage"].as_str().unwrap(),
        );
        let ledger = support::assert_books_balance(&service);
        assert_eq!(
            (&ledger["accepted"], &ledger["door"]["shed"]),
            (&json!(kept), &json!(shed)),
            "{policy}"
        );
        assert_eq!(ledger["door"]["refused"], 9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_grpc_are_counted_as_what_they_are() {
    let service = service().otlp().start();
    export(&service, &request(vec![log(1, "x")])).await;
    assert_eq!(export(&service, b"nonsense").await.code(), 3);
    for (status, count) in [(200, 1.0), (400, 1.0)] {
        let labels = format!("endpoint=\"{LOGS}\",status=\"{status}\"");
        let name = format!("telemetron_http_requests_duration_seconds_count{{{labels}}}");
        assert_eq!(support::metric(&service, &name), count, "{status}");
    }
}

#[test]
fn otlp_that_is_off_has_no_port_and_no_path() {
    let service = service().start();
    let answer: Value = service
        .post_json("/v1/logs", "{}")
        .expect_status(404)
        .json();
    assert_eq!(answer["error"]["code"], "not_found");
}
