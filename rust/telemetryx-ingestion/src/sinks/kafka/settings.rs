//! What the config says, checked, and what librdkafka is told.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use serde::Deserialize;
use toml::Value;

use super::message::Format;
use crate::config::{Duration, Secret};
use crate::plugin::{PluginError, settings};
use crate::sinks::secret::SinkSecret;
use crate::sinks::timeout;

/// Kafka's own limit.
const TOPIC_BYTES_MAX: usize = 249;
/// What librdkafka puts into a batch if nobody says otherwise.
const BATCH_BYTES: u32 = 1_000_000;
const BATCH_BYTES_MIN: u32 = 1_000;
const TIMEOUT: Duration = Duration::secs(10);
const TIMEOUTS: RangeInclusive<Duration> = Duration::millis(100)..=Duration::minutes(5);
/// librdkafka takes no shorter one.
const CONNECT_MILLIS_MIN: u128 = 1_000;

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
const REFUSED: [(&str, &str); 12] = [
    ("metadata.broker.list", "use `brokers`"),
    (
        "message.timeout.ms",
        "events are sent until they are acknowledged; `timeout` is how long the route waits before it says that Kafka is down",
    ),
    (
        "message.send.max.retries",
        "events are sent until they are acknowledged",
    ),
    (
        "enable.gapless.guarantee",
        "without it an event could overtake another of its key",
    ),
    (
        "queuing.strategy",
        "events of one key are sent in their order",
    ),
    (
        "transactional.id",
        "the sink makes no transactions: consumers tell a redelivery by the id",
    ),
    ("plugin.library.paths", "no library is loaded"),
    (
        "test.mock.num.brokers",
        "events would go to a broker that is none",
    ),
    ("sasl.kerberos.kinit.cmd", "no command is run"),
    (
        "sasl.oauthbearer.config",
        "only `sasl.mechanism: PLAIN` is built in",
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

const NO_TLS: &str = "the Kafka client of this build has no TLS: use `security.protocol: plaintext` or `sasl_plaintext` within a \
     network that is encrypted otherwise (a VPN, or a TLS proxy such as stunnel beside the service)";

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
    /// Known only to say that it does not work.
    tls: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Brokers {
    Text(String),
    List(Vec<String>),
}

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) topic: String,
    pub(super) format: Format,
    pub(super) timeout: std::time::Duration,
    client: ClientConfig,
    password: Option<SinkSecret>,
}

impl Settings {
    /// Reads and checks them, for this route; nothing is reached.
    ///
    /// # Errors
    /// [`PluginError`] with every mistake and its key.
    pub(super) fn read(parameters: Value, route: &str) -> Result<Self, PluginError> {
        let config: KafkaConfig = settings(parameters)?;
        let mut mistakes = Vec::new();
        let brokers = brokers(config.brokers, &mut mistakes);
        let topic = topic(config.topic, &mut mistakes);
        if config.tls.is_some() {
            mistakes.push(format!("`tls`: {NO_TLS}"));
        }
        let timeout = timeout::checked("timeout", config.timeout, TIMEOUT, TIMEOUTS);
        let timeout = timeout.unwrap_or_else(|error| {
            mistakes.push(error);
            TIMEOUT.into()
        });
        let mut options = config.options;
        let password = password(&mut options, &mut mistakes);
        let mut client = defaults(route, timeout);
        let mut given = BTreeMap::new();
        for (name, value) in &options {
            let real = real_name(name);
            if let Some(other) = given.insert(real, name) {
                mistakes.push(format!(
                    "`options.{name}`: `{other}` is the same: leave one out"
                ));
            }
            match option(real, value) {
                Ok(text) => {
                    client.set(real, text);
                }
                Err(why) => mistakes.push(format!("`options.{name}`: {why}")),
            }
        }
        if mistakes.is_empty() {
            // What only shows in their combination. It knows no broker yet, so it reaches none.
            let mut trial = client.clone();
            if password.is_some() {
                trial.set("sasl.password", "-");
            }
            if let Err(error) = trial.create::<BaseProducer>() {
                mistakes.push(format!("`options`: {}", words(error)));
            }
        }
        if !mistakes.is_empty() {
            return Err(PluginError::Several(mistakes));
        }
        client.set("bootstrap.servers", brokers);
        Ok(Self {
            topic,
            format: config.format,
            timeout,
            client,
            password,
        })
    }

