//! Days since 1970-01-01 and the proleptic Gregorian calendar.
//!
//! Both directions count years from 1 March, so that the leap day is the last of its year; backwards also in eras of
//! 400 years, which all have the same number of days.

const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_SHIFT: i64 = 719_468;

/// Days from 1970-01-01 to that date, which must exist and lie in year 1 or later.
#[inline]
pub(super) fn days_from_date(year: u32, month: u32, day: u32) -> i64 {
    let early = u32::from(month <= 2);
    let year = year - early;
    let month_from_march = month + 12 * early - 3;
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    i64::from(365 * year + leap_days + day_of_year) - EPOCH_SHIFT
}

/// Year, month and day, that many days after 1970-01-01.
#[inline]
pub(super) fn date_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_SHIFT;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// The last day of that month.
#[inline]
pub(super) fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
