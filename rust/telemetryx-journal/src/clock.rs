//! The clock as a parameter, so that tests own time. See [`crate::sim`] for one that stands still.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells the time to the journal.
pub trait Clock: Send + Sync {
    /// Wall clock, nanoseconds since the epoch. May jump; the journal makes it monotonic before it stores it.
    fn wall_ns(&self) -> i64;

    /// Time since some fixed moment, never going backwards. Used for intervals and delays.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic side begins now.
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock {
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn wall_ns(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}
