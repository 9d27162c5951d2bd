//! From files and variables to a [`Config`]: what was said, whether it may be said, what it means.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    Config,
    check::{self, Origins},
    env,
    error::{ConfigError, ConfigErrors},
    rules,
    tree::{self, Content, Node},
};

/// The largest file that is read; a config is some kilobytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The languages a config may be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `.yaml`, `.yml`
    Yaml,
    /// `.toml`
    Toml,
}

impl Language {
    /// What a file's name says it is.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Yaml => "YAML",
            Self::Toml => "TOML",
        }
    }
}

impl Config {
    /// Reads the config: built-in defaults, over them the file, over it the environment ([`super::environment`]).
    ///
    /// # Errors
    ///
    /// All mistakes at once. None of them can be helped by trying again: show them and end.
    pub fn load(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::load_with_plugins(path, env, |_| Vec::new())
    }

    /// As [`Config::load`], and has `plugins` say what is wrong with validators, processors and sinks, so that their
    /// mistakes come with all others. It sees what was right so far, even where something else was not.
    ///
    /// # Errors
    ///
    /// As for [`Config::load`].
    pub fn load_with_plugins(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        plugins: impl FnOnce(&Self) -> Vec<ConfigError>,
    ) -> Result<Self, ConfigErrors> {
        let file = path.map(|path| path.display().to_string());
        let text = match path.map(read).transpose() {
            Ok(text) => text,
            Err(error) => return Err(ConfigErrors(vec![error])),
        };
        Self::assemble(
            file,
            text.as_ref()
                .map(|(text, language)| (text.as_str(), *language)),
            env,
            plugins,
        )
    }

    /// Reads the config from a text, as [`Config::load`] does from a file and without any environment.
    ///
    /// # Errors
    ///
    /// As for [`Config::load`].
    pub fn from_text(text: &str, language: Language) -> Result<Self, ConfigErrors> {
        let text = Some((text, language));
        Self::assemble(None, text, std::iter::empty(), |_| Vec::new())
    }

    fn assemble(
        file: Option<String>,
        text: Option<(&str, Language)>,
        env: impl Iterator<Item = (String, String)>,
        plugins: impl FnOnce(&Self) -> Vec<ConfigError>,
    ) -> Result<Self, ConfigErrors> {
        let mut said = match text.map(|(text, language)| parse(text, language, file.as_deref())) {
            None => Node::empty(),
            Some(Ok(said)) => said,
            // What the variables say may be right together with what this file would have said.
            Some(Err(error)) => return Err(ConfigErrors(vec![error])),
        };
        let mut errors = Vec::new();
        said.drop_unset();
        env::adopt_batch_size(&mut said);
        env::apply(&mut said, env, &mut errors);
        said.drop_unset();
        env::adopt_staging_defaults(&mut said);
        build(&said, Origins::of_file(file), errors, plugins)
    }

    /// The config as YAML, every secret masked: for showing, not for running.
    pub fn to_masked_yaml(&self) -> String {
        serde_saphyr::to_string(self).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

fn build(
    said: &Node,
    origins: Origins,
    mut errors: Vec<ConfigError>,
    plugins: impl FnOnce(&Config) -> Vec<ConfigError>,
) -> Result<Config, ConfigErrors> {
    let mut checked = check::check(said, origins);
    errors.append(&mut checked.errors);
    if let Value::Object(table) = &mut checked.value {
        // Said or not, its defaults depend on the routes.
        table
            .entry("query")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_value::<Config>(checked.value) {
        Ok(mut config) => {
            let mut found = rules::settle(&mut config, &checked.damaged);
            // In a list that lost elements the index of a plug-in is not the one that was said.
            let told = |error: &ConfigError| {
                let mut lists = checked.damaged.iter();
                !lists.any(|list| error.key.starts_with(list.as_str()))
            };
            found.extend(plugins(&config).into_iter().filter(told));
            errors.extend(found.into_iter().map(|error| checked.origins.locate(error)));
            if errors.is_empty() {
                return Ok(config);
            }
        }
        // What passed the check can be built; if it cannot, a bound is missing from the schema.
        Err(error) => errors.push(ConfigError {
            origin: None,
            key: String::new(),
            message: error.to_string(),
            hint: None,
        }),
    }
    Err(ConfigErrors(errors))
}

/// Reads a file, and tells from its name what it is.
fn read(path: &Path) -> Result<(String, Language), ConfigError> {
    let wrong = |message: String, hint: &str| ConfigError {
        origin: Some(path.display().to_string()),
        key: String::new(),
        message,
        hint: Some(hint.to_owned()),
    };
    let cannot = |error: std::io::Error| {
        let message = format!("cannot be read: {}", rules::plain(&error));
        wrong(message, "give the path of a YAML or TOML file")
    };
    let Some(language) = Language::of(path) else {
        let message = "its name does not say what it is".to_owned();
        return Err(wrong(
            message,
            "name a file that ends in .yaml, .yml or .toml",
        ));
    };
    let length = fs::metadata(path).map_err(cannot)?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(
            format!("has {length} bytes"),
            "a config has at most 4MiB",
        ));
    }
    fs::read_to_string(path)
        .map(|text| (text, language))
        .map_err(cannot)
}

/// Reads a text into what it says. One that says nothing says that everything is as built in.
fn parse(text: &str, language: Language, file: Option<&str>) -> Result<Node, ConfigError> {
    let wrong = |at: Option<(u64, u64)>, message: String, hint: Option<&str>| ConfigError {
        origin: match (file, at) {
            (Some(file), Some((line, column))) => Some(format!("{file}:{line}:{column}")),
            (Some(file), None) => Some(file.to_owned()),
            (None, Some((line, column))) => Some(format!("{line}:{column}")),
            (None, None) => None,
        },
        key: String::new(),
        message,
        hint: hint.map(str::to_owned),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let node = match language {
        Language::Yaml => tree::parse_yaml(text),
        Language::Toml => tree::parse_toml(text),
    }
    .map_err(|error| {
        wrong(
            error.at,
            format!("is not {}: {}", language.name(), error.message),
            None,
        )
    })?;
    match node.content {
        Content::Table(_) => Ok(node),
        Content::Null => Ok(Node::empty()),
        _ => {
            let hint = "write key: value, such as data_dir: ./data";
            Err(wrong(
                None,
                "is not a table of keys and values".to_owned(),
                Some(hint),
            ))
        }
    }
}
