//! A fleet over Kafka, with what can happen to it: two processes take in, two deliver to PostgreSQL and Redis, and under load
//! a part is killed, stopped or cut off. What was acknowledged is in PostgreSQL once, in the order of its key; the counters
//! are exact; and that without help, soon after the trouble is over.
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

use telemetryx_testkit::{
    Fleet, Kafka, KafkaBuilder, Postgres, Proxy, RedisServer, Service, TestSeed, eventually,
};

use support::{Load, SOON, Tally};

/// How soon all is well again once the trouble is over.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// How long the fleet may take to find its partitions at the start.
const START: Duration = Duration::from_secs(60);
/// Shorter than the built-in one, so that the tests need not wait as long.
const SESSION: Duration = Duration::from_secs(6);

struct Rig {
    fleet: Fleet,
    kafka: Kafka,
    postgres: Postgres,
    /// On the way from the fleet to PostgreSQL.
    to_postgres: Proxy,
    redis: RedisServer,
    /// On the way from the fleet to Redis.
    to_redis: Proxy,
}

impl Rig {
    fn start() -> Self {
        Self::with(Kafka::builder(), "")
    }

    /// `more`: settings of the journal.
    fn with(kafka: KafkaBuilder, more: &str) -> Self {
        let kafka = kafka.start();
        let postgres = Postgres::start();
        let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
        let to_postgres = Proxy::start(postgres.port());
        let to_redis = Proxy::start(redis.port());
        let url = postgres.url().replace(
            &format!(":{}/", postgres.port()),
            &format!(":{}/", to_postgres.port()),
        );
        let patience =
            "retry: { initial: 50ms, max: 500ms }, breaker: { failures: 5, open_for: 500ms }";
        let config = format!(
            "journal: {{ engine: kafka, kafka: {{ brokers: {:?}, partitions: 6{more}, delivery_timeout: 5s,
               options: {{ session.timeout.ms: {} }} }} }}
otlp: {{ enabled: false }}
routes:
  - {{ name: store, sink: {{ kind: postgres, url: {url:?}, timeout: 3s }}, {patience} }}
  - {{ name: counters, sink: {{ kind: redis, url: {:?}, timeout: 3s }}, {patience} }}
query: {{ events_from: store, counters_from: counters }}
",
            kafka.brokers(),
            SESSION.as_millis(),
            format!("redis://127.0.0.1:{}", to_redis.port()),
        );
        let fleet = Fleet::builder(env!("CARGO_BIN_EXE_telemetryx"))
            .config(&config)
            .members(2, "ingest", "ingest, query")
            .members(2, "deliver", "deliver, query")
            .start();
        let rig = Self {
            fleet,
            kafka,
            postgres,
            to_postgres,
            redis,
            to_redis,
        };
        // The table does not say in which order rows came.
        eventually(START, "the store has made its table", || {
            rig.postgres.sql("SELECT to_regclass('events')") == "events"
        });
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
            let routes = first.1.as_object().expect("there are routes");
            routes.values().all(|route| route["pending"] == 0) && told.all(|other| other == first)
        });
        eprintln!("recovered after {:?}", asked.elapsed());
        self.assert_kept(tally);
    }

    #[track_caller]
    fn assert_kept(&self, tally: &Tally) {
        for service in self.fleet.all() {
            let ledger = support::assert_books_balance(service);
            let counted = service.get("/stats").json()["events_count"].clone();
            assert_eq!(counted, ledger["accepted"]);
            for route in ["store", "counters"] {
                assert_eq!(ledger["routes"][route]["dead"], 0, "{ledger}");
                assert_eq!(ledger["routes"][route]["expired"], 0, "{ledger}");
            }
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
        let promised: HashSet<_> = tally.acknowledged.iter().map(String::as_str).collect();
        let unsure = |id: &&&str| !promised.contains(**id) && !tally.unknown.contains(**id);
        // What was answered 503 may be there: Kafka did not say in time that it has it.
        let refused = tally.statuses.contains_key(&503);
        assert!(refused || stored.iter().find(unsure).is_none());
        let mut highest: HashMap<&str, u64> = HashMap::new();
        let arrivals = self.postgres.sql("SELECT id FROM arrivals ORDER BY number");
        for id in arrivals.lines() {
            let (key, number) = id.rsplit_once('-').expect("ids end with a number");
            let number = number.parse().expect("a number");
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
            assert_eq!(shown["durability"], "replicated");
            for route in ["store", "counters"] {
                assert_eq!(shown["routes"][route]["state"], "delivered", "{shown}");
            }
        }
    }

    /// How many partitions of a route a process reads.
    fn read_by(&self, member: &str) -> usize {
        let status = self.fleet.get(member).get("/status").json();
        let partitions = status["routes"]["store"]["partitions"].clone();
        let partitions = partitions.as_array().cloned().unwrap_or_default();
        partitions
            .iter()
            .filter(|it| it["read_here"] == true)
            .count()
    }
}

