//! Signed webhooks, end to end: what the service does with a delivery, right or wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use support::webhooks::{KEY, RING, failures, kept, motion, post, ring, sha256};
use support::{
    accepted, assert_answer, assert_books_balance, error, event, service, settle, start, stored,
};
use telemetryx_testkit::Service;

/// Whether this is the payload of a stored event, byte for byte.
#[track_caller]
fn holds(service: &Service, payload: &str) -> bool {
    settle(service);
    let page = service.get("/events").expect_status(200);
    page.text().contains(&format!("\"payload\":{payload},"))
}

#[test]
fn ring_notifications_are_events_and_a_second_delivery_is_the_same_one() {
    let service = start(RING);
    let body = motion("6f1c0f5e-7a3b-4f0e-9b43-0c6d6f2f8a01");
    for _ in 0..2 {
        assert_answer(&ring(&service, KEY, &body), 202, accepted(1));
    }
    assert!(holds(&service, &body), "the payload, byte for byte");
    let unknown = r#"{"meta":{"version":"1.2","time":"2026-02-02T02:40:02Z","request_id":"r-2","account_id":"ava1.ring.account.AB12"},"data":{"id":"e","type":"package_detected","attributes":{"source":"device-8","timestamp":1770000002000}}}"#;
    assert_answer(&ring(&service, KEY, unknown), 202, accepted(1));
    let notice = r#"{"meta":{"version":"1.1","time":"2026-02-02T02:40:03.000000001Z","request_id":"r-3","account_id":"ava1.ring.account.AB12"},"data":{"id":"s_1","type":"subscription_cancelled","attributes":{"plan":"basic"}}}"#;
    assert_answer(&ring(&service, KEY, notice), 202, accepted(1));

    let event = |id: &str, ts: &str, kind: &str, source: &str, attributes: Value, body: &str| {
        let payload: Value = serde_json::from_str(body).unwrap();
        json!({ "id": id, "ts": ts, "type": kind, "source": source, "schema_version": 1, "attributes": attributes,
            "payload": payload })
    };
    let account = "ava1.ring.account.AB12";
    assert_eq!(
        kept(&service),
        [
            event(
                "6f1c0f5e-7a3b-4f0e-9b43-0c6d6f2f8a01",
                "2026-02-02T02:40:00.123Z",
                "ring.motion_detected",
                "device-7",
                json!({ "account_id": account, "sub_type": "human", "ring_event_id": "device-7_motion_1770000000123" }),
                &body
            ),
            event(
                "r-2",
                "2026-02-02T02:40:02Z",
                "ring.package_detected",
                "device-8",
                json!({ "account_id": account, "ring_event_id": "e" }),
                unknown
            ),
            event(
                "r-3",
                "2026-02-02T02:40:03.000000001Z",
                "ring.subscription_cancelled",
                account,
                json!({ "account_id": account, "ring_event_id": "s_1" }),
                notice
            ),
        ]
    );
    assert_books_balance(&service);
}

#[test]
fn a_key_is_changed_without_losing_a_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, "old-signing-key\n\n").unwrap();
    let config = format!("webhooks: {{ ring: {{ keys_file: {file:?} }} }}");
    let mut service = start(&config);
    let answer = |service: &Service, key: &str| ring(service, key, motion(key)).status;
    assert_eq!(answer(&service, "old-signing-key"), 202);
    assert_eq!(answer(&service, "new-signing-key"), 401);
    std::fs::write(&file, "old-signing-key\nnew-signing-key\n").unwrap();
    service.restart();
    assert_eq!(answer(&service, "old-signing-key"), 202);
    assert_eq!(answer(&service, "new-signing-key"), 202);
    std::fs::write(&file, "new-signing-key\n").unwrap();
    service.restart();
    assert_eq!(answer(&service, "old-signing-key"), 401);
    assert_eq!(answer(&service, "new-signing-key"), 202);
    settle(&service);
    assert_eq!(stored(&service).len(), 2);
}

