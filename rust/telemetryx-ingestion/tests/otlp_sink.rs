//! The `otlp` sink with real receivers: another TelemetryX over HTTP and gRPC, whose events must be the sender's, and a
//! program in Python that reads what it gets with the messages of `opentelemetry-proto`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "it issues only")]
#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use certificates::Authority;
use serde_json::{Value, json};
use support::outages::{Outages, Trouble};
use support::python::{program, python};
use support::receiver::Receiver;
use support::{SOON, assert_books_balance, event, service, settle, start};
use telemetryx_testkit::{Proxy, Service, eventually};

const LOGS: &str = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},
    {"key":"list","value":{"arrayValue":{"values":[{"intValue":"-9223372036854775808"},{"doubleValue":0.1},{"boolValue":false},
      {"bytesValue":"AP8="},{"kvlistValue":{"values":[{"key":"k","value":{"stringValue":"\u00fc\""}}]}},{}]}}}],"droppedAttributesCount":3},
   "schemaUrl":"https://example.com/r","scopeLogs":[{"scope":{"name":"s","version":"1","attributes":[{"key":"a","value":{"doubleValue":"NaN"}}]},
    "schemaUrl":"https://example.com/s","logRecords":[
     {"timeUnixNano":"1767225600000000001","observedTimeUnixNano":"1767225600000000002","severityNumber":9,"severityText":"INFO",
      "body":{"stringValue":"paid"},"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","flags":1,"eventName":"e"},
     {"observedTimeUnixNano":"1767225600000000003","body":{"kvlistValue":{"values":[{"key":"x","value":{"intValue":"7"}}]}}}]}]},
   {"scopeLogs":[{"logRecords":[{"timeUnixNano":"1767225600000000004"}]}]}]}"#;
const SPANS: &str = r#"{"resourceSpans":[{"resource":{},"scopeSpans":[{"scope":{"name":"s"},"spans":[
     {"traceId":"0102030405060708090a0b0c0d0e0f11","spanId":"0102030405060709","parentSpanId":"0102030405060701","name":"GET","kind":2,
      "traceState":"a=b","startTimeUnixNano":"1767225600000000005","endTimeUnixNano":"1767225600000000006",
      "attributes":[{"key":"n","value":{"intValue":"1"}}],"status":{"code":2,"message":"no"},
      "events":[{"timeUnixNano":"1767225600000000005","name":"ev","attributes":[{"key":"b","value":{"boolValue":true}}]}],
      "links":[{"traceId":"0102030405060708090a0b0c0d0e0f12","spanId":"010203040506070a","flags":256}]}]}]}]}"#;
const METRICS: &str = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
     {"name":"g","unit":"1","gauge":{"dataPoints":[{"timeUnixNano":"1767225600000000007","asDouble":-0.0},{"timeUnixNano":"1767225600000000008","asInt":"-1"}]}},
     {"name":"s","description":"d","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{"timeUnixNano":"1767225600000000009","asInt":"9",
       "exemplars":[{"timeUnixNano":"1","asDouble":2.5,"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708"}]}]}},
     {"name":"h","histogram":{"aggregationTemporality":1,"dataPoints":[{"timeUnixNano":"1767225600000000010","count":"3","sum":1.5,
       "bucketCounts":["1","2"],"explicitBounds":[0.5],"min":0.1,"max":0.9}]}},
     {"name":"e","exponentialHistogram":{"aggregationTemporality":1,"dataPoints":[{"timeUnixNano":"1767225600000000011","count":"3","scale":-2,
       "zeroCount":"1","positive":{"offset":-5,"bucketCounts":["1","0","1"]},"negative":{}}]}},
     {"name":"q","summary":{"dataPoints":[{"timeUnixNano":"1767225600000000012","count":"2","sum":3,"quantileValues":[{"quantile":0.5,"value":1}]}]}}]}]}]}"#;
const RECORDS: usize = 3 + 1 + 6;

fn config(url: &str, more: &str) -> String {
    format!(
        "routes:
  - {{ name: store, sink: {{ kind: sqlite }} }}
  - {{ name: out, sink: {{ kind: otlp, url: {url:?}, {more} }},
      retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ failures: 3, open_for: 100ms }} }}"
    )
}

/// A service that takes OTLP and sends it on.
#[track_caller]
fn sender(url: &str, more: &str) -> Service {
    service().config(&config(url, more)).otlp().start()
}

