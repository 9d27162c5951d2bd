//! A route's sink, shared by the route and its replays: one batch at a time, whoever brings it.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{EventBatch, Origin};
use crate::sinks::{DeliverError, RejectedBySink, Sink};

/// A cheap clone.
#[derive(Clone)]
pub(super) struct SharedSink {
    sink: Arc<dyn Sink>,
    in_flight: usize,
    turn: Arc<Mutex<()>>,
}

/// What became of the events of a batch that were taken out of it.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// How many events of the journal the sink has.
    pub(super) delivered: u64,
    /// Those that it will never take, and why.
    pub(super) rejected: Vec<(Origin, RejectedBySink)>,
}

impl SharedSink {
    /// `in_flight`: parts of a batch delivered at the same time, if the sink takes parts.
    pub(super) fn new(sink: Box<dyn Sink>, in_flight: usize) -> Self {
        Self {
            in_flight: if sink.takes_parts() { in_flight } else { 1 },
            sink: sink.into(),
            turn: Arc::default(),
        }
    }

    /// For what needs no turn.
    pub(super) fn get(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Delivers the batch and leaves it empty. What the sink will never take is found by halves where it does not say
    /// which it is.
    ///
    /// # Errors
    /// The sink's words if it cannot take it now; the batch is then what is left of it, and `done` has the rest.
    pub(super) async fn deliver(
        &self,
        batch: &mut EventBatch<'_>,
        done: &mut Delivered,
    ) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        if self.in_flight == 1 {
            return self.deliver_in_order(batch, done).await;
        }
        let mut parts = batch.split_by_key(self.in_flight);
        let deliveries = parts.iter_mut().map(|part| async {
            let mut done = Delivered::default();
            let result = self.deliver_in_order(part, &mut done).await;
            (done, result)
        });
        let results = futures_util::future::join_all(deliveries).await;
        batch.join(parts);
        let mut error = Ok(());
        for (part, result) in results {
            done.delivered += part.delivered;
            done.rejected.extend(part.rejected);
            error = error.and(result);
        }
        error
    }

    async fn deliver_in_order(
        &self,
        batch: &mut EventBatch<'_>,
        done: &mut Delivered,
    ) -> Result<(), String> {
        // What of it waits, the first part last.
        let mut parts = vec![batch.split_off(0)];
        while let Some(mut part) = parts.pop() {
            match self.deliver_part(&mut part, done).await {
                Ok(()) => {}
                Err(Undelivered::Halve) => {
                    let behind = part.split_off(part.len() / 2);
                    parts.extend([behind, part]);
                }
                Err(Undelivered::Retry(words)) => {
                    parts.push(part);
                    parts.into_iter().rev().for_each(|part| batch.append(part));
                    return Err(words);
                }
            }
        }
        Ok(())
    }

    /// Delivers one part, without those that the sink says it will never take.
    async fn deliver_part(
        &self,
        part: &mut EventBatch<'_>,
        done: &mut Delivered,
    ) -> Result<(), Undelivered> {
        while !part.is_empty() {
            let mut rejected = match self.sink.deliver(part).await {
                Ok(()) => {
                    done.delivered += part.journaled();
                    return Ok(());
                }
                Err(DeliverError::Retryable(words)) => return Err(Undelivered::Retry(words)),
                Err(DeliverError::Rejected(rejected)) => rejected,
                Err(DeliverError::Refused { code, message }) => {
                    if part.len() > 1 {
                        return Err(Undelivered::Halve);
                    }
                    vec![RejectedBySink {
                        index: 0,
                        code,
                        message,
                    }]
                }
            };
            // From the back, so that the places of the others stay.
            rejected.sort_unstable_by_key(|event| std::cmp::Reverse(event.index));
            rejected.dedup_by_key(|event| event.index);
            rejected.retain(|event| event.index < part.len());
            if rejected.is_empty() {
                let fault = "the sink rejects events that are not in the batch";
                return Err(Undelivered::Retry(fault.to_owned()));
            }
            let taken_out = rejected
                .into_iter()
                .map(|event| (part.remove(event.index).0, event));
            done.rejected.extend(taken_out);
        }
        Ok(())
    }

