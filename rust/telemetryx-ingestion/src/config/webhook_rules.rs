//! What must hold of a webhook once its preset is filled in and its keys are read.

use std::path::Path;

use ::http::HeaderName;
use telemetryx_common::{Pointer, Pointers};

use super::error::ConfigError;
use super::rules::{read_small, wrong};
use super::values::{Duration, Secret};
use super::webhooks::{SignatureSeparator, WebhookConfig, WebhookPart};
use super::{Config, WebhookPreset};

/// A shorter key is a slip: an empty variable, a placeholder. Senders choose keys, so no more is asked of them.
const KEY_BYTES_MIN: usize = 8;
/// Each key costs a hash of the body.
const KEYS_MAX: usize = 16;
const ATTRIBUTES_MAX: usize = 32;
const TOLERANCE: Duration = Duration::secs(300);
/// How a name is written: it is a step of a path, and a label.
const NAME_FORM: &str = "name it with 1 to 64 of a-z 0-9 _ -";

/// Fills in presets, reads keys, and says what is wrong.
pub(super) fn settle(config: &mut Config, errors: &mut Vec<ConfigError>) {
    for (name, webhook) in &mut config.webhooks {
        let mut found = Findings {
            path: format!("webhooks.{name}"),
            errors,
        };
        if !is_name(name) {
            let message = "is not a name that a path can have".to_owned();
            wrong(found.errors, &found.path, message, NAME_FORM);
        }
        if let Some(preset) = webhook.preset.or_else(|| WebhookPreset::called(name)) {
            webhook.adopt(preset);
        }
        found.keys(webhook);
        found.headers(webhook);
        found.signed(webhook);
        found.places(webhook);
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

struct Findings<'e> {
    path: String,
    errors: &'e mut Vec<ConfigError>,
}

impl Findings<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>, hint: &str) {
        wrong(
            self.errors,
            format!("{}.{key}", self.path),
            message.into(),
            hint,
        );
    }

    fn keys(&mut self, webhook: &mut WebhookConfig) {
        for (index, key) in webhook.keys.iter().enumerate() {
            self.key(webhook, &format!("keys[{index}]"), key);
        }
        if let Some(file) = &webhook.keys_file {
            match read_keys(file) {
                Ok(keys) => {
                    for (index, key) in keys.iter().enumerate() {
                        self.key(webhook, &format!("keys_file (key {})", index + 1), key);
                    }
                    // What is read again, from a config that was built, is there already.
                    for key in keys {
                        if !webhook.keys.contains(&key) {
                            webhook.keys.push(key);
                        }
                    }
                }
                Err(message) => {
                    return self.add("keys_file", message, "name a file with one key a line");
                }
            }
        }
        if webhook.keys.len() > KEYS_MAX {
            let message = format!("there are {} keys", webhook.keys.len());
            self.add(
                "keys",
                message,
                "keep the one or two that are in use, at most 16",
            );
        }
    }

    fn key(&mut self, webhook: &WebhookConfig, place: &str, key: &Secret) {
        match webhook.key_bytes(key) {
            Err(error) => self.add(
                place,
                error.to_string(),
                "see key_encoding: text, hex or base64",
            ),
            Ok(bytes) if bytes.len() < KEY_BYTES_MIN => {
                let message = format!("the key has {} bytes", bytes.len());
                self.add(
                    place,
                    message,
                    "a key under 8 bytes protects nothing: take a longer one",
                );
            }
            Ok(_) => {}
        }
    }

    fn headers(&mut self, webhook: &WebhookConfig) {
        if webhook.header.is_none() {
            let hint = "name the header with the signature, or a preset: ring, github, stripe, slack, standard-webhooks";
            self.add("header", "is missing", hint);
        }
        let headers = [
            ("header", &webhook.header),
            ("timestamp_header", &webhook.timestamp_header),
            ("id_header", &webhook.id_header),
            ("type_header", &webhook.type_header),
        ];
        for (key, header) in headers {
            if let Some(name) = header
                && HeaderName::from_bytes(name.as_bytes()).is_err()
            {
                let message = format!("`{name}` is not the name of a header");
                self.add(key, message, "write a name such as X-Signature");
            }
        }
    }

    fn signed(&mut self, webhook: &mut WebhookConfig) {
        let signed = webhook.signed.as_deref().unwrap_or("{body}");
        let count = |part: &str| signed.matches(part).count();
        if count("{body}") != 1 {
            let message = "`{body}` is not in it once".to_owned();
            self.add(
                "signed",
                message,
                "write what the sender signs, such as {timestamp}.{body}",
            );
        }
        let rest = ["{body}", "{timestamp}", "{id}"]
            .iter()
            .fold(signed.to_owned(), |rest, part| rest.replace(part, ""));
        if rest.contains(['{', '}']) {
            let hint = "the parts are {body}, {timestamp} and {id}";
            self.add("signed", "it has a part that is not known", hint);
        }
        let has_time = webhook.timestamp_header.is_some() || webhook.timestamp_prefix.is_some();
        let signs_time = count("{timestamp}") > 0;
        if signs_time && !has_time {
            let hint = "say where it is: timestamp_header or timestamp_prefix";
            self.add("signed", "`{timestamp}` is nowhere", hint);
        }
        if count("{id}") > 0 && webhook.id_header.is_none() {
            self.add("signed", "`{id}` is nowhere", "say where it is: id_header");
        }
        if webhook.timestamp_header.is_some() && webhook.timestamp_prefix.is_some() {
            self.add(
                "timestamp_prefix",
                "timestamp_header is set as well",
                "leave one of the two out",
            );
        }
        let separator = webhook.separator.unwrap_or(SignatureSeparator::None);
        if webhook.timestamp_prefix.is_some() && separator == SignatureSeparator::None {
            let hint = "say what separates the parts of the header: comma or space";
            self.add(
                "separator",
                "is none, but timestamp_prefix needs parts",
                hint,
            );
        }
        if has_time && !signs_time {
            let key = match webhook.timestamp_header {
                Some(_) => "timestamp_header",
                None => "timestamp_prefix",
            };
            let hint = "put {timestamp} into `signed`, or leave this out";
            self.add(key, "a time that is not signed proves nothing", hint);
        }
        if webhook.tolerance.is_some() && !has_time {
            self.add("tolerance", "no time is signed", "leave it out");
        }
        if signs_time {
            webhook.tolerance.get_or_insert(TOLERANCE);
        }
    }

    fn places(&mut self, webhook: &WebhookConfig) {
        let lists = [
            ("id", &webhook.id),
            ("time", &webhook.time),
            ("type", &webhook.event_type),
            ("source", &webhook.source),
        ];
        for (key, list) in lists {
            let list = list.as_deref().unwrap_or_default();
            if list.len() > 8 {
                self.add(
                    key,
                    format!("there are {} places", list.len()),
                    "name at most 8",
                );
            }
            for (index, pointer) in list.iter().enumerate() {
                self.pointer(&format!("{key}[{index}]"), pointer);
            }
        }
        let attributes = webhook.attributes.iter().flatten();
        for (name, pointer) in attributes {
            self.pointer(&format!("attributes.{name}"), pointer);
        }
        let count = webhook.attributes.as_ref().map_or(0, |all| all.len());
        if count > ATTRIBUTES_MAX {
            self.add(
                "attributes",
                format!("there are {count}"),
                "name at most 32",
            );
        }
        const { assert!(4 * 8 + ATTRIBUTES_MAX <= Pointers::MAX) };

        let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        for part in webhook.required.iter().flatten() {
            let (nowhere, hint) = match part {
                WebhookPart::Id => (
                    is_empty(&webhook.id) && webhook.id_header.is_none(),
                    "say where it is: id or id_header",
                ),
                WebhookPart::Type => (
                    is_empty(&webhook.event_type) && webhook.type_header.is_none(),
                    "say where it is: type or type_header",
                ),
                WebhookPart::Time => (is_empty(&webhook.time), "say where it is: time"),
                WebhookPart::Source => (is_empty(&webhook.source), "say where it is: source"),
            };
            if nowhere {
                self.add(
                    "required",
                    "something that is nowhere cannot be required",
                    hint,
                );
            }
        }
    }

    fn pointer(&mut self, key: &str, pointer: &str) {
        if let Err(error) = pointer.parse::<Pointer>() {
            let message = format!("`{pointer}` is not a JSON pointer: {error}");
            self.add(key, message, "write a place such as /data/id");
        }
    }
}

/// The keys of a file, one a line.
fn read_keys(file: &Path) -> Result<Vec<Secret>, String> {
    let text = read_small(file)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Vec<Secret> = lines
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("`{}` holds what is no key: {error}", file.display()))?;
    if keys.is_empty() {
        return Err(format!("`{}` holds no key", file.display()));
    }
    Ok(keys)
}
