//! The forms in which a person writes a value, each parsed once into a type that can hold nothing else.
//!
//! | file | form |
//! | --- | --- |
//! | `byte_size.rs` | `5MiB`, `64KiB`, `1GB`, `1024` |
//! | `duration.rs` | `200ms`, `10s`, `5m`, `48h`, `7d` |
//! | `secret.rs` | a text that is never shown; the SHA-256 of a key |
//! | `names.rs` | the name of a route, the name of a source |

mod byte_size;
mod duration;
mod names;
mod secret;

pub use byte_size::ByteSize;
pub use duration::Duration;
pub use names::{RouteName, SourceName};
pub use secret::{KeyHash, MASK, Secret};

/// A value that did not parse: what is wrong with it. What would be right is the schema's to say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(crate) String);

impl ValueError {
    pub(in crate::config) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Splits `12.5MiB` into `12.5` and `MiB`; blanks between are allowed.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '+')))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

/// Reads a plain whole number; underscores may group its digits.
fn whole_number(text: &str, of: &str) -> Result<u64, ValueError> {
    if text.is_empty() {
        return Err(ValueError::new(format!(
            "`{of}` does not start with a number"
        )));
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    if digits.starts_with('-') {
        return Err(ValueError::new(format!("`{of}` is negative")));
    }
    if digits.contains('.') {
        return Err(ValueError::new(format!(
            "`{of}` has a fraction: write a whole number of the next smaller unit"
        )));
    }
    digits
        .parse()
        .map_err(|_| ValueError::new(format!("`{text}` is not a whole number below 2^64")))
}
