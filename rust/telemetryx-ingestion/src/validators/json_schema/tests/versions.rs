//! What is said of a new version of a schema.

use super::*;

/// What is said of version 2 after version 1, each as `pointer: what`.
fn breaks_of(old: Value, new: Value) -> Vec<String> {
    let found = mistakes(&[("A/1.json", old), ("A/2.json", new)], "");
    let told = found.iter().map(|message| {
        let (_, said) = message.split_once("A/2.json: at ").expect(message);
        said.split_once(", so payloads")
            .expect(message)
            .0
            .to_owned()
    });
    told.collect()
}

#[test]
fn a_version_that_takes_less_than_the_one_before_is_a_mistake() {
    let object = |more: Value| {
        let mut schema = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
        for (key, value) in more.as_object().unwrap() {
            schema[key] = value.clone();
        }
        schema
    };
    let of = |more: Value| json!({ "properties": { "a": more } });
    for (old, new, said) in [
        (
            object(json!({})),
            object(json!({ "required": ["a"] })),
            "/required: \"a\" is required now",
        ),
        (
            json!({ "type": ["string", "null"] }),
            json!({ "type": "string" }),
            "/type: the type null is gone",
        ),
        (
            json!({ "type": "number" }),
            json!({ "type": "integer" }),
            "/type: the type number is gone",
        ),
        (
            json!({}),
            json!({ "type": "object" }),
            "/type: the type null was taken before",
        ),
        (
            json!({ "enum": [1, 2] }),
            json!({ "enum": [2, 3] }),
            "/enum: the value 1 is gone",
        ),
        (
            json!({ "type": "string" }),
            json!({ "enum": ["a"] }),
            "/enum: only some values are taken now",
        ),
        (
            json!({ "const": "a" }),
            json!({ "type": "number" }),
            "/type: the value \"a\" has a type that is not taken now",
        ),
        (
            of(json!({ "minimum": 1 })),
            of(json!({ "minimum": 2 })),
            "/properties/a/minimum: `minimum` was 1 and is 2",
        ),
        (
            of(json!({ "minimum": 1 })),
            of(json!({ "exclusiveMinimum": 1 })),
            "/properties/a/exclusiveMinimum: `exclusiveMinimum` is 1 now",
        ),
        (
            of(json!({ "maximum": 9 })),
            of(json!({ "maximum": 8 })),
            "/properties/a/maximum: `maximum` was 9 and is 8",
        ),
        (
            of(json!({ "type": "string" })),
            of(json!({ "type": "string", "maxLength": 5 })),
            "/properties/a/maxLength: `maxLength` is 5 now",
        ),
        (
            of(json!({ "minItems": 1 })),
            of(json!({ "minItems": 2 })),
            "/properties/a/minItems: `minItems` was 1 and is 2",
        ),
        (
            of(json!({ "multipleOf": 2 })),
            of(json!({ "multipleOf": 4 })),
            "/properties/a/multipleOf: `multipleOf` was 2 and is 4",
        ),
        (
            of(json!({})),
            of(json!({ "uniqueItems": true })),
            "/properties/a/uniqueItems: items must be unique now",
        ),
        (
            of(json!({ "pattern": "a" })),
            of(json!({ "pattern": "b" })),
            "/properties/a/pattern: `pattern` changed",
        ),
        (
            of(json!({})),
            of(json!({ "not": { "type": "null" } })),
            "/properties/a/not: `not` was added",
        ),
        (
            object(json!({})),
            object(json!({ "additionalProperties": false })),
            "/additionalProperties: properties that are not named are not taken any more",
        ),
        (
            object(json!({ "additionalProperties": { "type": ["string", "null"] } })),
            object(json!({ "additionalProperties": { "type": "string" } })),
            "/additionalProperties/type: the type null is gone",
        ),
        (
            object(json!({ "additionalProperties": false })),
            json!({ "type": "object", "additionalProperties": false }),
            "/properties: property \"a\" is gone, and others are not taken",
        ),
        (
            object(json!({ "additionalProperties": { "type": "string" } })),
            object(
                json!({ "additionalProperties": { "type": "string" }, "properties": { "a": {}, "b": { "type": "number" } } }),
            ),
            "/properties/b/type: the type string is gone",
        ),
        (
            json!({ "items": { "type": "number" } }),
            json!({ "items": { "type": "number", "minimum": 0 } }),
            "/items/minimum: `minimum` is 0 now",
        ),
        (
            json!({ "items": {} }),
            json!({ "prefixItems": [{ "maxLength": 1 }] }),
            "/prefixItems/0/maxLength: `maxLength` is 1 now",
        ),
        (
            json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] }),
            json!({ "anyOf": [{ "type": "string" }] }),
            "/anyOf: what `/anyOf/1` took is in no alternative now",
        ),
        (
            json!({ "oneOf": [{ "type": "string" }] }),
            json!({ "oneOf": [{ "type": "string" }, { "maxLength": 1 }] }),
            "/oneOf: `oneOf` changed",
        ),
        (
            json!({}),
            json!({ "allOf": [{ "maxLength": 1 }] }),
            "/allOf/0/maxLength: `maxLength` is 1 now",
        ),
        (
            json!({ "$ref": "#/$defs/x", "$defs": { "x": { "maxLength": 2 } } }),
            json!({ "$ref": "#/$defs/x", "$defs": { "x": { "maxLength": 1 } } }),
            "/$ref/maxLength: `maxLength` was 2 and is 1",
        ),
        (
            json!({ "$ref": "#/$defs/x", "$defs": { "x": {} } }),
            json!({ "$ref": "#/$defs/x", "maxLength": 1, "$defs": { "x": {} } }),
            "/maxLength: `maxLength` is 1 now",
        ),
        (
            json!({ "$ref": "#x", "$defs": { "x": { "$anchor": "x", "maxLength": 2 } } }),
            json!({ "$ref": "#x", "$defs": { "x": { "$anchor": "x", "maxLength": 1 } } }),
            "/$ref/maxLength: `maxLength` was 2 and is 1",
        ),
        (
            json!({ "not": { "$ref": "#/$defs/x" }, "$defs": { "x": { "maxLength": 2 } } }),
            json!({ "not": { "$ref": "#/$defs/x" }, "$defs": { "x": { "maxLength": 3 } } }),
            "/not: `not` changed",
        ),
        (
            json!(true),
            json!(false),
            "/: nothing is taken here any more",
        ),
    ] {
        let found = breaks_of(old.clone(), new.clone());
        assert_eq!(found, [said], "{old} then {new}");
        assert_eq!(
            breaks_of(old.clone(), old),
            [""; 0],
            "the same again is no break"
        );
    }
}

