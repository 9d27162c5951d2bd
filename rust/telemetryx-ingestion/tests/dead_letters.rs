//! Events that a route's processor cannot handle: each becomes one dead letter, whatever crashes, and each is delivered once it is
//! sent again after its cause was mended.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{SOON, TS, assert_books_balance, service, settle, sha256, start, stored};
use telemetryx_testkit::{Connection, Service, TestSeed, eventually};

/// The migration wants an object; every event with text as payload is a dead letter of the route `store`.
const STRICT: &str = "
routes: [ { name: stats, sink: { kind: stats } },
  { name: store, sink: { kind: sqlite },
    processors: [ { name: SchemaMigration, types: { event: { 1: { rename: { a: b } } } } } ] } ]";
const MENDED: &str = "
routes: [ { name: stats, sink: { kind: stats } }, { name: store, sink: { kind: sqlite } } ]";

/// Ten events, of which every third cannot be lifted.
fn batch(number: usize) -> String {
    let event = |place: usize| {
        let payload = if place.is_multiple_of(3) {
            "\"text\""
        } else {
            "{\"a\":1}"
        };
        format!(r#"{{"id":"{number}-{place}","ts":"{TS}","payload":{payload}}}"#)
    };
    let events: Vec<_> = (0..10).map(event).collect();
    format!("[{}]", events.join(","))
}

/// How many of them cannot.
const BAD_IN_TEN: u64 = 4;

fn letters(service: &Service) -> u64 {
    let shown = service.run(&["dead-letters", "list", "--stage", "processing", "--json"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    shown["count"].as_u64().unwrap()
}

/// Starts again without the processor, sends all letters again; then all events are stored, none is dead.
fn mend_and_redrive(service: &mut Service, events: u64) {
    service.set_config(MENDED);
    service.terminate();
    service.restart();
    let sent = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    eventually(SOON, "all events are stored", || {
        stored(service).len() as u64 == events
    });
    assert!(stored(service).values().all(|times| *times == 1));
    assert_eq!(letters(service), 0);
    let ledger = assert_books_balance(service);
    assert_eq!(ledger["routes"]["store"]["delivered"], events);
    assert_eq!(ledger["routes"]["store"]["dead"], 0);
}

#[test]
fn what_a_processor_refused_is_delivered_once_it_is_sent_again() {
    let mut service = service().config(STRICT).start();
    for number in 0..5 {
        service
            .post_json("/ingest", batch(number))
            .expect_status(202);
    }
    settle(&service);
    assert_eq!(letters(&service), 5 * BAD_IN_TEN);
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["routes"]["store"]["dead"], 5 * BAD_IN_TEN);
    // Nothing is mended yet: each is dead again, and still counted once.
    let again = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(letters(&service), 5 * BAD_IN_TEN);
    assert_books_balance(&service);
    mend_and_redrive(&mut service, 50);
}

#[test]
fn what_a_key_may_not_send_is_no_letter_that_could_be_sent_again() {
    let service = start(&format!(
        "auth: {{ keys: [ {{ name: web, sha256: {}, source: web }} ] }}",
        sha256("web-key"),
    ));
    let post = |body: String| {
        service.request(
            "POST",
            "/ingest",
            &[("x-api-key", "web-key")],
            body.as_bytes(),
        )
    };
    let of = |source: &str, ts: &str| format!(r#"{{"ts":"{ts}","source":"{source}"}}"#);
    post(of("bank", TS)).expect_status(403);
    // Also if more is wrong with it, which time may mend.
    post(of("bank", "2199-01-01T00:00:00Z")).expect_status(403);
    let mixed = [of("web", TS), of("bank", TS), of("web", "long ago")].join(",");
    let answer = post(format!("[{mixed}]")).expect_status(202).json();
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(answer["errors"][0]["code"], "not_allowed", "{answer}");
    assert_eq!(assert_books_balance(&service)["door"]["refused"], 4);

    // The key's own event is the only letter, and the only one that is counted as kept.
    let letters = service.get("/dead-letters").json();
    assert_eq!(letters["count"], 1, "{letters}");
    assert_eq!(letters["dead_letters"][0]["code"], "invalid_timestamp");
    let metrics = service.get("/metrics").text().to_owned();
    assert!(!metrics.contains("code=\"not_allowed\""), "{metrics}");
    service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    settle(&service);
    let stored = service.get("/events").json();
    let sources: Vec<_> = stored["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["source"])
        .collect();
    assert_eq!(sources, ["web"]);
}

#[test]
fn kills_between_burying_and_committing_leave_each_letter_once() {
    let mut seed = TestSeed::new();
    let mut service = service().config(STRICT).start();
    let mut number = 0;
    for _ in 0..12 {
        let mut connection = Connection::open(&service.address()).unwrap();
        let moment = std::time::Instant::now() + Duration::from_micros(seed.below(40_000));
        while std::time::Instant::now() < moment {
            let headers = [("content-type", "application/json")];
            let body = batch(number);
            let answer = connection.request("POST", "/ingest", &headers, body.as_bytes());
            assert_eq!(answer.unwrap().status, 202);
            number += 1;
        }
        service.kill();
        service.restart();
    }
    settle(&service);
    let batches = number as u64;
    assert_eq!(
        letters(&service),
        batches * BAD_IN_TEN,
        "seed {}",
        seed.seed()
    );
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["routes"]["store"]["dead"], batches * BAD_IN_TEN);
    mend_and_redrive(&mut service, batches * 10);
}
