use proptest::prelude::*;
use serde_json::Value;
use telemetryx_common::{Event, EventType, Timestamp};

use super::super::tests::{processor, refuses, run};
use crate::processors::ProcessingError;
use crate::route::{Cause, EventBatch};

const NAME: &str = "SchemaMigration";

fn batch(version: u32, payload: &str) -> EventBatch<'_> {
    let mut event = Event::new(Timestamp::UNIX_EPOCH);
    event.event_type = EventType::from_name("Login".into());
    event.schema_version = version;
    event.payload = payload.into();
    let mut batch = EventBatch::new(Cause::Replay, Timestamp::UNIX_EPOCH);
    batch.push(0, event);
    batch
}

fn lifted(settings: &str, version: u32, payload: &str) -> (u32, String) {
    let mut batch = batch(version, payload);
    run(&*processor(NAME, settings), &mut batch).unwrap();
    let event = &batch.events()[0];
    (event.schema_version, event.payload.to_string())
}

fn fault(settings: &str, version: u32, payload: &str) -> (&'static str, String) {
    match run(&*processor(NAME, settings), &mut batch(version, payload)) {
        Err(ProcessingError::Event { code, message, .. }) => (code, message),
        other => panic!("{other:?}"),
    }
}

const TWO_STEPS: &str = r#"
    [types.Login.1]
    rename = { user = "name" }
    default = { country = "unknown" }
    [types.Login.2]
    drop = ["legacy"]
    default = { flags = [1, { deep = true }] }
"#;

#[test]
fn an_old_payload_is_lifted_step_by_step_from_its_own_version() {
    let old = r#"{"user":"ann","legacy":0,"n":1.10e+2}"#;
    assert_eq!(
        lifted(TWO_STEPS, 1, old),
        (
            3,
            r#"{"name":"ann","n":1.10e+2,"country":"unknown","flags":[1,{"deep":true}]}"#.into()
        )
    );
    assert_eq!(
        lifted(TWO_STEPS, 2, old),
        (
            3,
            r#"{"user":"ann","n":1.10e+2,"flags":[1,{"deep":true}]}"#.into()
        )
    );
    for newest in [3, 9] {
        assert_eq!(lifted(TWO_STEPS, newest, old), (newest, old.into()));
    }
}

#[test]
fn what_no_step_names_keeps_its_bytes_and_its_place() {
    let step = "types.Login.1 = { rename = { b = 'c' } }";
    let (_, payload) = lifted(
        step,
        1,
        "{ \"a\" : 12345678901234567890123.0 ,\n \"b\":\t\"\\u00e9\" , \"\\u0061x\" : [ 1 ] \n}",
    );
    assert_eq!(
        payload,
        "{ \"a\" : 12345678901234567890123.0 ,\n \"c\":\t\"\\u00e9\" , \"\\u0061x\" : [ 1 ] \n}"
    );
}

#[test]
fn a_path_reaches_into_objects_and_leaves_what_is_none() {
    let step = r#"
        [types.Login.1]
        drop = ["/user/old"]
        rename = { "/user/mail" = "email", "/user/n" = "/user/name" }
        default = { "/user/active" = true }
    "#;
    assert_eq!(
        lifted(step, 1, r#"{"user":{"old":1,"mail":"m","n":"x"}}"#).1,
        r#"{"user":{"email":"m","name":"x","active":true}}"#
    );
    for other in [r#"{"user":[1]}"#, r#"{"mail":1}"#] {
        assert_eq!(lifted(step, 1, other), (2, other.into()));
    }
}

#[test]
fn two_fields_can_swap_their_names() {
    let step = "types.Login.1 = { rename = { a = 'b', b = 'a' } }";
    assert_eq!(lifted(step, 1, r#"{"a":1,"b":2}"#).1, r#"{"b":1,"a":2}"#);
}

#[test]
fn an_event_that_cannot_be_lifted_is_refused_by_itself() {
    for payload in ["null", "[1]", "\"{}\"", "7"] {
        assert_eq!(fault(TWO_STEPS, 1, payload).0, "not_an_object");
    }
    let (code, message) = fault(TWO_STEPS, 1, r#"{"user":1,"name":2}"#);
    assert_eq!(code, "field_exists");
    assert!(message.contains("renamed to `name`"), "{message}");
    let later = "types.Login.2 = {}";
    assert_eq!(fault(later, 1, "{}").0, "no_migration");
}

#[test]
fn other_types_are_left_alone() {
    let step = "types.Logout.1 = { drop = ['a'] }";
    assert_eq!(lifted(step, 1, r#"{"a":1}"#), (1, r#"{"a":1}"#.into()));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (settings, why) in [
        ("types = {}", "`types` is empty"),
        ("types.Login = {}", "`types.Login` has no steps"),
        ("types.Login.one = {}", "named by the version it lifts"),
        ("types.Login.0 = {}", "named by the version it lifts"),
        ("types.Login = { 1 = {}, 3 = {} }", "no step from version 2"),
        (
            "types.Login.1 = { drop = ['a'], rename = { a = 'b' } }",
            "`a` is in `drop` and in `rename`",
        ),
        (
            "types.Login.1 = { rename = { a = 'c', b = 'c' } }",
            "two fields are renamed to `c`",
        ),
        (
            "types.Login.1 = { rename = { '/a/b' = '/c/b' } }",
            "a field stays in its object",
        ),
        (
            "types.Login.1 = { drop = ['/a//b'] }",
            "`/a//b` is no field",
        ),
        ("types.Login.1 = { remove = ['a'] }", "remove"),
    ] {
        refuses(NAME, settings, why);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Against a naive migration of parsed values; untouched members are compared as text.
    #[test]
    fn untouched_fields_keep_their_text_and_their_order(
        fields in prop::collection::btree_map(
            "[a-f]",
            prop_oneof![
                "-?[1-9][0-9]{0,30}(\\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?",
                Just("null".to_owned()),
                ".{0,6}".prop_map(|text| Value::from(text).to_string()),
                Just("{ \"a\" :[1, 2.50] }".to_owned()),
            ],
            0..6,
        ).prop_map(|map| map.into_iter().collect::<Vec<_>>()).prop_shuffle(),
        blank in "[ \n\t]{0,2}",
    ) {
        let settings = "types.Login.1 = { drop = ['a'], rename = { b = 'x' }, default = { c = 1 } }";
        let member = |(name, value): &(String, String)| format!("{blank}\"{name}\"{blank}:{blank}{value}{blank}");
        let payload = format!("{{{}}}", fields.iter().map(member).collect::<Vec<_>>().join(","));
        let (version, payload) = lifted(settings, 1, &payload);
        prop_assert_eq!(version, 2);
        let mut expected: Vec<_> = fields.into_iter().filter(|(name, _)| name != "a").collect();
        for (name, _) in &mut expected {
            if name == "b" {
                *name = "x".to_owned();
            }
        }
        if !expected.iter().any(|(name, _)| name == "c") {
            expected.push(("c".to_owned(), "1".to_owned()));
        }
        let found: Vec<_> = super::json_object::members(&payload).unwrap().iter()
            .map(|member| (member.unescaped(), member.value.to_owned())).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(serde_json::from_str::<Box<serde_json::value::RawValue>>(&payload).is_ok());
    }
}
