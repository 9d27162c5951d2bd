//! What happens at the door when the slowest route is too far behind: the overflow policy.

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
            OverflowPolicy::Sample => {
                // A low-discrepancy sequence: exact over any run of requests, with no generator to share.
                let drawn = self
                    .drawn
                    .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
                let fraction = (drawn >> 11) as f64 / (1u64 << 53) as f64;
                if fraction < self.config.sample_rate {
                    Verdict::Accept
                } else {
                    Verdict::Shed
                }
            }
        }
    }
}
