//! What is called compatible is: payloads that are valid under the old schema are valid under the new one.

use fastrand::Rng;
use serde_json::{Value, json};
use telemetryx_testkit::TestSeed;

use super::*;

/// How deep values are nested, and the schemas that speak of them.
const LEVELS: usize = 2;

/// A schema out of a few keywords. Where a value can be an object it names `a` and `b`: to name what was not spoken of
/// before is the one change that passes although it can refuse something.
fn any_schema(rng: &mut Rng, level: usize, branches: usize) -> Value {
    let mut schema = json!({});
    if level < LEVELS {
        schema["properties"] = json!({
            "a": any_schema(rng, level + 1, branches),
            "b": any_schema(rng, level + 1, branches),
        });
    }
    for _ in 0..rng.usize(0..3) {
        let (key, value) = any_keyword(rng, level, branches);
        schema[key] = value;
    }
    schema
}

fn any_keyword(rng: &mut Rng, level: usize, branches: usize) -> (&'static str, Value) {
    const TYPES: [&str; 7] = [
        "string", "null", "boolean", "integer", "number", "array", "object",
    ];
    const BOUNDS: [&str; 10] = [
        "minimum",
        "exclusiveMinimum",
        "maximum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    ];
    let one = |rng: &mut Rng, of: &[&'static str]| of[rng.usize(0..of.len())];
    match rng.usize(0..9) {
        0 => {
            let some = TYPES.iter().skip(1).filter(|_| rng.bool());
            let types: Vec<_> = std::iter::once(&TYPES[0]).chain(some).collect();
            ("type", json!(types))
        }
        1 => ("const", any_value(rng, LEVELS)),
        2 => {
            let distinct = [json!(0), json!("a"), json!("b"), json!(null), json!(2)];
            let some = distinct.into_iter().filter(|_| rng.bool());
            let values: Vec<_> = std::iter::once(json!(1)).chain(some).collect();
            ("enum", json!(values))
        }
        3 => ("multipleOf", json!(rng.u32(1..4))),
        4 => ("pattern", json!(one(rng, &["a", "^b"]))),
        5 if level < LEVELS => match rng.usize(0..5) {
            0 => ("required", json!([one(rng, &["a", "b"])])),
            1 => ("additionalProperties", json!(rng.bool())),
            2 => ("uniqueItems", json!(rng.bool())),
            _ => {
                let key = one(rng, &["additionalProperties", "items", "contains"]);
                (key, any_schema(rng, level + 1, branches))
            }
        },
        6 if branches > 0 => {
            let key = one(rng, &["anyOf", "allOf", "oneOf", "prefixItems"]);
            let level = level + usize::from(key == "prefixItems");
            let several = (0..rng.usize(1..3)).map(|_| any_schema(rng, level, branches - 1));
            (key, several.collect())
        }
        7 if branches > 0 => ("not", any_schema(rng, level, branches - 1)),
        _ => (one(rng, &BOUNDS), json!(rng.u32(0..4))),
    }
}

fn any_value(rng: &mut Rng, level: usize) -> Value {
    let inner = |rng: &mut Rng| any_value(rng, level + 1);
    match rng.usize(0..if level < LEVELS { 9 } else { 5 }) {
        0 => json!(null),
        1 => json!(rng.bool()),
        2 => json!(rng.u32(0..5)),
        3 => json!(f64::from(rng.u32(0..9)) / 2.0),
        4 => json!(["", "a", "b", "ab", "bbb"][rng.usize(0..5)]),
        5 => (0..rng.usize(0..4)).map(|_| inner(rng)).collect(),
        _ => ["a", "b", "c"]
            .into_iter()
            .filter(|_| rng.bool())
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|name| (name, inner(rng)))
            .collect(),
    }
}

/// The same schema, with something in it changed.
fn changed(rng: &mut Rng, schema: &Value, level: usize, branches: usize) -> Value {
    let mut new = schema.clone();
    let Some(keywords) = new.as_object_mut() else {
        return any_schema(rng, level, branches);
    };
    match rng.usize(0..4) {
        0 => {
            let (key, value) = any_keyword(rng, level, branches);
            keywords.insert(key.to_owned(), value);
        }
        1 => {
            let keys: Vec<_> = keywords
                .keys()
                .filter(|key| *key != "properties")
                .cloned()
                .collect();
            if !keys.is_empty() {
                keywords.remove(&keys[rng.usize(0..keys.len())]);
            }
        }
        _ if level < LEVELS => {
            let name = ["a", "b"][rng.usize(0..2)];
            let inner = &keywords["properties"][name];
            keywords["properties"][name] = changed(rng, inner, level + 1, branches);
        }
        _ => {}
    }
    new
}

#[test]
fn what_is_called_compatible_takes_all_that_was_taken() {
    let seed = TestSeed::new();
    let mut rng = Rng::with_seed(seed.seed());
    let (mut compatible, mut taken) = (0, 0);
    for _ in 0..20_000 {
        let old = any_schema(&mut rng, 0, 2);
        let new = changed(&mut rng, &old, 0, 2);
        let file = |document: &Value| File {
            path: "x".into(),
            uri: "schemas:///x".to_owned(),
            document: document.clone(),
        };
        let folder = Folder::default();
        if !breaks(&folder, &file(&old), &file(&new)).is_empty() {
            continue;
        }
        compatible += 1;
        let [before, now] = [&old, &new].map(|schema| jsonschema::validator_for(schema).unwrap());
        for _ in 0..20 {
            let value = any_value(&mut rng, 0);
            if before.is_valid(&value) {
                taken += 1;
                assert!(now.is_valid(&value), "{value} under {old} and then {new}");
            }
        }
    }
    assert!(
        compatible > 5_000 && taken > 10_000,
        "{compatible}, {taken}"
    );
}
