//! What is chosen by name: validators, processors, sinks. Their keys are their own: the registry that knows the name
//! builds it from them and says what is wrong with them. Adding one needs no change here.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A validator or processor: its name, and the keys that are its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginConfig {
    /// The name under which it is registered.
    pub name: String,
    /// The keys beside the name.
    #[serde(flatten)]
    pub rest: toml::Table,
}

impl PluginConfig {
    /// A plug-in without keys of its own.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rest: toml::Table::new(),
        }
    }

    /// The keys beside the name, as its constructor takes them.
    pub fn parameters(&self) -> toml::Value {
        toml::Value::Table(self.rest.clone())
    }
}

impl JsonSchema for PluginConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PluginConfig".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "properties": { "name": { "type": "string", "minLength": 1 } },
            "required": ["name"],
            "additionalProperties": true,
        })
    }
}

/// A sink: its kind, and the keys that are its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SinkConfig {
    /// The name under which the kind is registered.
    pub kind: String,
    /// The keys beside the kind.
    #[serde(flatten)]
    pub rest: toml::Table,
}

impl SinkConfig {
    /// A sink without keys of its own.
    pub fn of_kind(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            rest: toml::Table::new(),
        }
    }

    /// The keys beside the kind, as its constructor takes them.
    pub fn parameters(&self) -> toml::Value {
        toml::Value::Table(self.rest.clone())
    }
}

impl JsonSchema for SinkConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SinkConfig".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "properties": { "kind": { "type": "string", "minLength": 1 } },
            "required": ["kind"],
            "additionalProperties": true,
        })
    }
}
