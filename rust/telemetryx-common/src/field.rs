//! The names of an event's fields, their aliases, and sets of fields.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// Which fields of an event are meant or were given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FieldSet(u16);

impl FieldSet {
    /// No field.
    pub const EMPTY: Self = Self(0);
    /// `id`
    pub const ID: Self = Self(1);
    /// `ts`
    pub const TS: Self = Self(1 << 1);
    /// `type`
    pub const TYPE: Self = Self(1 << 2);
    /// `source`
    pub const SOURCE: Self = Self(1 << 3);
    /// `schema_version`
    pub const SCHEMA_VERSION: Self = Self(1 << 4);
    /// `attributes`
    pub const ATTRIBUTES: Self = Self(1 << 5);
    /// `partition_key`
    pub const PARTITION_KEY: Self = Self(1 << 6);
    /// `payload`
    pub const PAYLOAD: Self = Self(1 << 7);
    /// `received_at`: set by the service, and ignored in requests. No set that leaves this crate has it.
    pub(crate) const RECEIVED_AT: Self = Self(1 << 8);

    /// Every field, with its name as events are written.
    const NAMES: [(Self, &'static str); 9] = [
        (Self::ID, "id"),
        (Self::TS, "ts"),
        (Self::TYPE, "type"),
        (Self::SOURCE, "source"),
        (Self::SCHEMA_VERSION, "schema_version"),
        (Self::ATTRIBUTES, "attributes"),
        (Self::PARTITION_KEY, "partition_key"),
        (Self::PAYLOAD, "payload"),
        (Self::RECEIVED_AT, "received_at"),
    ];

    /// Other names that are read as well.
    const ALIASES: [&'static str; 11] = [
        "event_id",
        "timestamp",
        "event_type",
        "eventType",
        "sourceId",
        "source_id",
        "schemaVersion",
        "partitionKey",
        "data",
        "metadata",
        "events",
    ];

    /// The field of that name or alias, for a config that lists fields.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_key(name.as_bytes()).filter(|field| *field != Self::RECEIVED_AT)
    }

    /// The field that a key of an event object means. By length first: one comparison or two decide.
    #[inline]
    pub(crate) fn from_key(key: &[u8]) -> Option<Self> {
        match key.len() {
            2 if key == b"id" => Some(Self::ID),
            2 if key == b"ts" => Some(Self::TS),
            4 if key == b"type" => Some(Self::TYPE),
            4 if key == b"data" => Some(Self::PAYLOAD),
            6 if key == b"source" => Some(Self::SOURCE),
            7 if key == b"payload" => Some(Self::PAYLOAD),
            8 if key == b"event_id" => Some(Self::ID),
            8 if key == b"sourceId" => Some(Self::SOURCE),
            8 if key == b"metadata" => Some(Self::PAYLOAD),
            9 if key == b"timestamp" => Some(Self::TS),
            9 if key == b"eventType" => Some(Self::TYPE),
            9 if key == b"source_id" => Some(Self::SOURCE),
            10 if key == b"event_type" => Some(Self::TYPE),
            10 if key == b"attributes" => Some(Self::ATTRIBUTES),
            11 if key == b"received_at" => Some(Self::RECEIVED_AT),
            12 if key == b"partitionKey" => Some(Self::PARTITION_KEY),
            13 if key == b"partition_key" => Some(Self::PARTITION_KEY),
            13 if key == b"schemaVersion" => Some(Self::SCHEMA_VERSION),
            14 if key == b"schema_version" => Some(Self::SCHEMA_VERSION),
            _ => None,
        }
    }

    /// The known name that `name` is likely a slip of.
    pub(crate) fn nearest_name(name: &str) -> Option<&'static str> {
        if name.len() > 32 {
            return None;
        }
        let lower = name.to_ascii_lowercase();
        let names = Self::NAMES.iter().map(|(_, known)| *known);
        names
            .chain(Self::ALIASES)
            // A client can ask for this often: what is too long or too short needs no closer look.
            .filter(|known| known.len().abs_diff(lower.len()) <= known.len() / 3)
            .map(|known| (edit_distance(&lower, &known.to_ascii_lowercase()), known))
            .filter(|(distance, known)| *distance <= known.len() / 3)
            .min()
            .map(|(_, known)| known)
    }

    /// Whether every field of `other` is in this set.
    #[must_use]
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The fields of this set that `other` lacks.
    #[must_use]
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Adds the fields of `other`.
    #[inline]
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether no field is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the fields, in the order in which events are written.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(field, _)| self.contains(*field))
            .map(|(_, name)| name)
    }

    /// The name of the first field, or nothing if the set is empty.
    pub(crate) fn first_name(self) -> &'static str {
        self.names().next().unwrap_or_default()
    }
}

impl BitOr for FieldSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for FieldSet {
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

impl fmt::Debug for FieldSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// How many single-byte edits lead from `a` to `b`; both are short.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_alias_but_the_envelope_is_a_key() {
        let names = FieldSet::NAMES.iter().map(|(_, name)| *name);
        for name in names.chain(FieldSet::ALIASES) {
            assert_eq!(
                FieldSet::from_key(name.as_bytes()).is_some(),
                name != "events"
            );
        }
        assert_eq!(FieldSet::from_name("sourceId"), Some(FieldSet::SOURCE));
        assert_eq!(FieldSet::from_name("received_at"), None);
    }

    #[test]
    fn a_slip_finds_the_name_it_meant() {
        assert_eq!(
            FieldSet::nearest_name("shema_version"),
            Some("schema_version")
        );
        assert_eq!(FieldSet::nearest_name("atributes"), Some("attributes"));
        assert_eq!(FieldSet::nearest_name("Payload"), Some("payload"));
        assert_eq!(FieldSet::nearest_name("user"), None);
    }
}