    /// Makes durable what was delivered.
    pub(super) async fn flush(&self) -> Result<(), DeliverError> {
        let _turn = self.turn.lock().await;
        self.sink.flush().await
    }
}

/// Why a part was not delivered.
enum Undelivered {
    /// The sink cannot take it now.
    Retry(String),
    /// One of its events is to blame.
    Halve,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use telemetryx_common::{Event, Timestamp};

    use super::*;
    use crate::route::{Cause, Stretch};

    const LOG: u128 = 7;

    /// Refuses whole batches in which one of `poison` is, and fails each time `fails` says so.
    #[derive(Default)]
    struct Picky {
        poison: BTreeSet<u64>,
        fails: Mutex<Vec<bool>>,
        taken: Mutex<Vec<(Stretch, Vec<u64>)>>,
    }

    #[async_trait::async_trait]
    impl Sink for Arc<Picky> {
        async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
            if self.fails.lock().pop().unwrap_or(false) {
                return Err(DeliverError::Retryable("down".into()));
            }
            let offsets: Vec<_> = batch.offsets().map(|(offset, _)| offset).collect();
            if offsets.iter().any(|offset| self.poison.contains(offset)) {
                let message = "one of them is poison".to_owned();
                return Err(DeliverError::Refused {
                    code: "poison",
                    message,
                });
            }
            let Cause::Journal(stretch) = batch.cause() else {
                panic!("not of the journal")
            };
            self.taken.lock().push((stretch, offsets));
            Ok(())
        }

        async fn check(&self) -> Result<(), DeliverError> {
            Ok(())
        }

        fn takes_parts(&self) -> bool {
            true
        }
    }

    fn key(offset: u64) -> String {
        format!("key {}", offset % 7)
    }

    proptest! {
        #[test]
        fn poison_is_found_by_halves_and_all_else_is_delivered_once_and_in_order_per_key(
            wanted in prop::collection::btree_set(100u64..200, 1..60),
            poison in prop::collection::btree_set(100u64..200, 0..6),
            fails in prop::collection::vec(any::<bool>(), 0..12),
            in_flight in 1usize..5,
        ) {
            let picky = Arc::new(Picky { poison: poison.clone(), fails: Mutex::new(fails), ..Picky::default() });
            let sink = SharedSink::new(Box::new(Arc::clone(&picky)), in_flight);
            let whole = Stretch { log: LOG, first: 90, end: 210, part: 0 };
            let mut batch = EventBatch::new(Cause::Journal(whole), Timestamp::UNIX_EPOCH);
            for offset in &wanted {
                let mut event = Event::new(Timestamp::UNIX_EPOCH);
                event.partition_key = Some(key(*offset).into());
                batch.push(*offset, event);
            }
            let mut done = Delivered::default();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            while runtime.block_on(sink.deliver(&mut batch, &mut done)).is_err() {}
            prop_assert!(batch.is_empty());

            let taken = picky.taken.lock();
            let got: Vec<_> = taken.iter().flat_map(|(_, offsets)| offsets.clone()).collect();
            let good: Vec<_> = wanted.difference(&poison).copied().collect();
            for of in 0..7 {
                let of_key = |offsets: &[u64]| -> Vec<_> {
                    offsets.iter().copied().filter(|offset| key(*offset) == key(of)).collect()
                };
                prop_assert_eq!(of_key(&got), of_key(&good));
            }
            prop_assert_eq!(done.delivered, good.len() as u64);
            let refused: BTreeSet<_> = done.rejected.iter().map(|(origin, _)| match origin {
                Origin::Journal(offset) => *offset,
                Origin::Derived => unreachable!("none was derived"),
            }).collect();
            prop_assert_eq!(refused, wanted.intersection(&poison).copied().collect());
            // Each part says truly which part of the log it is.
            let mut behind = vec![whole.first; in_flight];
            for (stretch, offsets) in taken.iter() {
                let behind = &mut behind[stretch.part as usize];
                prop_assert!(*behind <= stretch.first && stretch.end <= whole.end);
                prop_assert!(offsets.iter().all(|offset| (stretch.first..stretch.end).contains(offset)));
                *behind = stretch.end;
            }
        }
    }
}
