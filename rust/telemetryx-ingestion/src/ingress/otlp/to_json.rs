//! Protobuf to JSON text, as the OTLP/JSON mapping has it, in one pass and without a tree in between.
//!
//! A field that is on the wire is written, also with its default value, and one that is not, is not: nothing is lost. Fields
//! that the tables do not have are left out. The pass relies on what every encoder does: a field that may be there once is
//! there once, and the elements of a list stand together. Where this does not hold, all is written again by the slow way,
//! which looks for the fields one after the other. (All, and not just that message: messages in messages in messages would
//! each be written twice, and so the innermost ever so often.)

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use telemetryx_common::json::{write_number, write_str};

use super::schema::{Field, Kind, Label, Message};
use super::wire::{Broken, Reader, Value, message_of, utf8};

/// How deep messages may be nested: as deep as `prost` reads them.
const DEPTH_MAX: usize = 100;

/// Writes messages as JSON.
pub(super) struct JsonWriter<'o> {
    out: &'o mut Vec<u8>,
    /// Brackets open in the text.
    depth: usize,
    /// Most brackets ever open.
    pub(super) depth_max: usize,
    /// Whether a text has a NUL, which many stores cannot hold.
    pub(super) has_nul: bool,
    /// Whether it was cut off at the limit, somewhere in the text.
    pub(super) is_cut: bool,
    /// See [`JsonWriter::new`].
    limit: usize,
    messages: usize,
    /// Whether all is written by the slow way.
    is_slow: bool,
    /// Bytes that may be copied to join the parts of a message that is there more than once.
    joinable: usize,
}

/// Why the one pass did not come to its end.
enum Stop {
    Broken(Broken),
    Unordered,
    /// The text is over its limit.
    Full,
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl<'o> JsonWriter<'o> {
    /// Appends to `out`, where `depth` brackets are open, and stops about where it is `limit` bytes long.
    pub(super) fn new(out: &'o mut Vec<u8>, depth: usize, limit: usize) -> Self {
        Self {
            out,
            depth,
            depth_max: depth,
            has_nul: false,
            is_cut: false,
            limit,
            messages: 0,
            is_slow: false,
            joinable: 1 << 20,
        }
    }

    /// Appends a message as an object.
    pub(super) fn message(&mut self, message: &Message, bytes: &[u8]) -> Result<(), Broken> {
        let (start, depth) = (self.out.len(), self.depth);
        self.is_slow = false;
        let mut written = self.object(message, bytes);
        if matches!(written, Err(Stop::Unordered)) {
            self.out.truncate(start);
            (self.depth, self.messages, self.is_slow) = (depth, 0, true);
            written = self.object(message, bytes);
        }
        match written {
            Ok(()) => Ok(()),
            Err(Stop::Broken(broken)) => Err(broken),
            Err(Stop::Unordered) => Err(Broken("the order of its fields makes no sense")),
            Err(Stop::Full) => {
                self.is_cut = true;
                Ok(())
            }
        }
    }

    fn object(&mut self, message: &Message, bytes: &[u8]) -> Result<(), Stop> {
        self.open(b'{');
        self.messages += 1;
        if self.messages > DEPTH_MAX {
            return Err(Broken("messages are nested deeper than 100").into());
        }
        if self.is_slow {
            self.fields_by_number(message, bytes)?;
        } else {
            self.fields(message, bytes)?;
        }
        self.messages -= 1;
        self.close(b'}');
        Ok(())
    }

    fn open(&mut self, bracket: u8) {
        self.out.push(bracket);
        self.depth += 1;
        self.depth_max = self.depth_max.max(self.depth);
    }

    fn close(&mut self, bracket: u8) {
        self.out.push(bracket);
        self.depth -= 1;
    }

    fn fields(&mut self, message: &Message, bytes: &[u8]) -> Result<(), Stop> {
        // A bit for each field that was there; the highest for those of which one may be.
        const ONEOF: u32 = 1 << 31;
        let mut seen = 0_u32;
        let mut list = None;
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            let Some((place, field)) = message.field(number) else {
                continue;
            };
            if list == Some(place) {
                self.out.push(b',');
                self.value(field.kind, value)?;
                continue;
            }
            if list.take().is_some() {
                self.close(b']');
            }
            let bit = match field.label {
                Label::Oneof => ONEOF,
                Label::One | Label::Many => 1 << place,
            };
            if seen & bit != 0 {
                return Err(Stop::Unordered);
            }
            if seen != 0 {
                self.out.push(b',');
            }
            seen |= bit;
            self.out.extend_from_slice(field.key.as_bytes());
            match (field.label, value) {
                (Label::Many, Value::Bytes(packed)) if field.kind.is_packed() => {
                    self.open(b'[');
                    self.packed(field.kind, packed, true)?;
                    self.close(b']');
                }
                (Label::Many, _) if field.kind.is_packed() => return Err(Stop::Unordered),
                (Label::Many, _) => {
                    self.open(b'[');
                    self.value(field.kind, value)?;
                    list = Some(place);
                }
                (Label::One | Label::Oneof, _) => self.value(field.kind, value)?,
            }
        }
        if list.is_some() {
            self.close(b']');
        }
        Ok(())
    }