#[test]
fn a_broker_that_is_killed_and_comes_back() {
    let mut rig = Rig::start();
    let load = rig.load("broker");
    rig.kafka.kill(0);
    let refused = refuses(rig.fleet.get("ingest-1"));
    assert!(refused < Duration::from_secs(10), "{refused:?}");
    rig.kafka.restart(0);
    let back = Instant::now();
    load.iter().for_each(|load| load.wait_for(200));
    assert!(back.elapsed() < RECOVERED_WITHIN);
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

/// How long the answer took, which is 503 with `Retry-After`, and `/health` says it as well.
#[track_caller]
fn refuses(door: &Service) -> Duration {
    let mut took = Duration::ZERO;
    eventually(SOON, "it refuses", || {
        let asked = Instant::now();
        let answer = door.post_json("/ingest", support::event("refused-0"));
        took = asked.elapsed();
        if answer.status == 503 {
            assert!(support::retry_after(&answer) > 0);
        }
        answer.status == 503
    });
    eventually(SOON, "it is unhealthy", || {
        door.get("/health").status == 503
    });
    took
}

#[test]
fn the_leader_of_partitions_is_lost() {
    let cluster = Kafka::builder().brokers(3);
    let mut rig = Rig::with(cluster, ", replication_factor: 3, min_insync_replicas: 2");
    let load = rig.load("leader");
    // Each leads some.
    rig.kafka.kill(1);
    load.iter().for_each(|load| load.wait_for(200));
    rig.kafka.restart(1);
    load.iter().for_each(|load| load.wait_for(200));
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

#[test]
fn readers_are_added_killed_and_stopped_past_their_session() {
    let mut rig = Rig::start();
    let load = rig.load("readers");
    eventually(START, "both read", || {
        rig.read_by("deliver-1") == 3 && rig.read_by("deliver-2") == 3
    });
    rig.fleet.add("deliver-3", "deliver, query");
    eventually(RECOVERED_WITHIN, "the third reads", || {
        rig.read_by("deliver-3") == 2
    });
    rig.fleet.get_mut("deliver-2").kill();
    eventually(RECOVERED_WITHIN, "two share what three had", || {
        rig.read_by("deliver-1") == 3 && rig.read_by("deliver-3") == 3
    });
    rig.fleet.get_mut("deliver-2").restart();
    eventually(RECOVERED_WITHIN, "it reads again", || {
        rig.read_by("deliver-2") == 2
    });
    // It goes on where it was, in the middle of something, when others have long had its partitions.
    rig.fleet.get("deliver-1").hang();
    eventually(RECOVERED_WITHIN, "others have its partitions", || {
        rig.read_by("deliver-2") == 3 && rig.read_by("deliver-3") == 3
    });
    load.iter().for_each(|load| load.wait_for(100));
    rig.fleet.get("deliver-1").go_on();
    load.iter().for_each(|load| load.wait_for(100));
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

#[test]
fn the_network_is_cut_between_each_pair() {
    let mut seed = TestSeed::new();
    let mut rig = Rig::with(Kafka::builder().proxied(), "");
    let load = rig.load("network");
    for turn in 0..3 {
        let proxies = [&rig.to_postgres, &rig.to_redis, rig.kafka.proxy(0)];
        for (number, proxy) in proxies.into_iter().enumerate() {
            if seed.below(2) == 0 {
                proxy.hang();
            } else {
                proxy.cut();
                proxy.refuse();
            }
            std::thread::sleep(Duration::from_millis(500 + seed.below(1500)));
            if number < 2 {
                // The door and the other route know nothing of it.
                load.iter().for_each(|load| load.wait_for(50));
            }
            proxy.restore();
            if turn == 2 {
                load.iter().for_each(|load| load.wait_for(50));
            }
        }
    }
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
    rig.fleet.restore();
}

#[test]
fn postgres_fails_over_in_the_middle_of_transactions() {
    let mut rig = Rig::start();
    let load = rig.load("postgres");
    for _ in 0..3 {
        rig.postgres.kill();
        load.iter().for_each(|load| load.wait_for(100));
        // The other route goes on.
        let door = rig.fleet.get("ingest-1");
        let before = door.get("/stats").json()["events_count"].as_u64();
        eventually(SOON, "the counters go on", || {
            door.get("/stats").json()["events_count"].as_u64() > before
        });
        rig.postgres.restart();
        load.iter().for_each(|load| load.wait_for(50));
    }
    let tally = Rig::stop(load);
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    rig.assert_recovers(&tally);
}

#[test]
fn redis_is_away_and_everything_else_goes_on() {
    let mut rig = Rig::start();
    let load = rig.load("redis");
    rig.redis.kill();
    load.iter().for_each(|load| load.wait_for(200));
    let count = || {
        let rows = rig.postgres.sql("SELECT count(*) FROM events");
        rows.parse::<u64>().expect("a number")
    };
    let before = count();
    eventually(SOON, "the store goes on", || count() > before + 100);
    let health = rig.fleet.get("deliver-1").get("/health");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (200, &"degraded".into())
    );
    rig.redis.restart();
    let tally = Rig::stop(load);
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    rig.assert_recovers(&tally);
}

#[test]
fn processes_are_killed_and_started_again() {
    let mut seed = TestSeed::new();
    let mut rig = Rig::start();
    let load = rig.load("processes");
    for member in ["ingest-1", "deliver-1", "ingest-2", "deliver-2"] {
        std::thread::sleep(Duration::from_millis(seed.below(500)));
        rig.fleet.get_mut(member).kill();
        std::thread::sleep(Duration::from_millis(seed.below(500)));
        rig.fleet.get_mut(member).restart();
        load.iter().for_each(|load| load.wait_for(50));
    }
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}
