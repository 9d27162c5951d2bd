//! A batch between the journal and its settlement.

use std::sync::Arc;

use super::Books;
use super::handle::ReaderHandle;
use crate::journal::DeliveryId;
use crate::observe::Metrics;

/// Batches whose events the sink keeps for a larger piece; the journal still holds them.
#[derive(Default)]
pub(super) struct Kept {
    end: DeliveryId,
    books: Books,
}

impl Kept {
    /// They are flushed: the route's position moves past them.
    pub(super) fn settle(self, handle: &ReaderHandle) {
        handle.settle(self.end.0, self.books);
    }
}

/// A batch that must be settled or given back. Anything else would let events vanish unbooked: it is counted, and in
/// debug builds it panics.
pub(super) struct UnderWay {
    settled: bool,
    metrics: Arc<Metrics>,
}

impl UnderWay {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            settled: false,
            metrics,
        }
    }

    /// Every event is accounted for: the route's position moves past them.
    pub(super) fn settle(mut self, handle: &ReaderHandle, end: DeliveryId, books: Books) {
        self.settled = true;
        handle.settle(end.0, books);
    }

    /// The sink keeps events of the batch: it is settled with `kept`, once they are flushed.
    pub(super) fn keep(mut self, kept: &mut Option<Kept>, end: DeliveryId, books: Books) {
        self.settled = true;
        let kept = kept.get_or_insert_default();
        kept.end = end;
        kept.books.add(books);
    }

    /// Nothing is settled: the journal still holds them, and the route comes back to them.
    pub(super) fn give_back(mut self) {
        self.settled = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.settled && !std::thread::panicking() {
            self.metrics.internal_errors.increment(1);
            debug_assert!(false, "a batch was dropped unsettled");
        }
    }
}
