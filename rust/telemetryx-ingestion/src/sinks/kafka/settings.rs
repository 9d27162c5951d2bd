//! What the config says, checked, and what librdkafka is told.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rdkafka::config::ClientConfig;
use serde::Deserialize;
use toml::Value;

use crate::config::{Duration, KafkaTls};
use crate::kafka::message::Format;
use crate::kafka::security::Fingerprint;
use crate::kafka::settings::{self, Brokers, Connection};
use crate::plugin::{PluginError, settings};
use crate::sinks::timeout;

/// What librdkafka puts into a batch if nobody says otherwise.
const BATCH_BYTES: u32 = 1_000_000;
const BATCH_BYTES_MIN: u32 = 1_000;
const TIMEOUT: Duration = Duration::secs(10);
const TIMEOUTS: RangeInclusive<Duration> = Duration::millis(100)..=Duration::minutes(5);

/// Options that the sink does not take, each with what is right.
const REFUSED: [(&str, &str); 3] = [
    (
        "message.timeout.ms",
        "events are sent until they are acknowledged; `timeout` is how long the route waits before it says that Kafka is down",
    ),
    (
        "message.send.max.retries",
        "events are sent until they are acknowledged",
    ),
    (
        "transactional.id",
        "the sink makes no transactions: consumers tell a redelivery by the id",
    ),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KafkaConfig {
    brokers: Option<Brokers>,
    topic: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    options: BTreeMap<String, Value>,
    timeout: Option<Duration>,
    tls: Option<KafkaTls>,
}

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) topic: String,
    pub(super) format: Format,
    pub(super) timeout: std::time::Duration,
    connection: Connection,
}

impl Settings {
    /// Reads and checks them, for this route; nothing is reached.
    ///
    /// # Errors
    /// [`PluginError`] with every mistake and its key.
    pub(super) fn read(parameters: Value, route: &str) -> Result<Self, PluginError> {
        let config: KafkaConfig = settings(parameters)?;
        let mut mistakes = Vec::new();
        let brokers = settings::brokers(config.brokers, &mut mistakes);
        let topic = settings::topic(config.topic, &mut mistakes);
        let timeout = timeout::checked("timeout", config.timeout, TIMEOUT, TIMEOUTS);
        let timeout = timeout.unwrap_or_else(|error| {
            mistakes.push(error);
            TIMEOUT.into()
        });
        let defaults = defaults(route, timeout);
        let options = config.options;
        let tls = config.tls.as_ref();
        let connection = Connection::new(&brokers, tls, defaults, options, &REFUSED, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(PluginError::Several(mistakes));
        }
        Ok(Self {
            topic,
            format: config.format,
            timeout,
            connection,
        })
    }

    /// What librdkafka is told now: files with passwords and authorities are read again.
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
}

/// What holds unless `options` say otherwise.
fn defaults(route: &str, timeout: std::time::Duration) -> ClientConfig {
    let mut client = settings::defaults(route, timeout);
    for (name, value) in [
        // A message that fails stops the producer: none of its key overtakes it.
        ("enable.gapless.guarantee", "true"),
        ("message.timeout.ms", "0"),
        ("compression.codec", "zstd"),
        ("queue.buffering.max.kbytes", "65536"),
    ] {
        client.set(name, value);
    }
    client
}

/// Makes batches smaller, to a quarter so many `times`.
pub(super) fn shrink(client: &mut ClientConfig, times: u32) {
    let bytes = client
        .get("batch.size")
        .and_then(|bytes| bytes.parse::<u32>().ok());
    let smaller = bytes.unwrap_or(BATCH_BYTES) >> (2 * times).min(16);
    if times > 0 {
        client.set("batch.size", smaller.max(BATCH_BYTES_MIN).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &str) -> Result<ClientConfig, PluginError> {
        let text = format!("brokers = 'a'\ntopic = 't'\noptions = {{ {options} }}");
        let settings = Settings::read(Value::Table(text.parse().unwrap()), "r")?;
        Ok(settings.client().unwrap())
    }

    #[test]
    fn what_is_given_wins_under_each_of_its_names() {
        for (option, name, value) in [
            ("'linger.ms' = 77", "linger.ms", "77"),
            ("'queue.buffering.max.ms' = 77", "linger.ms", "77"),
            ("'compression.type' = 'none'", "compression.codec", "none"),
            ("'compression.codec' = 'none'", "compression.type", "none"),
            ("", "compression.type", "zstd"),
        ] {
            // The order in which settings are handed to librdkafka is another one each time.
            for _ in 0..20 {
                let native = read(option).unwrap().create_native_config().unwrap();
                assert_eq!(native.get(name).unwrap(), value, "{option}");
            }
        }
        let twice = read("'linger.ms' = 1, 'queue.buffering.max.ms' = 1").unwrap_err();
        assert!(
            twice.to_string().contains("`linger.ms` is the same"),
            "{twice}"
        );
        for refused in [
            "acks",
            "request.required.acks",
            "retries",
            "message.send.max.retries",
        ] {
            let why = read(&format!("'{refused}' = 1")).unwrap_err().to_string();
            assert!(
                why.contains(&format!("`options.{refused}`: it can")),
                "{why}"
            );
        }
    }
}
