//! A JSON document that is no event itself but becomes the payload of one: checked as any payload, and the few values
//! that its sender names by [`Pointer`]s picked out of it, in one pass and without copying.

use std::borrow::Cow;
use std::str::FromStr;

use thiserror::Error;

use crate::decode::{PAYLOAD_LEVEL, syntax, utf8};
use crate::scan::{Broken, Kind, Scanner};
use crate::{DecodeError, ErrorCode, EventError};

/// A place in a JSON document, as RFC 6901 writes it: `/data/attributes/timestamp`, `/items/0`, or empty for the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// Why a text is no pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PointerError {
    /// Every step begins with a slash.
    #[error("it does not begin with `/`")]
    NoSlash,
    /// `~` stands only for `~` (`~0`) and `/` (`~1`).
    #[error("`~` must be followed by 0 or 1")]
    BadEscape,
    /// More than [`Pointer::STEPS_MAX`].
    #[error("it has more than {} steps", Pointer::STEPS_MAX)]
    TooLong,
}

impl Pointer {
    /// Most steps of one pointer: so deep the walk recurses.
    pub const STEPS_MAX: usize = 16;
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let steps = text.strip_prefix('/').ok_or(PointerError::NoSlash)?;
        let steps: Vec<_> = steps.split('/').map(unescape).collect::<Result<_, _>>()?;
        if steps.len() > Self::STEPS_MAX {
            return Err(PointerError::TooLong);
        }
        Ok(Self(steps))
    }
}

fn unescape(step: &str) -> Result<String, PointerError> {
    let mut pieces = step.split('~');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = match piece.split_at_checked(1) {
            Some(("0", rest)) => ('~', rest),
            Some(("1", rest)) => ('/', rest),
            _ => return Err(PointerError::BadEscape),
        };
        text.push(character);
        text.push_str(rest);
    }
    Ok(text)
}

/// Pointers that are looked for together.
#[derive(Debug, Clone, Default)]
pub struct Pointers(Vec<Pointer>);

impl Pointers {
    /// Most pointers of one set: each is a bit.
    pub const MAX: usize = 64;

    /// The set of these; `None` if there are more than [`Pointers::MAX`].
    #[must_use]
    pub fn new(pointers: Vec<Pointer>) -> Option<Self> {
        (pointers.len() <= Self::MAX).then_some(Self(pointers))
    }

    fn all(&self) -> u64 {
        u64::MAX
            .checked_shr(u32::try_from(Self::MAX - self.0.len()).unwrap_or(u32::MAX))
            .unwrap_or(0)
    }

    /// Those of `active` that the key or index `step` leads on at this depth.
    fn on(&self, active: u64, depth: usize, step: &str) -> u64 {
        self.of(active, |pointer| {
            pointer.get(depth).is_some_and(|wanted| wanted == step)
        })
    }

    /// Those of `active` that end at this depth.
    fn ending(&self, active: u64, depth: usize) -> u64 {
        self.of(active, |pointer| pointer.len() == depth)
    }

    fn of(&self, active: u64, holds: impl Fn(&[String]) -> bool) -> u64 {
        let mut found = 0;
        for (place, pointer) in self.0.iter().enumerate() {
            let bit = 1 << place;
            if active & bit != 0 && holds(&pointer.0) {
                found |= bit;
            }
        }
        found
    }
}

/// What stands at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// A number, as it is written.
    Number(&'a str),
    /// `true` or `false`.
    Boolean(&'a str),
    /// `null`.
    Null,
    /// An object or an array.
    Nested,
}

/// A document that can be a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a> {
    /// The whole body, byte for byte.
    pub text: &'a str,
    /// What stands at each pointer, in their order; `None` if there is no such place. Of a key given twice the last
    /// counts.
    pub found: Vec<Option<Found<'a>>>,
}

