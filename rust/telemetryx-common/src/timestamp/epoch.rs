//! Time since the epoch as a JSON number, in whatever unit its magnitude tells.

use super::{Timestamp, TimestampError};

/// From here on, by magnitude, a number is not seconds, ms, µs; and the nanoseconds in one of the unit.
const UNITS: [(u128, u32); 3] = [
    (100_000_000_000, 9),
    (100_000_000_000_000, 6),
    (100_000_000_000_000_000, 3),
];
/// Digits that are kept: 19 before the point and 9 behind it are the most that can matter.
const DIGITS_MAX: u32 = 30;

/// Reads the number exactly: as digits times a power of ten, never as a float.
pub(super) fn parse(text: &[u8]) -> Result<Timestamp, TimestampError> {
    let (negative, magnitude) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let (digits, exponent) = decimal(magnitude)?;
    if digits == 0 {
        return Ok(Timestamp::UNIX_EPOCH);
    }
    let whole = scale(digits, exponent).ok_or(TimestampError::OutOfRange)?;
    let unit = UNITS
        .iter()
        .find(|(below, _)| whole < *below)
        .map_or(0, |(_, power)| *power);
    let nanos = scale(digits, exponent.saturating_add(i64::from(unit)))
        .and_then(|nanos| i64::try_from(nanos).ok())
        .ok_or(TimestampError::OutOfRange)?;
    Ok(Timestamp(if negative { -nanos } else { nanos }))
}

/// The digits of a JSON number without sign, and by which power of ten they are to be multiplied.
fn decimal(text: &[u8]) -> Result<(u128, i64), TimestampError> {
    let invalid = TimestampError::Invalid("it is not a number");
    if text.first().is_none_or(|byte| !byte.is_ascii_digit()) {
        return Err(invalid);
    }
    let mut digits = 0_u128;
    let mut kept = 0;
    let mut exponent = 0_i64;
    let mut after_point = false;
    let mut rest = text.iter();
    for byte in rest.by_ref() {
        match byte {
            b'0'..=b'9' if kept < DIGITS_MAX => {
                digits = digits * 10 + u128::from(byte - b'0');
                kept += u32::from(digits > 0);
                exponent -= i64::from(after_point);
            }
            b'0'..=b'9' => exponent += i64::from(!after_point),
            b'.' if !after_point => after_point = true,
            b'e' | b'E' => {
                let tail = std::str::from_utf8(rest.as_slice()).map_err(|_| invalid)?;
                return Ok((digits, exponent.saturating_add(power(tail).ok_or(invalid)?)));
            }
            _ => return Err(invalid),
        }
    }
    Ok((digits, exponent))
}

/// The exponent of a number. One that does not fit is as good as the largest.
fn power(text: &str) -> Option<i64> {
    let digits = text.trim_start_matches(['+', '-']);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let magnitude = digits.parse::<i32>().unwrap_or(i32::MAX);
    Some(i64::from(if text.starts_with('-') {
        -magnitude
    } else {
        magnitude
    }))
}

/// `digits` × 10^`exponent` without what is behind the point; nothing if it is too large.
fn scale(digits: u128, exponent: i64) -> Option<u128> {
    let factor = u32::try_from(exponent.unsigned_abs())
        .ok()
        .and_then(|power| 10_u128.checked_pow(power));
    match (factor, exponent < 0) {
        (Some(factor), false) => digits.checked_mul(factor),
        (Some(factor), true) => Some(digits / factor),
        (None, false) => None,
        (None, true) => Some(0),
    }
}