    /// What librdkafka is told now: a password file is read again.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub(super) fn client(&self) -> Result<ClientConfig, String> {
        let mut client = self.client.clone();
        if let Some(password) = &self.password {
            client.set("sasl.password", password.read()?.expose());
        }
        Ok(client)
    }
}

/// The name that is used here: what is set under one name must not also be set under another, since then either may win.
fn real_name(name: &str) -> &str {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    alias.map_or(name, |(_, real)| real)
}

/// What holds unless `options` say otherwise. The names are the [real](real_name) ones.
fn defaults(route: &str, timeout: std::time::Duration) -> ClientConfig {
    let millis = timeout.as_millis();
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in [
        ("client.id", format!("telemetryx-{route}")),
        ("request.required.acks", "all".to_owned()),
        ("enable.idempotence", "true".to_owned()),
        // A message that fails stops the producer: none of its key overtakes it.
        ("enable.gapless.guarantee", "true".to_owned()),
        ("message.timeout.ms", "0".to_owned()),
        ("compression.codec", "zstd".to_owned()),
        // That of Kafka's own clients: the same key is in the same partition.
        ("partitioner", "murmur2_random".to_owned()),
        ("queue.buffering.max.ms", "2".to_owned()),
        ("queue.buffering.max.kbytes", "65536".to_owned()),
        ("socket.timeout.ms", millis.to_string()),
        (
            "socket.connection.setup.timeout.ms",
            millis.max(CONNECT_MILLIS_MIN).to_string(),
        ),
        ("request.timeout.ms", (millis / 2).to_string()),
        ("socket.nagle.disable", "true".to_owned()),
        ("reconnect.backoff.max.ms", "1000".to_owned()),
        // How long a topic that is not there may be about to be made.
        (
            "topic.metadata.propagation.max.ms",
            (millis / 2).to_string(),
        ),
        ("log.connection.close", "false".to_owned()),
    ] {
        client.set(name, value);
    }
    client
}

fn brokers(given: Option<Brokers>, mistakes: &mut Vec<String>) -> String {
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

fn topic(given: Option<String>, mistakes: &mut Vec<String>) -> String {
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

/// The password, if one is given: it may be in a file.
fn password(
    options: &mut BTreeMap<String, Value>,
    mistakes: &mut Vec<String>,
) -> Option<SinkSecret> {
    let mut text = |name: &str| match options.remove(name)? {
        Value::String(text) => Some(text),
        other => {
            mistakes.push(format!(
                "`options.{name}`: it is of type {}, not a text",
                other.type_str()
            ));
            None
        }
    };
    let given = text("sasl.password");
    let file = text("sasl.password_file").map(PathBuf::from);
    let given = given.map(|text| text.parse::<Secret>()).transpose();
    let secret = given
        .map_err(|error| format!("`options.sasl.password`: {error}"))
        .and_then(|given| {
            let secret = SinkSecret::of("sasl.password", given, file);
            secret.map_err(|error| format!("`options`: {error}"))
        });
    secret.unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        None
    })
}

/// The value of an option, by its [real](real_name) name, as text, if librdkafka takes it and it breaks no promise.
fn option(name: &str, value: &Value) -> Result<String, String> {
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
    if let Some((_, right)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(format!("it cannot be set: {right}"));
    }
    if let Some((_, values, why)) = FIXED.iter().find(|(fixed, ..)| *fixed == name)
        && !values.contains(&text.as_str())
    {
        return Err(format!("it can only be `{}`: {why}", values[0]));
    }
    let over_tls = name == "security.protocol" && text.to_lowercase().ends_with("ssl");
    if over_tls || name.starts_with("ssl.") {
        return Err(NO_TLS.to_owned());
    }
    if name == "sasl.mechanisms" && !text.eq_ignore_ascii_case("PLAIN") {
        return Err("only `PLAIN` is built in".to_owned());
    }
    let mut alone = ClientConfig::new();
    alone.set(name, &text);
    alone.create_native_config().map_err(words)?;
    Ok(text)
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

/// librdkafka's words, without the value, which may be a secret.
pub(super) fn words(error: KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, words, ..) | KafkaError::ClientCreation(words) => words,
        other => other.to_string(),
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
