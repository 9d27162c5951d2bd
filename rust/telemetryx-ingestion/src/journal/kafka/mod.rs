//! The engine `kafka`: a topic of Apache Kafka, which any number of processes may write and read.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | [`KafkaJournal`] |
//! | `settings.rs` | what the config says, checked, and what librdkafka is told |
//! | `topic.rs` | the topics: made if they are missing, checked if they are there |
//! | `producer.rs` | sends batches, and knows when all of one is acknowledged |
//! | `seen.rs` | what was last seen of Kafka |
//! | `watch.rs`, `watch/look.rs` | the thread that looks again, every second; one look |
//! | `watch/naming.rs` | what the topic is called, and how it shows that it is another one |
//! | `identity.rs` | a name for the topic, another one for a topic made anew |
//! | `reader.rs` | a route's consumer: partitions come and go |
//! | `assignment.rs` | a partition that this process reads |
//! | `subscription.rs` | one reading of a partition, from its last commit |
//! | `gathering.rs` | a delivery that is being put together |
//! | `scan.rs` | reads without a position of its own |
//! | `decode.rs` | a message as an event |
//! | `table.rs` | what all processes know alike, in the topic `<topic>.control` |
//! | `spill/` | `spill: embedded`: the door stays open while Kafka is away |
//!
//! An append resolves when the brokers have acknowledged every message of the batch. What is not acknowledged within
//! `journal.kafka.delivery_timeout` fails; some of it may be in the topic all the same, and is delivered then.
//!
//! A route is a consumer group. Its position in a partition and what it saves with it are one committed offset and that
//! offset's metadata, so that they are always a pair. librdkafka has threads of its own; what waits for them is a thread of
//! ours or of the blocking pool, never one that serves requests.

mod assignment;
mod decode;
mod gathering;
mod identity;
mod producer;
mod reader;
mod scan;
mod seen;
mod settings;
mod spill;
mod subscription;
mod table;
mod topic;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use telemetryx_common::{Timestamp, wire};

use self::producer::{SendError, Sender};
use self::scan::Scanners;
use self::settings::Settings;
pub use self::spill::{SpillJournal, left_over};
use self::table::ControlTable;
use self::topic::MESSAGE_BYTES_USUAL;
use self::watch::Watch;
use super::{
    AppendError, Assignments, Backlog, BatchLimit, Committed, Delivery, Durability, EncodedBatch,
    Extent, Journal, JournalError, JournalStatus, Position, SharedTable,
};
use crate::config::{KafkaJournalConfig, KafkaSpill};
use crate::kafka::message::{self, Format, Scratch};
use crate::observe::Metrics;

/// How long the start waits for Kafka before it goes on without.
const START_WAIT_MAX: Duration = Duration::from_secs(5);
/// The same where the door opens without it.
const START_WAIT_WITH_SPILL_MAX: Duration = Duration::from_secs(1);
/// So many events are handed to librdkafka without giving way to others.
const EVENTS_AT_ONCE: usize = 512;
/// What a message takes beside key and value, at most, but for headers of unusual length.
const HEADERS_BYTES: usize = 512;

/// What is wrong with these settings, each mistake with its key in front; nothing is reached.
#[must_use]
pub fn mistakes(config: &KafkaJournalConfig) -> Vec<String> {
    Settings::read(config).err().unwrap_or_default()
}

/// The journal in a topic.
pub struct KafkaJournal {
    watch: Arc<Watch>,
    scanners: Arc<Scanners>,
    table: Arc<ControlTable>,
    metrics: Arc<Metrics>,
}

