//! `journal.kafka.spill: embedded`, with a real Kafka: while it is away the door stays open; what was accepted is in the topic
//! once and in the order of its key when it is back, whoever is killed meanwhile.
#![cfg(feature = "kafka")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use telemetryx_testkit::{
    Fleet, Kafka, KafkaBuilder, KafkaMessage, Postgres, RedisServer, Response, Service, SmallDisk,
    TestSeed, eventually, eventually_some,
};

use support::{Load, SOON, Tally};

const TOPIC: &str = "telemetryx.events";
/// How soon all is well again once the trouble is over.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// How soon it is known that Kafka is away, and the door is open again.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

fn config(kafka: &Kafka, more: &str) -> String {
    format!(
        "journal: {{ engine: kafka, kafka: {{ brokers: {:?}, partitions: 6, spill: embedded{more}, delivery_timeout: 5s,
           options: {{ session.timeout.ms: 6000 }} }} }}
",
        kafka.brokers()
    )
}

/// One process that takes in and delivers nothing, so that only the topic counts.
fn door(kafka: &Kafka, more: &str) -> Service {
    let config = config(kafka, more);
    support::start(&format!("roles: [ingest, query]\n{config}routes: []\n"))
}

/// The number of an event and who sent it: what the tests send is `<key>-<number>`.
fn place(message: &KafkaMessage) -> (String, u64) {
    let (key, number) = message.header("event_id").rsplit_once('-').unwrap();
    (key.to_owned(), number.parse().unwrap())
}

/// Everything acknowledged is in the topic, nothing is there twice, and the events of a key are in order.
#[track_caller]
fn assert_once_and_in_order(kafka: &Kafka, acknowledged: &[String]) -> Vec<KafkaMessage> {
    let messages = kafka.messages(TOPIC);
    let ids: HashSet<_> = messages.iter().map(|one| one.header("event_id")).collect();
    assert_eq!(ids.len(), messages.len(), "each once");
    let lost = acknowledged.iter().filter(|id| !ids.contains(id.as_str()));
    assert_eq!(lost.count(), 0, "of {}", acknowledged.len());
    let mut highest = HashMap::new();
    for message in &messages {
        let (key, number) = place(message);
        let before = highest.insert(key.clone(), number);
        assert!(before < Some(number), "{key}-{number} after {before:?}");
    }
    messages
}

fn is_spilled(receipt: &str) -> bool {
    let partition = receipt.split_once('.').map_or("0", |(number, _)| number);
    u32::from_str_radix(partition, 16).unwrap() >= 1 << 31
}

/// Waits until nothing of this process is spilled and its door leads to Kafka.
#[track_caller]
fn drained(service: &Service) {
    eventually(RECOVERED_WITHIN, "the spill is handed over", || {
        let journal = service.get("/status").json()["journal"].clone();
        journal["state"] == "ok" && journal.get("spill").is_none()
    });
    assert_eq!(service.get("/health").json()["status"], "healthy");
    assert_eq!(support::metric(service, "journal_spill_events"), 0.0);
    assert_eq!(support::metric(service, "journal_spill_bytes"), 0.0);
}

fn batch(key: &str, from: u64, count: u64, payload: &str) -> String {
    let events = (from..from + count).map(|n| {
        format!(
            r#"{{"id":"{key}-{n}","ts":"{}","source":"{key}","payload":"{payload}"}}"#,
            support::TS
        )
    });
    format!("[{}]", events.collect::<Vec<_>>().join(","))
}

/// Sends events until so many bytes are accepted; their ids.
#[track_caller]
fn fill(service: &Service, keys: u64, bytes: usize) -> Vec<String> {
    let payload = "x".repeat(1000);
    let (mut ids, mut sent, mut connection) = (Vec::new(), 0, service.connect());
    let mut round = 0;
    while sent < bytes {
        let key = format!("fill{}", round % keys);
        let from = round / keys * 100;
        let body = batch(&key, from, 100, &payload);
        let headers = [("content-type", "application/json")];
        let answer = connection.request("POST", "/ingest", &headers, body.as_bytes());
        let answer = answer.unwrap().expect_status(202);
        assert_eq!(answer.json()["durability"], "fsynced");
        ids.extend((from..from + 100).map(|n| format!("{key}-{n}")));
        sent += body.len();
        round += 1;
    }
    ids
}

