//! The engine on local disk: the crate `telemetryx-journal`, and what it lacks for events: cutting records at event
//! boundaries, since a client's batch and a route's batch are not of one size.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use telemetryx_common::Timestamp;
use telemetryx_journal::{
    CursorError, Entry, FsyncPolicy, GapReason, Health, JournalOptions, MAX_STATE_BYTES, Observer,
    Offset, OpenError, ReadError, Reader, Record, Retention,
};
use tokio_util::sync::CancellationToken;

use super::reserve::{self, Reserve};
use super::{
    AppendError, Assignment, Assignments, Backlog, BatchLimit, Committed, Delivery, DeliveryId,
    Durability, EncodedBatch, Extent, Journal, JournalError, JournalStatus, Position, Range, Slice,
    Subscription,
};
use crate::config::{EmbeddedConfig, Fsync};
use crate::observe::Metrics;

/// Its only partition.
const PARTITION: u32 = 0;
/// Bytes read at a time when a range is read for a receipt or a replay.
const READ_BYTES: usize = 1 << 20;

/// The journal in `<data_dir>/journal`.
pub struct EmbeddedJournal {
    journal: telemetryx_journal::Journal,
    durability: Durability,
    metrics: Arc<Metrics>,
    /// For what routes append.
    reserve: Option<Reserve>,
}

impl EmbeddedJournal {
    /// Opens or makes the journal in `folder`. Routes that append themselves get room on the disk of their own, beside it.
    ///
    /// # Errors
    /// [`OpenError`]: in use by another process, not readable, not ours. Nothing was changed.
    pub fn open(
        folder: &Path,
        config: &EmbeddedConfig,
        routes_append: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let (fsync, durability) = match config.fsync {
            Fsync::Always => (FsyncPolicy::Always, Durability::Fsynced),
            Fsync::Interval => (
                FsyncPolicy::Interval(config.fsync_interval.into()),
                Durability::FsyncInterval,
            ),
        };
        let options = JournalOptions {
            segment_bytes: config.segment_size.bytes(),
            fsync,
            retain: Retention {
                bytes: Some(config.retain.bytes.bytes()),
                age: config.retain.age.map(Into::into),
            },
            observer: Some(Arc::new(GroupMetrics(Arc::clone(&metrics)))),
            ..JournalOptions::default()
        };
        let journal = telemetryx_journal::Journal::open(folder, options)?;
        let room = folder.with_extension("reserve");
        let reserve = routes_append.then(|| Reserve::new(&room, config.segment_size.bytes()));
        if reserve.is_none() {
            reserve::remove(&room);
        }
        Ok(Self {
            journal,
            durability,
            metrics,
            reserve,
        })
    }

    /// Since when what is left of the disk is the routes' alone, if it is.
    fn is_kept_since(&self) -> Option<Timestamp> {
        self.reserve.as_ref().and_then(Reserve::spent_since)
    }

    /// Positions of routes that are not in `routes`: they hold back retention until their files are removed.
    #[must_use]
    pub fn unused_cursors(&self, routes: &[String]) -> Vec<String> {
        self.journal
            .cursor_names()
            .into_iter()
            .filter(|name| !routes.contains(name))
            .collect()
    }
}

/// Records how long syncs take and how many share one.
pub(super) struct GroupMetrics(pub(super) Arc<Metrics>);

/// What its caller is told of a batch that was not appended.
pub(super) fn refusal(fault: telemetryx_journal::AppendError) -> AppendError {
    use telemetryx_journal::AppendError as Fault;
    match fault {
        Fault::Full { .. } => AppendError::Full,
        Fault::TooLarge { limit, .. } => AppendError::TooLarge {
            what: "the encoded batch",
            limit: format!("{limit} bytes of a record of the journal"),
        },
        Fault::NoSpace => AppendError::NoSpace,
        Fault::Closed => AppendError::Closed,
        Fault::SyncFailed { .. } | Fault::Unhealthy { .. } | Fault::NoEvents => {
            AppendError::Unwritable(fault.to_string())
        }
    }
}

impl Observer for GroupMetrics {
    fn group_committed(
        &self,
        _records: usize,
        events: u64,
        _bytes: u64,
        _write: Duration,
        sync: Duration,
    ) {
        self.0.fsync.record(sync.as_secs_f64());
        self.0.group_events.record(events as f64);
    }
}

