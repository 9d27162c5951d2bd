//! A strict JSON scanner: one pass, no recursion, no allocation, positions for every mistake.
//!
//! `serde_json` with borrowed fields and `RawValue` would do most of this, and is the oracle of our tests. It is not
//! used because it cannot do the rest in one pass, and is slower at what it can do (`benches/decode.rs`):
//!
//! - a payload skipped as `RawValue` may hold `1e999`, lone surrogates or NULs, which the sinks then choke on;
//! - one bad event must not take the others with it, so the scanner has to know a *fault* (the text is JSON, the value
//!   is not acceptable) from a *syntax error* (nobody can say where the event ends);
//! - duplicate keys must be seen, keys must not be copied to be compared, and the error needs a byte position.
//!
//! The scanner knows JSON only. What an event is, `decode` knows.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `scan/find.rs` | the end of a string, many bytes a step |
//! | `scan/string.rs` | strings: checking and resolving escapes |
//! | `scan/number.rs` | numbers |
//! | `scan/nesting.rs` | which brackets are open, one bit each |

use std::borrow::Cow;

use crate::ErrorCode;
use nesting::Nesting;

mod find;
mod nesting;
mod number;
mod string;
#[cfg(test)]
mod tests;

pub(crate) use find::find_special;

/// The text is not JSON. Where and why, [`Scanner::mistake`] says: so results stay in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// Where text stops being JSON, and what was expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) offset: usize,
    pub(crate) message: &'static str,
}

/// JSON that cannot be accepted all the same. The scanner notes the first one and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) offset: usize,
    pub(crate) code: ErrorCode,
    pub(crate) message: &'static str,
}

/// What was just scanned. One byte: where it stands, the caller knows from [`Scanner::pos`] before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string without escapes.
    String,
    /// A string with escapes.
    EscapedString,
    /// A number with neither fraction nor exponent.
    Integer,
    /// A number with fraction or exponent.
    Decimal,
    Boolean,
    Null,
    Array,
    Object,
}

impl Kind {
    /// What it is, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::String | Kind::EscapedString => "a string",
            Kind::Integer => "an integer",
            Kind::Decimal => "a number with fraction or exponent",
            Kind::Boolean => "a boolean",
            Kind::Null => "null",
            Kind::Array => "an array",
            Kind::Object => "an object",
        }
    }
}

/// A key with its quotes, as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) start: usize,
    end: usize,
    kind: Kind,
}