#[test]
fn a_version_that_takes_as_much_or_more_is_none() {
    let node = |max: u64| {
        json!({ "type": "object", "properties": {
            "name": { "maxLength": max }, "children": { "items": { "$ref": "#" } },
            "next": { "anyOf": [{ "$ref": "#" }, { "type": "null" }, { "type": "string" }] },
        } })
    };
    for (old, new) in [
        (login(), json!({})),
        (
            json!({ "type": "integer" }),
            json!({ "type": ["number", "null"] }),
        ),
        (json!({ "enum": [1] }), json!({ "enum": [1, "a"] })),
        (json!({ "const": 1 }), json!({ "type": "integer" })),
        (json!({ "enum": ["a", "b"] }), json!({ "type": "string" })),
        (json!({ "exclusiveMinimum": 1 }), json!({ "minimum": 1 })),
        (
            json!({ "minimum": 2, "maximum": 3 }),
            json!({ "exclusiveMinimum": 1, "maximum": 4 }),
        ),
        (json!({ "multipleOf": 4 }), json!({ "multipleOf": 2 })),
        (
            json!({ "required": ["a", "b"] }),
            json!({ "required": ["b"] }),
        ),
        (
            json!({ "properties": { "a": {} } }),
            json!({ "properties": { "a": {}, "b": { "type": "string" } } }),
        ),
        (
            json!({ "additionalProperties": false }),
            json!({ "properties": { "b": { "type": "string" } }, "additionalProperties": false }),
        ),
        (
            json!({ "pattern": "a", "not": {}, "oneOf": [{}] }),
            json!({ "title": "lax" }),
        ),
        (
            json!({ "anyOf": [{ "type": "string" }] }),
            json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] }),
        ),
        (
            json!({ "type": "string" }),
            json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] }),
        ),
        (
            json!({ "maxLength": 1 }),
            json!({ "allOf": [{ "maxLength": 2 }] }),
        ),
        (
            json!({ "$ref": "#/$defs/x", "$defs": { "x": { "maxLength": 2 } } }),
            json!({ "maxLength": 3 }),
        ),
        (node(3), node(4)),
    ] {
        assert_eq!(
            breaks_of(old.clone(), new.clone()),
            [""; 0],
            "{old} then {new}"
        );
    }
    assert_eq!(
        breaks_of(node(4), node(3)),
        ["/properties/name/maxLength: `maxLength` was 4 and is 3"]
    );
}

