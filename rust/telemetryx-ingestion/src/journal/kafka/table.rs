//! What all processes know alike: the compacted topic `<topic>.control`, one partition. A name is a key, and its newest
//! value the last message of that key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::BaseRecord;
use rdkafka::{Offset, TopicPartitionList};

use super::super::{Entry, Followed, JournalError, SharedTable, TableChange};
use super::identity::{self, OWN};
use super::producer::{SendError, Sender};
use super::settings::Settings;
use super::watch::Watch;
use crate::kafka::context::Said;
use crate::kafka::settings::words;

/// How long to wait for a change before looking whether to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long the next record is waited for; refused events and dead letters lie there too, so all of them take their time.
const NEWS_WAIT_MAX: Duration = Duration::from_secs(20);

/// The table of a journal.
pub(super) struct ControlTable {
    watch: Arc<Watch>,
}

impl ControlTable {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self { watch }
    }
}

#[async_trait]
impl SharedTable for ControlTable {
    async fn put(&self, entries: Vec<Entry>) -> Result<u64, JournalError> {
        let sender = self
            .watch
            .sender()
            .map_err(|error| JournalError::Io(error.to_string()))?;
        put(&sender, self.watch.settings(), &entries).await
    }

    fn follow(
        &self,
        on: Box<dyn FnMut(TableChange) + Send>,
    ) -> Result<Box<dyn Followed>, JournalError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (watch, stopped) = (Arc::clone(&self.watch), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("kafka-table".to_owned());
        let wants = |name: &str| !name.starts_with(OWN);
        thread
            .spawn(move || follow(&watch, &stopped, wants, on))
            .map_err(|error| JournalError::Io(error.to_string()))?;
        Ok(Box::new(Following(stop)))
    }
}

struct Following(Arc<AtomicBool>);

impl Followed for Following {}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes entries in their order; the offset of the last one.
pub(super) async fn put(
    sender: &Sender,
    settings: &Settings,
    entries: &[Entry],
) -> Result<u64, JournalError> {
    let deadline = tokio::time::Instant::now() + settings.delivery_timeout;
    let io = |error| {
        JournalError::Io(match error {
            SendError::Full => "too much is under way to Kafka".to_owned(),
            SendError::TooLarge => "a value is larger than the control topic takes".to_owned(),
            SendError::Failed(words) => words,
        })
    };
    let size = |(name, value): &Entry| name.len() + value.as_ref().map_or(0, Bytes::len);
    let bytes = entries.iter().map(size).sum();
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let batch = sender.begin(count, bytes).map_err(io)?;
    for (name, value) in entries {
        loop {
            let record = BaseRecord::with_opaque_to(&settings.control, Arc::clone(&batch));
            let mut record = record.partition(0).key(name.as_bytes());
            if let Some(value) = value {
                record = record.payload(&value[..]);
            }
            if sender.send(&batch, record).map_err(io)? {
                break;
            }
            sender.room(&batch, deadline).await.map_err(io)?;
        }
    }
    let position = sender.acknowledged(&batch, deadline).await.map_err(io)?;
    let last = position.ranges.iter().map(|range| range.end()).max();
    Ok(last.unwrap_or(1).saturating_sub(1))
}

/// The names of all records that are there now, in their order; blocks.
///
/// # Errors
/// Kafka's words.
pub(super) fn names(settings: &Settings) -> Result<Vec<String>, String> {
    let consumer = open(settings, 0)?;
    let (mut names, mut news) = (Vec::new(), Instant::now());
    while news.elapsed() < NEWS_WAIT_MAX {
        match consumer.poll(LOOK) {
            Some(Ok(message)) => {
                news = Instant::now();
                let key = message.key().unwrap_or_default();
                names.push(String::from_utf8_lossy(key).into_owned());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(names),
            Some(Err(_)) | None => {}
        }
    }
    let last = consumer.client().context().last_error();
    Err(format!(
        "topic `{}` cannot be read to its end: {} after {} records",
        settings.control,
        last.unwrap_or_else(|| format!("nothing came for {NEWS_WAIT_MAX:?}")),
        names.len()
    ))
}

fn open(settings: &Settings, from: u64) -> Result<BaseConsumer<Said>, String> {
    // The name of a group is needed to be given partitions by hand; there is no such group.
    let mut client = settings.reading(Some(&settings.group("control")))?;
    client.set("enable.partition.eof", "true");
    let consumer: BaseConsumer<Said> = client
        .create_with_context(Said::by("journal-control"))
        .map_err(words)?;
    let from = match i64::try_from(from) {
        Ok(from) if from > 0 => Offset::Offset(from),
        _ => Offset::Beginning,
    };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&settings.control, 0, from)
        .and_then(|()| consumer.assign(&list))
        .map_err(words)?;
    Ok(consumer)
}

/// The offset behind the newest record; blocks.
fn end(settings: &Settings) -> Result<u64, String> {
    let observer: BaseConsumer<Said> = settings
        .reading(None)?
        .create_with_context(Said::by("journal-control"))
        .map_err(words)?;
    let marks = observer.fetch_watermarks(&settings.control, 0, settings.patience());
    let (_, high) = marks.map_err(|error| observer.client().context().words(&error))?;
    Ok(u64::try_from(high).unwrap_or_default())
}

/// Tells of the entries whose names are wanted until it is stopped; blocks.
pub(super) fn follow(
    watch: &Watch,
    stop: &AtomicBool,
    wants: impl Fn(&str) -> bool,
    mut on: impl FnMut(TableChange),
) {
    let (mut next, mut up_to_date, mut said) = (0, false, None);
    let stops = || stop.load(Ordering::Relaxed) || watch.is_closed();
    let mut identity = watch.seen().identity();
    while !stops() {
        if !watch.is_ready() {
            std::thread::sleep(LOOK);
            continue;
        }
        let (now, clients) = (watch.seen().identity(), watch.clients());
        // It connects again by itself.
        let opened = match now == identity || next == 0 {
            true => Ok(next),
            // Made anew like the topic of the events, it begins at 0 again.
            false => end(watch.settings()).map(|end| if end < next { 0 } else { next }),
        };
        let opened = opened.and_then(|from| Ok((open(watch.settings(), from)?, from)));
        let consumer = match opened {
            Ok((consumer, from)) => {
                (identity, next, said) = (now, from, None);
                consumer
            }
            Err(error) => {
                if said.as_ref() != Some(&error) {
                    tracing::warn!(error, "the control topic cannot be read");
                    said = Some(error);
                }
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
        };
        while watch.seen().identity() == identity && watch.clients() == clients {
            let polled = consumer.poll(LOOK);
            // It may have come while nobody wanted to be told any more.
            if stops() {
                return;
            }
            match polled {
                Some(Ok(message)) => {
                    let sequence = u64::try_from(message.offset()).unwrap_or_default();
                    // A client that cannot go on where it was begins at the oldest again.
                    if sequence < next {
                        continue;
                    }
                    next = sequence + 1;
                    let key = message.key().unwrap_or_default();
                    let Ok(name) = std::str::from_utf8(key) else {
                        continue;
                    };
                    if let Some(generation) = identity::claimed(name) {
                        watch.claimed(generation);
                    }
                    if name.is_empty() || !wants(name) {
                        continue;
                    }
                    on(TableChange::Value {
                        sequence,
                        name: name.to_owned(),
                        value: message.payload().map(Bytes::copy_from_slice),
                    });
                }
                Some(Err(KafkaError::PartitionEOF(_))) if !up_to_date => {
                    up_to_date = true;
                    on(TableChange::UpToDate);
                }
                Some(Err(_)) | None => {}
            }
        }
    }
}
