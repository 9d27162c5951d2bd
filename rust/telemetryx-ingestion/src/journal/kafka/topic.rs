//! The topics: made if they are missing, checked if they are there.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;
use tokio::runtime::Handle;

use super::settings::Settings;
use crate::kafka::context::Said;
use crate::kafka::settings::words;

/// The largest message of a topic that is made here: an event of the largest size that a door may take, and some more.
const MESSAGE_BYTES_MAX: usize = 10 << 20;
/// What a topic takes if it cannot be asked: Kafka's own default.
pub(super) const MESSAGE_BYTES_USUAL: usize = 1_048_588;

/// A topic that keeps events for less is warned of.
const KEPT_MIN: Duration = Duration::from_secs(3600);

/// More than is said between two looks.
const SAID_AT_ONCE: usize = 64;

impl ConsumerContext for Said {}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) partitions: u32,
    /// The largest batch of messages that it takes.
    pub(super) message_bytes_max: usize,
    /// What is not as it should be.
    pub(super) warnings: Vec<String>,
}

/// A client that asks and is in no group.
pub(super) type Observer = BaseConsumer<Said>;

/// What a client that nobody polls has to say: why it cannot connect, for example. It would keep it for ever.
pub(super) fn hear<C: ConsumerContext>(observer: &BaseConsumer<C>) {
    for _ in 0..SAID_AT_ONCE {
        // It tells its context; what it gives back is the same.
        let _told = observer.poll(Duration::ZERO);
    }
}

/// What is known of a topic now. `None` if it is not there.
///
/// # Errors
/// Kafka's words.
pub(super) fn look_up<T>(
    observer: &Observer,
    name: &str,
    settings: &Settings,
    look: impl FnOnce(&MetadataTopic) -> T,
) -> Result<Option<T>, String> {
    let said = observer.client().context();
    let found = observer.fetch_metadata(Some(name), settings.patience());
    hear(observer);
    let found = found.map_err(|error| said.words(&error))?;
    said.is_fine();
    let Some(topic) = found.topics().first() else {
        return Ok(None);
    };
    match topic.error().map(RDKafkaErrorCode::from) {
        None if topic.partitions().is_empty() => Ok(None),
        None => Ok(Some(look(topic))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Ok(None)
        }
        Some(code) => Err(format!("topic `{name}`: {code}")),
    }
}

/// What is said of one that is not there.
pub(super) fn missing(name: &str) -> String {
    format!("there is no topic `{name}`: no service has run with it")
}

/// Makes the topics that are missing, and checks that of the events; blocks.
///
/// # Errors
/// Kafka's words; nothing is known then.
pub(super) fn prepare(
    observer: &Observer,
    settings: &Settings,
    runtime: &Handle,
) -> Result<Topic, String> {
    let client = settings.client()?;
    let admin: AdminClient<Said> = client
        .create_with_context(Said::by("journal-admin"))
        .map_err(words)?;
    let replicas = i32::try_from(settings.replicas).unwrap_or(i32::MAX);
    let in_sync = settings.in_sync_min.to_string();
    let largest = MESSAGE_BYTES_MAX.to_string();
    let partitions = i32::try_from(settings.partitions).unwrap_or(i32::MAX);
    let new = |name, partitions| {
        NewTopic::new(name, partitions, TopicReplication::Fixed(replicas))
            .set("min.insync.replicas", &in_sync)
            .set("max.message.bytes", &largest)
            // By the broker's clock: "accepted at or after" is exact, and a clock that jumps makes no message invalid.
            .set("message.timestamp.type", "LogAppendTime")
    };
    let events = new(&settings.topic, partitions).set("cleanup.policy", "delete");
    let control = new(&settings.control, 1)
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "16777216");
    for topic in [events, control] {
        if look_up(observer, topic.name, settings, |_| ())?.is_none() {
            if !settings.makes {
                return Err(missing(topic.name));
            }
            make(&admin, &topic, settings, runtime)?;
        }
    }
    let seen = look_up(observer, &settings.topic, settings, |topic| {
        let replicas = topic.partitions().iter().map(|one| one.replicas().len());
        (topic.partitions().len(), replicas.min().unwrap_or(0))
    })?;
    // Made a moment ago, and not known everywhere yet.
    let (partitions, replicas) = seen.ok_or("the topic is being made")?;
    let mut warnings = Vec::new();
    let (wanted, topic) = (settings.partitions as usize, &settings.topic);
    if partitions != wanted {
        warnings.push(format!(
            "topic `{topic}` has {partitions} partitions, journal.kafka.partitions is {wanted}: the topic counts"
        ));
    }
    if replicas < settings.replicas as usize {
        warnings.push(format!(
            "topic `{topic}` has {replicas} replicas, journal.kafka.replication_factor is {}: fewer brokers may be \
             lost than you think",
            settings.replicas
        ));
    }
    let mut message_bytes_max = MESSAGE_BYTES_USUAL;
    let unknown = |topic: &str, error| {
        format!("the settings of topic `{topic}` cannot be read, so nobody checks them: {error}")
    };
    match describe(&admin, topic, settings, runtime) {
        Ok(told) => {
            warnings.extend(doubts(topic, &told, settings, replicas));
            message_bytes_max = told
                .number("max.message.bytes")
                .unwrap_or(message_bytes_max);
        }
        Err(error) => warnings.push(unknown(topic, error)),
    }
    let control = &settings.control;
    match describe(&admin, control, settings, runtime) {
        Ok(told) => warnings.extend(doubts_of_control(control, &told)),
        Err(error) => warnings.push(unknown(control, error)),
    }
    Ok(Topic {
        partitions: u32::try_from(partitions).unwrap_or(u32::MAX),
        message_bytes_max,
        warnings,
    })
}

