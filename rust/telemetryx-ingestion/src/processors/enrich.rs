//! `Enrich`: adds attributes that are the same for every event, and the time the service received it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Deserialize;
use telemetryx_common::Event;

use super::{EventProcessor, ProcessingError, ProcessingPluginFactory};
use crate::plugin::{PluginError, settings};
use crate::route::EventBatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enrich {
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    received_at: Option<String>,
    #[serde(default)]
    overwrite: bool,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventProcessor>, PluginError> {
    let enrich: Enrich = settings(parameters)?;
    let names = || enrich.attributes.keys().chain(&enrich.received_at);
    if names().next().is_none() {
        return Err(PluginError::Settings(
            "neither `attributes` nor `received_at` is given, so nothing would be added".into(),
        ));
    }
    if names().any(String::is_empty) {
        return Err(PluginError::Settings(
            "an attribute needs a name that is not empty".into(),
        ));
    }
    if let Some(name) = &enrich.received_at
        && enrich.attributes.contains_key(name)
    {
        return Err(PluginError::Settings(format!(
            "`{name}` is in `attributes` and is the name for `received_at`: give them different names"
        )));
    }
    Ok(Box::new(enrich))
}

inventory::submit! {
    ProcessingPluginFactory { name: "Enrich", constructor: construct }
}

impl Enrich {
    fn add(&self, event: &mut Event<'_>, name: &str, value: impl FnOnce() -> String) {
        // Attributes are sorted by name.
        let place = event
            .attributes
            .binary_search_by(|(have, _)| have.as_ref().cmp(name));
        match place {
            Ok(found) if self.overwrite => event.attributes[found].1 = Cow::Owned(value()),
            Ok(_) => {}
            Err(free) => event
                .attributes
                .insert(free, (Cow::Owned(name.to_owned()), Cow::Owned(value()))),
        }
    }
}

#[async_trait]
impl EventProcessor for Enrich {
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError> {
        for event in batch.events_mut() {
            for (name, value) in &self.attributes {
                self.add(event, name, || value.clone());
            }
            if let Some(name) = &self.received_at {
                let received_at = event.received_at;
                self.add(event, name, || received_at.to_string());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, Timestamp};

    use super::super::tests::{processor, refuses, run};
    use crate::route::{Cause, EventBatch};

    fn enriched(settings: &str) -> Vec<(String, String)> {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.attributes = vec![("host".into(), "a".into()), ("zone".into(), "1".into())];
        event.received_at = Timestamp::from_unix_nanos(1_500_000_000);
        let mut batch = EventBatch::new(Cause::Replay, Timestamp::UNIX_EPOCH);
        batch.push(0, event);
        run(&*processor("Enrich", settings), &mut batch).unwrap();
        batch.events()[0]
            .attributes
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_the_client_gave_stays_and_names_stay_sorted() {
        assert_eq!(
            enriched("attributes = { host = 'b', region = 'eu' }\nreceived_at = 'at'"),
            pairs(&[
                ("at", "1970-01-01T00:00:01.500Z"),
                ("host", "a"),
                ("region", "eu"),
                ("zone", "1"),
            ])
        );
    }

    #[test]
    fn what_the_client_gave_is_overwritten_if_asked_for() {
        assert_eq!(
            enriched("attributes = { host = 'b' }\noverwrite = true"),
            pairs(&[("host", "b"), ("zone", "1")])
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        refuses("Enrich", "overwrite = true", "nothing would be added");
        refuses("Enrich", "received_at = ''", "not empty");
        refuses(
            "Enrich",
            "received_at = 'a'\nattributes = { a = 'b' }",
            "`a` is in `attributes`",
        );
        refuses("Enrich", "attributes = { a = 1 }", "invalid type");
    }
}
