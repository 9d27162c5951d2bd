//! What is called compatible is: payloads that are valid under the old schema are valid under the new one.

use fastrand::Rng;
use serde_json::{Value, json};
use telemetryx_testkit::TestSeed;

use super::*;

/// How deep values are nested, and the schemas that speak of them.
const LEVELS: usize = 2;
/// Pairs of versions that are tried.
const CASES: usize = 20_000;

const NAMES: [&str; 2] = ["a", "b"];

/// A schema out of a few keywords. Where a value can be an object it says something of every name: to name what was not
/// spoken of before is the one change that passes although it can refuse something.
fn any_schema(rng: &mut Rng, level: usize, branches: usize) -> Value {
    let mut schema = json!({});
    let mut is_open = true;
    if level < LEVELS {
        let names = NAMES.iter().filter(|_| rng.u32(0..5) > 0);
        let names: Vec<_> = names.copied().collect();
        is_open = names.len() == NAMES.len();
        schema["properties"] = names
            .into_iter()
            .map(|name| (name.to_owned(), any_schema(rng, level + 1, branches)))
            .collect();
    }
    for _ in 0..rng.usize(0..3) {
        let (key, value) = any_keyword(rng, level, branches);
        schema[key] = value;
    }
    if !is_open && is_anything(schema.get("additionalProperties")) {
        let closed = [json!(false), json!({ "type": ["string", "object"] })];
        schema["additionalProperties"] = closed[rng.usize(0..2)].clone();
    }
    schema
}

fn is_anything(schema: Option<&Value>) -> bool {
    schema.is_none_or(|schema| *schema == json!(true) || *schema == json!({}))
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
    match rng.usize(0..11) {
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
        5 if level < LEVELS => match rng.usize(0..9) {
            0 => ("required", json!([one(rng, &["a", "b"])])),
            1 => ("additionalProperties", json!(rng.bool())),
            2 => ("uniqueItems", json!(rng.bool())),
            3 | 4 => {
                let patterns = ["a", "^b", "c|b", "."].into_iter();
                let some: Vec<_> = patterns.filter(|_| rng.u32(0..3) == 0).collect();
                let mut one = |name: &str| (name.to_owned(), any_schema(rng, level + 1, branches));
                let patterns = some.into_iter().map(&mut one).collect();
                ("patternProperties", patterns)
            }
            5 => {
                let key = one(rng, &["unevaluatedProperties", "unevaluatedItems"]);
                (key, json!(false))
            }
            6 => ("propertyNames", json!({ "maxLength": rng.u32(0..3) })),
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
        8 => (
            "format",
            json!(one(rng, &["ipv4", "date", "regex", "json-pointer"])),
        ),
        9 => match rng.usize(0..2) {
            0 => ("contentMediaType", json!("application/json")),
            _ => ("contentEncoding", json!("base64")),
        },
        10 => (
            "$ref",
            json!(one(rng, &["#/definitions/x", "#/definitions/y"])),
        ),
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
        4 => json!(["", "a", "b", "ab", "bbb", "1", "MQ==", "(", "/a"][rng.usize(0..9)]),
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
    let names: Vec<_> = keywords
        .get("properties")
        .and_then(Value::as_object)
        .map(|names| names.keys().cloned().collect())
        .unwrap_or_default();
    match rng.usize(0..6) {
        0 | 1 => {
            let (key, value) = any_keyword(rng, level, branches);
            keywords.insert(key.to_owned(), value);
        }
        2 => {
            let keys: Vec<_> = keywords.keys().cloned().collect();
            if !keys.is_empty() {
                keywords.remove(&keys[rng.usize(0..keys.len())]);
            }
        }
        3 if level < LEVELS => {
            let name = NAMES[rng.usize(0..NAMES.len())];
            keywords["properties"][name] = any_schema(rng, level + 1, branches);
        }
        _ if !names.is_empty() => {
            let name = &names[rng.usize(0..names.len())];
            let inner = &keywords["properties"][name];
            keywords["properties"][name] = changed(rng, inner, level + 1, branches);
        }
        _ => {}
    }
    new
}

/// A document of some draft, or of the default one, and one that was made from it.
fn any_versions(rng: &mut Rng) -> (Value, Value) {
    const DRAFTS: [&str; 5] = [
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
    ];
    let mut old = any_schema(rng, 0, 2);
    let mut new = changed(rng, &old, 0, 2);
    // What is referred to may hold for any level, so it says nothing of what is within.
    let definitions = json!({
        "x": any_schema(rng, LEVELS, 0), "y": { "type": ["string", "integer", "object"] },
    });
    let draft = rng.usize(0..=DRAFTS.len());
    let other = if rng.u32(0..4) == 0 {
        rng.usize(0..=DRAFTS.len())
    } else {
        draft
    };
    for (schema, draft) in [(&mut old, draft), (&mut new, other)] {
        schema["definitions"] = definitions.clone();
        if let Some(name) = DRAFTS.get(draft) {
            schema["$schema"] = json!(name);
        }
    }
    if rng.u32(0..8) == 0 {
        new["definitions"]["x"] = any_schema(rng, LEVELS, 0);
    }
    (old, new)
}

#[test]
fn what_is_called_compatible_takes_all_that_was_taken() {
    let seed = TestSeed::new();
    let mut rng = Rng::with_seed(seed.seed());
    let (mut compatible, mut taken) = (0, 0);
    for _ in 0..CASES {
        let (old, new) = any_versions(&mut rng);
        let [before, now] = [&old, &new].map(|schema| jsonschema::validator_for(schema).ok());
        // Not all that is known in one draft is a schema in another.
        let (Some(before), Some(now)) = (before, now) else {
            continue;
        };
        let file = |document: &Value| File {
            path: "x".into(),
            uri: "schemas:///x".to_owned(),
            document: document.clone(),
        };
        if !breaks(&Folder::default(), &file(&old), &file(&new)).is_empty() {
            continue;
        }
        compatible += 1;
        for _ in 0..20 {
            let value = any_value(&mut rng, 0);
            if before.is_valid(&value) {
                taken += 1;
                assert!(now.is_valid(&value), "{value} under {old} and then {new}");
            }
        }
    }
    eprintln!("{compatible} of {CASES} pairs compatible, {taken} values");
    assert!(
        compatible > CASES / 10 && taken > CASES / 2,
        "{compatible}, {taken}"
    );
}
