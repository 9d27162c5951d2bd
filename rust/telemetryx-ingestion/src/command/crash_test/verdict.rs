//! Acknowledged against stored and counted.

use std::time::Duration;

use super::service::{CrashTestError, ServiceUnderTest};
use crate::command::load::engine::Acknowledged;
use crate::command::load::template::Shape;

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

/// What came out.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CrashReport {
    /// Times the service was killed.
    pub kills: u32,
    /// Times it was told to end.
    pub terminations: u32,
    /// Events handed to a connection.
    pub sent: u64,
    /// Events answered 202.
    pub acknowledged: u64,
    /// Acknowledged events found in `/events`.
    pub recovered: u64,
    /// Acknowledged events not found in `/events`, or not counted in `/stats`.
    pub lost: u64,
    /// Events found more than once in `/events`, or counted more than once in `/stats`.
    pub doubled: u64,
    /// Events stored though their answer never arrived. That is allowed: nothing was promised either way.
    pub stored_unacknowledged: u64,
    /// Longest time from start to ready.
    pub start_longest: Duration,
    /// Everything else that must not be, in words.
    pub faults: Vec<String>,
}

impl CrashReport {
    /// Nothing lost, nothing doubled, the books balance.
    pub fn passed(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.faults.is_empty()
    }

    pub(super) fn started(&mut self, took: Duration) {
        self.start_longest = self.start_longest.max(took);
    }

    /// Compares; every route must have delivered everything.
    pub(super) async fn judge(
        &mut self,
        service: &ServiceUnderTest,
        acknowledged: &Acknowledgements,
        shape: &Shape,
    ) -> Result<(), CrashTestError> {
        let mut stored = vec![0_u8; self.sent as usize];
        let mut foreign = Vec::new();
        service
            .stored_ids(|id| {
                match shape
                    .number(id)
                    .and_then(|number| stored.get_mut(number as usize))
                {
                    Some(times) => *times = times.saturating_add(1),
                    None => foreign.push(id.to_owned()),
                }
            })
            .await?;
        self.compare_stored(acknowledged, &stored, shape);
        for id in foreign.iter().take(NAMED_MAX) {
            self.faults
                .push(format!("/events has an event nobody sent: {id}"));
        }

        let counted = service.events_counted().await?;
        let accepted = service.ledger().await?.accepted;
        let distinct = stored.iter().filter(|times| **times > 0).count() as u64;
        self.compare_counted(counted, accepted, distinct);
        Ok(())
    }

    fn compare_stored(&mut self, acknowledged: &Acknowledgements, stored: &[u8], shape: &Shape) {
        self.acknowledged = acknowledged.count;
        let mut named = 0;
        for (number, times) in stored.iter().enumerate() {
            let promised = acknowledged.by_number.get(number).copied().unwrap_or(false);
            let fault = match (promised, times) {
                (true, 0) => {
                    self.lost += 1;
                    "acknowledged, and not in /events"
                }
                (_, 2..) => {
                    self.doubled += 1;
                    "in /events more than once"
                }
                (true, 1) => {
                    self.recovered += 1;
                    continue;
                }
                (false, 1) => {
                    self.stored_unacknowledged += 1;
                    continue;
                }
                (false, 0) => continue,
            };
            named += 1;
            if named <= NAMED_MAX {
                self.faults.push(format!(
                    "{}: {fault}",
                    shape.id(number as u64).unwrap_or_default()
                ));
            }
        }
    }

    /// Every id was sent once, so events counted, accepted and stored are the same number.
    fn compare_counted(&mut self, counted: u64, accepted: u64, distinct: u64) {
        if counted < distinct {
            self.lost += distinct - counted;
            self.faults.push(format!(
                "/stats counts {counted} events, but {distinct} are stored"
            ));
        }
        if counted > distinct {
            self.doubled += counted - distinct;
            self.faults.push(format!(
                "/stats counts {counted} events, but only {distinct} are stored"
            ));
        }
        if counted != accepted {
            self.faults.push(format!(
                "/stats counts {counted} events, /ledger accepted {accepted}"
            ));
        }
        if counted < self.acknowledged || counted > self.sent {
            let (least, most) = (self.acknowledged, self.sent);
            self.faults.push(format!(
                "/stats counts {counted} events, not between {least} acknowledged and {most} sent"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            id_prefix: Some("c".to_owned()),
            ..Shape::default()
        }
    }

    fn judged(stored: &[u8], counted: u64) -> CrashReport {
        let mut acknowledged = Acknowledgements::default();
        acknowledged.add(&Acknowledged {
            first: 0,
            count: 3,
            refused: vec![1],
        });
        let mut report = CrashReport {
            sent: stored.len() as u64,
            ..CrashReport::default()
        };
        report.compare_stored(&acknowledged, stored, &shape());
        let distinct = stored.iter().filter(|times| **times > 0).count() as u64;
        report.compare_counted(counted, counted, distinct);
        report
    }

    #[test]
    fn unacknowledged_events_may_be_there_or_not() {
        let report = judged(&[1, 0, 1, 1, 0], 3);
        assert!(report.passed(), "{report:?}");
        assert_eq!(
            (
                report.acknowledged,
                report.recovered,
                report.stored_unacknowledged
            ),
            (2, 2, 1)
        );
    }

    #[test]
    fn missing_event_is_lost_and_named() {
        let report = judged(&[1, 0, 0, 0, 0], 1);
        assert_eq!(report.lost, 1);
        assert!(
            report.faults[0].starts_with("c-000000000002: acknowledged"),
            "{report:?}"
        );
    }

    #[test]
    fn event_stored_twice_is_doubled() {
        assert_eq!(judged(&[1, 0, 2, 0, 0], 2).doubled, 1);
    }

    #[test]
    fn counts_that_are_off_fail_in_both_directions() {
        assert_eq!(judged(&[1, 0, 1, 0, 0], 3).doubled, 1);
        assert_eq!(judged(&[1, 0, 1, 0, 0], 1).lost, 1);
    }
}
