//! Others' view of a route, and what its readers tell there.
//!
//! Position and books of a partition change in one step under one lock, so that accepted = delivered + filtered + dead +
//! pending + expired holds whenever somebody looks; and they are saved in the same step as the route's cursor, so that it
//! holds after a crash too.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use telemetryx_common::Timestamp;

use super::{Books, RouteFilter};
use crate::clock;
use crate::observe::{Counted, RouteMetrics};

/// How a route's sink is, for all partitions that this process reads.
#[derive(Debug, Clone, Serialize)]
pub struct SinkHealth {
    /// `up`, or `down` from the first failure to the next success; `starting` before the first answer; `stopped` when
    /// the route cannot run; `idle` where there is nothing to read for this process.
    pub state: &'static str,
    /// Since when, RFC 3339.
    pub since: String,
    /// Attempts that failed since then.
    pub failures: u64,
    /// The first error since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// The newest error, also an older one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// True while the circuit breaker is open.
    pub breaker_open: bool,
}

/// How far a route is in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The offset that is read next.
    pub position: u64,
    /// What became of those before.
    pub books: Books,
    /// Of those in the books, events of the journal that this one took over from, which this log never had.
    pub carried: u64,
}

/// What a route says of itself.
#[derive(Debug, Clone)]
pub struct RouteStatus {
    /// How far it is in the partitions that this process reads.
    pub progress: BTreeMap<u32, Progress>,
    /// Its sink.
    pub sink: SinkHealth,
    /// When the oldest event not passed was accepted, if it is known.
    pub waiting_since: Option<Timestamp>,
    /// Attempts to hand a batch to the sink that failed, since the start.
    pub batches_failed: Counted,
    /// How often it stopped reading for a time since its memory was full.
    pub pauses: Counted,
}

/// Others' view of a route; a cheap clone.
#[derive(Clone)]
pub struct RouteHandle {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    kind: String,
    refuses_replay: Option<&'static str>,
    filter: RouteFilter,
    metrics: RouteMetrics,
    told: Mutex<Told>,
}

/// What the readers have told.
struct Told {
    readers: BTreeMap<u32, ReaderStatus>,
    /// Numbers given to readers.
    numbers: u64,
    sink: SinkHealth,
    batches_failed: Counted,
    pauses: Counted,
}

/// What one of them has.
#[derive(Default)]
struct ReaderStatus {
    /// Whose it is: a partition that was lost may come back before its former reader has ended.
    number: u64,
    /// `None` until it knows where it is: what was committed holds until then.
    progress: Option<Progress>,
    waiting_since: Option<Timestamp>,
    state: ReaderState,
    breaker_open: bool,
}

/// From the best to the worst.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum ReaderState {
    #[default]
    Starting,
    Up,
    Down,
    Stopped,
}

