//! Is what was said something that may be said? Finds every mistake in one walk over both trees.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    error::ConfigError,
    later,
    shape::{Form, SETTINGS, Section, Shape},
    tree::{Content, Entry, Node, Place},
};

/// Where each key was set: the file with its line, or the environment variable.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins {
    file: Option<String>,
    keys: BTreeMap<String, Place>,
}

impl Origins {
    pub(super) fn of_file(file: Option<String>) -> Self {
        Self {
            file,
            keys: BTreeMap::new(),
        }
    }

    /// Where `key` was set, or what it belongs to; `None` if all of that is built in. A remark behind the key, as in
    /// `validation.plugins[0] (SourceId)`, does not count.
    pub(super) fn of(&self, key: &str) -> Option<String> {
        let mut key = key.split_once(" (").map_or(key, |(key, _)| key);
        loop {
            if let Some(place) = self.keys.get(key) {
                return self.name(place);
            }
            let end = key.rfind(['.', '['])?;
            key = key.get(..end)?;
        }
    }

    /// The same mistake with its origin filled in, if it has none yet.
    pub(super) fn locate(&self, error: ConfigError) -> ConfigError {
        ConfigError {
            origin: error.origin.or_else(|| self.of(&error.key)),
            ..error
        }
    }

    fn name(&self, place: &Place) -> Option<String> {
        match (place, &self.file) {
            (Place::Line(line), Some(file)) => Some(format!("{file}:{line}")),
            (Place::Variable(name), _) => Some(name.to_string()),
            (Place::BuiltIn, _) | (Place::Line(_), None) => None,
        }
    }

    fn note(&mut self, path: &str, place: &Place) {
        self.keys.insert(path.to_owned(), place.clone());
    }
}

/// What the walk found.
#[derive(Debug)]
pub(super) struct Checked {
    /// What was said, without what was wrong.
    pub(super) value: Value,
    pub(super) errors: Vec<ConfigError>,
    pub(super) origins: Origins,
    /// Lists that are shorter in `value` than they were said.
    pub(super) damaged: BTreeSet<String>,
}

/// Checks what was said against every setting.
pub(super) fn check(said: &Node, origins: Origins) -> Checked {
    let mut walk = Walk {
        errors: Vec::new(),
        origins,
        damaged: BTreeSet::new(),
    };
    let value = walk.value(said, &SETTINGS, "");
    Checked {
        value: value.unwrap_or_else(|| Value::Object(Map::new())),
        errors: walk.errors,
        origins: walk.origins,
        damaged: walk.damaged,
    }
}

struct Walk {
    errors: Vec<ConfigError>,
    origins: Origins,
    damaged: BTreeSet<String>,
}

impl Walk {
    fn wrong(&mut self, place: &Place, path: &str, message: String, hint: Option<String>) {
        let origin = self.origins.name(place);
        let error = ConfigError {
            origin,
            key: path.to_owned(),
            message,
            hint,
        };
        // One variable may set many keys (`BATCH_MAX_SIZE` sets every route's): its mistake is one.
        let same =
            |other: &ConfigError| other.origin == error.origin && other.message == error.message;
        if !(matches!(place, Place::Variable(_)) && self.errors.iter().any(same)) {
            self.errors.push(error);
        }
    }

    /// The value as it may be built from, or `None` if it is wrong; then that was noted.
    fn value(&mut self, said: &Node, shape: &Shape, path: &str) -> Option<Value> {
        self.origins.note(path, &said.place);
        match (shape, &said.content) {
            (Shape::Any, _) => self.anything(said, path),
            (Shape::Section(section), Content::Table(entries)) => {
                self.section(said, entries, section, path)
            }
            (Shape::Map(values), Content::Table(entries)) => self.map(entries, values, path),
            (Shape::List(items), Content::List(said)) => Some(self.list(said, items, path)),
            (Shape::Texts, Content::List(said)) => {
                let text = Shape::Text {
                    shortest: 1,
                    longest: u64::MAX,
                };
                Some(self.list(said, &text, path))
            }
            (Shape::Texts, Content::Text(text)) => {
                let texts = text.split(',').map(|text| text.trim().into());
                Some(Value::Array(texts.collect()))
            }
            (Shape::Choice(choices), Content::Text(text))
                if choices.iter().any(|choice| choice.word == *text) =>
            {
                Some(Value::String(text.clone()))
            }
            (Shape::Choice(_), Content::Text(text)) if later::word(path, text) => self.not_yet(
                said,
                path,
                &format!("`{text}` is not in this version"),
                shape,
            ),
            (Shape::Bool, Content::Bool(value)) => Some(Value::Bool(*value)),
            (Shape::Text { shortest, longest }, Content::Text(text))
                if (*shortest..=*longest).contains(&(text.len() as u64)) =>
            {
                Some(Value::String(text.clone()))
            }
            (Shape::Whole { min, max }, Content::Number(number))
                if number
                    .as_u64()
                    .is_some_and(|number| (*min..=*max).contains(&number)) =>
            {
                Some(Value::Number(number.clone()))
            }
            (Shape::Number { min, max }, Content::Number(number))
                if number
                    .as_f64()
                    .is_some_and(|number| (*min..=*max).contains(&number)) =>
            {
                Some(Value::Number(number.clone()))
            }
            (Shape::Form { form, min, max }, _) => {
                self.form(said, *form, (min.as_deref(), max.as_deref()), shape, path)
            }
            _ => self.mismatch(said, shape, path),
        }
    }

