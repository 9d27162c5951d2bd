//! A fleet over the journal `postgres`: two processes take in, two deliver. They share the work evenly, whoever is killed or
//! stopped; what was acknowledged is delivered once, in the order of its key; operators act from any process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Load, Tally, assert_books_balance};
use telemetryx_testkit::{Fleet, Postgres, Proxy, S3Server, Service, eventually};

/// How soon all is well again once the trouble is over.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// How long something that should come soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(90);
/// The same for the first tables.
const START: Duration = Duration::from_secs(120);
const LEASE: Duration = Duration::from_secs(3);

struct Rig {
    fleet: Fleet,
    postgres: Postgres,
    /// On the way to the store's table.
    to_store: Proxy,
}

impl Rig {
    fn start() -> Self {
        let postgres = Postgres::start_with(&["max_connections=300"], |_| {});
        let to_store = Proxy::start(postgres.port());
        let store = format!("postgres://postgres@127.0.0.1:{}/postgres", to_store.port());
        let config = format!(
            "journal: {{ engine: postgres, postgres: {{ url: '{}', max_backlog: 1000000, lease: {}s, delivery_timeout: 5s }} }}
otlp: {{ enabled: false }}
routes:
  - {{ name: store, sink: {{ kind: postgres, url: '{store}', timeout: 3s }},
      batch: {{ max_events: 1000 }},
      retry: {{ initial: 50ms, max: 500ms }}, breaker: {{ failures: 5, open_for: 500ms }} }}
query: {{ events_from: store, counters_from: }}
",
            postgres.url(),
            LEASE.as_secs(),
        );
        let fleet = Fleet::builder(env!("CARGO_BIN_EXE_telemetryx"))
            .config(&config)
            .members(2, "ingest", "ingest, query")
            .members(2, "deliver", "deliver, query")
            .start();
        let rig = Self {
            fleet,
            postgres,
            to_store,
        };
        eventually(START, "the store has made its table", || {
            rig.postgres.sql("SELECT to_regclass('events')") == "events"
        });
        // The table does not say in which order rows came.
        rig.postgres.sql(
            "CREATE TABLE arrivals (number bigserial PRIMARY KEY, id text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO arrivals (id) VALUES (NEW.id); RETURN NULL; END';
             CREATE TRIGGER note AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION note()",
        );
        rig
    }

    /// Clients at both doors.
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

    /// How many partitions each process that reads has claimed, the fewest first.
    fn claims(&self) -> Vec<u32> {
        let counts = self.postgres.sql(
            "SELECT count(*) FROM telemetryx_journal.positions WHERE owner IS NOT NULL GROUP BY owner ORDER BY 1",
        );
        counts.lines().map(|count| count.parse().unwrap()).collect()
    }

    /// All is delivered within the time that a recovery may take, and it is what was acknowledged.
    #[track_caller]
    fn assert_recovers(&self, tally: &Tally) {
        let asked = Instant::now();
        eventually(RECOVERED_WITHIN, "all is delivered again", || {
            let mut told = self.fleet.all().map(|service| {
                let ledger = service.get("/ledger").json();
                (ledger["accepted"].clone(), ledger["routes"].clone())
            });
            let Some(first) = told.next() else {
                return false;
            };
            first.1["store"]["pending"] == 0 && told.all(|other| other == first)
        });
        eprintln!("recovered after {:?}", asked.elapsed());
        for service in self.fleet.all() {
            let ledger = assert_books_balance(service);
            assert_eq!(ledger["routes"]["store"]["dead"], 0, "{ledger}");
            assert_eq!(ledger["routes"]["store"]["expired"], 0, "{ledger}");
        }
        let rows = self.postgres.sql("SELECT id FROM events");
        let rows: Vec<_> = rows.lines().collect();
        let stored: HashSet<_> = rows.iter().copied().collect();
        assert_eq!(rows.len(), stored.len(), "each once");
        let lost = tally
            .acknowledged
            .iter()
            .filter(|id| !stored.contains(id.as_str()));
        assert_eq!(lost.count(), 0, "of {}", tally.acknowledged.len());
        let mut highest: HashMap<&str, u64> = HashMap::new();
        let arrivals = self.postgres.sql("SELECT id FROM arrivals ORDER BY number");
        for id in arrivals.lines() {
            let (key, number) = id.rsplit_once('-').unwrap();
            let number = number.parse().unwrap();
            let before = highest.insert(key, number);
            assert!(before < Some(number), "{id} came after {before:?}");
        }
        let sample = tally.receipts.iter().step_by(tally.receipts.len() / 20 + 1);
        for receipt in sample {
            let answer = self
                .fleet
                .get("deliver-1")
                .get(&format!("/receipts/{receipt}"));
            let shown = answer.expect_status(200).json();
            assert_eq!(shown["durability"], "committed");
            assert_eq!(shown["routes"]["store"]["state"], "delivered", "{shown}");
        }
    }
}

