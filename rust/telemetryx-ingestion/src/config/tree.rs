//! What was said, before it is known what it means: values with the place where each was written.
//!
//! YAML and TOML both become a [`Node`]; environment variables are put into it. Nothing here knows a setting.

use std::{fmt, ops::Range, sync::Arc};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess};
use serde_json::Number;
use toml::de::{DeTable, DeValue};

/// One value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) place: Place,
}

/// A value as both languages have it.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table, where it was written, and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

/// Where a value was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it is built in.
    #[default]
    BuiltIn,
    /// On this line of the file.
    Line(u64),
    /// In this environment variable.
    Variable(Arc<str>),
}

/// Why a text is not YAML or TOML at all, with line and column where the parser knows them.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) message: String,
    pub(super) at: Option<(u64, u64)>,
}

impl Node {
    /// A value from elsewhere than a file.
    pub(super) fn new(content: Content, place: Place) -> Self {
        Self { content, place }
    }

    /// A table with nothing in it.
    pub(super) fn empty() -> Self {
        Self::new(Content::Table(Vec::new()), Place::BuiltIn)
    }

    /// The value under `key`, if this is a table that has one.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Table(entries) => entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.value),
            _ => None,
        }
    }

    /// The value under `key`, made as an empty table if there is none; what is no table becomes one.
    pub(super) fn entry(&mut self, key: &str, place: &Place) -> &mut Self {
        if !matches!(self.content, Content::Table(_)) {
            *self = Self::new(Content::Table(Vec::new()), place.clone());
        }
        let Content::Table(entries) = &mut self.content else {
            unreachable!("it was made a table above")
        };
        let index = entries.iter().position(|entry| entry.key == key);
        let index = index.unwrap_or_else(|| {
            entries.push(Entry {
                key: key.to_owned(),
                place: place.clone(),
                value: Self::new(Content::Table(Vec::new()), place.clone()),
            });
            entries.len() - 1
        });
        &mut entries[index].value
    }

    /// Lays `over` upon this: tables key by key, anything else in place of what was there.
    pub(super) fn overlay(&mut self, over: Self) {
        match (&self.content, over) {
            (
                Content::Table(_),
                Self {
                    content: Content::Table(entries),
                    ..
                },
            ) => {
                for entry in entries {
                    match self.get(&entry.key) {
                        Some(_) => self.entry(&entry.key, &entry.place).overlay(entry.value),
                        None => *self.entry(&entry.key, &entry.place) = entry.value,
                    }
                }
            }
            (_, over) => *self = over,
        }
    }

    /// Takes the value under `key` out.
    pub(super) fn remove(&mut self, key: &str) -> Option<Self> {
        let Content::Table(entries) = &mut self.content else {
            return None;
        };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index).value)
    }

    /// Drops keys without a value: `age:` means that `age` was not said.
    pub(super) fn drop_unset(&mut self) {
        match &mut self.content {
            Content::Table(entries) => {
                entries.retain_mut(|entry| {
                    entry.value.drop_unset();
                    !matches!(entry.value.content, Content::Null)
                });
            }
            Content::List(items) => items.iter_mut().for_each(Self::drop_unset),
            _ => {}
        }
    }

    /// Whether it says nothing at all: unset, or a table in which nothing is set.
    pub(super) fn says_nothing(&self) -> bool {
        match &self.content {
            Content::Null => true,
            Content::Table(entries) => entries.iter().all(|entry| entry.value.says_nothing()),
            _ => false,
        }
    }

    /// The value without the places.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::Text(value) => Value::String(value.clone()),
            Content::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Table(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// A value that was never written, with its places all built in.
    pub(super) fn from_json(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(value) => Content::Bool(*value),
            Value::Number(value) => Content::Number(value.clone()),
            Value::String(value) => Content::Text(value.clone()),
            Value::Array(items) => Content::List(items.iter().map(Self::from_json).collect()),
            Value::Object(entries) => Content::Table(
                entries
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: Place::BuiltIn,
                        value: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self::new(content, Place::BuiltIn)
    }

    /// The same value, said at `place`.
    pub(super) fn placed(mut self, place: &Place) -> Self {
        self.place = place.clone();
        match &mut self.content {
            Content::List(items) => {
                for item in items {
                    *item = std::mem::replace(item, Self::empty()).placed(place);
                }
            }
            Content::Table(entries) => {
                for entry in entries {
                    entry.place = place.clone();
                    entry.value = std::mem::replace(&mut entry.value, Self::empty()).placed(place);
                }
            }
            _ => {}
        }
        self
    }
}

/// Reads YAML.
pub(super) fn parse_yaml(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        emit_comments: false,
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options::<Node>(text, options).map_err(|error| {
        let at = error.location().map(|place| (place.line(), place.column()));
        let message = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                format!("`{key}` is there twice")
            }
            serde_saphyr::Error::MultipleDocuments { .. } => {
                "a second document begins: a config is one".to_owned()
            }
            // Line and column are said in front, as for every other mistake.
            other => match (other.to_string(), at) {
                (message, Some((line, column))) => {
                    message.replace(&format!(" at line {line}, column {column}"), "")
                }
                (message, None) => message,
            },
        };
        SyntaxError { message, at }
    })
}