impl KafkaJournal {
    /// Connects, for these routes. While Kafka is away it waits for a few seconds; then it goes on, unhealthy, and is
    /// healthy once Kafka is there. `makes`: topics that are missing are made.
    ///
    /// # Errors
    /// What is wrong with the settings; without `makes`, that nothing is there.
    pub async fn open(
        config: &KafkaJournalConfig,
        routes: &[String],
        makes: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let mut settings = Settings::read(config).map_err(|mistakes| mistakes.join("; "))?;
        settings.makes = makes;
        let watch = Watch::start(Arc::new(settings), routes)?;
        let patience = match config.spill {
            KafkaSpill::None => START_WAIT_MAX,
            KafkaSpill::Embedded => START_WAIT_WITH_SPILL_MAX,
        };
        tokio::time::timeout(patience, watch.ready()).await.ok();
        if let Some(problem) = watch.seen().problem() {
            if !makes && problem.reason == topic::missing(&config.topic) {
                watch.stop();
                return Err(problem.reason);
            }
            tracing::warn!(reason = problem.reason, "Kafka is not there yet");
        }
        Ok(Self {
            scanners: Arc::new(Scanners::new(Arc::clone(&watch))),
            table: Arc::new(ControlTable::new(Arc::clone(&watch))),
            watch,
            metrics,
        })
    }

    async fn send(&self, batch: &EncodedBatch, sender: &Sender) -> Result<Position, SendError> {
        let settings = self.watch.settings();
        let deadline = tokio::time::Instant::now() + settings.delivery_timeout;
        // Nothing is sent of a batch that cannot be sent whole.
        if !fits(batch, settings.format, sender.message_bytes_max()) {
            return Err(SendError::TooLarge);
        }
        let sending = sender.begin(batch.events, batch.body.len())?;
        let mut scratch = Scratch::default();
        let mut sent = 0;
        for event in wire::events(&batch.body) {
            let event = event.map_err(|error| SendError::Failed(error.to_string()))?;
            loop {
                let record = message::record(
                    &settings.topic,
                    settings.format,
                    "event_id",
                    &event,
                    &mut scratch,
                    Arc::clone(&sending),
                )
                .timestamp(message::millis(event.received_at));
                if sender.send(&sending, record)? {
                    break;
                }
                sender.room(&sending, deadline).await?;
            }
            sent += 1;
            if sent % EVENTS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        sender.acknowledged(&sending, deadline).await
    }
}

/// An event of a batch does not fit into a message of the topic; `most`: as far as that is known.
fn too_large(most: Option<usize>, topic: &str) -> AppendError {
    AppendError::TooLarge {
        what: "an event, as a message of Kafka with its headers,",
        limit: match most {
            Some(most) => format!("{most} bytes (max.message.bytes of topic `{topic}`)"),
            None => format!(
                "{MESSAGE_BYTES_USUAL} bytes (until Kafka tells what topic `{topic}` takes)"
            ),
        },
    }
}

/// True if each event fits into a message of so many bytes.
fn fits(batch: &EncodedBatch, format: Format, most: usize) -> bool {
    // JSON writes a byte as six at the most; how an event is stored is about as long as what it says.
    let most_of_each = match format {
        Format::Protobuf => batch.body.len(),
        Format::Json => 6 * batch.body.len() + 1024,
    };
    if most_of_each + HEADERS_BYTES <= most {
        return true;
    }
    let mut scratch = Scratch::default();
    let mut events = wire::events(&batch.body).flatten();
    events.all(|event| message::bytes(format, &event, &mut scratch) + HEADERS_BYTES <= most)
}

impl KafkaJournal {
    async fn append_with(
        &self,
        batch: EncodedBatch,
        sender: &Sender,
    ) -> Result<Position, AppendError> {
        let started = Instant::now();
        let sent = self.send(&batch, sender).await;
        self.metrics.append.record(started.elapsed().as_secs_f64());
        let position = match sent {
            Ok(position) => position,
            Err(SendError::Full) => {
                // It is full because nothing is acknowledged: slowing down does not help.
                return Err(match self.watch.seen().problem() {
                    Some(problem) => AppendError::Unavailable(problem.reason),
                    None => AppendError::Full,
                });
            }
            Err(SendError::TooLarge) => {
                let topic = &self.watch.settings().topic;
                return Err(too_large(Some(sender.message_bytes_max()), topic));
            }
            Err(SendError::Failed(words)) => {
                self.watch.append_failed(&words);
                return Err(AppendError::Unavailable(words));
            }
        };
        let told = self.watch.appended(&position, sender).await;
        told.map_err(AppendError::Unavailable)?;
        Ok(position)
    }
}

#[async_trait]
impl Journal for KafkaJournal {
    async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError> {
        let sender = self.watch.sender()?;
        self.append_with(batch, &sender).await
    }

