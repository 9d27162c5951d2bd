//! What a load run counts: answers by status, events, errors, latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::http::HttpError;
use super::verdict::Verdict;

/// Latencies above this are recorded as this.
const LATENCY_MICROS_MAX: u64 = 600_000_000;

/// Counts and latencies, in microseconds.
#[derive(Debug)]
pub(crate) struct Tally {
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    /// Events handed to a connection, whether or not they reached the server, in the warm-up too; known at the end.
    pub(crate) sent: u64,
    /// Events that answers counted as accepted.
    pub(crate) accepted: u64,
    /// Events that answers counted as invalid.
    pub(crate) rejected: u64,
    /// Events that an overload policy took and dropped.
    pub(crate) shed: u64,
    /// Events of requests that were turned away whole.
    pub(crate) refused: u64,
    /// All answers, whatever their status.
    pub(crate) latency: Histogram<u64>,
    /// Since the last `take_interval`.
    interval: Histogram<u64>,
    interval_accepted: u64,
    last_answer: Option<Instant>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            sent: 0,
            accepted: 0,
            rejected: 0,
            shed: 0,
            refused: 0,
            latency: new_histogram(),
            interval: new_histogram(),
            interval_accepted: 0,
            last_answer: None,
        }
    }

    /// Counts the answer to a request of `batch` events.
    pub(super) fn answered(
        &mut self,
        verdict: &Verdict,
        batch: u64,
        latency: Duration,
        at: Instant,
    ) {
        *self.statuses.entry(verdict.status).or_default() += 1;
        self.accepted += verdict.accepted;
        self.rejected += verdict.rejected;
        self.shed += verdict.shed;
        let counted = verdict.accepted + verdict.rejected + verdict.shed;
        self.refused += batch.saturating_sub(counted);
        self.interval_accepted += verdict.accepted;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        self.interval.saturating_record(micros);
        self.last_answer = Some(at);
    }

    pub(crate) fn failed(&mut self, error: &HttpError) {
        *self.errors.entry(error.to_string()).or_default() += 1;
    }

    pub(crate) fn unanswered(&mut self, requests: u64, why: &str) {
        if requests > 0 {
            *self.errors.entry(why.to_owned()).or_default() += requests;
        }
    }

    /// Requests answered.
    pub(crate) fn requests(&self) -> u64 {
        self.latency.len()
    }

    pub(crate) fn statuses(&self) -> &BTreeMap<u16, u64> {
        &self.statuses
    }

    /// Requests without an answer, by cause.
    pub(crate) fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    pub(crate) fn errors_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// When the last answer came.
    pub(crate) fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    /// Events accepted since the last call, and the p99 of their requests.
    pub(crate) fn take_interval(&mut self) -> (u64, Duration) {
        let p99 = Duration::from_micros(self.interval.value_at_quantile(0.99));
        self.interval.reset();
        (std::mem::take(&mut self.interval_accepted), p99)
    }
}

/// From one microsecond up, to three digits.
#[expect(clippy::expect_used, reason = "constant bounds, which a test makes")]
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_starts_anew_and_the_total_goes_on() {
        let mut tally = Tally::new();
        let verdict = |status, accepted| Verdict {
            status,
            accepted,
            rejected: 0,
            shed: 0,
            refused: None,
        };
        tally.answered(
            &verdict(202, 5),
            5,
            Duration::from_millis(2),
            Instant::now(),
        );
        assert_eq!(tally.take_interval().0, 5);
        tally.answered(
            &verdict(429, 0),
            5,
            Duration::from_secs(9999),
            Instant::now(),
        );
        let (accepted, p99) = tally.take_interval();
        assert_eq!(accepted, 0);
        assert!(p99 >= Duration::from_secs(599), "{p99:?}");
        assert_eq!((tally.accepted, tally.refused, tally.requests()), (5, 5, 2));
        assert_eq!(
            tally.statuses().iter().collect::<Vec<_>>(),
            [(&202, &1), (&429, &1)]
        );
    }
}
