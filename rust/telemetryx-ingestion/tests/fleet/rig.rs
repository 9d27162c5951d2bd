//! The fleet with its servers, load on it, and what must hold afterwards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use telemetryx_testkit::{
    Clock, Fleet, Kafka, KafkaBuilder, Postgres, Proxy, RedisServer, eventually, eventually_some,
};

use crate::support::{self, Load, Tally};

/// How soon all is well again once the trouble is over.
pub(crate) const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// How long the fleet may take to find its partitions at the start.
pub(crate) const START: Duration = Duration::from_secs(120);
/// Shorter than the built-in one, so that the tests need not wait as long.
const SESSION: Duration = Duration::from_secs(6);
/// The processes and their roles.
pub(crate) const MEMBERS: [(&str, &str); 4] = [
    ("ingest-1", "ingest, query"),
    ("ingest-2", "ingest, query"),
    ("deliver-1", "deliver, query"),
    ("deliver-2", "deliver, query"),
];

/// How a rig is to be started.
pub(crate) struct Plan {
    /// None: the journal is in PostgreSQL.
    kafka: Option<KafkaBuilder>,
    more: &'static str,
    clocks: BTreeMap<&'static str, Clock>,
}

impl Plan {
    /// The journal in a Kafka of one broker.
    pub(crate) fn kafka() -> Self {
        Self::with_kafka(Kafka::builder().proxied(), "")
    }

    /// In this one; `more`: settings of the journal.
    pub(crate) fn with_kafka(kafka: KafkaBuilder, more: &'static str) -> Self {
        Self {
            kafka: Some(kafka),
            more,
            clocks: BTreeMap::new(),
        }
    }

    /// The journal in a PostgreSQL that has nothing else to do.
    pub(crate) fn postgres() -> Self {
        Self {
            kafka: None,
            more: "",
            clocks: BTreeMap::new(),
        }
    }

    /// Each process has a clock of its own that can be set, and so has the server of the journal, `journal`.
    pub(crate) fn with_clocks(mut self) -> Self {
        let names = MEMBERS.iter().map(|(name, _)| *name).chain(["journal"]);
        self.clocks = names.map(|name| (name, Clock::new())).collect();
        self
    }

    pub(crate) fn start(self) -> Rig {
        let clock = self.clocks.get("journal");
        let environment: Vec<_> = clock.into_iter().flat_map(Clock::environment).collect();
        let (mut kafka, mut queue) = (None, None);
        match self.kafka {
            Some(builder) => {
                let env = |builder: KafkaBuilder, (name, value): &(String, String)| {
                    builder.env(name, value)
                };
                kafka = Some(environment.iter().fold(builder, env).start());
            }
            None => queue = Some(Postgres::start_in(&environment)),
        }
        let postgres = Postgres::start();
        let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
        let to_postgres = Proxy::start(postgres.port());
        let to_redis = Proxy::start(redis.port());
        let url = url_over(&postgres, &to_postgres);
        let session = SESSION.as_millis();
        let journal = match &kafka {
            Some(kafka) => format!(
                "engine: kafka, kafka: {{ brokers: {:?}, partitions: 6{}, delivery_timeout: 5s,
               options: {{ session.timeout.ms: {session} }} }}",
                kafka.brokers(),
                self.more,
            ),
            // Each process comes over a network of its own, but for those that are added later.
            None => format!(
                "engine: postgres, postgres: {{ url: '{}', partitions: 6, max_backlog: 1000000, delivery_timeout: 5s, lease: {session}ms }}",
                queue.as_ref().map(Postgres::url).unwrap_or_default()
            ),
        };
        let patience =
            "retry: { initial: 50ms, max: 500ms }, breaker: { failures: 5, open_for: 500ms }";
        let config = format!(
            "journal: {{ {journal} }}
otlp: {{ enabled: false }}
routes:
  - {{ name: store, sink: {{ kind: postgres, url: {url:?}, timeout: 3s }}, batch: {{ max_events: 1000 }}, {patience} }}
  - {{ name: counters, sink: {{ kind: redis, url: {:?}, timeout: 3s }}, batch: {{ max_events: 1000 }}, {patience} }}
query: {{ events_from: store, counters_from: counters }}
",
            format!("redis://127.0.0.1:{}", to_redis.port()),
        );
        let mut fleet = Fleet::builder(env!("CARGO_BIN_EXE_telemetryx")).config(&config);
        let mut to_queue = Vec::new();
        for (name, roles) in MEMBERS {
            let clock = self.clocks.get(name);
            for (variable, value) in clock.into_iter().flat_map(Clock::environment) {
                fleet = fleet.env_of(name, &variable, &value);
            }
            if let Some(queue) = &queue {
                let proxy = Proxy::start(queue.port());
                let url = url_over(queue, &proxy);
                fleet = fleet.env_of(name, "TELEMETRYX_JOURNAL__POSTGRES__URL", &url);
                to_queue.push(proxy);
            }
            fleet = fleet.member(name, roles);
        }
        let rig = Rig {
            fleet: fleet.start(),
            kafka,
            queue,
            to_queue,
            postgres,
            to_postgres,
            redis,
            to_redis,
            clocks: self.clocks,
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
}

