//! A producer of librdkafka, and what it reports. It has threads of its own; nothing here waits for them.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use rdkafka::types::RDKafkaErrorCode;

use super::attempt::Tracker;
use crate::kafka::code_of;
use crate::kafka::context::Said;
use crate::kafka::security::Fingerprint;

/// An idempotent producer. Dropping it ends it, on a thread of its own: that may take a second. What it has not sent then
/// is reported as failed.
pub(super) struct Link {
    producer: Option<ThreadedProducer<Context>>,
    context: Context,
    made_with: Fingerprint,
    /// It sends each message in a request of its own, so that a refusal says which one is meant.
    pub(super) careful: bool,
}

/// What a message carries to say which one it is.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Who wants to know.
    pub(super) tracker: Arc<Tracker>,
    /// Its place there.
    pub(super) place: u32,
}

/// What librdkafka calls, from its threads.
#[derive(Debug, Clone)]
struct Context(Said);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let failed = result.as_ref().err().map(|(error, _)| code_of(error));
        ticket.tracker.report(ticket.place, failed);
    }
}

impl Link {
    /// Starts a producer with what has this fingerprint; it begins to connect.
    pub(super) fn open(
        settings: &ClientConfig,
        made_with: Fingerprint,
        route: &str,
        careful: bool,
    ) -> KafkaResult<Self> {
        let mut settings = settings.clone();
        if careful {
            // A refused message leaves a gap, which is meant: it becomes a dead letter.
            settings.set("batch.num.messages", "1");
            settings.set("enable.gapless.guarantee", "false");
        }
        let context = Context(Said::by(route));
        Ok(Self {
            producer: Some(settings.create_with_context(context.clone())?),
            made_with,
            context,
            careful,
        })
    }

    /// Hands a message over; it is sent in the background.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(super) fn send(
        &self,
        record: BaseRecord<'_, [u8], [u8], Box<Ticket>>,
    ) -> Result<(), RDKafkaErrorCode> {
        let producer = self.producer.as_ref().ok_or(RDKafkaErrorCode::Fatal)?;
        producer.send(record).map_err(|(error, _)| code_of(&error))
    }

    /// Sends nothing any more, also while somebody else still holds it: what it has is reported as failed.
    pub(super) fn give_up(&self) {
        if let Some(producer) = &self.producer {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
    }

    /// Why it can send nothing any more, if that is so.
    pub(super) fn fatal(&self) -> Option<String> {
        let (code, reason) = self.producer.as_ref()?.client().fatal_error()?;
        Some(format!("{code}: {reason}"))
    }

    /// True if it was made with another password or certificate than has this fingerprint.
    pub(super) fn is_outdated(&self, now: Fingerprint) -> bool {
        self.made_with != now
    }

    /// The last error of a connection.
    pub(super) fn last_error(&self) -> Option<String> {
        self.context.0.last_error()
    }

    /// Something was acknowledged: what was wrong before is over.
    pub(super) fn is_fine(&self) {
        self.context.0.is_fine();
    }

    /// Asks what Kafka knows of the topic; blocks.
    ///
    /// # Errors
    /// Kafka's words.
    pub(super) fn look_up(&self, topic: &str, patience: std::time::Duration) -> Result<(), String> {
        let Some(producer) = self.producer.as_ref() else {
            return Ok(());
        };
        let found = producer.client().fetch_metadata(Some(topic), patience);
        let metadata = found.map_err(|error| self.context.0.words(&error))?;
        let error = metadata.topics().iter().find_map(|found| found.error());
        match error {
            Some(error) => Err(RDKafkaErrorCode::from(error).to_string()),
            None => Ok(()),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let producer = self.producer.take();
        let thread = std::thread::Builder::new().name("kafka-end".to_owned());
        // Without a thread to spare it ends here: the closure that was not run is dropped.
        thread.spawn(move || drop(producer)).ok();
    }
}
