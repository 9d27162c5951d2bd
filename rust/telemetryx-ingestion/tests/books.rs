//! The books balance: receipts say where each event is, the ledger adds up at every moment and after every kill, and
//! `/stats` counts exactly what was accepted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Load, SOON, TS, Tally, assert_answer, assert_books_balance, error, event, events, metric,
    receipt, service, settle, start,
};
use telemetryx_testkit::{Service, TestSeed, eventually, eventually_some};

fn state(state: &str, delivered: u64, filtered: u64, dead: u64, pending: u64) -> Value {
    json!({"state": state, "delivered": delivered, "filtered": filtered, "dead": dead, "pending": pending})
}

fn shown(service: &Service, receipt: &str) -> Value {
    service
        .get(&format!("/receipts/{receipt}"))
        .expect_status(200)
        .json()
}

#[test]
fn receipt_goes_from_pending_to_delivered_in_each_route_by_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let blocked = scratch.path().join("store.db");
    std::fs::create_dir(&blocked).unwrap();
    let service = start(&format!(
        "routes: [ {{ name: stats, sink: {{ kind: stats }} }},
           {{ name: store, sink: {{ kind: sqlite, path: {blocked:?} }}, retry: {{ initial: 5ms, max: 20ms }},
              breaker: {{ open_for: 20ms }} }} ]"
    ));
    let receipt = receipt(&service.post_json("/ingest", events(["a", "b", "c"])));
    eventually(SOON, "one route has them", || {
        shown(&service, &receipt)["routes"]["stats"]["state"] == "delivered"
    });
    assert_eq!(
        shown(&service, &receipt),
        json!({"durability": "fsynced", "events": 3, "routes": {
            "stats": state("delivered", 3, 0, 0, 0), "store": state("pending", 0, 0, 0, 3),
        }})
    );
    assert_books_balance(&service);
    std::fs::remove_dir(&blocked).unwrap();
    eventually(SOON, "the other has them too", || {
        shown(&service, &receipt)["routes"]["store"] == state("delivered", 3, 0, 0, 0)
    });
}

#[test]
fn receipt_tells_filtered_and_dead_from_delivered() {
    let service = start(
        "routes: [ { name: stats, sink: { kind: stats }, filter: { types: [login] } },
           { name: store, sink: { kind: sqlite, path: . }, retry: { initial: 1ms, max: 1ms, attempts: 2 } } ]",
    );
    let body = format!(
        r#"[{},{{"ts":"{TS}","type":"logout"}},{}]"#,
        event("a"),
        event("b")
    );
    let receipt = receipt(&service.post_json("/ingest", body));
    settle(&service);
    let found = shown(&service, &receipt);
    assert_eq!(found["routes"]["stats"], state("delivered", 2, 1, 0, 0));
    let mut dead = state("partial", 0, 0, 3, 0);
    dead["why"] = found["routes"]["store"]["why"].clone();
    assert!(
        dead["why"]
            .as_str()
            .unwrap()
            .contains("unable to open database file"),
        "{found}"
    );
    assert_eq!(found["routes"]["store"], dead);

    let ledger = assert_books_balance(&service);
    let books = |delivered, filtered, dead| {
        json!({
            "delivered": delivered, "filtered": filtered, "dead": dead, "pending": 0, "expired": 0, "difference": 0,
        })
    };
    assert_eq!(
        ledger["routes"],
        json!({"stats": books(2, 1, 0), "store": books(0, 0, 3)})
    );
    assert_eq!(
        service
            .get("/dead-letters?route=store&stage=delivery")
            .json()["count"],
        3
    );
}

