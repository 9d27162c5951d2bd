//! Reads without a position of its own, for replays and receipts: on threads that may wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use telemetryx_common::Timestamp;

use super::super::{BatchLimit, Delivery, Extent, JournalError};
use super::decode;
use super::gathering::{EXPIRED, Entry, Gathering, NO_EVENTS};
use super::watch::Watch;
use crate::kafka::context::Said;
use crate::kafka::settings::words;

/// So many consumers are kept to read on with.
const KEPT_MAX: usize = 4;
/// For so long.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Kafka must give something within this time.
const NEWS_WAIT_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// Consumers that are in no group.
pub(super) struct Scanners {
    watch: Arc<Watch>,
    kept: Mutex<Vec<Scanner>>,
}

struct Scanner {
    /// The journal that it has read of.
    identity: u128,
    consumer: BaseConsumer<Said>,
    /// Where it reads on.
    at: Option<(u32, u64)>,
    /// Read, not yet taken.
    left: Option<Entry>,
    used: Instant,
}

impl Scanners {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            kept: Mutex::default(),
        }
    }

    /// Reads `partition` from `from` up to `to`, as much as fits; blocks.
    pub(super) fn scan(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Result<Delivery, JournalError> {
        let mut gathering = Gathering::at(partition, from);
        if from >= to {
            return Ok(gathering.take());
        }
        let mut scanner = self.scanner(partition, from)?;
        scanner.read(&mut gathering, to, limit, &self.watch)?;
        scanner.at = Some((partition, gathering.end()));
        scanner.used = Instant::now();
        let mut kept = self.kept.lock();
        kept.retain(|kept| kept.used.elapsed() < KEPT_FOR);
        if kept.len() < KEPT_MAX {
            kept.push(scanner);
        }
        drop(kept);
        Ok(gathering.take())
    }

    /// The first offset accepted at or after `time`, the end if there is none; blocks.
    pub(super) fn offset_at(&self, partition: u32, time: Timestamp) -> Result<u64, JournalError> {
        let settings = self.watch.settings();
        let scanner = self.scanner(partition, u64::MAX)?;
        let millis = time.unix_nanos().div_euclid(1_000_000);
        // Kafka keeps milliseconds: what came in the rest of this one is taken as well.
        let asked = Offset::Offset(millis.max(0));
        let native = i32::try_from(partition).map_err(|error| io(error.to_string()))?;
        let mut list = TopicPartitionList::with_capacity(1);
        let found = list
            .add_partition_offset(&settings.topic, native, asked)
            .and_then(|()| {
                scanner
                    .consumer
                    .offsets_for_times(list, settings.patience())
            });
        let found = found.map_err(|error| io(words(error)))?;
        let offset = found.elements().first().map(|element| element.offset());
        match offset {
            Some(Offset::Offset(offset)) => Ok(u64::try_from(offset).unwrap_or_default()),
            _ => {
                let (_, high) = scanner
                    .consumer
                    .fetch_watermarks(&settings.topic, native, settings.patience())
                    .map_err(|error| io(words(error)))?;
                Ok(u64::try_from(high).unwrap_or_default())
            }
        }
    }

    /// One that reads on there if one is kept, any other, or a new one.
    fn scanner(&self, partition: u32, from: u64) -> Result<Scanner, JournalError> {
        let kept = {
            let identity = self.watch.seen().identity();
            let mut kept = self.kept.lock();
            kept.retain(|scanner| scanner.identity == identity);
            let fits = |scanner: &Scanner| scanner.at == Some((partition, from));
            let place = kept.iter().position(fits);
            let place = place.or_else(|| kept.len().checked_sub(1));
            place.map(|place| kept.swap_remove(place))
        };
        let mut scanner = match kept {
            Some(scanner) => scanner,
            None => self.open()?,
        };
        if from < u64::MAX && scanner.at != Some((partition, from)) {
            scanner.go_to(&self.watch.settings().topic, partition, from)?;
        }
        Ok(scanner)
    }

    fn open(&self) -> Result<Scanner, JournalError> {
        let settings = self.watch.settings();
        // The name of a group is needed to be given partitions by hand; there is no such group.
        let client = settings.reading(Some(&settings.group("scan")));
        let mut client = client.map_err(io)?;
        client.set("enable.partition.eof", "true");
        let made = client.create_with_context(Said::by("journal-scan"));
        Ok(Scanner {
            identity: self.watch.seen().identity(),
            consumer: made.map_err(|error| io(words(error)))?,
            at: None,
            left: None,
            used: Instant::now(),
        })
    }
}

