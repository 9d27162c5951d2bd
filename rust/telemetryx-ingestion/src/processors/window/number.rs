//! Numbers as JSON has them, and sums of them: integers exactly, up to 2^127; all else as 64-bit floats.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// A number, as state and payloads carry it: as text, so that no digit is lost on the way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) enum Number {
    /// Without fraction and exponent.
    Integer(i128),
    /// Any other.
    Float(f64),
}

impl Number {
    /// Reads the text of a JSON number; `None` if it is no number, or none that can be held.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return None;
        }
        if let Ok(integer) = text.parse() {
            return Some(Self::Integer(integer));
        }
        let float = text.parse::<f64>().ok()?;
        float.is_finite().then_some(Self::Float(float))
    }

    /// As a float, rounded.
    pub(super) fn as_f64(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }

    /// Integers exactly; where one is a float, as floats.
    pub(super) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(&b),
            (a, b) => a.as_f64().total_cmp(&b.as_f64()),
        }
    }

    /// As a JSON number; `null` if the sum of floats has no number any more.
    pub(super) fn to_json(self) -> String {
        match self {
            Self::Float(float) if !float.is_finite() => "null".to_owned(),
            number => number.into(),
        }
    }
}

impl From<Number> for String {
    fn from(number: Number) -> Self {
        match number {
            Number::Integer(integer) => integer.to_string(),
            // Always with a fraction or an exponent: so it is read back as a float, and as the same one.
            Number::Float(float) => format!("{float:?}"),
        }
    }
}

impl TryFrom<String> for Number {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "inf" => Ok(Self::Float(f64::INFINITY)),
            "-inf" => Ok(Self::Float(f64::NEG_INFINITY)),
            "NaN" => Ok(Self::Float(f64::NAN)),
            _ => Self::parse(&text).ok_or_else(|| format!("`{text}` is no number")),
        }
    }
}

/// A sum: of integers exactly, and of floats beside it, so that a float does not round the integers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Sum {
    integers: Number,
    floats: Option<Number>,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            integers: Number::Integer(0),
            floats: None,
        }
    }
}

impl Sum {
    pub(super) fn add(&mut self, number: Number) {
        if let (Number::Integer(sum), Number::Integer(more)) = (self.integers, number)
            && let Some(sum) = sum.checked_add(more)
        {
            self.integers = Number::Integer(sum);
            return;
        }
        let floats = self.floats.map_or(0.0, Number::as_f64) + number.as_f64();
        self.floats = Some(Number::Float(floats));
    }

    pub(super) fn total(&self) -> Number {
        match self.floats {
            None => self.integers,
            Some(floats) => Number::Float(self.integers.as_f64() + floats.as_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Number, Sum};

    fn sum(numbers: &[&str]) -> String {
        let mut sum = Sum::default();
        for number in numbers {
            sum.add(Number::parse(number).unwrap());
        }
        sum.total().to_json()
    }

    #[test]
    fn integers_are_summed_exactly_beyond_what_a_float_holds() {
        assert_eq!(sum(&["9007199254740993", "0"]), "9007199254740993");
        assert_eq!(
            sum(&["18446744073709551615", "18446744073709551615", "-1"]),
            "36893488147419103229"
        );
        assert_eq!(sum(&["1", "0.5"]), "1.5");
        assert_eq!(sum(&["1e300", "1e-3"]), "1e300");
        assert_eq!(sum(&[]), "0");
    }

    #[test]
    fn a_sum_beyond_all_floats_is_null() {
        assert_eq!(sum(&["1e308", "1e308", "1e308"]), "null");
        let most = i128::MAX.to_string();
        assert_eq!(sum(&[&most, "1"]), "1.7014118346046923e38");
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "\"1\"", "null", "true", "[1]", "{}", "", "1e999", "inf", "NaN",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn numbers_survive_being_saved(float: f64, integer: i128) {
            for number in [Number::Float(float), Number::Integer(integer)] {
                let saved = serde_json::to_value(number).unwrap();
                let read: Number = serde_json::from_value(saved).unwrap();
                match (number, read) {
                    (Number::Float(a), Number::Float(b)) if a.is_finite() => prop_assert_eq!(a.to_bits(), b.to_bits()),
                    (Number::Float(a), Number::Float(b)) => prop_assert_eq!(a.to_string(), b.to_string()),
                    (a, b) => prop_assert_eq!(a, b),
                }
            }
        }
    }
}
