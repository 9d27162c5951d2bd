//! The service's clock, read once a batch.

use std::time::{SystemTime, UNIX_EPOCH};

use telemetryx_common::Timestamp;

/// Now, by the system's clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
