//! `journal`: where accepted events become durable.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::journal_kafka::KafkaJournalConfig;
use super::journal_postgres::PostgresJournalConfig;
use super::values::{ByteSize, Duration};

/// Where accepted events become durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Which journal is used.
    ///
    /// Default: `embedded`.
    pub engine: JournalEngine,

    /// The journal in files under `data_dir`.
    pub embedded: EmbeddedConfig,

    /// The journal in a topic of Apache Kafka, which many processes may share.
    pub kafka: KafkaJournalConfig,

    /// The journal in tables of PostgreSQL, which several processes may share.
    pub postgres: PostgresJournalConfig,
}

/// Which journal is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JournalEngine {
    /// Files under `data_dir`: one machine, nothing to install.
    #[default]
    Embedded,
    /// A topic of Apache Kafka: any number of processes on any number of machines.
    Kafka,
    /// Tables of PostgreSQL: several processes, for those who have a database and no Kafka.
    Postgres,
}

impl JournalEngine {
    /// True if several processes use one journal.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self != Self::Embedded
    }
}

/// Settings of the engine `embedded`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// When an event counts as durable, and so what a power cut can take.
    ///
    /// Default: `always`.
    pub fsync: Fsync,

    /// Time between two syncs with `fsync: interval`: the most that a power cut can take.
    ///
    /// Without effect with `fsync: always`.
    ///
    /// Default: `100ms`. Bounds: `1ms` to `1m`.
    #[schemars(extend("x-min" = "1ms", "x-max" = "1m"))]
    pub fsync_interval: Duration,

    /// Size of one file of the journal.
    ///
    /// Space is taken and given back in steps of it.
    ///
    /// Default: `128MiB`. Bounds: `64KiB` to `2GiB`.
    #[schemars(extend("x-min" = "64KiB", "x-max" = "2GiB"))]
    pub segment_size: ByteSize,

    /// How long events stay for replay once every route has passed them; one that a route still needs always stays.
    pub retain: JournalRetainConfig,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            fsync: Fsync::Always,
            fsync_interval: Duration::millis(100),
            segment_size: ByteSize::mib(128),
            retain: JournalRetainConfig::default(),
        }
    }
}

/// When an event counts as durable, and so what a power cut can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// A 202 means that the event is synced to the disk. Neither a crash nor a power cut loses one; requests that wait
    /// share one sync.
    Always,
    /// A 202 means that the event is written but perhaps not yet synced. A crash of the process loses nothing; **a power
    /// cut or a crash of the machine loses what was acknowledged in the last `fsync_interval`**.
    Interval,
}

/// How long events stay once every route has passed them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JournalRetainConfig {
    /// Bytes of journal to keep.
    ///
    /// Over it, the oldest segments that every route has passed are removed.
    ///
    /// Default: `4GiB`. Bounds: `0B` to `1024TiB`.
    #[schemars(extend("x-min" = "0B", "x-max" = "1024TiB"))]
    pub bytes: ByteSize,

    /// Age up to which events are kept.
    ///
    /// Segments whose events are all older are removed once every route has passed them. Empty: age does not count.
    ///
    /// Default: none. Bounds: `1s` to `36500d`.
    #[schemars(extend("x-min" = "1s", "x-max" = "36500d"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Duration>,
}

impl Default for JournalRetainConfig {
    fn default() -> Self {
        Self {
            bytes: ByteSize::gib(4),
            age: None,
        }
    }
}