#[track_caller]
fn told_routes(service: &Service, receipt: &str) -> (Response, Value) {
    let answer = service.get(&format!("/receipts/{receipt}"));
    let shown = answer.json();
    (answer, shown)
}

/// Two doors, two that deliver to PostgreSQL and Redis.
struct Rig {
    fleet: Fleet,
    kafka: Kafka,
    postgres: Postgres,
    _redis: RedisServer,
}

impl Rig {
    fn start(kafka: KafkaBuilder) -> Self {
        let kafka = kafka.start();
        let postgres = Postgres::start();
        let redis = RedisServer::start();
        let patience =
            "retry: { initial: 50ms, max: 500ms }, breaker: { failures: 5, open_for: 500ms }";
        let config = format!(
            "{}otlp: {{ enabled: false }}
routes:
  - {{ name: store, sink: {{ kind: postgres, url: {:?} }}, {patience} }}
  - {{ name: counters, sink: {{ kind: redis, url: {:?} }}, {patience} }}
query: {{ events_from: store, counters_from: counters }}
",
            config(&kafka, ""),
            postgres.url(),
            redis.url(),
        );
        let fleet = Fleet::builder(env!("CARGO_BIN_EXE_telemetryx"))
            .config(&config)
            .members(2, "ingest", "ingest, query")
            .members(2, "deliver", "deliver, query")
            .start();
        eventually(SOON, "the store has made its table", || {
            postgres.sql("SELECT to_regclass('events')") == "events"
        });
        for door in fleet.with_role("ingest") {
            drained(door);
        }
        Self {
            fleet,
            kafka,
            postgres,
            _redis: redis,
        }
    }

    /// Clients at both doors, two each.
    fn load(&self, name: &str) -> [Load; 2] {
        ["ingest-1", "ingest-2"].map(|door| {
            let load = Load::start(self.fleet.get(door), &format!("{name}-{door}"), 2, 5, 50);
            load.wait_for(50);
            load
        })
    }

    fn stop(load: [Load; 2]) -> Tally {
        let mut all = Tally::default();
        load.into_iter().for_each(|load| all.add(load.stop()));
        all
    }

    /// All is delivered soon, everywhere the same, each event once.
    #[track_caller]
    fn assert_recovers(&self, tally: &Tally) {
        let asked = Instant::now();
        eventually(RECOVERED_WITHIN, "all is delivered again", || {
            let mut told = self.fleet.all().map(|service| {
                let ledger = support::assert_books_balance(service);
                (ledger["accepted"].clone(), ledger["routes"].clone())
            });
            let Some(first) = told.next() else {
                return false;
            };
            let routes = first.1.as_object().expect("there are routes");
            routes.values().all(|route| route["pending"] == 0) && told.all(|other| other == first)
        });
        eprintln!("recovered after {:?}", asked.elapsed());
        let messages = assert_once_and_in_order(&self.kafka, &tally.acknowledged);
        let rows = self
            .postgres
            .sql("SELECT count(*), count(DISTINCT id) FROM events");
        assert_eq!(rows, format!("{0}|{0}", messages.len()));
        for service in self.fleet.all() {
            let ledger = support::assert_books_balance(service);
            assert_eq!(ledger["accepted"], messages.len(), "{ledger}");
            assert_eq!(service.get("/stats").json()["events_count"], messages.len());
            for route in ["store", "counters"] {
                assert_eq!(ledger["routes"][route]["delivered"], messages.len());
            }
        }
        // Receipts hold, whoever gave them and whoever is asked.
        let (spilled, direct): (Vec<_>, Vec<_>) = tally
            .receipts
            .iter()
            .partition(|receipt| is_spilled(receipt));
        assert!(!spilled.is_empty() && !direct.is_empty());
        for receipts in [spilled, direct] {
            for receipt in receipts.iter().step_by(receipts.len() / 10 + 1) {
                for member in ["ingest-1", "ingest-2", "deliver-1"] {
                    let (answer, shown) = told_routes(self.fleet.get(member), receipt);
                    assert_eq!(answer.status, 200, "{member}: {receipt}: {shown}");
                    assert_eq!(
                        (&shown["durability"], &shown["events"]),
                        (&"replicated".into(), &5.into())
                    );
                    for route in ["store", "counters"] {
                        let route = &shown["routes"][route];
                        assert_eq!(
                            (&route["state"], &route["delivered"]),
                            (&"delivered".into(), &5.into()),
                            "{shown}"
                        );
                    }
                }
            }
        }
    }
}

