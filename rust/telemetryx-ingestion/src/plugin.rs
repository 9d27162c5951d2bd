//! What all plug-ins share: how they are made from the config, and how that fails.
//!
//! A plug-in is one file that registers a factory with `inventory`; the config names it. Validators live in
//! [`crate::validators`], processors in [`crate::processors`], sinks in [`crate::sinks`].

use serde::de::DeserializeOwned;

/// Why a plug-in could not be made from its settings. Shown by `telemetryx check` and at start; never while serving.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No plug-in of that name is compiled in.
    #[error("no {kind} is named `{name}`{}; known: {}", nearest(name, known), known.join(", "))]
    Unknown {
        /// `validator`, `processor` or `sink`.
        kind: &'static str,
        /// The name in the config.
        name: String,
        /// Every name that would do.
        known: Vec<&'static str>,
    },
    /// The settings are not those the plug-in takes.
    #[error("{0}")]
    Settings(String),
    /// Several mistakes, each a line of its own.
    #[error("{}", .0.join("; "))]
    Several(Vec<String>),
    /// What the plug-in needs is not there, such as a file or a folder.
    #[error("{0}")]
    Unavailable(String),
}

/// A question whether the known name most like this one was meant; nothing if none is much like it.
pub(crate) fn nearest(name: &str, known: &[&'static str]) -> String {
    known
        .iter()
        .map(|candidate| {
            (
                strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| format!(" (did you mean `{candidate}`?)"))
        .unwrap_or_default()
}

/// The factory of that name.
///
/// # Errors
/// [`PluginError::Unknown`] if there is none; it names the nearest.
pub fn find<'f, F>(
    kind: &'static str,
    name: &str,
    factories: impl Iterator<Item = &'f F> + Clone,
    named: impl Fn(&F) -> &'static str,
) -> Result<&'f F, PluginError> {
    factories
        .clone()
        .find(|factory| named(factory) == name)
        .ok_or_else(|| {
            let mut known: Vec<_> = factories.map(named).collect();
            known.sort_unstable();
            PluginError::Unknown {
                kind,
                name: name.to_owned(),
                known,
            }
        })
}

/// Reads a plug-in's settings into its own type; the error names the key and what it takes.
///
/// # Errors
/// [`PluginError::Settings`] if a key is unknown, missing or of the wrong type.
pub fn settings<T: DeserializeOwned>(value: toml::Value) -> Result<T, PluginError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let key = error.path().to_string();
        let message = error.inner().message();
        // An unknown key is named already, and a missing one is not on the path.
        let names_it = key == "." || message.contains(&format!("`{key}`"));
        PluginError::Settings(match names_it {
            true => message.to_owned(),
            false => format!("`{key}`: {message}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::settings;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "it is only read")]
        inner: BTreeMap<String, Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "it is only read")]
        age: u8,
    }

    #[test]
    fn errors_name_the_key() {
        for (text, expected) in [
            (
                "inner.a.age = 'x'",
                "`inner.a.age`: invalid type: string \"x\", expected u8",
            ),
            (
                "inner = 5",
                "`inner`: invalid type: integer `5`, expected a map",
            ),
            (
                "inner.a.agee = 5",
                "`inner.a.agee`: unknown field `agee`, expected `age`",
            ),
            ("innner = 5", "unknown field `innner`, expected `inner`"),
            ("", "missing field `inner`"),
            ("inner.a = {}", "`inner.a`: missing field `age`"),
        ] {
            let error = settings::<Outer>(toml::from_str(text).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
