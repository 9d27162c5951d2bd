//! Points in time: nanoseconds since the Unix epoch, read from what clients send, written as RFC 3339.
//!
//! Written by hand because a timestamp is in every event: the common form takes a few nanoseconds to read and no
//! allocation to write. The tests hold both directions against `jiff`.

use std::fmt;

use thiserror::Error;

use crate::ErrorCode;

mod calendar;
mod epoch;
mod rfc3339;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// `2025-01-01T00:00:00.123456789Z`
const TEXT_MAX: usize = 30;

/// A point in time between 1677-09-21 and 2262-04-11, to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// Why a timestamp was not taken. The text says what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TimestampError {
    /// It cannot be read.
    #[error(
        "{0}: send RFC 3339 as \"2025-01-31T23:59:59.123Z\", or the seconds, ms, µs or ns since 1970 as a number"
    )]
    Invalid(&'static str),
    /// It can be read, but not stored.
    #[error("it lies outside of what can be stored, 1677-09-21 to 2262-04-11")]
    OutOfRange,
}

impl TimestampError {
    /// What is wrong, for programs.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            TimestampError::Invalid(_) => ErrorCode::InvalidTimestamp,
            TimestampError::OutOfRange => ErrorCode::TimestampOutOfRange,
        }
    }
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Timestamp(0);

    /// That many nanoseconds after the Unix epoch.
    #[must_use]
    #[inline]
    pub const fn from_unix_nanos(nanos: i64) -> Self {
        Timestamp(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    #[inline]
    pub const fn unix_nanos(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339, and a little more.
    ///
    /// Any offset, as `+02:00`, `+0200` or `+02`; `Z` or `z`; no offset means UTC. `T`, `t` or a space between date and time. Digits
    /// of the fraction beyond the ninth are cut off. A leap second `:60` is the second before it, as in Unix time.
    /// Digits without punctuation (`"1735689600"`, `"20250101"`) are refused: they could be epoch or date. Epoch times
    /// are sent as numbers, see [`Timestamp::from_epoch_number`].
    ///
    /// # Errors
    ///
    /// [`TimestampError`], which says what would be right.
    #[inline]
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        rfc3339::parse(text.as_bytes())
    }

    /// Reads the text of a JSON number as time since the epoch, exactly, in the unit that its magnitude tells.
    ///
    /// | magnitude | unit | covers |
    /// | --- | --- | --- |
    /// | below 10¹¹ | seconds | to 2262, the last year that can be stored |
    /// | below 10¹⁴ | milliseconds | from 1973 |
    /// | below 10¹⁷ | microseconds | from 1973 |
    /// | the rest | nanoseconds | from 1973 |
    ///
    /// Fractions and exponents are taken exactly; what is less than a nanosecond is cut off.
    ///
    /// # Errors
    ///
    /// [`TimestampError`], which says what would be right.
    pub fn from_epoch_number(number: &str) -> Result<Self, TimestampError> {
        epoch::parse(number.as_bytes())
    }

    /// Appends the timestamp as RFC 3339 in UTC, with 0, 3, 6 or 9 digits of fraction, whichever is enough.
    pub fn write_to(self, out: &mut Vec<u8>) {
        let mut text = [0; TEXT_MAX];
        let length = rfc3339::format(self, &mut text);
        out.extend_from_slice(&text[..length]);
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_MAX];
        let length = rfc3339::format(*self, &mut text);
        f.write_str(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