/// Sends events of its own, one after the other, until one is spilled; the first may find that Kafka was there a moment ago.
/// Its id, and what was told of it.
#[track_caller]
fn spills(door: &Service) -> (String, Value) {
    let mut number = 0;
    eventually_some(SOON, "the door is open", || {
        let id = format!("alone-{number}");
        number += 1;
        let answer = door.post_json("/ingest", batch("alone", number - 1, 1, ""));
        (answer.status == 202).then(|| (id, answer.json()))
    })
}

#[test]
fn broker_is_killed_under_load_and_the_door_stays_open() {
    let mut rig = Rig::start(Kafka::builder());
    let load = rig.load("load");
    rig.kafka.kill(0);
    let door = rig.fleet.get("ingest-1");
    // Those on their way wait for Kafka; the door is open again for all others, long before `delivery_timeout` is over.
    std::thread::sleep(Duration::from_millis(1500));
    let asked = Instant::now();
    let answer = door.post_json("/ingest", batch("quick", 0, 1, ""));
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(answer.expect_status(202).json()["durability"], "fsynced");
    eventually(NOTICED_WITHIN, "it spills", || {
        door.get("/health").json()["journal"]["spill"]["events"].as_u64() > Some(0)
    });
    let (alone, told) = spills(door);
    assert_eq!(told["durability"], "fsynced");
    let receipt = told["receipt"].as_str().unwrap().to_owned();
    assert!(is_spilled(&receipt));
    load.iter().for_each(|load| load.wait_for(500));

    // What is seen meanwhile.
    let health = door.get("/health");
    assert_eq!(health.status, 200);
    let health = health.json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(health["journal"]["state"], "ok", "{health}");
    assert!(health["journal"]["spill"]["reason"].is_string(), "{health}");
    let spill = door.get("/status").json()["journal"]["spill"].clone();
    assert!(spill["events"].as_u64() > Some(0) && spill["bytes"].as_u64() > Some(0));
    assert!(spill["oldest"].is_string() && spill["since"].is_string());
    assert!(support::metric(door, "journal_spill_events") > 0.0);
    assert!(support::metric(door, "journal_spill_bytes") > 0.0);
    assert!(support::metric(door, "journal_spilled_events_total") > 0.0);
    assert!(
        door.log()
            .contains("Kafka is away: events are kept on this machine")
    );
    // The books know them.
    let before = support::assert_books_balance(door);
    let waiting = spill["events"].as_u64().unwrap();
    for route in ["store", "counters"] {
        assert!(before["routes"][route]["pending"].as_u64() >= Some(waiting));
        assert_eq!(
            support::metric(door, &format!("ledger_difference{{route=\"{route}\"}}")),
            0.0
        );
    }
    let (answer, shown) = told_routes(door, &receipt);
    assert_eq!(answer.status, 200, "{shown}");
    assert_eq!(shown["durability"], "fsynced");
    assert_eq!(shown["routes"]["store"]["state"], "pending");
    // Another door does not know of it yet.
    let (answer, _) = told_routes(rig.fleet.get("ingest-2"), &receipt);
    assert_eq!(answer.status, 404);

    rig.kafka.restart(0);
    load.iter().for_each(|load| load.wait_for(500));
    for door in rig.fleet.with_role("ingest") {
        drained(door);
        assert!(door.log().contains("Kafka has all that was spilled"));
    }
    load.iter().for_each(|load| load.wait_for(100));
    let mut tally = Rig::stop(load);
    eprintln!("{:?}", tally.statuses);
    // One for each client at most: what was on its way to Kafka.
    let refused = tally.statuses.remove(&503).unwrap_or(0);
    assert!(refused <= 4, "{refused} were refused");
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    let (_, shown) = told_routes(rig.fleet.get("ingest-1"), &receipt);
    assert_eq!(shown["durability"], "replicated");
    tally.acknowledged.extend([alone, "quick-0".to_owned()]);
    rig.assert_recovers(&tally);
}

