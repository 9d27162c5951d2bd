//! The circuit breaker: after some failures in a row a server is left alone for a while, then asked once.

use std::time::{Duration, Instant};

use crate::config::BreakerConfig;

/// Counts failures in a row. Closed: attempts go through, as the retry policy paces them. Open: none does. Half open:
/// one does, and decides.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    open_for: Duration,
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(config: &BreakerConfig) -> Self {
        Self {
            failures_max: config.failures,
            open_for: config.open_for.into(),
            failures: 0,
            open_until: None,
        }
    }

    /// How long to leave the server alone from `now` on; zero if an attempt may be made.
    pub(super) fn closed_in(&self, now: Instant) -> Duration {
        self.open_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// True from the failure that opened it to the next success.
    pub(super) fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// An attempt succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.open_until = None;
    }

    /// An attempt failed; true if this opened the breaker.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.failures_max {
            return false;
        }
        self.open_until.replace(now + self.open_for).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker {
            failures_max: 2,
            open_for: Duration::from_secs(5),
            failures: 0,
            open_until: None,
        }
    }

    #[test]
    fn opens_at_the_limit_and_lets_one_attempt_through_after_its_time() {
        let (mut breaker, now) = (breaker(), Instant::now());
        assert!(!breaker.failed(now));
        assert_eq!(breaker.closed_in(now), Duration::ZERO);
        assert!(breaker.failed(now));
        assert_eq!(breaker.closed_in(now), Duration::from_secs(5));
        let later = now + Duration::from_secs(6);
        assert_eq!(breaker.closed_in(later), Duration::ZERO);
        assert!(!breaker.failed(later), "still open: said once");
        assert_eq!(breaker.closed_in(later), Duration::from_secs(5));
    }

    #[test]
    fn a_success_closes_it() {
        let (mut breaker, now) = (breaker(), Instant::now());
        breaker.failed(now);
        breaker.succeeded();
        assert!(!breaker.failed(now));
        assert!(!breaker.is_open());
    }
}