/// The server's URL, over a proxy.
fn url_over(server: &Postgres, proxy: &Proxy) -> String {
    let port = |port: u16| format!(":{port}/");
    server
        .url()
        .replace(&port(server.port()), &port(proxy.port()))
}

/// A fleet that runs. Dropping it ends all of it.
pub(crate) struct Rig {
    pub(crate) fleet: Fleet,
    kafka: Option<Kafka>,
    queue: Option<Postgres>,
    to_queue: Vec<Proxy>,
    /// That of the store.
    pub(crate) postgres: Postgres,
    /// On the way from the fleet to PostgreSQL.
    pub(crate) to_postgres: Proxy,
    pub(crate) redis: RedisServer,
    /// On the way from the fleet to Redis.
    pub(crate) to_redis: Proxy,
    /// By name.
    pub(crate) clocks: BTreeMap<&'static str, Clock>,
}

impl Rig {
    /// What the journal is in.
    #[track_caller]
    pub(crate) fn kafka(&mut self) -> &mut Kafka {
        self.kafka.as_mut().expect("the journal is in Kafka")
    }

    /// What the journal is in.
    #[track_caller]
    pub(crate) fn queue(&mut self) -> &mut Postgres {
        self.queue.as_mut().expect("the journal is in PostgreSQL")
    }

    /// What is between the fleet and its journal.
    pub(crate) fn to_journal(&self) -> Vec<&Proxy> {
        let to_kafka = self.kafka.iter().map(|kafka| kafka.proxy(0));
        to_kafka.chain(&self.to_queue).collect()
    }

    /// Clients at both doors.
    pub(crate) fn load(&self, name: &str) -> [Load; 2] {
        ["ingest-1", "ingest-2"].map(|door| {
            let load = Load::start(self.fleet.get(door), &format!("{name}-{door}"), 2, 5, 50);
            load.wait_for(50);
            load
        })
    }

    pub(crate) fn stop(load: [Load; 2]) -> Tally {
        let mut all = Tally::default();
        load.into_iter().for_each(|load| all.add(load.stop()));
        all
    }

    /// All is delivered within the time that a recovery may take, and it is what was acknowledged.
    #[track_caller]
    pub(crate) fn assert_recovers(&self, tally: &Tally) {
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
            // It may still be finding its way back to what it reads: then it says so.
            let answer = eventually_some(RECOVERED_WITHIN, "a receipt is answered", || {
                let answer = self
                    .fleet
                    .get("deliver-1")
                    .get(&format!("/receipts/{receipt}"));
                (answer.status != 503).then_some(answer)
            });
            let shown = answer.expect_status(200).json();
            let durability = if self.kafka.is_some() {
                "replicated"
            } else {
                "committed"
            };
            assert_eq!(shown["durability"], durability);
            for route in ["store", "counters"] {
                assert_eq!(shown["routes"][route]["state"], "delivered", "{shown}");
            }
        }
    }

    /// How many events are in the store.
    pub(crate) fn stored(&self) -> u64 {
        let rows = self.postgres.sql("SELECT count(*) FROM events");
        rows.parse().expect("a number")
    }

    /// How many partitions of a route a process reads.
    pub(crate) fn read_by(&self, member: &str) -> usize {
        let status = self.fleet.get(member).get("/status").json();
        let partitions = status["routes"]["store"]["partitions"].clone();
        let partitions = partitions.as_array().cloned().unwrap_or_default();
        partitions
            .iter()
            .filter(|it| it["read_here"] == true)
            .count()
    }
}