#[test]
fn broker_comes_and_goes_again_and_again() {
    let mut seed = TestSeed::new();
    let mut rig = Rig::start(Kafka::builder());
    let load = rig.load("flap");
    let mut alone = Vec::new();
    for round in 0..6 {
        let hangs = seed.below(2) == 0;
        if hangs {
            rig.kafka.hang(0);
        } else {
            rig.kafka.kill(0);
        }
        std::thread::sleep(Duration::from_millis(500 + seed.below(4000)));
        if round == 0 {
            // The clients all wait for Kafka, which may be back before it is given up: somebody else has to come.
            alone.push(spills(rig.fleet.get("ingest-1")).0);
        }
        if hangs {
            rig.kafka.go_on(0);
        } else {
            rig.kafka.restart(0);
        }
        std::thread::sleep(Duration::from_millis(seed.below(3000)));
    }
    load.iter().for_each(|load| load.wait_for(200));
    let mut tally = Rig::stop(load);
    tally.acknowledged.extend(alone);
    eprintln!("{:?}", tally.statuses);
    rig.assert_recovers(&tally);
}

#[test]
fn process_that_is_killed_while_it_drains_sends_nothing_twice() {
    let mut seed = TestSeed::new();
    let mut kafka = Kafka::builder().proxied().start();
    let mut door = door(&kafka, "");
    drained(&door);
    kafka.kill(0);
    let (alone, _) = spills(&door);
    let mut acknowledged = fill(&door, 7, 40 << 20);
    acknowledged.push(alone);
    let spilled = acknowledged.len();
    // So slow that the process is killed in the middle.
    kafka.proxy(0).slow(4 << 20);
    kafka.restart(0);
    let mut kills = 0;
    let left = |door: &Service| {
        let status = door.get("/status").json();
        status["journal"]["spill"]["events"].as_u64().unwrap_or(0)
    };
    let mut before = left(&door);
    while before > 0 && kills < 8 {
        // It has gone on, and is not at the end.
        eventually(RECOVERED_WITHIN, "it hands over", || left(&door) < before);
        std::thread::sleep(Duration::from_millis(seed.below(150)));
        door.kill();
        kills += 1;
        if seed.below(3) == 0 {
            // While it is away others write.
            door.restart();
            std::thread::sleep(Duration::from_millis(seed.below(300)));
            door.kill();
            kills += 1;
        }
        door.restart();
        before = left(&door);
        eprintln!("{kills} kills, {before} of {spilled} left");
    }
    assert!(kills >= 2, "{kills}");
    kafka.proxy(0).restore();
    drained(&door);
    assert_once_and_in_order(&kafka, &acknowledged);
    let found = "a batch of the spill had been begun";
    assert!(door.log().contains(found), "no kill was in the middle");
    let ledger = support::assert_books_balance(&door);
    assert_eq!(ledger["accepted"], kafka.messages(TOPIC).len());
}

#[test]
fn service_starts_without_kafka_and_takes_events_at_once() {
    let mut kafka = Kafka::start();
    kafka.kill(0);
    let begun = Instant::now();
    let mut door = door(&kafka, "");
    let told = support::receipt(&door.post_json("/ingest", batch("k", 0, 10, "")));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(is_spilled(&told));
    assert_eq!(door.get("/health").json()["status"], "degraded");
    assert_eq!(door.get("/ledger").json()["accepted"], 10);
    // What is spilled outlives the end of the process, and is seen from outside.
    assert!(door.terminate().success());
    assert!(door.log().contains("events are left in the spill"));
    let folder = door.data_dir().join("spill");
    let folder = folder.to_str().unwrap();
    let inspected = door.run(&["journal", "inspect", "--json", "--data-dir", folder]);
    assert_eq!(inspected.code, Some(0), "{}", inspected.stderr);
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(
        (
            &inspected["end"],
            &inspected["routes"]["kafka"]["lag_events"]
        ),
        (&10.into(), &10.into())
    );
    door.restart();
    assert_eq!(door.get("/ledger").json()["accepted"], 10);
    let answer = door.post_json("/ingest", batch("k", 10, 10, ""));
    assert_eq!(answer.expect_status(202).json()["durability"], "fsynced");
    kafka.restart(0);
    drained(&door);
    let answer = door.post_json("/ingest", batch("k", 20, 10, ""));
    assert_eq!(answer.expect_status(202).json()["durability"], "replicated");
    let ids: Vec<_> = (0..30).map(|n| format!("k-{n}")).collect();
    let messages = assert_once_and_in_order(&kafka, &ids);
    let marked = |message: &&KafkaMessage| message.headers.iter().any(|(name, _)| name == "spill");
    assert_eq!(messages.iter().filter(marked).count(), 20);
    let (answer, shown) = told_routes(&door, &told);
    assert_eq!((answer.status, &shown["events"]), (200, &10.into()));
    assert_eq!(shown["durability"], "replicated");
}

