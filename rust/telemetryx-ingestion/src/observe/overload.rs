//! Overload as log events, with the exact `event` and `reason` that operators alert on. The first of a kind is logged
//! at once; repetitions within a second are counted and logged as one line.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// At most one line of a kind in this time.
const QUIET: Duration = Duration::from_secs(1);

/// Log events of overload.
#[derive(Debug, Default)]
pub struct OverloadLog {
    rate_limited: Repeated,
    queue_saturated: Repeated,
    load_shedding: Repeated,
    buffer_full: Repeated,
    letters_lost: Repeated,
}

impl OverloadLog {
    /// A token bucket was empty. 429.
    pub fn rate_limited(&self, peer: IpAddr) {
        if let Some(count) = self.rate_limited.tick() {
            tracing::warn!(event = "rate_limited", reason = "limit_exceeded", count, source_ip = %peer, "rate limited");
        }
    }

    /// The backlog was over its limit, policy `reject`. 429.
    pub fn queue_saturated(&self) {
        if let Some(count) = self.queue_saturated.tick() {
            tracing::warn!(
                event = "queue_saturated",
                reason = "queue_full_reject",
                count,
                "backlog full: rejecting"
            );
        }
    }

    /// The backlog was over its limit, policy `drop` or `sample`. 202.
    pub fn load_shedding(&self) {
        if let Some(count) = self.load_shedding.tick() {
            tracing::warn!(
                event = "load_shedding",
                reason = "queue_full_drop_or_sample",
                count,
                "backlog full: shedding"
            );
        }
    }

    /// The memory budget was spent. 429.
    pub fn buffer_full(&self) {
        if let Some(count) = self.buffer_full.tick() {
            tracing::warn!(
                event = "processing_paused",
                reason = "buffer_full",
                count,
                "memory budget spent: rejecting"
            );
        }
    }

    /// Refused events could not be kept as dead letters; their clients have been told what is wrong with them.
    pub fn letters_lost(&self, error: &dyn std::fmt::Display) {
        if let Some(count) = self.letters_lost.tick() {
            tracing::warn!(%error, count, "refused events could not be kept as dead letters");
        }
    }
}

#[derive(Debug, Default)]
struct Repeated {
    since_last: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Repeated {
    /// Counts one; the number to log if it is time for a line.
    fn tick(&self) -> Option<u64> {
        self.since_last.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last.try_lock()?;
        if last.is_some_and(|last| last.elapsed() < QUIET) {
            return None;
        }
        *last = Some(Instant::now());
        Some(self.since_last.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_within_a_second_are_counted_not_logged() {
        let repeated = Repeated::default();
        assert_eq!(repeated.tick(), Some(1));
        assert_eq!((repeated.tick(), repeated.tick()), (None, None));
        *repeated.last.lock() = Some(Instant::now() - QUIET);
        assert_eq!(repeated.tick(), Some(3));
    }
}
