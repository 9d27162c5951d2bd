//! What may be said: the settings as a tree, read off the structs' JSON schema.
//!
//! One tree serves the check of a config and the reference page, so neither can tell what the other does not.

use std::{fmt, net::IpAddr, sync::LazyLock};

use serde_json::Value;

use super::{
    Config,
    routes::Attempts,
    values::{ByteSize, Duration, KeyHash, RouteName, Secret, SourceName},
};

/// What one value may be.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// A table of known keys.
    Section(Section),
    /// A table whose keys are anybody's.
    Map(Box<Shape>),
    /// A list.
    List(Box<Shape>),
    /// A list of texts, or one text with commas between them.
    Texts,
    /// One of these words.
    Choice(Vec<Choice>),
    /// `true` or `false`.
    Bool,
    /// A text of so many bytes.
    Text { shortest: u64, longest: u64 },
    /// A whole number.
    Whole { min: u64, max: u64 },
    /// A number.
    Number { min: f64, max: f64 },
    /// A form of ours.
    Form {
        form: Form,
        min: Option<String>,
        max: Option<String>,
    },
    /// Whatever it is, somebody else checks it.
    Any,
}

/// A table of known keys.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) doc: String,
    pub(super) keys: Vec<Key>,
    /// Whether other keys are somebody else's to check.
    pub(super) open: bool,
}

/// One key of a section.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) shape: Shape,
    pub(super) required: bool,
}

/// One word that may be chosen.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) word: String,
    pub(super) doc: String,
}

/// Forms that have a type of their own in `values/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Size,
    Time,
    Secret,
    KeyHash,
    RouteName,
    Source,
    Attempts,
    Ip,
}

/// Every setting.
pub(super) static SETTINGS: LazyLock<Shape> = LazyLock::new(|| Shape::of(&schema()));

/// The structs' JSON schema, in one piece.
fn schema() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<Config>()
        .to_value()
}

impl Form {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "size" => Self::Size,
            "time" => Self::Time,
            "secret" => Self::Secret,
            "sha256" => Self::KeyHash,
            "route-name" => Self::RouteName,
            "source" => Self::Source,
            "attempts" => Self::Attempts,
            "ip" => Self::Ip,
            _ => return None,
        })
    }

    /// What a value of this form looks like.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Size => ByteSize::FORM,
            Self::Time => Duration::FORM,
            Self::Secret => "a text",
            Self::KeyHash => KeyHash::FORM,
            Self::RouteName => RouteName::FORM,
            Self::Source => SourceName::FORM,
            Self::Attempts => Attempts::FORM,
            Self::Ip => "an IP address such as 127.0.0.1, 0.0.0.0 or ::1",
        }
    }

    /// Whether a plain number is a value of this form too.
    pub(super) fn takes_numbers(self) -> bool {
        matches!(self, Self::Size | Self::Source | Self::Attempts)
    }

    /// Whether its values must not be shown.
    pub(super) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::KeyHash)
    }

    /// Reads a value; what comes out orders values of this form by size.
    pub(super) fn measure(self, text: &str) -> Result<u128, String> {
        let message = |error: super::ValueError| error.to_string();
        match self {
            Self::Size => text
                .parse::<ByteSize>()
                .map(|size| size.bytes().into())
                .map_err(message),
            Self::Time => text
                .parse::<Duration>()
                .map(|span| span.as_nanos())
                .map_err(message),
            Self::Secret => text.parse::<Secret>().map(|_| 0).map_err(message),
            Self::KeyHash => text.parse::<KeyHash>().map(|_| 0).map_err(message),
            Self::RouteName => text.parse::<RouteName>().map(|_| 0).map_err(message),
            Self::Source => text.parse::<SourceName>().map(|_| 0).map_err(message),
            Self::Attempts if text == "unlimited" => Ok(0),
            Self::Attempts => Err(format!("is the text {text:?}")),
            Self::Ip => text
                .parse::<IpAddr>()
                .map(|_| 0)
                .map_err(|_| format!("`{text}` is not an IP address")),
        }
    }
}