    fn durability(&self) -> Durability {
        Durability::Replicated
    }

    async fn subscribe(&self, route: &str) -> Result<Box<dyn Assignments>, JournalError> {
        reader::subscribe(&self.watch, route)
    }

    fn identity(&self) -> u128 {
        self.watch.seen().identity()
    }

    fn status(&self) -> JournalStatus {
        let seen = self.watch.seen();
        let problem = seen.problem();
        let (extents, mut warnings) = (seen.extents(), seen.warnings());
        warnings.extend(self.watch.idle());
        JournalStatus {
            engine: "kafka",
            state: if problem.is_none() { "ok" } else { "unhealthy" },
            since: problem.as_ref().map(|problem| problem.since.to_string()),
            reason: problem.map(|problem| problem.reason),
            start_offset: extents.iter().map(|extent| extent.start).sum(),
            end_offset: extents.iter().map(|extent| extent.end).sum(),
            segments: None,
            bytes: 0,
            damage: Vec::new(),
            warnings,
            spill: None,
        }
    }

    fn backlog(&self) -> Backlog {
        Backlog {
            events: self.watch.seen().backlog(),
            bytes: 0,
        }
    }

    fn extents(&self) -> Vec<Extent> {
        self.watch.seen().extents()
    }

    fn commits(&self, route: &str) -> Vec<Committed> {
        self.watch.seen().commits(route)
    }

    fn state_bytes_max(&self) -> usize {
        assignment::STATE_BYTES_MAX
    }

    async fn refresh(&self) -> Result<(), JournalError> {
        self.watch.look_now().await?;
        match self.watch.seen().positions_fault() {
            Some(fault) => Err(JournalError::Io(fault)),
            None => Ok(()),
        }
    }

    async fn scan(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Result<Delivery, JournalError> {
        let scanners = Arc::clone(&self.scanners);
        blocking(move || scanners.scan(partition, from, to, limit)).await
    }

    async fn offset_at(&self, partition: u32, time: Timestamp) -> Result<u64, JournalError> {
        let scanners = Arc::clone(&self.scanners);
        blocking(move || scanners.offset_at(partition, time)).await
    }

    fn table(&self) -> Option<Arc<dyn SharedTable>> {
        Some(Arc::clone(&self.table) as Arc<dyn SharedTable>)
    }

    async fn close(&self) {
        let watch = Arc::clone(&self.watch);
        tokio::task::spawn_blocking(move || watch.close())
            .await
            .ok();
    }
}

impl Drop for KafkaJournal {
    fn drop(&mut self) {
        self.watch.stop();
    }
}

/// Does what waits for Kafka on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(JournalError::Io(error.to_string())))
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, Timestamp};

    use super::*;

    #[test]
    fn event_fits_as_it_is_written_and_not_as_it_came() {
        let fits = |attribute: String, format| {
            let mut event = Event::new(Timestamp::UNIX_EPOCH);
            event.attributes.push(("a".into(), attribute.into()));
            let mut body = Vec::new();
            wire::encode_event(&event, "e", &mut body);
            let batch = EncodedBatch {
                body: body.into(),
                events: 1,
                earliest: Timestamp::UNIX_EPOCH,
                latest: Timestamp::UNIX_EPOCH,
                is_own: false,
            };
            fits(&batch, format, 10_000)
        };
        let (letters, quotes) = (|count| "x".repeat(count), |count| "\"".repeat(count));
        for format in [Format::Protobuf, Format::Json] {
            assert!(fits(letters(9_000), format));
            assert!(!fits(letters(10_000), format));
        }
        // JSON writes each as two.
        assert!(fits(quotes(9_000), Format::Protobuf));
        assert!(fits(quotes(4_500), Format::Json));
        assert!(!fits(quotes(5_000), Format::Json));
    }
}
