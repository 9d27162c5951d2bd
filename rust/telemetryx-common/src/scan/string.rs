//! Strings: where they end, whether their escapes are sound, and what they stand for.

use std::borrow::Cow;

use super::{Scanner, StringToken, SyntaxError};
use crate::ErrorCode;

/// One in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each byte of a word.
const HIGHS: u64 = ONES << 7;

/// The first place from `pos` on with a quote, a backslash or a control character; else the end.
///
/// Eight bytes a step: subtracting one from a zero byte, or 0x20 from a smaller one, borrows into its highest bit. A
/// borrow can spill into higher bytes only, so the lowest bit set is always a true one.
#[inline]
pub(crate) fn find_special(bytes: &[u8], mut pos: usize) -> usize {
    while let Some(chunk) = bytes.get(pos..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let found = (quote.wrapping_sub(ONES)
            | backslash.wrapping_sub(ONES)
            | word.wrapping_sub(ONES * 0x20))
            & !word
            & HIGHS;
        if found != 0 {
            return pos + found.trailing_zeros() as usize / 8;
        }
        pos += 8;
    }
    find_special_in_tail(bytes, pos)
}

fn find_special_in_tail(bytes: &[u8], pos: usize) -> usize {
    let tail = bytes.get(pos..).unwrap_or_default();
    let found = tail
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
    pos + found.unwrap_or(tail.len())
}

impl<'a> Scanner<'a> {
    /// A string. The scanner stands before its opening quote.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<StringToken, SyntaxError> {
        let start = self.pos + 1;
        let end = find_special(self.bytes, start);
        self.pos = end;
        if self.peek() == b'"' {
            self.bump();
            let escaped = false;
            return Ok(StringToken {
                start,
                end,
                escaped,
            });
        }
        self.escaped_string(start)
    }

    /// The rest of a string, from its first escape on.
    #[cold]
    fn escaped_string(&mut self, start: usize) -> Result<StringToken, SyntaxError> {
        loop {
            self.pos = find_special(self.bytes, self.pos);
            match self.peek() {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return Err(self.error("control characters in strings must be escaped")),
            }
        }
        let end = self.pos;
        self.bump();
        let escaped = true;
        Ok(StringToken {
            start,
            end,
            escaped,
        })
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        let start = self.pos;
        self.bump();
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.bump(),
            b'u' => {
                self.bump();
                self.unicode_escape(start)?;
            }
            _ => return Err(self.error("there is no such escape")),
        }
        Ok(())
    }

    fn unicode_escape(&mut self, start: usize) -> Result<(), SyntaxError> {
        match self.code_unit()? {
            0 => {
                let message = "NUL cannot be stored: leave `\\u0000` out";
                self.note(start, ErrorCode::InvalidString, message);
            }
            0xd800..0xdc00 => {
                let after = self.pos;
                if self.eat(b'\\') && self.eat(b'u') {
                    if (0xdc00..0xe000).contains(&self.code_unit()?) {
                        return Ok(());
                    }
                }
                // What follows is not the other half: it is looked at again for itself.
                self.pos = after;
                self.lone_surrogate(start);
            }
            0xdc00..0xe000 => self.lone_surrogate(start),
            _ => {}
        }
        Ok(())
    }

    fn lone_surrogate(&mut self, start: usize) {
        let message = "half of a surrogate pair stands alone, which is no character";
        self.note(start, ErrorCode::InvalidString, message);
    }

    /// Four hexadecimal digits.
    fn code_unit(&mut self) -> Result<u32, SyntaxError> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = char::from(self.peek()).to_digit(16) else {
                return Err(self.error("expected four hexadecimal digits after `\\u`"));
            };
            unit = unit << 4 | digit;
            self.bump();
        }
        Ok(unit)
    }

    /// What the string stands for: borrowed from the text, unless it has escapes.
    #[inline]
    pub(crate) fn content(&self, token: StringToken) -> Cow<'a, str> {
        let text = self.slice(token.start, token.end);
        if token.escaped {
            Cow::Owned(unescape(text))
        } else {
            Cow::Borrowed(text)
        }
    }
}

/// Resolves the escapes of a string that was scanned. Lone surrogates, which are faults, become U+FFFD.
#[cold]
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut characters = after.chars();
        match characters.next() {
            Some('u') => {
                let (character, after) = unicode(characters.as_str());
                out.push(character);
                rest = after;
                continue;
            }
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some(itself) => out.push(itself),
            None => {}
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
    out
}

/// The character of a `\u` escape, or of two that are a pair, and what follows it.
fn unicode(text: &str) -> (char, &str) {
    let (high, rest) = unit(text);
    if let Some(character) = char::from_u32(high) {
        return (character, rest);
    }
    let pair = rest
        .strip_prefix("\\u")
        .map(unit)
        .filter(|(low, _)| (0xdc00..0xe000).contains(low) && high < 0xdc00);
    match pair {
        Some((low, rest)) => {
            let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            (character, rest)
        }
        None => (char::REPLACEMENT_CHARACTER, rest),
    }
}

fn unit(text: &str) -> (u32, &str) {
    let (digits, rest) = text.split_at_checked(4).unwrap_or((text, ""));
    let unit = u32::from_str_radix(digits, 16).unwrap_or(0xfffd);
    (unit, rest)
}