#[track_caller]
fn post_all(service: &Service) {
    for (path, body) in [
        ("/v1/logs", LOGS),
        ("/v1/traces", SPANS),
        ("/v1/metrics", METRICS),
    ] {
        let answer = service.post_json(path, body).expect_status(200);
        assert_eq!(answer.text(), "{}", "all is taken");
    }
}

/// Type, source and payload of each stored event, with how often it is there.
#[track_caller]
fn stored(service: &Service) -> BTreeMap<String, u32> {
    settle(service);
    let headers = [("accept", "application/x-ndjson")];
    let answer = service.request("GET", "/events", &headers, b"");
    let mut counts = BTreeMap::new();
    for event in answer.expect_status(200).ndjson() {
        let known = json!([
            event["type"],
            event["source"],
            event["ts"],
            event["attributes"],
            event["payload"]
        ]);
        *counts.entry(known.to_string()).or_insert(0) += 1;
    }
    counts
}

fn out(service: &Service) -> Value {
    let health = service.get("/health").expect_status(200).json();
    health["routes"]["out"].clone()
}

#[track_caller]
fn trouble(service: &Service, words: &str) {
    eventually(SOON, words, || {
        let error = out(service)["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        error.contains(words)
    });
}

#[test]
fn events_of_the_receiver_are_those_of_the_sender_over_http_and_grpc() {
    for protocol in ["http", "grpc"] {
        for compression in ["none", "gzip"] {
            let b = service().otlp().start();
            let url = match protocol {
                "http" => b.otlp_http_address(),
                _ => b.otlp_grpc_address(),
            };
            let more = format!("protocol: {protocol}, compression: {compression}");
            let a = sender(&format!("http://{url}"), &more);
            post_all(&a);
            let (sent, got) = (stored(&a), stored(&b));
            assert_eq!(sent.len(), RECORDS);
            assert_eq!(sent, got, "{more}");
            assert!(got.values().all(|count| *count == 1));

            // What is no OTLP goes as a log record that holds it.
            a.post_json("/ingest", r#"{"id":"x","ts":"2026-01-01T00:00:00Z","type":"login","source":7,"attributes":{"k":"v"},"payload":{"n": 1}}"#)
                .expect_status(202);
            settle(&a);
            settle(&b);
            let events = b.get("/events?type=otel.log").json();
            let mut events = events["events"].as_array().unwrap().iter();
            let event = events.find(|event| event["attributes"]["telemetryx.id"] == "x");
            let event = event.unwrap();
            assert_eq!(
                (&event["attributes"]["name"], &event["source"]),
                (&json!("login"), &json!("7"))
            );
            assert_eq!(event["attributes"]["k"], "v");
            let record = &event["payload"]["scopeLogs"][0]["logRecords"][0];
            assert_eq!(record["body"]["stringValue"], r#"{"n": 1}"#);
        }
    }
}

/// What the receiver took, as the messages of `opentelemetry-proto` read it.
#[track_caller]
fn decoded(receiver: &Receiver) -> Vec<Value> {
    let output = Command::new(python())
        .arg(program("otlp_decode.py"))
        .arg(receiver.file())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn messages_of_opentelemetry_proto_read_what_is_sent() {
    let receiver = Receiver::start(&[]);
    let a = sender(
        &receiver.url(),
        "compression: gzip, headers: { x-api-key: k }",
    );
    post_all(&a);
    settle(&a);
    let requests = decoded(&receiver);
    let of = |path: &str, resources: &str, scopes: &str, records: &str| {
        let requests = requests.iter().filter(|request| request["path"] == path);
        let resources: Vec<_> = requests
            .flat_map(|request| request["request"][resources].as_array().unwrap().clone())
            .collect();
        let records: Vec<_> = resources
            .iter()
            .flat_map(|resource| resource[scopes][0][records].as_array().unwrap().clone())
            .collect();
        (resources, records)
    };
    let (resources, logs) = of("/v1/logs", "resourceLogs", "scopeLogs", "logRecords");
    assert_eq!(
        resources[0]["resource"]["attributes"][0]["value"]["stringValue"],
        "shop"
    );
    assert_eq!(
        resources[0]["scopeLogs"][0]["schemaUrl"],
        "https://example.com/s"
    );
    assert_eq!(logs.len(), 3);
    assert_eq!(
        (
            &logs[0]["timeUnixNano"],
            &logs[0]["body"],
            &logs[0]["traceId"]
        ),
        (
            &json!("1767225600000000001"),
            &json!({"stringValue": "paid"}),
            &json!("AQIDBAUGBwgJCgsMDQ4PEA==")
        )
    );
    let (_, spans) = of("/v1/traces", "resourceSpans", "scopeSpans", "spans");
    assert_eq!(
        (spans.len(), &spans[0]["status"]["message"]),
        (1, &json!("no"))
    );
    let (_, metrics) = of("/v1/metrics", "resourceMetrics", "scopeMetrics", "metrics");
    let names: Vec<_> = metrics
        .iter()
        .map(|metric| metric["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["g", "g", "s", "h", "e", "q"]);
    assert_eq!(
        metrics[4]["exponentialHistogram"]["dataPoints"][0]["positive"]["offset"],
        -5
    );
    assert_eq!(receiver.taken()[0].headers["x-api-key"], "k");
}

#[test]
fn receiver_that_is_killed_or_hangs_has_every_record_once() {
    for protocol in ["http", "grpc"] {
        let mut b = service().otlp().start();
        let url = match protocol {
            "http" => b.otlp_http_address(),
            _ => b.otlp_grpc_address(),
        };
        let a = start(&config(
            &format!("http://{url}"),
            &format!("protocol: {protocol}, timeout: 300ms"),
        ));
        let mut sent = 0;
        let mut post = |count: u64| {
            let ids: Vec<_> = (sent..sent + count).map(|id| format!("r-{id}")).collect();
            sent += count;
            a.post_json("/ingest", support::events(ids))
                .expect_status(202);
        };
        for _ in 0..3 {
            post(50);
            b.kill();
            post(50);
            trouble(&a, "refused");
            b.restart();
            post(50);
            eventually(SOON, "it is up", || out(&a)["state"] == "up");
        }
        settle(&a);
        let got = stored(&b);
        assert_eq!(got.len(), 450);
        assert!(got.values().all(|count| *count == 1), "{protocol}");
        assert_books_balance(&a);
    }
}

#[test]
fn every_trouble_of_the_network_ends_with_every_event_there_once() {
    for protocol in ["http", "grpc"] {
        let b = service().otlp().start();
        let address = match protocol {
            "http" => b.otlp_http_address(),
            _ => b.otlp_grpc_address(),
        };
        let (_, port) = address.split_once(':').unwrap();
        let proxy = Proxy::start(port.parse().unwrap());
        let a = start(&Outages::config(&format!(
            "kind: otlp, url: 'http://{}', protocol: {protocol}, timeout: 300ms",
            proxy.address()
        )));
        let outages = Outages::of(&a);
        outages.go_through(&Trouble::of_the_network(
            &proxy,
            "no answer within 300ms",
            "",
        ));
        settle(&b);
        let headers = [("accept", "application/x-ndjson")];
        let answer = b.request("GET", "/events", &headers, b"");
        let events = answer.expect_status(200).ndjson();
        let id = |event: &Value| {
            event["attributes"]["telemetryx.id"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let mut ids: Vec<_> = events.iter().map(id).collect();
        ids.sort();
        assert_eq!(ids, outages.ids(), "{protocol}");
    }
}

#[test]
fn what_is_refused_or_rejected_becomes_a_dead_letter_and_what_was_taken_is_not_sent_again() {
    let receiver = Receiver::start(&[]);
    let a = start(&config(&receiver.url(), ""));
    let letters = |code: &str| {
        let shown = a.run(&["dead-letters", "list", "--route", "out"]).stdout;
        shown.matches(code).count()
    };
    // Logs pass, spans fail for a while: the logs are there once.
    receiver.behave(&json!({"do": "refuse", "status": 503, "poison": "GET"}));
    let body = format!("[{},{}]", span("GET"), event("log"));
    a.post_json("/ingest", body).expect_status(202);
    trouble(&a, "503");
    receiver.behave(&json!({"do": "ok"}));
    settle(&a);
    let paths: Vec<_> = receiver
        .taken()
        .iter()
        .map(|taken| taken.path.clone())
        .collect();
    assert_eq!(paths, ["/v1/logs", "/v1/traces"]);

    // One of many is poison: the others are there once.
    receiver.behave(&json!({"do": "refuse", "status": 400, "poison": "e-13"}));
    let before = receiver.taken().len();
    let ids: Vec<_> = (0..30).map(|n| format!("e-{n}")).collect();
    let body = support::events(&ids);
    a.post_json("/ingest", body).expect_status(202);
    settle(&a);
    assert_eq!(letters("http_400"), 1);
    let taken = receiver.taken().split_off(before);
    for id in ids.iter().filter(|id| *id != "e-13") {
        // Each text has its length before it.
        let text = [&[id.len() as u8][..], id.as_bytes()].concat();
        let found = |body: &[u8]| {
            body.windows(text.len())
                .filter(|part| part == &text)
                .count()
        };
        let count: usize = taken.iter().map(|taken| found(&taken.body)).sum();
        assert_eq!(count, 1, "{id}");
    }

    // All of a request is rejected: it is known which they are. Some of it is: nobody knows, and it is said.
    let partial = |rejected: u8| format!("\n\u{6}\u{8}{}\u{12}\u{2}no", char::from(rejected));
    receiver.behave(&json!({"do": "answer", "status": 200, "body": partial(3)}));
    a.post_json("/ingest", support::events(["a", "b", "c"]))
        .expect_status(202);
    settle(&a);
    assert_eq!(letters("rejected"), 3);
    receiver.behave(&json!({"do": "answer", "status": 200, "body": partial(1)}));
    a.post_json("/ingest", support::events(["d", "e", "f"]))
        .expect_status(202);
    settle(&a);
    assert_eq!(letters("rejected"), 3);
    assert!(a.log().contains("did not say which"));
    let counted = support::metric(&a, "otlp_rejected_records_total{route=\"out\"}");
    assert_eq!(counted, 1.0);
    receiver.behave(&json!({"do": "answer", "status": 200, "body": "garbage"}));
    a.post_json("/ingest", event("g")).expect_status(202);
    settle(&a);
    assert_books_balance(&a);
}

#[test]
fn requests_that_are_too_large_go_by_halves_over_http_and_grpc() {
    let b = service()
        .config("http: { max_body: 20KiB, max_event: 20KiB }")
        .otlp()
        .start();
    for (protocol, address, code, words) in [
        ("http", b.otlp_http_address(), "http_413", "413 "),
        (
            "grpc",
            b.otlp_grpc_address(),
            "grpc_resource_exhausted",
            "ResourceExhausted: ",
        ),
    ] {
        let a = start(&config(
            &format!("http://{address}"),
            &format!("protocol: {protocol}"),
        ));
        // All of them are larger than a request may be, and one of them is by itself.
        let events = (0..60).map(|n| {
            let bytes = if n == 33 { 30_000 } else { 1_000 };
            json!({"id": format!("{protocol}-{n}"), "ts": support::TS, "payload": "x".repeat(bytes)})
        });
        a.post_json("/ingest", Value::from_iter(events).to_string())
            .expect_status(202);
        settle(&a);
        let ledger = assert_books_balance(&a);
        assert_eq!(ledger["routes"]["out"]["dead"], 1, "{ledger}");
        let shown = a.run(&["dead-letters", "list", "--json"]).stdout;
        assert!(shown.contains(code) && shown.contains(words), "{shown}");
    }
    let got = stored(&b);
    assert_eq!(got.len(), 2 * 59);
    assert!(got.values().all(|count| *count == 1));
}

#[test]
fn parts_of_a_batch_are_under_way_together_and_each_key_stays_in_order() {
    let receiver = Receiver::start(&[]);
    let a =
        start(&config(&receiver.url(), "timeout: 500ms").replace("retry:", "in_flight: 4, retry:"));
    let post = |numbers: std::ops::Range<u32>| {
        let events = numbers.map(|n| {
            let key = n % 10;
            json!({"id": format!("k{key}-{n:04}"), "ts": support::TS, "partition_key": format!("key {key}")})
        });
        let body = Value::from_iter(events).to_string();
        a.post_json("/ingest", body).expect_status(202);
    };
    // One after the other they would wait for ever.
    receiver.behave(&json!({"do": "together", "count": 3}));
    post(0..100);
    settle(&a);
    receiver.behave(&json!({"do": "hang"}));
    post(100..300);
    trouble(&a, "no answer within");
    receiver.behave(&json!({"do": "ok"}));
    settle(&a);
    receiver.behave(&json!({"do": "refuse", "status": 400, "poison": "-0333"}));
    post(300..500);
    settle(&a);
    assert_eq!(assert_books_balance(&a)["routes"]["out"]["dead"], 1);

    let mut last = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for request in decoded(&receiver) {
        for resource in request["request"]["resourceLogs"].as_array().unwrap() {
            let attributes = &resource["scopeLogs"][0]["logRecords"][0]["attributes"];
            let id = attributes[0]["value"]["stringValue"].as_str().unwrap();
            if !seen.insert(id.to_owned()) {
                continue;
            }
            let key = id.split_once('-').unwrap().0.to_owned();
            let before = last.insert(key, id.to_owned());
            let before = before.unwrap_or_default();
            assert!(&*before < id, "{id} after {before}");
        }
    }
    assert_eq!(seen.len(), 499, "all but the poison");
}

fn span(name: &str) -> String {
    let payload = format!(
        r#"{{"scopeSpans":[{{"spans":[{{"traceId":"0102030405060708090a0b0c0d0e0f11","spanId":"0102030405060709","name":"{name}"}}]}}]}}"#
    );
    format!(r#"{{"ts":"2026-01-01T00:00:00Z","type":"otel.span","payload":{payload}}}"#)
}

#[test]
fn keys_and_certificates_are_those_that_the_receiver_wants() {
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::new(scratch.path(), "ca");
    let pair = authority.issue("server");
    let hash = support::sha256("the-right-key");
    let b = service()
        .config(&format!(
            "http: {{ tls: {{ cert_file: {:?}, key_file: {:?} }} }}
auth: {{ keys: [ {{ name: a, sha256: {hash:?} }} ] }}",
            pair.cert, pair.key
        ))
        .speaks_tls()
        .otlp()
        .start();
    for (protocol, address, words) in [
        ("http", b.otlp_http_address(), "401"),
        ("grpc", b.otlp_grpc_address(), "Unauthenticated"),
    ] {
        let file = scratch.path().join(protocol);
        std::fs::write(&file, "x-api-key: a-wrong-key\n").unwrap();
        let url = format!("https://{address}");
        let ca = &authority.file;
        let more =
            format!("protocol: {protocol}, headers_file: {file:?}, tls: {{ ca_file: {ca:?} }}");
        let a = sender(&url, &more);
        post_all(&a);
        trouble(&a, words);
        std::fs::write(&file, "x-api-key: the-right-key\n").unwrap();
        settle(&a);
        let books = assert_books_balance(&a);
        assert_eq!(books["routes"]["out"]["delivered"], RECORDS);
        assert!(!a.log().contains("wrong-key"));
        let stranger = sender(&url, &format!("protocol: {protocol}"));
        post_all(&stranger);
        trouble(&stranger, "certificate");
    }
}

#[test]
fn other_kinds_of_servers_and_wrong_keys_are_named() {
    let b = start("");
    let a = start(&config(&b.url(), "protocol: grpc, timeout: 1s"));
    a.post_json("/ingest", event("a")).expect_status(202);
    trouble(&a, "no gRPC");
    let receiver = Receiver::start(&[]);
    let a = start(&config(&receiver.url(), "protocol: grpc, timeout: 1s"));
    a.post_json("/ingest", event("a")).expect_status(202);
    trouble(&a, "127.0.0.1");

    let check = |sink: &str| {
        let config = format!("routes: [ {{ name: r, sink: {{ kind: otlp, {sink} }} }} ]");
        service().config(&config).run(&["check"])
    };
    for (sink, words) in [
        ("", "`url` or `url_file` is missing"),
        ("url: \"http://h\", protocol: udp", "`http` or `grpc`"),
        (
            "url: \"http://h\", protocol: grpc, compression: zstd",
            "`compression`",
        ),
        (
            "url: \"http://h\", signals: [logs]",
            "unknown field `signals`",
        ),
    ] {
        let shown = check(sink);
        assert_eq!(shown.code, Some(2), "{sink}: {shown:?}");
        assert!(shown.stderr.contains(words), "{sink}: {shown:?}");
    }
    assert_eq!(
        check("url: \"http://h:4317\", protocol: grpc").code,
        Some(0)
    );
}
