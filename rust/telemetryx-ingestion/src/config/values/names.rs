//! Names that others refer to.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ValueError;

/// The name of a route: what its cursor, metrics and ledger are kept under. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(Arc<str>);

impl RouteName {
    /// How a name is written, for messages and the reference.
    pub const FORM: &str = "1 to 64 of A-Z a-z 0-9 _ . - and not a dot first";

    /// A name from this code, known to be well formed.
    pub(in crate::config) fn built_in(name: &'static str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RouteName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if text.is_empty() {
            return Err(ValueError::new("it is empty"));
        }
        // A file is named after the route: `.` and `..` are directories.
        if text.starts_with('.') {
            return Err(ValueError::new(format!("`{text}` starts with a dot")));
        }
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            return Err(ValueError::new(format!("`{text}` contains {c:?}")));
        }
        if text.len() > 64 {
            return Err(ValueError::new(format!("it has {} characters", text.len())));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for RouteName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RouteName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for RouteName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for RouteName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl Serialize for RouteName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RouteName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for RouteName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RouteName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "route-name" })
    }
}

/// The source of an event as its text: `camera-7`, or `123` for the number 123, which is the same source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(Arc<str>);

impl SourceName {
    /// How a source is written, for messages and the reference.
    pub const FORM: &str = "a source: a text of 1 to 256 bytes, or a number";

    /// The source as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.len() {
            0 => Err(ValueError::new("it is empty")),
            1..=256 => Ok(Self(text.into())),
            length => Err(ValueError::new(format!("it has {length} bytes"))),
        }
    }
}

impl fmt::Debug for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SourceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for SourceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SourceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SourceName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SourceName::FORM)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<SourceName, E> {
                Ok(SourceName(number.to_string().into()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SourceName, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for SourceName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SourceName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": "source" })
    }
}

#[cfg(test)]
mod tests {
    use super::{RouteName, SourceName};

    #[test]
    fn a_route_name_is_safe_as_file_name_and_label() {
        for name in ["store", "s3.raw", "a-b_c.9", &"x".repeat(64)] {
            assert_eq!(name.parse::<RouteName>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(name.parse::<RouteName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_source_may_be_written_as_a_number() {
        let number: SourceName = serde_json::from_str("123").unwrap();
        assert_eq!(number, serde_json::from_str("\"123\"").unwrap());
        assert!("x".repeat(257).parse::<SourceName>().is_err());
    }
}
