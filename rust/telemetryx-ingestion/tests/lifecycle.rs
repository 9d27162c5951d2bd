//! How the service starts, speaks, and ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Load, SOON, accepted, assert_answer, event, events, service, settle, start, stored};
use telemetryx_testkit::{H2Connection, Service, StartError, eventually};

#[test]
fn ready_within_a_second_with_an_empty_directory_and_after_a_kill() {
    let mut service = start("");
    let ready = |service: &Service| {
        let log = service.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter_map(|line| line["ready_ms"].as_u64())
            .collect::<Vec<_>>()
    };
    service.post_json("/ingest", event("a")).expect_status(202);
    service.kill();
    let took = service.restart();
    println!(
        "ready after {:?} ms by its own clock, {took:?} by ours",
        ready(&service)
    );
    assert!(took < Duration::from_secs(1));
    assert!(ready(&service).iter().all(|ms| *ms < 1000));
}

#[test]
fn sigterm_under_load_answers_delivers_and_exits_with_0() {
    let mut service = start("");
    let load = Load::start(&service, "t", 4, 20, 100);
    load.wait_for(2000);
    let status = service.terminate();
    let tally = load.stop();
    assert_eq!(status.code(), Some(0), "{}", service.log());
    assert!(
        tally
            .statuses
            .keys()
            .all(|status| [202, 503].contains(status)),
        "{:?}",
        tally.statuses
    );
    // All that was acknowledged was delivered before it ended.
    let db = rusqlite::Connection::open(service.data_dir().join("store.db")).unwrap();
    let count: i64 = db
        .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
        .unwrap();
    assert!(
        count.cast_unsigned() >= tally.acknowledged.len() as u64,
        "{count} of {} are stored",
        tally.acknowledged.len()
    );
    assert!(service.log().contains("\"stopped\""));
    service.restart();
    tally.assert_kept(&service);
}

#[test]
fn request_under_way_is_answered_before_the_end_and_new_ones_are_not_taken() {
    let mut service = start("");
    let mut connection = service.connect();
    let body = event("slow");
    let (first, rest) = body.as_bytes().split_at(10);
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.send_raw(head.as_bytes()).unwrap();
    connection.send_raw(first).unwrap();
    let mut idle = service.connect();
    idle.request("GET", "/healthz", &[], b"").unwrap();
    eventually(SOON, "the request is under way", || {
        service.get("/status").json()["memory"]["used"] != 0
    });
    service.signal_term();
    assert!(idle.closes_within(SOON), "an idle connection is closed");
    eventually(SOON, "no new connection is taken", || {
        telemetryx_testkit::Connection::open(&service.address())
            .and_then(|mut new| new.request("GET", "/healthz", &[], b""))
            .is_err()
    });
    connection.send_raw(rest).unwrap();
    assert_answer(&connection.read_response().unwrap(), 202, accepted(1));
    assert!(connection.closes_within(SOON));
    assert_eq!(service.wait().code(), Some(0));
    service.restart();
    settle(&service);
    assert_eq!(stored(&service).len(), 1);
}

#[test]
fn second_signal_ends_at_once_and_loses_nothing() {
    let mut service = start("");
    service
        .post_json("/ingest", events(["a", "b"]))
        .expect_status(202);
    let mut hanging = service.connect();
    hanging
        .send_raw(b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        .unwrap();
    eventually(SOON, "the request is under way", || {
        service.get("/status").json()["memory"]["used"] != 0
    });
    service.signal_term();
    eventually(SOON, "it drains", || {
        service.log().contains("\"shutting down\"")
    });
    assert!(service.is_running(), "it waits for the request");
    service.signal_term();
    assert_eq!(service.wait().code(), Some(130));
    service.restart();
    settle(&service);
    assert_eq!(stored(&service).len(), 2);
}

/// What is said beside the log's JSON lines.
fn said(error: &StartError) -> Vec<&str> {
    error
        .log
        .lines()
        .filter(|line| !line.starts_with('{'))
        .collect()
}

#[test]
fn port_that_is_taken_is_one_clear_line_and_exit_1() {
    let first = start("");
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let port = first.port().to_string();
    let error = service()
        .data_dir(&data)
        .env("TELEMETRYX_HTTP__PORT", &port)
        .try_start()
        .unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(1));
    let line = format!(
        "telemetryx: cannot listen on 127.0.0.1:{port}: Address already in use (os error 98) (http.host, http.port)"
    );
    assert_eq!(said(&error), [line]);
    assert!(!data.join("journal").exists(), "no data was touched");
    first.get("/healthz").expect_status(200);
}

