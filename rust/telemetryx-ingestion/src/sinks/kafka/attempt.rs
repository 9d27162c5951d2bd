//! What became of each event that was handed to librdkafka, kept for as long as the same events may come again.
//!
//! A delivery that takes too long fails, so that the route can say so; its messages stay with librdkafka, which goes on
//! sending them. When the same events come again, those that were acknowledged meanwhile are done, those under way are
//! waited for, and only what failed is sent again, in order. Events that do not come again were given up: the next ones
//! begin anew.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use crate::route::{EventBatch, Origin};

/// Who waits for room in librdkafka's queue is woken after so many reports.
const REPORTS_A_WAKE: usize = 512;

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

/// Which event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Journal(u64),
    /// Hash of its id.
    Derived(u64),
}

/// Events that are being delivered.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    names: Vec<Name>,
    pub(super) tracker: Arc<Tracker>,
    /// One of them is refused, and it is not known which.
    pub(super) careful: bool,
}

impl Attempt {
    /// Where each event of the batch is in here; those that are new are added. If all are, those that were here before were
    /// given up, and nobody asks for them any more.
    pub(super) fn places(&mut self, batch: &EventBatch<'_>) -> Vec<usize> {
        let names = batch.iter().map(|(origin, event)| match origin {
            Origin::Journal(offset) => Name::Journal(offset),
            Origin::Derived => {
                let mut hasher = DefaultHasher::new();
                event.id.hash(&mut hasher);
                Name::Derived(hasher.finish())
            }
        });
        let names = names.collect::<Vec<_>>();
        let mut known: HashMap<_, _> = self.names.iter().copied().zip(0..).collect();
        if !names.iter().any(|name| known.contains_key(name)) {
            *self = Self::default();
            known.clear();
        }
        let mut fates = self.tracker.fates.lock();
        if known.is_empty() {
            fates.each.resize(names.len(), Fate::Unsent);
            self.names = names;
            return (0..self.names.len()).collect();
        }
        let mut places = Vec::with_capacity(names.len());
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
}