#[test]
fn what_is_not_signed_is_401_counted_and_leaves_nothing() {
    let mut service = start(RING);
    let body = motion("r-1");
    let right = sha256(KEY, &body);
    let of_other = sha256(KEY, motion("r-2"));
    let upper = right.to_uppercase().replace("SHA256", "sha256");
    let wrong = [
        sha256("another-signing-key", &body),
        of_other,
        upper,
        right.replace("sha256=", ""),
        right.replace("sha256=", "sha1="),
        right.replace("sha256=", "SHA256="),
        right.chars().take(69).collect(),
        format!("{right}00"),
        format!("{right},{right}"),
        "sha256=".to_owned(),
        String::new(),
        "\u{fc}".to_owned(),
    ];
    for signature in &wrong {
        let answer = post(&service, "ring", &[("x-signature", signature)], &body);
        assert_answer(
            &answer,
            401,
            error("signature_wrong", "the signature is wrong"),
        );
        assert_eq!(answer.header("www-authenticate"), Some("Signature"));
    }
    // Not even its syntax is looked at.
    let answer = post(&service, "ring", &[("x-signature", &wrong[0])], "{");
    assert_eq!(answer.status, 401);
    let unsigned = [("x-hub-signature-256", right.as_str())];
    let answer = post(&service, "ring", &unsigned, &body);
    assert_answer(
        &answer,
        401,
        error("signature_missing", "the delivery is not signed"),
    );

    let count = wrong.len() as u64 + 1;
    assert_eq!(failures(&service, "ring", "wrong"), count as f64);
    assert_eq!(failures(&service, "ring", "missing"), 1.0);
    assert_eq!(
        service.get("/status").json()["webhooks"],
        json!({ "ring": { "signature_failures": { "missing": 1, "wrong": count, "expired": 0 } } })
    );
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["accepted"], 0);
    assert_eq!(ledger["door"]["unsigned"], count + 1);
    let line = service.log();
    let line = line.lines().find(|line| line.contains("without a right"));
    let line: Value = serde_json::from_str(line.expect("it is logged")).unwrap();
    assert_eq!(
        (&line["webhook"], &line["fault"]),
        (&json!("ring"), &json!("wrong"))
    );
    assert!(!service.log().contains(KEY));
    assert_eq!(
        service.get("/dead-letters").json()["dead_letters"],
        json!([])
    );
    service.terminate();
    service.restart();
    assert_eq!(
        service.get("/ledger").json()["door"]["unsigned"],
        count + 1,
        "across restarts"
    );
    assert_answer(&ring(&service, KEY, &body), 202, accepted(1));
}

#[test]
fn signed_and_unreadable_is_400_and_a_dead_letter() {
    let service = start(RING);
    let no_id = r#"{"meta":{"time":"2026-02-02T02:40:03Z"},"data":{"type":"x"}}"#;
    let no_time = r#"{"meta":{"request_id":"r"},"data":{"type":"x"}}"#;
    let bad_time =
        r#"{"meta":{"request_id":"r"},"data":{"type":"x","attributes":{"timestamp":1e300}}}"#;
    let bodies = ["", "{", "nonsense", "[]", no_id, no_time, bad_time];
    for body in bodies {
        let answer = ring(&service, KEY, body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "all_events_invalid");
    }
    assert_eq!(ring(&service, KEY, [0xff, 0xfe]).status, 400);
    let ledger = assert_books_balance(&service);
    let count = bodies.len() as u64 + 1;
    assert_eq!(
        (&ledger["accepted"], &ledger["door"]["refused"]),
        (&json!(0), &json!(count))
    );
    assert_eq!(ledger["door"]["unsigned"], 0);
    let letters = service.get("/dead-letters").json();
    assert_eq!(
        letters["dead_letters"].as_array().unwrap().len() as u64,
        count,
        "{letters}"
    );
}

#[test]
fn only_what_is_configured_has_a_path_and_only_post_is_taken() {
    let service =
        start("webhooks: { ring: { keys: [ring-signing-key] }, stripe: { keys: [], keys_file: } }");
    for path in [
        "/webhooks",
        "/webhooks/",
        "/webhooks/stripe",
        "/webhooks/nobody",
        "/webhooks/ring/",
        "/webhooks/RING",
        "/webhooks/%72ing",
    ] {
        let answer = service.post_json(path, "{}");
        let message = format!("there is nothing at `{path}`");
        assert_answer(&answer, 404, error("not_found", &message));
    }
    let answer = service.get("/webhooks/ring");
    assert_answer(
        &answer,
        405,
        error("method_not_allowed", "this endpoint takes POST"),
    );
}