#[test]
fn spill_takes_no_more_than_it_may() {
    let mut kafka = Kafka::start();
    let door = door(&kafka, ", spill_max_bytes: 4MiB");
    drained(&door);
    kafka.kill(0);
    let mut taken = vec![spills(&door).0];
    let payload = "x".repeat(1000);
    let refused = eventually_some(SOON, "it is full", || {
        let from = taken.len() as u64;
        let answer = door.post_json("/ingest", batch("k", from, 100, &payload));
        if answer.status == 202 {
            taken.extend((from..from + 100).map(|n| format!("k-{n}")));
            return None;
        }
        Some(answer)
    });
    assert_eq!(refused.status, 503);
    assert!(support::retry_after(&refused) > 0);
    let bytes = support::metric(&door, "journal_spill_bytes");
    assert!((4e6..7e6).contains(&bytes), "{bytes}");
    let health = door.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["journal"]["state"], "no_space");
    kafka.restart(0);
    drained(&door);
    let answer = door.post_json("/ingest", batch("after", 0, 1, ""));
    assert_eq!(answer.expect_status(202).json()["durability"], "replicated");
    assert_once_and_in_order(&kafka, &taken);
}

#[test]
fn full_disk_is_said_and_is_over_when_kafka_is_back() {
    let mut kafka = Kafka::start();
    let disk = SmallDisk::of_kib(48 * 1024);
    let config = config(&kafka, "");
    let door = support::service()
        .config(&format!("roles: [ingest, query]\n{config}routes: []\n"))
        .data_dir(disk.path())
        .start();
    drained(&door);
    kafka.kill(0);
    let mut taken = vec![spills(&door).0];
    let payload = "x".repeat(1000);
    let refused = eventually_some(Duration::from_secs(60), "the disk is full", || {
        let from = taken.len() as u64;
        let answer = door.post_json("/ingest", batch("k", from, 1000, &payload));
        if answer.status == 202 {
            taken.extend((from..from + 1000).map(|n| format!("k-{n}")));
            return None;
        }
        Some(answer)
    });
    assert_eq!(refused.status, 503);
    let health = door.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["journal"]["state"], "no_space");
    kafka.restart(0);
    drained(&door);
    let answer = door.post_json("/ingest", batch("after", 0, 1, ""));
    assert_eq!(answer.expect_status(202).json()["durability"], "replicated");
    assert_once_and_in_order(&kafka, &taken);
}

#[test]
fn spill_that_is_turned_off_with_events_in_it_is_refused() {
    let mut kafka = Kafka::start();
    kafka.kill(0);
    let mut door = door(&kafka, "");
    door.post_json("/ingest", batch("k", 0, 3, ""))
        .expect_status(202);
    assert!(door.terminate().success());
    let on = format!("roles: [ingest, query]\n{}routes: []\n", config(&kafka, ""));
    door.set_config(&on.replace("spill: embedded", "spill: none"));
    let failed = door.try_restart().unwrap_err();
    assert!(failed.log.contains("3 accepted events"), "{failed}");
    // Nor may another engine forget them, or the journal be taken elsewhere without them.
    let embedded = "roles: [ingest, query]\nroutes: []\n";
    door.set_config(embedded);
    let failed = door.try_restart().unwrap_err();
    assert!(failed.log.contains("3 accepted events"), "{failed}");
    door.set_config(&on);
    let exit = door.run(&["journal", "export", "nowhere"]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("3 accepted events"), "{exit:?}");
    // A process that only delivers hands them over as well.
    door.set_config(&on.replace("ingest, query", "query"));
    kafka.restart(0);
    door.restart();
    drained(&door);
    // Commands are not for those who spill alone.
    let exit = door.run(&["dead-letters", "list"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let ids: Vec<_> = (0..3).map(|n| format!("k-{n}")).collect();
    assert_once_and_in_order(&kafka, &ids);
    // Then nothing is left to keep it on for.
    assert!(door.terminate().success());
    door.set_config(&on.replace("spill: embedded", "spill: none"));
    door.restart();
}
