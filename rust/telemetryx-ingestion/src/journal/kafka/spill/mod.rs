//! `journal.kafka.spill: embedded`: while Kafka is away events are accepted onto this machine's disk, and handed to Kafka, in
//! order, when it is back.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | [`SpillJournal`]: the journal in Kafka with a spill in front of it |
//! | `gate.rs` | where the next append goes |
//! | `store.rs` | what is spilled, on disk |
//! | `drain.rs` | hands it to Kafka, each event once |
//! | `finding.rs` | finds in the topic what was handed over |
//! | `moved.rs` | where spilled events went, so that their receipts hold |
//!
//! An append that was on its way to Kafka when it went away is not spilled: Kafka may have it. It fails when
//! `delivery_timeout` is over, as without a spill. Those that come later are.

mod drain;
mod finding;
mod gate;
mod moved;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use smallvec::SmallVec;
use telemetryx_common::Timestamp;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::drain::{Drain, Work};
use self::gate::{Gate, Way};
use self::moved::Moved;
use self::store::{Store, is_spilled};
use super::super::{
    AppendError, Assignments, Backlog, BatchLimit, Committed, Delivery, Durability, EncodedBatch,
    Extent, Journal, JournalError, JournalStatus, Located, Position, Range, SharedTable,
    SpillStatus,
};
use super::topic::MESSAGE_BYTES_USUAL;
use super::{KafkaJournal, blocking, fits, too_large};
use crate::clock;
use crate::observe::Metrics;

pub use self::store::left_over;

/// The longest wait for what others may have changed.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long the drain may take to end.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// The journal in Kafka, with a spill in front of it.
pub struct SpillJournal {
    kafka: Arc<KafkaJournal>,
    moved: Arc<Moved>,
    spill: Option<Spill>,
    /// False: what is spilled is handed over, and nothing is added.
    accepts: bool,
}

/// What a process has that spills, or did.
struct Spill {
    store: Arc<Store>,
    gate: Arc<Gate>,
    stop: CancellationToken,
    /// Told when the drain has ended.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl SpillJournal {
    /// Puts the spill in `folder` in front of `kafka`; without one it only knows of those of other processes. Adds to it if
    /// this process `accepts` events, up to so many bytes.
    ///
    /// # Errors
    /// Why the folder cannot be used, for a person.
    pub fn open(
        kafka: Arc<KafkaJournal>,
        folder: Option<&Path>,
        accepts: bool,
        bytes_max: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let moved = Arc::new(Moved::follow(&kafka.watch)?);
        let spill = folder.map(|folder| {
            let store = Arc::new(Store::open(folder, bytes_max, Arc::clone(&metrics))?);
            let events = store.pending().events;
            // Whatever can be read of them: what comes now is behind them.
            let oldest = (events > 0).then(|| store.oldest().unwrap_or_else(clock::now));
            if events > 0 {
                tracing::info!(
                    events,
                    "events of an earlier run are spilled; Kafka gets them first"
                );
            }
            let gate = Arc::new(Gate::new(oldest));
            let stop = CancellationToken::new();
            let drain = Drain {
                watch: Arc::clone(&kafka.watch),
                store: Arc::clone(&store),
                gate: Arc::clone(&gate),
                moved: Arc::clone(&moved),
                metrics,
                stop: stop.clone(),
                work: Work::default(),
            };
            Ok::<_, String>(Spill {
                store,
                gate,
                stop,
                ended: Mutex::new(Some(drain.start()?)),
            })
        });
        Ok(Self {
            kafka,
            moved,
            spill: spill.transpose()?,
            accepts,
        })
    }

    fn pending(&self) -> Backlog {
        let spill = self.spill.as_ref();
        spill.map(|spill| spill.store.pending()).unwrap_or_default()
    }

    /// The spill of this identity, if it is this process's.
    fn own(&self, id: u128) -> Option<&Spill> {
        self.spill.as_ref().filter(|spill| spill.store.id() == id)
    }

