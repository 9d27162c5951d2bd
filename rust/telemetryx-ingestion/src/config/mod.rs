//! Every setting of the service: its name, default, bounds and documentation.
//!
//! A section is a struct in a file of its own; the doc comments are the reference (`docs/configuration.md` is generated
//! from them). [`Config::load`] is the only way in: it says everything that is wrong at once, and what it returns is
//! valid, so nobody checks again. Nothing here starts, opens or connects anything.
//!
//! | file | what |
//! | --- | --- |
//! | `http.rs` … `dead_letters.rs` | one section each |
//! | `webhook_presets.rs`, `webhook_rules.rs` | what is known of senders; what must hold of a webhook |
//! | `plugins.rs` | what is chosen by name and keeps its own keys |
//! | `values/` | sizes, durations, secrets, names |
//! | `load.rs` | defaults, then the file, then the environment: [`Config::load`] |
//! | `tree.rs` | what was said, and where, in YAML or TOML |
//! | `env.rs` | what environment variables say |
//! | `shape.rs` | what may be said, read off the structs' schema |
//! | `check.rs` | whether what was said may be said |
//! | `later.rs` | settings that are promised and not here yet |
//! | `rules.rs` | what must hold between settings |
//! | `error.rs` | what is wrong |
//! | `reference.rs` | writes `docs/configuration.md` |

mod admin;
mod admission;
mod auth;
mod check;
mod dead_letters;
mod env;
mod error;
mod http;
mod journal;
mod journal_kafka;
mod journal_postgres;
mod later;
mod load;
mod otlp;
mod plugins;
mod processing;
mod query;
mod reference;
mod roles;
mod routes;
mod rules;
mod shape;
mod shutdown;
mod tcp;
mod tls;
mod tree;
mod validation;
mod values;
mod webhook_presets;
mod webhook_rules;
mod webhooks;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use admin::AdminConfig;
pub use admission::{
    AdmissionConfig, OverflowConfig, OverflowPolicy, RateLimitConfig, RateLimitPer,
};
pub use auth::{AuthConfig, KeyConfig};
pub use dead_letters::DeadLettersConfig;
pub use env::environment;
pub use error::{ConfigError, ConfigErrors};
pub use http::HttpConfig;
pub use journal::{EmbeddedConfig, Fsync, JournalConfig, JournalEngine, JournalRetainConfig};
pub use journal_kafka::{KafkaFormat, KafkaJournalConfig, KafkaSpill, KafkaTls};
pub use journal_postgres::{PostgresJournalConfig, PostgresTlsConfig};
pub use load::Language;
pub use otlp::OtlpConfig;
pub use plugins::{PluginConfig, SinkConfig};
pub use processing::ProcessingConfig;
pub use query::QueryConfig;
pub use reference::reference;
pub use roles::Role;
pub use routes::{Attempts, BatchConfig, BreakerConfig, FilterConfig, RetryConfig, RouteConfig};
pub use shutdown::ShutdownConfig;
pub use tcp::TcpConfig;
pub use tls::TlsConfig;
pub use validation::{OnInvalid, RequiredField, ValidationConfig};
pub use values::{ByteSize, Duration, KeyHash, MASK, RouteName, Secret, SourceName, ValueError};
pub use webhooks::{
    KeyEncoding, SignatureAlgorithm, SignatureEncoding, SignatureSeparator, TimeUnit, WebhookBody,
    WebhookConfig, WebhookPart, WebhookPreset,
};