#[async_trait]
impl Journal for EmbeddedJournal {
    async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError> {
        if !batch.is_own && self.is_kept_since().is_some() {
            return Err(AppendError::NoSpace);
        }
        let (started, is_own) = (Instant::now(), batch.is_own);
        let (earliest, latest) = (batch.earliest.unix_nanos(), batch.latest.unix_nanos());
        let position = self
            .journal
            .append(Record::new(batch.body, batch.events, earliest, latest))
            .await;
        self.metrics.append.record(started.elapsed().as_secs_f64());
        match position {
            Ok(position) => Ok(Position::of(Range {
                partition: PARTITION,
                first: position.first.get(),
                events: position.events,
            })),
            Err(fault) => {
                let refusal = refusal(fault);
                // Whoever appends for a route tries again.
                if let (AppendError::NoSpace, Some(reserve), true) =
                    (&refusal, &self.reserve, is_own)
                {
                    reserve.spend();
                }
                Err(refusal)
            }
        }
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    async fn subscribe(&self, route: &str) -> Result<Box<dyn Assignments>, JournalError> {
        Ok(Box::new(Whole(Some(EmbeddedAssignment {
            journal: self.journal.clone(),
            route: route.to_owned(),
        }))))
    }

    fn backlog(&self) -> Backlog {
        let backlog = self.journal.backlog();
        Backlog {
            events: backlog.events,
            bytes: backlog.bytes,
        }
    }

    fn identity(&self) -> u128 {
        self.journal.id()
    }

    fn status(&self) -> JournalStatus {
        let status = self.journal.status();
        let time = |nanos| Timestamp::from_unix_nanos(nanos).to_string();
        let (state, reason, since) = match status.health {
            Health::Ok => match self.is_kept_since() {
                None => ("ok", None, None),
                Some(since) => (
                    "no_space",
                    Some("no space left on the device but what is kept for the routes".into()),
                    Some(since.to_string()),
                ),
            },
            Health::Unhealthy { since, reason } => {
                ("unhealthy", Some(reason.to_string()), Some(time(since)))
            }
            Health::NoSpace { since } => (
                "no_space",
                Some("no space left on the device".into()),
                Some(time(since)),
            ),
        };
        JournalStatus {
            engine: "embedded",
            state,
            reason,
            since,
            start_offset: status.start.get(),
            end_offset: status.end.get(),
            segments: Some(status.segments),
            bytes: status.bytes,
            damage: status.damage.iter().map(ToString::to_string).collect(),
            warnings: Vec::new(),
            spill: None,
        }
    }

    fn extents(&self) -> Vec<Extent> {
        vec![Extent {
            partition: PARTITION,
            start: self.journal.start().get(),
            end: self.journal.durable_end().get(),
        }]
    }

    fn commits(&self, _route: &str) -> Vec<Committed> {
        // This process is all there is: what its routes say is newer.
        Vec::new()
    }

    async fn saved(&self, route: &str) -> Result<Vec<Committed>, JournalError> {
        let saved = tokio::task::block_in_place(|| self.journal.saved(route))?;
        let committed = saved.map(|(position, state)| Committed {
            partition: PARTITION,
            position: position.get(),
            state: state.into(),
        });
        Ok(committed.into_iter().collect())
    }

    fn state_bytes_max(&self) -> usize {
        MAX_STATE_BYTES
    }

    async fn refresh(&self) -> Result<(), JournalError> {
        Ok(())
    }

    async fn scan(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Result<Delivery, JournalError> {
        let mut delivery = Delivery::at(partition, from);
        if from >= to {
            return Ok(delivery);
        }
        let mut reader = self.journal.reader(Offset::new(from))?;
        while delivery.end < to {
            let chunk = reader.next(limit.bytes.min(READ_BYTES))?;
            if chunk.is_empty() {
                break;
            }
            for entry in chunk.entries {
                let room = usize::try_from(to - delivery.end).unwrap_or(usize::MAX);
                let limit = BatchLimit {
                    events: limit
                        .events
                        .min(delivery_events(&delivery).saturating_add(room)),
                    ..limit
                };
                if take(&mut delivery, entry, limit).is_some() || delivery.end >= to {
                    return Ok(delivery);
                }
            }
        }
        Ok(delivery)
    }

    async fn offset_at(&self, _partition: u32, time: Timestamp) -> Result<u64, JournalError> {
        Ok(self.journal.offset_at(time.unix_nanos())?.get())
    }

    async fn close(&self) {
        if let Err(error) = self.journal.close().await {
            tracing::error!(%error, "the journal was not closed cleanly; nothing acknowledged is lost");
        }
    }
}

/// The one partition, once; then nothing for ever.
struct Whole(Option<EmbeddedAssignment>);

#[async_trait]
impl Assignments for Whole {
    async fn next(&mut self) -> Result<Box<dyn Assignment>, JournalError> {
        let whole = self.0.take().ok_or(JournalError::Closed)?;
        Ok(Box::new(whole))
    }
}

struct EmbeddedAssignment {
    journal: telemetryx_journal::Journal,
    route: String,
}

#[async_trait]
impl Assignment for EmbeddedAssignment {
    fn partition(&self) -> u32 {
        PARTITION
    }

    fn identity(&self) -> u128 {
        self.journal.id()
    }

    fn revoked(&self) -> CancellationToken {
        CancellationToken::new()
    }

    async fn open(&self) -> Result<Box<dyn Subscription>, JournalError> {
        let cursor = self.journal.cursor(&self.route)?;
        if let Some(slot) = cursor.damaged_slot() {
            tracing::warn!(
                route = self.route,
                slot,
                "one of two cursor slots is damaged; the other one is used"
            );
        }
        let position = cursor.position();
        let reader = self.journal.reader(position)?;
        Ok(Box::new(EmbeddedSubscription {
            journal: self.journal.clone(),
            cursor,
            reader,
            queue: VecDeque::new(),
            under_way: Delivery::at(PARTITION, position.get()),
            waiting_since: None,
        }))
    }
}

struct EmbeddedSubscription {
    journal: telemetryx_journal::Journal,
    cursor: telemetryx_journal::Cursor,
    reader: Reader,
    /// Read, not yet taken.
    queue: VecDeque<Entry>,
    /// Taken, not yet handed out: kept here so that `next` may be cancelled while it waits for more.
    under_way: Delivery,
    /// Since when it waits there.
    waiting_since: Option<Instant>,
}

#[async_trait]
impl Subscription for EmbeddedSubscription {
    async fn next(&mut self, limit: BatchLimit) -> Result<Delivery, JournalError> {
        loop {
            while let Some(entry) = self.queue.pop_front() {
                let rest = take(&mut self.under_way, entry, limit);
                if rest.is_some() || self.under_way.is_full(limit) {
                    if let Some(rest) = rest {
                        self.queue.push_front(rest);
                    }
                    return Ok(self.hand_out());
                }
            }
            let bytes = limit.bytes.min(READ_BYTES);
            let chunk = tokio::task::block_in_place(|| self.reader.next(bytes))?;
            self.queue.extend(chunk.entries);
            if !self.queue.is_empty() {
                continue;
            }
            let more = self.journal.wait_beyond(self.reader.position());
            if self.under_way.is_empty() {
                more.await.map_err(|_| JournalError::Closed)?;
                continue;
            }
            let flush_at = *self.waiting_since.get_or_insert_with(Instant::now) + limit.wait;
            if tokio::time::timeout_at(flush_at.into(), more)
                .await
                .is_ok_and(|more| more.is_ok())
            {
                continue;
            }
            return Ok(self.hand_out());
        }
    }

    fn has_more(&self) -> bool {
        !self.queue.is_empty()
            || !self.under_way.is_empty()
            || self.reader.position() < self.journal.durable_end()
    }

    fn position(&self) -> u64 {
        self.under_way.first
    }

    fn state(&self) -> &[u8] {
        self.cursor.state()
    }

    async fn commit(&mut self, delivered: DeliveryId, state: &[u8]) -> Result<(), JournalError> {
        let position = Offset::new(delivered.0);
        Ok(tokio::task::block_in_place(|| {
            self.cursor.commit(position, state)
        })?)
    }
}

impl EmbeddedSubscription {
    fn hand_out(&mut self) -> Delivery {
        self.waiting_since = None;
        let next = Delivery::at(PARTITION, self.under_way.end);
        std::mem::replace(&mut self.under_way, next)
    }
}

fn delivery_events(delivery: &Delivery) -> usize {
    usize::try_from(delivery.end - delivery.first).unwrap_or(usize::MAX)
}

/// Adds as much of `entry` to `delivery` as fits `limit`; what does not fit comes back, and the delivery is full then.
fn take(delivery: &mut Delivery, entry: Entry, limit: BatchLimit) -> Option<Entry> {
    let mut record = match entry {
        Entry::Gap { from, to, reason } => {
            if to > from {
                let why = match reason {
                    GapReason::Expired => "removed before this route came to them",
                    GapReason::Damaged => "damaged on disk",
                };
                delivery.miss(to.get(), why);
            }
            return None;
        }
        Entry::Record(record) => record,
    };
    let slice = Slice {
        first: record.first.get(),
        events: record.events,
        body: std::mem::take(&mut record.body),
    };
    let rest = delivery.add(slice, limit)?;
    record.first = Offset::new(rest.first);
    record.events = rest.events;
    record.body = rest.body;
    Some(Entry::Record(record))
}

impl From<CursorError> for JournalError {
    fn from(error: CursorError) -> Self {
        match error {
            CursorError::Io { .. } | CursorError::InUse { .. } => Self::Io(error.to_string()),
            CursorError::StateTooLarge { bytes, .. } => Self::StateTooLarge {
                bytes,
                most: MAX_STATE_BYTES,
            },
            CursorError::Closed { .. } => Self::Closed,
            CursorError::Name { .. }
            | CursorError::Damaged { .. }
            | CursorError::OutOfRange { .. } => Self::DamagedCursor(error.to_string()),
        }
    }
}

impl From<ReadError> for JournalError {
    fn from(error: ReadError) -> Self {
        Self::Io(error.to_string())
    }
}
