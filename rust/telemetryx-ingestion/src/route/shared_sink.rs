//! A route's sink, shared by the route and its replays: one batch at a time, whoever brings it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::refusals::Refusals;
use super::{Cause, EventBatch, Origin};
use crate::sinks::{DeliverError, RejectedBySink, Sink};

/// A cheap clone.
#[derive(Clone)]
pub(super) struct SharedSink {
    sink: Arc<dyn Sink>,
    in_flight: usize,
    turn: Arc<Mutex<()>>,
    refusals: Arc<Refusals>,
}

/// What became of the events of a batch that were taken out of it.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// How many events of the journal the sink has.
    pub(super) delivered: u64,
    /// Those that it will never take, and why.
    pub(super) rejected: Vec<(Origin, RejectedBySink)>,
}

impl Delivered {
    /// Each of the parts is an event that was refused alone.
    fn reject(&mut self, refused: &mut Vec<(EventBatch<'_>, RejectedBySink)>) {
        let events = refused.drain(..).map(|(part, why)| (part.origin(0), why));
        self.rejected.extend(events);
    }
}

impl SharedSink {
    /// `in_flight`: parts of a batch delivered at the same time, if the sink takes parts.
    pub(super) fn new(sink: Box<dyn Sink>, in_flight: usize) -> Self {
        Self {
            in_flight: if sink.takes_parts() { in_flight } else { 1 },
            sink: sink.into(),
            turn: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// For what needs no turn.
    pub(super) fn get(&self) -> &dyn Sink {
        &*self.sink
    }

    /// How long the destination wants to be left alone.
    pub(super) fn rests_for(&self) -> Duration {
        let until = self.sink.not_before();
        until.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
        })
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
        // Refused alone, and none was taken since.
        let mut refused: Vec<(EventBatch<'_>, RejectedBySink)> = Vec::new();
        let failed = loop {
            let Some(mut part) = parts.pop() else {
                break None;
            };
            match self.deliver_part(&mut part, done).await {
                Ok(Taken::None) => {}
                Ok(Taken::Some) => {
                    self.refusals.over();
                    done.reject(&mut refused);
                }
                Err(Undelivered::Halve) => {
                    give_way().await;
                    let behind = part.split_off(part.len() / 2);
                    parts.extend([behind, part]);
                }
                Err(Undelivered::Retry(words)) => {
                    parts.push(part);
                    break Some(words);
                }
                Err(Undelivered::Refused(why)) => {
                    give_way().await;
                    let doubt = match part.cause() {
                        // An operator asks for this one event.
                        Cause::Redrive(_) => None,
                        Cause::Journal(_) | Cause::Replay => {
                            self.refusals.another(&why, Instant::now())
                        }
                    };
                    refused.push((part, why));
                    if let Some(words) = doubt {
                        parts.extend(refused.drain(..).rev().map(|(part, _)| part));
                        break Some(words);
                    }
                }
            }
        };
        done.reject(&mut refused);
        parts.into_iter().rev().for_each(|part| batch.append(part));
        failed.map_or(Ok(()), Err)
    }

    /// Delivers one part, without those that the sink says it will never take.
    async fn deliver_part(
        &self,
        part: &mut EventBatch<'_>,
        done: &mut Delivered,
    ) -> Result<Taken, Undelivered> {
        while !part.is_empty() {
            let mut rejected = match self.sink.deliver(part).await {
                Ok(()) => {
                    done.delivered += part.journaled();
                    return Ok(Taken::Some);
                }
                Err(DeliverError::Retryable(words)) => return Err(Undelivered::Retry(words)),
                Err(DeliverError::Rejected(rejected)) => rejected,
                Err(DeliverError::Refused { .. }) if part.len() > 1 => {
                    return Err(Undelivered::Halve);
                }
                Err(DeliverError::Refused { code, message }) => {
                    return Err(Undelivered::Refused(RejectedBySink {
                        index: 0,
                        code,
                        message,
                    }));
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
            give_way().await;
        }
        Ok(Taken::None)
    }

    /// Makes durable what was delivered.
    pub(super) async fn flush(&self) -> Result<(), DeliverError> {
        let _turn = self.turn.lock().await;
        self.sink.flush().await
    }
}

/// What the sink has of a part that is settled.
enum Taken {
    /// All that it did not reject.
    Some,
    /// It rejected every event.
    None,
}

/// There may be thousands of parts to come, of a sink that never waits: whoever wants to break it off can here.
async fn give_way() {
    tokio::task::yield_now().await;
}

/// Why a part was not delivered.
enum Undelivered {
    /// The sink cannot take it now.
    Retry(String),
    /// One of its events is to blame.
    Halve,
    /// Its only event is refused.
    Refused(RejectedBySink),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use telemetryx_common::{Event, Timestamp};

    use super::*;
    use crate::route::{Letter, Stretch};

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

    fn journal(offsets: std::ops::Range<u64>) -> EventBatch<'static> {
        let stretch = Stretch {
            log: LOG,
            first: offsets.start,
            end: offsets.end,
            part: 0,
        };
        let mut batch = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
        for offset in offsets {
            batch.push(offset, Event::new(Timestamp::UNIX_EPOCH));
        }
        batch
    }

    fn offsets(batch: &EventBatch<'_>) -> Vec<u64> {
        batch.offsets().map(|(offset, _)| offset).collect()
    }

    #[tokio::test]
    async fn server_that_refuses_everything_buries_only_so_many_and_of_the_last_batch_none() {
        let picky = Arc::new(Picky {
            poison: (0..10_000).collect(),
            ..Picky::default()
        });
        let shared = SharedSink::new(Box::new(Arc::clone(&picky)), 1);
        let mut done = Delivered::default();
        let mut stuck = None;
        for first in (0..6000).step_by(300) {
            let mut batch = journal(first..first + 300);
            if let Err(words) = shared.deliver(&mut batch, &mut done).await {
                let told = words.contains("`poison`") && words.ends_with("is poison");
                assert!(told, "{words}");
                stuck = Some(first);
                break;
            }
        }
        let stuck = stuck.expect("it does not bury all of them");
        let buried = done.rejected.len() as u64;
        assert!(buried == stuck && stuck > 0, "{buried} of {stuck}");
        // It comes again as it was, and a single event is asked for then.
        let mut batch = journal(stuck..stuck + 300);
        shared.deliver(&mut batch, &mut done).await.unwrap_err();
        assert_eq!(offsets(&batch), (stuck..stuck + 300).collect::<Vec<_>>());
        assert_eq!(batch.cause(), journal(stuck..stuck + 300).cause());
        assert_eq!(done.rejected.len() as u64, buried);
        // An operator's own wish is looked at by itself.
        let letter = Letter {
            log: LOG,
            number: 1,
        };
        let mut one = EventBatch::new(Cause::Redrive(letter), Timestamp::UNIX_EPOCH);
        one.push(7, Event::new(Timestamp::UNIX_EPOCH));
        shared.deliver(&mut one, &mut done).await.unwrap();
        assert_eq!(done.rejected.len() as u64, buried + 1);
        // One that is taken shows that the others are to blame.
        let mut good = journal(10_000..10_001);
        shared.deliver(&mut good, &mut done).await.unwrap();
        shared.deliver(&mut batch, &mut done).await.unwrap();
        assert_eq!(done.rejected.len() as u64, buried + 1 + 300);
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
