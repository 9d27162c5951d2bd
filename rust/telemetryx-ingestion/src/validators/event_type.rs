//! `EventType`: allow and deny lists of types.

use telemetryx_common::{ErrorCode, Event};

use super::allow_deny::{AllowDeny, AllowDenySettings};
use super::{EventValidationError, EventValidator, ValidationPluginFactory};
use crate::plugin::{PluginError, settings};

struct EventType {
    lists: AllowDeny,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    let lists: AllowDenySettings<String> = settings(parameters)?;
    Ok(Box::new(EventType {
        lists: lists.build()?,
    }))
}

inventory::submit! {
    ValidationPluginFactory { name: "EventType", constructor: construct }
}

impl EventValidator for EventType {
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError> {
        let name = event.event_type.as_str();
        match self.lists.refusal(name) {
            None => Ok(()),
            Some(why) => Err(EventValidationError::new(
                "type",
                ErrorCode::NotAllowed,
                format!("type `{name}` {why}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, EventType, Timestamp};

    use super::super::tests::{refuses, validator};

    fn event(name: &str) -> Event<'_> {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.event_type = EventType::from_name(name.into());
        event
    }

    #[test]
    fn only_allowed_types_enter() {
        let types = validator("EventType", r#"allowed = ["Heartbeat", "Login"]"#);
        assert!(types.validate(&event("Heartbeat")).is_ok());
        assert!(types.validate(&event("Login")).is_ok());
        let error = types.validate(&event("login")).unwrap_err();
        assert_eq!(
            (error.field.as_ref(), error.code.as_str()),
            ("type", "not_allowed")
        );
        assert_eq!(error.message, "type `login` is not one of those allowed");
    }

    #[test]
    fn denied_types_do_not_enter_and_all_others_do() {
        let types = validator("EventType", r#"denied = ["Debug"]"#);
        assert!(types.validate(&event("Login")).is_ok());
        let error = types.validate(&event("Debug")).unwrap_err();
        assert_eq!(error.message, "type `Debug` is denied");
    }

    #[test]
    fn lists_that_contradict_each_other_are_refused() {
        refuses("EventType", "", "neither `allowed` nor `denied`");
        refuses("EventType", "allowed = []", "`allowed` is empty");
        refuses("EventType", "denied = []", "`denied` is empty");
        let both = r#"allowed = ["A", "B"]
            denied = ["B"]"#;
        refuses("EventType", both, "`B` is in `allowed` and in `denied`");
        refuses("EventType", "alowed = []", "alowed");
    }
}