#[test]
fn no_api_key_is_asked_and_the_guards_of_the_door_hold() {
    let service = start(&format!(
        "{RING}
auth: {{ keys: [ {{ name: a, sha256: {} }} ] }}
admission: {{ rate_limit: {{ enabled: true, per: source_ip, rps: 0.01, burst: 4 }} }}",
        "a".repeat(64)
    ));
    // Who shows no key takes a token of the address as well.
    assert_eq!(service.post_json("/ingest", event("a")).status, 401);
    assert_eq!(ring(&service, KEY, motion("r-1")).status, 202);
    assert_eq!(ring(&service, "a-wrong-key", motion("r-2")).status, 401);
    assert_eq!(ring(&service, KEY, motion("r-3")).status, 202);
    let answer = ring(&service, KEY, motion("r-4"));
    assert_answer(
        &answer,
        429,
        error("rate_limited", "the rate limit is spent"),
    );
    assert!(answer.header("retry-after").is_some());
    settle(&service);
    assert_eq!(stored(&service).len(), 2);

    let full = start(&format!(
        "{RING}\nadmission: {{ overflow: {{ policy: reject, max_backlog_events: 1 }} }}
routes: [ {{ name: store, sink: {{ kind: sqlite, path: /proc/no.db }} }} ]\nquery: {{ counters_from: }}"
    ));
    assert_eq!(ring(&full, KEY, motion("r-1")).status, 202);
    let answer = ring(&full, KEY, motion("r-2"));
    assert_answer(
        &answer,
        429,
        error("backlog_full", "the backlog is full; try again later"),
    );
}

#[test]
fn a_packed_body_is_signed_as_it_was_sent() {
    use std::io::Write;
    let service = start(RING);
    let body = motion("r-1");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(body.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let send = |signature: &str| {
        let headers = [("content-encoding", "gzip"), ("x-signature", signature)];
        service.request("POST", "/webhooks/ring", &headers, &packed)
    };
    assert_eq!(send(&sha256(KEY, &body)).status, 401);
    assert_answer(&send(&sha256(KEY, &packed)), 202, accepted(1));
    assert!(holds(&service, &body));
}

#[test]
fn check_shows_what_a_preset_says_and_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, "key-of-the-file\n").unwrap();
    let config = format!(
        "webhooks: {{ ring: {{ keys: [key-of-the-config], keys_file: {file:?} }}, gh: {{ preset: github, keys: [another-secret] }} }}"
    );
    let exit = service().config(&config).run(&["check"]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    for secret in ["key-of-the-config", "key-of-the-file", "another-secret"] {
        assert!(!exit.stdout.contains(secret), "{}", exit.stdout);
    }
    assert!(exit.stdout.contains("***") && exit.stdout.contains("header: x-hub-signature-256"));
    let exit = service()
        .config(
            "webhooks: { ring: { keys: [short], tolerance: 1m }, Me: { header: 'a b', keys: [] } }",
        )
        .run(&["check"]);
    assert_eq!(exit.code, Some(2));
    for mistake in [
        "webhooks.ring.keys[0]: the key has 5 bytes",
        "webhooks.ring.tolerance: no time is signed",
        "webhooks.Me: is not a name that a path can have",
        "webhooks.Me.header: `a b` is not the name of a header",
    ] {
        assert!(
            exit.stderr.contains(mistake),
            "{mistake} is not in\n{}",
            exit.stderr
        );
    }
}

#[test]
fn a_key_file_can_come_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, KEY).unwrap();
    let service = service()
        .env(
            "TELEMETRYX_WEBHOOKS__RING__KEYS_FILE",
            file.to_str().unwrap(),
        )
        .start();
    assert_answer(&ring(&service, KEY, motion("r-1")), 202, accepted(1));
}
