//! A validator and a processor of your own, in one file.
//!
//! `inventory` finds them: nothing else has to be changed or listed. Add the file to `src/validators/` or
//! `src/processors/` with a `mod` line, or keep it in a program of yours that links this crate, as here.

use async_trait::async_trait;
use clap::Parser;
use serde::Deserialize;
use telemetryx_common::{ErrorCode, Event};
use telemetryx_ingestion::command::Cli;
use telemetryx_ingestion::plugin::{PluginError, settings};
use telemetryx_ingestion::processors::{EventProcessor, ProcessingError, ProcessingPluginFactory};
use telemetryx_ingestion::route::EventBatch;
use telemetryx_ingestion::validators::{
    EventValidationError, EventValidator, ValidationPluginFactory,
};

/// `- { name: SourcePrefix, prefix: "eu-" }` under `validation.plugins`: lets in what comes from there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourcePrefix {
    prefix: String,
}

/// Made once, at start and by `telemetryx check`. What is wrong with the settings is said here, not while serving.
fn source_prefix(parameters: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    let plugin: SourcePrefix = settings(parameters)?;
    if plugin.prefix.is_empty() {
        let why = "`prefix` is empty, so nothing would be checked";
        return Err(PluginError::Settings(why.into()));
    }
    Ok(Box::new(plugin))
}

inventory::submit! {
    ValidationPluginFactory { name: "SourcePrefix", constructor: source_prefix }
}

impl EventValidator for SourcePrefix {
    /// Runs for every event before its client is answered: be quick, keep nothing, do no I/O.
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError> {
        let source = event.source.as_text();
        if source.starts_with(&self.prefix) {
            return Ok(());
        }
        Err(EventValidationError::new(
            "source",
            ErrorCode::NotAllowed,
            format!("source `{source}` does not start with `{}`", self.prefix),
        ))
    }
}

/// `- { name: Redact, attribute: password }` under `processing.plugins`, or under `processors` of one route: hides the
/// value of an attribute from sinks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redact {
    attribute: String,
}

fn redact(parameters: toml::Value) -> Result<Box<dyn EventProcessor>, PluginError> {
    Ok(Box::new(settings::<Redact>(parameters)?))
}

inventory::submit! {
    ProcessingPluginFactory { name: "Redact", constructor: redact }
}

#[async_trait]
impl EventProcessor for Redact {
    /// Runs for every batch of a route, again if the batch comes again: change events in place, leave some out with
    /// `batch.retain`, add some with `batch.push_derived`. An error about one event makes that one a dead letter.
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError> {
        for event in batch.events_mut() {
            for (name, value) in &mut event.attributes {
                if *name == self.attribute {
                    *value = "***".into();
                }
            }
        }
        Ok(())
    }
}

/// The service, with these plug-ins beside its own.
#[allow(dead_code)] // The test that includes this file has a main of its own.
fn main() -> std::process::ExitCode {
    Cli::parse().run()
}
