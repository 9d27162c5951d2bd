//! One route's trouble never delays another, nor the door; it ends by itself when its cause does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Load, SOON, assert_books_balance, events, log_line, metric, start};
use telemetryx_testkit::{Service, eventually};

/// A service with three routes, of which `bad` cannot deliver while `blocked` is a directory.
fn with_broken_route(blocked: &Path) -> Service {
    std::fs::create_dir(blocked).unwrap();
    start(&format!(
        "routes: [ {{ name: stats, sink: {{ kind: stats }} }}, {{ name: good, sink: {{ kind: sqlite }} }},
           {{ name: bad, sink: {{ kind: sqlite, path: {blocked:?} }}, retry: {{ initial: 5ms, max: 50ms }},
              breaker: {{ failures: 3, open_for: 100ms }} }} ]
query: {{ events_from: bad }}"
    ))
}

fn route(service: &Service, name: &str) -> Value {
    service.get("/status").json()["routes"][name].clone()
}

#[test]
fn broken_sink_delays_neither_other_routes_nor_the_door_and_recovers_by_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let blocked = scratch.path().join("bad.db");
    let service = with_broken_route(&blocked);
    let load = Load::start(&service, "i", 2, 50, 100);
    eventually(SOON, "the breaker opens", || {
        metric(&service, "route_breaker_open{route=\"bad\"}") == 1.0
    });
    load.wait_for(2000);
    let tally = load.stop();
    eventually(SOON, "the other routes have all", || {
        let lag = |name| route(&service, name)["lag_events"].clone();
        lag("good") == 0 && lag("stats") == 0
    });
    let answer = service.get("/health").expect_status(200);
    let health = answer.json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(health["routes"]["bad"]["state"], "down");
    assert_eq!(health["routes"]["good"]["state"], "up");
    let error = health["routes"]["bad"]["error"].as_str().unwrap();
    assert!(error.contains("unable to open database file"), "{error}");
    assert_eq!(
        tally.statuses.keys().collect::<Vec<_>>(),
        [&202],
        "the door took everything"
    );
    let ledger = assert_books_balance(&service);
    assert_eq!(
        ledger["routes"]["bad"]["pending"], ledger["accepted"],
        "nothing given up"
    );
    assert!(metric(&service, "route_retries_total{route=\"bad\"}") >= 2.0);
    assert_eq!(
        service.get("/events").status,
        503,
        "its store cannot be read, and says so"
    );

    std::fs::remove_dir(&blocked).unwrap();
    // All that was acknowledged is in the store of the route that was broken, once.
    tally.assert_kept(&service);
    eventually(SOON, "healthy again", || {
        service.get("/health").json()["status"] == "healthy"
    });
    assert_eq!(metric(&service, "route_breaker_open{route=\"bad\"}"), 0.0);
    assert!(service.log().contains("the sink is back"));
}

#[test]
fn route_whose_sink_takes_nothing_stops_reading_at_the_depth_that_is_set_and_says_so_once() {
    let scratch = tempfile::tempdir().unwrap();
    let blocked = scratch.path().join("bad.db");
    std::fs::create_dir(&blocked).unwrap();
    let service = start(&format!(
        "processing: {{ queue_max_depth: 3 }}
routes: [ {{ name: bad, sink: {{ kind: sqlite, path: {blocked:?} }}, batch: {{ max_events: 10 }},
              retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ open_for: 100ms }} }} ]
query: {{ events_from: bad }}"
    ));
    let ids: Vec<_> = (0..100).map(|index| format!("p{index}")).collect();
    let posted = events(ids.iter().map(String::as_str));
    service.post_json("/ingest", posted).expect_status(202);
    let paused = log_line(&service, "processing_paused");
    assert_eq!(
        (&paused["reason"], &paused["route"], &paused["batches"]),
        (&"buffer_full".into(), &"bad".into(), &3.into())
    );
    std::fs::remove_dir(&blocked).unwrap();
    eventually(SOON, "all of it is delivered", || {
        route(&service, "bad")["lag_events"] == 0
    });
    assert_eq!(
        assert_books_balance(&service)["routes"]["bad"]["delivered"],
        100
    );
    let overload = service.get("/status").json()["overload"].clone();
    assert_eq!(overload["processing_paused"]["count"], 1, "{overload}");
    eventually(SOON, "it says that it reads on", || {
        service.log().contains("reading goes on")
    });
}

#[test]
fn dead_route_costs_no_memory_however_much_waits_for_it() {
    let scratch = tempfile::tempdir().unwrap();
    let service = with_broken_route(&scratch.path().join("bad.db"));
    let load = Load::start(&service, "m", 2, 50, 1000);
    load.wait_for(10_000);
    let early = service.rss_kib();
    load.wait_for(60_000);
    let late = service.rss_kib();
    load.stop();
    println!("resident with 10 MB waiting: {early} KiB, with 70 MB: {late} KiB");
    assert!(
        late < early + 32 * 1024,
        "60 MB more wait, {early} KiB became {late} KiB"
    );
}

#[test]
fn service_ends_and_starts_again_while_a_sink_is_down() {
    let scratch = tempfile::tempdir().unwrap();
    let blocked = scratch.path().join("bad.db");
    let mut service = with_broken_route(&blocked);
    let load = Load::start(&service, "e", 1, 10, 10);
    load.wait_for(100);
    let tally = load.stop();
    assert!(
        service.terminate().success(),
        "a sink that is down is not waited for"
    );
    service.restart();
    assert_eq!(
        service.get("/ledger").json()["routes"]["bad"]["pending"],
        tally.acknowledged.len()
    );
    std::fs::remove_dir(&blocked).unwrap();
    tally.assert_kept(&service);
}
