//! Keys such as `timeout`, which most sinks that reach a server have: the longest wait for it.

use std::ops::RangeInclusive;
use std::time;

use crate::config::Duration;

/// What a `timeout` may be, where nothing speaks for other bounds.
pub(super) const BOUNDS: RangeInclusive<Duration> = Duration::millis(1)..=Duration::minutes(60);

/// What is given for this key, or the default.
///
/// # Errors
/// It is not within the bounds.
pub(super) fn checked(
    key: &str,
    given: Option<Duration>,
    default: Duration,
    bounds: RangeInclusive<Duration>,
) -> Result<time::Duration, String> {
    let timeout = given.unwrap_or(default);
    if bounds.contains(&timeout) {
        return Ok(timeout.into());
    }
    let (least, most) = bounds.into_inner();
    Err(format!("`{key}` must be from {least} to {most}"))
}