#[test]
fn a_break_that_is_meant_can_be_declared() {
    let files = [
        ("A/1.json", json!({ "maxLength": 3 })),
        ("A/2.json", json!({ "maxLength": 2 })),
        ("A/5.json", json!({ "maxLength": 1 })),
    ];
    let found = mistakes(&files, "");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].ends_with("valid under version 1 may be refused under version 2; if that is meant, name version 2 of \"A\" in the setting `breaks`"), "{found:?}");
    assert!(
        found[1].starts_with("A/5.json: at /maxLength: "),
        "{found:?}"
    );
    assert_eq!(mistakes(&files, "breaks = { A = [2] }").len(), 1);
    assert_eq!(mistakes(&files, "breaks = { A = [2, 5] }"), [""; 0]);
}

/// Both versions as files of this folder, beside others.
fn breaks_beside(others: &[(&str, Value)], old: Value, new: Value) -> Vec<String> {
    let mut files = vec![("A/1.json", old), ("A/2.json", new)];
    files.extend_from_slice(others);
    mistakes(&files, "")
}

#[test]
fn names_and_patterns_are_held_against_each_other() {
    let closed = |more: Value| {
        let mut schema = json!({ "additionalProperties": false });
        for (key, value) in more.as_object().unwrap() {
            schema[key] = value.clone();
        }
        schema
    };
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "integer" }));
    for (old, new, said) in [
        (
            closed(json!({ "properties": { "a_x": text } })),
            closed(
                json!({ "properties": { "a_x": text }, "patternProperties": { "^a_": number } }),
            ),
            "/patternProperties/^a_/type: the type string is gone",
        ),
        (
            closed(json!({ "patternProperties": { "^a_": text } })),
            closed(
                json!({ "patternProperties": { "^a_": text }, "properties": { "a_x": number } }),
            ),
            "/properties/a_x/type: the type string is gone",
        ),
        (
            closed(json!({ "patternProperties": { "^a_": text } })),
            closed(json!({ "patternProperties": { "^a_": text, "x$": number } })),
            "/patternProperties/x$/type: the type string is gone",
        ),
        (
            closed(json!({ "patternProperties": { "^a_": text } })),
            closed(json!({ "patternProperties": { "^a_.": text } })),
            "/additionalProperties: nothing is taken here any more",
        ),
        (
            json!({ "properties": { "a": text } }),
            json!({ "properties": { "a": text }, "patternProperties": { "^a_": number } }),
            "/patternProperties/^a_/type: the type null was taken before",
        ),
        (
            json!({ "properties": { "a": text }, "unevaluatedProperties": number }),
            json!({ "unevaluatedProperties": number }),
            "/properties: property \"a\" is gone, and others are not taken",
        ),
        (
            json!({ "allOf": [{ "properties": { "a": text } }], "unevaluatedProperties": false }),
            json!({ "unevaluatedProperties": false }),
            "/unevaluatedProperties: `allOf` changed, and this is of what it does not speak of",
        ),
    ] {
        assert_eq!(
            breaks_of(old.clone(), new.clone()),
            [said],
            "{old} then {new}"
        );
    }
    for (old, new) in [
        (
            closed(json!({ "patternProperties": { "^x-": {} } })),
            closed(json!({ "patternProperties": { "^x-": {} }, "properties": { "b": number } })),
        ),
        (
            closed(json!({ "properties": { "a_x": text } })),
            closed(json!({ "patternProperties": { "^a_": text } })),
        ),
        (
            closed(json!({ "properties": { "a_x": text }, "patternProperties": { "^a_": text } })),
            closed(json!({ "patternProperties": { "^a_": text, "x$": text } })),
        ),
    ] {
        assert_eq!(
            breaks_of(old.clone(), new.clone()),
            [""; 0],
            "{old} then {new}"
        );
    }
}