#[test]
fn data_directory_in_use_or_not_usable_is_one_clear_line_and_exit_1() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    for data in [file.clone(), file.join("below")] {
        let error = service().data_dir(&data).try_start().unwrap_err();
        assert_eq!(error.status.unwrap().code(), Some(1));
        let said = said(&error);
        assert!(
            said.len() == 1
                && said[0].starts_with(&format!("telemetryx: data_dir {}: ", data.display())),
            "{said:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a directory");

    let data = scratch.path().join("data");
    let first = service().data_dir(&data).start();
    let error = service().data_dir(&data).try_start().unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(1));
    let line = said(&error).join("\n");
    assert!(
        line.starts_with("telemetryx: the journal in ") && !line.contains('\n'),
        "{line}"
    );
    assert!(
        line.contains("process"),
        "says that another process has it: {line}"
    );
    first.post_json("/ingest", event("a")).expect_status(202);
}

#[test]
fn unknown_config_key_is_exit_2_and_names_the_nearest() {
    let error = service()
        .config("http: { max_bdy: 1MiB }")
        .try_start()
        .unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(2));
    let said = said(&error).join("\n");
    assert!(
        said.contains("max_bdy") && said.contains("max_body"),
        "{said}"
    );
}

#[test]
fn logs_off_a_terminal_are_json_lines_without_payloads_and_keys() {
    let key = "key-that-must-not-be-logged";
    let digest = <sha2::Sha256 as sha2::Digest>::digest(key.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut service = service()
        .config(&format!("auth: {{ keys: [ {{ name: one, sha256: {digest} }} ] }}\nadmin: {{ token: admin-token-secret }}"))
        .env("RUST_LOG", "trace")
        .start();
    let secret =
        r#"{"id":"a","ts":"2026-01-01T00:00:00Z","payload":"payload-that-must-not-be-logged"}"#;
    let wrong = secret.replace("2026-01-01T", "payload-that-must-not-be-logged");
    let bearer = format!("Bearer {key}");
    for body in [secret, wrong.as_str(), secret.split_at(60).0, "[]"] {
        for headers in [
            [("x-api-key", key)],
            [("authorization", bearer.as_str())],
            [("x-api-key", "wrong-key")],
        ] {
            service.request("POST", "/ingest", &headers, body.as_bytes());
        }
    }
    service.request(
        "GET",
        "/events",
        &[("authorization", "Bearer admin-token-secret")],
        b"",
    );
    settle(&service);
    assert!(service.terminate().success());
    let log = service.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert!(lines.len() > 5);
    for line in &lines {
        assert!(
            line.is_object() && line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    for never in [
        "must-not-be-logged",
        "wrong-key",
        "admin-token-secret",
        &digest,
    ] {
        assert!(!log.contains(never), "`{never}` is in the log");
    }
    // Each request has its span, with what is asked of it.
    let spans: Vec<_> = lines
        .iter()
        .filter_map(|line| line.get("span"))
        .filter(|span| span["name"] == "ingest")
        .collect();
    for field in [
        "request_id",
        "source_ip",
        "payload_size",
        "decode_time",
        "enqueue_time",
        "process_time",
    ] {
        assert!(
            spans.iter().any(|span| span.get(field).is_some()),
            "no span has `{field}`: {spans:#?}"
        );
    }
}

#[test]
fn one_port_speaks_http1_and_h2c() {
    let service = start("");
    let mut h2 = H2Connection::open(&service.address()).unwrap();
    let json = [("content-type", "application/json")];
    let (status, body) = h2
        .request("POST", "/ingest", &json, event("two").as_bytes())
        .unwrap();
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&body));
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap()["accepted"],
        1
    );
    service
        .post_json("/ingest", event("one"))
        .expect_status(202);
    // Many requests at a time on one connection.
    let streams: Vec<_> = (0..100)
        .map(|n| {
            h2.start("POST", "/ingest", &json, event(&format!("m{n}")).as_bytes())
                .unwrap()
        })
        .collect();
    for stream in streams {
        assert_eq!(h2.answer(stream).unwrap().0, 202);
    }
    assert_eq!(h2.request("POST", "/ingest", &json, b"{").unwrap().0, 400);
    assert_eq!(h2.request("GET", "/nothing", &[], b"").unwrap().0, 404);
    settle(&service);
    let (status, body) = h2.request("GET", "/stats", &[], b"").unwrap();
    assert_eq!(
        (status, String::from_utf8(body).unwrap()),
        (200, r#"{"sources_count":1,"events_count":102}"#.into())
    );
    // A large body and a large answer, over the flow control windows.
    let big = format!(
        r#"{{"id":"big","ts":"2026-02-01T00:00:00Z","payload":"{}"}}"#,
        "x".repeat(900_000)
    );
    assert_eq!(
        h2.request("POST", "/ingest", &json, big.as_bytes())
            .unwrap()
            .0,
        202
    );
    settle(&service);
    let (status, body) = h2.request("GET", "/events?limit=1", &[], b"").unwrap();
    assert!(status == 200 && body.len() > 900_000);

    let mut service = service;
    service.signal_term();
    assert!(h2.is_sent_away(), "an open HTTP/2 connection is told to go");
    assert_eq!(service.wait().code(), Some(0));
}

#[test]
fn open_service_listens_on_this_machine_only_unless_it_is_told_otherwise() {
    let says_it_is_open = |service: &Service| {
        let lines: Vec<_> = service
            .log()
            .lines()
            .filter(|line| {
                line.contains("no `auth.keys`: whoever reaches the service may send events")
            })
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["level"].clone())
            .collect();
        lines
    };
    let open = start("");
    assert_eq!(says_it_is_open(&open), ["INFO"]);
    // A client certificate or a key is needed on every door; `tcp.host` is one.
    let key = format!(
        "auth: {{ keys: [ {{ name: k, sha256: \"{}\" }} ] }}",
        "0".repeat(64)
    );
    let everywhere = |config: &str| {
        service()
            .config(config)
            .env("TELEMETRYX_HTTP__HOST", "0.0.0.0")
    };
    for (host, builder) in [
        ("0.0.0.0", everywhere("")),
        ("::", service().env("TELEMETRYX_HTTP__HOST", "::")),
        (
            "::ffff:0.0.0.0",
            service().env("TELEMETRYX_HTTP__HOST", "::ffff:0.0.0.0"),
        ),
        (
            "192.0.2.1",
            service().config("tcp: { host: 192.0.2.1, port: 0 }"),
        ),
    ] {
        let StartError { status, log } = builder.try_start().unwrap_err();
        assert_eq!(status.and_then(|status| status.code()), Some(2), "{log}");
        let said =
            format!("{host} is reachable from other machines, and nobody is asked for a key");
        assert!(log.contains(&said), "{log}");
        assert!(
            log.contains("set auth.keys, or http.tls with a client_ca_file, or"),
            "{log}"
        );
    }
    let loopback = service()
        .config("tcp: { host: 127.0.0.2, port: 0 }")
        .start();
    assert_eq!(says_it_is_open(&loopback), ["INFO"]);
    let asking = everywhere(&key).start();
    assert_eq!(says_it_is_open(&asking), [(); 0].map(|()| Value::Null));
    asking.post_json("/ingest", event("a")).expect_status(401);
    let allowed = everywhere("auth: { allow_open: true }").start();
    assert_eq!(says_it_is_open(&allowed), ["WARN"]);
    allowed.post_json("/ingest", event("a")).expect_status(202);
}
