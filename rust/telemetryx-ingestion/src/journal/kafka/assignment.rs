//! A partition that this process reads for a route, until the group gives it to another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::{Assignment, Extent, JournalError, Subscription};
use super::blocking;
use super::reader::{Member, Reader, RouteConsumer};
use super::seen::Name;
use super::subscription::KafkaSubscription;
use crate::kafka::code_of;
use crate::kafka::settings::words;

/// Kafka keeps so much with a position, unless brokers are told otherwise (`offset.metadata.max.bytes`).
const METADATA_BYTES_MAX: usize = 4096;
/// What is left of that for what a route saves.
pub(super) const STATE_BYTES_MAX: usize = METADATA_BYTES_MAX - MARK_BYTES;
/// What stands before the state: which topic the position is of. Kafka removes the positions in a topic with the topic, but
/// not one that is committed while it does, which would be taken for a position in the topic that comes after.
const MARK_BYTES: usize = "~0123456789abcdef~".len();
/// librdkafka begins a partition in the background, and cannot go elsewhere in it before.
const SEEK_WAIT_MAX: Duration = Duration::from_secs(5);
const SEEK_PAUSE: Duration = Duration::from_millis(20);
/// How long a commit waits for a group that is formed anew.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(3);
const COMMIT_PAUSE: Duration = Duration::from_millis(50);

/// A position, and what was saved with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) position: u64,
    pub(super) state: Bytes,
}

impl Start {
    /// What a group committed in the topic of that id, if it did.
    pub(super) fn of(element: &TopicPartitionListElem<'_>, topic_id: Option<u128>) -> Option<Self> {
        let Offset::Offset(position) = element.offset() else {
            return None;
        };
        let (of_topic, state) = unmarked(element.metadata());
        let differ = |(committed, now)| committed != now;
        if of_topic.zip(topic_id.map(brief)).is_some_and(differ) {
            return None;
        }
        Some(Self {
            position: u64::try_from(position).ok()?,
            state: Bytes::copy_from_slice(state.as_bytes()),
        })
    }

    pub(super) fn offset(&self) -> Offset {
        offset(self.position)
    }
}

/// As much of a topic's id as is enough to tell it from that of the topic before.
fn brief(topic_id: u128) -> u64 {
    topic_id as u64
}

/// What is committed with a position in the topic of that id.
fn marked(topic_id: Option<u128>, state: &str) -> String {
    match topic_id.map(brief) {
        Some(id) => format!("~{id:016x}~{state}"),
        None => state.to_owned(),
    }
}

/// The topic that it was committed in, if that is known, and the state.
fn unmarked(metadata: &str) -> (Option<u64>, &str) {
    let parts = metadata.split_at_checked(MARK_BYTES);
    let id = parts.and_then(|(mark, _)| {
        let id = mark.strip_prefix('~')?.strip_suffix('~')?;
        u64::from_str_radix(id, 16).ok()
    });
    match (id, parts) {
        (Some(id), Some((_, state))) => (Some(id), state),
        _ => (None, metadata),
    }
}

fn offset(position: u64) -> Offset {
    i64::try_from(position).map_or(Offset::End, Offset::Offset)
}

/// How long a partition may hold less than was seen of it: longer than it takes to see that the topic is another one.
const DOUBT_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Held {
    /// Of the topic, as it was when the group gave it to this process.
    name: Name,
    partition: u32,
    reader: Arc<Reader>,
    revoked: CancellationToken,
    /// Where librdkafka began, if that was known; taken by the first to open.
    start: Mutex<Option<Option<Start>>>,
    /// The events; `None` once it is not ours any more.
    queue: Mutex<Option<PartitionQueue<Member>>>,
    /// There may be some in the queue.
    news: Arc<Notify>,
    /// True once nothing may be committed any more. Held while something is.
    is_over: Mutex<bool>,
    is_dropped: Mutex<bool>,
    dropping: Condvar,
    /// Since when the partition holds less than was seen of it.
    doubted: Mutex<Option<Instant>>,
}

