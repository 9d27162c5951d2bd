//! Plug-ins as a user meets them: every one of them is documented with all its settings, a name that is not known gets
//! the nearest, and the example in `docs/plugins.md` is a file that compiles and does what it says.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use futures_util::FutureExt;
use telemetryx_common::{Event, Source, Timestamp};
use telemetryx_ingestion::config::PluginConfig;
use telemetryx_ingestion::plugin::PluginError;
use telemetryx_ingestion::processors::{self, ProcessingPluginFactory};
use telemetryx_ingestion::route::{Cause, EventBatch};
use telemetryx_ingestion::validators::{self, ValidationPluginFactory};

#[path = "../examples/plugin/main.rs"]
mod example;

const DOCS: &str = include_str!("../../../docs/plugins.md");
const EXAMPLE: &str = include_str!("../examples/plugin/main.rs");
/// What the example registers, beside what is built in.
const OF_THE_EXAMPLE: [&str; 2] = ["Redact", "SourcePrefix"];

fn config(name: &str, settings: &str) -> PluginConfig {
    PluginConfig {
        name: name.to_owned(),
        rest: toml::from_str(settings).unwrap(),
    }
}

/// Every name, with what its plug-in says of a setting that no plug-in has.
fn built_in() -> Vec<(&'static str, String)> {
    let wrong = || toml::from_str("no_such_setting = 1").unwrap();
    let complaint = |error: Option<PluginError>| error.expect("an unknown key").to_string();
    let validators = inventory::iter::<ValidationPluginFactory>
        .into_iter()
        .map(|plugin| (plugin.name, complaint((plugin.constructor)(wrong()).err())));
    let processors = inventory::iter::<ProcessingPluginFactory>
        .into_iter()
        .map(|plugin| (plugin.name, complaint((plugin.constructor)(wrong()).err())));
    validators
        .chain(processors)
        .filter(|(name, _)| !OF_THE_EXAMPLE.contains(name))
        .collect()
}

/// The part of the page below a plug-in's heading.
fn section(name: &str) -> &'static str {
    let (_, behind) = DOCS
        .split_once(&format!("\n### {name}\n"))
        .unwrap_or_else(|| panic!("docs/plugins.md has no heading for {name}"));
    behind.split("\n#").next().unwrap()
}

#[test]
fn every_plugin_that_was_promised_is_there() {
    let names: BTreeSet<_> = built_in().into_iter().map(|(name, _)| name).collect();
    let promised = [
        "Enrich",
        "EventType",
        "JsonSchema",
        "NormalizeTimestamp",
        "PayloadSize",
        "RequiredFields",
        "SchemaMigration",
        "SchemaVersion",
        "SourceId",
        "Stats",
        "Window",
    ];
    assert_eq!(names, promised.into());
}

#[test]
fn every_plugin_is_documented_with_all_its_settings() {
    for (name, complaint) in built_in() {
        let (_, settings) = complaint
            .split_once("unknown field `no_such_setting`, expected ")
            .unwrap_or_else(|| panic!("{name} takes unknown settings: {complaint}"));
        for setting in settings.split('`').skip(1).step_by(2) {
            assert!(
                section(name).contains(&format!("| `{setting}` |")),
                "docs/plugins.md says nothing of `{setting}` of {name}"
            );
        }
    }
}

#[test]
fn the_settings_shown_in_the_docs_are_taken() {
    let mut shown = 0;
    for (name, _) in built_in() {
        for block in section(name).split("```toml\n").skip(1) {
            let text = block.split("```").next().unwrap();
            let mut plugin: PluginConfig = toml::from_str(text).unwrap();
            assert_eq!(plugin.name, name);
            plugin.rest.remove("name");
            let made = match validators::build(&plugin) {
                Err(PluginError::Unknown { .. }) => processors::build(&plugin).map(drop),
                made => made.map(drop),
            };
            made.unwrap_or_else(|error| panic!("{name}: {error}"));
            shown += 1;
        }
    }
    assert!(shown >= 10, "each has an example");
}

#[test]
fn an_unknown_name_gets_the_nearest_one() {
    for (name, nearest) in [
        ("SourceID", "SourceId"),
        ("source_id", "SourceId"),
        ("EvenType", "EventType"),
        ("PayloadSizes", "PayloadSize"),
    ] {
        let error = validators::build(&config(name, ""))
            .err()
            .unwrap()
            .to_string();
        let wanted = format!("no validator is named `{name}` (did you mean `{nearest}`?)");
        assert!(error.starts_with(&wanted), "{error}");
    }
    for (name, nearest) in [
        ("Windows", "Window"),
        ("enrich", "Enrich"),
        ("Stat", "Stats"),
    ] {
        let error = processors::build(&config(name, ""))
            .err()
            .unwrap()
            .to_string();
        let wanted = format!("no processor is named `{name}` (did you mean `{nearest}`?)");
        assert!(error.starts_with(&wanted), "{error}");
    }
    let error = processors::build(&config("Teleport", ""))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("`Teleport`; known: "), "{error}");
}

#[test]
fn the_docs_show_exactly_the_example_that_is_compiled() {
    let (_, behind) = DOCS.split_once("```rust\n").unwrap();
    let shown = behind.split("```").next().unwrap();
    assert_eq!(
        shown, EXAMPLE,
        "docs/plugins.md and examples/plugin/main.rs differ"
    );
}

#[test]
fn the_validator_of_the_example_does_what_it_says() {
    let prefix = validators::build(&config("SourcePrefix", "prefix = 'eu-'")).unwrap();
    let mut event = Event::new(Timestamp::UNIX_EPOCH);
    event.source = Source::Name("eu-1".into());
    assert!(prefix.validate(&event).is_ok());
    event.source = Source::Name("us-1".into());
    let error = prefix.validate(&event).unwrap_err();
    assert_eq!(error.message, "source `us-1` does not start with `eu-`");
    for wrong in ["", "prefix = ''", "prefix = 'eu-'\nsuffix = '1'"] {
        assert!(
            validators::build(&config("SourcePrefix", wrong)).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn the_processor_of_the_example_does_what_it_says() {
    let redact = processors::build(&config("Redact", "attribute = 'password'")).unwrap();
    let mut event = Event::new(Timestamp::UNIX_EPOCH);
    event.attributes = vec![
        ("host".into(), "a".into()),
        ("password".into(), "hunter2".into()),
    ];
    let mut batch = EventBatch::new(Cause::Replay, Timestamp::UNIX_EPOCH);
    batch.push(0, event);
    let done = redact.process_event(&mut batch).now_or_never();
    done.unwrap().unwrap();
    let event = &batch.events()[0];
    assert_eq!(event.attribute("password"), Some("***"));
    assert_eq!(event.attribute("host"), Some("a"));
}
