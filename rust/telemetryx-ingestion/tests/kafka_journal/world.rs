//! A Kafka, a journal in it, events.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use telemetryx_common::{Event, Timestamp, wire};
use telemetryx_ingestion::clock;
use telemetryx_ingestion::journal::kafka::KafkaJournal;
use telemetryx_ingestion::journal::{
    Assignment, Assignments, BatchLimit, Delivery, EncodedBatch, Journal, Subscription,
};
use telemetryx_ingestion::observe::Metrics;
use telemetryx_testkit::{Kafka, eventually};
use tokio::runtime::Runtime;

pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const LIMIT: BatchLimit = BatchLimit {
    events: 100,
    bytes: 1 << 20,
    wait: Duration::from_millis(20),
};

/// A Kafka, and what waits for it.
pub(crate) struct World {
    pub(crate) kafka: Arc<Kafka>,
    pub(crate) runtime: Runtime,
}

impl World {
    /// With the one Kafka of the tests that leave it as it is.
    pub(crate) fn shared() -> Self {
        Self::with(shared())
    }

    /// With one of its own.
    pub(crate) fn of(kafka: Kafka) -> Self {
        Self::with(Arc::new(kafka))
    }

    fn with(kafka: Arc<Kafka>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self { kafka, runtime }
    }

    pub(crate) fn kafka_mut(&mut self) -> &mut Kafka {
        Arc::get_mut(&mut self.kafka).expect("it is this test's own")
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Opens the journal in this topic, whatever Kafka says of it; `keys` are more lines of its config.
    pub(crate) fn open_anyhow(&self, topic: &str, keys: &str) -> Arc<KafkaJournal> {
        self.wait(open_at(&self.kafka.brokers(), topic, keys))
    }

    /// Opens it, and waits until it is well.
    #[track_caller]
    pub(crate) fn open(&self, topic: &str, keys: &str) -> Arc<KafkaJournal> {
        let journal = self.open_anyhow(topic, keys);
        eventually(SOON, "the journal is well", || journal.status().is_ok());
        journal
    }

    /// The first partition that is handed out to route `r`, and its reading.
    pub(crate) fn first_part(&self, journal: &KafkaJournal) -> Part {
        self.wait(async {
            let mut assignments = journal.subscribe("r").await.unwrap();
            let assignment = assignments.next().await.unwrap();
            let subscription = assignment.open().await.unwrap();
            Part {
                subscription,
                assignment,
                assignments,
            }
        })
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.kafka.brokers());
        client.create().unwrap()
    }
}

/// A partition that is read. The subscription goes first.
pub(crate) struct Part {
    pub(crate) subscription: Box<dyn Subscription>,
    pub(crate) assignment: Box<dyn Assignment>,
    pub(crate) assignments: Box<dyn Assignments>,
}

pub(crate) fn shared() -> Arc<Kafka> {
    static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let kafka = Arc::new(Kafka::builder().patient().start());
        *shared = Arc::downgrade(&kafka);
        kafka
    })
}

fn metrics() -> Arc<Metrics> {
    static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();
    Arc::clone(METRICS.get_or_init(|| Arc::new(Metrics::install())))
}

pub(crate) async fn open_at(brokers: &str, topic: &str, keys: &str) -> Arc<KafkaJournal> {
    let brokers: Vec<_> = brokers.split(',').map(|one| format!("'{one}'")).collect();
    let brokers = brokers.join(",");
    let config = toml::from_str(&format!(
        "brokers = [{brokers}]\ntopic = '{topic}'\ngroup_prefix = '{topic}'\n{keys}"
    ));
    let opened = KafkaJournal::open(&config.unwrap(), &["r".to_owned()], true, metrics()).await;
    Arc::new(opened.unwrap())
}

/// Events of these sources, with these ids.
pub(crate) fn batch<'s>(events: impl IntoIterator<Item = (&'s str, String)>) -> EncodedBatch {
    let (mut body, mut count) = (Vec::new(), 0);
    for (source, id) in events {
        let mut event = Event::new(Timestamp::from_unix_nanos(
            1_700_000_000_000_000_000 + count,
        ));
        event.source = telemetryx_common::Source::Name(source.into());
        event.payload = format!(r#"{{"n": {count} }}"#).into();
        event.received_at = clock::now();
        wire::encode_event(&event, &id, &mut body);
        count += 1;
    }
    EncodedBatch {
        body: body.into(),
        events: count as u32,
        earliest: Timestamp::UNIX_EPOCH,
        latest: Timestamp::UNIX_EPOCH,
        is_own: false,
    }
}

/// `count` events of 20 sources: their ids say their place.
pub(crate) fn numbered(name: &str, from: usize, count: usize) -> EncodedBatch {
    let sources: Vec<_> = (0..20).map(|n| format!("{name}-s{n}")).collect();
    let ids = (from..from + count).map(|n| (n % 20, format!("{name}-{n}")));
    batch(ids.map(|(source, id)| (sources[source].as_str(), id)))
}

/// The events of a delivery: offset and id.
pub(crate) fn ids(delivery: &Delivery) -> Vec<(u64, String)> {
    let cause = telemetryx_ingestion::route::Cause::Replay;
    let batch = delivery.decode(cause, Timestamp::UNIX_EPOCH, |offset, why| {
        panic!("offset {offset}: {why}")
    });
    let events = delivery.offsets().zip(batch.events());
    events
        .map(|(offset, event)| (offset, event.id.to_string()))
        .collect()
}