/// What is wrong with the settings of the topic of the events.
fn doubts(topic: &str, told: &Told, settings: &Settings, replicas: usize) -> Vec<String> {
    let mut doubts = Vec::new();
    let in_sync: usize = told.number("min.insync.replicas").unwrap_or(1);
    if in_sync < settings.in_sync_min as usize {
        doubts.push(format!(
            "topic `{topic}` has too few min.insync.replicas: {in_sync} instead of {}. An event may be acknowledged \
             that only {in_sync} of {replicas} brokers have; set min.insync.replicas of the topic",
            settings.in_sync_min
        ));
    }
    if in_sync > replicas {
        doubts.push(format!(
            "topic `{topic}` has {replicas} replicas and min.insync.replicas is {in_sync}: nothing can be written"
        ));
    }
    if let Some(policy) = told
        .text("cleanup.policy")
        .filter(|policy| policy.contains("compact"))
    {
        doubts.push(format!(
            "topic `{topic}` is compacted (cleanup.policy is `{policy}`): Kafka removes events whose key has a newer \
             one; set cleanup.policy=delete"
        ));
    }
    let kind = told.text("message.timestamp.type");
    if let Some(kind) = kind.filter(|kind| *kind != "LogAppendTime") {
        doubts.push(format!(
            "topic `{topic}` has message.timestamp.type `{kind}`: a replay from a time goes by the clocks of those who wrote; \
             set message.timestamp.type=LogAppendTime"
        ));
    }
    let most: Option<usize> = told.number("max.message.bytes");
    if let Some(most) = most.filter(|most| *most < MESSAGE_BYTES_USUAL) {
        doubts.push(format!(
            "topic `{topic}` takes messages of at most {most} bytes (max.message.bytes): larger events are refused with 413"
        ));
    }
    // -1 is for ever.
    let kept = told.number("retention.ms").map(Duration::from_millis);
    if let Some(kept) = kept.filter(|kept| *kept < KEPT_MIN) {
        doubts.push(format!(
            "topic `{topic}` keeps events for {} s only (retention.ms): a route that is behind for longer misses them",
            kept.as_secs()
        ));
    }
    doubts
}

/// What is wrong with the settings of the topic of what all processes must know.
fn doubts_of_control(topic: &str, told: &Told) -> Option<String> {
    let policy = told
        .text("cleanup.policy")
        .filter(|policy| *policy != "compact")?;
    Some(format!(
        "topic `{topic}` has cleanup.policy `{policy}`: in time Kafka removes what all processes must know, dead letters \
         among it; set cleanup.policy=compact"
    ))
}

fn options(settings: &Settings) -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(settings.patience()))
        .request_timeout(Some(settings.patience()))
}

fn make(
    admin: &AdminClient<Said>,
    topic: &NewTopic<'_>,
    settings: &Settings,
    runtime: &Handle,
) -> Result<(), String> {
    let options = options(settings);
    let made = runtime.block_on(admin.create_topics([topic], &options));
    let made = made.map_err(|error| admin.inner().context().words(&error))?;
    for result in made {
        match result {
            Ok(name) => tracing::info!(
                topic = name,
                partitions = topic.num_partitions,
                "the topic was missing and is made"
            ),
            // Somebody else was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                return Err(format!(
                    "topic `{name}` is missing and cannot be made: there are fewer brokers than \
                     journal.kafka.replication_factor, {}",
                    settings.replicas
                ));
            }
            Err((name, code)) => {
                return Err(format!(
                    "topic `{name}` is missing and cannot be made: {code}"
                ));
            }
        }
    }
    Ok(())
}

/// The settings of a topic, as Kafka tells them.
#[derive(Default)]
struct Told(HashMap<String, String>);

impl Told {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }
}

fn describe(
    admin: &AdminClient<Said>,
    topic: &str,
    settings: &Settings,
    runtime: &Handle,
) -> Result<Told, String> {
    let options = options(settings);
    let described =
        runtime.block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options));
    let described = described.map_err(|error| admin.inner().context().words(&error))?;
    let mut told = Told::default();
    for resource in described {
        let resource = resource.map_err(|code| code.to_string())?;
        for entry in resource.entries {
            told.0.extend(entry.value.map(|value| (entry.name, value)));
        }
    }
    Ok(told)
}