/// Walks over text, one value at a time.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    pos: usize,
    fault: Option<Fault>,
    mistake: Mistake,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Scanner {
            text,
            bytes: text.as_bytes(),
            pos: 0,
            fault: None,
            mistake: Mistake {
                offset: 0,
                message: "",
            },
        }
    }

    /// Bytes before the place where the scanner stands.
    #[inline]
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    /// Goes back to a place where the scanner stood before.
    pub(crate) fn rewind(&mut self, pos: usize) {
        self.pos = pos;
    }

    /// The first fault since this was asked last.
    #[inline]
    pub(crate) fn take_fault(&mut self) -> Option<Fault> {
        match self.fault {
            None => None,
            Some(_) => self.fault.take(),
        }
    }

    /// The next byte; 0 at the end of the text, where nothing is valid, just as after a raw NUL.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.pos).copied().unwrap_or(0)
    }

    /// Steps over the byte that [`Scanner::peek`] showed.
    #[inline(always)]
    pub(crate) fn bump(&mut self) {
        self.pos += 1;
    }

    /// Steps over the byte if it is next.
    #[inline(always)]
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.pos += usize::from(found);
        found
    }

    #[inline(always)]
    pub(crate) fn skip_whitespace(&mut self) {
        if self.peek() <= b' ' {
            self.skip_whitespace_run();
        }
    }

    fn skip_whitespace_run(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.pos) {
            self.pos += 1;
        }
    }

    /// Nothing but white space may follow.
    pub(crate) fn finish(&mut self) -> Result<(), Broken> {
        self.skip_whitespace();
        if self.pos < self.bytes.len() {
            return Err(self.error("nothing more may follow here"));
        }
        Ok(())
    }

    /// The key's text, borrowed unless it has escapes.
    #[inline(always)]
    pub(crate) fn key_text(&self, key: Key) -> Cow<'a, str> {
        match key.kind {
            Kind::String => Cow::Borrowed(self.slice(key.start + 1, key.end - 1)),
            _ => Cow::Owned(self.unescaped(key.start, key.end)),
        }
    }

    /// The key's text if it has no escapes.
    #[inline(always)]
    pub(crate) fn plain_key(&self, key: Key) -> Option<&'a str> {
        (key.kind == Kind::String).then(|| self.slice(key.start + 1, key.end - 1))
    }

    /// The text between two places that the scanner reported.
    #[inline(always)]
    pub(crate) fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text
            .get(start..end)
            .expect("tokens begin and end at ASCII bytes")
    }

    /// Notes a mistake at the place where the scanner stands.
    #[cold]
    pub(crate) fn error(&mut self, message: &'static str) -> Broken {
        let at_end = self.pos >= self.bytes.len();
        self.mistake = Mistake {
            offset: self.pos,
            message: if at_end {
                "the text ends too early"
            } else {
                message
            },
        };
        Broken
    }

    /// What is wrong with text that is [`Broken`].
    #[cold]
    pub(crate) fn mistake(&self) -> Mistake {
        self.mistake
    }

    #[cold]
    fn note(&mut self, offset: usize, code: ErrorCode, message: &'static str) {
        let fault = Fault {
            offset,
            code,
            message,
        };
        self.fault.get_or_insert(fault);
    }

    /// A key, its colon, and the white space before the value.
    #[inline(always)]
    pub(crate) fn key(&mut self) -> Result<Key, Broken> {
        if self.peek() != b'"' {
            return Err(self.error("expected a key in double quotes"));
        }
        let start = self.pos;
        let kind = self.string()?;
        let end = self.pos;
        self.skip_whitespace();
        if !self.eat(b':') {
            return Err(self.error("expected `:` after the key"));
        }
        self.skip_whitespace();
        Ok(Key { start, end, kind })
    }

    /// After a value in an object: whether another key follows.
    #[inline(always)]
    pub(crate) fn another_key(&mut self) -> Result<bool, Broken> {
        self.skip_whitespace();
        match self.peek() {
            b',' => {
                self.bump();
                self.skip_whitespace();
                Ok(true)
            }
            b'}' => {
                self.bump();
                Ok(false)
            }
            _ => Err(self.error("expected `,` or `}`")),
        }
    }

    /// Any value. `level` is how deep it stands; what is nested too deep becomes a fault.
    #[inline]
    pub(crate) fn value(&mut self, level: usize) -> Result<Kind, Broken> {
        match self.peek() {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b'{' => self.container(level).map(|()| Kind::Object),
            b'[' => self.container(level).map(|()| Kind::Array),
            _ => self.literal(),
        }
    }

    #[inline(never)]
    fn literal(&mut self) -> Result<Kind, Broken> {
        let (word, value): (&[u8], Kind) = match self.peek() {
            b't' => (b"true", Kind::Boolean),
            b'f' => (b"false", Kind::Boolean),
            b'n' => (b"null", Kind::Null),
            _ => return Err(self.error("expected a value")),
        };
        for expected in word {
            if !self.eat(*expected) {
                return Err(self.error("expected a value"));
            }
        }
        Ok(value)
    }

    /// An object or an array with all that is in it. The scanner stands before its bracket.
    #[inline(never)]
    fn container(&mut self, level: usize) -> Result<(), Broken> {
        let mut nesting = Nesting::new();
        loop {
            let opened = match self.peek() {
                b'"' => {
                    self.string()?;
                    None
                }
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                    None
                }
                b'{' => Some(true),
                b'[' => Some(false),
                _ => {
                    self.literal()?;
                    None
                }
            };
            if let Some(object) = opened {
                self.open(&mut nesting, object, level);
                if !self.eat(if object { b'}' } else { b']' }) {
                    if object {
                        self.key()?;
                    }
                    continue;
                }
                nesting.close();
            }
            if !self.next_in(&mut nesting)? {
                return Ok(());
            }
        }
    }

    /// Steps into a bracket.
    #[inline]
    fn open(&mut self, nesting: &mut Nesting, object: bool, level: usize) {
        if level + nesting.depth() >= crate::MAX_DEPTH {
            self.note(self.pos, ErrorCode::TooDeep, "it is nested too deep");
        }
        nesting.open(object);
        self.bump();
        self.skip_whitespace();
    }

    /// After a value: closes what ends here and goes to the next value. `false`: the outermost bracket is closed.
    #[inline]
    fn next_in(&mut self, nesting: &mut Nesting) -> Result<bool, Broken> {
        while nesting.depth() > 0 {
            self.skip_whitespace();
            let object = nesting.in_object();
            match self.peek() {
                b',' => {
                    self.bump();
                    self.skip_whitespace();
                    if object {
                        self.key()?;
                    }
                    return Ok(true);
                }
                b'}' if object => self.bump(),
                b']' if !object => self.bump(),
                _ if object => return Err(self.error("expected `,` or `}`")),
                _ => return Err(self.error("expected `,` or `]`")),
            }
            nesting.close();
        }
        Ok(false)
    }
}
