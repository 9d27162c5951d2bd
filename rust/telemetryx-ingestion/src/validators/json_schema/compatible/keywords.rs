//! The keywords whose meaning is compared.

use jsonschema::Draft;
use serde_json::Value;

use super::{At, Compare};

/// From here on two whole numbers may be one `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl<'f> Compare<'f> {
    /// All of them.
    pub(super) fn known(&mut self, old: &At<'f>, new: &At<'f>) {
        self.types_and_values(old, new);
        self.bounds(old, new);
        self.required(old, new);
        self.properties(old, new);
        self.items(old, new);
        self.branches(old, new);
    }

    fn types_and_values(&mut self, old: &At<'f>, new: &At<'f>) {
        // Values are compared one by one, whatever their types are called.
        let values = old.values("const").or_else(|| old.values("enum"));
        for key in ["const", "enum"] {
            let Some(taken) = new.values(key) else {
                continue;
            };
            match &values {
                None => self.found(new, key, "only some values are taken now"),
                Some(before) => {
                    if let Some(gone) = before.iter().find(|value| !taken.contains(value)) {
                        self.found(new, key, format!("the value {gone} is gone"));
                    }
                }
            }
        }
        let Some(types) = new.types() else { return };
        let takes =
            |name: &str| types.contains(&name) || (name == "integer" && types.contains(&"number"));
        match (old.types(), values) {
            (Some(before), _) => {
                if let Some(gone) = before.iter().find(|name| !takes(name)) {
                    self.found(new, "type", format!("the type {gone} is gone"));
                }
            }
            (None, Some(values)) => {
                // In draft 4 the number 1 is an integer and its equal 1.0 is none.
                let type_of = |value: &Value| match type_of(value) {
                    "integer" if new.draft == Draft::Draft4 => "number",
                    name => name,
                };
                if let Some(gone) = values.iter().find(|value| !takes(type_of(value))) {
                    self.found(
                        new,
                        "type",
                        format!("the value {gone} has a type that is not taken now"),
                    );
                }
            }
            (None, None) => {
                let all = ["null", "boolean", "object", "array", "number", "string"];
                if let Some(gone) = all.iter().find(|name| !takes(name)) {
                    self.found(new, "type", format!("the type {gone} was taken before"));
                }
            }
        }
    }

    fn bounds(&mut self, old: &At<'f>, new: &At<'f>) {
        const LOWEST: [&str; 3] = ["minLength", "minItems", "minProperties"];
        const HIGHEST: [&str; 3] = ["maxLength", "maxItems", "maxProperties"];
        const NUMBERS: [&str; 4] = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"];
        let is_exact = |at: &At<'_>, key: &str| at.number(key).is_none_or(|n| n.abs() < EXACT);
        for key in LOWEST.iter().chain(&HIGHEST).chain(&NUMBERS) {
            if !is_exact(new, key) && old.get(key) != new.get(key) {
                self.found(new, key, tightened(old, new, key));
            }
        }
        for key in LOWEST {
            if let Some(least) = new.number(key)
                && least > old.number(key).unwrap_or(0.0)
            {
                self.found(new, key, tightened(old, new, key));
            }
        }
        for key in HIGHEST {
            if let Some(most) = new.number(key)
                && old.number(key).is_none_or(|before| most < before)
            {
                self.found(new, key, tightened(old, new, key));
            }
        }
        // A bound that is exclusive is tighter than the same number that is not.
        for (key, exclusive, sign) in [
            ("minimum", "exclusiveMinimum", 1.0),
            ("maximum", "exclusiveMaximum", -1.0),
        ] {
            let before = [(key, false), (exclusive, true)]
                .into_iter()
                .filter_map(|(key, is_exclusive)| Some((sign * old.number(key)?, is_exclusive)))
                .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            for (key, is_exclusive) in [(key, false), (exclusive, true)] {
                let Some(now) = new.number(key).map(|number| sign * number) else {
                    // Draft 4 writes `true` beside the bound.
                    if new.get(key) == Some(&Value::Bool(true)) && old.get(key) != new.get(key) {
                        self.found(new, key, tightened(old, new, key));
                    }
                    continue;
                };
                let holds = before.is_some_and(|(before, was_exclusive)| {
                    now < before || (now == before && (was_exclusive || !is_exclusive))
                });
                if !holds {
                    self.found(new, key, tightened(old, new, key));
                }
            }
        }
        // Remainders of fractions depend on how they are rounded.
        let is_whole = |step: f64| step.abs() < EXACT && step.fract() == 0.0;
        if let Some(step) = new.number("multipleOf")
            && old.get("multipleOf") != new.get("multipleOf")
            && old
                .number("multipleOf")
                .is_none_or(|before| !is_whole(before) || !is_whole(step) || before % step != 0.0)
        {
            self.found(new, "multipleOf", tightened(old, new, "multipleOf"));
        }
        let is_unique = |at: &At<'_>| at.get("uniqueItems") == Some(&Value::Bool(true));
        if is_unique(new) && !is_unique(old) {
            self.found(new, "uniqueItems", "items must be unique now");
        }
    }

    fn required(&mut self, old: &At<'f>, new: &At<'f>) {
        for name in new.list("required") {
            if !old.list("required").contains(name) {
                self.found(new, "required", format!("{name} is required now"));
            }
        }
    }

    fn items(&mut self, old: &At<'f>, new: &At<'f>) {
        // A list of schemas is `prefixItems` since draft 2020-12, and the rest `items` in place of `additionalItems`.
        let split = |at: &At<'f>| -> (Vec<At<'f>>, At<'f>) {
            let is_list = at.get("items").is_some_and(Value::is_array);
            let (first, rest) = if is_list {
                ("items", "additionalItems")
            } else {
                ("prefixItems", "items")
            };
            let first = at.list(first).iter().enumerate();
            let key = if is_list { "items" } else { "prefixItems" };
            let first = first.map(|(n, schema)| at.of(schema, &[key, &n.to_string()]));
            (first.collect(), at.under(rest))
        };
        let ((old_first, old_rest), (new_first, new_rest)) = (split(old), split(new));
        for place in 0..old_first.len().max(new_first.len()) {
            let before = old_first.get(place).unwrap_or(&old_rest);
            let now = new_first.get(place).unwrap_or(&new_rest);
            self.schemas(before, now);
        }
        self.schemas(&old_rest, &new_rest);
    }

    fn branches(&mut self, old: &At<'f>, new: &At<'f>) {
        let all = |at: &At<'f>, key: &'static str| -> Vec<At<'f>> {
            let branches = at.list(key).iter().enumerate();
            branches
                .map(|(n, schema)| at.of(schema, &[key, &n.to_string()]))
                .collect()
        };
        // Each alternative there was must be within one there is.
        let now = all(new, "anyOf");
        if !now.is_empty() {
            let mut before = all(old, "anyOf");
            before.extend(all(old, "oneOf"));
            if before.is_empty() {
                before.push(old.clone());
            }
            for branch in before {
                if !now.iter().any(|new| !self.is_break(&branch, new)) {
                    self.found(
                        new,
                        "anyOf",
                        format!("what `{}` took is in no alternative now", shown(&branch)),
                    );
                }
            }
        }
        // Each condition there is must follow from one there was, or from all else that was said.
        for condition in all(new, "allOf") {
            let before = all(old, "allOf");
            let follows = before.iter().any(|old| !self.is_break(old, &condition));
            if !follows {
                self.schemas(old, &condition);
            }
        }
    }
}

fn shown<'a>(at: &'a At<'_>) -> &'a str {
    if at.pointer.is_empty() {
        "/"
    } else {
        &at.pointer
    }
}

fn tightened(old: &At<'_>, new: &At<'_>, key: &str) -> String {
    let now = new.get(key).unwrap_or(&Value::Null);
    match old.get(key) {
        Some(before) => format!("`{key}` was {before} and is {now}"),
        None => format!("`{key}` is {now} now"),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