    fn not_yet(&mut self, said: &Node, path: &str, message: &str, shape: &Shape) -> Option<Value> {
        self.wrong(
            &said.place,
            path,
            message.to_owned(),
            Some(format!("write {shape}")),
        );
        None
    }

    fn mismatch(&mut self, said: &Node, shape: &Shape, path: &str) -> Option<Value> {
        let quotes = match (shape, &said.content) {
            (Shape::Text { .. }, Content::Number(_) | Content::Bool(_)) => " in quotes",
            _ => "",
        };
        self.wrong(
            &said.place,
            path,
            describe(said),
            Some(format!("write {shape}{quotes}")),
        );
        None
    }

    fn form(
        &mut self,
        said: &Node,
        form: Form,
        (min, max): (Option<&str>, Option<&str>),
        shape: &Shape,
        path: &str,
    ) -> Option<Value> {
        let wrong = match &said.content {
            Content::Text(text) => {
                let bound = |bound: Option<&str>| bound.and_then(|bound| form.measure(bound).ok());
                match form.measure(text) {
                    Ok(value) if bound(min).is_some_and(|min| value < min) => {
                        format!("`{text}` is too small")
                    }
                    Ok(value) if bound(max).is_some_and(|max| value > max) => {
                        format!("`{text}` is too large")
                    }
                    Ok(_) => return Some(Value::String(text.clone())),
                    Err(reason) => reason,
                }
            }
            Content::Number(number) if form.takes_numbers() => {
                let whole = number.as_u64();
                let fits = match form {
                    Form::Attempts => {
                        whole.is_some_and(|number| (1..=u32::MAX.into()).contains(&number))
                    }
                    // As a text of bytes it is measured as any other size.
                    Form::Size => {
                        return match whole {
                            Some(bytes) => {
                                let text =
                                    Node::new(Content::Text(bytes.to_string()), said.place.clone());
                                self.form(&text, form, (min, max), shape, path)
                            }
                            None => self.mismatch(said, shape, path),
                        };
                    }
                    _ => whole.is_some(),
                };
                if fits {
                    return Some(Value::Number(number.clone()));
                }
                describe(said)
            }
            Content::Number(number) if form == Form::Time => {
                format!("the number {number} has no unit")
            }
            Content::Number(_) | Content::Bool(_) if form.is_secret() => {
                "is a number or true or false, not a text: put it in quotes".to_owned()
            }
            _ => describe(said),
        };
        self.wrong(&said.place, path, wrong, Some(format!("write {shape}")));
        None
    }

    fn section(
        &mut self,
        said: &Node,
        entries: &[Entry],
        section: &Section,
        path: &str,
    ) -> Option<Value> {
        let mut table = Map::new();
        for entry in entries {
            let path = join(path, &entry.key);
            let value = match section.key(&entry.key) {
                Some(key) => self.value(&entry.value, &key.shape, &path),
                None if section.open => self.anything(&entry.value, &path),
                None => self.unknown(entry, section, &path),
            };
            self.origins.note(&path, &entry.place);
            if let Some(value) = value {
                table.insert(entry.key.clone(), value);
            }
        }
        let mut whole = true;
        for key in section.keys.iter().filter(|key| key.required) {
            if !entries.iter().any(|entry| entry.key == key.name) {
                let title = key
                    .doc
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches('.');
                let title = match title {
                    "" => String::new(),
                    title => format!(": {title}"),
                };
                let hint = format!("write {}{title}", key.shape);
                self.wrong(
                    &said.place,
                    &join(path, &key.name),
                    "is missing".to_owned(),
                    Some(hint),
                );
            }
            whole &= table.contains_key(&key.name);
        }
        whole.then_some(Value::Object(table))
    }

