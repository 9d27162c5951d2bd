//! `journal.postgres`: the journal in tables of PostgreSQL.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use super::error::ConfigError;
use super::journal::{JournalEngine, JournalRetainConfig};
use super::values::{ByteSize, Duration, Secret};

/// Settings of the engine `postgres`.
///
/// Each accepted event is committed in a table before its sender gets a 202. All processes with the same database and
/// `schema` are one fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresJournalConfig {
    /// Where PostgreSQL is: `postgres://user:password@host:5432/database`. Needed with `engine: postgres`, or `url_file`.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,

    /// File that holds the URL, in place of `url`; read again before each connection.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,

    /// File that holds the password, if the URL has none; read again before each connection.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,

    /// TLS to the server; any key set, or `sslmode=require` in the URL, turns it on.
    pub tls: PostgresTlsConfig,

    /// The schema that holds the tables of the journal. Made if it is missing.
    ///
    /// Default: `telemetryx_journal`.
    pub schema: String,

    /// Partitions of the journal when it is made: at most so many processes share the reading of one route.
    ///
    /// Of a journal that is there, another number is said at start and nothing is changed.
    ///
    /// Default: `4`. Bounds: `1` to `128`.
    #[schemars(range(min = 1, max = 128))]
    pub partitions: u32,

    /// Most events that the slowest route may have before it: the default of `admission.overflow.max_backlog_events`.
    ///
    /// Default: `1000`. Bounds: from `1`.
    #[schemars(range(min = 1))]
    pub max_backlog: u64,

    /// How often to look for what no notification told of.
    ///
    /// Default: `100ms`. Bounds: `5ms` to `1m`.
    #[schemars(extend("x-min" = "5ms", "x-max" = "1m"))]
    pub poll_interval: Duration,

    /// How long a process that says nothing keeps the partitions that it reads. It says something every quarter of this.
    ///
    /// Default: `10s`. Bounds: `1s` to `10m`.
    #[schemars(extend("x-min" = "1s", "x-max" = "10m"))]
    pub lease: Duration,

    /// How long a request waits for its commit. Then it is answered with 503.
    ///
    /// Its events may be in the table all the same: when they are sent again, they are there twice, with the same id if
    /// the client gave one or an `Idempotency-Key`.
    ///
    /// Default: `10s`. Bounds: `100ms` to `5m`.
    #[schemars(extend("x-min" = "100ms", "x-max" = "5m"))]
    pub delivery_timeout: Duration,

    /// Size of one piece of the queue, a table of its own.
    ///
    /// Space is given back in steps of it: a piece that is not needed any more is dropped whole.
    ///
    /// Default: `128MiB`. Bounds: `64KiB` to `64GiB`.
    #[schemars(extend("x-min" = "64KiB", "x-max" = "64GiB"))]
    pub piece_size: ByteSize,

    /// How long events stay for replay once every route has passed them; one that a route still needs always stays.
    pub retain: JournalRetainConfig,
}

impl Default for PostgresJournalConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            password_file: None,
            tls: PostgresTlsConfig::default(),
            schema: "telemetryx_journal".to_owned(),
            partitions: 4,
            max_backlog: 1000,
            poll_interval: Duration::millis(100),
            lease: Duration::secs(10),
            delivery_timeout: Duration::secs(10),
            piece_size: ByteSize::mib(128),
            retain: JournalRetainConfig::default(),
        }
    }
}

/// TLS to the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresTlsConfig {
    /// Authorities that may have signed the server's certificate. Empty: those of the system.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,

    /// Our own certificate, for a server that asks for one.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,

    /// The key of `cert_file`.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// What must hold if this engine is chosen.
pub(super) fn settle(config: &Config, errors: &mut Vec<ConfigError>) {
    if config.journal.engine != JournalEngine::Postgres {
        return;
    }
    if let Some(mistake) = crate::journal::postgres::mistake(&config.journal.postgres) {
        // It begins with its key.
        let (key, message) = mistake
            .strip_prefix('`')
            .and_then(|rest| rest.split_once('`'))
            .unwrap_or(("url", &mistake));
        errors.push(ConfigError {
            origin: None,
            key: format!("journal.postgres.{key}"),
            message: message.trim_start_matches([':', ' ']).to_owned(),
            hint: None,
        });
    }
}