/// Reads one JSON value and picks out what stands at `pointers`.
///
/// # Errors
///
/// The body is not one JSON value, or one that no payload may be: with a NUL, a lone surrogate, a number out of range,
/// nested too deep.
pub fn read_document<'a>(body: &'a [u8], pointers: &Pointers) -> Result<Document<'a>, EventError> {
    let refused =
        |error: DecodeError| EventError::new("payload", error.code(), format!("the body: {error}"));
    let text = utf8(body).map_err(refused)?;
    let mut walk = Walk {
        scanner: Scanner::new(text),
        pointers,
        found: vec![None; pointers.0.len()],
    };
    walk.scanner.skip_whitespace();
    if walk.scanner.pos() == body.len() {
        let message = "the body is empty";
        return Err(EventError::new("payload", ErrorCode::Empty, message));
    }
    let walked = walk.value(0, pointers.all());
    if walked.and_then(|()| walk.scanner.finish()).is_err() {
        return Err(refused(syntax(body, walk.scanner.mistake())));
    }
    if let Some(fault) = walk.scanner.take_fault() {
        let message = format!("{} (byte {} of the body)", fault.message, fault.offset);
        return Err(EventError::new("payload", fault.code, message));
    }
    let found = walk.found;
    Ok(Document { text, found })
}

struct Walk<'a, 'p> {
    scanner: Scanner<'a>,
    pointers: &'p Pointers,
    found: Vec<Option<Found<'a>>>,
}

impl<'a> Walk<'a, '_> {
    /// Reads the value at `depth` that the `active` pointers lead to. Recurses only where one leads on, so not deeper
    /// than the longest pointer.
    fn value(&mut self, depth: usize, active: u64) -> Result<(), Broken> {
        let ends = self.pointers.ending(active, depth);
        let on = active & !ends;
        match self.scanner.peek() {
            b'{' if on != 0 => {
                self.set(ends, &Found::Nested);
                self.object(depth, on)
            }
            b'[' if on != 0 => {
                self.set(ends, &Found::Nested);
                self.array(depth, on)
            }
            _ => {
                let start = self.scanner.pos();
                let kind = self.scanner.value(PAYLOAD_LEVEL + depth)?;
                if ends != 0 {
                    let found = self.scanned(kind, start);
                    self.set(ends, &found);
                }
                Ok(())
            }
        }
    }

    fn object(&mut self, depth: usize, active: u64) -> Result<(), Broken> {
        self.scanner.bump();
        self.scanner.skip_whitespace();
        if self.scanner.eat(b'}') {
            return Ok(());
        }
        loop {
            let key = self.scanner.key()?;
            let on = match self.scanner.plain_key(key) {
                Some(text) => self.pointers.on(active, depth, text),
                None => self.pointers.on(active, depth, &self.scanner.key_text(key)),
            };
            self.step(depth, on)?;
            if !self.scanner.another_key()? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, depth: usize, active: u64) -> Result<(), Broken> {
        self.scanner.bump();
        self.scanner.skip_whitespace();
        if self.scanner.eat(b']') {
            return Ok(());
        }
        let mut left = active;
        for index in 0_usize.. {
            // Long arrays: once every pointer has had its element, the index is no longer written out.
            let on = match left {
                0 => 0,
                _ => self.pointers.on(left, depth, &index.to_string()),
            };
            left &= !on;
            self.step(depth, on)?;
            self.scanner.skip_whitespace();
            if self.scanner.eat(b',') {
                self.scanner.skip_whitespace();
            } else if self.scanner.eat(b']') {
                break;
            } else {
                return Err(self.scanner.error("expected `,` or `]`"));
            }
        }
        Ok(())
    }

    /// Reads the value of a key or index.
    fn step(&mut self, depth: usize, on: u64) -> Result<(), Broken> {
        if on == 0 {
            return self.scanner.value(PAYLOAD_LEVEL + depth + 1).map(|_| ());
        }
        // A key given before: what was found under it no longer counts.
        for place in bits(on) {
            self.found[place] = None;
        }
        self.value(depth + 1, on)
    }

    fn set(&mut self, pointers: u64, found: &Found<'a>) {
        for place in bits(pointers) {
            self.found[place] = Some(found.clone());
        }
    }

    fn scanned(&self, kind: Kind, start: usize) -> Found<'a> {
        let end = self.scanner.pos();
        match kind {
            Kind::String => Found::Text(Cow::Borrowed(self.scanner.slice(start + 1, end - 1))),
            Kind::EscapedString => Found::Text(Cow::Owned(self.scanner.unescaped(start, end))),
            Kind::Integer | Kind::Decimal => Found::Number(self.scanner.slice(start, end)),
            Kind::Boolean => Found::Boolean(self.scanner.slice(start, end)),
            Kind::Null => Found::Null,
            Kind::Array | Kind::Object => Found::Nested,
        }
    }
}

