//! The main job on real input: GitHub's webhooks, posted, killed and restarted in between.
//!
//! Where the data comes from, `data/README.md` says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use support::{SOON, assert_books_balance, settle, start};
use telemetryx_testkit::{Connection, Service, eventually};

const DELIVERIES: &str = include_str!("data/github-webhooks.ndjson");

#[derive(Deserialize)]
struct Sent<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn parsed(lines: &str) -> Vec<Sent<'_>> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn batches(lines_each: usize) -> Vec<String> {
    let lines: Vec<_> = DELIVERIES.lines().collect();
    lines
        .chunks(lines_each)
        .map(|lines| lines.join("\n"))
        .collect()
}

fn stored(service: &Service) -> String {
    let headers = [("accept", "application/x-ndjson")];
    service
        .request("GET", "/events", &headers, b"")
        .expect_status(200)
        .text()
        .to_owned()
}

/// Each distinct event is there once, its payload byte for byte as it was sent.
fn assert_stored_as_sent(service: &Service) {
    let found = stored(service);
    let found: BTreeMap<_, _> = parsed(&found)
        .into_iter()
        .map(|event| (event.id.clone(), event))
        .collect();
    let sent = parsed(DELIVERIES);
    assert_eq!(stored(service).lines().count(), 324);
    assert_eq!(found.len(), 324);
    for event in sent {
        let found = &found[&event.id];
        assert_eq!(
            found.payload.get(),
            event.payload.get(),
            "the payload of {}",
            event.id
        );
        assert_eq!((&found.kind, &found.source), (&event.kind, &event.source));
    }
}

#[test]
fn every_delivery_is_stored_once_byte_for_byte_and_counted_across_kills() {
    let mut service = start("");
    for (number, batch) in batches(25).iter().enumerate() {
        let answer = service
            .post("/ingest", "application/x-ndjson", batch)
            .expect_status(202);
        assert_eq!(answer.json()["accepted"], batch.lines().count());
        if number % 4 == 1 {
            // Acknowledged a moment ago, delivered perhaps not yet.
            service.kill();
            service.restart();
        }
    }
    settle(&service);
    assert_stored_as_sent(&service);

    let sent = parsed(DELIVERIES);
    let sources: BTreeSet<_> = sent.iter().map(|event| event.source.as_str()).collect();
    let stats = service.get("/stats").json();
    assert_eq!(
        (&stats["events_count"], &stats["sources_count"]),
        (&329.into(), &sources.len().into())
    );
    for source in sources {
        let mut types = BTreeMap::new();
        for event in sent.iter().filter(|event| event.source == source) {
            *types.entry(event.kind.as_str()).or_insert(0) += 1;
        }
        let stats = service
            .get(&format!("/stats/{}", source.replace('/', "%2F")))
            .expect_status(200)
            .json();
        assert_eq!(stats["event_types"], serde_json::json!(types), "{source}");
        assert_eq!(stats["total_events"], types.values().sum::<i32>());
    }
    assert_eq!(assert_books_balance(&service)["accepted"], 329);
}

#[test]
fn client_that_resends_what_was_not_acknowledged_gets_each_stored_once() {
    let mut service = start("");
    let batches = batches(10);
    let mut unacknowledged: Vec<_> = batches.iter().collect();
    let mut kills = 0;
    while !unacknowledged.is_empty() {
        // A client posts what it has left, and the service is killed in the middle of it, three times.
        let (address, work) = (service.address(), unacknowledged.clone());
        let (done, watched) = std::sync::mpsc::channel();
        let rest = std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                let mut connection = Connection::open(&address).unwrap();
                work.into_iter()
                    .filter(|batch| {
                        let headers = [("content-type", "application/x-ndjson")];
                        let answer =
                            connection.request("POST", "/ingest", &headers, batch.as_bytes());
                        let taken = answer.is_ok_and(|answer| answer.status == 202);
                        done.send(()).unwrap();
                        !taken
                    })
                    .collect::<Vec<_>>()
            });
            if kills < 3 {
                kills += 1;
                for _ in 0..6 {
                    watched.recv().unwrap();
                }
                service.kill();
            }
            client.join().unwrap()
        });
        unacknowledged = rest;
        if kills <= 3 && !service.is_running() {
            service.restart();
        }
    }
    settle(&service);
    assert_stored_as_sent(&service);
    let ledger = assert_books_balance(&service);
    eventually(SOON, "counted", || {
        service.get("/stats").json()["events_count"] == ledger["accepted"]
    });
    assert!(ledger["accepted"].as_u64().unwrap() >= 329);
}
