//! Where Kafka is, and what librdkafka is told: `brokers`, `topic` and `options`, checked.

use std::collections::BTreeMap;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use serde::Deserialize;
use toml::Value;

use super::security::{self, Fingerprint, Security};
use crate::config::KafkaTls;

/// librdkafka takes no shorter one.
const CONNECT_MILLIS_MIN: u128 = 1_000;
/// Kafka's own limit.
const TOPIC_BYTES_MAX: usize = 249;

/// Options that librdkafka knows by two names, each with the one that is used here.
const ALIASES: [(&str, &str); 8] = [
    ("acks", "request.required.acks"),
    ("bootstrap.servers", "metadata.broker.list"),
    ("compression.type", "compression.codec"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("retries", "message.send.max.retries"),
    ("sasl.mechanism", "sasl.mechanisms"),
];

/// Options that would break a promise, or that are said elsewhere, each with what is right.
const REFUSED: [(&str, &str); 7] = [
    ("metadata.broker.list", "use `brokers`"),
    (
        "enable.gapless.guarantee",
        "without it an event could overtake another of its key",
    ),
    (
        "queuing.strategy",
        "events of one key are sent in their order",
    ),
    ("plugin.library.paths", "no library is loaded"),
    (
        "test.mock.num.brokers",
        "events would go to a broker that is none",
    ),
    ("log.queue", "the service reads the log itself"),
    ("log_level", "set `RUST_LOG=librdkafka=debug`"),
];

/// Options that may be given only with the value that they have.
const FIXED: [(&str, &[&str], &str); 2] = [
    (
        "request.required.acks",
        &["all", "-1"],
        "an event counts as delivered when all replicas in sync have it",
    ),
    (
        "enable.idempotence",
        &["true"],
        "without it a retry could double an event or change the order",
    ),
];

/// Brokers, as a list or as a text with commas.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Brokers {
    Text(String),
    List(Vec<String>),
}

/// Options that somebody does not take, each with what is right.
pub(crate) type Refused = [(&'static str, &'static str)];

/// How to connect: the settings of a client, checked.
#[derive(Debug)]
pub(crate) struct Connection {
    client: ClientConfig,
    security: Security,
}

impl Connection {
    /// Puts `options` over these defaults, whose names are the [real](real_name) ones. What is wrong with them is told to
    /// `mistakes`; nothing is reached.
    pub(crate) fn new(
        brokers: &str,
        tls: Option<&KafkaTls>,
        defaults: ClientConfig,
        mut options: BTreeMap<String, Value>,
        refused: &Refused,
        mistakes: &mut Vec<String>,
    ) -> Self {
        let before = mistakes.len();
        let mut security = Security::take(&mut options, mistakes);
        let mut client = defaults;
        let mut given = BTreeMap::new();
        for (name, value) in &options {
            let real = real_name(name);
            if let Some(other) = given.insert(real, name) {
                mistakes.push(format!(
                    "`options.{name}`: `{other}` is the same: leave one out"
                ));
            }
            match option(real, value, refused) {
                Ok(text) => {
                    client.set(real, text);
                }
                Err(why) => mistakes.push(format!("`options.{name}`: {why}")),
            }
        }
        if mistakes.len() == before {
            security.settle(&mut client, tls, mistakes);
        }
        let mut this = Self { client, security };
        if mistakes.len() == before {
            // What only shows in their combination. It knows no broker yet, so it reaches none.
            let trial = this.client();
            let trial = trial.and_then(|trial| trial.create::<BaseProducer>().map_err(words));
            if let Err(error) = trial {
                mistakes.push(format!("`options`: {error}"));
            }
        }
        this.client.set("bootstrap.servers", brokers);
        this
    }

    /// What librdkafka is told now: files with passwords and authorities are read again.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub(crate) fn client(&self) -> Result<ClientConfig, String> {
        let mut client = self.client.clone();
        self.security.tell(&mut client)?;
        Ok(client)
    }

    /// Of the passwords and certificates that a client made now would have.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.security.fingerprint()
    }
}

