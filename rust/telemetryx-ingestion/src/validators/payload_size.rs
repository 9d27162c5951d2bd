//! `PayloadSize`: a limit in bytes for payloads, of all types or of each.

use std::collections::HashMap;

use serde::Deserialize;
use telemetryx_common::{ErrorCode, Event};

use super::{EventValidationError, EventValidator, ValidationPluginFactory};
use crate::config::ByteSize;
use crate::plugin::{PluginError, settings};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PayloadSize {
    max: Option<ByteSize>,
    #[serde(default)]
    per_type: HashMap<String, ByteSize>,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    let limits: PayloadSize = settings(parameters)?;
    if limits.max.is_none() && limits.per_type.is_empty() {
        return Err(PluginError::Settings(
            "neither `max` nor `per_type` is given, so nothing would be checked".into(),
        ));
    }
    // The shortest payload is one digit or an empty object; `null`, the default, takes four bytes.
    let zero = |size: &ByteSize| size.bytes() == 0;
    if limits.max.iter().any(zero) || limits.per_type.values().any(zero) {
        return Err(PluginError::Settings(
            "a limit of 0 bytes would refuse every event: a payload takes at least 4 (`null`)"
                .into(),
        ));
    }
    Ok(Box::new(limits))
}

inventory::submit! {
    ValidationPluginFactory { name: "PayloadSize", constructor: construct }
}

impl EventValidator for PayloadSize {
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError> {
        let limit = if self.per_type.is_empty() {
            self.max
        } else {
            self.per_type
                .get(event.event_type.as_str())
                .copied()
                .or(self.max)
        };
        match limit {
            Some(limit) if event.payload.len() > limit.as_usize() => Err(too_large(event, limit)),
            _ => Ok(()),
        }
    }
}

#[cold]
fn too_large(event: &Event<'_>, limit: ByteSize) -> EventValidationError {
    EventValidationError::new(
        "payload",
        ErrorCode::PayloadTooLarge,
        format!(
            "the payload is {} bytes long, more than the limit of {limit} for type `{}`",
            event.payload.len(),
            event.event_type
        ),
    )
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, EventType, Timestamp};

    use super::super::tests::{refuses, validator};

    fn event(name: &'static str, bytes: usize) -> Event<'static> {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.event_type = EventType::from_name(name.into());
        event.payload = "1".repeat(bytes).into();
        event
    }

    #[test]
    fn a_payload_may_be_as_long_as_its_limit_and_no_longer() {
        let sizes = validator("PayloadSize", "max = '1KiB'\nper_type = { Photo = '4KiB' }");
        assert!(sizes.validate(&event("Login", 1024)).is_ok());
        assert!(sizes.validate(&event("Photo", 4096)).is_ok());
        assert!(sizes.validate(&event("Photo", 4097)).is_err());
        let error = sizes.validate(&event("Login", 1025)).unwrap_err();
        assert_eq!(
            (error.field.as_ref(), error.code.as_str()),
            ("payload", "payload_too_large")
        );
        assert_eq!(
            error.message,
            "the payload is 1025 bytes long, more than the limit of 1KiB for type `Login`"
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        refuses("PayloadSize", "", "neither `max` nor `per_type`");
        refuses("PayloadSize", "max = 0", "0 bytes");
        refuses("PayloadSize", "max = '5 apples'", "`apples` is not a unit");
        refuses("PayloadSize", "maximum = 5", "maximum");
    }
}
