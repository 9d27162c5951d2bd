use std::path::Path;

use serde_json::{Value, json};
use telemetryx_common::{EventType, Timestamp};
use tempfile::TempDir;

use super::*;

mod versions;

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