#[test]
fn two_doors_and_two_deliverers_share_whoever_is_killed_or_hangs() {
    let mut rig = Rig::start();
    let load = rig.load("shared");
    eventually(SOON, "each claims two of four", || rig.claims() == [2, 2]);
    rig.fleet.get_mut("deliver-2").kill();
    let killed = Instant::now();
    eventually(SOON, "its rows come back", || {
        let claimed = rig.postgres.sql(
            "SELECT count(DISTINCT owner) || '/' || count(owner) FROM telemetryx_journal.positions",
        );
        claimed == "1/4"
    });
    eprintln!("claimed again after {:?}", killed.elapsed());
    assert!(
        killed.elapsed() < LEASE + Duration::from_secs(4),
        "{:?}",
        killed.elapsed()
    );
    rig.fleet.get_mut("deliver-2").restart();
    eventually(SOON, "each claims two again", || rig.claims() == [2, 2]);
    // It goes on where it was, in the middle of something, when another has long had its partitions.
    rig.fleet.get("deliver-1").hang();
    eventually(SOON, "the other has all", || rig.claims() == [4]);
    load.iter().for_each(|load| load.wait_for(100));
    rig.fleet.get("deliver-1").go_on();
    eventually(SOON, "they share again", || rig.claims() == [2, 2]);
    load.iter().for_each(|load| load.wait_for(100));
    // One that ends as it should gives back at once.
    let ended = Instant::now();
    rig.fleet.get_mut("deliver-2").terminate();
    eventually(SOON, "the other has all at once", || rig.claims() == [4]);
    eprintln!("given back after {:?}", ended.elapsed());
    rig.fleet.get_mut("deliver-2").restart();
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

#[test]
fn the_server_is_killed_in_the_middle_and_comes_back() {
    let mut rig = Rig::start();
    let load = rig.load("server");
    for _ in 0..2 {
        rig.postgres.kill();
        let door = rig.fleet.get("ingest-1");
        eventually(SOON, "the door says so", || {
            door.get("/health").status == 503
        });
        rig.postgres.restart();
        let back = Instant::now();
        load.iter().for_each(|load| load.wait_for(100));
        assert!(back.elapsed() < RECOVERED_WITHIN, "{:?}", back.elapsed());
    }
    let tally = Rig::stop(load);
    assert!(tally.statuses.contains_key(&503), "{:?}", tally.statuses);
    rig.assert_recovers(&tally);
}

#[test]
fn operators_replay_and_send_dead_letters_again_from_another_process() {
    let rig = Rig::start();
    let door = rig.fleet.get("ingest-1");
    let bad = json!([{ "id": "good", "ts": support::TS, "payload": 1 },
        { "id": "bad", "ts": support::TS, "schema_version": 4_000_000_000_u32, "payload": 2 }]);
    door.post_json("/ingest", bad.to_string())
        .expect_status(202);
    let other = rig.fleet.get("ingest-2");
    eventually(SOON, "another process lists it", || {
        let listed = other.run(&["dead-letters", "list"]);
        listed.stdout.contains("out_of_range")
    });
    // The store takes it no better the second time, and it stays a dead letter.
    let sent = other.run(&["dead-letters", "redrive", "--route", "store"]);
    assert!(sent.code == Some(0), "{sent:?}");
    eventually(SOON, "the books tell the same everywhere", || {
        let told: Vec<Value> = rig
            .fleet
            .all()
            .map(|service| service.get("/ledger").json()["routes"].clone())
            .collect();
        told.iter()
            .all(|one| one["store"]["dead"] == 1 && one["store"]["delivered"] == 1)
    });
    rig.postgres.sql("DELETE FROM events");
    let replayed = other.run(&[
        "replay",
        "--route",
        "store",
        "--from",
        "2020-01-01T00:00:00Z",
    ]);
    assert!(replayed.code == Some(0), "{replayed:?}");
    eventually(SOON, "it is there again", || {
        rig.postgres.sql("SELECT string_agg(id, ',') FROM events") == "good"
    });
    assert!(rig.to_store.connections() > 0);
}

/// The config of the hardened worker as it comes, with the one line changed.
#[test]
fn the_otel_worker_keeps_its_backlog_in_postgres() {
    let (mut postgres, s3) = (Postgres::start(), S3Server::start());
    let journal = Postgres::start();
    let set = |name: &str| format!("TELEMETRYX_ROUTES__{name}");
    let service = Service::builder(env!("CARGO_BIN_EXE_telemetryx"))
        .config(include_str!("../config/otel-worker.yaml"))
        .otlp()
        .env("TELEMETRYX_JOURNAL__ENGINE", "postgres")
        .env("TELEMETRYX_JOURNAL__POSTGRES__URL", &journal.url())
        .env(&set("ROWS__SINK__URL"), &postgres.url())
        .env(&set("ROWS__RETRY__MAX"), "100ms")
        .env(&set("ROWS__BREAKER__OPEN_FOR"), "100ms")
        .env(
            &set("RAW__SINK__URL"),
            &format!("s3://{}", S3Server::BUCKET),
        )
        .env(
            &set("RAW__SINK__OPTIONS__ENDPOINT"),
            &format!("http://127.0.0.1:{}", s3.port()),
        )
        .env(&set("RAW__SINK__OPTIONS__ACCESS_KEY_ID"), "test")
        .env(&set("RAW__SINK__OPTIONS__SECRET_ACCESS_KEY"), "test1234")
        .env(&set("RAW__SINK__ROLL__AGE"), "500ms")
        .env("PROCESSING_QUEUE_MAX_DEPTH", "2")
        .env("STAGING_MAX_BACKLOG", "300")
        .start();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos();
    let export = |first: u64, count: u64| {
        let record = |number: u64| json!({ "timeUnixNano": (now + u128::from(number)).to_string(), "body": { "stringValue": format!("record-{number};") } });
        let records: Vec<_> = (first..first + count).map(record).collect();
        let body = json!({ "resourceLogs": [ { "scopeLogs": [ { "logRecords": records } ] } ] });
        service.post_json("/v1/logs", body.to_string()).status
    };
    eventually(START, "it is well", || service.get("/health").status == 200);
    assert_eq!(export(0, 100), 200);
    support::settle(&service);
    postgres.kill();
    let mut sent = 100;
    eventually(
        SOON,
        "the backlog is full, and exporters are told to wait",
        || match export(sent, 50) {
            200 => {
                sent += 50;
                false
            }
            429 => true,
            other => panic!("{other}"),
        },
    );
    assert_eq!(
        support::log_line(&service, "queue_saturated")["reason"],
        "queue_full_reject"
    );
    assert_eq!(
        support::log_line(&service, "processing_paused")["route"],
        "rows"
    );
    assert_eq!(
        support::log_line(&service, "batch_persist_failed")["route"],
        "rows"
    );
    eventually(SOON, "the queue tells of it", || {
        let failed = "SELECT count(*) > 0 FROM telemetryx_journal.ingestion_queue WHERE route = 'rows' AND status = 'failed'";
        journal.sql(failed) == "t"
    });
    postgres.restart();
    support::settle(&service);
    let rows = postgres.sql("SELECT count(DISTINCT payload::text) FROM events");
    assert_eq!(rows, sent.to_string());
    assert_books_balance(&service);
}
