//! Whether payloads that are valid under a schema stay valid under the next version of it.
//!
//! Whether one schema takes all that another takes cannot be decided in general, so this compares them keyword by keyword,
//! and what it does not understand must not change. It errs on the side of calling a change a break, with one exception:
//! a property that is new, where the old schema spoke of an object and said nothing of it, is no break, although a payload
//! might have brought something else under that name before. `docs/plugins.md` lists the rules.

use std::collections::HashSet;

use serde_json::{Map, Value};

use self::at::{At, anchored};
use super::folder::{File, Folder};

mod at;
mod keywords;

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
const SILENT: [&str; 18] = [
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
    "contentMediaType",
    "contentSchema",
];

/// A payload that was valid may be refused because of this.
pub(super) struct Break {
    /// JSON pointer into the new file.
    pub(super) pointer: String,
    pub(super) what: String,
}

/// What of `old` is no longer taken by `new`.
pub(super) fn breaks(folder: &Folder, old: &File, new: &File) -> Vec<Break> {
    let mut compare = Compare {
        folder,
        found: Vec::new(),
        fine: HashSet::new(),
        assumed: Vec::new(),
        pairs: 0,
    };
    let (old, new) = (At::root(old), At::root(new));
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
            if at.schema.as_object().into_iter().flatten().any(says_more) {
                parts.push(at);
            }
            at = target;
        }
        Err("a reference to itself".to_owned())
    }

    fn find(&self, at: &At<'f>, reference: &str) -> Option<At<'f>> {
        let (place, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let (uri, document) = if place.is_empty() {
            (at.uri, at.document)
        } else {
            self.folder.neighbour(at.uri, place)?
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
            pointer,
        })
    }

    /// Whether both say the same in the same words, also behind their references.
    fn is_same(&self, old: &At<'f>, new: &At<'f>, seen: &mut HashSet<Pair>) -> bool {
        match (old.schema, new.schema) {
            (Value::Object(before), Value::Object(now)) => {
                if !seen.insert((addr(old), addr(new))) {
                    return true;
                }
                let mut both = before
                    .iter()
                    .map(|(key, before)| (key, before, now.get(key)));
                before.len() == now.len()
                    && both.all(|(key, before, now)| match (key.as_str(), before, now) {
                        (_, _, None) => false,
                        ("$ref", Value::String(before), Some(Value::String(now))) => {
                            match (self.find(old, before), self.find(new, now)) {
                                (Some(before), Some(now)) => self.is_same(&before, &now, seen),
                                _ => false,
                            }
                        }
                        // Where it leads depends on the way there.
                        ("$dynamicRef" | "$recursiveRef", ..) => old.document == new.document,
                        (key, before, Some(now)) => {
                            self.is_same(&old.of(before, &[key]), &new.of(now, &[key]), seen)
                        }
                    })
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

    fn keywords(&mut self, old: &At<'f>, new: &At<'f>) {
        self.known(old, new);
        let nothing = Map::new();
        let keywords = new.schema.as_object().unwrap_or(&nothing);
        for (key, value) in keywords {
            let is_known = KNOWN.contains(&key.as_str()) || SILENT.contains(&key.as_str());
            if is_known {
                continue;
            }
            match old.get(key) {
                None => self.found(new, key, format!("`{key}` was added")),
                Some(_) if key.ends_with("Ref") && old.document == new.document => {}
                Some(before) => {
                    let (before, now) = (old.of(before, &[key]), new.of(value, &[key]));
                    if key.ends_with("Ref") || !self.is_same(&before, &now, &mut HashSet::new()) {
                        self.found(new, key, format!("`{key}` changed"));
                    }
                }
            }
        }
        // Without it, one item at least must match `contains`.
        if new.get("contains").is_some()
            && new.get("minContains").is_none()
            && old.get("minContains").is_some()
        {
            self.found(new, "contains", "`minContains` is gone");
        }
    }
}

#[cfg(test)]
mod tests;
