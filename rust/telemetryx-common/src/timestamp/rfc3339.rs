//! RFC 3339, both ways.
//!
//! ```text
//! 2025-01-31T23:59:59.123456789+02:00
//! └──── fixed: 19 ────┘└ fraction ┘└ offset, or Z, or nothing (UTC)
//! ```

use super::calendar::{date_from_days, days_from_date, days_in_month};
use super::{NANOS_PER_SECOND, TEXT_MAX, Timestamp, TimestampError};

const SECONDS_PER_DAY: i64 = 86_400;
/// By how much a fraction of so many digits is multiplied to be nanoseconds.
const FRACTION_SCALE: [i64; 10] = [
    1_000_000_000,
    100_000_000,
    10_000_000,
    1_000_000,
    100_000,
    10_000,
    1_000,
    100,
    10,
    1,
];

/// Reads date, time, fraction and offset. See [`Timestamp::parse`] for what is taken.
#[inline]
pub(super) fn parse(text: &[u8]) -> Result<Timestamp, TimestampError> {
    let Some((fixed, rest)) = text.split_first_chunk::<19>() else {
        return Err(too_short(text));
    };
    let seconds = parse_fixed(fixed)?;
    let (nanos, rest) = parse_fraction(rest)?;
    let offset = match rest {
        [b'Z' | b'z'] | [] => 0,
        _ => parse_offset(rest)?,
    };
    let total = (seconds - offset).checked_mul(NANOS_PER_SECOND);
    match total.and_then(|total| total.checked_add(nanos)) {
        Some(nanos) => Ok(Timestamp(nanos)),
        None => at_the_edge(seconds - offset, nanos),
    }
}

/// The first second of the range begins before it.
#[cold]
fn at_the_edge(seconds: i64, nanos: i64) -> Result<Timestamp, TimestampError> {
    let total = i128::from(seconds) * i128::from(NANOS_PER_SECOND) + i128::from(nanos);
    let total = i64::try_from(total).map_err(|_| TimestampError::OutOfRange)?;
    Ok(Timestamp(total))
}

/// Date and time of day as seconds since the epoch.
#[inline]
fn parse_fixed(text: &[u8; 19]) -> Result<i64, TimestampError> {
    let mut valid = true;
    let mut two = |at: usize| -> u32 {
        let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
        valid &= tens <= 9 && ones <= 9;
        u32::from(tens) * 10 + u32::from(ones)
    };
    let year = two(0) * 100 + two(2);
    let (month, day) = (two(5), two(8));
    let (hour, minute, second) = (two(11), two(14), two(17));
    valid &= text[4] == b'-' && text[7] == b'-' && text[13] == b':' && text[16] == b':';
    valid &= matches!(text[10], b'T' | b't' | b' ');
    if !valid {
        return Err(TimestampError::Invalid("it is not of the form of RFC 3339"));
    }
    if year == 0 {
        return Err(TimestampError::OutOfRange);
    }
    if !(1..=12).contains(&month) || day == 0 || day > 28 && day > days_in_month(year, month) {
        return Err(TimestampError::Invalid("there is no such day"));
    }
    if hour > 23 || minute > 59 || second > 60 {
        return Err(TimestampError::Invalid("there is no such time of day"));
    }
    let days = days_from_date(year, month, day);
    let time = hour * 3_600 + minute * 60 + second.min(59);
    Ok(days * SECONDS_PER_DAY + i64::from(time))
}

/// Nanoseconds of the fraction, if there is one, and what follows it.
#[inline]
fn parse_fraction(text: &[u8]) -> Result<(i64, &[u8]), TimestampError> {
    let [b'.' | b',', digits @ ..] = text else {
        return Ok((0, text));
    };
    let mut value = 0;
    let mut length = 0;
    while let Some(digit) = digits.get(length).map(|byte| byte.wrapping_sub(b'0'))
        && digit <= 9
    {
        if length < 9 {
            value = value * 10 + i64::from(digit);
        }
        length += 1;
    }
    if length == 0 {
        return Err(TimestampError::Invalid("a digit must follow the point"));
    }
    let rest = digits.get(length..).unwrap_or_default();
    Ok((value * FRACTION_SCALE[length.min(9)], rest))
}

/// Seconds east of UTC.
fn parse_offset(text: &[u8]) -> Result<i64, TimestampError> {
    let invalid = TimestampError::Invalid("its offset is neither `Z` nor of the form `+02:00`");
    let (sign, digits) = match text {
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return Err(invalid),
    };
    let (hours, minutes) = match *digits {
        [a, b, b':', c, d] | [a, b, c, d] => ([a, b], [c, d]),
        [a, b] => ([a, b], *b"00"),
        _ => return Err(invalid),
    };
    let number = |digits: [u8; 2]| -> Option<i64> {
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| i64::from(digits[0] - b'0') * 10 + i64::from(digits[1] - b'0'))
    };
    match (number(hours), number(minutes)) {
        (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => Ok(sign * (hours * 3_600 + minutes * 60)),
        _ => Err(invalid),
    }
}

/// Says what is missing from a text that is too short to be a timestamp.
#[cold]
fn too_short(text: &[u8]) -> TimestampError {
    let all_digits = !text.is_empty() && text.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    TimestampError::Invalid(if all_digits {
        "digits in quotes could be a date or an epoch time"
    } else if text.is_empty() {
        "it is empty"
    } else {
        "it is not of the form of RFC 3339"
    })
}

/// Writes the timestamp, and says how long it is.
pub(super) fn format(timestamp: Timestamp, text: &mut [u8; TEXT_MAX]) -> usize {
    let seconds = timestamp.0.div_euclid(NANOS_PER_SECOND);
    let nanos = timestamp.0.rem_euclid(NANOS_PER_SECOND);
    let (year, month, day) = date_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let time = seconds.rem_euclid(SECONDS_PER_DAY);

    *text = *b"0000-00-00T00:00:00.000000000Z";
    let mut digits = |end: usize, count: usize, value: i64| {
        // In 32 bits, where division is cheap: nine digits fit.
        let mut value = u32::try_from(value).unwrap_or_default();
        for place in text[end - count..end].iter_mut().rev() {
            *place = b'0' + (value % 10).to_le_bytes()[0];
            value /= 10;
        }
    };
    digits(4, 4, year);
    digits(7, 2, month);
    digits(10, 2, day);
    digits(13, 2, time / 3_600);
    digits(16, 2, time / 60 % 60);
    digits(19, 2, time % 60);
    let end = match nanos {
        0 => 19,
        _ if nanos % 1_000_000 == 0 => 23,
        _ if nanos % 1_000 == 0 => 26,
        _ => 29,
    };
    if nanos != 0 {
        digits(29, 9, nanos);
    }
    text[end] = b'Z';
    end + 1
}
