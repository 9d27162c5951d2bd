//! Events read from the journal, as encoded bytes with their offsets, cut at a route's batch limits.

use bytes::Bytes;
use telemetryx_common::{Timestamp, wire};

use super::{BatchLimit, DeliveryId, log_of};
use crate::route::{Cause, EventBatch, Stretch};

/// A run of events without a gap: a part of one appended batch.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Offset of the first event.
    pub first: u64,
    /// How many events `body` holds.
    pub events: u32,
    /// The events, encoded.
    pub body: Bytes,
}

/// What a route is handed, to be settled and committed as a whole.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// Where it was read.
    pub partition: u32,
    /// Offset of the first event, or of the first that is missing.
    pub first: u64,
    /// Offset behind the last event.
    pub end: u64,
    /// The events.
    pub slices: Vec<Slice>,
    /// How many bytes its events take, encoded.
    pub bytes: usize,
    /// Events between `first` and `end` that the journal cannot give any more: removed or damaged.
    pub missing: u64,
    /// Why they are missing, where any are.
    pub gaps: Vec<String>,
}

impl Delivery {
    /// An empty one at `offset` of a partition.
    #[must_use]
    pub fn at(partition: u32, offset: u64) -> Self {
        Self {
            partition,
            first: offset,
            end: offset,
            ..Self::default()
        }
    }

    /// Its name for a commit.
    #[must_use]
    pub fn id(&self) -> DeliveryId {
        DeliveryId(self.end)
    }

    /// Which part it is of `journal`, the identity of the journal that it was read from.
    #[must_use]
    pub fn stretch(&self, journal: u128) -> Stretch {
        Stretch {
            log: log_of(journal, self.partition),
            first: self.first,
            end: self.end,
            part: 0,
        }
    }

    /// How many events it holds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.end - self.first - self.missing
    }

    /// True if nothing more fits `limit`, however small.
    #[must_use]
    pub fn is_full(&self, limit: BatchLimit) -> bool {
        usize::try_from(self.end - self.first).is_ok_and(|events| events >= limit.events)
            || self.bytes >= limit.bytes
    }

    /// Adds events that follow what is there.
    pub fn push(&mut self, slice: Slice) {
        self.end = slice.first + u64::from(slice.events);
        self.bytes += slice.body.len();
        self.slices.push(slice);
    }

    /// Adds as much of `slice` as fits `limit` and was not read before; what does not fit comes back, and this is full then.
    pub fn add(&mut self, mut slice: Slice, limit: BatchLimit) -> Option<Slice> {
        debug_assert!(slice.first <= self.end, "what is not there is missed first");
        // A reader that starts inside a record gets all of it.
        let passed = self.end.saturating_sub(slice.first);
        if passed > 0 {
            let passed = u32::try_from(passed).unwrap_or(u32::MAX).min(slice.events);
            let (_, length) = wire::first_part(&slice.body, passed as usize, usize::MAX);
            drop(slice.body.split_to(length));
            slice.first += u64::from(passed);
            slice.events -= passed;
            if slice.events == 0 {
                return None;
            }
        }
        let so_far = usize::try_from(self.end - self.first).unwrap_or(usize::MAX);
        let room = limit.events.saturating_sub(so_far);
        let bytes = limit.bytes.saturating_sub(self.bytes);
        if room == 0 || (bytes < slice.body.len() && !self.slices.is_empty()) {
            return Some(slice);
        }
        let whole = slice.events as usize <= room && slice.body.len() <= bytes;
        let (events, length) = if whole {
            (slice.events, slice.body.len())
        } else {
            let (events, length) = wire::first_part(&slice.body, room, bytes);
            // Bytes that are no events (the journal checked them, so this is a fault of ours) go on as they are.
            if events == 0 {
                (slice.events, slice.body.len())
            } else {
                (events as u32, length)
            }
        };
        let body = slice.body.split_to(length);
        self.push(Slice {
            first: slice.first,
            events,
            body,
        });
        slice.first += u64::from(events);
        slice.events -= events;
        (slice.events > 0).then_some(slice)
    }

    /// Events up to `to` are not there.
    pub fn miss(&mut self, to: u64, why: &str) {
        if let Some(count) = to.checked_sub(self.end).filter(|count| *count > 0) {
            self.missing += count;
            self.gaps
                .push(format!("{count} events from offset {}: {why}", self.end));
            self.end = to;
        }
    }

    /// True if nothing was read, not even a gap.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// The events, decoded, borrowing from this delivery, to be delivered because of `cause`. An event that cannot be decoded (the journal checks its
    /// bytes, so this is a fault of ours) is handed to `unreadable` with its offset, and so are those behind it in its
    /// slice: none is left out in silence.
    pub fn decode(
        &self,
        cause: Cause,
        now: Timestamp,
        mut unreadable: impl FnMut(u64, String),
    ) -> EventBatch<'_> {
        let mut batch = EventBatch::new(cause, now);
        for slice in &self.slices {
            let end = slice.first + u64::from(slice.events);
            let mut offsets = slice.first..end;
            let mut fault = None;
            for (event, offset) in wire::events(&slice.body).zip(offsets.by_ref()) {
                match event {
                    Ok(event) => batch.push(offset, event),
                    Err(error) => {
                        fault = Some(error.to_string());
                        unreadable(offset, error.to_string());
                    }
                }
            }
            for offset in offsets {
                unreadable(
                    offset,
                    fault
                        .clone()
                        .unwrap_or_else(|| "the record holds fewer events than it says".into()),
                );
            }
        }
        batch
    }

    /// The offsets of its events.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        self.slices
            .iter()
            .flat_map(|slice| slice.first..slice.first + u64::from(slice.events))
    }

    /// The encoded bytes of the event at `offset`, if it is here.
    #[must_use]
    pub fn encoded(&self, offset: u64) -> Option<Bytes> {
        let slice = self
            .slices
            .iter()
            .find(|slice| (slice.first..slice.first + u64::from(slice.events)).contains(&offset))?;
        let before = usize::try_from(offset - slice.first).ok()?;
        let (_, start) = wire::first_part(&slice.body, before, usize::MAX);
        let (_, length) = wire::first_part(slice.body.get(start..)?, 1, usize::MAX);
        Some(slice.body.slice(start..start + length))
    }
}
