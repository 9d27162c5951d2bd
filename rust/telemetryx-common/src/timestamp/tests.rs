//! What is read and written, held against `jiff`.

use proptest::prelude::*;

use super::*;

fn nanos(text: &str) -> i64 {
    Timestamp::parse(text).unwrap().unix_nanos()
}

fn epoch(number: &str) -> i64 {
    Timestamp::from_epoch_number(number).unwrap().unix_nanos()
}

#[test]
fn every_form_of_rfc_3339_is_read() {
    let noon = 1_735_732_800_000_000_000;
    for text in [
        "2025-01-01T12:00:00Z",
        "2025-01-01t12:00:00z",
        "2025-01-01 12:00:00Z",
        "2025-01-01T12:00:00",
        "2025-01-01T12:00:00+00:00",
        "2025-01-01T12:00:00-00:00",
        "2025-01-01T14:30:00+02:30",
        "2025-01-01T14:30:00+0230",
        "2025-01-01T04:00:00-08",
        "2024-12-31T12:01:00-23:59",
        "2025-01-01T12:00:00.000Z",
        "2025-01-01T12:00:00,0Z",
        "2025-01-01T12:00:00.0000000009Z",
    ] {
        assert_eq!(nanos(text), noon, "{text}");
    }
    assert_eq!(nanos("2025-01-01T12:00:00.5Z"), noon + 500_000_000);
    assert_eq!(
        nanos("2025-01-01T12:00:00.123456789999Z"),
        noon + 123_456_789
    );
    assert_eq!(nanos("1969-12-31T23:59:59.999999999Z"), -1);
}

#[test]
fn a_leap_second_is_the_second_before_it() {
    assert_eq!(nanos("2016-12-31T23:59:60Z"), nanos("2016-12-31T23:59:59Z"));
}

#[test]
fn what_is_not_a_time_is_refused_with_what_would_be_right() {
    for text in [
        "",
        "yesterday",
        "2025-01-01",
        "2025-13-01T00:00:00Z",
        "2025-00-01T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2025-04-31T00:00:00Z",
        "2025-01-00T00:00:00Z",
        "2025-01-01T24:00:00Z",
        "2025-01-01T00:60:00Z",
        "2025-01-01T00:00:61Z",
        "2025-01-01T00:00:00.Z",
        "2025-01-01T00:00:00+2:00",
        "2025-01-01T00:00:00+24:00",
        "2025-01-01T00:00:00+00:60",
        "2025-01-01T00:00:00 Z",
        "2025-01-01T00:00:00ZZ",
        "2025-01-01_00:00:00Z",
        "-2025-01-01T00:00:00Z",
        "２０２５-01-01T00:00:00Z",
        "1735689600",
        "20250101",
    ] {
        let error = Timestamp::parse(text).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidTimestamp, "{text}");
        assert!(error.to_string().contains("send RFC 3339 as"), "{text}");
    }
}

#[test]
fn year_0_and_what_does_not_fit_is_out_of_range() {
    assert_eq!(nanos("1677-09-21T00:12:43.145224192Z"), i64::MIN);
    assert_eq!(nanos("2262-04-11T23:47:16.854775807Z"), i64::MAX);
    assert_eq!(nanos("2262-04-12T01:47:16.854775807+02:00"), i64::MAX);
    for text in [
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "1677-09-21T00:12:43.145224191Z",
        "2262-04-11T23:47:16.854775808Z",
        "9999-12-31T23:59:59Z",
    ] {
        let error = Timestamp::parse(text).unwrap_err();
        assert_eq!(error, TimestampError::OutOfRange, "{text}");
        assert!(error.to_string().contains("1677-09-21 to 2262-04-11"));
    }
}

