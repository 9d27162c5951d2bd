//! Payloads against the schemas of a folder, end to end: what clients are told, what is kept, and what `check` says of a
//! version that breaks the one before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{TS, assert_books_balance, metric, service, settle, start, stored};

/// The folder that comes with the service.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/schemas");

fn config(folder: &Path, more: &str) -> String {
    format!("validation: {{ plugins: [ {{ name: JsonSchema, folder: {folder:?}{more} }} ] }}")
}

fn login(id: &str, version: u32, payload: &str) -> String {
    format!(
        r#"{{"id":"{id}","ts":"{TS}","type":"Login","schema_version":{version},"payload":{payload}}}"#
    )
}

#[test]
fn what_a_schema_refuses_is_told_by_pointer_and_kept_and_the_rest_goes_on() {
    let service = start(&config(Path::new(EXAMPLE), ", unknown: refuse"));
    let body = [
        login("a", 1, r#"{"user":"ann","method":"key"}"#),
        login("b", 1, r#"{"user":"ann","method":"passkey"}"#),
        login(
            "c",
            2,
            r#"{"user":"ann","method":"passkey","device":{"os":"linux"}}"#,
        ),
        login("d", 2, r#"{"user":"ann","device":{"os":"S3cret"}}"#),
        login("e", 3, r#"{"user":"ann"}"#),
        login("f", 2, "null"),
    ];
    let answer = service.post_json("/ingest", format!("[{}]", body.join(",")));
    let answer = answer.expect_status(202).json();
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(2), &json!(4))
    );
    let errors = answer["errors"].as_array().unwrap();
    let told = |error: &Value| {
        ["index", "field", "code"].map(|name| {
            error[name]
                .as_str()
                .map_or_else(|| error[name].to_string(), str::to_owned)
        })
    };
    assert_eq!(
        errors.iter().map(told).collect::<Vec<_>>(),
        [
            ["1", "payload/method", "schema_violation"],
            ["3", "payload/device/os", "schema_violation"],
            ["4", "schema_version", "schema_version_not_accepted"],
            ["5", "payload", "schema_violation"],
        ]
    );
    let message = errors[1]["message"].as_str().unwrap();
    assert!(
        message.contains("payload/device/os") && !message.contains("S3cret"),
        "{message}"
    );

    settle(&service);
    let mut kept: Vec<_> = stored(&service).into_keys().collect();
    kept.sort();
    assert_eq!(kept, ["a", "c"]);
    assert_eq!(assert_books_balance(&service)["door"]["refused"], 4);
    assert_eq!(service.get("/dead-letters").json()["count"], 4);
    let letters = r#"dead_letters_total{route="",stage="validation",code="schema_violation"}"#;
    assert_eq!(metric(&service, letters) as u64, 3);
    let answer = service
        .post_json("/ingest", login("g", 1, "{}"))
        .expect_status(400)
        .json();
    assert_eq!(answer["errors"][0]["field"], "payload", "{answer}");
}

#[test]
fn check_finds_a_version_that_breaks_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, schema: Value| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, schema.to_string()).unwrap();
    };
    write(
        "Login/1.json",
        json!({ "properties": { "user": { "type": "string", "maxLength": 200 } } }),
    );
    write(
        "Login/2.json",
        json!({ "properties": { "user": { "type": "string", "maxLength": 50 } }, "required": ["user"] }),
    );
    let check = |more: &str| {
        service()
            .config(&config(folder.path(), more))
            .run(&["check"])
    };
    let found = check("");
    assert_eq!(found.code, Some(2), "{}", found.stderr);
    let lines: Vec<_> = found.stderr.lines().collect();
    let [required, length] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    for (line, said) in [
        (
            length,
            "2.json: at /properties/user/maxLength: `maxLength` was 200 and is 50, so payloads",
        ),
        (
            required,
            "2.json: at /required: \"user\" is required now, so payloads",
        ),
    ] {
        assert!(
            line.contains("validation.plugins[0] (JsonSchema): ") && line.contains(said),
            "{line}"
        );
        assert!(
            line.ends_with("if that is meant, name version 2 of \"Login\" in the setting `breaks`"),
            "{line}"
        );
    }
    let declared = check(", breaks: { Login: [2] }");
    assert_eq!(declared.code, Some(0), "{}", declared.stderr);
    // The service itself does not start with it either.
    let error = service()
        .config(&config(folder.path(), ""))
        .try_start()
        .unwrap_err();
    assert!(error.log.contains("is required now"), "{}", error.log);
}
