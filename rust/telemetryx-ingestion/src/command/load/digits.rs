//! What is patched into requests, and the bytes that requests are built of.

use std::time::Duration;

pub(super) const TIME_PLACEHOLDER: &[u8; 24] = b"1970-01-01T00:00:00.000Z";

/// A number as digits, counted up in place and wrapped to zero at its limit.
pub(super) struct Odometer<const WIDTH: usize> {
    pub(super) digits: [u8; WIDTH],
    value: u64,
    limit: u64,
}

impl<const WIDTH: usize> Odometer<WIDTH> {
    pub(super) fn new(number: u64, limit: u64) -> Self {
        let value = number % limit;
        let mut digits = [b'0'; WIDTH];
        let mut rest = value;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self {
            digits,
            value,
            limit,
        }
    }

    pub(super) fn advance(&mut self) {
        self.value += 1;
        if self.value == self.limit {
            self.value = 0;
            self.digits = [b'0'; WIDTH];
            return;
        }
        for digit in self.digits.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
    }
}

/// RFC 3339 with milliseconds; calendar arithmetic once a second only.
#[derive(Debug)]
pub(super) struct Clock {
    second: u64,
    text: [u8; TIME_PLACEHOLDER.len()],
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            second: 0,
            text: *TIME_PLACEHOLDER,
        }
    }
}

impl Clock {
    pub(super) fn format(&mut self, since_epoch: Duration) -> &[u8] {
        if since_epoch.as_secs() != self.second {
            self.second = since_epoch.as_secs();
            let stamp = i64::try_from(self.second)
                .ok()
                .and_then(|second| jiff::Timestamp::from_second(second).ok());
            let text = stamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
            self.text[..19].copy_from_slice(&text.as_bytes()[..19]);
        }
        let millis = Odometer::<3>::new(u64::from(since_epoch.subsec_millis()), u64::MAX);
        self.text[20..23].copy_from_slice(&millis.digits);
        &self.text
    }
}

pub(super) fn put(body: &mut Vec<u8>, bytes: &[u8]) -> usize {
    body.extend_from_slice(bytes);
    body.len()
}

pub(super) fn put_zeros(body: &mut Vec<u8>, count: usize) -> usize {
    let at = body.len();
    body.resize(at + count, b'0');
    at
}

pub(super) fn put_varint(body: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        body.push(number as u8 | 0x80);
        number >>= 7;
    }
    body.push(number as u8);
}