/// The places of the bits that are set.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (place < Pointers::MAX).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(texts: &[&str]) -> Pointers {
        Pointers::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn found<'a>(body: &'a str, texts: &[&str]) -> Vec<Option<Found<'a>>> {
        let read = read_document(body.as_bytes(), &pointers(texts)).unwrap();
        assert_eq!(read.text, body);
        read.found
    }

    #[test]
    fn each_pointer_finds_what_serde_json_finds() {
        let body = r#" {"a":{"b":[10,{"c":"x\ny"},null,[true]],"":"empty"},"m~n":1.5e3,"o/p":"é","a\u0062":false} "#;
        let texts = [
            "", "/a", "/a/b", "/a/b/0", "/a/b/1/c", "/a/b/2", "/a/b/3/0", "/a/", "/m~0n", "/o~1p",
            "/ab", "/a/b/00", "/a/b/4", "/zzz", "/a/b/0/x",
        ];
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        for (text, found) in std::iter::zip(texts, found(body, &texts)) {
            let expected = value.pointer(text).map(|value| match value {
                serde_json::Value::String(text) => Found::Text(text.clone().into()),
                serde_json::Value::Number(_) if text == "/m~0n" => Found::Number("1.5e3"),
                serde_json::Value::Number(_) => Found::Number("10"),
                serde_json::Value::Bool(true) => Found::Boolean("true"),
                serde_json::Value::Bool(false) => Found::Boolean("false"),
                serde_json::Value::Null => Found::Null,
                _ => Found::Nested,
            });
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn of_a_key_given_twice_the_last_counts() {
        let texts = ["/a", "/a/b"];
        let last = found(r#"{"a":{"b":1},"a":"x"}"#, &texts);
        assert_eq!(last, [Some(Found::Text("x".into())), None]);
        let last = found(r#"{"a":2,"a":{"b":3}}"#, &texts);
        assert_eq!(last, [Some(Found::Nested), Some(Found::Number("3"))]);
    }

    #[test]
    fn what_no_payload_may_be_is_refused_wherever_it_stands() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(127), "]".repeat(127));
        for (body, code) in [
            ("", ErrorCode::Empty),
            (" \n", ErrorCode::Empty),
            ("{", ErrorCode::InvalidJson),
            ("{} {}", ErrorCode::InvalidJson),
            ("a=b", ErrorCode::InvalidJson),
            (r#"{"a":[1,]}"#, ErrorCode::InvalidJson),
            (r#"{"a":[1 2]}"#, ErrorCode::InvalidJson),
            (r#"{"b":"\u0000"}"#, ErrorCode::InvalidString),
            (r#"{"a":["\ud800"]}"#, ErrorCode::InvalidString),
            (r#"{"a":1e999}"#, ErrorCode::InvalidNumber),
            (&deep, ErrorCode::TooDeep),
        ] {
            let refused = read_document(body.as_bytes(), &pointers(&["/a/0", "/b"]));
            assert_eq!(refused.unwrap_err().code, code, "{body}");
        }
        let refused = read_document(b"\xff", &Pointers::default()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidString);
        let level = format!("{{\"a\":{}{}}}", "[".repeat(126), "]".repeat(126));
        read_document(level.as_bytes(), &pointers(&["/a/0"])).unwrap();
    }

    #[test]
    fn a_pointer_is_written_as_the_standard_says() {
        assert_eq!("a/b".parse::<Pointer>(), Err(PointerError::NoSlash));
        assert_eq!("/a~2".parse::<Pointer>(), Err(PointerError::BadEscape));
        assert_eq!("/a~".parse::<Pointer>(), Err(PointerError::BadEscape));
        assert!("/a".repeat(16).parse::<Pointer>().is_ok());
        assert_eq!(
            "/a".repeat(17).parse::<Pointer>(),
            Err(PointerError::TooLong)
        );
        let many = |count| Pointers::new(vec![Pointer(Vec::new()); count]);
        assert_eq!(many(64).unwrap().all(), u64::MAX);
        assert_eq!(many(0).unwrap().all(), 0);
        assert!(many(65).is_none());
    }
}
