//! What the config says, checked, and what librdkafka is told.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;

use crate::config::{KafkaFormat, KafkaJournalConfig};
use crate::kafka::context::Said;
use crate::kafka::message::Format;
use crate::kafka::security::Fingerprint;
use crate::kafka::settings::{self, Connection};

/// The longest wait for one answer of Kafka that nobody's request waits for.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// What librdkafka puts into a batch if nobody says otherwise.
const BATCH_BYTES: usize = 1_000_000;

/// Options that the journal does not take, each with what is right.
const REFUSED: [(&str, &str); 16] = [
    ("message.timeout.ms", "use `delivery_timeout`"),
    (
        "message.send.max.retries",
        "events are sent until `delivery_timeout`",
    ),
    ("transactional.id", "the journal makes no transactions"),
    ("group.id", "use `group_prefix`"),
    (
        "group.instance.id",
        "two processes with the same config would be one member",
    ),
    (
        "group.protocol",
        "positions are handed over as `classic` does it",
    ),
    (
        "partition.assignment.strategy",
        "partitions are handed over one by one",
    ),
    (
        "enable.auto.commit",
        "a position is saved once events are delivered",
    ),
    (
        "enable.auto.offset.store",
        "a position is saved once events are delivered",
    ),
    (
        "auto.offset.reset",
        "a new route begins at the oldest event held",
    ),
    ("isolation.level", "what was taken back is not delivered"),
    (
        "enable.partition.eof",
        "the journal sets it where it is needed",
    ),
    ("allow.auto.create.topics", "the journal makes its topics"),
    ("message.max.bytes", "it is that of the topic"),
    (
        "queue.buffering.max.messages",
        "use `queue.buffering.max.kbytes`",
    ),
    ("batch.num.messages", "use `batch.size`"),
];

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) topic: String,
    /// The topic of what all processes must know.
    pub(super) control: String,
    pub(super) group_prefix: String,
    pub(super) partitions: u32,
    pub(super) replicas: u32,
    pub(super) in_sync_min: u32,
    pub(super) format: Format,
    pub(super) delivery_timeout: Duration,
    /// False: topics that are missing are not made.
    pub(super) makes: bool,
    connection: Connection,
}

impl Settings {
    /// Reads and checks them; nothing is reached.
    ///
    /// # Errors
    /// Every mistake, each with its key in front.
    pub(super) fn read(config: &KafkaJournalConfig) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let brokers =
            (!config.brokers.is_empty()).then(|| settings::Brokers::List(config.brokers.clone()));
        let brokers = settings::brokers(brokers, &mut mistakes);
        let topic = settings::topic(Some(config.topic.clone()), &mut mistakes);
        let control = format!("{topic}.control");
        if mistakes.is_empty() {
            settings::topic(Some(control.clone()), &mut mistakes);
        }
        let delivery_timeout: Duration = config.delivery_timeout.into();
        let options: BTreeMap<_, _> = config.options.0.clone().into_iter().collect();
        let defaults = defaults(delivery_timeout);
        let tls = config.tls.as_ref();
        let connection = Connection::new(&brokers, tls, defaults, options, &REFUSED, &mut mistakes);
        let settings = Self {
            topic,
            control,
            group_prefix: config.group_prefix.clone(),
            partitions: config.partitions,
            replicas: config.replication_factor,
            in_sync_min: config.in_sync_min(),
            format: match config.format {
                KafkaFormat::Protobuf => Format::Protobuf,
                KafkaFormat::Json => Format::Json,
            },
            delivery_timeout,
            makes: true,
            connection,
        };
        if mistakes.is_empty() {
            // What only a consumer minds. It knows no broker, so it reaches none.
            let trial = settings.reading(Some("trial")).and_then(|mut trial| {
                trial.remove("bootstrap.servers");
                let made = trial.create_with_context::<_, BaseConsumer<_>>(Said::by("trial"));
                made.map(drop).map_err(settings::words)
            });
            if let Err(error) = trial {
                mistakes.push(format!("`options`: {error}"));
            }
        }
        if mistakes.is_empty() {
            Ok(settings)
        } else {
            Err(mistakes)
        }
    }

    /// The longest wait for one answer.
    pub(super) fn patience(&self) -> Duration {
        self.delivery_timeout.min(ANSWER_WAIT_MAX)
    }

    /// The group of a route.
    pub(super) fn group(&self, route: &str) -> String {
        format!("{}.{route}", self.group_prefix)
    }

    /// What any client is told; files with passwords and authorities are read again.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub(super) fn client(&self) -> Result<ClientConfig, String> {
        self.connection.client()
    }

    /// Of the passwords and certificates that a client made now would have.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.connection.fingerprint()
    }

    /// What the producer is told, for topics that take messages of up to so many bytes.
    ///
    /// # Errors
    /// As of [`Self::client`].
    pub(super) fn producing(&self, message_bytes_max: usize) -> Result<ClientConfig, String> {
        let mut client = self.client()?;
        client
            .set(
                "message.timeout.ms",
                self.delivery_timeout.as_millis().to_string(),
            )
            .set("message.max.bytes", message_bytes_max.to_string())
            // The journal makes its topics, and not as brokers do by themselves.
            .set("allow.auto.create.topics", "false")
            .set("queue.buffering.max.messages", "0");
        // What is sent together is one message to the topic's limit.
        let given = client
            .get("batch.size")
            .and_then(|bytes| bytes.parse::<usize>().ok());
        let batch_bytes = given.unwrap_or(BATCH_BYTES).min(message_bytes_max);
        client.set("batch.size", batch_bytes.to_string());
        Ok(client)
    }

    /// What a consumer is told, in that group if it is in one.
    ///
    /// # Errors
    /// As of [`Self::client`].
    pub(super) fn reading(&self, group: Option<&str>) -> Result<ClientConfig, String> {
        let mut client = self.client()?;
        for (name, value) in [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("allow.auto.create.topics", "false"),
        ] {
            client.set(name, value);
        }
        if let Some(group) = group {
            client.set("group.id", group);
        }
        Ok(client)
    }
}

/// What holds unless `options` say otherwise.
fn defaults(timeout: Duration) -> ClientConfig {
    let mut client = settings::defaults("journal", timeout);
    for (name, value) in [
        ("compression.codec", "lz4"),
        ("queue.buffering.max.ms", "1"),
        ("queue.buffering.max.kbytes", "65536"),
        ("batch.num.messages", "100000"),
        // A process that is gone is known to be after so long.
        ("session.timeout.ms", "10000"),
        // So soon after the group changes each process knows of it.
        ("heartbeat.interval.ms", "1000"),
        // Of each partition that a route reads, so much is held ready: memory is bounded by routes times partitions.
        ("queued.max.messages.kbytes", "1024"),
        ("max.partition.fetch.bytes", "262144"),
        ("fetch.max.bytes", "8388608"),
        ("fetch.queue.backoff.ms", "5"),
        ("fetch.error.backoff.ms", "100"),
        ("fetch.wait.max.ms", "100"),
        ("check.crcs", "true"),
        // How soon partitions that were added are read.
        ("topic.metadata.refresh.interval.ms", "10000"),
    ] {
        client.set(name, value);
    }
    client
}
