//! `SchemaMigration`: lifts payloads of old schema versions, version by version. The journal keeps what was sent; each
//! route sees the newest form.
//!
//! A step edits the text of the payload: what no step names stays byte for byte as it was sent, in its order.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use telemetryx_common::{Event, json};

use super::json_object::{self, Member};
use super::{EventProcessor, ProcessingError, ProcessingPluginFactory};
use crate::plugin::{PluginError, settings};
use crate::route::EventBatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    types: BTreeMap<String, BTreeMap<String, StepSettings>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct StepSettings {
    drop: Vec<String>,
    rename: BTreeMap<String, String>,
    default: toml::Table,
}

struct SchemaMigration {
    types: HashMap<String, Steps>,
}

/// The steps of one type; the first makes version `first + 1` of version `first`.
struct Steps {
    first: u32,
    edits: Vec<Edit>,
}

/// What is done to one object. Names are those that it has before the step; so two members can swap theirs.
#[derive(Default)]
struct Edit {
    drop: Vec<String>,
    rename: Vec<(String, String)>,
    /// Names with JSON text.
    default: Vec<(String, String)>,
    within: Vec<(String, Edit)>,
}

/// Why an event cannot be lifted.
struct Fault {
    code: &'static str,
    message: String,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventProcessor>, PluginError> {
    let Settings { types } = settings(parameters)?;
    if types.is_empty() {
        return Err(PluginError::Settings(
            "`types` is empty, so nothing would be migrated".into(),
        ));
    }
    let types = types
        .into_iter()
        .map(|(name, steps)| {
            let steps = Steps::build(steps)
                .map_err(|why| PluginError::Settings(format!("`types.{name}`{why}")))?;
            Ok((name, steps))
        })
        .collect::<Result<_, PluginError>>()?;
    Ok(Box::new(SchemaMigration { types }))
}

inventory::submit! {
    ProcessingPluginFactory { name: "SchemaMigration", constructor: construct }
}

impl Steps {
    fn build(settings: BTreeMap<String, StepSettings>) -> Result<Self, String> {
        let mut steps = BTreeMap::new();
        for (version, step) in settings {
            let number = version
                .parse::<u32>()
                .ok()
                .filter(|number| (1..u32::MAX).contains(number) && number.to_string() == version)
                .ok_or_else(|| {
                    format!(".{version}: a step is named by the version it lifts, such as 1")
                })?;
            let edit = Edit::build(step).map_err(|why| format!(".{version}: {why}"))?;
            steps.insert(number, edit);
        }
        let (Some((&first, _)), Some((&last, _))) =
            (steps.first_key_value(), steps.last_key_value())
        else {
            return Err(" has no steps".into());
        };
        if let Some(missing) = (first..last).find(|version| !steps.contains_key(version)) {
            return Err(format!(
                " has no step from version {missing}: add it (it may be empty, `{{}}`)"
            ));
        }
        Ok(Self {
            first,
            edits: steps.into_values().collect(),
        })
    }

    /// Lifts the payload as far as there are steps; the version behind the last one comes with it.
    fn lift(&self, event: &Event<'_>) -> Result<Option<(String, u32)>, Fault> {
        let Some(done) = event.schema_version.checked_sub(self.first) else {
            return Err(Fault {
                code: "no_migration",
                message: format!(
                    "type `{}` version {}: the first step is from version {}",
                    event.event_type, event.schema_version, self.first
                ),
            });
        };
        let edits = self.edits.get(done as usize..).unwrap_or_default();
        if edits.is_empty() {
            return Ok(None);
        }
        if json_object::members(&event.payload).is_none() {
            return Err(Fault {
                code: "not_an_object",
                message: format!(
                    "type `{}` version {}: the payload is no JSON object, so it has no fields to migrate",
                    event.event_type, event.schema_version
                ),
            });
        }
        let mut payload = Cow::Borrowed(event.payload.as_ref());
        let mut version = event.schema_version;
        for edit in edits {
            let edited = edit.apply(&payload).map_err(|taken| Fault {
                code: "field_exists",
                message: format!(
                    "type `{}` version {version}: a field cannot be renamed to `{taken}`, there is one of that name",
                    event.event_type
                ),
            })?;
            if let Some(edited) = edited {
                payload = Cow::Owned(edited);
            }
            version += 1;
        }
        Ok(Some((payload.into_owned(), version)))
    }
}

impl Edit {
    fn build(settings: StepSettings) -> Result<Self, String> {
        let mut edit = Self::default();
        for field in &settings.drop {
            let (object, name) = edit.parent(field)?;
            object.drop.push(name);
        }
        for (field, target) in &settings.rename {
            let (parent, new) = match json_object::path(target)? {
                mut path if target.starts_with('/') => {
                    let name = path.pop().unwrap_or_default();
                    (Some(path), name)
                }
                _ => (None, target.clone()),
            };
            let mut own = json_object::path(field)?;
            own.pop();
            if parent.is_some_and(|parent| parent != own) {
                return Err(format!(
                    "`{field}` cannot be renamed to `{target}`: a field stays in its object"
                ));
            }
            let (object, name) = edit.parent(field)?;
            if object.drop.contains(&name) {
                return Err(format!("`{field}` is in `drop` and in `rename`"));
            }
            if object.rename.iter().any(|(_, taken)| *taken == new) {
                return Err(format!("two fields are renamed to `{target}`"));
            }
            object.rename.push((name, new));
        }
        for (field, value) in settings.default {
            let (object, name) = edit.parent(&field)?;
            object.default.push((name, to_json(value).to_string()));
        }
        Ok(edit)
    }

