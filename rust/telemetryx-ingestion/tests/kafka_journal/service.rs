//! The whole service with its journal in Kafka.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use telemetryx_ingestion::clock;
use telemetryx_testkit::{Fleet, Kafka, Service, eventually};

use crate::support;
use crate::world::{SOON, shared};

#[test]
fn the_service_accepts_delivers_and_keeps_its_books_with_kafka() {
    let kafka = shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let config = format!(
        "journal: {{ engine: kafka, kafka: {{ brokers: '{}', topic: served, group_prefix: served }} }}
routes: [ {{ name: out, sink: {{ kind: file, path: '{}' }} }} ]",
        kafka.brokers(),
        out.display()
    );
    let mut service = support::start(&config);
    let mut between = String::new();
    for (round, total) in [(0, 200), (1, 400)] {
        eventually(SOON, "Kafka is there", || {
            service.get("/health").status == 200
        });
        between = clock::now().to_string();
        let sent = (0..200).map(|n| format!("{round}-{n}"));
        let answer = service.post_json("/ingest", support::events(sent));
        let answer = answer.expect_status(202).json();
        assert_eq!(answer["durability"], "replicated");
        let receipt = answer["receipt"].as_str().unwrap().to_owned();
        eventually(SOON, "it is delivered", || {
            let told = service.get(&format!("/receipts/{receipt}"));
            told.status == 200 && told.json()["routes"]["out"]["delivered"] == 200
        });
        eventually(SOON, "the books balance", || {
            let books = service.get("/ledger").json();
            let route = &books["routes"]["out"];
            books["accepted"] == total && route["delivered"] == total && route["difference"] == 0
        });
        let told = service.get("/metrics").text().to_owned();
        assert!(
            told.contains(r#"kafka_consumer_lag{route="out",partition="0"} 0"#),
            "{told}"
        );
        service.kill();
        service.restart();
    }
    let ids = || -> Vec<String> {
        let written = std::fs::read_to_string(&out).unwrap();
        let events = written
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = ids();
    assert_eq!(before.iter().collect::<HashSet<_>>().len(), 400);
    // From a time on, again.
    let replay = ["replay", "--route", "out", "--from", &between];
    let replayed = service.run(&replay);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let again = ids().split_off(before.len());
    assert!(again.iter().all(|id| id.starts_with("1-")), "{again:?}");
    assert_eq!(again.iter().collect::<HashSet<_>>().len(), 200);
    assert_eq!(again.len(), 200);
}

#[test]
fn operators_command_makes_no_topic() {
    let kafka = shared();
    let config = |topic: &str| {
        format!(
            "journal: {{ engine: kafka, kafka: {{ brokers: '{}', topic: {topic} }} }}\nroutes: []",
            kafka.brokers()
        )
    };
    for _ in 0..2 {
        let service = support::service().config(&config("mistyped"));
        let exit = service.run(&["dead-letters", "list"]);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(
            exit.stderr.contains("there is no topic `mistyped`"),
            "{exit:?}"
        );
    }
}

#[test]
fn requests_that_wait_for_kafka_hold_nobody_up_and_are_answered_in_time() {
    let kafka = Kafka::start();
    let config = format!(
        "journal: {{ engine: kafka, kafka: {{ brokers: '{}', delivery_timeout: 3s }} }}
routes: []
query: {{ counters_from: , events_from: }}",
        kafka.brokers()
    );
    let service = support::start(&config);
    eventually(SOON, "Kafka is there", || {
        service.get("/health").status == 200
    });
    send(&service, "before", 1).expect_status(202);
    kafka.hang(0);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..100)
            .map(|n| {
                let service = &service;
                scope.spawn(move || {
                    let begun = Instant::now();
                    let answer = send(service, &format!("waits-{n}"), 1).expect_status(503);
                    support::retry_after(&answer);
                    begun.elapsed()
                })
            })
            .collect();
        let mut asked = 0;
        while waiting.iter().any(|one| !one.is_finished()) {
            let begun = Instant::now();
            service.get("/healthz").expect_status(200);
            assert!(begun.elapsed() < Duration::from_secs(2));
            asked += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(asked > 5, "{asked}");
        for one in waiting {
            let waited = one.join().unwrap();
            assert!(waited < Duration::from_secs(6), "{waited:?}");
        }
    });
    kafka.go_on(0);
    eventually(SOON, "it is well again", || {
        service.get("/health").status == 200
    });
    send(&service, "after", 1).expect_status(202);
}

