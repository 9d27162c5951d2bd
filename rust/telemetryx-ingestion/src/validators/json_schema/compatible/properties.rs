//! The keywords that speak of properties.
//!
//! A property is spoken of by its name, by every pattern that its name matches, and, if there is none of these, by
//! `additionalProperties`. So each schema that speaks of some names now must follow from one that spoke of them before.

use jsonschema::PatternOptions;
use serde_json::{Value, json};

use super::super::PATTERN_BYTES_MAX;
use super::{At, Compare, PAIRS_MAX};

impl<'f> Compare<'f> {
    pub(super) fn properties(&mut self, old: &At<'f>, new: &At<'f>) {
        self.names(old, new);
        self.names_that_are_gone(old, new);
        self.patterns(old, new);
        self.others(old, new);
        self.schemas(&old.under("propertyNames"), &new.under("propertyNames"));
        if self.pairs > PAIRS_MAX {
            self.found(new, "", "the schemas are too large to be compared");
        }
    }

    fn names(&mut self, old: &At<'f>, new: &At<'f>) {
        let others = old.under("additionalProperties");
        let speaks_of_objects =
            old.get("properties").is_some() || old.types().is_some_and(|types| types == ["object"]);
        for (name, schema) in new.map("properties") {
            let now = new.of(schema, &["properties", name]);
            let before = self.said_of(old, name);
            if !before.is_empty() {
                self.follows(&before, &now);
            } else if !others.takes_anything() || !speaks_of_objects {
                self.schemas(&others, &now);
            }
            // Else it spoke of objects and said nothing of this one: the property is new.
        }
    }

    fn names_that_are_gone(&mut self, old: &At<'f>, new: &At<'f>) {
        let others = new.under("additionalProperties");
        let is_closed = *others.schema == Value::Bool(false)
            || !new.under("unevaluatedProperties").takes_anything();
        for (name, schema) in old.map("properties") {
            // Patterns are compared with what was said of the names that match them.
            if !self.said_of(new, name).is_empty() {
                continue;
            }
            if is_closed && *schema != Value::Bool(false) {
                let what = format!("property {name:?} is gone, and others are not taken");
                self.found(new, "properties", what);
            } else {
                self.schemas(&old.of(schema, &["properties", name]), &others);
            }
        }
    }

    fn patterns(&mut self, old: &At<'f>, new: &At<'f>) {
        for (pattern, now) in under_patterns(new) {
            if let Some((_, before)) = under_patterns(old).find(|(before, _)| *before == pattern) {
                self.schemas(&before, &now);
                continue;
            }
            for (name, _) in old.map("properties") {
                if self.matches(pattern, name) {
                    let before = self.said_of(old, name);
                    self.follows(&before, &now);
                }
            }
            // A name may match this one and any other.
            for (_, before) in under_patterns(old) {
                self.schemas(&before, &now);
            }
            self.schemas(&old.under("additionalProperties"), &now);
        }
        for (pattern, before) in under_patterns(old) {
            if under_patterns(new).all(|(now, _)| now != pattern) {
                self.schemas(&before, &new.under("additionalProperties"));
            }
        }
    }

    fn others(&mut self, old: &At<'f>, new: &At<'f>) {
        let (before, now) = (
            old.under("additionalProperties"),
            new.under("additionalProperties"),
        );
        if *now.schema == Value::Bool(false) && *before.schema != Value::Bool(false) {
            let what = "properties that are not named are not taken any more";
            self.found(new, "additionalProperties", what);
        } else {
            self.schemas(&before, &now);
        }
    }

    /// What is said of a property of this name, but for what is said of all others; by its name last.
    fn said_of(&mut self, at: &At<'f>, name: &str) -> Vec<At<'f>> {
        let mut said: Vec<_> = under_patterns(at)
            .filter(|(pattern, _)| self.matches(pattern, name))
            .map(|(_, schema)| schema)
            .collect();
        let named = at
            .get("properties")
            .and_then(|properties| properties.get(name));
        said.extend(named.map(|schema| at.of(schema, &["properties", name])));
        said
    }

    /// What is said now must follow from one of those that held together before.
    fn follows(&mut self, before: &[At<'f>], now: &At<'f>) {
        let Some((last, others)) = before.split_last() else {
            return;
        };
        if !others.iter().any(|before| !self.is_break(before, now)) {
            self.schemas(last, now);
        }
    }

    /// As the validators match. Those of a pattern that is none are not built, and that is told elsewhere.
    fn matches(&mut self, pattern: &'f str, name: &str) -> bool {
        self.pairs += 1;
        if self.pairs > PAIRS_MAX {
            return false;
        }
        let validator = self.patterns.entry(pattern).or_insert_with(|| {
            jsonschema::options()
                .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX))
                .build(&json!({ "patternProperties": { pattern: false } }))
                .ok()
        });
        let validator = validator.as_ref();
        validator.is_some_and(|validator| !validator.is_valid(&json!({ name: null })))
    }
}

fn under_patterns<'f>(at: &At<'f>) -> impl Iterator<Item = (&'f str, At<'f>)> {
    at.map("patternProperties").map(|(pattern, schema)| {
        let path = ["patternProperties", pattern.as_str()];
        (pattern.as_str(), at.of(schema, &path))
    })
}
