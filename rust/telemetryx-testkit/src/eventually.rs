//! Waits for a condition in place of sleeping.

use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Asks again and again until `condition` holds.
///
/// # Panics
/// If it does not within `timeout`; `what` says what was waited for.
#[track_caller]
pub fn eventually(timeout: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(timeout, what, || condition().then_some(()));
}

/// Asks again and again until `find` finds something, and returns it.
///
/// # Panics
/// If it finds nothing within `timeout`; `what` says what was waited for.
#[track_caller]
pub fn eventually_some<T>(timeout: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(
            begun.elapsed() < timeout,
            "waited {timeout:?} in vain: {what}"
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_as_soon_as_it_holds() {
        let mut asked = 0;
        eventually(Duration::from_secs(5), "third time", || {
            asked += 1;
            asked == 3
        });
        assert_eq!(asked, 3);
    }

    #[test]
    #[should_panic(expected = "in vain: the moon is green")]
    fn says_what_was_waited_for() {
        eventually(Duration::from_millis(5), "the moon is green", || false);
    }
}