    /// The slow way: what protobuf says of fields in any order. The last value counts; parts of a message are joined.
    fn fields_by_number(&mut self, message: &Message, bytes: &[u8]) -> Result<(), Stop> {
        let mut is_first = true;
        let chosen = chosen(message, bytes)?;
        for field in message.fields {
            let is_other = field.label == Label::Oneof && chosen != Some(field.number);
            let Some(last) = last(bytes, field.number)?.filter(|_| !is_other) else {
                continue;
            };
            if !std::mem::take(&mut is_first) {
                self.out.push(b',');
            }
            self.out.extend_from_slice(field.key.as_bytes());
            match (field.label, field.kind) {
                (Label::Many, _) => self.elements(field, bytes)?,
                (Label::One | Label::Oneof, Kind::Message(inner)) => {
                    let parts = message_of(bytes, field.number, &mut self.joinable)?;
                    self.object(inner, &parts.unwrap_or_default())?;
                }
                (Label::One | Label::Oneof, kind) => self.value(kind, last)?,
            }
        }
        Ok(())
    }

    fn elements(&mut self, field: &Field, bytes: &[u8]) -> Result<(), Stop> {
        self.open(b'[');
        let mut is_first = true;
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            if number != field.number {
                continue;
            }
            match value {
                Value::Bytes(packed) if field.kind.is_packed() => {
                    self.packed(field.kind, packed, is_first)?;
                    is_first &= packed.is_empty();
                }
                _ => {
                    if !std::mem::take(&mut is_first) {
                        self.out.push(b',');
                    }
                    self.value(field.kind, value)?;
                }
            }
        }
        self.close(b']');
        Ok(())
    }

    fn packed(&mut self, kind: Kind, packed: &[u8], mut is_first: bool) -> Result<(), Stop> {
        let mut reader = Reader::new(packed);
        while !reader.is_empty() {
            let value = match kind {
                Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
                    Value::Fixed64(u64::from_le_bytes(reader.array()?))
                }
                Kind::Fixed32 => Value::Fixed32(u32::from_le_bytes(reader.array()?)),
                _ => Value::Varint(reader.varint()?),
            };
            if !std::mem::take(&mut is_first) {
                self.out.push(b',');
            }
            self.value(kind, value)?;
        }
        Ok(())
    }

    #[inline]
    fn value(&mut self, kind: Kind, value: Value<'_>) -> Result<(), Stop> {
        let least = match (kind, value) {
            // Of a message there may be fields that are not written.
            (Kind::Message(_), _) => 0,
            (_, Value::Bytes(bytes)) => bytes.len(),
            _ => 1,
        };
        if self.out.len() + least > self.limit {
            return Err(Stop::Full);
        }
        match (kind, value) {
            (Kind::String, Value::Bytes(text)) => self.text(text)?,
            (Kind::Message(inner), Value::Bytes(bytes)) => self.object(inner, bytes)?,
            (Kind::Fixed64 | Kind::Sfixed64, Value::Fixed64(_))
            | (Kind::Uint64 | Kind::Int64, Value::Varint(_)) => {
                self.out.push(b'"');
                self.number(kind, value);
                self.out.push(b'"');
            }
            (Kind::Uint32 | Kind::Int32 | Kind::Sint32, Value::Varint(_))
            | (Kind::Fixed32, Value::Fixed32(_)) => self.number(kind, value),
            (Kind::Bool, Value::Varint(flag)) => {
                let word: &[u8] = if flag == 0 { b"false" } else { b"true" };
                self.out.extend_from_slice(word);
            }
            (Kind::Double, Value::Fixed64(bits)) => self.double(f64::from_bits(bits)),
            (Kind::Hex, Value::Bytes(id)) => {
                self.out.push(b'"');
                write_hex(id, self.out);
                self.out.push(b'"');
            }
            (Kind::Base64, Value::Bytes(bytes)) => {
                self.out.push(b'"');
                self.out
                    .extend_from_slice(STANDARD.encode(bytes).as_bytes());
                self.out.push(b'"');
            }
            _ => return Err(Broken("a field has a wire type that it cannot have").into()),
        }
        Ok(())
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Broken> {
        let text = utf8(text)?;
        self.has_nul |= text.as_bytes().contains(&0);
        write_str(text, self.out);
        Ok(())
    }

    fn number(&mut self, kind: Kind, value: Value<'_>) {
        // Wider varints than the type are cut off, as protobuf wants it.
        let signed = match (kind, value) {
            (Kind::Sfixed64, Value::Fixed64(number)) | (Kind::Int64, Value::Varint(number)) => {
                number.cast_signed()
            }
            (Kind::Int32, Value::Varint(number)) => i64::from(low(number).cast_signed()),
            (Kind::Sint32, Value::Varint(number)) => {
                let number = low(number);
                i64::from((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
            }
            (Kind::Uint32, Value::Varint(number)) => i64::from(low(number)),
            (_, Value::Varint(number) | Value::Fixed64(number)) => {
                return write_number(number, self.out);
            }
            (_, Value::Fixed32(number)) => return write_number(number.into(), self.out),
            (_, Value::Bytes(_)) => return,
        };
        if signed < 0 {
            self.out.push(b'-');
        }
        write_number(signed.unsigned_abs(), self.out);
    }

    fn double(&mut self, number: f64) {
        if number.is_finite() {
            write_double(number, self.out);
        } else {
            self.out.push(b'"');
            write_double(number, self.out);
            self.out.push(b'"');
        }
    }
}

/// Appends a number as it stands in JSON, but for the quotes of those that JSON does not have.
pub(super) fn write_double(number: f64, out: &mut Vec<u8>) {
    let word: &[u8] = if number.is_nan() {
        b"NaN"
    } else if number == f64::INFINITY {
        b"Infinity"
    } else if number == f64::NEG_INFINITY {
        b"-Infinity"
    } else {
        // Writing to a Vec cannot fail.
        serde_json::to_writer(out, &number).ok();
        return;
    };
    out.extend_from_slice(word);
}

/// The lower half.
fn low(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The last value of a field.
fn last(bytes: &[u8], number: u32) -> Result<Option<Value<'_>>, Broken> {
    let mut found = None;
    let mut reader = Reader::new(bytes);
    while let Some((other, value)) = reader.next()? {
        if other == number {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Which of the fields of which one may be there was there last.
fn chosen(message: &Message, bytes: &[u8]) -> Result<Option<u32>, Broken> {
    let mut chosen = None;
    let mut reader = Reader::new(bytes);
    while let Some((number, _)) = reader.next()? {
        let field = message.field(number);
        if field.is_some_and(|(_, field)| field.label == Label::Oneof) {
            chosen = Some(number);
        }
    }
    Ok(chosen)
}

/// Appends bytes as hexadecimal digits.
pub(super) fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}
