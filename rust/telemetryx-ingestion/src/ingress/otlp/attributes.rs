//! Attributes of resource, scope and record as those of an event, so that routes can be filtered by them. Only what is one
//! value becomes one: text, numbers, booleans. Everything, with its type, is in the payload.

use std::borrow::Cow;

use super::to_json::write_double;
use super::wire::{Broken, Reader, Value, utf8};

/// Name and value.
pub(super) type Attribute<'b> = (Cow<'b, str>, Cow<'b, str>);

/// What an attribute takes in memory beside its text, about.
const OVERHEAD_BYTES: usize = 48;

/// All attributes in a message, where they have that number: sorted, and each name once.
pub(super) fn of_message(message: &[u8], number: u32) -> Result<Vec<Attribute<'_>>, Broken> {
    let mut found = Vec::new();
    let mut reader = Reader::new(message);
    while let Some((other, value)) = reader.next()? {
        if let (true, Value::Bytes(pair)) = (other == number, value) {
            found.extend(of_pair(pair)?);
        }
    }
    settle(&mut found);
    Ok(found)
}

/// One attribute; `None` if it has no name or is not one value.
pub(super) fn of_pair(pair: &[u8]) -> Result<Option<Attribute<'_>>, Broken> {
    let (mut name, mut text) = ("", None);
    let mut reader = Reader::new(pair);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => name = utf8(bytes)?,
            (2, Value::Bytes(any)) => text = of_any(any)?,
            _ => {}
        }
    }
    Ok(text
        .filter(|_| !name.is_empty())
        .map(|text| (Cow::Borrowed(name), text)))
}

fn of_any(any: &[u8]) -> Result<Option<Cow<'_, str>>, Broken> {
    let mut text = None;
    let mut reader = Reader::new(any);
    while let Some((number, value)) = reader.next()? {
        text = match (number, value) {
            (1, Value::Bytes(bytes)) => Some(Cow::Borrowed(utf8(bytes)?)),
            (2, Value::Varint(flag)) => {
                Some(Cow::Borrowed(if flag == 0 { "false" } else { "true" }))
            }
            (3, Value::Varint(number)) => Some(Cow::Owned(number.cast_signed().to_string())),
            (4, Value::Fixed64(bits)) => {
                let mut digits = Vec::new();
                write_double(f64::from_bits(bits), &mut digits);
                Some(Cow::Owned(String::from_utf8(digits).unwrap_or_default()))
            }
            _ => None,
        };
    }
    Ok(text)
}

/// Both together. What is nearer to the record wins.
pub(super) fn joined<'e>(
    outer: &'e [Attribute<'_>],
    inner: Vec<Attribute<'e>>,
) -> Vec<Attribute<'e>> {
    let mut all = Vec::with_capacity(outer.len() + inner.len());
    for (name, text) in outer {
        all.push((Cow::Borrowed(name.as_ref()), Cow::Borrowed(text.as_ref())));
    }
    all.extend(inner);
    settle(&mut all);
    all
}

/// Sorts by name; of those with one name the last stays.
fn settle(attributes: &mut Vec<Attribute<'_>>) {
    attributes.sort_by(|(a, _), (b, _)| a.cmp(b));
    attributes.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            std::mem::swap(later, earlier);
        }
        is_same
    });
}

/// What attributes take in memory, about.
pub(super) fn bytes(attributes: &[Attribute<'_>]) -> usize {
    let bytes = attributes
        .iter()
        .map(|(name, text)| OVERHEAD_BYTES + name.len() + text.len());
    bytes.sum()
}