/// Every setting of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of everything that is kept: journal, positions, stores, dead letters.
    ///
    /// Made if it is missing; a path that is not absolute starts at the working directory. One process at a time.
    ///
    /// Default: `./data`.
    pub data_dir: PathBuf,

    /// What this process does.
    ///
    /// Every process answers `/health`, `/status` and `/metrics`. The journal `embedded` is one process's: it takes in and
    /// delivers.
    ///
    /// Default: `[ingest, deliver, query]`.
    pub roles: Vec<Role>,

    /// The HTTP listener: `POST /ingest` and everything that can be asked.
    pub http: HttpConfig,

    /// Framed TCP: events without HTTP around them.
    pub tcp: TcpConfig,

    /// OTLP, the protocol of OpenTelemetry: logs, spans and metrics.
    pub otlp: OtlpConfig,

    /// Who may send.
    pub auth: AuthConfig,

    /// Senders that sign what they send, by name: `POST /webhooks/<name>`. No API key is asked of them.
    ///
    /// `ring`, `github`, `stripe`, `slack` and `standard-webhooks` are known and need nothing but their keys.
    ///
    /// Default: `{}`.
    pub webhooks: BTreeMap<String, WebhookConfig>,

    /// How much may come in at once, how fast, and what happens when routes fall behind.
    pub admission: AdmissionConfig,

    /// Which events may enter. One that may not is reported to its sender by index; the others of its batch enter.
    pub validation: ValidationConfig,

    /// What every route does to events before its sink.
    pub processing: ProcessingConfig,

    /// Where accepted events become durable.
    pub journal: JournalConfig,

    /// Where events go.
    ///
    /// Empty (`[]`): events are kept in the journal and go nowhere. A list that is given replaces the default as a whole.
    ///
    /// Default: route `stats` with sink `stats`, route `store` with sink `sqlite`.
    pub routes: Vec<RouteConfig>,

    /// Which route's store answers which question.
    pub query: QueryConfig,

    /// Who may see stored events and change what is delivered (`/events`, dead letters, replay).
    pub admin: AdminConfig,

    /// What is kept of events that were refused or could not be processed or delivered, until somebody looks.
    pub dead_letters: DeadLettersConfig,

    /// How the service ends on SIGINT or SIGTERM.
    pub shutdown: ShutdownConfig,
}

/// The default route that feeds `/stats`.
const STATS: &str = "stats";
/// The default route that feeds `/events`.
const STORE: &str = "store";

impl Default for Config {
    fn default() -> Self {
        let route =
            |name, kind| RouteConfig::new(RouteName::built_in(name), SinkConfig::of_kind(kind));
        Self {
            data_dir: PathBuf::from("./data"),
            roles: Role::ALL.to_vec(),
            http: HttpConfig::default(),
            tcp: TcpConfig::default(),
            otlp: OtlpConfig::default(),
            auth: AuthConfig::default(),
            webhooks: BTreeMap::new(),
            admission: AdmissionConfig::default(),
            validation: ValidationConfig::default(),
            processing: ProcessingConfig::default(),
            journal: JournalConfig::default(),
            routes: vec![route(STATS, "stats"), route(STORE, "sqlite")],
            query: QueryConfig {
                events_from: Some(RouteName::built_in(STORE)),
                counters_from: Some(RouteName::built_in(STATS)),
            },
            admin: AdminConfig::default(),
            dead_letters: DeadLettersConfig::default(),
            shutdown: ShutdownConfig::default(),
        }
    }
}

impl Config {
    /// True if this process does that.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The certificates of framed TCP, and the key that says them.
    #[must_use]
    pub fn tcp_tls(&self) -> (&'static str, &TlsConfig) {
        self.tls_of("tcp.tls", &self.tcp.tls)
    }

    /// A listener's own certificates, or else those of HTTP.
    fn tls_of<'c>(
        &'c self,
        key: &'static str,
        own: &'c TlsConfig,
    ) -> (&'static str, &'c TlsConfig) {
        if own.is_given() {
            (key, own)
        } else {
            ("http.tls", &self.http.tls)
        }
    }

    /// Every section that names certificates.
    #[must_use]
    pub fn tls_sections(&self) -> Vec<(&'static str, &TlsConfig)> {
        let all = [("http.tls", &self.http.tls), ("tcp.tls", &self.tcp.tls)];
        all.into_iter().filter(|(_, tls)| tls.is_given()).collect()
    }

    /// The addresses that take in events, each with its key and its certificates.
    fn doors(&self) -> Vec<(&'static str, IpAddr, &TlsConfig)> {
        let mut doors = vec![("http.host", self.http.host, &self.http.tls)];
        if self.tcp.port.is_some() {
            doors.push(("tcp.host", self.tcp.host, self.tcp_tls().1));
        }
        doors
    }

    /// True if somebody may send without an API key or a client certificate.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let asks = |(_, _, tls): &(_, _, &TlsConfig)| tls.client_ca_file.is_some();
        self.auth.keys.is_empty() && !self.doors().iter().all(asks)
    }
}