/// A process that delivers, whose sink is down, and two that take events in.
fn stuck_fleet(topic: &str, overflow: &str, out: &std::path::Path) -> Fleet {
    // Where the file should be is a directory.
    std::fs::create_dir(out).unwrap();
    let config = format!(
        "journal: {{ engine: kafka, kafka: {{ brokers: '{}', topic: {topic}, group_prefix: {topic}, partitions: 3 }} }}
admission: {{ overflow: {{ {overflow}, max_backlog_events: 100 }} }}
routes: [ {{ name: out, sink: {{ kind: file, path: '{}' }}, retry: {{ initial: 20ms, max: 200ms }} }} ]
query: {{ counters_from: , events_from: }}",
        shared().brokers(),
        out.display()
    );
    Fleet::builder(env!("CARGO_BIN_EXE_telemetryx"))
        .config(&config)
        .member("deliver", "deliver")
        .members(2, "ingest", "ingest, query")
        .start()
}

fn send(door: &Service, name: &str, events: usize) -> telemetryx_testkit::Response {
    let ids = (0..events).map(|n| format!("{name}-{n}"));
    door.post_json("/ingest", support::events(ids))
}

fn backlog(door: &Service) -> u64 {
    let status = door.get("/status").json();
    status["backlog"]["events"]
        .as_u64()
        .unwrap_or_else(|| panic!("no backlog in {status}"))
}

#[test]
fn a_deliver_process_that_lags_brings_the_overflow_policy_to_every_door() {
    let _kafka = shared();
    let folder = tempfile::tempdir().unwrap();
    for policy in ["reject", "drop", "sample"] {
        let out = folder.path().join(policy);
        let overflow = format!("policy: {policy}, sample_rate: 0.5");
        let fleet = stuck_fleet(&format!("lagging.{policy}"), &overflow, &out);
        let (door, other) = (fleet.get("ingest-1"), fleet.get("ingest-2"));
        for service in [door, other] {
            eventually(SOON, "Kafka is there", || {
                service.get("/health").status == 200
            });
        }
        send(door, "within", 100).expect_status(202);
        // The other one took nothing in: it sees the lag of the group.
        eventually(SOON, "every door knows", || backlog(other) == 100);
        let lag = |door: &Service| {
            let told = door.get("/metrics").text().to_owned();
            let lags = told.lines().filter_map(|line| {
                let value = line.strip_prefix(r#"kafka_consumer_lag{route="out","#)?;
                value.split_once(' ')?.1.parse::<u64>().ok()
            });
            lags.sum::<u64>()
        };
        eventually(SOON, "the lag is measured", || lag(other) == 100);
        let status = other.get("/status").json();
        let parts = status["routes"]["out"]["partitions"].as_array().unwrap();
        let lags = parts
            .iter()
            .map(|part| part["lag_events"].as_u64().unwrap());
        assert_eq!((parts.len(), lags.sum::<u64>()), (3, 100), "{status}");
        let mut kept = 100;
        for door in [door, other] {
            let answer = send(door, "over", 40);
            if policy == "reject" {
                let answer = answer.expect_status(429);
                assert_eq!(answer.json()["error"]["code"], "backlog_full");
                support::retry_after(&answer);
                continue;
            }
            let answer = answer.expect_status(202).json();
            if policy == "drop" {
                assert_eq!(answer["durability"], "shed", "{answer}");
            } else {
                assert_eq!(answer["durability"], "replicated", "{answer}");
            }
        }
        if policy == "sample" {
            // It draws for each event.
            kept = door.get("/ledger").json()["accepted"].as_u64().unwrap();
            assert!((101..180).contains(&kept), "{kept}");
        }
        for door in [door, other] {
            eventually(SOON, "what was kept is seen", || backlog(door) == kept);
        }
        // The sink is there again: the lag goes, and with it the limit.
        std::fs::remove_dir(&out).unwrap();
        eventually(SOON, "nothing lags", || {
            backlog(door) == 0 && backlog(other) == 0
        });
        let answer = send(door, "after", 40).expect_status(202).json();
        assert_eq!(answer["durability"], "replicated", "{answer}");
        kept += 40;
        eventually(SOON, "all that was kept is delivered", || {
            let books = door.get("/ledger").json();
            let route = &books["routes"]["out"];
            route["delivered"] == kept && route["difference"] == 0
        });
    }
}
