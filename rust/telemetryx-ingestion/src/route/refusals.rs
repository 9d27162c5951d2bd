//! Events that a sink refused one by one. Some are to blame themselves, and are dead letters. Where it takes none between
//! very many of them, or for a long time, it is rather the server or its config: then no more are buried, and the route
//! waits.
//!
//! What lies ahead cannot be tried, since the events of a key stay in order. So the bounds are wide: the events of one
//! faulty client often lie together, and they must not stop all others.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sinks::RejectedBySink;

/// So many in a row may be to blame themselves.
const IN_A_ROW_MAX: u64 = 1000;
/// More than these may not, if none was taken for [`LONG`].
const IN_LONG_MAX: u64 = 20;
const LONG: Duration = Duration::from_secs(300);

/// The refusals since the sink took the last event.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Option<Row>>);

#[derive(Debug)]
struct Row {
    code: &'static str,
    count: u64,
    since: Instant,
}

impl Refusals {
    /// The sink took an event.
    pub(super) fn over(&self) {
        *self.0.lock() = None;
    }

    /// One more event was refused alone. What to say if the events are hardly to blame.
    pub(super) fn another(&self, why: &RejectedBySink, now: Instant) -> Option<String> {
        let mut row = self.0.lock();
        let same = row.take().filter(|row| row.code == why.code);
        let row = row.insert(same.unwrap_or(Row {
            code: why.code,
            count: 0,
            since: now,
        }));
        row.count += 1;
        let for_long = now.duration_since(row.since) > LONG;
        let most = if for_long { IN_LONG_MAX } else { IN_A_ROW_MAX };
        (row.count > most).then(|| {
            // Those of this batch are not buried, and come again.
            row.count = IN_A_ROW_MAX;
            format!(
                "it refuses every event, each alone and as `{}`: the server or its config is at fault, not the events. \
                 The last answer: {}",
                why.code, why.message
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_in_a_row_or_some_in_a_long_time_are_not_to_blame() {
        let refused = |code| RejectedBySink {
            index: 0,
            code,
            message: "no".to_owned(),
        };
        let (refusals, now) = (Refusals::default(), Instant::now());
        let count = |code, now| {
            let mut count = 0;
            while refusals.another(&refused(code), now).is_none() {
                count += 1;
            }
            count
        };
        assert_eq!(count("a", now), IN_A_ROW_MAX);
        // Without any that is taken, the next one is not to blame either.
        assert_eq!(count("a", now), 0);
        assert_eq!(count("b", now), IN_A_ROW_MAX, "another reason");
        refusals.over();
        assert!(refusals.another(&refused("b"), now).is_none());
        let later = now + LONG + Duration::from_secs(1);
        assert_eq!(count("b", later), IN_LONG_MAX - 1);
        assert_eq!(count("b", later), 0);
        refusals.over();
        assert_eq!(count("b", later), IN_A_ROW_MAX);
    }
}
