//! Numbers: the grammar of RFC 8259, and whether a 64-bit float can hold them.

use super::{Broken, Kind, Scanner};
use crate::ErrorCode;

/// A number without exponent and shorter than this is below 10³⁰⁸.
const SAFE_DIGITS: usize = 300;

impl Scanner<'_> {
    /// A number. Every reader of the payload must be able to hold
    /// it, so what overflows a 64-bit float is a fault, as it is in `serde_json`.
    #[inline]
    pub(super) fn number(&mut self) -> Result<Kind, Broken> {
        let start = self.pos;
        if self.peek() == b'-' {
            self.bump();
        }
        if !self.eat(b'0') && self.digits() == 0 {
            return Err(self.error("expected a digit"));
        }
        let mut kind = Kind::Integer;
        if self.eat(b'.') {
            kind = Kind::Decimal;
            if self.digits() == 0 {
                return Err(self.error("expected a digit after the point"));
            }
        }
        let exponent = matches!(self.peek(), b'e' | b'E');
        if exponent {
            kind = Kind::Decimal;
            self.exponent()?;
        }
        if exponent || self.pos - start > SAFE_DIGITS {
            self.check_range(start);
        }
        Ok(kind)
    }

    /// Steps over digits, and says how many.
    #[inline]
    fn digits(&mut self) -> usize {
        let start = self.pos;
        while self.peek().is_ascii_digit() {
            self.bump();
        }
        self.pos - start
    }

    fn exponent(&mut self) -> Result<(), Broken> {
        self.bump();
        if matches!(self.peek(), b'+' | b'-') {
            self.bump();
        }
        if self.digits() == 0 {
            return Err(self.error("expected a digit in the exponent"));
        }
        Ok(())
    }

    #[cold]
    fn check_range(&mut self, start: usize) {
        let number = self.slice(start, self.pos).parse::<f64>();
        if !number.is_ok_and(f64::is_finite) {
            let message = "the number is too large for a 64-bit float";
            self.note(start, ErrorCode::InvalidNumber, message);
        }
    }
}
