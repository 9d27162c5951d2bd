//! A delivery that is being put together, event by event.

use bytes::Bytes;

use super::super::{BatchLimit, Delivery, Slice};

/// Events that were there are removed.
pub(super) const EXPIRED: &str = "removed before this route came to them";
/// Offsets that never were events, or are none any more.
pub(super) const NO_EVENTS: &str = "no events: marks of a transaction, or removed by compaction";

/// One that has to wait for the next delivery.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offset: u64,
    /// Tag, length and event.
    pub(super) bytes: Vec<u8>,
    /// False if it is no event: then the bytes of the message are in its place.
    pub(super) is_event: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gathering {
    delivery: Delivery,
    /// The slice at its end.
    body: Vec<u8>,
    first: u64,
    events: u32,
}

impl Gathering {
    pub(super) fn at(partition: u32, offset: u64) -> Self {
        Self {
            delivery: Delivery::at(partition, offset),
            body: Vec::new(),
            first: offset,
            events: 0,
        }
    }

    pub(super) fn partition(&self) -> u32 {
        self.delivery.partition
    }

    /// Where it begins.
    pub(super) fn start(&self) -> u64 {
        self.delivery.first
    }

    /// The offset that comes next.
    pub(super) fn end(&self) -> u64 {
        if self.events > 0 {
            self.first + u64::from(self.events)
        } else {
            self.delivery.end
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events == 0 && self.delivery.is_empty()
    }

    /// True if nothing more fits, however small.
    pub(super) fn is_full(&self, limit: BatchLimit) -> bool {
        self.end() - self.start() >= limit.events as u64 || self.bytes() >= limit.bytes
    }

    /// True if it is more than fits: it was gathered for somebody who wanted more, and gave the waiting up.
    pub(super) fn is_too_much(&self, limit: BatchLimit) -> bool {
        let events = self.events();
        events > limit.events as u64 || (events > 1 && self.bytes() > limit.bytes)
    }

    fn events(&self) -> u64 {
        self.end() - self.start() - self.delivery.missing
    }

    fn bytes(&self) -> usize {
        self.delivery.bytes + self.body.len()
    }

    /// Adds the event at `offset`, which follows: `append` appends its entry, and says whether it is an event.
    ///
    /// # Errors
    /// The entry, if it does not fit.
    #[inline]
    pub(super) fn add(
        &mut self,
        offset: u64,
        limit: BatchLimit,
        append: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Result<(), Entry> {
        let before = self.body.len();
        let is_event = append(&mut self.body);
        let events = self.events();
        if events >= limit.events as u64 || (events > 0 && self.bytes() > limit.bytes) {
            let bytes = self.body.split_off(before);
            return Err(Entry {
                offset,
                bytes,
                is_event,
            });
        }
        if is_event {
            if self.events == 0 {
                self.first = offset;
            }
            self.events += 1;
        } else {
            // Alone in its slice, so that it spoils no other.
            let body = Bytes::from(self.body.split_off(before));
            self.close_slice();
            self.delivery.push(Slice {
                first: offset,
                events: 1,
                body,
            });
        }
        Ok(())
    }

    /// Events up to `to` are not there.
    pub(super) fn miss(&mut self, to: u64, why: &str) {
        self.close_slice();
        let from = self.delivery.end;
        self.delivery.missing += to - from;
        let gap = format!("{} events from offset {from}: {why}", to - from);
        self.delivery.gaps.push(gap);
        self.delivery.end = to;
    }

    fn close_slice(&mut self) {
        if self.events > 0 {
            let body = Bytes::from(std::mem::take(&mut self.body));
            let events = std::mem::take(&mut self.events);
            self.delivery.push(Slice {
                first: self.first,
                events,
                body,
            });
        }
    }

    /// What was gathered; goes on behind it.
    pub(super) fn take(&mut self) -> Delivery {
        self.close_slice();
        let next = Delivery::at(self.delivery.partition, self.delivery.end);
        std::mem::replace(&mut self.delivery, next)
    }
}
