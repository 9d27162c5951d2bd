//! A journal of its own for each test, whichever the engine. All that differs between engines is in here: a config, and
//! the server that it names.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use telemetryx_ingestion::config::{Config, Language};
use telemetryx_ingestion::journal::{self, Committed, Journal, OpenError, OpenedFor, Purpose};
use telemetryx_ingestion::observe::Metrics;
use telemetryx_testkit::{Kafka, Postgres};
use tempfile::TempDir;

use crate::reader::{soon, until};

/// What a journal is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Embedded,
    Kafka,
    Postgres,
}

/// One server for all tests; each has a schema of its own there.
fn postgres() -> Arc<Postgres> {
    static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock();
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Postgres::start_with(&["max_connections=500"], |_| {}));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A journal that nobody else knows, and how to open it.
pub(crate) struct Bench {
    config: String,
    config_elsewhere: String,
    scratch: TempDir,
    server: Server,
}

/// What keeps it.
enum Server {
    Embedded,
    /// A broker that all share, and a topic of its own.
    Kafka(Arc<Kafka>, String),
    /// A server that all share, and a schema of its own.
    Postgres(Arc<Postgres>, String),
}

/// Partitions, where there can be more than one.
const PARTITIONS: usize = 4;
const ROUTES: [&str; 2] = ["a", "b"];

impl Bench {
    fn new(engine: Engine) -> Self {
        let scratch = tempfile::Builder::new()
            .prefix("telemetryx-journal-")
            .tempdir()
            .unwrap();
        let (server, journal, journal_elsewhere) = match engine {
            Engine::Embedded => {
                // Small files, so that there are several.
                let journal = "engine: embedded, embedded: { segment_size: 64MiB }".to_owned();
                (Server::Embedded, journal.clone(), journal)
            }
            Engine::Kafka => {
                let (kafka, topic) = (kafka(), topic());
                let journal = |options: &str| {
                    format!(
                        "engine: kafka, kafka: {{ brokers: '{}', topic: {topic}, group_prefix: {topic},
                         partitions: {PARTITIONS}, options: {{ heartbeat.interval.ms: 200{options} }} }}",
                        kafka.brokers()
                    )
                };
                // It is killed or stopped, and soon known to be.
                let elsewhere = journal(", session.timeout.ms: 2000");
                let journal = journal("");
                (Server::Kafka(kafka, topic), journal, elsewhere)
            }
            Engine::Postgres => {
                let server = postgres();
                let schema = format!("journal_{}", fastrand::u64(..));
                let journal = format!(
                    "engine: postgres, postgres: {{ url: '{}', schema: {schema}, partitions: {PARTITIONS}, \
                     piece_size: 64KiB, lease: 3s }}",
                    server.url()
                );
                (Server::Postgres(server, schema), journal.clone(), journal)
            }
        };
        let routes = ROUTES.map(|route| format!("{{ name: {route}, sink: {{ kind: stdout }} }}"));
        let config = |journal| {
            format!(
                "data_dir: {:?}\njournal: {{ {journal} }}\nroutes: [ {} ]\nquery: {{ counters_from: , events_from: }}\n",
                scratch.path().join("data"),
                routes.join(", ")
            )
        };
        Self {
            config: config(journal),
            config_elsewhere: config(journal_elsewhere),
            scratch,
            server,
        }
    }

    /// Opens it; where a former handle is still on its way out, once that is gone.
    pub(crate) async fn open(&self) -> Arc<dyn Journal> {
        open(&self.config).await
    }

    pub(crate) async fn try_open(&self) -> Result<Arc<dyn Journal>, OpenError> {
        try_open(&self.config).await
    }

    /// For whoever opens it in another process.
    pub(crate) fn config_elsewhere(&self) -> &str {
        &self.config_elsewhere
    }

    /// Whether several processes can have it open at once.
    pub(crate) fn is_shared(&self) -> bool {
        match self.server {
            Server::Embedded => false,
            Server::Kafka(..) | Server::Postgres(..) => true,
        }
    }

    /// What is committed for `route`, seen anew; `None` from an engine that only one process can open: nobody else asks
    /// it, so it need not say.
    pub(crate) async fn commits(
        &self,
        journal: &dyn Journal,
        route: &str,
    ) -> Option<Vec<Committed>> {
        soon("commits are seen", journal.refresh()).await.unwrap();
        self.is_shared().then(|| journal.commits(route))
    }

    pub(crate) fn partitions(&self) -> usize {
        if self.is_shared() { PARTITIONS } else { 1 }
    }

    /// The names of the config's routes.
    pub(crate) fn routes(&self) -> [&'static str; 2] {
        ROUTES
    }

    /// How many random workloads it is fast enough for.
    pub(crate) fn workloads(&self) -> u64 {
        if self.is_shared() { 1 } else { 6 }
    }

    /// Removes it with all that it holds: the next to open it makes another one of the same name.
    pub(crate) async fn make_anew(&self) {
        match &self.server {
            Server::Embedded => {
                std::fs::remove_dir_all(self.scratch.path().join("data")).unwrap();
            }
            Server::Kafka(kafka, topic) => {
                let (kafka, topic) = (Arc::clone(kafka), topic.clone());
                let deleted = tokio::task::spawn_blocking(move || kafka.delete_topic(&topic));
                deleted.await.unwrap();
            }
            Server::Postgres(server, schema) => {
                server.sql(&format!("DROP SCHEMA {schema} CASCADE"));
            }
        }
    }
}

pub(crate) async fn open(config: &str) -> Arc<dyn Journal> {
    let begun = Instant::now();
    loop {
        match try_open(config).await {
            Ok(journal) => {
                // A server that is asked for the first time may take longer than a start waits for it.
                until("it is well", || async { journal.status().is_ok() }).await;
                return journal;
            }
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn try_open(config: &str) -> Result<Arc<dyn Journal>, OpenError> {
    static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::install()));
    let config =
        Config::from_text(config, Language::Yaml).unwrap_or_else(|error| panic!("{error}"));
    let opened_for = OpenedFor {
        routes: ROUTES.map(str::to_owned).to_vec(),
        routes_append: false,
        purpose: Purpose::Serve,
        metrics: Arc::clone(&METRICS),
    };
    journal::open(&config, opened_for).await
}

/// One broker for all tests that run at the same time.
fn kafka() -> Arc<Kafka> {
    static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock();
    shared.upgrade().unwrap_or_else(|| {
        let builder = Kafka::builder()
            .patient()
            .property("group.min.session.timeout.ms=1000");
        let kafka = Arc::new(builder.start());
        *shared = Arc::downgrade(&kafka);
        kafka
    })
}

/// A name that no other test has.
fn topic() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("test-{}", LAST.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap()
}

/// Runs one test on a journal of its own.
pub(crate) fn run<T: Future<Output = ()>>(engine: Engine, test: impl FnOnce(Bench) -> T) {
    runtime().block_on(test(Bench::new(engine)));
}
