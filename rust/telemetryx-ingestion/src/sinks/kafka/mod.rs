//! `kafka`: one message an event in a topic of Apache Kafka.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the sink: a batch, and what is told of it |
//! | `sending.rs` | sends a batch, waits for what becomes of it |
//! | `attempt.rs` | what became of each event, also when the batch comes again |
//! | `lanes.rs` | what is under way, apart by why it is delivered |
//! | `link.rs` | a producer of librdkafka, and what it reports |
//! | `settings.rs` | what the config says, checked, and what librdkafka is told |
//!
//! What it has in common with the journal `kafka` is in `src/kafka/`.
//!
//! The producer is idempotent and never gives a message up: while Kafka is away, its messages wait, in order, and the
//! delivery fails only so that the route can say so. The same batch comes again then, and what was sent is not sent again
//! (`attempt.rs`). A message that Kafka refuses stops the producer, so that none of its key overtakes it. What is left is
//! sent by a careful one, a message a request, which finds the one that is meant.

mod attempt;
mod lanes;
mod link;
mod sending;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::attempt::{Attempt, Fate};
use self::lanes::Lanes;
use self::settings::Settings;
use super::{DeliverError, RejectedBySink, Sink, SinkContext, SinkFactory};
use crate::plugin::PluginError;
use crate::route::EventBatch;

/// How long Kafka is asked for the topic at the start of a route.
const LOOK_UP_WAIT_MAX: Duration = Duration::from_secs(5);

struct KafkaSink {
    settings: Settings,
    route: String,
    lanes: Mutex<Lanes>,
    /// How often batches had to be made smaller, since the topic takes none so large.
    shrunk: AtomicU32,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    Ok(Box::new(KafkaSink {
        settings: Settings::read(parameters, context.route)?,
        route: context.route.to_owned(),
        lanes: Mutex::default(),
        shrunk: AtomicU32::new(0),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "kafka",
        constructor: construct,
        // Messages are put together by librdkafka; whoever reads the topic shall soon have them.
        flush_interval: Duration::from_millis(5),
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let deadline = Instant::now() + self.settings.timeout;
        let mut lanes = self.lanes.lock().await;
        let lane = lanes.of(batch.cause());
        let places = lane.attempt.places(batch);
        let sent = self.send_all(lane, &places, batch, deadline).await;
        lane.touch();
        sent.map_err(DeliverError::Retryable)?;
        let rejected = self.rejected(&lane.attempt, &places);
        if !rejected.is_empty() {
            // The rest comes again at once, and is acknowledged already.
            return Err(DeliverError::Rejected(rejected));
        }
        lane.attempt = Attempt::default();
        Ok(())
    }

    async fn check(&self) -> Result<(), DeliverError> {
        let link = {
            let mut lanes = self.lanes.lock().await;
            let lane = lanes.journal();
            let careful = lane.attempt.careful;
            self.open(&mut lane.link, careful)
                .map_err(DeliverError::Retryable)?
        };
        let topic = self.settings.topic.clone();
        let patience = self.settings.timeout.min(LOOK_UP_WAIT_MAX);
        let asked = tokio::task::spawn_blocking(move || link.look_up(&topic, patience));
        let answer = asked.await.unwrap_or_else(|error| Err(error.to_string()));
        answer.map_err(|error| DeliverError::Retryable(self.about(&error)))
    }
}

impl KafkaSink {
    fn rejected(&self, attempt: &Attempt, places: &[usize]) -> Vec<RejectedBySink> {
        let rejected = places.iter().enumerate().filter_map(|(index, place)| {
            let Fate::Rejected(code) = attempt.tracker.get(*place) else {
                return None;
            };
            Some(RejectedBySink {
                index,
                code: match code {
                    RDKafkaErrorCode::MessageSizeTooLarge => "message_too_large",
                    RDKafkaErrorCode::InvalidTimestamp => "invalid_timestamp",
                    _ => "invalid_record",
                },
                message: self.about(&code.to_string()),
            })
        });
        rejected.collect()
    }

    fn about(&self, words: &str) -> String {
        format!("kafka topic `{}`: {words}", self.settings.topic)
    }
}