impl Scanner {
    fn go_to(&mut self, topic: &str, partition: u32, from: u64) -> Result<(), JournalError> {
        let native = i32::try_from(partition).map_err(|error| io(error.to_string()))?;
        let offset = i64::try_from(from).map_or(Offset::End, Offset::Offset);
        let mut list = TopicPartitionList::with_capacity(1);
        self.left = None;
        list.add_partition_offset(topic, native, offset)
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|error| io(words(error)))
    }

    /// What the partition holds, asked now unless it is known to hold everything up to `to`.
    fn extent(&self, partition: u32, to: u64, watch: &Watch) -> Result<Extent, JournalError> {
        let seen = watch.seen().extent(partition);
        if let Some(seen) = seen.filter(|seen| seen.end >= to) {
            return Ok(seen);
        }
        let settings = watch.settings();
        let native = i32::try_from(partition).map_err(|error| io(error.to_string()))?;
        let marks = self
            .consumer
            .fetch_watermarks(&settings.topic, native, settings.patience());
        let (low, high) = marks.map_err(|error| io(words(error)))?;
        Ok(Extent {
            partition,
            start: u64::try_from(low).unwrap_or_default(),
            end: u64::try_from(high).unwrap_or_default(),
        })
    }

    /// Reads what there is up to `to`, as much as fits.
    fn read(
        &mut self,
        gathering: &mut Gathering,
        to: u64,
        limit: BatchLimit,
        watch: &Watch,
    ) -> Result<(), JournalError> {
        let partition = gathering.partition();
        let extent = self.extent(partition, to, watch)?;
        let to = to.min(extent.end);
        let bounds = (to, extent);
        if gathering.end() < extent.start.min(to) {
            gathering.miss(extent.start.min(to), EXPIRED);
        }
        if let Some(entry) = self.left.take() {
            self.left = take(gathering, entry.offset, bounds, limit, |body| {
                body.extend_from_slice(&entry.bytes);
                entry.is_event
            });
        }
        // An end that was told before may not be the end any more.
        let mut is_new = false;
        let mut news = Instant::now();
        while gathering.end() < to && self.left.is_none() && !gathering.is_full(limit) {
            let mut is_end = false;
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    news = Instant::now();
                    let offset = u64::try_from(message.offset()).unwrap_or_default();
                    let append = |body: &mut Vec<u8>| decode::append(&message, body);
                    self.left = take(gathering, offset, bounds, limit, append);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => is_end = true,
                Some(Err(_)) | None if news.elapsed() < NEWS_WAIT_MAX => {}
                Some(Err(error)) => return Err(io(words(error))),
                None => {
                    let last = self.consumer.client().context().last_error();
                    return Err(io(last.unwrap_or_else(|| "Kafka gives nothing".to_owned())));
                }
            }
            if is_end && is_new {
                // Marks of transactions are the last before the end.
                gathering.miss(to, NO_EVENTS);
            } else if is_end {
                is_new = true;
                self.go_to(&watch.settings().topic, partition, gathering.end())?;
            }
        }
        Ok(())
    }
}

/// Takes one that was read; what has to wait is given back.
fn take(
    gathering: &mut Gathering,
    offset: u64,
    (to, extent): (u64, Extent),
    limit: BatchLimit,
    append: impl FnOnce(&mut Vec<u8>) -> bool,
) -> Option<Entry> {
    // Read before it went elsewhere.
    if offset < gathering.end() {
        return None;
    }
    if offset > gathering.end() {
        let is_expired = offset <= extent.start;
        let why = if is_expired { EXPIRED } else { NO_EVENTS };
        gathering.miss(offset.min(to), why);
    }
    if offset >= to {
        let mut bytes = Vec::new();
        let is_event = append(&mut bytes);
        return Some(Entry {
            offset,
            bytes,
            is_event,
        });
    }
    gathering.add(offset, limit, append).err()
}

fn io(words: String) -> JournalError {
    JournalError::Io(words)
}
