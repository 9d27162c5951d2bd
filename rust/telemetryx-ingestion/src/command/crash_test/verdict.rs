//! Acknowledged against stored and counted.

use std::time::Duration;

use super::senders::SentBy;
use super::service::{CrashTestError, ServiceUnderTest, StoredEvent};
use crate::command::load::Protocol;
use crate::command::load::engine::Acknowledged;

/// Faults named one by one; beyond that they are only counted.
const NAMED_MAX: usize = 10;

/// Which events were acknowledged, by number.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    by_number: Vec<bool>,
    count: u64,
}

impl Acknowledgements {
    pub(super) fn add(&mut self, request: &Acknowledged) {
        for number in request.numbers() {
            let index = number as usize;
            if self.by_number.len() <= index {
                self.by_number.resize(index + 1, false);
            }
            self.by_number[index] = true;
            self.count += 1;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

/// What became of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Events handed to a connection.
    pub sent: u64,
    /// Events that were answered as taken in.
    pub acknowledged: u64,
    /// Acknowledged events found in `/events`.
    pub recovered: u64,
    /// Acknowledged events not found in `/events`, or (in the total) not counted in `/stats`.
    pub lost: u64,
    /// Events found more than once in `/events`, or (in the total) counted more than once in `/stats`.
    pub doubled: u64,
    /// Events stored though their answer never arrived. That is allowed: nothing was promised either way.
    pub stored_unacknowledged: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.recovered += other.recovered;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.stored_unacknowledged += other.stored_unacknowledged;
    }
}

/// What came out.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CrashReport {
    /// Times the service was killed.
    pub kills: u32,
    /// Times it was told to end.
    pub terminations: u32,
    /// What became of the events of each protocol.
    pub by_protocol: Vec<(Protocol, Counts)>,
    /// Of all together.
    pub total: Counts,
    /// Longest time from start to ready.
    pub start_longest: Duration,
    /// Everything else that must not be, in words.
    pub faults: Vec<String>,
}

impl CrashReport {
    /// Nothing lost, nothing doubled, the books balance.
    pub fn passed(&self) -> bool {
        self.total.lost == 0 && self.total.doubled == 0 && self.faults.is_empty()
    }

    pub(super) fn started(&mut self, took: Duration) {
        self.start_longest = self.start_longest.max(took);
    }

    /// Compares; every route must have delivered everything.
    pub(super) async fn judge(
        &mut self,
        service: &ServiceUnderTest,
        senders: &[SentBy],
    ) -> Result<(), CrashTestError> {
        let mut stored: Vec<_> = senders
            .iter()
            .map(|sender| vec![0_u8; sender.sent as usize])
            .collect();
        let mut foreign = Vec::new();
        service
            .stored_events(|event| {
                let place = senders
                    .iter()
                    .zip(&mut stored)
                    .find_map(|(sender, stored)| stored.get_mut(sender.number(event)? as usize));
                match place {
                    Some(times) => *times = times.saturating_add(1),
                    None => foreign.push(event.id.clone()),
                }
            })
            .await?;
        for (sender, stored) in senders.iter().zip(&stored) {
            self.compare_stored(sender, stored);
        }
        for id in foreign.iter().take(NAMED_MAX) {
            self.faults
                .push(format!("/events has an event nobody sent: {id}"));
        }

        let counted = service.events_counted().await?;
        let accepted = service.ledger().await?.accepted;
        let distinct = stored.iter().flatten().filter(|times| **times > 0).count() as u64;
        self.compare_counted(counted, accepted, distinct);
        Ok(())
    }

