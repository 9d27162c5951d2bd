//! Hands what is spilled to Kafka, in order, each event once, whenever the process is killed and however often Kafka goes away.
//!
//! One batch is under way at a time. Before the first of its events is sent, the cursor saves which they are and where the partitions
//! end (the [`Plan`]). They are sent by a producer of their own that never gives up: while it lives, Kafka itself knows what it
//! has of the batch, since the producer is idempotent. Where that producer ends before all is acknowledged (the process was killed, for
//! example), the topic is read from the saved ends on, the batch's events are found by their header, and the others are sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use telemetryx_common::wire;
use telemetryx_journal::{Entry, Reader, StoredRecord};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::super::super::{Position, Range};
use super::super::producer::{SendError, Sender};
use super::super::watch::Watch;
use super::finding::{self, Region};
use super::gate::Gate;
use super::moved::{Batch, Moved};
use super::store::{Plan, Store};
use crate::kafka::message::{self, Scratch};
use crate::observe::Metrics;

/// About so many bytes are handed over at a time.
const BATCH_BYTES: usize = 4 << 20;
/// So many events are handed to librdkafka without giving way to others.
const EVENTS_AT_ONCE: usize = 512;
/// How often it is looked whether Kafka is there.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After trouble with a batch.
const PAUSE: Duration = Duration::from_secs(1);
/// What a producer sent that is no more reaches the topic within this time after Kafka answers, or never.
const LATE_MAX: Duration = Duration::from_secs(3);
/// An acknowledgement as old as this says that Kafka takes events.
const PROVEN_FOR: Duration = Duration::from_secs(2);
/// How long an acknowledgement is waited for at the end.
const END_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longer than anybody waits.
const EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// See the module. All of it is one thread, which may wait for the disk and for Kafka.
pub(super) struct Drain {
    pub(super) watch: Arc<Watch>,
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<Gate>,
    pub(super) moved: Arc<Moved>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    pub(super) work: Work,
}

/// What it keeps from batch to batch.
#[derive(Default)]
pub(super) struct Work {
    reader: Option<Reader>,
    sender: Option<Sender>,
    /// Which clients are to be used: of these the sender is.
    clients: u64,
    acknowledged: Option<Instant>,
    /// Events since the spill was empty.
    handed_over: u64,
}

/// Why a batch is not handed over.
enum Trouble {
    /// The service ends.
    Stopped,
    /// It is tried again.
    Failed(String),
}

impl From<String> for Trouble {
    fn from(words: String) -> Self {
        Self::Failed(words)
    }
}

/// Events that are next.
struct Next {
    first: u64,
    /// The offset behind the last.
    to: u64,
    records: Vec<StoredRecord>,
}

impl Next {
    /// The events that can be read, each with its offset, without those in `there`.
    fn events<'n>(
        &'n self,
        there: &'n BTreeMap<u64, (u32, u64)>,
    ) -> impl Iterator<Item = (u64, telemetryx_common::Event<'n>)> {
        let events = self.records.iter().flat_map(|record| {
            let offsets = record.first.get()..record.end().get();
            offsets.zip(wire::events(&record.body))
        });
        let events = events.filter(|(offset, _)| !there.contains_key(offset));
        events.filter_map(|(offset, event)| Some((offset, event.ok()?)))
    }
}

