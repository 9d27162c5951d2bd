//! What is chosen by name: validators, processors, sinks. Their keys are their own: the registry that knows the name
//! builds it from them and says what is wrong with them. Adding one needs no change here.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::values::MASK;

/// A validator or processor: its name, and the keys that are its own.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginConfig {
    /// The name under which it is registered.
    pub name: String,
    /// The keys beside the name.
    #[serde(flatten, serialize_with = "masked")]
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

impl fmt::Debug for PluginConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginConfig")
            .field("name", &self.name)
            .field("rest", &mask(&self.rest))
            .finish()
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
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SinkConfig {
    /// The name under which the kind is registered.
    pub kind: String,
    /// The keys beside the kind.
    #[serde(flatten, serialize_with = "masked")]
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

impl fmt::Debug for SinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkConfig")
            .field("kind", &self.kind)
            .field("rest", &mask(&self.rest))
            .finish()
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

pub(super) fn masked<S: Serializer>(rest: &toml::Table, serializer: S) -> Result<S::Ok, S::Error> {
    mask(rest).serialize(serializer)
}

/// What may be shown of keys that are not ours: whatever sounds like a secret, and the password in a URL, is masked.
pub(super) fn mask(rest: &toml::Table) -> toml::Table {
    let masked = |(key, value): (&String, &toml::Value)| (key.clone(), mask_value(key, value));
    rest.iter().map(masked).collect()
}

fn mask_value(key: &str, value: &toml::Value) -> toml::Value {
    use toml::Value;
    match value {
        Value::String(_) if sounds_secret(key) => Value::String(MASK.to_owned()),
        Value::String(text) => Value::String(mask_password(text)),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| mask_value(key, item)).collect())
        }
        // What a header is for, its name need not say.
        Value::Table(table) if key == "headers" => {
            let names = table.keys().cloned();
            Value::Table(names.map(|name| (name, MASK.into())).collect())
        }
        Value::Table(table) => Value::Table(mask(table)),
        other => other.clone(),
    }
}

fn sounds_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let secret = [
        "password",
        "secret",
        "token",
        "authorization",
        "credential",
        "api_key",
        "api-key",
        "access_key",
        "account_key",
        "customer_key",
        "encryption_key",
        "master_key",
        "sas_key",
    ];
    !key.ends_with("_file") && (key == "key" || secret.iter().any(|word| key.contains(word)))
}

/// `postgres://user:password@host/db` as `postgres://user:***@host/db`.
fn mask_password(text: &str) -> String {
    let masked = text.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, host) = authority.rsplit_once('@')?;
        let (name, _) = user.split_once(':')?;
        Some(format!("{scheme}://{name}:{MASK}@{host}{path}"))
    });
    mask_from_secret(masked.unwrap_or_else(|| text.to_owned()))
}

/// `host=db password=secret` as `host=db password=***`, and the query of a URL likewise. Where a secret ends depends on who
/// reads it, so nothing behind it is shown.
fn mask_from_secret(mut text: String) -> String {
    let begins = text.match_indices('=').find(|(at, _)| {
        let before = text.get(..*at).unwrap_or_default().trim_end();
        let name = before.rsplit(|c: char| c.is_whitespace() || matches!(c, '?' | '&' | ';' | '#'));
        name.into_iter().next().is_some_and(sounds_secret)
    });
    if let Some((at, _)) = begins {
        text.truncate(at + 1);
        text.push_str(MASK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::SinkConfig;

    #[test]
    fn secrets_in_texts_of_pairs_are_masked_to_the_end() {
        for (text, shown) in [
            (
                "host=db user=me password=hunter2 dbname=x",
                "host=db user=me password=***",
            ),
            ("host=db PASSWORD = 'hunter 2'", "host=db PASSWORD =***"),
            (
                "https://a.example/hook?v=1&token=hunter2&x=1",
                "https://a.example/hook?v=1&token=***",
            ),
            (
                "postgres://u:hunter2@h/db?sslpassword=hunter2",
                "postgres://u:***@h/db?sslpassword=***",
            ),
            (
                "host=db user=me passfile=/run/pass",
                "host=db user=me passfile=/run/pass",
            ),
            ("file:///lake", "file:///lake"),
        ] {
            assert_eq!(super::mask_password(text), shown);
        }
    }

    #[test]
    fn what_sounds_like_a_secret_is_never_shown() {
        let sink: SinkConfig = toml::from_str(
            r#"
            kind = "s3"
            url = "postgres://me:hunter2@db:5432/events?x=1"
            token_file = "/run/token"
            partition_key = "source"
            options = { secret_access_key = "hunter2", account_key = "hunter2", sas_key = "hunter2", region = "eu" }
            hmac = { key = "hunter2" }
            headers = { x-tenant = "hunter2" }
            "#,
        )
        .unwrap();
        let shown = format!("{sink:?} {}", serde_json::to_string(&sink).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        for kept in [
            "postgres://me:***@db:5432/events?x=1",
            "/run/token",
            "source",
            "eu",
        ] {
            assert!(shown.contains(kept), "{kept} in {shown}");
        }
        assert_eq!(
            sink.parameters()["hmac"]["key"].as_str(),
            Some("hunter2"),
            "the constructor gets the secret itself"
        );
    }
}
