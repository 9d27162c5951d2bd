//! Strings: whether their escapes are sound, and what they stand for.

use super::find::find_special;
use super::{Broken, Kind, Scanner};
use crate::ErrorCode;

impl Scanner<'_> {
    /// A string. The scanner stands before its opening quote.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Kind, Broken> {
        self.pos = find_special(self.bytes, self.pos + 1);
        if self.peek() == b'"' {
            self.bump();
            return Ok(Kind::String);
        }
        self.escaped_string()
    }

    /// The rest of a string, from its first escape on.
    #[cold]
    #[inline(never)]
    fn escaped_string(&mut self) -> Result<Kind, Broken> {
        loop {
            match self.peek() {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return Err(self.error("control characters in strings must be escaped")),
            }
            self.pos = find_special(self.bytes, self.pos);
        }
        self.bump();
        Ok(Kind::EscapedString)
    }

    fn escape(&mut self) -> Result<(), Broken> {
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

    fn unicode_escape(&mut self, start: usize) -> Result<(), Broken> {
        match self.code_unit()? {
            0 => {
                let message = "NUL cannot be stored: leave `\\u0000` out";
                self.note(start, ErrorCode::InvalidString, message);
            }
            0xd800..0xdc00 => {
                let after = self.pos;
                if self.eat(b'\\')
                    && self.eat(b'u')
                    && (0xdc00..0xe000).contains(&self.code_unit()?)
                {
                    return Ok(());
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
    fn code_unit(&mut self) -> Result<u32, Broken> {
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

    /// What a string with escapes stands for; `start` and `end` are the places around its quotes.
    #[cold]
    #[inline(never)]
    pub(crate) fn unescaped(&self, start: usize, end: usize) -> String {
        unescape(self.slice(start + 1, end - 1))
    }
}

/// Resolves the escapes of a string that was scanned. Lone surrogates, which are faults, become U+FFFD.
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