impl Held {
    pub(super) fn new(
        name: Name,
        partition: u32,
        reader: Arc<Reader>,
        mut queue: PartitionQueue<Member>,
        start: Option<Option<Start>>,
    ) -> Self {
        let news = Arc::new(Notify::new());
        let woken = Arc::clone(&news);
        queue.set_nonempty_callback(move || woken.notify_one());
        Self {
            name,
            partition,
            reader,
            revoked: CancellationToken::new(),
            start: Mutex::new(start),
            queue: Mutex::new(Some(queue)),
            news,
            is_over: Mutex::new(false),
            is_dropped: Mutex::new(false),
            dropping: Condvar::new(),
            doubted: Mutex::new(None),
        }
    }

    pub(super) fn partition(&self) -> u32 {
        self.partition
    }

    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    pub(super) fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }

    pub(super) fn queue(&self) -> &Mutex<Option<PartitionQueue<Member>>> {
        &self.queue
    }

    /// What the partition holds, as it was last seen.
    pub(super) fn extent(&self) -> Option<Extent> {
        self.reader.watch().seen().extent(self.partition)
    }

    /// Waits until there may be something in the queue.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Waits until the route does not use it any more; blocks. False: it still does.
    pub(super) fn wait_dropped(&self, until: Instant) -> bool {
        let mut dropped = self.is_dropped.lock();
        while !*dropped {
            if self.dropping.wait_until(&mut dropped, until).timed_out() {
                return *dropped;
            }
        }
        true
    }

    /// It is not ours any more; waits for a commit that is under way.
    pub(super) fn end(&self) {
        *self.is_over.lock() = true;
        self.queue.lock().take();
        self.news.notify_one();
    }

    pub(super) fn lost(&self) -> JournalError {
        JournalError::Lost(format!("partition {}", self.partition))
    }

    fn consumer(&self) -> Result<Arc<RouteConsumer>, JournalError> {
        let consumer = self.reader.consumer();
        consumer.ok_or_else(|| self.lost())
    }

    fn native(&self) -> Result<i32, JournalError> {
        i32::try_from(self.partition).map_err(|error| JournalError::Io(error.to_string()))
    }

    /// Reads on from there; blocks unless `patience` is zero.
    pub(super) fn seek(&self, position: u64, patience: Duration) -> Result<(), JournalError> {
        let (consumer, partition) = (self.consumer()?, self.native()?);
        let topic = &self.reader.watch().settings().topic;
        let begun = Instant::now();
        loop {
            match consumer.seek(topic, partition, offset(position), patience) {
                Ok(()) => return Ok(()),
                Err(_) if self.revoked.is_cancelled() => return Err(self.lost()),
                Err(error) if patience.is_zero() || begun.elapsed() > SEEK_WAIT_MAX => {
                    return Err(JournalError::Io(words(error)));
                }
                Err(_) => std::thread::sleep(SEEK_PAUSE),
            }
        }
    }

    /// A partition never begins or ends earlier than it did. One that does may be of a topic that was made anew, whose events
    /// must not be taken for those of the former one; a leader that is new may not know of all yet. Both are over soon: what
    /// lasts is a loss, and read.
    ///
    /// # Errors
    /// It holds less, and has not for long.
    fn check_known(&self, low: u64, high: u64) -> Result<(), JournalError> {
        let mut doubted = self.doubted.lock();
        let seen = self.extent();
        if !seen.is_some_and(|seen| low < seen.start || high < seen.end) {
            *doubted = None;
            return Ok(());
        }
        if doubted.get_or_insert_with(Instant::now).elapsed() > DOUBT_MAX {
            return Ok(());
        }
        let words =
            "the partition holds less than was seen of it: the topic may have been made anew";
        Err(JournalError::Io(words.to_owned()))
    }

    /// Goes to the last commit, or the oldest event if there is none; blocks.
    fn open(&self) -> Result<Start, JournalError> {
        let (consumer, partition) = (self.consumer()?, self.native()?);
        let settings = self.reader.watch().settings();
        let (topic, patience) = (&settings.topic, settings.patience());
        let io = |error: KafkaError| match self.revoked.is_cancelled() {
            true => self.lost(),
            false => JournalError::Io(words(error)),
        };
        // Both hold what is there now; librdkafka is where it began only as long as nothing was read.
        let begun_at = self.start.lock().take();
        let committed = match &begun_at {
            Some(start) => start.clone(),
            None => {
                let mut list = TopicPartitionList::with_capacity(1);
                list.add_partition(topic, partition);
                let found = consumer.committed_offsets(list, patience).map_err(io)?;
                let found = found.elements();
                found
                    .first()
                    .and_then(|found| Start::of(found, self.name.topic_id))
            }
        };
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, patience)
            .map_err(io)?;
        let low = u64::try_from(low).unwrap_or_default();
        let high = u64::try_from(high).unwrap_or_default();
        self.check_known(low, high)?;
        let mut is_there = begun_at.is_some();
        let start = match committed {
            Some(start) if start.position > high => {
                tracing::error!(
                    route = self.reader.route(),
                    partition = self.partition,
                    position = start.position,
                    end = high,
                    "the partition ends before the position of the route: brokers lost what they had acknowledged; \
                     the route goes on at the end"
                );
                is_there = false;
                Start {
                    position: high,
                    ..start
                }
            }
            Some(start) => start,
            None => Start {
                position: low,
                state: Bytes::new(),
            },
        };
        if !is_there {
            self.seek(start.position, patience)?;
        }
        Ok(start)
    }

    /// Commits; blocks.
    pub(super) fn commit(&self, position: u64, state: &str) -> Result<(), JournalError> {
        let begun = Instant::now();
        loop {
            let error = match self.commit_once(position, state)? {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match code_of(&error) {
                RDKafkaErrorCode::OffsetMetadataTooLarge => {
                    return Err(JournalError::StateTooLarge {
                        bytes: state.len(),
                        most: STATE_BYTES_MAX,
                    });
                }
                // While the group is formed anew nobody can commit; what is kept here can be soon. What is not kept is
                // told by the group, and then it is over.
                RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                    if begun.elapsed() < COMMIT_WAIT_MAX =>
                {
                    std::thread::sleep(COMMIT_PAUSE);
                }
                code => {
                    return Err(JournalError::Io(format!(
                        "the position is not saved: {code}"
                    )));
                }
            }
        }
    }

    /// Commits, unless it is over.
    fn commit_once(
        &self,
        position: u64,
        state: &str,
    ) -> Result<Result<(), KafkaError>, JournalError> {
        // Once it is over, the group may have let this process in again, and would take what it says of a partition that
        // is another's.
        let over = self.is_over.lock();
        if *over {
            return Err(self.lost());
        }
        let (consumer, partition) = (self.consumer()?, self.native()?);
        let topic = &self.reader.watch().settings().topic;
        let mut list = TopicPartitionList::with_capacity(1);
        let mut element = list.add_partition(topic, partition);
        element
            .set_offset(offset(position))
            .map_err(|error| JournalError::Io(error.to_string()))?;
        element.set_metadata(marked(self.name.topic_id, state));
        let committed = consumer.commit(&list, CommitMode::Sync);
        drop(over);
        Ok(committed)
    }
}

/// What the route holds.
pub(super) struct KafkaAssignment(Arc<Held>);

impl KafkaAssignment {
    pub(super) fn new(held: Arc<Held>) -> Self {
        Self(held)
    }
}

impl Drop for KafkaAssignment {
    fn drop(&mut self) {
        *self.0.is_dropped.lock() = true;
        self.0.dropping.notify_all();
    }
}

#[async_trait]
impl Assignment for KafkaAssignment {
    fn partition(&self) -> u32 {
        self.0.partition
    }

    fn identity(&self) -> u128 {
        self.0.name.identity
    }

    fn revoked(&self) -> CancellationToken {
        self.0.revoked.clone()
    }

    async fn open(&self) -> Result<Box<dyn Subscription>, JournalError> {
        let held = Arc::clone(&self.0);
        let opened = blocking(move || {
            let start = held.open()?;
            Ok((held, start))
        });
        let (held, start) = opened.await?;
        Ok(Box::new(KafkaSubscription::new(held, start)))
    }
}
