//! What happens at the door when the slowest route is too far behind: the overflow policy.
//!
//! It is asked once a request. Policy `sample` then draws for each event: to draw for whole requests would keep or lose
//! the batches of those who send large ones as a whole, and a request of one event is the same either way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{OverflowConfig, OverflowPolicy};
use crate::journal::{Backlog, Journal};

/// What the policy says of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is room.
    Accept,
    /// The backlog is over its limit: answer 429.
    Reject,
    /// The backlog is over its limit: answer 202 and keep nothing.
    Shed,
    /// The backlog is over its limit: answer 202 and keep the events that [`OverflowGate::draw`] says.
    Sample,
}

/// Asks the journal for its backlog and applies the policy.
pub struct OverflowGate {
    journal: Arc<dyn Journal>,
    config: OverflowConfig,
    drawn: AtomicU64,
}

impl OverflowGate {
    /// The gate of `config` before `journal`.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, config: OverflowConfig) -> Self {
        Self {
            journal,
            config,
            drawn: AtomicU64::new(0),
        }
    }

    /// True if the backlog is over a limit now.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        let Backlog { events, bytes } = self.journal.backlog();
        let over = |value: u64, limit: Option<u64>| limit.is_some_and(|limit| value >= limit);
        over(events, self.config.max_backlog_events)
            || bytes >= self.config.max_backlog_bytes.bytes()
    }

    /// What to do with the next request.
    #[must_use]
    pub fn decide(&self) -> Verdict {
        if !self.is_saturated() {
            return Verdict::Accept;
        }
        match self.config.policy {
            OverflowPolicy::Reject => Verdict::Reject,
            OverflowPolicy::Drop => Verdict::Shed,
            OverflowPolicy::Sample => Verdict::Sample,
        }
    }

    /// Whether the next event of a sample is kept.
    #[must_use]
    pub fn draw(&self) -> bool {
        // A low-discrepancy sequence: exact over any run of events, with no generator to share.
        let drawn = self
            .drawn
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let fraction = (drawn >> 11) as f64 / (1u64 << 53) as f64;
        fraction < self.config.sample_rate
    }

    /// The share of events that a sample keeps.
    #[must_use]
    pub fn sample_rate(&self) -> f64 {
        self.config.sample_rate
    }
}