    async fn append_to(&self, spill: &Spill, batch: EncodedBatch) -> Result<Position, AppendError> {
        if self.kafka.watch.is_closed() {
            return Err(AppendError::Closed);
        }
        let (sender, away) = match self.kafka.watch.seen().problem() {
            Some(problem) => (None, Some(problem.reason)),
            None => match self.kafka.watch.sender() {
                Ok(sender) => (Some(sender), None),
                Err(AppendError::Closed) => return Err(AppendError::Closed),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        match (spill.gate.enter(away.as_deref()).await, sender) {
            (Way::Kafka(flight), Some(sender)) => {
                let appended = self.kafka.append_with(batch, &sender).await;
                if appended.is_ok() {
                    flight.acknowledged();
                }
                appended
            }
            (Way::Kafka(_), None) => Err(AppendError::Unavailable(away.unwrap_or_default())),
            (Way::Spill(_entering), _) => {
                let most = self.kafka.watch.message_bytes_max();
                // What Kafka could not take would be in its way for ever.
                let settings = self.kafka.watch.settings();
                if !fits(&batch, settings.format, most.unwrap_or(MESSAGE_BYTES_USUAL)) {
                    return Err(too_large(most, &settings.topic));
                }
                spill.store.append(batch).await
            }
        }
    }

    /// Where the spilled events of `range` are now.
    async fn locate_spilled(&self, id: u128, range: Range) -> Result<Located, JournalError> {
        let (first, end) = (range.first, range.end());
        // What is handed over meanwhile is at worst shown as waiting.
        let passed = self.own(id).map(|spill| spill.store.position());
        let (batches, known_to) = self.moved.batches(id, first, end);
        let waits_from = passed.unwrap_or(known_to).clamp(first, end);
        let mut covered = 0;
        let (mut regions, mut places) = (Vec::new(), Vec::new());
        for (from, batch) in &batches {
            covered += batch.to.min(waits_from).saturating_sub((*from).max(first));
            regions.push(batch.regions().collect::<Vec<_>>());
        }
        if covered < waits_from - first && !self.moved.is_complete() {
            let words = "Kafka has not told yet where spilled events went";
            return Err(JournalError::Io(words.to_owned()));
        }
        for regions in regions {
            let settings = Arc::clone(self.kafka.watch.settings());
            let wanted = first..waits_from;
            let find = move || {
                let found = finding::find(&settings, &regions, id, &wanted, || false);
                found.map_err(JournalError::Io)
            };
            places.extend(blocking(find).await?.into_values());
        }
        let there = places.len() as u64;
        Ok(Located {
            position: Position {
                ranges: runs(places),
            },
            waiting: end - waits_from,
            forgotten: (waits_from - first).saturating_sub(there),
        })
    }
}

/// Places as runs, in order.
fn runs(mut places: Vec<(u32, u64)>) -> SmallVec<[Range; 1]> {
    places.sort_unstable();
    places.dedup();
    let mut ranges = SmallVec::<[Range; 1]>::new();
    for (partition, offset) in places {
        match ranges.last_mut() {
            Some(last) if last.partition == partition && last.end() == offset => last.events += 1,
            _ => ranges.push(Range {
                partition,
                first: offset,
                events: 1,
            }),
        }
    }
    ranges
}

#[async_trait]
impl Journal for SpillJournal {
    async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError> {
        match self.spill.as_ref().filter(|_| self.accepts) {
            Some(spill) => self.append_to(spill, batch).await,
            None => self.kafka.append(batch).await,
        }
    }

    fn durability(&self) -> Durability {
        self.kafka.durability()
    }

    fn durability_of(&self, position: &Position) -> Durability {
        if is_spilled(position) {
            Durability::Fsynced
        } else {
            self.kafka.durability()
        }
    }

    async fn subscribe(&self, route: &str) -> Result<Box<dyn Assignments>, JournalError> {
        self.kafka.subscribe(route).await
    }

    fn identity(&self) -> u128 {
        self.kafka.identity()
    }

    fn identity_of(&self, position: &Position) -> u128 {
        match position.ranges.as_slice() {
            [range] if is_spilled(position) => {
                let own = self.spill.as_ref().map(|spill| spill.store.id());
                own.filter(|id| store::number_of(*id) == range.partition)
                    .or_else(|| self.moved.id_of(range.partition))
                    .unwrap_or_default()
            }
            _ => self.kafka.identity(),
        }
    }

    async fn locate(&self, position: &Position) -> Result<Located, JournalError> {
        match position.ranges.as_slice() {
            [range] if is_spilled(position) => {
                let id = self.identity_of(position);
                self.locate_spilled(id, *range).await
            }
            _ => self.kafka.locate(position).await,
        }
    }

    fn waiting(&self) -> u64 {
        self.pending().events
    }

    fn status(&self) -> JournalStatus {
        let mut status = self.kafka.status();
        let Some(spill) = &self.spill else {
            return status;
        };
        let (damage, bytes) = spill.store.damage_and_bytes();
        status.damage.extend(damage);
        status.bytes += bytes;
        let (pending, since) = (spill.store.pending(), spill.gate.closed_since());
        if status.is_ok() && pending.events == 0 && since.is_none() {
            return status;
        }
        let since = since.map(|since| since.to_string());
        let since = since.or_else(|| status.since.clone());
        status.spill = Some(SpillStatus {
            since: since.unwrap_or_else(|| clock::now().to_string()),
            reason: status.reason.take().or_else(|| spill.store.trouble()),
            events: pending.events,
            bytes: pending.bytes,
            oldest: spill.store.oldest().map(|oldest| oldest.to_string()),
        });
        if !self.accepts {
            if let Some(spill) = &status.spill {
                status.reason.clone_from(&spill.reason);
            }
            return status;
        }
        let full = || {
            let words = "Kafka is away, and as much is spilled as may be";
            let since = status.spill.as_ref().map(|spill| spill.since.clone());
            ("no_space", words.to_owned(), since.unwrap_or_default())
        };
        let fault = spill.store.fault();
        match fault.or_else(|| spill.store.is_full().then(full)) {
            Some((state, reason, since)) => {
                status.state = state;
                status.reason = Some(reason);
                status.since = Some(since);
            }
            None => {
                status.state = "ok";
                status.since = None;
            }
        }
        status
    }

    fn backlog(&self) -> Backlog {
        let (kafka, pending) = (self.kafka.backlog(), self.pending());
        Backlog {
            events: kafka.events + pending.events,
            bytes: kafka.bytes + pending.bytes,
        }
    }

    fn extents(&self) -> Vec<Extent> {
        self.kafka.extents()
    }

    fn commits(&self, route: &str) -> Vec<Committed> {
        self.kafka.commits(route)
    }

    async fn refresh(&self) -> Result<(), JournalError> {
        // Nobody waits for what is known to be away.
        let problem = self.kafka.watch.seen().problem();
        match problem.filter(|problem| !problem.is_of_appends()) {
            Some(problem) => Err(JournalError::Io(problem.reason)),
            None => {
                let refreshed = tokio::time::timeout(REFRESH_WAIT_MAX, self.kafka.refresh());
                let late = |_| JournalError::Io("Kafka does not answer".to_owned());
                refreshed.await.map_err(late)?
            }
        }
    }

    async fn scan(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Result<Delivery, JournalError> {
        self.kafka.scan(partition, from, to, limit).await
    }

    async fn offset_at(&self, partition: u32, time: Timestamp) -> Result<u64, JournalError> {
        self.kafka.offset_at(partition, time).await
    }

    fn table(&self) -> Option<Arc<dyn SharedTable>> {
        self.kafka.table()
    }

    async fn close(&self) {
        if let Some(spill) = &self.spill {
            spill.stop.cancel();
            let ended = spill.ended.lock().take();
            if let Some(ended) = ended {
                tokio::time::timeout(END_WAIT_MAX, ended).await.ok();
            }
            let events = spill.store.pending().events;
            if events > 0 {
                tracing::warn!(
                    events,
                    "events are left in the spill: they go to Kafka after the next start with this data_dir"
                );
            }
            spill.store.close().await;
        }
        self.kafka.close().await;
    }
}

impl Drop for SpillJournal {
    fn drop(&mut self) {
        if let Some(spill) = &self.spill {
            spill.stop.cancel();
        }
    }
}
