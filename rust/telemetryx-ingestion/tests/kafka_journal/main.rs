//! The journal `kafka`, as a library, with a real Apache Kafka: what is acknowledged is there, whoever is killed; each
//! partition has one reader, and its position and what is saved with it are a pair, through every rebalance.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use telemetryx_common::{Event, Timestamp, wire};
use telemetryx_ingestion::clock;
use telemetryx_ingestion::config::KafkaJournalConfig;
use telemetryx_ingestion::journal::kafka::KafkaJournal;
use telemetryx_ingestion::journal::{
    AppendError, Assignment, BatchLimit, Delivery, EncodedBatch, Journal, JournalError, Position,
    TableChange,
};
use telemetryx_ingestion::observe::Metrics;
use telemetryx_testkit::{Kafka, eventually, eventually_some};
use tokio::runtime::{Handle, Runtime};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);
const LIMIT: BatchLimit = BatchLimit {
    events: 100,
    bytes: 1 << 20,
    wait: Duration::from_millis(20),
};

/// One Kafka for the tests that leave it as it is.
fn shared() -> Arc<Kafka> {
    static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let kafka = Arc::new(Kafka::start());
        *shared = Arc::downgrade(&kafka);
        kafka
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn metrics() -> Arc<Metrics> {
    static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();
    Arc::clone(METRICS.get_or_init(|| Arc::new(Metrics::install())))
}

fn config(brokers: &str, topic: &str, keys: &str) -> KafkaJournalConfig {
    let brokers: Vec<_> = brokers.split(',').map(|one| format!("'{one}'")).collect();
    let brokers = brokers.join(",");
    toml::from_str(&format!(
        "brokers = [{brokers}]\ntopic = '{topic}'\ngroup_prefix = '{topic}'\n{keys}"
    ))
    .unwrap()
}

async fn open_at(brokers: &str, topic: &str, keys: &str) -> Arc<KafkaJournal> {
    let config = config(brokers, topic, keys);
    let opened = KafkaJournal::open(&config, &["r".to_owned()], metrics()).await;
    Arc::new(opened.unwrap())
}

async fn open(kafka: &Kafka, topic: &str, keys: &str) -> Arc<KafkaJournal> {
    let journal = open_at(&kafka.brokers(), topic, keys).await;
    let status = journal.status();
    assert!(status.is_ok(), "{status:?}");
    journal
}

/// Events of these sources, with these ids.
fn batch<'s>(events: impl IntoIterator<Item = (&'s str, String)>) -> EncodedBatch {
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
fn numbered(name: &str, from: usize, count: usize) -> EncodedBatch {
    let sources: Vec<_> = (0..20).map(|n| format!("{name}-s{n}")).collect();
    let ids = (from..from + count).map(|n| (n % 20, format!("{name}-{n}")));
    batch(ids.map(|(source, id)| (sources[source].as_str(), id)))
}

fn ids(delivery: &Delivery) -> Vec<(u64, String)> {
    let cause = telemetryx_ingestion::route::Cause::Replay;
    let batch = delivery.decode(cause, Timestamp::UNIX_EPOCH, |offset, why| {
        panic!("offset {offset}: {why}")
    });
    let events = delivery.offsets().zip(batch.events());
    events
        .map(|(offset, event)| (offset, event.id.to_string()))
        .collect()
}

/// What one process reads of route `r`: each event, and a count that it saves with its position.
struct Reading {
    stop: CancellationToken,
    task: JoinHandle<()>,
    seen: Arc<Mutex<Vec<(u32, u64, String)>>>,
    partitions: Arc<Mutex<BTreeMap<u32, usize>>>,
}

type SeenEvents = Arc<Mutex<Vec<(u32, u64, String)>>>;

impl Reading {
    fn start(runtime: &Handle, journal: &Arc<KafkaJournal>) -> Self {
        let (stop, seen) = (CancellationToken::new(), SeenEvents::default());
        let partitions = Arc::<Mutex<BTreeMap<u32, usize>>>::default();
        let task = runtime.spawn({
            let (journal, stop, seen) = (Arc::clone(journal), stop.clone(), Arc::clone(&seen));
            let partitions = Arc::clone(&partitions);
            async move {
                let mut assignments = journal.subscribe("r").await.unwrap();
                let mut tasks = JoinSet::new();
                loop {
                    let assignment = tokio::select! {
                        assignment = assignments.next() => assignment,
                        () = stop.cancelled() => break,
                    };
                    let Ok(assignment) = assignment else { break };
                    let (stop, seen) = (stop.clone(), Arc::clone(&seen));
                    let partitions = Arc::clone(&partitions);
                    tasks.spawn(async move {
                        let number = assignment.partition();
                        *partitions.lock().unwrap().entry(number).or_default() += 1;
                        read(&*assignment, stop, seen).await;
                        let mut partitions = partitions.lock().unwrap();
                        let held = partitions.get_mut(&number).unwrap();
                        *held -= 1;
                        if *held == 0 {
                            partitions.remove(&number);
                        }
                    });
                }
                while tasks.join_next().await.is_some() {}
            }
        });
        Self {
            stop,
            task,
            seen,
            partitions,
        }
    }

    fn partitions(&self) -> usize {
        self.partitions.lock().unwrap().len()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn read(assignment: &dyn Assignment, stop: CancellationToken, seen: SeenEvents) {
    let revoked = assignment.revoked();
    'open: loop {
        let mut subscription = match assignment.open().await {
            Ok(subscription) => subscription,
            Err(JournalError::Lost(_)) => return,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if stop.is_cancelled() || revoked.is_cancelled() {
                    return;
                }
                continue;
            }
        };
        let saved = std::str::from_utf8(subscription.state()).unwrap();
        let mut count = saved.parse::<u64>().unwrap_or(0);
        assert_eq!(
            count,
            subscription.position(),
            "position and state are a pair"
        );
        loop {
            let delivery = tokio::select! {
                delivery = subscription.next(LIMIT) => delivery,
                () = stop.cancelled() => return,
                () = revoked.cancelled() => return,
            };
            let delivery = match delivery {
                Ok(delivery) => delivery,
                Err(JournalError::Lost(_)) => return,
                Err(_) => continue 'open,
            };
            count += delivery.events() + delivery.missing;
            let partition = assignment.partition();
            let state = count.to_string();
            match subscription.commit(delivery.id(), state.as_bytes()).await {
                Ok(()) => {}
                Err(JournalError::Lost(_)) => return,
                Err(_) => continue 'open,
            }
            let read = ids(&delivery).into_iter();
            let read = read.map(|(offset, id)| (partition, offset, id));
            seen.lock().unwrap().extend(read);
        }
    }
}

/// Every event of the topic was committed once by one of these, those of a partition in their order, and what is saved
/// agrees with the positions.
#[track_caller]
fn assert_read(runtime: &Runtime, journal: &KafkaJournal, seen: &[SeenEvents]) {
    runtime.block_on(journal.refresh()).unwrap();
    let extents = journal.extents();
    let commits = journal.commits("r");
    for extent in extents.iter().filter(|extent| extent.end > 0) {
        let mut commits = commits.iter();
        let committed = commits
            .find(|one| one.partition == extent.partition)
            .unwrap();
        assert_eq!(committed.position, extent.end, "{extent:?}");
        assert_eq!(committed.state, extent.end.to_string(), "{extent:?}");
    }
    let mut times = HashMap::<(u32, u64), u32>::new();
    for seen in seen {
        let mut last = HashMap::new();
        for (partition, offset, id) in &*seen.lock().unwrap() {
            *times.entry((*partition, *offset)).or_default() += 1;
            let before = last.insert(partition, *offset);
            assert!(
                before.is_none_or(|before| before < *offset),
                "{id} after {before:?}"
            );
        }
    }
    let events: u64 = extents.iter().map(|extent| extent.end).sum();
    assert_eq!(times.len() as u64, events);
    assert!(times.values().all(|times| *times == 1), "committed twice");
}

#[track_caller]
fn all_read(runtime: &Runtime, journal: &KafkaJournal) {
    eventually(SOON, "all is read and committed", || {
        runtime.block_on(journal.refresh()).ok();
        let events: u64 = journal.extents().iter().map(|extent| extent.end).sum();
        let read: u64 = journal.commits("r").iter().map(|one| one.position).sum();
        events == read && journal.backlog().events == 0
    });
}

/// Appends that go on until they are stopped.
struct Appending {
    stop: CancellationToken,
    task: JoinHandle<Appended>,
    done: Arc<Mutex<usize>>,
}

#[derive(Default)]
struct Appended {
    /// Each with the number of its first event.
    acknowledged: Vec<(usize, Position)>,
    failed: Vec<AppendError>,
    slowest: Duration,
}

const BATCH: usize = 50;

impl Appending {
    fn start(runtime: &Handle, journal: &Arc<KafkaJournal>, name: &'static str) -> Self {
        let (stop, done) = (CancellationToken::new(), Arc::<Mutex<usize>>::default());
        let task = runtime.spawn({
            let (journal, stop, done) = (Arc::clone(journal), stop.clone(), Arc::clone(&done));
            async move {
                let (mut appended, mut from) = (Appended::default(), 0);
                while !stop.is_cancelled() {
                    let begun = Instant::now();
                    match journal.append(numbered(name, from, BATCH)).await {
                        Ok(position) => {
                            assert_eq!(position.events(), BATCH as u64);
                            appended.acknowledged.push((from, position));
                            *done.lock().unwrap() += 1;
                        }
                        Err(error) => {
                            appended.failed.push(error);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    appended.slowest = appended.slowest.max(begun.elapsed());
                    from += BATCH;
                }
                appended
            }
        });
        Self { stop, task, done }
    }

    /// Waits until so many more were acknowledged.
    #[track_caller]
    fn wait_for(&self, more: usize) {
        let until = *self.done.lock().unwrap() + more;
        eventually(SOON, "appends are acknowledged", || {
            *self.done.lock().unwrap() >= until
        });
    }

    fn stop(self, runtime: &Runtime) -> Appended {
        self.stop.cancel();
        runtime.block_on(self.task).unwrap()
    }
}

/// Each acknowledged event is where its position says; the events of each source are in their order.
#[track_caller]
fn assert_there(kafka: &Kafka, topic: &str, name: &str, appended: &Appended) {
    let messages = kafka.messages(topic);
    let there: HashMap<_, _> = messages
        .iter()
        .map(|one| ((one.partition as u32, one.offset as u64), one))
        .collect();
    for (from, position) in &appended.acknowledged {
        let ranges = position.ranges.iter();
        let places =
            ranges.flat_map(|range| (range.first..range.end()).map(|at| (range.partition, at)));
        let mut found: Vec<_> = places
            .map(|place| there[&place].header("event_id").to_owned())
            .collect();
        let mut expected: Vec<_> = (*from..from + BATCH)
            .map(|n| format!("{name}-{n}"))
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
    let mut last = HashMap::<&[u8], u64>::new();
    for message in &messages {
        let id = message.header("event_id");
        let number = id.rsplit_once('-').unwrap().1.parse().unwrap();
        let key = message.key.as_deref().unwrap();
        let before = last.insert(key, number);
        assert!(
            before.is_none_or(|before| before < number),
            "{id} after {before:?}"
        );
    }
}

fn admin(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", kafka.brokers());
    client.create().unwrap()
}

#[test]
fn an_append_is_where_it_says_with_key_headers_and_value() {
    let (kafka, runtime) = (shared(), runtime());
    for (topic, keys, kind) in [
        ("there.protobuf", "", "application/x-protobuf"),
        ("there.json", "format = 'json'", "application/json"),
    ] {
        let journal = runtime.block_on(open(&kafka, topic, keys));
        assert!(
            journal.status().warnings.is_empty(),
            "{:?}",
            journal.status()
        );
        let position = runtime
            .block_on(journal.append(numbered("a", 0, 500)))
            .unwrap();
        assert_eq!(position.events(), 500);
        assert!(position.ranges.len() <= 12, "{position:?}");
        let messages = kafka.messages(topic);
        assert_eq!(messages.len(), 500);
        for message in &messages {
            let number: usize = message
                .header("event_id")
                .trim_start_matches("a-")
                .parse()
                .unwrap();
            let key = format!("a-s{}", number % 20);
            assert_eq!(message.key.as_deref(), Some(key.as_bytes()));
            assert_eq!(message.header("content-type"), kind);
            assert_eq!(
                (message.header("type"), message.header("schema_version")),
                ("event", "1")
            );
        }
        // Read back, in both forms the event that was accepted.
        for range in &position.ranges {
            let scanned = journal.scan(range.partition, range.first, range.end(), LIMIT);
            let read = runtime.block_on(scanned).unwrap();
            assert_eq!(read.events(), u64::from(range.events.min(100)));
            for (offset, id) in ids(&read) {
                let same = |one: &&telemetryx_testkit::KafkaMessage| {
                    (one.partition as u32, one.offset as u64) == (range.partition, offset)
                };
                assert_eq!(messages.iter().find(same).unwrap().header("event_id"), id);
            }
            let event = wire::events(&read.slices[0].body).next().unwrap().unwrap();
            assert!(
                event.received_at > event.ts,
                "the moment of acceptance is kept"
            );
            assert!(event.payload.starts_with(r#"{"n": "#));
        }
        runtime.block_on(journal.refresh()).unwrap();
        let held: u64 = journal.extents().iter().map(|extent| extent.end).sum();
        assert_eq!((held, journal.backlog().events), (500, 500));
        runtime.block_on(journal.close());
        let closed = runtime.block_on(journal.append(numbered("a", 0, 1)));
        assert!(matches!(closed, Err(AppendError::Closed)));
    }
}

#[test]
fn what_is_acknowledged_is_there_though_the_broker_is_killed() {
    let (mut kafka, runtime) = (Kafka::start(), runtime());
    let journal = runtime.block_on(open(&kafka, "killed", "delivery_timeout = '3s'"));
    let appending = Appending::start(runtime.handle(), &journal, "a");
    appending.wait_for(20);
    kafka.kill(0);
    eventually(SOON, "the journal says so", || !journal.status().is_ok());
    let begun = Instant::now();
    let refused = runtime.block_on(journal.append(numbered("b", 0, 1)));
    assert!(
        matches!(refused, Err(AppendError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    kafka.restart(0);
    appending.wait_for(20);
    eventually(SOON, "it is well again", || journal.status().is_ok());
    let appended = appending.stop(&runtime);
    assert!(!appended.failed.is_empty());
    assert!(
        appended
            .failed
            .iter()
            .all(|error| matches!(error, AppendError::Unavailable(_))),
        "{:?}",
        appended.failed
    );
    assert!(
        appended.slowest < Duration::from_secs(5),
        "{:?}",
        appended.slowest
    );
    assert_there(&kafka, "killed", "a", &appended);
}

#[test]
fn the_loss_of_one_broker_of_three_loses_nothing_and_is_survived_unaided() {
    let (mut kafka, runtime) = (Kafka::builder().brokers(3).start(), runtime());
    let keys = "replication_factor = 3\ndelivery_timeout = '20s'";
    let journal = runtime.block_on(open(&kafka, "three", keys));
    assert!(
        journal.status().warnings.is_empty(),
        "{:?}",
        journal.status()
    );
    let appending = Appending::start(runtime.handle(), &journal, "a");
    let reading = Reading::start(runtime.handle(), &journal);
    for broker in [0, 1] {
        appending.wait_for(20);
        kafka.kill(broker);
        appending.wait_for(20);
        kafka.restart(broker);
    }
    appending.wait_for(20);
    let appended = appending.stop(&runtime);
    assert_there(&kafka, "three", "a", &appended);
    all_read(&runtime, &journal);
    assert_read(&runtime, &journal, &[Arc::clone(&reading.seen)]);
    runtime.block_on(reading.stop());
}

#[test]
fn partitions_are_shared_and_handed_over_with_positions_and_states_that_agree() {
    let (kafka, runtime) = (shared(), runtime());
    let journal = runtime.block_on(open(&kafka, "handed", ""));
    let appending = Appending::start(runtime.handle(), &journal, "a");
    let first = Reading::start(runtime.handle(), &journal);
    eventually(SOON, "one reads all", || first.partitions() == 12);
    appending.wait_for(20);
    let other = runtime.block_on(open(&kafka, "handed", ""));
    assert_eq!(other.identity(), journal.identity());
    let second = Reading::start(runtime.handle(), &other);
    eventually(SOON, "two share", || {
        (first.partitions(), second.partitions()) == (6, 6)
    });
    appending.wait_for(20);
    let (first_seen, second_seen) = (Arc::clone(&first.seen), Arc::clone(&second.seen));
    runtime.block_on(first.stop());
    eventually(SOON, "the other one reads all", || {
        second.partitions() == 12
    });
    appending.wait_for(20);
    let appended = appending.stop(&runtime);
    assert!(appended.failed.is_empty(), "{:?}", appended.failed);
    all_read(&runtime, &other);
    assert_read(&runtime, &other, &[first_seen, second_seen]);
    runtime.block_on(second.stop());
    runtime.block_on(async { tokio::join!(journal.close(), other.close()) });
}

#[test]
fn more_readers_than_partitions_are_said_to_be_idle() {
    let (kafka, runtime) = (shared(), runtime());
    let journals: Vec<_> = (0..2)
        .map(|_| runtime.block_on(open(&kafka, "idle", "partitions = 1")))
        .collect();
    let readings: Vec<_> = journals
        .iter()
        .map(|journal| Reading::start(runtime.handle(), journal))
        .collect();
    eventually(SOON, "one is idle", || {
        let idle = |journal: &&Arc<KafkaJournal>| {
            let warnings = journal.status().warnings;
            warnings
                .iter()
                .any(|warning| warning.contains("idle for route `r`"))
        };
        journals.iter().filter(idle).count() == 1
    });
    for reading in readings {
        runtime.block_on(reading.stop());
    }
}

/// A reader in a process of its own, which can be stopped. It is the test below, started with these.
struct Process(Child);

impl Process {
    fn start(kafka: &Kafka, topic: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reads_until_it_is_killed", "--ignored"])
            .env("KAFKA_JOURNAL_TEST", format!("{} {topic}", kafka.brokers()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "another test starts it"]
fn reads_until_it_is_killed() {
    let Ok(given) = std::env::var("KAFKA_JOURNAL_TEST") else {
        return;
    };
    let (brokers, topic) = given.split_once(' ').unwrap();
    let runtime = runtime();
    let journal = runtime.block_on(open_at(brokers, topic, ""));
    let reading = Reading::start(runtime.handle(), &journal);
    runtime.block_on(reading.task).unwrap();
}

#[test]
fn a_process_that_hangs_or_is_killed_loses_its_partitions_and_spoils_nothing() {
    use rustix::process::Signal;

    let (kafka, runtime) = (shared(), runtime());
    let journal = runtime.block_on(open(&kafka, "hung", ""));
    let appending = Appending::start(runtime.handle(), &journal, "a");
    let reading = Reading::start(runtime.handle(), &journal);
    eventually(SOON, "one reads all", || reading.partitions() == 12);
    let process = Process::start(&kafka, "hung");
    eventually(SOON, "two share", || reading.partitions() == 6);
    appending.wait_for(20);
    process.signal(Signal::STOP);
    let begun = Instant::now();
    eventually(SOON, "one reads all again", || reading.partitions() == 12);
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    appending.wait_for(20);
    process.signal(Signal::CONT);
    eventually(SOON, "two share again", || reading.partitions() == 6);
    appending.wait_for(20);
    drop(process);
    eventually(SOON, "one reads all in the end", || {
        reading.partitions() == 12
    });
    appending.wait_for(20);
    appending.stop(&runtime);
    all_read(&runtime, &journal);
    // What the other one read is not seen here: the pairs agree, and nothing is committed twice here.
    runtime.block_on(journal.refresh()).unwrap();
    for extent in journal.extents() {
        let commits = journal.commits("r");
        let committed = commits.iter().find(|one| one.partition == extent.partition);
        let state = committed.map_or_else(|| "0".into(), |one| one.state.clone());
        assert_eq!(state, extent.end.to_string());
    }
    runtime.block_on(reading.stop());
}

#[test]
fn events_that_retention_took_are_missing_and_said_to_be() {
    let (kafka, runtime) = (shared(), runtime());
    let journal = runtime.block_on(open(&kafka, "retention", "partitions = 1"));
    runtime
        .block_on(journal.append(numbered("a", 0, 300)))
        .unwrap();
    let delete_to = |to: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("retention", 0, Offset::Offset(to))
            .unwrap();
        let admin = admin(&kafka);
        let done = runtime.block_on(admin.delete_records(&list, &AdminOptions::new()));
        done.unwrap();
    };
    let (assignments, mut subscription) = runtime.block_on(async {
        let mut assignments = journal.subscribe("r").await.unwrap();
        let assignment = assignments.next().await.unwrap();
        let mut subscription = assignment.open().await.unwrap();
        let delivery = subscription.next(LIMIT).await.unwrap();
        assert_eq!(
            (delivery.first, delivery.end, delivery.missing),
            (0, 100, 0)
        );
        subscription.commit(delivery.id(), b"state").await.unwrap();
        ((assignments, assignment), subscription)
    });
    let too_much = runtime.block_on(subscription.commit(
        telemetryx_ingestion::journal::DeliveryId(100),
        &[b'x'; 5000],
    ));
    assert!(
        matches!(too_much, Err(JournalError::StateTooLarge { .. })),
        "{too_much:?}"
    );
    drop(subscription);
    // In the middle of what is not read yet, and then of all there is.
    delete_to(250);
    eventually(SOON, "it is seen", || {
        runtime.block_on(journal.refresh()).unwrap();
        journal.extents()[0].start == 250
    });
    let mut subscription = runtime.block_on(assignments.1.open()).unwrap();
    assert_eq!(
        (subscription.position(), subscription.state()),
        (100, &b"state"[..])
    );
    let (mut missing, mut events, mut gaps) = (0, 0, Vec::new());
    while missing + events < 200 {
        let delivery = runtime.block_on(subscription.next(LIMIT)).unwrap();
        missing += delivery.missing;
        events += delivery.events();
        gaps.extend(delivery.gaps.clone());
        runtime
            .block_on(subscription.commit(delivery.id(), b"more"))
            .unwrap();
    }
    assert_eq!((missing, events), (150, 50), "{gaps:?}");
    assert!(
        gaps[0].contains("removed before this route came to them"),
        "{gaps:?}"
    );
    runtime
        .block_on(journal.append(numbered("a", 300, 10)))
        .unwrap();
    drop(subscription);
    delete_to(310);
    let mut subscription = runtime.block_on(assignments.1.open()).unwrap();
    // There is nothing that could be read behind them.
    let delivery = runtime.block_on(subscription.next(LIMIT)).unwrap();
    assert_eq!(
        (delivery.first, delivery.end, delivery.missing),
        (300, 310, 10)
    );
    runtime
        .block_on(journal.append(numbered("a", 310, 10)))
        .unwrap();
    let delivery = runtime.block_on(subscription.next(LIMIT)).unwrap();
    assert_eq!((delivery.first, delivery.missing), (310, 0));
}

#[test]
fn a_scan_reads_any_range_and_a_time_is_found_again() {
    let (kafka, runtime) = (shared(), runtime());
    let journal = runtime.block_on(open(&kafka, "scanned", "partitions = 2"));
    let of_one = |from: usize| batch((from..from + 300).map(|n| ("s", format!("x-{n}"))));
    let first = runtime.block_on(journal.append(of_one(0))).unwrap();
    let partition = first.ranges[0].partition;
    let between = eventually_some(SOON, "a millisecond has passed", || {
        let now = clock::now();
        std::thread::sleep(Duration::from_millis(20));
        Some(Timestamp::from_unix_nanos(now.unix_nanos() + 10_000_000))
    });
    runtime.block_on(journal.append(of_one(300))).unwrap();
    let at = |time| {
        runtime
            .block_on(journal.offset_at(partition, time))
            .unwrap()
    };
    assert_eq!(at(Timestamp::UNIX_EPOCH), 0);
    assert_eq!(at(between), 300);
    let later = Timestamp::from_unix_nanos(clock::now().unix_nanos() + 3_600_000_000_000);
    assert_eq!(at(later), 600);
    // In parts, each where the last one ended.
    let (mut next, mut found) = (50, Vec::new());
    while next < 550 {
        let part = runtime
            .block_on(journal.scan(partition, next, 550, LIMIT))
            .unwrap();
        assert!((1..=100).contains(&part.events()), "{part:?}");
        found.extend(ids(&part));
        next = part.end;
    }
    let expected: Vec<_> = (50..550).map(|n| (n, format!("x-{n}"))).collect();
    assert_eq!(found, expected);
    let again = runtime
        .block_on(journal.scan(partition, 7, 9, LIMIT))
        .unwrap();
    assert_eq!(ids(&again), [(7, "x-7".to_owned()), (8, "x-8".to_owned())]);
}

#[test]
fn what_others_wrote_is_read_or_unreadable_and_stops_nothing() {
    let (kafka, runtime) = (shared(), runtime());
    let journal = runtime.block_on(open(&kafka, "foreign", "partitions = 1"));
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", kafka.brokers());
    let producer: BaseProducer = client.create().unwrap();
    let values = [
        Some(&b"no event"[..]),
        Some(br#"{"ts":"2026-01-02T03:04:05Z","type":"by.hand"}"#),
        None,
        Some(b"{}"),
    ];
    for value in values {
        let record = BaseRecord::<[u8], [u8]>::to("foreign").key(b"k");
        let record = value.into_iter().fold(record, BaseRecord::payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(SOON).unwrap();
    runtime
        .block_on(journal.append(numbered("a", 0, 3)))
        .unwrap();
    let delivery = runtime.block_on(async {
        let mut assignments = journal.subscribe("r").await.unwrap();
        let assignment = assignments.next().await.unwrap();
        let mut subscription = assignment.open().await.unwrap();
        let mut delivery = subscription.next(LIMIT).await.unwrap();
        while delivery.end < 7 {
            let more = subscription.next(LIMIT).await.unwrap();
            more.slices
                .into_iter()
                .for_each(|slice| delivery.push(slice));
        }
        delivery
    });
    assert_eq!((delivery.first, delivery.end, delivery.missing), (0, 7, 0));
    let mut unreadable = Vec::new();
    let cause = telemetryx_ingestion::route::Cause::Replay;
    let batch = delivery.decode(cause, Timestamp::UNIX_EPOCH, |offset, _| {
        unreadable.push(offset)
    });
    assert_eq!(unreadable, [0, 2, 3]);
    let names: Vec<_> = batch
        .events()
        .iter()
        .map(|event| event.id.to_string())
        .collect();
    assert_eq!(names, ["foreign-0-1", "a-0", "a-1", "a-2"]);
    assert!(delivery.encoded(0).unwrap().ends_with(b"no event"));
}

#[test]
fn a_topic_that_is_not_as_it_should_be_is_said_at_the_start() {
    let (kafka, runtime) = (shared(), runtime());
    let settings = [("cleanup.policy", "compact"), ("min.insync.replicas", "1")];
    kafka.create_topic("other", 3, &settings);
    let keys = "replication_factor = 3\nmin_insync_replicas = 2";
    let journal = runtime.block_on(open_at(&kafka.brokers(), "other", keys));
    // The control topic cannot be made so: one broker is not three.
    let status = journal.status();
    assert!(status.reason.unwrap().contains("other.control"));
    let journal = runtime.block_on(open(&kafka, "other", "min_insync_replicas = 1"));
    let warnings = journal.status().warnings.join("\n");
    for words in ["has 3 partitions", "is compacted"] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    assert_eq!(journal.extents().len(), 3);
    kafka.create_topic("weak", 12, &[("min.insync.replicas", "1")]);
    kafka.create_topic("weak.control", 1, &[("cleanup.policy", "compact")]);
    let journal = runtime.block_on(open(&kafka, "weak", keys));
    let warnings = journal.status().warnings.join("\n");
    for words in [
        "too few min.insync.replicas: 1 instead of 2",
        "has 1 replicas",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
}

#[test]
fn the_start_does_not_wait_for_kafka_and_all_goes_on_when_it_comes() {
    let (mut kafka, runtime) = (Kafka::start(), runtime());
    kafka.kill(0);
    let begun = Instant::now();
    let journal = runtime.block_on(open_at(
        &kafka.brokers(),
        "later",
        "delivery_timeout = '2s'",
    ));
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(!journal.status().is_ok());
    let begun = Instant::now();
    let refused = runtime.block_on(journal.append(numbered("a", 0, 1)));
    assert!(
        matches!(refused, Err(AppendError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(4));
    let reading = Reading::start(runtime.handle(), &journal);
    kafka.restart(0);
    eventually(SOON, "the journal is well", || journal.status().is_ok());
    runtime
        .block_on(journal.append(numbered("a", 0, 100)))
        .unwrap();
    eventually(SOON, "the route reads", || reading.count() == 100);
    runtime.block_on(reading.stop());
}

#[test]
fn a_topic_keeps_its_name_and_one_made_anew_has_another() {
    let (kafka, runtime) = (shared(), runtime());
    let first = runtime.block_on(open(&kafka, "named", "partitions = 2"));
    let second = runtime.block_on(open(&kafka, "named", "partitions = 2"));
    let name = first.identity();
    assert_ne!(name, 0);
    assert_eq!(second.identity(), name);
    runtime
        .block_on(second.append(numbered("a", 0, 10)))
        .unwrap();
    runtime.block_on(async { tokio::join!(first.close(), second.close()) });
    let again = runtime.block_on(open(&kafka, "named", "partitions = 2"));
    assert_eq!(again.identity(), name);
    runtime.block_on(again.close());
    kafka.delete_topic("named");
    let anew = runtime.block_on(open_at(&kafka.brokers(), "named", "partitions = 2"));
    eventually(SOON, "it is made anew, with another name", || {
        ![0, name].contains(&anew.identity()) && anew.status().is_ok()
    });
    let position = runtime.block_on(anew.append(numbered("b", 0, 10))).unwrap();
    assert_eq!(position.ranges[0].first, 0);
    // The same before the eyes of one who goes on.
    let name = anew.identity();
    kafka.delete_topic("named");
    eventually(SOON, "it has another name again", || {
        ![0, name].contains(&anew.identity()) && anew.status().is_ok()
    });
    runtime.block_on(anew.append(numbered("c", 0, 10))).unwrap();
}

#[test]
fn a_table_is_told_alike_to_all_in_one_order_and_outlives_an_outage() {
    let (mut kafka, runtime) = (Kafka::start(), runtime());
    let journals: Vec<_> = (0..2)
        .map(|_| runtime.block_on(open(&kafka, "tabled", "")))
        .collect();
    let tables: Vec<_> = journals
        .iter()
        .map(|journal| journal.table().unwrap())
        .collect();
    let put = |table: usize, name: &str, value: Option<&str>| {
        let value = value.map(|text| bytes::Bytes::copy_from_slice(text.as_bytes()));
        runtime.block_on(tables[table].put(vec![(name.to_owned(), value)]))
    };
    put(0, "a", Some("1")).unwrap();
    put(1, "b", Some("2")).unwrap();
    type Told = Arc<Mutex<Vec<TableChange>>>;
    let told = [Told::default(), Told::default()];
    let following: Vec<_> = tables
        .iter()
        .zip(&told)
        .map(|(table, told)| {
            let told = Arc::clone(told);
            let on = move |change| told.lock().unwrap().push(change);
            table.follow(Box::new(on)).unwrap()
        })
        .collect();
    let has = |told: &Told, change: &TableChange| told.lock().unwrap().contains(change);
    eventually(SOON, "both are up to date", || {
        told.iter().all(|told| has(told, &TableChange::UpToDate))
    });
    kafka.kill(0);
    kafka.restart(0);
    eventually(SOON, "it is written again", || {
        put(0, "c", Some("3")).is_ok()
    });
    let last = put(1, "a", None).unwrap();
    let removed = TableChange::Value {
        sequence: last,
        name: "a".to_owned(),
        value: None,
    };
    eventually(SOON, "both know the last", || {
        told.iter().all(|told| has(told, &removed))
    });
    let values = |told: &Told| {
        let told = told.lock().unwrap();
        let values = told
            .iter()
            .filter(|change| **change != TableChange::UpToDate);
        values.cloned().collect::<Vec<_>>()
    };
    assert_eq!(values(&told[0]), values(&told[1]));
    assert_eq!(
        told[0]
            .lock()
            .unwrap()
            .iter()
            .filter(|change| **change == TableChange::UpToDate)
            .count(),
        1
    );
    drop(following);
}

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
    for (round, total) in [(0, 200), (1, 400)] {
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
    let written = std::fs::read_to_string(out).unwrap();
    let mut ids: Vec<_> = written
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 400);
}