impl RouteHandle {
    /// Of a route of this name and kind of sink.
    #[must_use]
    pub fn new(
        name: &str,
        kind: &str,
        refuses_replay: Option<&'static str>,
        filter: RouteFilter,
    ) -> Self {
        let sink = SinkHealth {
            state: "idle",
            since: clock::now().to_string(),
            failures: 0,
            first_error: None,
            last_error: None,
            breaker_open: false,
        };
        Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                kind: kind.to_owned(),
                refuses_replay,
                filter,
                metrics: RouteMetrics::new(name),
                told: Mutex::new(Told {
                    readers: BTreeMap::new(),
                    numbers: 0,
                    sink,
                    batches_failed: Counted::default(),
                    pauses: Counted::default(),
                }),
            }),
        }
    }

    /// The route's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The kind of its sink.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.shared.kind
    }

    /// Why a replay would do harm, if it would.
    #[must_use]
    pub fn refuses_replay(&self) -> Option<&'static str> {
        self.shared.refuses_replay
    }

    /// Its filter.
    #[must_use]
    pub fn filter(&self) -> &RouteFilter {
        &self.shared.filter
    }

    /// Its metrics.
    #[must_use]
    pub fn metrics(&self) -> &RouteMetrics {
        &self.shared.metrics
    }

    /// What it says of itself now.
    #[must_use]
    pub fn status(&self) -> RouteStatus {
        let told = self.shared.told.lock();
        let readers = told.readers.iter();
        let progress = readers
            .clone()
            .filter_map(|(partition, it)| Some((*partition, it.progress?)));
        RouteStatus {
            progress: progress.collect(),
            sink: told.sink.clone(),
            waiting_since: readers.filter_map(|(_, it)| it.waiting_since).min(),
            batches_failed: told.batches_failed,
            pauses: told.pauses,
        }
    }

    /// For its reader of a partition. What a former one still tells of it counts no more.
    pub(super) fn reader(&self, partition: u32) -> ReaderHandle {
        let mut told = self.shared.told.lock();
        told.numbers += 1;
        let number = told.numbers;
        let status = ReaderStatus {
            number,
            ..ReaderStatus::default()
        };
        told.readers.insert(partition, status);
        told.look();
        ReaderHandle {
            reading: Arc::new(Reading {
                route: self.clone(),
                partition,
                number,
            }),
        }
    }
}

impl Told {
    /// What this reader has, unless another one reads the partition in its place.
    fn of(&mut self, reading: &Reading) -> Option<&mut ReaderStatus> {
        let reader = self.readers.get_mut(&reading.partition);
        reader.filter(|it| it.number == reading.number)
    }

    /// This reader is in another state.
    fn change(
        &mut self,
        reading: &Reading,
        state: ReaderState,
        breaker_open: bool,
    ) -> Option<&'static str> {
        if let Some(reader) = self.of(reading) {
            reader.state = state;
            reader.breaker_open = breaker_open;
        }
        self.look()
    }

    /// Looks at the state that follows from those of the readers, the worst of them. Where it has changed, what it was.
    fn look(&mut self) -> Option<&'static str> {
        let state = match self.readers.values().map(|it| it.state).max() {
            None => "idle",
            Some(ReaderState::Starting) => "starting",
            Some(ReaderState::Up) => "up",
            Some(ReaderState::Down) => "down",
            Some(ReaderState::Stopped) => "stopped",
        };
        self.sink.breaker_open = self.readers.values().any(|it| it.breaker_open);
        if self.sink.state == state {
            return None;
        }
        self.sink.since = clock::now().to_string();
        Some(std::mem::replace(&mut self.sink.state, state))
    }
}

/// What the reader of one partition tells; a cheap clone. Once the last is dropped, this process reads it no more.
#[derive(Clone)]
pub(super) struct ReaderHandle {
    reading: Arc<Reading>,
}

struct Reading {
    route: RouteHandle,
    partition: u32,
    number: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut told = self.route.shared.told.lock();
        if told.of(self).is_some() {
            told.readers.remove(&self.partition);
        }
        told.look();
    }
}

impl ReaderHandle {
    /// The route.
    pub(super) fn route(&self) -> &RouteHandle {
        &self.reading.route
    }

    /// The route's name.
    pub(super) fn name(&self) -> &str {
        self.route().name()
    }

    /// The partition.
    pub(super) fn partition(&self) -> u32 {
        self.reading.partition
    }

    /// The route's metrics.
    pub(super) fn metrics(&self) -> &RouteMetrics {
        self.route().metrics()
    }

    /// Changes what it has, if nobody else reads the partition in its place.
    fn change<T: Default>(&self, change: impl FnOnce(&mut ReaderStatus) -> T) -> T {
        let mut told = self.route().shared.told.lock();
        told.of(&self.reading).map_or_else(T::default, change)
    }

