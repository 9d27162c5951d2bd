//! What librdkafka says, from its threads.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// The log and the last error of a client.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// What the client is for.
    name: Arc<str>,
    last_error: Arc<Mutex<Option<String>>>,
}

impl Said {
    /// Nothing yet, by the client of this name.
    pub(crate) fn by(name: &str) -> Self {
        Self {
            name: name.into(),
            last_error: Arc::default(),
        }
    }

    /// The last error of a connection.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// What was wrong before is over.
    pub(crate) fn is_fine(&self) {
        *self.last_error.lock() = None;
    }

    /// What went wrong, with the reason of the last error if there is one.
    pub(crate) fn words(&self, error: &KafkaError) -> String {
        match self.last_error() {
            Some(reason) => format!("{}: {reason}", super::code_of(error)),
            None => match super::code_of(error) {
                RDKafkaErrorCode::Unknown => error.to_string(),
                code => code.to_string(),
            },
        }
    }
}

impl ClientContext for Said {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A setting for producers does nothing for a consumer, which is meant.
        // Who uses it says once that Kafka is away, with the last error; these are said again with each attempt.
        if facility != "CONFWARN" {
            tracing::debug!(target: "librdkafka", client = &*self.name, facility, message);
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down says less than why the last one is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.last_error.lock() = Some(reason.to_owned());
        }
    }
}
