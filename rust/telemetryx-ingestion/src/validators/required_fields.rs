//! `RequiredFields`: fields and attributes that the client must give, in place of getting a default.

use serde::Deserialize;
use telemetryx_common::{ErrorCode, Event, FieldSet};

use super::{EventValidationError, EventValidator, ValidationPluginFactory};
use crate::plugin::{PluginError, settings};

const ATTRIBUTE: &str = "attributes.";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    fields: Vec<String>,
}

struct RequiredFields {
    all: FieldSet,
    /// Each by itself, with the name that the config uses.
    fields: Vec<(FieldSet, String)>,
    /// Names of attributes, with the prefix.
    attributes: Vec<String>,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    let Settings { fields: names } = settings(parameters)?;
    if names.is_empty() {
        return Err(PluginError::Settings(
            "`fields` is empty, so nothing would be checked".into(),
        ));
    }
    let mut required = RequiredFields {
        all: FieldSet::EMPTY,
        fields: Vec::new(),
        attributes: Vec::new(),
    };
    for name in names {
        if name
            .strip_prefix(ATTRIBUTE)
            .is_some_and(|attribute| !attribute.is_empty())
        {
            required.attributes.push(name);
        } else if let Some(field) = FieldSet::from_name(&name) {
            required.all |= field;
            required.fields.push((field, name));
        } else {
            return Err(PluginError::Settings(format!(
                "`{name}` is no field of an event: use id, ts, type, source, schema_version, attributes, \
                 partition_key, payload or attributes.NAME"
            )));
        }
    }
    Ok(Box::new(required))
}

inventory::submit! {
    ValidationPluginFactory { name: "RequiredFields", constructor: construct }
}

impl EventValidator for RequiredFields {
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError> {
        if !event.given.contains(self.all)
            && let Some((_, name)) = self
                .fields
                .iter()
                .find(|(field, _)| !event.given.contains(*field))
        {
            return Err(missing(name));
        }
        let absent = |name: &&String| {
            name.strip_prefix(ATTRIBUTE)
                .is_some_and(|attribute| event.attribute(attribute).is_none())
        };
        match self.attributes.iter().find(absent) {
            None => Ok(()),
            Some(name) => Err(missing(name)),
        }
    }
}

#[cold]
fn missing(name: &str) -> EventValidationError {
    EventValidationError::new(
        name.to_owned(),
        ErrorCode::MissingField,
        format!("`{name}` is required and was not given"),
    )
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, FieldSet, Timestamp};

    use super::super::tests::{refuses, validator};

    #[test]
    fn a_field_must_be_given_even_if_it_has_a_default() {
        let required = validator("RequiredFields", r#"fields = ["type", "source"]"#);
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.given |= FieldSet::TYPE;
        let error = required.validate(&event).unwrap_err();
        assert_eq!(
            (error.field.as_ref(), error.code.as_str()),
            ("source", "missing_field")
        );
        event.given |= FieldSet::SOURCE;
        assert!(required.validate(&event).is_ok());
    }

    #[test]
    fn an_attribute_can_be_required_by_name() {
        let required = validator("RequiredFields", r#"fields = ["attributes.host"]"#);
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        let error = required.validate(&event).unwrap_err();
        assert_eq!(
            error.message,
            "`attributes.host` is required and was not given"
        );
        event.attributes.push(("host".into(), "a".into()));
        assert!(required.validate(&event).is_ok());
    }

    #[test]
    fn what_is_no_field_is_refused() {
        refuses("RequiredFields", "fields = []", "`fields` is empty");
        refuses("RequiredFields", "", "fields");
        refuses(
            "RequiredFields",
            r#"fields = ["payload.user"]"#,
            "`payload.user` is no field of an event",
        );
        refuses(
            "RequiredFields",
            r#"fields = ["attributes."]"#,
            "attributes.NAME",
        );
    }
}
