//! Sends messages and waits until they are acknowledged: one who waits for a whole batch, on no thread.
//!
//! A batch that is not acknowledged in time fails. librdkafka gives its messages up at about the same time; one that was
//! on its way may be in the topic all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::super::{Position, Range};
use crate::kafka::code_of;
use crate::kafka::context::Said;
use crate::kafka::settings::words;

/// What librdkafka needs for a message beside its bytes, about.
const MESSAGE_OVERHEAD_BYTES: usize = 512;
/// How long to wait for room in librdkafka's queue before looking again.
const ROOM_WAIT: Duration = Duration::from_millis(2);

/// An idempotent producer. Dropping it ends it, on a thread of its own.
pub(super) struct Sender {
    producer: Option<ThreadedProducer<Reports>>,
    said: Said,
    budget: Arc<Budget>,
    message_bytes_max: usize,
}

/// Bytes that are with librdkafka.
#[derive(Debug)]
struct Budget {
    taken: AtomicUsize,
    most: usize,
}

/// A batch that is being sent. Each of its messages carries a reference.
#[derive(Debug)]
pub(super) struct Batch {
    progress: Mutex<Progress>,
    changed: Notify,
    budget: Arc<Budget>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Progress {
    /// Messages whose fate is not known.
    waiting: u32,
    /// Where the others are.
    ranges: SmallVec<[Range; 1]>,
    failed: Option<RDKafkaErrorCode>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Batch {
    fn report(&self, result: &DeliveryResult<'_>) {
        let mut progress = self.progress.lock();
        match result {
            Ok(message) => progress.add(message.partition(), message.offset()),
            Err((error, _)) => {
                progress.failed.get_or_insert_with(|| code_of(error));
            }
        }
        progress.waiting = progress.waiting.saturating_sub(1);
        if progress.waiting == 0 || result.is_err() {
            drop(progress);
            self.changed.notify_one();
        }
    }

    /// Some will not be sent.
    fn give_up(&self, code: RDKafkaErrorCode) {
        self.progress.lock().failed.get_or_insert(code);
        self.changed.notify_one();
    }

    /// Where its events are, once all are acknowledged.
    async fn settled(&self) -> Result<Position, RDKafkaErrorCode> {
        loop {
            {
                let mut progress = self.progress.lock();
                if let Some(code) = progress.failed {
                    return Err(code);
                }
                if progress.waiting == 0 {
                    let mut ranges = std::mem::take(&mut progress.ranges);
                    ranges.sort_unstable_by_key(|range| (range.partition, range.first));
                    return Ok(Position { ranges });
                }
            }
            self.changed.notified().await;
        }
    }
}

impl Progress {
    /// One more is there. Those of a partition are reported in their order.
    fn add(&mut self, partition: i32, offset: i64) {
        let (Ok(partition), Ok(offset)) = (u32::try_from(partition), u64::try_from(offset)) else {
            // Acknowledged without a place: a broker says so of a message that it has already.
            self.failed.get_or_insert(RDKafkaErrorCode::Unknown);
            return;
        };
        let follows = |range: &&mut Range| range.partition == partition && range.end() == offset;
        match self.ranges.iter_mut().rev().find(follows) {
            Some(range) => range.events += 1,
            None => self.ranges.push(Range {
                partition,
                first: offset,
                events: 1,
            }),
        }
    }
}

/// What librdkafka calls, from its threads.
struct Reports(Said);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        batch.report(result);
    }
}

/// Why a batch is not acknowledged.
#[derive(Debug)]
pub(super) enum SendError {
    /// Too much is under way.
    Full,
    /// A message is larger than the topic takes.
    TooLarge,
    /// In Kafka's words.
    Failed(String),
}

impl Sender {
    /// Starts a producer; it begins to connect.
    ///
    /// # Errors
    /// librdkafka's words.
    pub(super) fn open(client: &ClientConfig, message_bytes_max: usize) -> Result<Self, String> {
        let said = Said::by("journal");
        let kibibytes = client
            .get("queue.buffering.max.kbytes")
            .and_then(|number| number.parse::<usize>().ok());
        let made = client.create_with_context(Reports(said.clone()));
        Ok(Self {
            producer: Some(made.map_err(words)?),
            said,
            budget: Arc::new(Budget {
                taken: AtomicUsize::new(0),
                most: kibibytes.unwrap_or(65_536).saturating_mul(1024),
            }),
            message_bytes_max,
        })
    }

    /// The largest message.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// Begins a batch of so many messages and bytes, if there is room for it. A large one alone always has.
    ///
    /// # Errors
    /// [`SendError::Full`].
    pub(super) fn begin(&self, messages: u32, bytes: usize) -> Result<Arc<Batch>, SendError> {
        let bytes = bytes + messages as usize * MESSAGE_OVERHEAD_BYTES;
        let before = self.budget.taken.fetch_add(bytes, Ordering::Relaxed);
        let batch = Batch {
            progress: Mutex::new(Progress {
                waiting: messages,
                ..Progress::default()
            }),
            changed: Notify::new(),
            budget: Arc::clone(&self.budget),
            bytes,
        };
        if before > 0 && before.saturating_add(bytes) > self.budget.most {
            return Err(SendError::Full);
        }
        Ok(Arc::new(batch))
    }

