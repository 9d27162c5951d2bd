//! `application/json`: one event, an array of events, or `{"events":[…]}`.

use super::draft::Draft;
use super::object::read_event;
use super::{DecodeLimits, malformed, syntax, utf8};
use crate::scan::{Broken, Scanner};
use crate::{DecodeError, ErrorCode, Event, EventError};

/// Visits the events of a JSON body: one event, an array of events, or `{"events":[…]}`.
///
/// An object is a batch if its first key is `events` and holds an array.
///
/// # Errors
///
/// What makes the whole body unreadable. Then what was visited before does not count.
pub fn decode_json<'a>(
    body: &'a [u8],
    limits: &DecodeLimits,
    visit: impl FnMut(&'a [u8], Result<Event<'a>, EventError>),
) -> Result<(), DecodeError> {
    let mut reader = JsonReader {
        body,
        scanner: Scanner::new(utf8(body)?),
        limits,
        index: 0,
        visit,
    };
    reader.body()?;
    if reader.index == 0 {
        return Err(DecodeError::Empty);
    }
    Ok(())
}

struct JsonReader<'a, 'l, V> {
    body: &'a [u8],
    scanner: Scanner<'a>,
    limits: &'l DecodeLimits,
    index: u32,
    visit: V,
}

impl<'a, V: FnMut(&'a [u8], Result<Event<'a>, EventError>)> JsonReader<'a, '_, V> {
    fn body(&mut self) -> Result<(), DecodeError> {
        self.scanner.skip_whitespace();
        if self.scanner.pos() == self.body.len() {
            return Err(DecodeError::Empty);
        }
        if self.enter_batch() {
            self.array()?;
            self.scanner.skip_whitespace();
            if !self.scanner.eat(b'}') {
                return Err(self.after_batch());
            }
        } else if self.scanner.peek() == b'[' {
            self.array()?;
        } else {
            self.event()?;
        }
        self.scanner.finish().map_err(|Broken| self.broken())
    }

    /// Steps up to the array of `{"events":[…]}`, if that is what stands here.
    fn enter_batch(&mut self) -> bool {
        let start = self.scanner.pos();
        let entered = self.at_batch().unwrap_or(false);
        if !entered {
            self.scanner.rewind(start);
            self.scanner.take_fault();
        }
        entered
    }

    fn at_batch(&mut self) -> Result<bool, Broken> {
        if !self.scanner.eat(b'{') {
            return Ok(false);
        }
        self.scanner.skip_whitespace();
        let key = self.scanner.key()?;
        Ok(self.scanner.peek() == b'[' && self.scanner.key_text(key) == "events")
    }

    /// Says what is wrong behind the array of a batch.
    #[cold]
    fn after_batch(&mut self) -> DecodeError {
        let offset = self.scanner.pos();
        if self.scanner.peek() == b',' {
            let message = "a batch may have no field beside `events`";
            return malformed(self.body, offset, ErrorCode::UnknownField, message);
        }
        self.scanner.error("expected `}`");
        self.broken()
    }

    #[cold]
    fn broken(&self) -> DecodeError {
        syntax(self.body, self.scanner.mistake())
    }

    /// The events of an array. The scanner stands before its bracket.
    fn array(&mut self) -> Result<(), DecodeError> {
        self.scanner.bump();
        self.scanner.skip_whitespace();
        if self.scanner.eat(b']') {
            return Ok(());
        }
        loop {
            self.event()?;
            self.scanner.skip_whitespace();
            if self.scanner.eat(b',') {
                self.scanner.skip_whitespace();
            } else if self.scanner.eat(b']') {
                return Ok(());
            } else {
                self.scanner.error("expected `,` or `]`");
                return Err(self.broken());
            }
        }
    }

    #[inline]
    fn event(&mut self) -> Result<(), DecodeError> {
        let start = self.scanner.pos();
        let mut draft = Draft::new(0);
        read_event(&mut self.scanner, &mut draft).map_err(|Broken| self.broken())?;
        let raw = self.body.get(start..self.scanner.pos()).unwrap_or_default();
        self.limits.check(self.index, raw.len())?;
        (self.visit)(raw, draft.finish(self.index, start));
        self.index += 1;
        Ok(())
    }
}
