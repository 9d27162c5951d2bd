//! What became of each event that was handed to librdkafka, kept for as long as the same events may come again.
//!
//! A delivery that takes too long fails, so that the route can say so; its messages stay with librdkafka, which goes on
//! sending them. When the same events come again, those that were acknowledged meanwhile are done, those under way are
//! waited for, and only what failed is sent again, in order.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use crate::route::{Cause, EventBatch, Letter, Origin};

/// Who waits for room in librdkafka's queue is woken after so many reports.
const REPORTS_A_WAKE: usize = 512;
/// A replay or a dead letter that has not come again for so long was given up: if it comes, it is sent.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// librdkafka does not have it.
    Unsent,
    /// librdkafka has it.
    Waiting,
    /// Kafka has it.
    Acknowledged,
    /// It is to be sent again.
    Failed(RDKafkaErrorCode),
    /// It will never be taken. If it comes again, that is said again.
    Rejected(RDKafkaErrorCode),
    /// Kafka has it, and the caller knows.
    Settled,
}

/// The fates of events, by their place.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    fates: Mutex<Fates>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Fates {
    each: Vec<Fate>,
    waiting: usize,
    failed: usize,
}

impl Tracker {
    /// librdkafka's report of one message.
    pub(super) fn report(&self, place: u32, failed: Option<RDKafkaErrorCode>) {
        let mut fates = self.fates.lock();
        let Some(fate) = fates.each.get_mut(place as usize) else {
            return;
        };
        *fate = failed.map_or(Fate::Acknowledged, Fate::Failed);
        fates.waiting = fates.waiting.saturating_sub(1);
        fates.failed += usize::from(failed.is_some());
        let first_failure = failed.is_some() && fates.failed == 1;
        if fates.waiting.is_multiple_of(REPORTS_A_WAKE) || first_failure {
            self.changed.notify_one();
        }
    }

    /// Waits for news; there may be none.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many events librdkafka has.
    pub(super) fn waiting(&self) -> usize {
        self.fates.lock().waiting
    }

    /// True if some failed since [`Attempt::begin`].
    pub(super) fn has_failed(&self) -> bool {
        self.fates.lock().failed > 0
    }

    /// What became of one event.
    pub(super) fn get(&self, place: usize) -> Fate {
        self.fates.lock().each[place]
    }

    /// It is known what becomes of an event.
    pub(super) fn set(&self, place: usize, fate: Fate) {
        let mut fates = self.fates.lock();
        let before = std::mem::replace(&mut fates.each[place], fate);
        fates.waiting += usize::from(fate == Fate::Waiting);
        if matches!(fate, Fate::Failed(_)) {
            fates.failed += 1;
        } else if matches!((before, fate), (Fate::Failed(_), Fate::Rejected(_))) {
            fates.failed = fates.failed.saturating_sub(1);
        }
    }

    /// It was not taken after all.
    pub(super) fn take_back(&self, place: usize, fate: Fate) {
        self.fates.lock().waiting -= 1;
        self.set(place, fate);
    }
}

/// Which events belong together: batches that come again are told by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    Journal { log: u128 },
    Replay,
    Redrive(Letter),
}

/// An event within its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Journal(u64),
    /// Hash of its id.
    Derived(u64),
}

/// Events that are being delivered.
#[derive(Debug)]
pub(super) struct Attempt {
    series: Series,
    names: Vec<Name>,
    touched: Instant,
    pub(super) tracker: Arc<Tracker>,
    /// One of them is refused, and it is not known which.
    pub(super) careful: bool,
}

impl Attempt {
    /// Where each event of the batch is in here; those that are new are added.
    pub(super) fn places(&mut self, batch: &EventBatch<'_>) -> Vec<usize> {
        let names = batch.iter().map(|(origin, event)| match origin {
            Origin::Journal(offset) => Name::Journal(offset),
            Origin::Derived => {
                let mut hasher = DefaultHasher::new();
                event.id.hash(&mut hasher);
                Name::Derived(hasher.finish())
            }
        });
        let mut fates = self.tracker.fates.lock();
        if self.names.is_empty() {
            self.names.extend(names);
            fates.each.resize(self.names.len(), Fate::Unsent);
            return (0..self.names.len()).collect();
        }
        let known: HashMap<_, _> = self.names.iter().copied().zip(0..).collect();
        let mut places = Vec::with_capacity(batch.len());
        for name in names {
            places.push(known.get(&name).copied().unwrap_or_else(|| {
                self.names.push(name);
                fates.each.push(Fate::Unsent);
                self.names.len() - 1
            }));
        }
        places
    }

    /// What failed before is to be sent again.
    pub(super) fn begin(&self) {
        self.tracker.fates.lock().failed = 0;
    }

    /// Reports that are still to come are of no interest: their messages failed.
    pub(super) fn give_up_waiting(&mut self) {
        let mut fates = self.tracker.fates.lock();
        if fates.waiting == 0 {
            return;
        }
        let mut each = std::mem::take(&mut fates.each);
        drop(fates);
        for fate in &mut each {
            if *fate == Fate::Waiting {
                *fate = Fate::Failed(RDKafkaErrorCode::PurgeInflight);
            }
        }
        self.tracker = Arc::new(Tracker {
            fates: Mutex::new(Fates {
                each,
                waiting: 0,
                failed: 1,
            }),
            changed: Notify::new(),
        });
    }

    /// True if some of its events can come again.
    fn is_open(&self) -> bool {
        let fates = self.tracker.fates.lock();
        let over = |fate: &Fate| matches!(fate, Fate::Settled | Fate::Rejected(_));
        !fates.each.iter().all(over)
    }
}

/// The attempts that are not over: at most one a series.
#[derive(Debug, Default)]
pub(super) struct Attempts(Vec<Attempt>);

impl Attempts {
    /// The attempt at these events that was broken off, or a new one.
    pub(super) fn take(&mut self, cause: Cause) -> Attempt {
        let series = match cause {
            Cause::Journal(stretch) => Series::Journal { log: stretch.log },
            Cause::Replay => Series::Replay,
            Cause::Redrive(letter) => Series::Redrive(letter),
        };
        self.0.retain(|attempt| {
            matches!(attempt.series, Series::Journal { .. })
                || attempt.touched.elapsed() < FORGET_AFTER
        });
        let found = self.0.iter().position(|attempt| attempt.series == series);
        found.map_or_else(
            || Attempt {
                series,
                names: Vec::new(),
                touched: Instant::now(),
                tracker: Arc::default(),
                careful: false,
            },
            |place| self.0.swap_remove(place),
        )
    }

    /// Keeps it, if some of its events can come again.
    pub(super) fn put(&mut self, mut attempt: Attempt) {
        attempt.touched = Instant::now();
        if attempt.is_open() {
            self.0.push(attempt);
        }
    }
}