    /// Hands a message of the batch over; it is sent in the background. `false`: there is no room now.
    ///
    /// # Errors
    /// Why it was not taken; then the batch has failed.
    pub(super) fn send(
        &self,
        batch: &Arc<Batch>,
        record: BaseRecord<'_, [u8], [u8], Arc<Batch>>,
    ) -> Result<bool, SendError> {
        let Some(producer) = &self.producer else {
            return Err(SendError::Failed("it has ended".to_owned()));
        };
        let Err((error, _)) = producer.send(record) else {
            return Ok(true);
        };
        match code_of(&error) {
            RDKafkaErrorCode::QueueFull => Ok(false),
            code => {
                batch.give_up(code);
                match code {
                    RDKafkaErrorCode::MessageSizeTooLarge => Err(SendError::TooLarge),
                    _ => Err(SendError::Failed(self.said.words(&error))),
                }
            }
        }
    }

    /// Waits for room in librdkafka's queue.
    ///
    /// # Errors
    /// There was none in time; then the batch has failed.
    pub(super) async fn room(&self, batch: &Batch, deadline: Instant) -> Result<(), SendError> {
        if Instant::now() >= deadline {
            batch.give_up(RDKafkaErrorCode::QueueFull);
            return Err(self.late());
        }
        tokio::time::sleep(ROOM_WAIT).await;
        Ok(())
    }

    /// Waits until every message of the batch is acknowledged.
    ///
    /// # Errors
    /// Not all were in time: some may be there.
    pub(super) async fn acknowledged(
        &self,
        batch: &Batch,
        deadline: Instant,
    ) -> Result<Position, SendError> {
        match timeout_at(deadline, batch.settled()).await {
            Ok(Ok(position)) => {
                self.said.is_fine();
                Ok(position)
            }
            Ok(Err(RDKafkaErrorCode::MessageTimedOut)) | Err(_) => Err(self.late()),
            Ok(Err(code)) => {
                let reason = self.said.last_error();
                let words = [Some(code.to_string()), reason].into_iter().flatten();
                Err(SendError::Failed(words.collect::<Vec<_>>().join(": ")))
            }
        }
    }

    fn late(&self) -> SendError {
        let last = self.said.last_error();
        let last = last.map(|last| format!(": {last}")).unwrap_or_default();
        SendError::Failed(format!("not acknowledged in time{last}"))
    }

    /// Why it can send nothing any more, if that is so.
    pub(super) fn fatal(&self) -> Option<String> {
        let (code, reason) = self.producer.as_ref()?.client().fatal_error()?;
        Some(format!("{code}: {reason}"))
    }

    /// Waits until nothing is under way; blocks.
    pub(super) fn flush(&self, patience: Duration) {
        if let Some(Err(error)) = self.producer.as_ref().map(|it| it.flush(patience)) {
            tracing::warn!(%error, "not all that was sent to Kafka is answered");
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let producer = self.producer.take();
        let thread = std::thread::Builder::new().name("kafka-end".to_owned());
        // Without a thread to spare it ends here: the closure that was not run is dropped.
        thread.spawn(move || drop(producer)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_follow_each_other_are_one_range() {
        let mut progress = Progress::default();
        for (partition, offset) in [(0, 5), (0, 6), (1, 9), (0, 7), (1, 10), (0, 9)] {
            progress.add(partition, offset);
        }
        let ranges = [(0, 5, 3), (1, 9, 2), (0, 9, 1)];
        let ranges = ranges.map(|(partition, first, events)| Range {
            partition,
            first,
            events,
        });
        assert_eq!(progress.ranges.as_slice(), ranges);
        progress.add(0, -1001);
        assert!(progress.failed.is_some(), "a place that is none");
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_in_time_fails_and_makes_room_when_it_is_given_up() {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", "127.0.0.1:1")
            .set("message.timeout.ms", "200")
            .set("queue.buffering.max.kbytes", "64")
            .set("enable.idempotence", "true");
        let sender = Sender::open(&client, 1000).unwrap();
        let batch = sender.begin(1, 60_000).unwrap();
        let record = BaseRecord::with_opaque_to("t", Arc::clone(&batch));
        let record = record.key(&b"k"[..]).payload(&b"v"[..]);
        assert!(sender.send(&batch, record).unwrap());
        assert!(matches!(sender.begin(1, 60_000), Err(SendError::Full)));
        let soon = Instant::now() + Duration::from_millis(50);
        let failed = sender.acknowledged(&batch, soon).await.unwrap_err();
        assert!(matches!(failed, SendError::Failed(_)), "{failed:?}");
        drop(batch);
        telemetryx_testkit::eventually(Duration::from_secs(20), "there is room again", || {
            sender.begin(1, 60_000).is_ok()
        });
    }
}
