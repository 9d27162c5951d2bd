//! The batch that a route carries from the journal to its sink: decoded events, each knowing the offset it came from.

use telemetryx_common::{Event, Timestamp};

/// Where an event of a batch comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The journal, at this offset.
    Journal(u64),
    /// A processor made it; it is in no journal, and no book counts it.
    Derived,
}

/// Why a sink is handed a batch: what it keeps to know a batch that it has had depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The route reads on. After a crash it starts again at its last commit, and may cut its batches elsewhere.
    Journal(Stretch),
    /// An operator wants events delivered again, wherever the route is.
    Replay,
    /// An operator sends this dead letter again.
    Redrive(Letter),
}

/// Which dead letter it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letter {
    /// The log beside which it is kept.
    pub log: u128,
    /// Its number there, which is not used twice.
    pub number: i64,
}

/// A part of a log: everything from one offset up to another, whether or not the route wants all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Which log: offsets of different ones say nothing of each other.
    pub log: u128,
    /// Offset of its first event.
    pub first: u64,
    /// Offset behind its last event.
    pub end: u64,
    /// Which part of it by key; 0 for the only one.
    pub part: u32,
}

/// Events on their way to a sink, in the order of the journal, derived ones last.
///
/// The fields of events borrow from the journal's bytes. Processors change events in place, drop some with
/// [`retain`](Self::retain), or add some with [`push_derived`](Self::push_derived).
#[derive(Debug)]
pub struct EventBatch<'a> {
    cause: Cause,
    events: Vec<Event<'a>>,
    origins: Vec<Origin>,
    now: Timestamp,
}

impl<'a> EventBatch<'a> {
    /// An empty batch, read at `now`.
    #[must_use]
    pub fn new(cause: Cause, now: Timestamp) -> Self {
        Self {
            cause,
            events: Vec::new(),
            origins: Vec::new(),
            now,
        }
    }

    /// Adds the event that the journal holds at `offset`. Offsets only grow.
    pub fn push(&mut self, offset: u64, event: Event<'a>) {
        self.events.push(event);
        self.origins.push(Origin::Journal(offset));
    }

    /// Adds an event made by a processor. It needs an id that is the same each time the same event is made, so that
    /// sinks can tell a redelivery.
    pub fn push_derived(&mut self, event: Event<'a>) {
        self.events.push(event);
        self.origins.push(Origin::Derived);
    }

    /// Keeps the events for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(Origin, &mut Event<'a>) -> bool) {
        let mut kept = 0;
        for index in 0..self.events.len() {
            if keep(self.origins[index], &mut self.events[index]) {
                self.events.swap(kept, index);
                self.origins.swap(kept, index);
                kept += 1;
            }
        }
        self.events.truncate(kept);
        self.origins.truncate(kept);
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The events, to change them in place.
    pub fn events_mut(&mut self) -> &mut [Event<'a>] {
        &mut self.events
    }

    /// Each event with where it comes from.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, &Event<'a>)> {
        self.origins.iter().copied().zip(&self.events)
    }

    /// Each event of the journal with its offset.
    pub fn offsets(&self) -> impl Iterator<Item = (u64, &Event<'a>)> {
        self.iter().filter_map(|(origin, event)| match origin {
            Origin::Journal(offset) => Some((offset, event)),
            Origin::Derived => None,
        })
    }

    /// Where the event at `index` comes from.
    #[must_use]
    pub fn origin(&self, index: usize) -> Origin {
        self.origins[index]
    }

    /// Removes one event.
    pub fn remove(&mut self, index: usize) -> (Origin, Event<'a>) {
        (self.origins.remove(index), self.events.remove(index))
    }

    /// Takes out the events from `index` on, which must be of the batch, and the part of the log that they are of.
    #[must_use]
    pub fn split_off(&mut self, index: usize) -> Self {
        let mut tail = Self {
            cause: self.cause,
            events: self.events.split_off(index),
            origins: self.origins.split_off(index),
            now: self.now,
        };
        // Derived events come last: where only those are taken out, they are of no part of the log.
        let cut = tail.offsets().next().map(|(offset, _)| offset);
        if let (Cause::Journal(before), Cause::Journal(behind)) = (&mut self.cause, &mut tail.cause)
        {
            let place = cut.unwrap_or(behind.end);
            before.end = place;
            behind.first = place;
        }
        tail
    }

    /// Puts back what [`split_off`](Self::split_off) took out.
    pub fn append(&mut self, mut tail: Self) {
        match (&mut self.cause, &tail.cause) {
            (Cause::Journal(before), Cause::Journal(behind)) if !self.events.is_empty() => {
                before.end = behind.end;
            }
            _ => self.cause = tail.cause,
        }
        self.events.append(&mut tail.events);
        self.origins.append(&mut tail.origins);
    }

    /// Parts the batch, which is then empty, so that the events of one key stay together and in order. There are at most
    /// `most` parts, and none is empty.
    #[must_use]
    pub fn split_by_key(&mut self, most: usize) -> Vec<Self> {
        let most = most.max(1);
        let mut parts: Vec<_> = (0..most)
            .map(|part| {
                let mut cause = self.cause;
                if let Cause::Journal(stretch) = &mut cause {
                    stretch.part = part as u32;
                }
                Self::new(cause, self.now)
            })
            .collect();
        for (origin, event) in std::iter::zip(self.origins.drain(..), self.events.drain(..)) {
            let part = crc32c::crc32c(event.key().as_bytes()) as usize % most;
            parts[part].origins.push(origin);
            parts[part].events.push(event);
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// Puts together what is left of the parts that [`split_by_key`](Self::split_by_key) made of this batch, in the order
    /// of the journal.
    pub fn join(&mut self, parts: Vec<Self>) {
        let mut all: Vec<_> = parts
            .into_iter()
            .flat_map(|part| std::iter::zip(part.origins, part.events))
            .collect();
        all.sort_by_key(|(origin, _)| match origin {
            Origin::Journal(offset) => *offset,
            Origin::Derived => u64::MAX,
        });
        (self.origins, self.events) = all.into_iter().unzip();
    }

    /// Why it is delivered, and which part of the log it is.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// How many events there are, derived ones too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// True if there is nothing to deliver.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many events came from the journal.
    #[must_use]
    pub fn journaled(&self) -> u64 {
        self.origins
            .iter()
            .filter(|origin| matches!(origin, Origin::Journal(_)))
            .count() as u64
    }

    /// When the batch was read; a processor uses this in place of a clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }
}