#[test]
fn expired_foreign_and_invented_receipts_are_404() {
    let service = start("journal: { embedded: { segment_size: 64KiB, retain: { bytes: 0B } } }");
    let first = receipt(&service.post_json("/ingest", event("first")));
    settle(&service);
    assert_eq!(shown(&service, &first)["events"], 1);
    let big = format!(r#"{{"ts":"{TS}","payload":"{}"}}"#, "x".repeat(30_000));
    let answer = eventually_some(SOON, "the journal has forgotten it", || {
        service.post_json("/ingest", &big).expect_status(202);
        let answer = service.get(&format!("/receipts/{first}"));
        (answer.status != 200).then_some(answer)
    });
    assert_answer(
        &answer,
        404,
        error(
            "not_found",
            "the receipt has expired: its events have left the journal",
        ),
    );

    let unknown = error("not_found", "this is no receipt of this journal");
    let other = start("");
    let foreign = receipt(&other.post_json("/ingest", event("a")));
    for path in [
        &foreign,
        "0-1-00000000",
        "x",
        "",
        "0-ffffffff-0",
        "ffffffffffffffff-ffffffff-0",
        "%00",
        "0-1",
    ] {
        assert_answer(
            &service.get(&format!("/receipts/{path}")),
            404,
            unknown.clone(),
        );
    }
    assert_books_balance(&service);
}

#[test]
fn books_balance_at_every_moment_under_load_and_after_every_kill() {
    let mut seed = TestSeed::new();
    let mut service = service()
        .config(
            "routes: [ { name: stats, sink: { kind: stats } }, { name: store, sink: { kind: sqlite } },
               { name: some, sink: { kind: sqlite }, filter: { sources: [\"0-1\"] } } ]",
        )
        .start();
    let mut all: Option<Tally> = None;
    for round in 0..5 {
        let load = Load::start(&service, &round.to_string(), 3, 20, 100);
        let until = load.acknowledged() + 200 + seed.below(1500);
        eventually(SOON, "load is acknowledged", || {
            let ledger = assert_books_balance(&service);
            for route in ["stats", "store", "some"] {
                let difference =
                    metric(&service, &format!("ledger_difference{{route=\"{route}\"}}"));
                assert!(
                    difference == 0.0,
                    "{route} is off by {difference}: {ledger}"
                );
            }
            load.acknowledged() >= until
        });
        service.kill();
        let tally = load.stop();
        service.restart();
        // At once, before a route could have done anything: the books are those of before.
        let ledger = assert_books_balance(&service);
        let accepted = ledger["accepted"].as_u64().unwrap();
        assert!(accepted >= tally.acknowledged.len() as u64);
        if round > 0 {
            assert!(
                ledger["routes"]["stats"]["delivered"].as_u64().unwrap() > 0,
                "books are kept: {ledger}"
            );
        }
        let every = tally.receipts.len() / 10 + 1;
        for receipt in tally.receipts.iter().step_by(every) {
            eventually(SOON, "what was acknowledged is delivered", || {
                shown(&service, receipt)["routes"]["store"]["state"] == "delivered"
            });
        }
        all = Some(match all {
            None => tally,
            Some(mut before) => {
                before.add(tally);
                before
            }
        });
    }
    all.unwrap().assert_kept(&service);
}

#[test]
fn ledger_and_stats_survive_a_restart_to_the_last_event() {
    let mut service = start("");
    service
        .post_json(
            "/ingest",
            format!("[{},{{}}]", events(["a", "b"]).trim_matches(['[', ']'])),
        )
        .expect_status(202);
    settle(&service);
    let before = assert_books_balance(&service);
    assert_eq!(
        before["door"],
        json!({"refused": 1, "rate_limited": 0, "overloaded": 0, "shed": 0, "unsigned": 0})
    );
    let stats = service.get("/stats").json();
    assert!(service.terminate().success());
    service.restart();
    assert_eq!(assert_books_balance(&service), before);
    assert_eq!(service.get("/stats").json(), stats);
    // A kill in an idle moment changes nothing either.
    service.kill();
    assert!(service.restart() < Duration::from_secs(5));
    assert_eq!(assert_books_balance(&service), before);
    assert_eq!(service.get("/stats").json(), stats);
}
