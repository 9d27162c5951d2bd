//! Whether payloads that are valid under a schema stay valid under the next version of it.
//!
//! Whether one schema takes all that another takes cannot be decided in general, so this compares them keyword by keyword,
//! and what it does not understand must not change. It errs on the side of calling a change a break, with one exception:
//! a property that is new, where the old schema spoke of an object and said nothing of it, is no break, although a payload
//! might have brought something else under that name before. `docs/plugins.md` lists the rules.
//!
//! | file | what |
//! | --- | --- |
//! | `compatible/at.rs` | a schema within its document |
//! | `compatible/comparable.rs` | whether two documents can be compared at all: one draft, references that lead to one place |
//! | `compatible/keywords.rs` | the keywords whose meaning is compared |
//! | `compatible/properties.rs` | those of them that speak of properties, by name or by pattern |

use std::collections::{HashMap, HashSet};

use jsonschema::Validator;
use serde_json::{Map, Value};

use self::at::{At, anchored, base};
use super::folder::{File, Folder};

mod at;
mod comparable;
mod keywords;
mod properties;

/// References within references.
const REFERENCES_MAX: usize = 64;
/// Pairs of schemas that are compared for one pair of files.
const PAIRS_MAX: usize = 100_000;
/// More are not told of one file.
const BREAKS_MAX: usize = 10;

/// Keywords that are compared by what they mean; `oneOf` must not change, as all others.
const KNOWN: [&str; 25] = [
    "type",
    "enum",
    "const",
    "required",
    "properties",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "uniqueItems",
    "items",
    "prefixItems",
    "additionalItems",
    "anyOf",
    "allOf",
];
/// Keywords that say nothing of what is valid, or only where to look.
const SILENT: [&str; 17] = [
    "$ref",
    "$schema",
    "$id",
    "id",
    "$anchor",
    "$comment",
    "$defs",
    "definitions",
    "$vocabulary",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentSchema",
];

/// A payload that was valid may be refused because of this.
pub(super) struct Break {
    /// JSON pointer into the new file.
    pub(super) pointer: String,
    pub(super) what: String,
}

/// What of `old` is no longer taken by `new`, or why that cannot be said.
pub(super) fn breaks(folder: &Folder, old: &File, new: &File) -> Vec<Break> {
    if comparable::are_the_same(old, new) {
        return Vec::new();
    }
    let draft = match comparable::draft(folder, old, new) {
        Ok(draft) => draft,
        Err(obstacle) => return vec![obstacle],
    };
    let mut compare = Compare {
        folder,
        found: Vec::new(),
        fine: HashSet::new(),
        assumed: Vec::new(),
        pairs: 0,
        patterns: HashMap::new(),
    };
    let (old, new) = (At::root(old, draft), At::root(new, draft));
    compare.schemas(&old, &new);
    compare.found
}

struct Compare<'f> {
    folder: &'f Folder,
    found: Vec<Break>,
    /// Pairs, by their addresses, in which no break was found, or which are being compared: a schema that refers to itself
    /// comes back to those.
    fine: HashSet<Pair>,
    /// The same in the order in which they came.
    assumed: Vec<Pair>,
    pairs: usize,
    /// What tells whether a name matches a pattern.
    patterns: HashMap<&'f str, Option<Validator>>,
}

type Pair = (*const Value, *const Value);

fn addr(at: &At<'_>) -> *const Value {
    at.schema
}

impl<'f> Compare<'f> {
    fn found(&mut self, at: &At<'_>, key: &str, what: impl Into<String>) {
        if self.found.len() < BREAKS_MAX {
            let slash = if key.is_empty() && !at.pointer.is_empty() {
                ""
            } else {
                "/"
            };
            self.found.push(Break {
                pointer: format!("{}{slash}{key}", at.pointer),
                what: what.into(),
            });
        }
    }

    /// What would be found of these two.
    fn trial(&mut self, old: &At<'f>, new: &At<'f>) -> Vec<Break> {
        let found = std::mem::take(&mut self.found);
        self.schemas(old, new);
        std::mem::replace(&mut self.found, found)
    }

    fn is_break(&mut self, old: &At<'f>, new: &At<'f>) -> bool {
        !self.trial(old, new).is_empty()
    }

    fn schemas(&mut self, old: &At<'f>, new: &At<'f>) {
        if new.takes_anything() || *old.schema == Value::Bool(false) || addr(old) == addr(new) {
            return;
        }
        if *new.schema == Value::Bool(false) {
            return self.found(new, "", "nothing is taken here any more");
        }
        match (self.parts(old), self.parts(new)) {
            (Ok(old), Ok(new)) => new.iter().for_each(|new| self.part(&old, new)),
            (Err(reference), _) | (_, Err(reference)) => {
                if !self.is_same(old, new, &mut HashSet::new()) {
                    let what = format!("what `{reference}` refers to cannot be compared");
                    self.found(new, "$ref", what);
                }
            }
        }
    }