impl Shape {
    /// Reads a schema. What it does not know becomes [`Shape::Any`]; a test says that nothing does.
    fn of(schema: &Value) -> Self {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        if let Some(form) = text("format").and_then(Form::named) {
            let bound = |key| text(key).map(str::to_owned);
            return Self::Form {
                form,
                min: bound("x-min"),
                max: bound("x-max"),
            };
        }
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            return Self::Choice(choices.iter().filter_map(Choice::of).collect());
        }
        if let Some(inner) = schema
            .get("anyOf")
            .and_then(Value::as_array)
            .and_then(|any| any.first())
        {
            return Self::of(inner);
        }
        let kind = match schema.get("type") {
            Some(Value::String(kind)) => kind,
            Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or_default(),
            _ => "",
        };
        let whole = |key| schema.get(key).and_then(Value::as_u64);
        let number = |key| schema.get(key).and_then(Value::as_f64);
        match kind {
            "object" if schema.get("properties").is_some() => Self::Section(Section::of(schema)),
            "object" => Self::Map(Box::new(
                schema
                    .get("additionalProperties")
                    .map_or(Self::Any, Self::of),
            )),
            "array" if schema.get("x-commas").is_some() => Self::Texts,
            "array" => Self::List(Box::new(schema.get("items").map_or(Self::Any, Self::of))),
            "boolean" => Self::Bool,
            "string" => Self::Text {
                shortest: whole("minLength").unwrap_or(0),
                longest: whole("maxLength").unwrap_or(u64::MAX),
            },
            "integer" => Self::Whole {
                min: whole("minimum").unwrap_or(0),
                max: whole("maximum").unwrap_or_else(|| match text("format") {
                    Some("uint16") => u16::MAX.into(),
                    Some("uint32") => u32::MAX.into(),
                    _ => u64::MAX,
                }),
            },
            "number" => Self::Number {
                min: number("minimum").unwrap_or(f64::MIN),
                max: number("maximum").unwrap_or(f64::MAX),
            },
            _ => Self::Any,
        }
    }

    /// Whether an environment variable's text is meant as it stands, even if it looks like a number.
    pub(super) fn is_text(&self) -> bool {
        match self {
            Self::Text { .. } | Self::Texts | Self::Choice(_) => true,
            Self::Form { form, .. } => !form.takes_numbers(),
            _ => false,
        }
    }

    /// What may stand under `key` of this, if it is a table that takes it.
    pub(super) fn under(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Section(section) => section.key(key).map(|key| &key.shape),
            Self::Map(values) => Some(values),
            _ => None,
        }
    }
}

/// What may stand there, for the sentence "write …".
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(_) | Self::Map(_) => f.write_str("a table of keys and values"),
            Self::List(_) => f.write_str("a list, such as [a, b]"),
            Self::Texts => f.write_str("a list of texts, or one text with commas between them"),
            Self::Choice(choices) => {
                f.write_str("one of ")?;
                for (index, choice) in choices.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", choice.word)?;
                }
                Ok(())
            }
            Self::Bool => f.write_str("true or false"),
            Self::Text {
                longest: u64::MAX, ..
            } => f.write_str("a text"),
            Self::Text { shortest, longest } => {
                write!(f, "a text of {shortest} to {longest} bytes")
            }
            Self::Whole { min, max: u64::MAX } => write!(f, "a whole number from {min}"),
            Self::Whole { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Form {
                form,
                min: Some(min),
                max: Some(max),
            } => {
                write!(f, "{}, from {min} to {max}", form.describe())
            }
            Self::Form { form, .. } => f.write_str(form.describe()),
            Self::Any => f.write_str("a value"),
        }
    }
}

impl Section {
    fn of(schema: &Value) -> Self {
        let required = |name: &str| {
            let names = schema.get("required").and_then(Value::as_array);
            names.is_some_and(|names| names.iter().any(|required| required == name))
        };
        let keys = schema.get("properties").and_then(Value::as_object);
        Self {
            doc: doc(schema),
            keys: keys
                .into_iter()
                .flatten()
                .map(|(name, schema)| Key {
                    name: name.clone(),
                    doc: doc(schema),
                    shape: Shape::of(schema),
                    required: required(name),
                })
                .collect(),
            open: schema.get("additionalProperties") == Some(&Value::Bool(true)),
        }
    }

    /// The key of that name.
    pub(super) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Choice {
    fn of(schema: &Value) -> Option<Self> {
        Some(Self {
            word: schema.get("const")?.as_str()?.to_owned(),
            doc: doc(schema),
        })
    }
}

fn doc(schema: &Value) -> String {
    let doc = schema.get("description").and_then(Value::as_str);
    doc.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
