//! Overload as log events, with the exact `event` and `reason` that operators alert on. The first of a kind is logged
//! at once; repetitions within a second are counted and logged as one line. `/status` shows how often each came since the
//! start, and when last.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use telemetryx_common::Timestamp;

use super::SignatureFault;
use crate::clock;

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
    signature_failed: Repeated,
    key_refused: Repeated,
    findings_refused: Repeated,
}

impl OverloadLog {
    /// A token bucket was empty. 429.
    pub fn rate_limited(&self, peer: IpAddr) {
        if let Some(count) = self.rate_limited.tick() {
            tracing::warn!(event = "rate_limited", reason = "limit_exceeded", count, source_ip = %peer, "rate limited");
        }
    }

    /// Events of a request were over the limit of their sources. 202 if others were accepted, else 429.
    pub fn events_rate_limited(&self, events: usize) {
        if let Some(count) = self.rate_limited.tick() {
            tracing::warn!(
                event = "rate_limited",
                reason = "limit_exceeded",
                count,
                events,
                "events over the limit of their source"
            );
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

    /// A webhook got something without a right signature. 401.
    pub fn signature_failed(&self, webhook: &str, fault: SignatureFault, peer: IpAddr) {
        if let Some(count) = self.signature_failed.tick() {
            let fault = fault.as_str();
            tracing::warn!(webhook, fault, count, source_ip = %peer, "a delivery without a right signature");
        }
    }

    /// A producer showed no API key, or one that is not known. 401.
    pub fn key_refused(&self, peer: IpAddr) {
        if let Some(count) = self.key_refused.tick() {
            tracing::warn!(count, source_ip = %peer, "no API key, or one that is not known");
        }
    }

    /// Findings of a brain were invalid.
    pub fn findings_refused(&self, findings: usize, error: &str) {
        if let Some(count) = self.findings_refused.tick() {
            tracing::warn!(error, findings, count, "findings of a brain were refused");
        }
    }

    /// How often each kind came since the start, and when last; the routes count how often they `paused`, and
    /// `batch_persist_failed`, with the newest error.
    #[must_use]
    pub fn shown(
        &self,
        mut paused: Counted,
        batch_persist_failed: Counted,
        error: Option<&str>,
    ) -> Value {
        paused.add(self.buffer_full.counted());
        json!({
            "rate_limited": self.rate_limited.counted().shown(Some("limit_exceeded")),
            "queue_saturated": self.queue_saturated.counted().shown(Some("queue_full_reject")),
            "load_shedding": self.load_shedding.counted().shown(Some("queue_full_drop_or_sample")),
            "processing_paused": paused.shown(Some("buffer_full")),
            "batch_persist_failed": batch_persist_failed.shown(error),
        })
    }

    /// Refused events could not be kept as dead letters; their clients have been told what is wrong with them.
    pub fn letters_lost(&self, error: &dyn std::fmt::Display) {
        if let Some(count) = self.letters_lost.tick() {
            tracing::warn!(%error, count, "refused events could not be kept as dead letters");
        }
    }
}

/// How often something came since the start, and when last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often.
    pub count: u64,
    /// When last.
    pub last: Option<Timestamp>,
}

impl Counted {
    /// It came now.
    pub fn tick(&mut self) {
        self.count += 1;
        self.last = Some(clock::now());
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        self.last = self.last.max(other.last);
    }

    /// How often it came.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    fn shown(self, reason: Option<&str>) -> Value {
        let last = self.last.map(|last| last.to_string());
        json!({ "reason": reason, "count": self.count, "last": last })
    }
}

#[derive(Debug, Default)]
struct Repeated {
    since_last: AtomicU64,
    last: Mutex<Option<Instant>>,
    count: AtomicU64,
    /// Nanoseconds since 1970; 0: never.
    last_at: AtomicI64,
}

impl Repeated {
    fn counted(&self) -> Counted {
        let last = self.last_at.load(Ordering::Relaxed);
        Counted {
            count: self.count.load(Ordering::Relaxed),
            last: (last > 0).then(|| Timestamp::from_unix_nanos(last)),
        }
    }

    /// Counts one; the number to log if it is time for a line.
    fn tick(&self) -> Option<u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.last_at
            .fetch_max(clock::now().unix_nanos(), Ordering::Relaxed);
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
        let counted = repeated.counted();
        assert!(counted.count == 4 && counted.last <= Some(clock::now()));
        assert_eq!(Repeated::default().counted(), Counted::default());
    }
}