impl Drain {
    /// Starts it; tells when it has ended. It has a thread of its own because requests may wait for it: those of the routes
    /// have a lower priority.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(self) -> Result<oneshot::Receiver<()>, String> {
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| error.to_string())?;
        let thread = std::thread::Builder::new().name("kafka-drain".to_owned());
        let run = move || {
            runtime.block_on(self.run());
            // Nobody may wait for it.
            end.send(()).ok();
        };
        thread.spawn(run).map_err(|error| error.to_string())?;
        Ok(ended)
    }

    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            if self.store.pending().events == 0 {
                self.idle().await;
                continue;
            }
            match self.hand_over().await {
                Ok(()) => {
                    self.work.acknowledged = Some(Instant::now());
                    self.store.no_trouble();
                }
                Err(Trouble::Stopped) => break,
                Err(Trouble::Failed(error)) => {
                    self.store.set_trouble(error);
                    self.work.sender = None;
                    self.work.reader = None;
                    self.work.acknowledged = None;
                    self.gate.give_up_holding();
                    self.sleep(PAUSE).await;
                }
            }
        }
    }

    async fn sleep(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// The spill is empty: appends may go to Kafka, if they do not already.
    async fn idle(&mut self) {
        let at = self.store.position();
        if self.gate.closed_since().is_none() {
            tokio::select! {
                comes = self.store.beyond(at) => if comes {
                    self.gate.close();
                } else {
                    self.sleep(PAUSE).await;
                },
                // It may be closed by an append for which there was no room.
                () = self.sleep(PAUSE) => {}
            }
            return;
        }
        if self.is_usable() && self.gate.hold().await {
            let is_empty = || self.store.pending().events == 0;
            if let Some(since) = self.gate.open(is_empty) {
                let events = std::mem::take(&mut self.work.handed_over);
                // The producer's memory is not needed any more.
                self.work.sender = None;
                self.work.reader = None;
                tracing::info!(events, %since, "Kafka has all that was spilled, and what comes now");
            }
            return;
        }
        tokio::select! {
            _ = self.store.beyond(at) => {}
            () = self.sleep(LOOK_EVERY) => {}
        }
    }

    fn is_usable(&self) -> bool {
        self.watch.is_ready() && self.watch.seen().problem().is_none()
    }

    /// Waits until Kafka is there.
    async fn usable(&self) -> Result<(), Trouble> {
        while !self.is_usable() {
            self.sleep(LOOK_EVERY).await;
            self.go_on()?;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Trouble> {
        if self.stop.is_cancelled() {
            Err(Trouble::Stopped)
        } else {
            Ok(())
        }
    }

    /// One batch.
    async fn hand_over(&mut self) -> Result<(), Trouble> {
        self.usable().await?;
        let begun = self.store.plan();
        let next = self.read(begun.as_ref().map(|plan| plan.to))?;
        let there = match begun {
            Some(plan) => self.find(&plan, next.first).await?,
            None => {
                self.store.begin(&self.plan(next.to))?;
                BTreeMap::new()
            }
        };
        let proven = self.work.acknowledged;
        if proven.is_some_and(|at| at.elapsed() < PROVEN_FOR) && self.store.end() <= next.to {
            self.gate.hold().await;
        }
        let sent = self.send(&next, &there).await?;
        let regions = regions(&sent, &there);
        self.settle(&next, regions).await?;
        self.work.handed_over += next.to - next.first;
        Ok(())
    }

    /// What comes next: up to that offset, if one is given.
    fn read(&mut self, to: Option<u64>) -> Result<Next, Trouble> {
        let first = self.store.position();
        let kept = self.work.reader.take();
        let mut reader = match kept.filter(|reader| reader.position().get() == first) {
            Some(reader) => reader,
            None => self.store.reader()?,
        };
        let mut next = Next {
            first,
            to: first,
            records: Vec::new(),
        };
        loop {
            let chunk = reader
                .next(BATCH_BYTES)
                .map_err(|error| Trouble::Failed(error.to_string()))?;
            if chunk.is_empty() {
                break;
            }
            for entry in chunk.entries {
                if to.is_some_and(|to| entry.end().get() > to) {
                    break;
                }
                next.to = entry.end().get();
                match entry {
                    Entry::Record(record) => next.records.push(record),
                    Entry::Gap { from, to, reason } => tracing::error!(
                        %from, %to, ?reason, "spilled events cannot be read back; they are lost"
                    ),
                }
            }
            if to.is_none_or(|to| reader.position().get() >= to) {
                break;
            }
        }
        if reader.position().get() == next.to {
            self.work.reader = Some(reader);
        }
        if next.to == first {
            return Err(Trouble::Failed("the spill cannot be read".to_owned()));
        }
        Ok(next)
    }

    fn plan(&self, to: u64) -> Plan {
        let extents = self.watch.seen().extents();
        Plan {
            to,
            journal: self.identity(),
            ends: extents.iter().map(|extent| extent.end).collect(),
        }
    }

    fn identity(&self) -> String {
        format!("{:032x}", self.watch.seen().identity())
    }

    /// Which events of a batch that was begun are in the topic.
    async fn find(&self, plan: &Plan, first: u64) -> Result<BTreeMap<u64, (u32, u64)>, Trouble> {
        if plan.journal != self.identity() {
            return Ok(BTreeMap::new());
        }
        // All brokers that lead a partition have answered: what waited for them in their sockets is about to be in the topic.
        let looked = self.watch.look_now().await;
        looked.map_err(|error| error.to_string())?;
        self.sleep(LATE_MAX).await;
        self.usable().await?;
        let partitions = 0..self.watch.seen().extents().len();
        let regions: Vec<_> = partitions
            .map(|partition| Region {
                partition: partition as u32,
                from: plan.ends.get(partition).copied().unwrap_or(0),
                to: None,
            })
            .collect();
        let (settings, id) = (self.watch.settings(), self.store.id());
        let stop = || self.stop.is_cancelled();
        let found = finding::find(settings, &regions, id, &(first..plan.to), stop)?;
        tracing::info!(
            begun = plan.to - first,
            found = found.len(),
            "a batch of the spill had been begun: what of it Kafka has is not sent again"
        );
        Ok(found)
    }

    fn sender(&mut self) -> Result<&Sender, Trouble> {
        let most = self.watch.message_bytes_max();
        let most = most.ok_or_else(|| "the topic is not known".to_owned())?;
        let work = &mut self.work;
        let clients = self.watch.clients();
        let kept = work.sender.take().filter(|_| work.clients == clients);
        work.clients = clients;
        let kept = kept.filter(|kept| kept.message_bytes_max() == most && kept.fatal().is_none());
        let sender = match kept {
            Some(kept) => kept,
            None => {
                let mut client = self.watch.settings().producing(most)?;
                // It is this producer that knows what Kafka has of a batch: it goes on for as long as it lives.
                client.set("message.timeout.ms", "0");
                Sender::open(&client, most)?
            }
        };
        Ok(work.sender.insert(sender))
    }

    /// Sends the events of the batch that are not there, and waits until Kafka has them, however long that takes.
    async fn send(
        &mut self,
        next: &Next,
        there: &BTreeMap<u64, (u32, u64)>,
    ) -> Result<Position, Trouble> {
        let count = next.events(there).count();
        let held: u64 = next.records.iter().map(|one| u64::from(one.events)).sum();
        let wanted = held.saturating_sub(there.len() as u64);
        if (count as u64) < wanted {
            // The store checks its bytes, so this is a fault of ours.
            self.metrics.internal_errors.increment(1);
            tracing::error!(wanted, count, "spilled events cannot be decoded");
        }
        if count == 0 {
            let ranges = SmallVec::new();
            return Ok(Position { ranges });
        }
        let (settings, stop) = (Arc::clone(self.watch.settings()), self.stop.clone());
        let (id, watch) = (self.store.id(), Arc::clone(&self.watch));
        let sender = self.sender()?;
        let clients = watch.clients();
        let bytes = next.records.iter().map(|record| record.body.len()).sum();
        let sending = sender
            .begin(u32::try_from(count).unwrap_or(u32::MAX), bytes)
            .map_err(failed)?;
        let ever = tokio::time::Instant::now() + EVER;
        let mut scratch = Scratch::default();
        for (number, (offset, event)) in next.events(there).enumerate() {
            loop {
                let mut record = message::record(
                    &settings.topic,
                    settings.format,
                    "event_id",
                    &event,
                    &mut scratch,
                    Arc::clone(&sending),
                )
                .timestamp(message::millis(event.received_at));
                record.headers = Some(finding::mark(record.headers.take(), id, offset));
                if sender.send(&sending, record).map_err(failed)? {
                    break;
                }
                sender.room(&sending, ever).await.map_err(failed)?;
            }
            if number % EVENTS_AT_ONCE == EVENTS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        let acknowledged = sender.acknowledged(&sending, ever);
        tokio::pin!(acknowledged);
        loop {
            tokio::select! {
                sent = &mut acknowledged => return sent.map_err(failed),
                () = stop.cancelled() => {
                    let sent = tokio::time::timeout(END_WAIT_MAX, &mut acknowledged).await;
                    return sent.map_err(|_| Trouble::Stopped)?.map_err(failed);
                }
                () = tokio::time::sleep(PAUSE) => {
                    if watch.clients() != clients {
                        let words = "its passwords or certificates are no longer those of now";
                        return Err(Trouble::Failed(words.to_owned()));
                    }
                }
            }
        }
    }

    /// Kafka has the batch: tells where, and goes on behind it.
    async fn settle(&self, next: &Next, regions: BTreeMap<u32, (u64, u64)>) -> Result<(), Trouble> {
        let ranges = regions.iter().map(|(partition, (from, to))| Range {
            partition: *partition,
            first: *from,
            events: u32::try_from(to - from).unwrap_or(u32::MAX),
        });
        let position = Position {
            ranges: ranges.collect(),
        };
        let regions = regions.into_iter();
        let regions = regions.map(|(partition, (from, to))| (partition, from, to));
        let batch = Batch {
            to: next.to,
            regions: regions.collect(),
        };
        let id = self.store.id();
        loop {
            let told = async {
                let sender = self.watch.sender().map_err(|error| error.to_string())?;
                self.moved.tell(id, next.first, batch.clone()).await?;
                self.watch.appended(&position, &sender).await
            };
            match told.await {
                Ok(()) => break,
                Err(error) => {
                    self.store
                        .set_trouble(format!("where they went cannot be told: {error}"));
                    self.gate.give_up_holding();
                    self.sleep(LOOK_EVERY).await;
                    self.go_on()?;
                    self.usable().await?;
                }
            }
        }
        self.store.finish(next.to)?;
        Ok(())
    }
}

/// The part of each partition in which events of the batch are.
fn regions(sent: &Position, there: &BTreeMap<u64, (u32, u64)>) -> BTreeMap<u32, (u64, u64)> {
    let sent = sent.ranges.iter();
    let sent = sent.map(|range| (range.partition, range.first, range.end()));
    let there = there.values();
    let there = there.map(|(partition, offset)| (*partition, *offset, offset + 1));
    let mut regions = BTreeMap::new();
    for (partition, from, to) in sent.chain(there) {
        let region = regions.entry(partition).or_insert((from, to));
        *region = (region.0.min(from), region.1.max(to));
    }
    regions
}

fn failed(error: SendError) -> Trouble {
    Trouble::Failed(match error {
        SendError::Full => "there is no room for the batch".to_owned(),
        SendError::TooLarge => {
            "an event is larger than the topic takes now: raise its max.message.bytes".to_owned()
        }
        SendError::Failed(words) => words,
    })
}