    fn compare_stored(&mut self, sender: &SentBy, stored: &[u8]) {
        let mut counts = Counts {
            sent: sender.sent,
            acknowledged: sender.acknowledged.count,
            ..Counts::default()
        };
        let promised = &sender.acknowledged.by_number;
        let mut named = 0;
        for (number, times) in stored.iter().enumerate() {
            let promised = promised.get(number).copied().unwrap_or(false);
            let fault = match (promised, times) {
                (true, 0) => {
                    counts.lost += 1;
                    "acknowledged, and not in /events"
                }
                (_, 2..) => {
                    counts.doubled += 1;
                    "in /events more than once"
                }
                (true, 1) => {
                    counts.recovered += 1;
                    continue;
                }
                (false, 1) => {
                    counts.stored_unacknowledged += 1;
                    continue;
                }
                (false, 0) => continue,
            };
            named += 1;
            if named <= NAMED_MAX {
                let id = sender.shape.id(number as u64).unwrap_or_default();
                self.faults.push(format!("{id}: {fault}"));
            }
        }
        self.total.add(counts);
        self.by_protocol.push((sender.protocol, counts));
    }

    /// Every id was sent once, so events counted, accepted and stored are the same number.
    fn compare_counted(&mut self, counted: u64, accepted: u64, distinct: u64) {
        if counted < distinct {
            self.total.lost += distinct - counted;
            self.faults.push(format!(
                "/stats counts {counted} events, but {distinct} are stored"
            ));
        }
        if counted > distinct {
            self.total.doubled += counted - distinct;
            self.faults.push(format!(
                "/stats counts {counted} events, but only {distinct} are stored"
            ));
        }
        if counted != accepted {
            self.faults.push(format!(
                "/stats counts {counted} events, /ledger accepted {accepted}"
            ));
        }
        if counted < self.total.acknowledged || counted > self.total.sent {
            let (least, most) = (self.total.acknowledged, self.total.sent);
            self.faults.push(format!(
                "/stats counts {counted} events, not between {least} acknowledged and {most} sent"
            ));
        }
    }
}

impl SentBy {
    /// The number of an event that this sender made.
    fn number(&self, event: &StoredEvent) -> Option<u64> {
        if self.protocol.carries_ids() {
            return self.shape.number(&event.id);
        }
        self.shape.number_within(event.payload.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::load::template::Shape;

    fn judged(stored: &[u8], counted: u64) -> CrashReport {
        let mut sender = SentBy {
            protocol: Protocol::Http,
            shape: Shape {
                id_prefix: Some("c".to_owned()),
                ..Shape::default()
            },
            sent: stored.len() as u64,
            acknowledged: Acknowledgements::default(),
        };
        sender.acknowledged.add(&Acknowledged {
            first: 0,
            count: 3,
            refused: vec![1],
        });
        let mut report = CrashReport::default();
        report.compare_stored(&sender, stored);
        let distinct = stored.iter().filter(|times| **times > 0).count() as u64;
        report.compare_counted(counted, counted, distinct);
        report
    }

    #[test]
    fn unacknowledged_events_may_be_there_or_not() {
        let report = judged(&[1, 0, 1, 1, 0], 3);
        assert!(report.passed(), "{report:?}");
        let counts = report.total;
        assert_eq!((counts.acknowledged, counts.recovered), (2, 2));
        assert_eq!(counts.stored_unacknowledged, 1);
        assert_eq!(report.by_protocol, [(Protocol::Http, counts)]);
    }

    #[test]
    fn missing_event_is_lost_and_named() {
        let report = judged(&[1, 0, 0, 0, 0], 1);
        assert_eq!(report.total.lost, 1);
        assert!(
            report.faults[0].starts_with("c-000000000002: acknowledged"),
            "{report:?}"
        );
    }

    #[test]
    fn event_stored_twice_is_doubled() {
        assert_eq!(judged(&[1, 0, 2, 0, 0], 2).total.doubled, 1);
    }

    #[test]
    fn counts_that_are_off_fail_in_both_directions() {
        assert_eq!(judged(&[1, 0, 1, 0, 0], 3).total.doubled, 1);
        assert_eq!(judged(&[1, 0, 1, 0, 0], 1).total.lost, 1);
    }
}