    /// The edit of the object that holds `field`, and the field's name in it.
    fn parent(&mut self, field: &str) -> Result<(&mut Self, String), String> {
        let mut path = json_object::path(field)?;
        let name = path.pop().unwrap_or_default();
        let mut edit = self;
        for step in path {
            let place = match edit.within.iter().position(|(have, _)| *have == step) {
                Some(place) => place,
                None => {
                    edit.within.push((step, Self::default()));
                    edit.within.len() - 1
                }
            };
            edit = &mut edit.within[place].1;
        }
        Ok((edit, name))
    }

    /// The object's text after the step, `None` if it is the same; or the name that a rename found taken. What is not
    /// an object stays as it is.
    fn apply(&self, text: &str) -> Result<Option<String>, String> {
        let Some(members) = json_object::members(text) else {
            return Ok(None);
        };
        let mut kept = Vec::with_capacity(members.len() + self.default.len());
        for member in &members {
            if !self.drop.iter().any(|name| member.is_named(name)) {
                kept.push(self.edited(member)?);
            }
        }
        for renamed in kept.iter().filter_map(|edited| edited.renamed) {
            let named = kept.iter().filter(|edited| edited.is_named(renamed));
            if named.count() > 1 {
                return Err(renamed.to_owned());
            }
        }
        let missing: Vec<_> = self
            .default
            .iter()
            .filter(|(name, _)| !kept.iter().any(|edited| edited.is_named(name)))
            .collect();
        let same = kept.len() == members.len() && missing.is_empty();
        if same && kept.iter().all(Edited::is_same) {
            return Ok(None);
        }
        Ok(Some(write(&kept, &missing)))
    }

    fn edited<'e>(&'e self, member: &'e Member<'e>) -> Result<Edited<'e>, String> {
        let renamed = self.rename.iter().find(|(name, _)| member.is_named(name));
        let within = self.within.iter().find(|(name, _)| member.is_named(name));
        Ok(Edited {
            member,
            renamed: renamed.map(|(_, new)| new.as_str()),
            value: match within {
                Some((_, edit)) => edit.apply(member.value)?,
                None => None,
            },
        })
    }
}

/// A member that stays, with what is new of it.
struct Edited<'e> {
    member: &'e Member<'e>,
    renamed: Option<&'e str>,
    value: Option<String>,
}

impl Edited<'_> {
    fn is_named(&self, name: &str) -> bool {
        match self.renamed {
            Some(new) => new == name,
            None => self.member.is_named(name),
        }
    }

    fn is_same(&self) -> bool {
        self.renamed.is_none() && self.value.is_none()
    }
}

fn write(kept: &[Edited<'_>], added: &[&(String, String)]) -> String {
    let mut out = String::from("{");
    let mut end = "";
    for (place, edited) in kept.iter().enumerate() {
        let member = edited.member;
        if place > 0 {
            out.push_str(end);
            out.push(',');
        }
        out.push_str(member.before);
        match edited.renamed {
            Some(name) => out.push_str(&quoted(name)),
            None => out.push_str(member.name),
        }
        out.push_str(member.colon);
        out.push_str(edited.value.as_deref().unwrap_or(member.value));
        end = member.after;
    }
    for (place, (name, value)) in added.iter().enumerate() {
        if place > 0 || !kept.is_empty() {
            out.push(',');
        }
        out.push_str(&quoted(name));
        out.push(':');
        out.push_str(value);
    }
    out.push_str(end);
    out.push('}');
    out
}

fn quoted(name: &str) -> String {
    let mut out = Vec::with_capacity(name.len() + 2);
    json::write_str(name, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// A setting as JSON; a date and time as text.
fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(is) => is.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => {
            let members = table
                .into_iter()
                .map(|(name, value)| (name, to_json(value)));
            Value::Object(members.collect())
        }
    }
}

#[async_trait]
impl EventProcessor for SchemaMigration {
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError> {
        // Lifting twice changes nothing: after an error, the events before it may stay as they are.
        for (index, event) in batch.events_mut().iter_mut().enumerate() {
            let Some(steps) = self.types.get(event.event_type.as_str()) else {
                continue;
            };
            match steps.lift(event) {
                Ok(None) => {}
                Ok(Some((payload, version))) => {
                    event.payload = Cow::Owned(payload);
                    event.schema_version = version;
                }
                Err(Fault { code, message }) => {
                    return Err(ProcessingError::Event {
                        index,
                        code,
                        message,
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
