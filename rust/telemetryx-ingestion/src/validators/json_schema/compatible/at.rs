//! A schema within its document, and how to get on from there.

use jsonschema::Draft;
use serde_json::Value;

use super::File;

/// A schema and where it stands.
#[derive(Clone)]
pub(super) struct At<'s> {
    pub(super) schema: &'s Value,
    /// The document it stands in, for references.
    pub(super) document: &'s Value,
    pub(super) uri: &'s str,
    /// The same in all that is compared.
    pub(super) draft: Draft,
    pub(super) pointer: String,
}

static ANYTHING: Value = Value::Bool(true);

impl<'s> At<'s> {
    pub(super) fn root(file: &'s File, draft: Draft) -> Self {
        Self {
            schema: &file.document,
            document: &file.document,
            uri: base(&file.document, &file.uri),
            draft,
            pointer: String::new(),
        }
    }

    /// A keyword, if the draft knows it: what it does not know says nothing.
    pub(super) fn get(&self, key: &str) -> Option<&'s Value> {
        self.schema
            .get(key)
            .filter(|_| self.draft.is_known_keyword(key))
    }

    /// Whether a reference stands for the whole schema, so that the keywords beside it say nothing.
    pub(super) fn is_reference_alone(&self) -> bool {
        self.schema.get("$ref").is_some() && self.draft < Draft::Draft201909
    }

    /// What stands under this keyword; if nothing does, a schema that takes anything.
    pub(super) fn under(&self, key: &str) -> At<'s> {
        self.of(self.get(key).unwrap_or(&ANYTHING), &[key])
    }

    pub(super) fn of(&self, schema: &'s Value, path: &[&str]) -> At<'s> {
        let mut pointer = self.pointer.clone();
        for part in path {
            pointer.push('/');
            pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
        At {
            schema,
            pointer,
            ..*self
        }
    }

    pub(super) fn map(&self, key: &str) -> impl Iterator<Item = (&'s String, &'s Value)> {
        self.get(key)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
    }

    pub(super) fn list(&self, key: &str) -> &'s [Value] {
        self.get(key)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64)
    }

    /// The types that are taken; `None`: all.
    pub(super) fn types(&self) -> Option<Vec<&'s str>> {
        match self.get("type")? {
            Value::String(one) => Some(vec![one]),
            Value::Array(several) => Some(several.iter().filter_map(Value::as_str).collect()),
            _ => None,
        }
    }

    /// The values that `const` or `enum` takes; `None`: all.
    pub(super) fn values(&self, key: &str) -> Option<Vec<&'s Value>> {
        match (key, self.get(key)?) {
            ("enum", several) => Some(several.as_array()?.iter().collect()),
            (_, one) => Some(vec![one]),
        }
    }

    pub(super) fn takes_anything(&self) -> bool {
        match self.schema {
            Value::Bool(taken) => *taken,
            Value::Object(keywords) => keywords.is_empty(),
            _ => false,
        }
    }
}

/// What references in a document are relative to: its `$id`, or else its place.
pub(super) fn base<'s>(document: &'s Value, place: &'s str) -> &'s str {
    let id = document.get("$id").and_then(Value::as_str);
    let id = id.filter(|id| id.contains("://"));
    id.map_or(place, |id| id.strip_suffix('#').unwrap_or(id))
}

/// The schema in a document that has this anchor; `None` also if several values do.
pub(super) fn anchored<'s>(document: &'s Value, name: &str) -> Option<&'s Value> {
    fn collect<'s>(value: &'s Value, name: &str, found: &mut Vec<&'s Value>) {
        match value {
            Value::Object(keywords) => {
                if keywords.get("$anchor").and_then(Value::as_str) == Some(name) {
                    found.push(value);
                }
                keywords
                    .values()
                    .for_each(|value| collect(value, name, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, name, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(document, name, &mut found);
    match found.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}
