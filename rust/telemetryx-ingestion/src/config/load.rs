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
        Self::load_with_origins(path, env).map(|(config, _)| config)
    }

    /// As [`Config::load`], and says where each key was set, for mistakes that are found later (in a plug-in's keys).
    ///
    /// # Errors
    ///
    /// As for [`Config::load`].
    pub fn load_with_origins(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Origins), ConfigErrors> {
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
        )
    }

    /// Reads the config from a text, as [`Config::load`] does from a file and without any environment.
    ///
    /// # Errors
    ///
    /// As for [`Config::load`].
    pub fn from_text(text: &str, language: Language) -> Result<Self, ConfigErrors> {
        Self::assemble(None, Some((text, language)), std::iter::empty()).map(|(config, _)| config)
    }

    fn assemble(
        file: Option<String>,
        text: Option<(&str, Language)>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Origins), ConfigErrors> {
        let mut errors = Vec::new();
        let mut said = Node::empty();
        if let Some((text, language)) = text {
            match parse(text, language, file.as_deref()) {
                Ok(node) => said = node,
                Err(error) => errors.push(error),
            }
        }
        said.drop_unset();
        env::adopt_batch_size(&mut said);
        env::apply(&mut said, env, &mut errors);
        said.drop_unset();
        build(&said, Origins::of_file(file), errors)
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
) -> Result<(Config, Origins), ConfigErrors> {
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
            let found = rules::settle(&mut config, &checked.damaged);
            errors.extend(found.into_iter().map(|error| checked.origins.locate(error)));
            if errors.is_empty() {
                return Ok((config, checked.origins));
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
