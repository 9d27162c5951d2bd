//! Each request's name, in logs, dead letters and answers: the client's `X-Request-Id`, or one of ours.

use std::fmt::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::{HeaderMap, HeaderValue};

/// The header's name.
pub(super) const HEADER: &str = "x-request-id";
/// A longer one is not taken: it would fill logs.
const BYTES_MAX: usize = 128;

static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(fastrand::u64(..)));

/// A request's name.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's, if it is short and readable, else a new one: 16 hexadecimal digits, unique in this process and
    /// most likely among all.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(HEADER).filter(|value| {
            let bytes = value.as_bytes();
            (1..=BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        });
        Self(given.cloned().unwrap_or_else(Self::fresh))
    }

    /// One of ours.
    pub(super) fn made() -> Self {
        Self(Self::fresh())
    }

    fn fresh() -> HeaderValue {
        let mut text = String::with_capacity(16);
        // Writing to a String cannot fail.
        write!(text, "{:016x}", mixed(NEXT.fetch_add(1, Ordering::Relaxed))).ok();
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("-")
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// SplitMix64's finalizer: one to one, so that counting up gives no name twice.
fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_name_is_taken_if_it_is_short_and_readable() {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_static("abc-1"));
        assert_eq!(RequestId::of(&headers).as_str(), "abc-1");
        for bad in ["", "a b", &"x".repeat(129)] {
            headers.insert(HEADER, HeaderValue::from_str(bad).unwrap());
            assert_eq!(RequestId::of(&headers).as_str().len(), 16, "{bad}");
        }
        assert_ne!(
            RequestId::of(&HeaderMap::new()).as_str(),
            RequestId::of(&HeaderMap::new()).as_str()
        );
    }
}