/// Reads TOML.
pub(super) fn parse_toml(text: &str) -> Result<Node, SyntaxError> {
    let lines = Lines::of(text);
    match DeTable::parse(text) {
        Ok(table) => {
            let at = table.span();
            Ok(Node::new(
                toml_table(table.into_inner(), &lines),
                lines.place(&at),
            ))
        }
        Err(error) => Err(SyntaxError {
            message: error.message().replace('\n', ", "),
            at: error.span().map(|span| lines.line_and_column(span.start)),
        }),
    }
}

fn toml_table(table: DeTable<'_>, lines: &Lines<'_>) -> Content {
    let entry = |(key, value): (
        toml::Spanned<toml::de::DeString<'_>>,
        toml::Spanned<DeValue<'_>>,
    )| Entry {
        place: lines.place(&key.span()),
        value: Node {
            place: lines.place(&key.span()),
            ..toml_value(value, lines)
        },
        key: key.into_inner().into_owned(),
    };
    Content::Table(table.into_iter().map(entry).collect())
}

fn toml_value(value: toml::Spanned<DeValue<'_>>, lines: &Lines<'_>) -> Node {
    let place = lines.place(&value.span());
    let content = match value.into_inner() {
        DeValue::String(text) => Content::Text(text.into_owned()),
        DeValue::Boolean(value) => Content::Bool(value),
        DeValue::Datetime(time) => Content::Text(time.to_string()),
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            i64::from_str_radix(digits, radix)
                .map(Number::from)
                .or_else(|_| u64::from_str_radix(digits, radix).map(Number::from))
                .map_or_else(|_| Content::Text(digits.to_owned()), Content::Number)
        }
        DeValue::Float(number) => {
            let number = number.as_str();
            let float = number.parse().ok().and_then(Number::from_f64);
            float.map_or_else(|| Content::Text(number.to_owned()), Content::Number)
        }
        DeValue::Array(items) => Content::List(
            items
                .into_iter()
                .map(|item| toml_value(item, lines))
                .collect(),
        ),
        DeValue::Table(table) => toml_table(table, lines),
    };
    Node { content, place }
}

/// Where the lines of a text begin.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let after = |(at, _): (usize, &str)| at + 1;
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(after))
            .collect();
        Self { text, starts }
    }

    fn line_and_column(&self, at: usize) -> (u64, u64) {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let before = self
            .text
            .get(start..at)
            .map_or(0, |text| text.chars().count());
        (line as u64, before as u64 + 1)
    }

    fn place(&self, span: &Range<usize>) -> Place {
        Place::Line(self.line_and_column(span.start).0)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self::new(
            spanned.value,
            Place::Line(spanned.referenced.line()),
        ))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> de::Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number below 2^64, true, false, a list or a table")
    }
    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }
    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Number::from_f64(value).map_or(Content::Null, Content::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut table = Vec::new();
        while let Some((key, value)) =
            entries.next_entry::<serde_saphyr::Spanned<String>, Node>()?
        {
            let place = Place::Line(key.referenced.line());
            table.push(Entry {
                key: key.value,
                value: Node {
                    place: place.clone(),
                    ..value
                },
                place,
            });
        }
        Ok(Content::Table(table))
    }
}
