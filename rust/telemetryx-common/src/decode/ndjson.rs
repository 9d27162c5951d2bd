//! `application/x-ndjson`: one event a line.

use super::DecodeLimits;
use super::draft::Draft;
use super::object::read_event;
use crate::scan::{Broken, Mistake, Scanner};
use crate::{DecodeError, ErrorCode, Event, EventError};

/// Visits the events of an NDJSON body, one a line.
///
/// A broken line is a rejected event, and the other lines go on. Blank lines are skipped and not counted.
///
/// # Errors
///
/// What makes the whole body unreadable. Then what was visited before does not count.
pub fn decode_ndjson<'a>(
    body: &'a [u8],
    limits: &DecodeLimits,
    mut visit: impl FnMut(&'a [u8], Result<Event<'a>, EventError>),
) -> Result<(), DecodeError> {
    // One check for all lines if all are sound; else each is checked for itself.
    let text = simdutf8::basic::from_utf8(body).ok();
    let mut index = 0;
    let mut start = 0;
    while start < body.len() {
        let rest = body.get(start..).unwrap_or_default();
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = rest.get(..length).unwrap_or_default();
        let raw = line.trim_ascii();
        if !raw.is_empty() {
            limits.check(index, raw.len())?;
            let text = match text {
                Some(text) => text.get(start..start + length),
                None => simdutf8::basic::from_utf8(line).ok(),
            };
            let event = match text {
                Some(text) => read_line(text, start, index),
                None => Err(not_utf8(line, start, index)),
            };
            visit(raw, event);
            index += 1;
        }
        start += length + 1;
    }
    if index == 0 {
        return Err(DecodeError::Empty);
    }
    Ok(())
}

/// Reads the one event of a line that begins at byte `base` of the body.
#[inline]
fn read_line(line: &str, base: usize, index: u32) -> Result<Event<'_>, EventError> {
    let mut scanner = Scanner::new(line);
    scanner.skip_whitespace();
    let start = scanner.pos();
    let mut draft = Draft::new(base);
    let read = read_event(&mut scanner, &mut draft).and_then(|()| scanner.finish());
    match read {
        Ok(()) => draft.finish(index, start),
        Err(Broken) => Err(broken(scanner.mistake(), base, index)),
    }
}

#[cold]
fn broken(mistake: Mistake, base: usize, index: u32) -> EventError {
    let Mistake { offset, message } = mistake;
    let message = format!("{message} (byte {} of the body)", base + offset);
    EventError::new("", ErrorCode::InvalidJson, message).at(index)
}

#[cold]
fn not_utf8(line: &[u8], base: usize, index: u32) -> EventError {
    let offset = match std::str::from_utf8(line) {
        Ok(_) => 0,
        Err(error) => error.valid_up_to(),
    };
    let message = format!(
        "bytes that are not UTF-8 (byte {} of the body)",
        base + offset
    );
    EventError::new("", ErrorCode::InvalidString, message).at(index)
}
