//! `journal.kafka`: the journal in a topic of Apache Kafka.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::Config;
use super::error::ConfigError;
use super::journal::JournalEngine;
use super::plugins::{SinkConfig, mask, masked};
use super::rules::wrong;
use super::values::{ByteSize, Duration};

/// Settings of the engine `kafka`.
///
/// Each accepted event is a message, acknowledged by the brokers before its sender gets a 202. All processes with the same
/// `brokers`, `topic` and `group_prefix` are one fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaJournalConfig {
    /// Where Kafka is: `host:port` of one or more brokers. Needed with `engine: kafka`.
    ///
    /// Default: `[]`.
    #[schemars(extend("x-commas" = true))]
    pub brokers: Vec<String>,

    /// The topic that holds the events.
    ///
    /// Made if it is missing. Beside it, `<topic>.control` holds what all processes must know.
    ///
    /// Default: `telemetryx.events`.
    pub topic: String,

    /// Partitions of the topic when it is made: at most so many processes share the reading of one route.
    ///
    /// Of a topic that is there, another number is said at start and nothing is changed.
    ///
    /// Default: `12`. Bounds: `1` to `10000`.
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: u32,

    /// Brokers that have a copy of each event, when the topic is made. `3` survives the loss of one without a pause.
    ///
    /// Default: `1`. Bounds: `1` to `100`.
    #[schemars(range(min = 1, max = 100))]
    pub replication_factor: u32,

    /// Brokers that must have an event before its sender gets a 202.
    ///
    /// Empty: more than half of `replication_factor`, but 1 of 2. A topic that asks for fewer is said at start.
    ///
    /// Default: none. Bounds: `1` to `100`.
    #[schemars(range(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_insync_replicas: Option<u32>,

    /// What names of consumer groups begin with: a route's is `<group_prefix>.<route>`.
    ///
    /// Default: `telemetryx`.
    pub group_prefix: String,

    /// What the value of a message is. Both are read, whatever is set.
    ///
    /// Default: `protobuf`.
    pub format: KafkaFormat,

    /// How long a request waits for Kafka's acknowledgement. Then it is answered with 503.
    ///
    /// Its events may be in the topic all the same: when they are sent again, they are there twice, with the same id if
    /// the client gave one or an `Idempotency-Key`.
    ///
    /// Default: `10s`. Bounds: `100ms` to `5m`.
    #[schemars(extend("x-min" = "100ms", "x-max" = "5m"))]
    pub delivery_timeout: Duration,

    /// What becomes of events while Kafka is away.
    ///
    /// Default: `none`.
    pub spill: KafkaSpill,

    /// The most that is kept with `spill: embedded`. Over it, requests are answered with 503.
    ///
    /// It takes up to 32 MiB more of the disk, which are taken from the start.
    ///
    /// Default: `4GiB`. Bounds: `1MiB` to `1024TiB`.
    #[schemars(extend("x-min" = "1MiB", "x-max" = "1024TiB"))]
    pub spill_max_bytes: ByteSize,

    /// Properties of librdkafka, for producers and consumers, such as `sasl.username` or `compression.type`.
    ///
    /// `sasl.password_file` names a file with the password. What would break a promise is refused.
    ///
    /// Default: `{}`.
    pub options: KafkaOptions,

    /// TLS to the brokers; not given: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
}

impl Default for KafkaJournalConfig {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            topic: "telemetryx.events".to_owned(),
            partitions: 12,
            replication_factor: 1,
            min_insync_replicas: None,
            group_prefix: "telemetryx".to_owned(),
            format: KafkaFormat::Protobuf,
            delivery_timeout: Duration::secs(10),
            spill: KafkaSpill::None,
            spill_max_bytes: ByteSize::gib(4),
            options: KafkaOptions::default(),
            tls: None,
        }
    }
}

impl KafkaJournalConfig {
    /// Brokers that must have an event before it counts as durable.
    #[must_use]
    pub fn in_sync_min(&self) -> u32 {
        let majority = match self.replication_factor {
            2 => 1,
            replicas => replicas / 2 + 1,
        };
        self.min_insync_replicas.unwrap_or(majority)
    }
}

