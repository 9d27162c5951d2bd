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

/// Events on their way to a sink, in the order of the journal, derived ones last.
///
/// The fields of events borrow from the journal's bytes. Processors change events in place, drop some with
/// [`retain`](Self::retain), or add some with [`push_derived`](Self::push_derived).
#[derive(Debug, Default)]
pub struct EventBatch<'a> {
    events: Vec<Event<'a>>,
    origins: Vec<Origin>,
    now: Timestamp,
}

impl<'a> EventBatch<'a> {
    /// An empty batch, read at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
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