    /// A schema that must follow from one of those that held together before.
    fn part(&mut self, old: &[At<'f>], new: &At<'f>) {
        let mut first = None;
        for old in old {
            let pair = (addr(old), addr(new));
            if self.fine.contains(&pair) {
                return;
            }
            self.pairs += 1;
            if self.pairs > PAIRS_MAX {
                return self.found(new, "", "the schemas are too large to be compared");
            }
            let before = self.assumed.len();
            self.fine.insert(pair);
            self.assumed.push(pair);
            let found = std::mem::take(&mut self.found);
            self.keywords(old, new);
            let broken = std::mem::replace(&mut self.found, found);
            if broken.is_empty() {
                return;
            }
            // What followed from this pair does not follow any more.
            for pair in self.assumed.drain(before..) {
                self.fine.remove(&pair);
            }
            first.get_or_insert(broken);
        }
        self.found.extend(first.unwrap_or_default());
        self.found.truncate(BREAKS_MAX);
    }

    /// What holds together in one schema: its own keywords, and what it refers to.
    fn parts(&self, at: &At<'f>) -> Result<Vec<At<'f>>, String> {
        let mut parts = Vec::new();
        let mut at = at.clone();
        for _ in 0..REFERENCES_MAX {
            let Some(reference) = at.get("$ref").and_then(Value::as_str) else {
                parts.push(at);
                return Ok(parts);
            };
            let target = self.find(&at, reference);
            let target = target.ok_or_else(|| reference.to_owned())?;
            let says_more = |(key, _): (&String, _)| !SILENT.contains(&key.as_str());
            if !at.is_reference_alone()
                && at.schema.as_object().into_iter().flatten().any(says_more)
            {
                parts.push(at);
            }
            at = target;
        }
        Err("a reference to itself".to_owned())
    }

    fn find(&self, at: &At<'f>, reference: &str) -> Option<At<'f>> {
        let (place, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        if pointer.contains('%') {
            return None;
        }
        let (uri, document) = if place.is_empty() {
            (at.uri, at.document)
        } else {
            let (uri, document) = self.folder.neighbour(at.uri, place)?;
            (base(document, uri), document)
        };
        let is_pointer = pointer.is_empty() || pointer.starts_with('/');
        let schema = if is_pointer {
            document.pointer(pointer)?
        } else {
            anchored(document, pointer)?
        };
        // A break behind a reference is told where the reference stands.
        let pointer = format!("{}/$ref", at.pointer);
        Some(At {
            schema,
            document,
            uri,
            draft: at.draft,
            pointer,
        })
    }

    /// Whether both say the same in the same words, also behind their references.
    fn is_same(&self, old: &At<'f>, new: &At<'f>, seen: &mut HashSet<Pair>) -> bool {
        match (old.schema, new.schema) {
            (Value::Object(before), Value::Object(now)) => {
                !seen.insert((addr(old), addr(new)))
                    || before.len() == now.len()
                        && before
                            .keys()
                            .all(|key| self.is_same_under(key, old, new, seen))
            }
            (Value::Array(before), Value::Array(now)) => {
                let mut both = std::iter::zip(before, now);
                before.len() == now.len()
                    && both.all(|(before, now)| {
                        self.is_same(&old.of(before, &[]), &new.of(now, &[]), seen)
                    })
            }
            (before, now) => before == now,
        }
    }

    /// The same of what stands under a keyword. References must be the same, and what they lead to: this may also be a
    /// value within `const`.
    fn is_same_under(
        &self,
        key: &str,
        old: &At<'f>,
        new: &At<'f>,
        seen: &mut HashSet<Pair>,
    ) -> bool {
        match (old.schema.get(key), new.schema.get(key)) {
            (None, None) => true,
            (Some(Value::String(before)), Some(Value::String(now))) if key == "$ref" => {
                let targets = || Some((self.find(old, before)?, self.find(new, now)?));
                before == now
                    && targets().is_some_and(|(before, now)| self.is_same(&before, &now, seen))
            }
            (Some(before), Some(now)) => {
                self.is_same(&old.of(before, &[key]), &new.of(now, &[key]), seen)
            }
            _ => false,
        }
    }

    fn keywords(&mut self, old: &At<'f>, new: &At<'f>) {
        self.known(old, new);
        let nothing = Map::new();
        let keywords = new.schema.as_object().unwrap_or(&nothing);
        for key in keywords.keys() {
            let is_known = KNOWN.contains(&key.as_str()) || SILENT.contains(&key.as_str());
            if is_known || self.is_same_under(key, old, new, &mut HashSet::new()) {
                continue;
            }
            let what = old.schema.get(key).map_or("was added", |_| "changed");
            self.found(new, key, format!("`{key}` {what}"));
        }
        // Without the one the other means more: at least one item must match, and the text itself must be of that type.
        for (key, weaker) in [
            ("contains", "minContains"),
            ("contentMediaType", "contentEncoding"),
        ] {
            let is_gone = new.schema.get(weaker).is_none() && old.schema.get(weaker).is_some();
            if new.schema.get(key).is_some() && is_gone {
                self.found(new, key, format!("`{weaker}` is gone"));
            }
        }
        self.unevaluated(old, new);
    }

    /// `unevaluatedProperties` and `unevaluatedItems` are of what no other keyword spoke of.
    fn unevaluated(&mut self, old: &At<'f>, new: &At<'f>) {
        const EVERYWHERE: [&str; 8] = [
            "$ref",
            "allOf",
            "anyOf",
            "oneOf",
            "if",
            "then",
            "else",
            "dependentSchemas",
        ];
        const OF_PROPERTIES: [&str; 2] = ["patternProperties", "additionalProperties"];
        const OF_ITEMS: [&str; 4] = ["items", "prefixItems", "additionalItems", "contains"];
        for (key, others) in [
            ("unevaluatedProperties", OF_PROPERTIES.as_slice()),
            ("unevaluatedItems", OF_ITEMS.as_slice()),
        ] {
            if new.under(key).takes_anything() {
                continue;
            }
            for other in EVERYWHERE.iter().chain(others) {
                let is_there = old.schema.get(other).is_some();
                if is_there && !self.is_same_under(other, old, new, &mut HashSet::new()) {
                    let what =
                        format!("`{other}` changed, and this is of what it does not speak of");
                    self.found(new, key, what);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
