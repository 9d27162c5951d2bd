//! Plug-ins that say whether one event may enter: one file each, found through `inventory`, named in
//! `validation.plugins`. They run in the order of the config, on the thread that answers the request: a validator
//! must be pure, quick and without I/O.
//!
//! | file | plug-in |
//! | --- | --- |
//! | `allow_deny.rs` | no plug-in: the lists that two of them take |
//! | `event_type.rs` | `EventType`: allow and deny lists of types |
//! | `json_schema/` | `JsonSchema`: payloads against schemas from a folder |
//! | `payload_size.rs` | `PayloadSize`: a limit in bytes |
//! | `required_fields.rs` | `RequiredFields`: fields the client must give |
//! | `schema_version.rs` | `SchemaVersion`: versions accepted for each type |
//! | `source_id.rs` | `SourceId`: allow and deny lists of sources |

use telemetryx_common::Event;
/// Why a validator refused an event: becomes one entry of the answer's `errors`, and a dead letter. A validator leaves
/// its index at 0; the caller knows which event it was.
pub use telemetryx_common::EventError as EventValidationError;

use crate::config::PluginConfig;
use crate::plugin::{self, PluginError};

mod allow_deny;
mod event_type;
mod json_schema;
mod payload_size;
mod required_fields;
mod schema_version;
mod source_id;

/// Says whether one event may enter.
pub trait EventValidator: Send + Sync {
    /// Accepts the event or says why not.
    ///
    /// # Errors
    /// [`EventValidationError`]: this event is refused, the others of its request are not.
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError>;
}

/// Registers a validator: `inventory::submit! { ValidationPluginFactory { name: "SourceId", constructor } }`.
pub struct ValidationPluginFactory {
    /// The name used in the config.
    pub name: &'static str,
    /// Makes one from the settings beside the name.
    pub constructor: fn(toml::Value) -> Result<Box<dyn EventValidator>, PluginError>,
}

inventory::collect!(ValidationPluginFactory);

/// Makes the validator that `config` names.
///
/// # Errors
/// [`PluginError`] if none has that name, or it refuses its settings.
pub fn build(config: &PluginConfig) -> Result<Box<dyn EventValidator>, PluginError> {
    let factories = inventory::iter::<ValidationPluginFactory>.into_iter();
    let factory = plugin::find("validator", &config.name, factories, |factory| factory.name)?;
    (factory.constructor)(config.parameters())
}

#[cfg(test)]
mod tests {
    use super::{EventValidator, build};
    use crate::config::PluginConfig;

    fn config(name: &str, settings: &str) -> PluginConfig {
        PluginConfig {
            name: name.to_owned(),
            rest: toml::from_str(settings).unwrap(),
        }
    }

    pub(super) fn validator(name: &str, settings: &str) -> Box<dyn EventValidator> {
        build(&config(name, settings)).unwrap()
    }

    /// The plug-in refuses these settings, and says `why`.
    pub(super) fn refuses(name: &str, settings: &str, why: &str) {
        let Err(error) = build(&config(name, settings)) else {
            panic!("{name} takes {settings}")
        };
        assert!(error.to_string().contains(why), "{settings}: {error}");
    }
}
