//! The grammar of protobuf: what is read of a message, and the little that is written.

use std::borrow::Cow;

/// A message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// A field's value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'m> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'m [u8]),
    Fixed32(u32),
}

/// Walks over the fields of a message.
#[derive(Clone, Copy)]
pub(super) struct Reader<'m> {
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    #[inline]
    pub(super) fn new(message: &'m [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field: its number and value. Groups, which OTLP never had, are stepped over.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'m>)>, Broken> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let tag = self.varint()?;
            let Some(number) = u32::try_from(tag >> 3)
                .ok()
                .filter(|number| (1..1 << 29).contains(number))
            else {
                return Err(Broken("there is no such field number"));
            };
            let value = match tag & 7 {
                0 => Value::Varint(self.varint()?),
                1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
                2 => Value::Bytes(self.bytes()?),
                5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
                3 => {
                    self.skip_group(number)?;
                    continue;
                }
                _ => return Err(Broken("there is no such wire type")),
            };
            return Ok(Some((number, value)));
        }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Whether anything is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Broken> {
        if let Some((byte, rest)) = self.rest.split_first()
            && *byte < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0;
        for (place, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                // The tenth byte holds one bit.
                if place == 9 && *byte > 1 {
                    break;
                }
                self.rest = self.rest.get(place + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(Broken(if self.rest.len() < 10 {
            "a number ends too early"
        } else {
            "a number is longer than 64 bits"
        }))
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Broken("a number ends too early"));
        };
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'m [u8], Broken> {
        let length = self.varint()?;
        let split = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length));
        let Some((bytes, rest)) = split else {
            return Err(Broken("a length reaches beyond the end"));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// Without recursion: groups may be nested as deep as the message is long.
    fn skip_group(&mut self, number: u32) -> Result<(), Broken> {
        let mut depth = 1_usize;
        while depth > 0 {
            if self.rest.is_empty() {
                return Err(Broken("a group does not end"));
            }
            let tag = self.varint()?;
            match tag & 7 {
                0 => {
                    self.varint()?;
                }
                1 => {
                    self.array::<8>()?;
                }
                2 => {
                    self.bytes()?;
                }
                5 => {
                    self.array::<4>()?;
                }
                3 => depth += 1,
                4 => {
                    depth -= 1;
                    if depth == 0 && tag >> 3 != u64::from(number) {
                        return Err(Broken("a group ends that did not begin"));
                    }
                }
                _ => return Err(Broken("there is no such wire type")),
            }
        }
        Ok(())
    }
}

/// All of a message that may be there once: its parts joined, as protobuf wants it. `None` if it is not there. `joinable`
/// is how many bytes may be copied for it.
pub(super) fn message_of<'m>(
    bytes: &'m [u8],
    number: u32,
    joinable: &mut usize,
) -> Result<Option<Cow<'m, [u8]>>, Broken> {
    let mut found: Option<Cow<'_, [u8]>> = None;
    let mut reader = Reader::new(bytes);
    while let Some((other, value)) = reader.next()? {
        let (true, Value::Bytes(part)) = (other == number, value) else {
            continue;
        };
        match &mut found {
            None => found = Some(Cow::Borrowed(part)),
            Some(parts) => {
                let copied = match parts {
                    Cow::Borrowed(first) => first.len() + part.len(),
                    Cow::Owned(_) => part.len(),
                };
                let left = joinable.checked_sub(copied);
                *joinable = left.ok_or(Broken("too much of a message is in parts"))?;
                parts.to_mut().extend_from_slice(part);
            }
        }
    }
    Ok(found)
}

/// Text, which must be UTF-8.
pub(super) fn utf8(text: &[u8]) -> Result<&str, Broken> {
    std::str::from_utf8(text).map_err(|_| Broken("a text is not UTF-8"))
}

/// Appends a varint.
pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends the tag of a field with a varint.
pub(super) fn put_varint_field(number: u32, value: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3, out);
    put_varint(value, out);
}

/// Appends a field of eight bytes.
pub(super) fn put_fixed64_field(number: u32, value: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a field of four bytes.
pub(super) fn put_fixed32_field(number: u32, value: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 5, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a field of bytes.
pub(super) fn put_bytes_field(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends a field of bytes that `write` writes. Its length takes five bytes, the most it can: nothing has to be moved.
pub(super) fn put_nested<E>(
    number: u32,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_varint(u64::from(number) << 3 | 2, out);
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out)?;
    let mut length = out.len() - at - LENGTH_BYTES;
    if let Some(place) = out.get_mut(at..at + LENGTH_BYTES) {
        for (index, byte) in place.iter_mut().enumerate() {
            *byte =
                length.to_le_bytes()[0] & 0x7f | if index + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            length >>= 7;
        }
    }
    Ok(())
}

/// What a length of [`put_nested`] takes: enough for 32 GiB, more than any body.
const LENGTH_BYTES: usize = 5;
