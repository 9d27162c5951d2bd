use std::path::Path;

use serde_json::{Value, json};
use telemetryx_common::{EventType, Timestamp};
use tempfile::TempDir;

use super::*;

/// A folder of these files.
fn folder(files: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, document) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, document.to_string()).unwrap();
    }
    folder
}

fn built(folder: &Path, more: &str) -> Result<Box<dyn EventValidator>, PluginError> {
    construct(toml::from_str(&format!("folder = {folder:?}\n{more}")).unwrap())
}

fn validator(files: &[(&str, Value)], more: &str) -> Box<dyn EventValidator> {
    built(folder(files).path(), more).unwrap_or_else(|error| panic!("{error}"))
}

/// What is said of a folder that is not taken; paths are told from the folder on.
fn mistakes(files: &[(&str, Value)], more: &str) -> Vec<String> {
    let folder = folder(files);
    let root = format!("{}/", folder.path().display());
    match built(folder.path(), more) {
        Err(PluginError::Several(messages)) => {
            let told = messages.iter().map(|message| message.replace(&root, ""));
            told.collect()
        }
        Err(error) => vec![error.to_string()],
        Ok(_) => Vec::new(),
    }
}

fn event(name: &'static str, version: u32, payload: &str) -> Event<'static> {
    let mut event = Event::new(Timestamp::UNIX_EPOCH);
    event.event_type = EventType::from_name(name.into());
    event.schema_version = version;
    event.payload = payload.to_owned().into();
    event
}

/// Field, code and message of the refusal.
fn refusal(validator: &dyn EventValidator, event: &Event<'_>) -> (String, String, String) {
    let error = validator.validate(event).unwrap_err();
    let code = error.code.as_str().to_owned();
    (error.field.into_owned(), code, error.message)
}

fn login() -> Value {
    json!({
        "type": "object",
        "required": ["user"],
        "properties": {
            "user": { "type": "string", "pattern": "^[a-z]+$" },
            "tries": { "type": "array", "items": { "type": "integer", "minimum": 0 } },
        },
    })
}

#[test]
fn a_payload_is_held_against_the_schema_of_its_type_and_version() {
    let two = json!({ "type": "object", "properties": { "user": { "type": "string" } } });
    let schemas = validator(&[("Login/1.json", login()), ("Login.v2.json", two)], "");
    assert!(
        schemas
            .validate(&event("Login", 1, r#"{"user":"ann","tries":[1]}"#))
            .is_ok()
    );
    assert!(
        schemas
            .validate(&event("Login", 2, r#"{"user":"ANN"}"#))
            .is_ok()
    );
    assert_eq!(
        refusal(&*schemas, &event("Login", 1, r#"{"user":"ann","tries":[0,7,-1]}"#)),
        (
            "payload/tries/2".into(),
            "schema_violation".into(),
            "`payload/tries/2`: it is less than the minimum of 0 (rule /properties/tries/items/minimum)".into()
        )
    );
    let (field, _, message) = refusal(&*schemas, &event("Login", 1, "{}"));
    assert_eq!(field, "payload");
    assert!(
        message.ends_with("(rule /required)") && message.contains("user"),
        "{message}"
    );
    let (_, _, message) = refusal(&*schemas, &event("Login", 1, r#"{"user":"S3cret"}"#));
    assert!(
        !message.contains("S3cret"),
        "values are not repeated: {message}"
    );
}

#[test]
fn what_has_no_schema_is_accepted_or_refused_as_the_settings_say() {
    let lax = validator(&[("Login/1.json", login())], "");
    assert!(lax.validate(&event("Other", 1, "1")).is_ok());
    assert!(lax.validate(&event("Login", 2, "1")).is_ok());
    let strict = validator(&[("Login/1.json", login())], "unknown = 'refuse'");
    let (field, code, message) = refusal(&*strict, &event("Other", 1, "1"));
    assert_eq!((&*field, &*code), ("type", "not_allowed"));
    assert_eq!(message, "there is no schema for type `Other`");
    let (field, code, message) = refusal(&*strict, &event("Login", 2, "1"));
    assert_eq!(
        (&*field, &*code),
        ("schema_version", "schema_version_not_accepted")
    );
    assert_eq!(message, "there is no schema of version 2 for type `Login`");
}

#[test]
fn references_reach_the_folder_and_nothing_else() {
    let shared = json!({ "type": "string", "maxLength": 3 });
    let by_place = json!({ "properties": { "os": { "$ref": "../shared/os.json" } } });
    let by_id = json!({ "properties": { "os": { "$ref": "https://example.com/os" } } });
    let mut named = shared.clone();
    named["$id"] = "https://example.com/os".into();
    for (schema, document) in [(by_place, shared), (by_id, named)] {
        let schemas = validator(&[("A/1.json", schema), ("shared/os.json", document)], "");
        assert!(schemas.validate(&event("A", 1, r#"{"os":"bsd"}"#)).is_ok());
        assert!(
            schemas
                .validate(&event("A", 1, r#"{"os":"linux"}"#))
                .is_err()
        );
    }
    let elsewhere = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(elsewhere.path(), "true").unwrap();
    let file = format!("file://{}", elsewhere.path().display());
    for reference in [
        "https://example.com/os",
        &file,
        "../../../etc/os.json",
        "/etc/os.json",
    ] {
        let found = mistakes(&[("A/1.json", json!({ "$ref": reference }))], "");
        let [one] = found.as_slice() else {
            panic!("{reference}: {found:?}")
        };
        assert!(
            one.starts_with("A/1.json: ") && one.contains("is not in the folder"),
            "{one}"
        );
    }
}

#[test]
fn broken_schemas_and_files_that_nobody_reads_are_mistakes_with_file_and_pointer() {
    let found = mistakes(
        &[
            (
                "A/1.json",
                json!({ "properties": { "n": { "type": "number", "minimum": "x" } } }),
            ),
            (
                "B/1.json",
                json!({ "properties": { "n": { "type": "numbr" } } }),
            ),
            ("C/1.json", json!({ "pattern": "(?=a)b" })),
            ("C/one.json", json!({})),
        ],
        "",
    );
    let starts = [
        "A/1.json: is not a schema, at /properties/n/minimum: ",
        "B/1.json: is not a schema, at /properties/n/type: ",
        "C/1.json: is not a schema, at /pattern: ",
        "C/one.json: it is neither ",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in std::iter::zip(&found, starts) {
        assert!(found.starts_with(start), "{found}");
    }
    let broken = tempfile::tempdir().unwrap();
    std::fs::create_dir(broken.path().join("A")).unwrap();
    std::fs::write(broken.path().join("A/1.json"), "{").unwrap();
    let error = built(broken.path(), "").err().unwrap().to_string();
    assert!(error.contains("A/1.json: is not JSON: "), "{error}");
    let missing = built(Path::new("/no/such/folder"), "").err().unwrap();
    assert!(matches!(missing, PluginError::Unavailable(_)), "{missing}");
    assert!(mistakes(&[], "")[0].contains("there is no schema in this folder"));
    let twice = mistakes(&[("A/1.json", login()), ("A.v1.json", login())], "");
    assert!(
        twice[0].contains("is the schema of version 1 of `A` already"),
        "{twice:?}"
    );
}

#[test]
fn hostile_payloads_cost_little() {
    let schema = json!({
        "anyOf": [
            { "type": "array", "uniqueItems": true, "items": { "type": "string", "pattern": "^(a+)+$" } },
            { "type": "object", "additionalProperties": { "$ref": "#" } },
        ],
    });
    let schemas = validator(&[("A/1.json", schema)], "max_values = 1000");
    let deep = format!("{}1{}", r#"{"a":"#.repeat(120), "}".repeat(120));
    assert!(schemas.validate(&event("A", 1, &deep)).is_err());
    let too_deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(schemas.validate(&event("A", 1, &too_deep)).is_err());
    let wide = |values: usize| format!("[{}1]", "1,".repeat(values - 1));
    let (_, code, _) = refusal(&*schemas, &event("A", 1, &wide(1_000_000)));
    assert_eq!(code, "payload_too_large");
    assert!(schemas.validate(&event("A", 1, &wide(900))).is_err());
    // Exponential where patterns are tried one way after another.
    let evil = format!(r#"["{}!"]"#, "a".repeat(100_000));
    let (_, code, message) = refusal(&*schemas, &event("A", 1, &evil));
    assert_eq!(code, "schema_violation");
    assert!(message.len() < 1200, "{}", message.len());
    // Names and separators inside of strings are no values.
    let text = format!(r#"{{"a":["{}\"[{{,"]}}"#, ",".repeat(5000));
    assert_eq!(values(text.as_bytes()), 3);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let files = [("A/1.json", login())];
    assert!(mistakes(&files, "max_values = 0")[0].contains("`max_values` is 0"));
    assert!(mistakes(&files, "unknown = 'ignore'")[0].contains("ignore"));
    assert!(mistakes(&files, "breaks = { A = [2] }")[0].contains("version 2 of `A`"));
    assert!(construct(toml::Value::Table(toml::Table::new())).is_err());
}

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
    assert!(found[0].ends_with("valid under version 1 are refused under version 2; if that is meant, say `breaks = { \"A\" = [2] }`"), "{found:?}");
    assert!(
        found[1].starts_with("A/5.json: at /maxLength: "),
        "{found:?}"
    );
    assert_eq!(mistakes(&files, "breaks = { A = [2] }").len(), 1);
    assert_eq!(mistakes(&files, "breaks = { A = [2, 5] }"), [""; 0]);
}