/// TLS to the brokers; not given: none. `{}` is TLS with the defaults.
///
/// All files are PEM. Brokers' certificates are always verified, with their names. The files are read when a client is
/// made, and again when Kafka cannot be used and one of them has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaTls {
    /// File with the certificates of the authorities that may have signed those of the brokers.
    ///
    /// Empty: the authorities that this machine trusts.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,

    /// File with our own certificate, and those between it and the root, for brokers that ask for one.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,

    /// File with the private key of the certificate. If it is encrypted, `options` say `ssl.key.password_file`.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// What the value of a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaFormat {
    /// `telemetryx.v1.Event` of `proto/events.proto`.
    #[default]
    Protobuf,
    /// A JSON object in the form of `POST /ingest` plus `received_at`: larger, slower, and readable.
    Json,
}

/// What becomes of events while Kafka is away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaSpill {
    /// They are refused with 503, once `delivery_timeout` is over.
    #[default]
    None,
    /// Processes with the role `ingest` keep them in a journal under `data_dir` and hand them to Kafka, in order, when it is
    /// back. A 202 means then that this machine's disk has the event (`"durability": "fsynced"`).
    Embedded,
}

/// Properties of librdkafka; whatever sounds like a secret is not shown.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KafkaOptions(#[serde(serialize_with = "masked")] pub toml::Table);

impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&mask(&self.0), f)
    }
}

impl JsonSchema for KafkaOptions {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KafkaOptions".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": {}, "additionalProperties": true })
    }
}

/// What must hold if this engine is chosen.
pub(super) fn settle(config: &Config, errors: &mut Vec<ConfigError>) {
    if config.journal.engine != JournalEngine::Kafka {
        return;
    }
    let kafka = &config.journal.kafka;
    if kafka.in_sync_min() > kafka.replication_factor {
        let message = format!(
            "{} is more than replication_factor, {}: no event could ever be acknowledged",
            kafka.in_sync_min(),
            kafka.replication_factor
        );
        let hint = "at most replication_factor, and one less to outlive the loss of a broker";
        wrong(errors, "journal.kafka.min_insync_replicas", message, hint);
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if kafka.group_prefix.is_empty() || !kafka.group_prefix.chars().all(legal) {
        let message = format!("`{}` cannot begin the name of a group", kafka.group_prefix);
        let hint = "letters of a-z, A-Z, 0-9, `.`, `_`, `-`";
        wrong(errors, "journal.kafka.group_prefix", message, hint);
    }
    for (place, route) in config.routes.iter().enumerate() {
        if writes_to(kafka, &route.sink) {
            let message = format!(
                "`{}` is the journal's own topic: every event would come again for ever",
                kafka.topic
            );
            let key = format!("routes[{place}].sink.topic");
            wrong(errors, key, message, "name another topic");
        }
    }
    client(kafka, errors);
}

/// True if the sink writes into the topic of the journal, as far as the names of the brokers tell.
fn writes_to(kafka: &KafkaJournalConfig, sink: &SinkConfig) -> bool {
    let text = |value: &toml::Value| value.as_str().map(str::to_owned);
    let topic = sink.rest.get("topic").and_then(text);
    let brokers = match sink.rest.get("brokers") {
        Some(toml::Value::Array(list)) => list.iter().filter_map(text).collect(),
        Some(one) => text(one).into_iter().collect::<Vec<_>>(),
        None => Vec::new(),
    };
    let mut brokers = brokers.iter().flat_map(|list| list.split(','));
    sink.kind == "kafka"
        && topic.as_ref() == Some(&kafka.topic)
        && brokers.any(|one| kafka.brokers.iter().any(|own| own == one.trim()))
}

#[cfg(feature = "kafka")]
fn client(kafka: &KafkaJournalConfig, errors: &mut Vec<ConfigError>) {
    for mistake in crate::journal::kafka::mistakes(kafka) {
        // Each begins with its key.
        let (key, message) = mistake
            .strip_prefix('`')
            .and_then(|rest| rest.split_once('`'))
            .unwrap_or(("", &mistake));
        errors.push(ConfigError {
            origin: None,
            key: format!("journal.kafka.{key}"),
            message: message.trim_start_matches([':', ' ']).to_owned(),
            hint: None,
        });
    }
}

#[cfg(not(feature = "kafka"))]
fn client(_: &KafkaJournalConfig, errors: &mut Vec<ConfigError>) {
    let message = "this build has no Kafka client".to_owned();
    let hint = "use a build with the cargo feature `kafka`, or another engine";
    wrong(errors, "journal.engine", message, hint);
}