#[test]
fn epoch_numbers_are_read_in_the_unit_of_their_magnitude() {
    let expected = 1_735_689_600_123_456_789;
    assert_eq!(epoch("1735689600.123456789"), expected);
    assert_eq!(epoch("1735689600123.456789"), expected);
    assert_eq!(epoch("1735689600123456.789"), expected);
    assert_eq!(epoch("1735689600123456789"), expected);
    assert_eq!(epoch("1735689600123456789.999"), expected);
    assert_eq!(epoch("1.735689600123456789e9"), expected);
    assert_eq!(epoch("1735689600123456789000e-3"), expected);
    assert_eq!(epoch("0.1735689600123456789E+10"), expected);
    assert_eq!(epoch("-1.5"), -1_500_000_000);
    assert_eq!(epoch("0"), 0);
    assert_eq!(epoch("-0.0e99"), 0);
    assert_eq!(epoch("1e-400"), 0);
    assert_eq!(
        epoch(&format!("17{}e-200", "0".repeat(208))),
        1_700_000_000_000_000_000
    );
    assert_eq!(
        epoch(&format!("0.{}17e309", "0".repeat(299))),
        1_700_000_000_000_000_000
    );
}

#[test]
fn epoch_numbers_that_do_not_fit_are_out_of_range() {
    for text in [
        "9223372037",
        "99999999999",
        "1e30",
        "-1e30",
        "9223372036854775808",
        "1e999999999999",
    ] {
        let parsed = Timestamp::from_epoch_number(text);
        assert_eq!(parsed, Err(TimestampError::OutOfRange), "{text}");
    }
    for text in ["", "-", "e5", "1e", "1.2.3", "0x10", "١"] {
        let parsed = Timestamp::from_epoch_number(text);
        assert!(matches!(parsed, Err(TimestampError::Invalid(_))), "{text}");
    }
}

#[test]
fn the_fraction_is_written_with_as_many_digits_as_it_needs() {
    let second = 1_735_689_600_000_000_000;
    for (more, text) in [
        (0, "2025-01-01T00:00:00Z"),
        (120_000_000, "2025-01-01T00:00:00.120Z"),
        (120_000, "2025-01-01T00:00:00.000120Z"),
        (1, "2025-01-01T00:00:00.000000001Z"),
    ] {
        assert_eq!(Timestamp::from_unix_nanos(second + more).to_string(), text);
    }
}

proptest! {
    #[test]
    fn every_instant_is_written_as_jiff_reads_it_and_read_back(nanos: i64) {
        let timestamp = Timestamp::from_unix_nanos(nanos);
        let text = timestamp.to_string();
        let theirs: jiff::Timestamp = text.parse().unwrap();
        prop_assert_eq!(theirs.as_nanosecond(), i128::from(nanos));
        prop_assert_eq!(Timestamp::parse(&text), Ok(timestamp));
        let mut out = Vec::new();
        timestamp.write_to(&mut out);
        prop_assert_eq!(out, text.into_bytes());
        if nanos.unsigned_abs() >= 100_000_000_000_000_000 {
            prop_assert_eq!(Timestamp::from_epoch_number(&nanos.to_string()), Ok(timestamp));
        }
    }

    #[test]
    fn whatever_is_read_jiff_reads_as_the_same(
        text in "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-6][0-9])"
    ) {
        let theirs = text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_nanosecond);
        match (Timestamp::parse(&text), theirs) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(i128::from(ours.unix_nanos()), theirs),
            (Ok(ours), Err(error)) => prop_assert!(false, "{} is not {}: {}", text, ours, error),
            (Err(TimestampError::OutOfRange), Ok(theirs)) => {
                let fits = i64::try_from(theirs).is_ok();
                prop_assert!(!fits, "{} fits", text);
            }
            (Err(TimestampError::Invalid(why)), Ok(_)) => prop_assert!(false, "{}: {}", text, why),
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn no_text_makes_it_panic(text: String, number in "-?[0-9.eE+-]{0,40}") {
        prop_assert!(Timestamp::parse(&text).is_err() || text.len() >= 19);
        prop_assert!(Timestamp::from_epoch_number(&number).is_err() || !number.is_empty());
    }
}