#[test]
fn the_draft_decides_what_keywords_mean() {
    let of = |draft: &str, more: Value| {
        let mut schema = json!({ "$schema": format!("http://json-schema.org/{draft}/schema#") });
        for (key, value) in more.as_object().unwrap() {
            schema[key] = value.clone();
        }
        schema
    };
    let format = json!({ "format": "ipv4" });
    let x = json!({ "x": {} });
    for (old, new, said) in [
        (
            of("draft/2020-12", format.clone()),
            of("draft-07", format.clone()),
            "/$schema: `$schema` was Draft202012 and is Draft7, in which keywords mean other things",
        ),
        (
            format.clone(),
            of("draft/2019-09", format),
            "/$schema: `$schema` was Draft202012 and is Draft201909, in which keywords mean other things",
        ),
        (
            of("draft-07", json!({})),
            of(
                "draft-07",
                json!({ "contentMediaType": "application/json" }),
            ),
            "/contentMediaType: `contentMediaType` was added",
        ),
        (
            of(
                "draft-07",
                json!({ "contentMediaType": "application/json", "contentEncoding": "base64" }),
            ),
            of(
                "draft-07",
                json!({ "contentMediaType": "application/json" }),
            ),
            "/contentMediaType: `contentEncoding` is gone",
        ),
        // What stands beside a reference said nothing.
        (
            of(
                "draft-07",
                json!({ "$ref": "#/definitions/x", "maxLength": 1, "definitions": x }),
            ),
            of("draft-07", json!({ "maxLength": 1 })),
            "/maxLength: `maxLength` is 1 now",
        ),
        // Nor did what the draft does not know.
        (
            of("draft-04", json!({ "const": 1 })),
            of("draft-04", json!({ "const": 1, "type": "integer" })),
            "/type: the type null was taken before",
        ),
        (
            of("draft-07", json!({ "prefixItems": [{ "maxLength": 1 }] })),
            of("draft-07", json!({ "items": [{ "maxLength": 1 }] })),
            "/items/0/maxLength: `maxLength` is 1 now",
        ),
        // 1.0 is the number 1 and no integer.
        (
            of("draft-04", json!({ "enum": [1] })),
            of("draft-04", json!({ "type": "integer" })),
            "/type: the value 1 has a type that is not taken now",
        ),
        (
            json!({ "properties": { "a": { "maxLength": 1 } } }),
            json!({ "properties": { "a": { "$id": "a.json", "$schema": "http://json-schema.org/draft-07/schema#" } } }),
            "/properties/a/$schema: `$schema` is of another draft than the schema, so that the versions cannot be compared",
        ),
    ] {
        assert_eq!(
            breaks_of(old.clone(), new.clone()),
            [said],
            "{old} then {new}"
        );
        assert_eq!(
            breaks_of(new.clone(), new),
            [""; 0],
            "the same again is no break"
        );
    }
    let other_spelling = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema" });
    assert_eq!(breaks_of(json!({}), other_spelling), [""; 0]);
}

