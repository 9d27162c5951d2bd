//! `SourceId`: allow and deny lists of sources. `1` and `"1"` are the same source.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use telemetryx_common::{ErrorCode, Event};

use super::allow_deny::{AllowDeny, AllowDenySettings};
use super::{EventValidationError, EventValidator, ValidationPluginFactory};
use crate::plugin::{PluginError, settings};

struct SourceId {
    lists: AllowDeny,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    let lists: AllowDenySettings<ListedSource> = settings(parameters)?;
    Ok(Box::new(SourceId {
        lists: lists.build()?,
    }))
}

inventory::submit! {
    ValidationPluginFactory { name: "SourceId", constructor: construct }
}

impl EventValidator for SourceId {
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError> {
        let name = event.source.as_text();
        match self.lists.refusal(&name) {
            None => Ok(()),
            Some(why) => Err(EventValidationError::new(
                "source",
                ErrorCode::NotAllowed,
                format!("source `{name}` {why}"),
            )),
        }
    }
}

/// A source in a list: a name or a number.
struct ListedSource(String);

impl fmt::Display for ListedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ListedSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ListedSource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source: a name, or a whole number from 0")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ListedSource, E> {
                Ok(ListedSource(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ListedSource, E> {
                u64::try_from(number)
                    .map(|number| ListedSource(number.to_string()))
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<ListedSource, E> {
                if name.is_empty() {
                    return Err(E::invalid_value(de::Unexpected::Str(name), &self));
                }
                Ok(ListedSource(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, Source, Timestamp};

    use super::super::tests::{refuses, validator};

    fn named(name: &str) -> Event<'_> {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.source = Source::Name(name.into());
        event
    }

    fn numbered(number: u64) -> Event<'static> {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.source = Source::Number(number);
        event
    }

    #[test]
    fn a_number_and_its_text_are_the_same_source() {
        let sources = validator("SourceId", r#"allowed = [1, "2", "web"]"#);
        for event in [
            named("1"),
            numbered(1),
            named("2"),
            numbered(2),
            named("web"),
        ] {
            assert!(sources.validate(&event).is_ok(), "{:?}", event.source);
        }
        let error = sources.validate(&numbered(3)).unwrap_err();
        assert_eq!(
            (error.field.as_ref(), error.code.as_str()),
            ("source", "not_allowed")
        );
        assert_eq!(error.message, "source `3` is not one of those allowed");
    }

    #[test]
    fn denied_sources_do_not_enter() {
        let sources = validator("SourceId", r#"denied = [0, "18446744073709551615"]"#);
        assert!(sources.validate(&numbered(7)).is_ok());
        assert!(sources.validate(&numbered(0)).is_err());
        assert!(sources.validate(&numbered(u64::MAX)).is_err());
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        refuses("SourceId", "allowed = [-1]", "a whole number from 0");
        refuses("SourceId", "allowed = [1.5]", "a whole number from 0");
        refuses("SourceId", r#"allowed = [""]"#, "a source: a name");
        let both = "allowed = [1]\ndenied = ['1']";
        refuses("SourceId", both, "`1` is in `allowed` and in `denied`");
    }
}