    /// How far it is, once it knows. `None` also if another one reads the partition in its place: its progress is not that of
    /// this one.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.change(|it| it.progress)
    }

    pub(super) fn start_at(&self, progress: Progress) {
        self.change(|it| it.progress = Some(progress));
    }

    /// Everything before `position` is settled, with `more` in the books.
    pub(super) fn settle(&self, position: u64, more: Books) {
        self.change(|it| {
            let progress = it.progress.get_or_insert_default();
            progress.position = position;
            progress.books.add(more);
            it.waiting_since = None;
        });
    }

    /// A dead letter was sent again: it is delivered, or no longer wanted. False if no dead letter is booked.
    pub(super) fn redriven(&self, delivered: bool) -> bool {
        self.change(|it| {
            let books = &mut it.progress.get_or_insert_default().books;
            let Some(dead) = books.dead.checked_sub(1) else {
                return false;
            };
            books.dead = dead;
            if delivered {
                books.delivered += 1;
            } else {
                books.filtered += 1;
            }
            true
        })
    }

    pub(super) fn waiting_since(&self, accepted: Option<Timestamp>) {
        self.change(|it| it.waiting_since = accepted);
    }

    /// Its memory is full and its sink takes nothing: it stopped reading.
    pub(super) fn paused(&self, batches: usize) {
        self.route().shared.told.lock().pauses.tick();
        tracing::warn!(
            event = "processing_paused",
            reason = "buffer_full",
            route = self.name(),
            batches,
            "the sink takes nothing: reading stops until it does"
        );
    }

    /// What it had read is delivered: it reads on.
    pub(super) fn resumed(&self) {
        tracing::info!(route = self.name(), "reading goes on");
    }

    pub(super) fn is_down(&self) -> bool {
        self.change(|it| it.state == ReaderState::Down)
    }

    pub(super) fn sink_is_up(&self) {
        let mut told = self.route().shared.told.lock();
        let was = told.change(&self.reading, ReaderState::Up, false);
        let sink = &mut told.sink;
        if let Some(was) = was {
            if was == "down" {
                tracing::info!(
                    route = self.name(),
                    failures = sink.failures,
                    "the sink is back"
                );
            }
            sink.failures = 0;
            sink.first_error = None;
        }
    }

    pub(super) fn sink_is_down(&self, error: &str, breaker_open: bool) {
        let mut told = self.route().shared.told.lock();
        told.batches_failed.tick();
        let was = told.change(&self.reading, ReaderState::Down, breaker_open);
        let sink = &mut told.sink;
        sink.failures += 1;
        sink.last_error = Some(error.to_owned());
        if was.is_some() {
            tracing::warn!(
                event = "batch_persist_failed",
                reason = error,
                route = self.name(),
                "the sink is down; its events stay in the journal"
            );
            sink.failures = 1;
            sink.first_error = Some(error.to_owned());
        }
    }

    pub(super) fn stopped(&self, error: &str) {
        let mut told = self.route().shared.told.lock();
        told.change(&self.reading, ReaderState::Stopped, false);
        told.sink.last_error = Some(error.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FilterConfig;

    #[test]
    fn reader_that_ends_late_takes_nothing_from_the_one_in_its_place() {
        let filter = RouteFilter::new(&FilterConfig::default(), None);
        let route = RouteHandle::new("r", "stats", None, filter);
        let former = route.reader(3);
        former.start_at(Progress {
            position: 7,
            ..Progress::default()
        });
        let present = route.reader(3);
        let begun = Progress {
            position: 20,
            ..Progress::default()
        };
        present.start_at(begun);
        present.sink_is_up();
        let books = Books {
            delivered: 5,
            ..Books::default()
        };
        former.settle(12, books);
        former.sink_is_down("away", true);
        assert_eq!(former.progress(), None);
        assert_eq!(present.progress(), Some(begun));
        assert_eq!(route.status().sink.state, "up");
        drop(former);
        assert_eq!(present.progress(), Some(begun));
        drop(present);
        assert_eq!(route.status().sink.state, "idle");
        assert!(route.status().progress.is_empty());
    }
}
