//! OTLP/JSON to protobuf, so that both take one way from there. As the specification has it: names in lowerCamelCase, ids as
//! hexadecimal digits, other bytes as base64, 64-bit integers as text or numbers, enums as numbers, unknown names ignored,
//! `null` as not there.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::schema::{Field, Kind, Label, Message};
use super::wire::{
    put_bytes_field, put_fixed32_field, put_fixed64_field, put_nested, put_varint_field,
};
use crate::hex;

/// How much longer than the text the protobuf of [`Signal::from_json`](super::Signal::from_json) can be: a number of eight
/// bytes and its tag from a digit and a comma.
pub const JSON_GROWTH: usize = 5;

const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);

/// The message that a JSON text means, as protobuf.
///
/// # Errors
/// It is not JSON, or not of this message; says where.
pub(super) fn to_protobuf(
    message: &'static Message,
    text: &[u8],
) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(text.len());
    let mut json = serde_json::Deserializer::from_slice(text);
    Object {
        message,
        out: &mut out,
    }
    .deserialize(&mut json)?;
    json.end()?;
    Ok(out)
}

/// Reads an object as the fields of a message.
struct Object<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name(self.message))? {
            match field {
                Some(field) => map.next_value_seed(FieldValue {
                    field,
                    is_element: false,
                    out: self.out,
                })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a name; `None` for one that the message does not have.
struct Name(&'static Message);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field_named(name))
    }
}

/// Reads the value of a field, or one element of it.
struct FieldValue<'o> {
    field: &'static Field,
    is_element: bool,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl FieldValue<'_> {
    fn is_list(&self) -> bool {
        self.field.label == Label::Many && !self.is_element
    }

    fn wrong<E: Error>(&self, what: &str) -> E {
        E::custom(format_args!("{what} for `{}`", self.field.name()))
    }

    /// A number that may be meant as any kind of number.
    fn integer<E: Error>(self, number: i128) -> Result<(), E> {
        let out_of_range = |_| E::custom(format_args!("`{}` is out of range", self.field.name()));
        let id = self.field.number;
        if self.is_list() {
            return Err(self.wrong("a number where a list should be"));
        }
        match self.field.kind {
            Kind::Uint64 => {
                put_varint_field(id, u64::try_from(number).map_err(out_of_range)?, self.out);
            }
            Kind::Int64 => {
                let number = i64::try_from(number).map_err(out_of_range)?;
                put_varint_field(id, number.cast_unsigned(), self.out);
            }
            Kind::Fixed64 => {
                put_fixed64_field(id, u64::try_from(number).map_err(out_of_range)?, self.out);
            }
            Kind::Sfixed64 => {
                let number = i64::try_from(number).map_err(out_of_range)?;
                put_fixed64_field(id, number.cast_unsigned(), self.out);
            }
            Kind::Uint32 => {
                let number = u32::try_from(number).map_err(out_of_range)?;
                put_varint_field(id, number.into(), self.out);
            }
            Kind::Fixed32 => {
                put_fixed32_field(id, u32::try_from(number).map_err(out_of_range)?, self.out);
            }
            Kind::Int32 => {
                let number = i32::try_from(number).map_err(out_of_range)?;
                put_varint_field(id, i64::from(number).cast_unsigned(), self.out);
            }
            Kind::Sint32 => {
                let number = i32::try_from(number).map_err(out_of_range)?;
                let zigzag = (number << 1) ^ (number >> 31);
                put_varint_field(id, zigzag.cast_unsigned().into(), self.out);
            }
            #[expect(clippy::cast_precision_loss, reason = "as JSON numbers are")]
            Kind::Double => put_fixed64_field(id, (number as f64).to_bits(), self.out),
            Kind::String | Kind::Bool | Kind::Base64 | Kind::Hex | Kind::Message(_) => {
                return Err(self.wrong("a number"));
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for FieldValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for `{}`", self.field.name())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.is_element {
            return Err(self.wrong("null in the list"));
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        if !matches!(self.field.kind, Kind::Bool) || self.is_list() {
            return Err(self.wrong("a boolean"));
        }
        put_varint_field(self.field.number, flag.into(), self.out);
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.integer(number.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.integer(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        if matches!(self.field.kind, Kind::Double) && !self.is_list() {
            put_fixed64_field(self.field.number, number.to_bits(), self.out);
            return Ok(());
        }
        // `1.0` and `1e3` are integers too; beyond 2^53 nobody can say which one is meant.
        if number.fract() != 0.0 || number.abs() > 9_007_199_254_740_992.0 {
            return Err(self.wrong("a number with a fraction, or too large,"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        self.integer(number as i128)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let id = self.field.number;
        if self.is_list() {
            return Err(self.wrong("text where a list should be"));
        }
        match self.field.kind {
            Kind::String => put_bytes_field(id, text.as_bytes(), self.out),
            Kind::Hex => {
                let bytes = hex::decode(text.as_bytes())
                    .ok_or_else(|| self.wrong("what are not pairs of hexadecimal digits"))?;
                put_bytes_field(id, &bytes, self.out);
            }
            Kind::Base64 => {
                let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
                let bytes = bytes.map_err(|_| self.wrong("text that is not base64"))?;
                put_bytes_field(id, &bytes, self.out);
            }
            Kind::Double => {
                let number = match text {
                    "NaN" => Some(f64::NAN),
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    _ => text.parse().ok().filter(|number: &f64| number.is_finite()),
                };
                let number = number.ok_or_else(|| self.wrong("text that is not a number"))?;
                put_fixed64_field(id, number.to_bits(), self.out);
            }
            Kind::Bool | Kind::Message(_) => return Err(self.wrong("text")),
            _ => {
                let number = text
                    .parse()
                    .map_err(|_| self.wrong("text that is not an integer"))?;
                return self.integer(number);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.is_list() {
            return Err(self.wrong("a list"));
        }
        loop {
            let element = FieldValue {
                field: self.field,
                is_element: true,
                out: self.out,
            };
            if list.next_element_seed(element)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Kind::Message(message) = self.field.kind else {
            return Err(self.wrong("an object"));
        };
        if self.is_list() {
            return Err(self.wrong("an object where a list should be"));
        }
        put_nested(self.field.number, self.out, |out| {
            Object { message, out }.visit_map(map)
        })
    }
}