    fn unknown(&mut self, entry: &Entry, section: &Section, path: &str) -> Option<Value> {
        if later::key(path) {
            if !entry.value.says_nothing() {
                let hint = "leave it out".to_owned();
                self.wrong(
                    &entry.place,
                    path,
                    "is not in this version".to_owned(),
                    Some(hint),
                );
            }
            return None;
        }
        self.wrong(
            &entry.place,
            path,
            "is not a known key".to_owned(),
            Some(nearest(&entry.key, section)),
        );
        None
    }

    fn map(&mut self, entries: &[Entry], values: &Shape, path: &str) -> Option<Value> {
        let mut table = Map::new();
        for entry in entries {
            if let Some(value) = self.value(&entry.value, values, &join(path, &entry.key)) {
                table.insert(entry.key.clone(), value);
            }
        }
        Some(Value::Object(table))
    }

    fn list(&mut self, said: &[Node], items: &Shape, path: &str) -> Value {
        let good = said
            .iter()
            .enumerate()
            .filter_map(|(index, item)| self.value(item, items, &format!("{path}[{index}]")))
            .collect::<Vec<_>>();
        if good.len() < said.len() {
            self.damaged.insert(path.to_owned());
        }
        Value::Array(good)
    }

    /// A value that somebody else checks: only what no plug-in could be given is wrong here.
    fn anything(&mut self, said: &Node, path: &str) -> Option<Value> {
        self.origins.note(path, &said.place);
        match &said.content {
            Content::Table(entries) => {
                let mut table = Map::new();
                for entry in entries {
                    let path = join(path, &entry.key);
                    let value = self.anything(&entry.value, &path)?;
                    self.origins.note(&path, &entry.place);
                    table.insert(entry.key.clone(), value);
                }
                Some(Value::Object(table))
            }
            Content::List(items) => {
                let item = |(index, item)| self.anything(item, &format!("{path}[{index}]"));
                items
                    .iter()
                    .enumerate()
                    .map(item)
                    .collect::<Option<Vec<_>>>()
                    .map(Value::Array)
            }
            Content::Null => {
                self.wrong(
                    &said.place,
                    path,
                    "is empty".to_owned(),
                    Some("write a value".to_owned()),
                );
                None
            }
            Content::Number(number) if number.is_u64() && number.as_i64().is_none() => {
                let hint = "write it in quotes".to_owned();
                self.wrong(
                    &said.place,
                    path,
                    format!("the number {number} is above 2^63"),
                    Some(hint),
                );
                None
            }
            _ => Some(said.to_json()),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// What a value is, in a few words.
fn describe(said: &Node) -> String {
    match &said.content {
        Content::Null => "is empty".to_owned(),
        Content::Bool(value) => format!("is {value}"),
        Content::Number(number) => format!("is the number {number}"),
        Content::Text(text) if text.is_empty() => "is an empty text".to_owned(),
        Content::Text(text) if text.chars().count() > 60 => {
            format!(
                "is the text {:?}…",
                text.chars().take(60).collect::<String>()
            )
        }
        Content::Text(text) => format!("is the text {text:?}"),
        Content::List(_) => "is a list".to_owned(),
        Content::Table(_) => "is a table of keys and values".to_owned(),
    }
}

/// The known key that was most likely meant, or all that are known here.
fn nearest(key: &str, section: &Section) -> String {
    let near = |known: &&str| {
        let distance = strsim::damerau_levenshtein(&key.to_lowercase(), known);
        (distance <= 1.max(known.len().max(key.len()) / 3))
            .then_some((distance, (*known).to_owned()))
    };
    let names = section
        .keys
        .iter()
        .map(|key| key.name.as_str())
        .collect::<Vec<_>>();
    if let Some((_, name)) = names.iter().filter_map(near).min() {
        return format!("did you mean `{name}`?");
    }
    let mut elsewhere = Vec::new();
    paths_to(key, &SETTINGS, "", &mut elsewhere);
    match elsewhere.as_slice() {
        [] => format!("known here: {}", names.join(", ")),
        paths => format!("did you mean `{}`?", paths.join("` or `")),
    }
}

/// Every path that ends in `key`.
fn paths_to(key: &str, shape: &Shape, path: &str, found: &mut Vec<String>) {
    match shape {
        Shape::Section(section) => {
            for known in &section.keys {
                let path = join(path, &known.name);
                paths_to(key, &known.shape, &path, found);
                if known.name == key {
                    found.push(path);
                }
            }
        }
        Shape::List(items) => paths_to(key, items, &format!("{path}[]"), found),
        Shape::Map(values) => paths_to(key, values, &join(path, "<name>"), found),
        _ => {}
    }
}