#[test]
fn where_references_cannot_be_followed_the_versions_are_not_compared() {
    // The reference leads to `sub/os.json`, which has not changed its words, and to `os.json` if the name is overlooked.
    let named = |max: u64| json!({ "properties": { "os": { "$id": "sub/", "$ref": "os.json" } }, "maxLength": max });
    let others = [
        ("A/sub/os.json", json!({ "maxLength": 3 })),
        ("A/os.json", json!({})),
        ("B/1.json", json!({ "$ref": "../A/os.json" })),
    ];
    let found = breaks_beside(&others, named(2), named(3));
    assert_eq!(
        found,
        [
            "A/2.json: at /properties/os/$id: `$id` changes where references lead, so that the versions cannot be compared, \
          so payloads that are valid under version 1 may be refused under version 2; \
          if that is meant, name version 2 of \"A\" in the setting `breaks`"
        ]
    );
    assert_eq!(breaks_beside(&others, named(2), named(2)), [""; 0]);
    let lonely = |max: u64| json!({ "properties": { "os": { "$id": "sub/" } }, "maxLength": max });
    assert_eq!(breaks_of(lonely(2), lonely(3)), [""; 0], "nothing refers");
    // The same in a document that is referred to, and in the old version only.
    let by = |max: u64| json!({ "$ref": "../shared/os.json", "maxLength": max });
    let others = [(
        "shared/os.json",
        json!({ "properties": { "a": { "$id": "sub/", "$ref": "#/$defs/b", "$defs": { "b": {} } } } }),
    )];
    let found = breaks_beside(&others, by(2), by(3));
    assert!(
        found.len() == 1
            && found[0].starts_with(
                "A/2.json: at /: `$id` at schemas:///shared/os.json#/properties/a changes where"
            ),
        "{found:?}"
    );
    let found = breaks_beside(&others, by(2), json!({}));
    assert_eq!(found.len(), 1, "{found:?}");
    // A reference of a file that can be found by two names.
    let os = json!({ "$id": "https://example.com/os/1", "$ref": "two.json" });
    let two = json!({ "$id": "https://example.com/os/two.json", "maxLength": 1 });
    let others = [("shared/os.json", os), ("shared/two.json", two)];
    let found = breaks_beside(
        &others,
        json!({}),
        json!({ "$ref": "../shared/os.json", "$defs": { "two": { "$ref": "../shared/two.json" } } }),
    );
    assert!(
        found.len() == 1
            && found[0].starts_with(
                "A/2.json: at /: `$ref` at schemas:///shared/os.json# is relative, in a file with"
            ),
        "{found:?}"
    );
    let dynamic = |max: u64| json!({ "$dynamicAnchor": "n", "maxLength": max, "items": { "$dynamicRef": "#n" } });
    assert_eq!(
        breaks_of(dynamic(1), dynamic(2)),
        [
            "/items/$dynamicRef: `$dynamicRef` leads elsewhere for each way there, so that the versions cannot be compared"
        ]
    );
}

#[test]
fn numbers_that_are_not_exact_must_not_change() {
    let large = 1_u64 << 53;
    for key in ["minimum", "maximum", "exclusiveMinimum", "multipleOf"] {
        let of = |number: u64| json!({ "type": "integer", key: number });
        let (old, new) = if key == "maximum" {
            (large + 1, large)
        } else {
            (large, large + 1)
        };
        assert_eq!(breaks_of(of(old), of(new)).len(), 1, "{key}");
        assert_eq!(breaks_of(of(new), of(new)), [""; 0], "{key}");
    }
    let of = |number: f64| json!({ "multipleOf": number });
    assert_eq!(breaks_of(of(0.3), of(0.1)).len(), 1);
    assert_eq!(
        breaks_of(
            json!({ "multipleOf": large + 1 }),
            json!({ "multipleOf": 2 })
        )
        .len(),
        1
    );
}
