//! Which events the receiver has of batches that may come again: a batch may become several requests, and be tried by
//! halves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::route::{Cause, EventBatch, Letter, Origin};

/// A replay that has not come again for so long was given up: if it comes, it is sent.
const IDLE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<HashMap<Lane, Events>>);

/// Events that come one batch after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Journal { log: u128, part: u32 },
    Replay,
    Redrive,
}

#[derive(Debug)]
struct Events {
    /// Each with the offset behind the batch that it was in.
    known: HashMap<Name, u64>,
    letter: Option<Letter>,
    touched: Instant,
}

/// Which event it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Journal(u64),
    Derived(String),
}

impl Taken {
    /// Which events of the batch the receiver has, by their places. What does not come any more is forgotten.
    pub(super) fn of(&self, batch: &EventBatch<'_>) -> Vec<bool> {
        let mut lanes = self.0.lock();
        lanes.retain(|lane, events| {
            matches!(lane, Lane::Journal { .. }) || events.touched.elapsed() < IDLE_MAX
        });
        let (lane, letter, first, _) = place(batch.cause());
        let Some(events) = lanes.get_mut(&lane) else {
            return vec![false; batch.len()];
        };
        if events.letter != letter {
            lanes.remove(&lane);
            return vec![false; batch.len()];
        }
        events.known.retain(|name, end| match name {
            Name::Journal(offset) => *offset >= first,
            Name::Derived(_) => *end >= first,
        });
        let known = names(batch).map(|name| events.known.contains_key(&name));
        known.collect()
    }

    /// It has these, by their places in the batch.
    pub(super) fn add(&self, batch: &EventBatch<'_>, places: &[usize]) {
        let (lane, letter, _, end) = place(batch.cause());
        let names: Vec<_> = names(batch).collect();
        let mut lanes = self.0.lock();
        let events = lanes.entry(lane).or_insert_with(|| Events {
            known: HashMap::new(),
            letter,
            touched: Instant::now(),
        });
        events.touched = Instant::now();
        let names = places.iter().filter_map(|place| names.get(*place).cloned());
        events.known.extend(names.map(|name| (name, end)));
    }

    /// It has the whole batch, which does not come again.
    pub(super) fn settle(&self, batch: &EventBatch<'_>) {
        let (lane, ..) = place(batch.cause());
        let mut lanes = self.0.lock();
        if let Some(events) = lanes.get_mut(&lane) {
            for name in names(batch) {
                events.known.remove(&name);
            }
            if events.known.is_empty() {
                lanes.remove(&lane);
            }
        }
    }
}

/// The lane of a batch, which letter it is, its first offset, and the one behind it.
fn place(cause: Cause) -> (Lane, Option<Letter>, u64, u64) {
    match cause {
        Cause::Journal(stretch) => {
            let (log, part) = (stretch.log, stretch.part);
            let lane = Lane::Journal { log, part };
            (lane, None, stretch.first, stretch.end)
        }
        Cause::Replay => (Lane::Replay, None, 0, 0),
        Cause::Redrive(letter) => (Lane::Redrive, Some(letter), 0, 0),
    }
}

fn names(batch: &EventBatch<'_>) -> impl Iterator<Item = Name> {
    batch.iter().map(|(origin, event)| match origin {
        Origin::Journal(offset) => Name::Journal(offset),
        Origin::Derived => Name::Derived(event.id.clone().into_owned()),
    })
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, Timestamp};

    use super::*;
    use crate::route::Stretch;

    fn batch(cause: Cause, offsets: std::ops::Range<u64>) -> EventBatch<'static> {
        let mut batch = EventBatch::new(cause, Timestamp::UNIX_EPOCH);
        for offset in offsets {
            batch.push(offset, Event::new(Timestamp::UNIX_EPOCH));
        }
        batch
    }

    fn journal(part: u32, offsets: std::ops::Range<u64>) -> EventBatch<'static> {
        let cause = Cause::Journal(Stretch {
            log: 7,
            first: offsets.start,
            end: offsets.end,
            part,
        });
        batch(cause, offsets)
    }

    #[test]
    fn halves_know_what_the_receiver_has_of_the_whole() {
        let taken = Taken::default();
        let mut whole = journal(0, 10..14);
        let mut derived = Event::new(Timestamp::UNIX_EPOCH);
        derived.id = "derived".into();
        whole.push_derived(derived);
        assert_eq!(taken.of(&whole), [false; 5]);
        taken.add(&whole, &[1, 2, 4]);
        assert_eq!(taken.of(&whole), [false, true, true, false, true]);
        // Another part has its own, and a replay too.
        assert_eq!(taken.of(&journal(1, 10..14)), [false; 4]);
        assert_eq!(taken.of(&batch(Cause::Replay, 10..14)), [false; 4]);
        let behind = whole.split_off(2);
        assert_eq!(taken.of(&whole), [false, true]);
        taken.settle(&whole);
        assert_eq!(taken.of(&whole), [false; 2]);
        assert_eq!(taken.of(&behind), [true, false, true]);
        taken.settle(&behind);
        assert!(taken.0.lock().is_empty());
    }

    #[test]
    fn batches_that_were_given_up_leave_nothing_behind() {
        let taken = Taken::default();
        for first in (0..1000).step_by(10) {
            let batch = journal(0, first..first + 10);
            assert_eq!(taken.of(&batch), [false; 10]);
            taken.add(&batch, &[0, 1, 2]);
        }
        let known = |taken: &Taken| {
            taken
                .0
                .lock()
                .values()
                .map(|of| of.known.len())
                .sum::<usize>()
        };
        assert_eq!(known(&taken), 3);
        for number in 0..10 {
            let letter = batch(Cause::Redrive(Letter { log: 7, number }), 5..6);
            assert_eq!(taken.of(&letter), [false]);
            taken.add(&letter, &[0]);
            assert_eq!(taken.of(&letter), [true]);
        }
        assert_eq!(known(&taken), 4);
    }
}
