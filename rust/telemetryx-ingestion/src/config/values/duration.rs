//! A span of time.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ValueError, split_unit, whole_number};

/// A span of time: `200ms`, `10s`, `5m`, `48h`, `7d`. A number without a unit says nothing and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(std::time::Duration);

/// Nanoseconds in each unit; largest first, so that a span is shown in the largest unit that divides it.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Duration {
    /// How a span is written, for messages and the reference.
    pub const FORM: &str = "a duration with its unit, such as 200ms, 10s, 5m, 48h, 7d";

    /// That many milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(std::time::Duration::from_millis(count))
    }

    /// That many seconds.
    pub const fn secs(count: u64) -> Self {
        Self(std::time::Duration::from_secs(count))
    }

    /// That many minutes.
    pub const fn minutes(count: u64) -> Self {
        Self::secs(count * 60)
    }

    /// As the standard library has it.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl std::ops::Deref for Duration {
    type Target = std::time::Duration;
    fn deref(&self) -> &std::time::Duration {
        &self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(span: Duration) -> Self {
        span.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(span: std::time::Duration) -> Self {
        Self(span)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (unit, factor) = UNITS
            .iter()
            .find(|(_, factor)| nanos > 0 && nanos.is_multiple_of(*factor))
            .copied()
            .unwrap_or(("s", 1));
        write!(f, "{}{unit}", nanos / factor)
    }
}

impl FromStr for Duration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split_unit(text);
        let number = whole_number(number, text)?;
        let unit = match unit {
            "" => {
                return Err(ValueError::new(format!(
                    "`{text}` has no unit, so {number} of what cannot be known"
                )));
            }
            "µs" | "μs" => "us",
            other => other,
        };
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| ValueError::new(format!("`{unit}` is not a unit of time")))?;
        u64::try_from(u128::from(number) * factor)
            .map(|nanos| Self(std::time::Duration::from_nanos(nanos)))
            .map_err(|_| ValueError::new(format!("`{text}` is longer than 500 years")))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Duration::FORM)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "time" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Duration;

    #[test]
    fn spans_are_read_in_every_form_people_write() {
        for (text, millis) in [
            ("0s", 0),
            ("200ms", 200),
            ("10s", 10_000),
            ("10 s", 10_000),
            ("5m", 300_000),
            ("48h", 172_800_000),
            ("7d", 604_800_000),
            ("1000us", 1),
            ("1000µs", 1),
        ] {
            assert_eq!(
                text.parse::<Duration>().unwrap(),
                Duration::millis(millis),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_span_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "does not start with a number"),
            ("10", "has no unit"),
            ("10 parsecs", "`parsecs` is not a unit"),
            ("1.5s", "has a fraction"),
            ("-1s", "is negative"),
            ("9999999999d", "longer than 500 years"),
        ] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_span_is_shown_in_the_largest_unit_that_divides_it() {
        for (millis, text) in [
            (0, "0s"),
            (200, "200ms"),
            (90_000, "90s"),
            (300_000, "5m"),
            (172_800_000, "2d"),
        ] {
            assert_eq!(Duration::millis(millis).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_the_same(nanos: u64) {
            let span = Duration::from(std::time::Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse::<Duration>().unwrap(), span);
        }
    }
}
