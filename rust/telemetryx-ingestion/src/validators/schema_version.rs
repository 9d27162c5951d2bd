//! `SchemaVersion`: versions accepted for each type.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use telemetryx_common::{ErrorCode, Event};

use super::{EventValidationError, EventValidator, ValidationPluginFactory};
use crate::plugin::{PluginError, settings};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    accepted: BTreeMap<String, Vec<u32>>,
    default: Option<Vec<u32>>,
}

struct SchemaVersion {
    accepted: HashMap<String, Vec<u32>>,
    default: Option<Vec<u32>>,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    let Settings { accepted, default } = settings(parameters)?;
    if accepted.is_empty() && default.is_none() {
        return Err(PluginError::Settings(
            "neither `accepted` nor `default` is given, so nothing would be checked".into(),
        ));
    }
    let named = accepted
        .iter()
        .map(|(name, versions)| (format!("accepted.{name}"), versions));
    let unnamed = default
        .iter()
        .map(|versions| ("default".to_owned(), versions));
    for (key, versions) in named.chain(unnamed) {
        if versions.is_empty() {
            return Err(PluginError::Settings(format!(
                "`{key}` is empty, so every such event would be refused: name the versions accepted"
            )));
        }
        if versions.contains(&0) {
            return Err(PluginError::Settings(format!(
                "`{key}` names version 0: versions start at 1"
            )));
        }
    }
    Ok(Box::new(SchemaVersion {
        accepted: accepted.into_iter().collect(),
        default,
    }))
}

inventory::submit! {
    ValidationPluginFactory { name: "SchemaVersion", constructor: construct }
}

impl EventValidator for SchemaVersion {
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError> {
        let name = event.event_type.as_str();
        let accepted = self.accepted.get(name).or(self.default.as_ref());
        match accepted {
            Some(versions) if !versions.contains(&event.schema_version) => {
                Err(refused(name, event.schema_version, versions))
            }
            _ => Ok(()),
        }
    }
}

#[cold]
fn refused(name: &str, version: u32, versions: &[u32]) -> EventValidationError {
    let versions: Vec<_> = versions.iter().map(u32::to_string).collect();
    EventValidationError::new(
        "schema_version",
        ErrorCode::SchemaVersionNotAccepted,
        format!(
            "version {version} of type `{name}` is not accepted: send {}",
            versions.join(" or ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, EventType, Timestamp};

    use super::super::tests::{refuses, validator};

    fn event(name: &str, version: u32) -> Event<'_> {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.event_type = EventType::from_name(name.into());
        event.schema_version = version;
        event
    }

    #[test]
    fn a_type_has_its_own_versions_and_others_the_default() {
        let versions = validator(
            "SchemaVersion",
            "default = [1]\naccepted = { Purchase = [2, 3] }",
        );
        assert!(versions.validate(&event("Purchase", 3)).is_ok());
        assert!(versions.validate(&event("Login", 1)).is_ok());
        assert!(versions.validate(&event("Login", 2)).is_err());
        let error = versions.validate(&event("Purchase", 1)).unwrap_err();
        assert_eq!(
            (error.field.as_ref(), error.code.as_str()),
            ("schema_version", "schema_version_not_accepted")
        );
        assert_eq!(
            error.message,
            "version 1 of type `Purchase` is not accepted: send 2 or 3"
        );
    }

    #[test]
    fn without_a_default_other_types_are_not_checked() {
        let versions = validator("SchemaVersion", "accepted = { Purchase = [2] }");
        assert!(versions.validate(&event("Login", 9)).is_ok());
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        refuses("SchemaVersion", "", "neither `accepted` nor `default`");
        refuses("SchemaVersion", "default = []", "`default` is empty");
        refuses(
            "SchemaVersion",
            "accepted = { A = [] }",
            "`accepted.A` is empty",
        );
        refuses("SchemaVersion", "default = [0]", "versions start at 1");
        refuses("SchemaVersion", "default = ['1']", "invalid type");
    }
}