/// What holds for every client of ours, whose answers are waited for as long as this.
pub(crate) fn defaults(name: &str, timeout: std::time::Duration) -> ClientConfig {
    let millis = timeout.as_millis();
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in [
        ("client.id", format!("telemetryx-{name}")),
        ("socket.timeout.ms", millis.to_string()),
        (
            "socket.connection.setup.timeout.ms",
            millis.max(CONNECT_MILLIS_MIN).to_string(),
        ),
        ("socket.nagle.disable", "true".to_owned()),
        ("reconnect.backoff.max.ms", "1000".to_owned()),
        // How long a topic that is not there may be about to be made.
        (
            "topic.metadata.propagation.max.ms",
            (millis / 2).to_string(),
        ),
        ("log.connection.close", "false".to_owned()),
        ("request.required.acks", "all".to_owned()),
        ("enable.idempotence", "true".to_owned()),
        // That of Kafka's own clients: the same key is in the same partition.
        ("partitioner", "murmur2_random".to_owned()),
        ("queue.buffering.max.ms", "2".to_owned()),
        ("request.timeout.ms", (millis / 2).to_string()),
    ] {
        client.set(name, value);
    }
    client
}

/// The name that is used here: what is set under one name must not also be set under another, since then either may win.
fn real_name(name: &str) -> &str {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    alias.map_or(name, |(_, real)| real)
}

pub(crate) fn brokers(given: Option<Brokers>, mistakes: &mut Vec<String>) -> String {
    let list = match given {
        None => {
            mistakes.push(
                "`brokers` is missing: `[kafka-1:9092, kafka-2:9092]`, for example".to_owned(),
            );
            return String::new();
        }
        Some(Brokers::Text(text)) => text.split(',').map(|one| one.trim().to_owned()).collect(),
        Some(Brokers::List(list)) => list,
    };
    if list.is_empty() {
        mistakes.push("`brokers` is empty: name at least one".to_owned());
    }
    for broker in &list {
        let (host, port) = broker.rsplit_once(':').unwrap_or((broker, "9092"));
        let plain = !host.is_empty() && !host.contains(['/', ',', ' ']);
        if !plain || port.parse::<u16>().is_ok_and(|port| port == 0) || port.parse::<u16>().is_err()
        {
            mistakes.push(format!(
                "`brokers`: `{broker}` is not `host` or `host:port`"
            ));
        }
    }
    list.join(",")
}

pub(crate) fn topic(given: Option<String>, mistakes: &mut Vec<String>) -> String {
    let Some(topic) = given else {
        mistakes.push("`topic` is missing".to_owned());
        return String::new();
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let named =
        (1..=TOPIC_BYTES_MAX).contains(&topic.len()) && !matches!(topic.as_str(), "." | "..");
    if !named || !topic.chars().all(legal) {
        mistakes.push(format!(
            "`topic`: `{topic}` is no name of a topic: 1 to {TOPIC_BYTES_MAX} letters of a-z, A-Z, 0-9, `.`, `_`, `-`"
        ));
    }
    topic
}

/// The value of an option, by its [real](real_name) name, as text, if librdkafka takes it and it breaks no promise.
fn option(name: &str, value: &Value, refused: &Refused) -> Result<String, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        other => {
            return Err(format!(
                "it is of type {}, not a text, number or boolean",
                other.type_str()
            ));
        }
    };
    let mut all = REFUSED.iter().chain(refused);
    if let Some((_, right)) = all.find(|(refused, _)| *refused == name) {
        return Err(format!("it cannot be set: {right}"));
    }
    if let Some((_, values, why)) = FIXED.iter().find(|(fixed, ..)| *fixed == name)
        && !values.contains(&text.as_str())
    {
        return Err(format!("it can only be `{}`: {why}", values[0]));
    }
    if let Some(why) = security::refusal(name, &text) {
        return Err(why);
    }
    let mut alone = ClientConfig::new();
    alone.set(name, &text);
    alone.create_native_config().map_err(words)?;
    Ok(text)
}

/// librdkafka's words, without the value, which may be a secret.
pub(crate) fn words(error: KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, words, ..) | KafkaError::ClientCreation(words) => words,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_an_option_are_one_to_librdkafka() {
        for (alias, real) in ALIASES {
            let value = ["3", "a:1", "lz4", "PLAIN"].into_iter().find(|value| {
                let mut client = ClientConfig::new();
                client.set(alias, *value);
                let native = client.create_native_config();
                native.is_ok_and(|native| native.get(real).is_ok_and(|found| found == *value))
            });
            assert!(value.is_some(), "{alias} is not {real}");
        }
    }
}
