//! The grammar of protobuf: tags, varints, lengths.

use super::WireError;

/// How a field's value is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Bytes,
    GroupStart,
    GroupEnd,
    Fixed32,
}

/// Walks over a message.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, pos: 0 }
    }

    /// Bytes before the place where the reader stands.
    #[inline]
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.pos >= self.bytes.len()
    }

    /// Goes to the end.
    pub(crate) fn end(&mut self) {
        self.pos = self.bytes.len();
    }

    #[cold]
    fn error(&self, message: &'static str) -> WireError {
        WireError {
            message,
            offset: self.pos,
        }
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.pos) {
            Some(byte) if *byte < 0x80 => {
                self.pos += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        for (place, byte) in rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                // The tenth byte holds one bit.
                if place == 9 && *byte > 1 {
                    break;
                }
                self.pos += place + 1;
                return Ok(value);
            }
        }
        Err(self.error(if rest.len() < 10 {
            "a number ends too early"
        } else {
            "a number is longer than 64 bits"
        }))
    }

    /// The number of the next field, and how its value is laid out.
    #[inline]
    pub(crate) fn tag(&mut self) -> Result<(u32, WireType), WireError> {
        let start = self.pos;
        let tag = self.varint()?;
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            3 => WireType::GroupStart,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => return Err(self.bad_tag(start)),
        };
        match u32::try_from(tag) {
            Ok(tag) if tag >= 8 => Ok((tag >> 3, wire_type)),
            _ => Err(self.bad_tag(start)),
        }
    }

    #[cold]
    fn bad_tag(&mut self, start: usize) -> WireError {
        self.pos = start;
        self.error("there is no such field tag")
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.varint()?;
        let found = usize::try_from(length)
            .ok()
            .and_then(|length| self.bytes.get(self.pos..)?.get(..length));
        match found {
            Some(found) => {
                self.pos += found.len();
                Ok(found)
            }
            None => Err(self.error("a length reaches beyond the end")),
        }
    }

    #[inline]
    pub(crate) fn fixed64(&mut self) -> Result<i64, WireError> {
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk::<8>() else {
            return Err(self.error("a number ends too early"));
        };
        self.pos += 8;
        Ok(i64::from_le_bytes(*bytes))
    }

    /// Steps over the value of a field that nobody knows.
    pub(crate) fn skip(&mut self, wire_type: WireType) -> Result<(), WireError> {
        let mut groups = 0_usize;
        let mut next = wire_type;
        loop {
            match next {
                WireType::Varint => {
                    self.varint()?;
                }
                WireType::Fixed64 => {
                    self.fixed64()?;
                }
                WireType::Bytes => {
                    self.bytes()?;
                }
                WireType::Fixed32 => self.fixed32()?,
                WireType::GroupStart => groups += 1,
                WireType::GroupEnd if groups == 0 => {
                    return Err(self.error("a group ends that did not begin"));
                }
                WireType::GroupEnd => groups -= 1,
            }
            if groups == 0 {
                return Ok(());
            }
            next = self.tag()?.1;
        }
    }

    fn fixed32(&mut self) -> Result<(), WireError> {
        if self.bytes.len() - self.pos < 4 {
            return Err(self.error("a number ends too early"));
        }
        self.pos += 4;
        Ok(())
    }
}
