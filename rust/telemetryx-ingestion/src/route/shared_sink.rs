//! A route's sink, shared by the route and its replays: one batch at a time, whoever brings it.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{EventBatch, Origin};
use crate::sinks::{DeliverError, RejectedBySink, Sink};

/// A cheap clone.
#[derive(Clone)]
pub(super) struct SharedSink {
    sink: Arc<dyn Sink>,
    turn: Arc<Mutex<()>>,
}

impl SharedSink {
    pub(super) fn new(sink: Box<dyn Sink>) -> Self {
        Self {
            sink: sink.into(),
            turn: Arc::default(),
        }
    }

    /// For what needs no turn.
    pub(super) fn get(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Delivers the batch. What the sink will never take is taken out of the batch and returned; then the rest was not
    /// delivered yet.
    pub(super) async fn deliver(
        &self,
        batch: &mut EventBatch<'_>,
    ) -> Result<Vec<(Origin, RejectedBySink)>, DeliverError> {
        let _turn = self.turn.lock().await;
        let mut rejected = match self.sink.deliver(batch).await {
            Ok(()) => return Ok(Vec::new()),
            Err(DeliverError::Rejected(rejected)) => rejected,
            Err(retryable) => return Err(retryable),
        };
        // From the back, so that the places of the others stay.
        rejected.sort_unstable_by_key(|event| std::cmp::Reverse(event.index));
        rejected.dedup_by_key(|event| event.index);
        rejected.retain(|event| event.index < batch.len());
        if rejected.is_empty() {
            let fault = "the sink rejects events that are not in the batch";
            return Err(DeliverError::Retryable(fault.to_owned()));
        }
        let taken_out = rejected
            .into_iter()
            .map(|event| (batch.remove(event.index).0, event));
        Ok(taken_out.collect())
    }

    /// Makes durable what was delivered.
    pub(super) async fn flush(&self) -> Result<(), DeliverError> {
        let _turn = self.turn.lock().await;
        self.sink.flush().await
    }
}
