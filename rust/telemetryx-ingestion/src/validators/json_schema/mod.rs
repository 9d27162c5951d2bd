//! `JsonSchema`: payloads against one schema for each type and version, from a folder of files.
//!
//! | file | what |
//! | --- | --- |
//! | `folder.rs` | reads the folder: which file is whose schema, and what a `$ref` may reach |
//! | `compatible.rs` | whether what was valid under a version stays valid under the next |
//!
//! Everything is compiled at start. What a hostile payload can cost is bounded: its depth by the decoder, the number of its
//! values by `max_values` (counted before it is parsed, because errors of a large array take far more memory than its
//! bytes), and patterns run in time linear in the text. Nothing is ever fetched.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use jsonschema::{PatternOptions, Validator};
use serde::Deserialize;
use telemetryx_common::{ErrorCode, Event};

use self::folder::Folder;
use super::{EventValidationError, EventValidator, ValidationPluginFactory};
use crate::plugin::{PluginError, settings};

mod compatible;
mod folder;

/// Memory that one compiled pattern may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Longest part of an error that comes from the payload or the schema, in bytes.
const TOLD_BYTES_MAX: usize = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    folder: PathBuf,
    #[serde(default = "accept")]
    unknown: Unknown,
    /// By type: versions that may refuse what the version before took.
    #[serde(default)]
    breaks: BTreeMap<String, Vec<u32>>,
    #[serde(default = "max_values")]
    max_values: usize,
}

/// What becomes of an event that no schema is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unknown {
    Accept,
    Refuse,
}

const fn accept() -> Unknown {
    Unknown::Accept
}

const fn max_values() -> usize {
    20_000
}

struct JsonSchema {
    /// By type, then by version.
    schemas: HashMap<String, Vec<(u32, Validator)>>,
    unknown: Unknown,
    max_values: usize,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventValidator>, PluginError> {
    let settings: Settings = settings(parameters)?;
    if settings.max_values == 0 {
        return Err(PluginError::Settings(
            "`max_values` is 0, so every payload would be refused".into(),
        ));
    }
    let folder = Folder::read(&settings.folder)?;
    let mut mistakes = Vec::new();
    let mut schemas: HashMap<String, Vec<(u32, Validator)>> = HashMap::new();
    for schema in folder.schemas() {
        match compile(&folder, schema.file) {
            Ok(validator) => {
                let versions = schemas.entry(schema.event_type.to_owned()).or_default();
                versions.push((schema.version, validator));
            }
            Err(message) => mistakes.push(format!("{}: {message}", schema.file.path.display())),
        }
    }
    mistakes.extend(folder.unused());
    undeclared_breaks(&folder, &settings.breaks, &mut mistakes);
    if mistakes.is_empty() {
        Ok(Box::new(JsonSchema {
            schemas,
            unknown: settings.unknown,
            max_values: settings.max_values,
        }))
    } else {
        Err(PluginError::Several(mistakes))
    }
}

inventory::submit! {
    ValidationPluginFactory { name: "JsonSchema", constructor: construct }
}

fn compile(folder: &Folder, file: &folder::File) -> Result<Validator, String> {
    jsonschema::options()
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX))
        .with_base_uri(file.uri.clone())
        .with_retriever(folder.retriever())
        .build(&file.document)
        .map_err(|error| {
            let at = error.instance_path().as_str();
            let at = if at.is_empty() { "/" } else { at };
            format!("is not a schema, at {at}: {}", told(&error.to_string()))
        })
}

/// Every version of a type must take what the one before took, unless the settings say that it breaks.
fn undeclared_breaks(
    folder: &Folder,
    declared: &BTreeMap<String, Vec<u32>>,
    mistakes: &mut Vec<String>,
) {
    let schemas: Vec<_> = folder.schemas().collect();
    for (event_type, versions) in declared {
        for version in versions {
            let is_there = |schema: &folder::Schema<'_>| {
                schema.event_type == event_type && schema.version == *version
            };
            if !schemas.iter().any(is_there) {
                mistakes.push(format!(
                    "`breaks` names version {version} of `{event_type}`, for which there is no schema"
                ));
            }
        }
    }
    for pair in schemas.windows(2) {
        let [old, new] = pair else { continue };
        let breaks = declared.get(new.event_type);
        let is_declared = breaks.is_some_and(|versions| versions.contains(&new.version));
        if old.event_type != new.event_type || is_declared {
            continue;
        }
        for found in compatible::breaks(folder, old.file, new.file) {
            mistakes.push(format!(
                "{}: at {}: {}, so payloads that are valid under version {} may be refused under version {}; \
                 if that is meant, name version {} of {:?} in the setting `breaks`",
                new.file.path.display(),
                found.pointer,
                found.what,
                old.version,
                new.version,
                new.version,
                new.event_type
            ));
        }
    }
}

impl EventValidator for JsonSchema {
    fn validate(&self, event: &Event<'_>) -> Result<(), EventValidationError> {
        let versions = self.schemas.get(event.event_type.as_str());
        let schema = versions.and_then(|versions| {
            let mut versions = versions.iter();
            versions.find(|(version, _)| *version == event.schema_version)
        });
        let Some((_, schema)) = schema else {
            return match self.unknown {
                Unknown::Accept => Ok(()),
                Unknown::Refuse => Err(no_schema(event, versions.is_some())),
            };
        };
        // Each value but the first takes two bytes, so that a short payload need not be counted.
        let payload = event.payload.as_bytes();
        if payload.len() / 2 >= self.max_values && values(payload) > self.max_values {
            return Err(EventValidationError::new(
                "payload",
                ErrorCode::PayloadTooLarge,
                format!(
                    "the payload has more than {} values, the most that are checked against a schema",
                    self.max_values
                ),
            ));
        }
        let payload = serde_json::from_str(&event.payload).map_err(|error| {
            EventValidationError::new("payload", ErrorCode::InvalidJson, error.to_string())
        })?;
        if schema.is_valid(&payload) {
            return Ok(());
        }
        match schema.validate(&payload) {
            Ok(()) => Ok(()),
            Err(error) => Err(violation(&error)),
        }
    }
}

#[cold]
fn violation(error: &jsonschema::ValidationError<'_>) -> EventValidationError {
    let field = format!("payload{}", error.instance_path().as_str());
    EventValidationError::new(
        told(&field),
        ErrorCode::SchemaViolation,
        format!(
            "`{}`: {} (rule {})",
            told(&field),
            told(&error.masked_with("it").to_string()),
            told(error.schema_path().as_str()),
        ),
    )
}

#[cold]
fn no_schema(event: &Event<'_>, is_type_known: bool) -> EventValidationError {
    if is_type_known {
        EventValidationError::new(
            "schema_version",
            ErrorCode::SchemaVersionNotAccepted,
            format!(
                "there is no schema of version {} for type `{}`",
                event.schema_version, event.event_type
            ),
        )
    } else {
        EventValidationError::new(
            "type",
            ErrorCode::NotAllowed,
            format!("there is no schema for type `{}`", event.event_type),
        )
    }
}

/// How many values a JSON text has, or a few more: one, and one more for each comma and each bracket that opens.
fn values(json: &[u8]) -> usize {
    let mut count = 1;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b'[' | b'{' => count += 1,
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    count
}

/// A text of others, no longer than it may be.
fn told(text: &str) -> String {
    if text.len() <= TOLD_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TOLD_BYTES_MAX);
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests;
