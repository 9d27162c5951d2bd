//! `validation`: which events may enter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use telemetryx_common::FieldSet;

use super::{plugins::PluginConfig, values::Duration};

/// Which events may enter. An event that may not is reported to its sender by index; the others of its batch enter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Fields that an event must bring, besides `ts`.
    ///
    /// An event without one of them is refused, in place of getting that field's default.
    ///
    /// Default: `[]`.
    pub required: Vec<RequiredField>,

    /// What becomes of an event that is refused.
    ///
    /// Default: `keep`.
    pub on_invalid: OnInvalid,

    /// How far ahead of this machine's clock an event's time may be.
    ///
    /// Default: `5m`. Bounds: `0s` to `3650d`.
    #[schemars(extend("x-min" = "0s", "x-max" = "3650d"))]
    pub max_future: Duration,

    /// Validators that every event passes, in this order.
    ///
    /// Each has a `name` and the keys of its own beside it. The first that refuses an event decides.
    ///
    /// Default: `[]`.
    pub plugins: Vec<PluginConfig>,
}

impl ValidationConfig {
    /// The fields that an event must bring, `ts` among them.
    pub fn required_fields(&self) -> FieldSet {
        let required = self.required.iter().copied().map(FieldSet::from);
        required.fold(FieldSet::TS, |all, field| all | field)
    }
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            required: Vec::new(),
            on_invalid: OnInvalid::Keep,
            max_future: Duration::minutes(5),
            plugins: Vec::new(),
        }
    }
}

/// A field of an event that can be made required; `ts` always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequiredField {
    /// The event's identity.
    Id,
    /// What kind of event it is.
    Type,
    /// Where it comes from.
    Source,
    /// The version of its payload's form.
    SchemaVersion,
    /// Texts about it.
    Attributes,
    /// What keeps events in order.
    PartitionKey,
    /// Its content.
    Payload,
}

impl RequiredField {
    /// The field's name, as in an event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Type => "type",
            Self::Source => "source",
            Self::SchemaVersion => "schema_version",
            Self::Attributes => "attributes",
            Self::PartitionKey => "partition_key",
            Self::Payload => "payload",
        }
    }
}

impl From<RequiredField> for FieldSet {
    fn from(field: RequiredField) -> Self {
        match field {
            RequiredField::Id => Self::ID,
            RequiredField::Type => Self::TYPE,
            RequiredField::Source => Self::SOURCE,
            RequiredField::SchemaVersion => Self::SCHEMA_VERSION,
            RequiredField::Attributes => Self::ATTRIBUTES,
            RequiredField::PartitionKey => Self::PARTITION_KEY,
            RequiredField::Payload => Self::PAYLOAD,
        }
    }
}

/// What becomes of an event that is refused. Its sender is told in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnInvalid {
    /// It is kept as a dead letter of stage `validation`, within `dead_letters.max_bytes`.
    Keep,
    /// It is counted and discarded. Only its sender still has it.
    Discard,
}
