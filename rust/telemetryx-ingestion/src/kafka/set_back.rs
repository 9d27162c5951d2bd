//! Notices when somebody sets the system's clock back.

use std::time::Instant;

use telemetryx_common::Timestamp;

use crate::clock::now;

/// Set back by less, nobody is late by more.
const SET_BACK_MIN_NANOS: i64 = 1_000_000_000;

/// Who waits until a time of day, as librdkafka does, waits for as much longer once the clock is set back.
#[derive(Debug)]
pub(crate) struct SetBack {
    told: Timestamp,
    at: Instant,
}

impl Default for SetBack {
    fn default() -> Self {
        Self {
            told: now(),
            at: Instant::now(),
        }
    }
}

impl SetBack {
    /// True if that was so since this was last asked.
    pub(crate) fn noticed(&mut self) -> bool {
        let before = std::mem::take(self);
        let passed = self.at.duration_since(before.at).as_nanos();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let went = self.told.unix_nanos() - before.told.unix_nanos();
        passed.saturating_sub(went) > SET_BACK_MIN_NANOS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_is_noticed_once_and_one_that_is_set_forth_is_not() {
        let mut clock = SetBack::default();
        assert!(!clock.noticed());
        let hour = 3600 * 1_000_000_000;
        clock.told = Timestamp::from_unix_nanos(clock.told.unix_nanos() + hour);
        assert!(clock.noticed(), "it told an hour more before");
        assert!(!clock.noticed());
        clock.told = Timestamp::from_unix_nanos(clock.told.unix_nanos() - hour);
        assert!(!clock.noticed());
    }
}
