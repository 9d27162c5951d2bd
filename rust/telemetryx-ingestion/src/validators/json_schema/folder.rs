//! A folder of schemas: `<type>/<version>.json` or `<type>.v<version>.json`, and documents that these refer to.
//!
//! A document is known by its place in the folder, so `"$ref": "../shared/device.json"` finds its neighbour, and by its
//! `$id`, if it has one. What is not in the folder cannot be referred to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonschema::{Retrieve, Uri};
use parking_lot::Mutex;
use serde_json::Value;

use crate::plugin::PluginError;

/// Folders within folders.
const DEPTH_MAX: usize = 8;
/// Files in all.
const FILES_MAX: usize = 10_000;
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Where the folder stands, in URIs. Nothing answers there.
const BASE: &str = "schemas:///";

/// One file.
pub(super) struct File {
    /// As an operator finds it.
    pub(super) path: PathBuf,
    /// As a `$ref` finds it.
    pub(super) uri: String,
    pub(super) document: Value,
}

/// One file that is the schema of a type and version.
#[derive(Clone, Copy)]
pub(super) struct Schema<'f> {
    pub(super) event_type: &'f str,
    pub(super) version: u32,
    pub(super) file: &'f File,
}

/// All files.
#[derive(Default)]
pub(super) struct Folder {
    /// In the order of their paths.
    files: Vec<File>,
    /// Type and version to the place of their file.
    schemas: BTreeMap<(String, u32), usize>,
    /// Every URI to the document there.
    documents: Arc<HashMap<String, Value>>,
    /// URIs that a `$ref` led to.
    referred: Arc<Mutex<HashSet<String>>>,
}

impl Folder {
    /// Reads all files of the folder. Names that begin with a dot are left alone.
    pub(super) fn read(root: &Path) -> Result<Self, PluginError> {
        let mut paths = Vec::new();
        walk(root, 0, &mut paths)?;
        paths.sort();
        let mut mistakes = Vec::new();
        let mut folder = Self::default();
        let mut documents = HashMap::new();
        for path in paths {
            if let Err(message) = folder.take(root, path.clone(), &mut documents) {
                mistakes.push(format!("{}: {message}", path.display()));
            }
        }
        if folder.schemas.is_empty() && mistakes.is_empty() {
            mistakes.push(format!(
                "{}: there is no schema in this folder, so nothing would be checked: name files \
                 `<type>/<version>.json` or `<type>.v<version>.json`",
                root.display()
            ));
        }
        folder.documents = Arc::new(documents);
        if mistakes.is_empty() {
            Ok(folder)
        } else {
            Err(PluginError::Several(mistakes))
        }
    }

    fn take(
        &mut self,
        root: &Path,
        path: PathBuf,
        documents: &mut HashMap<String, Value>,
    ) -> Result<(), String> {
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let names: Option<Vec<_>> = relative.iter().map(|name| name.to_str()).collect();
        let name = names.ok_or("its name is not UTF-8")?.join("/");
        let document = read(&path)?;
        let uri = format!("{BASE}{}", encoded(&name));
        for name in [
            Some(uri.as_str()),
            document.get("$id").and_then(Value::as_str),
        ] {
            let Some(name) = name else { continue };
            let name = name.strip_suffix('#').unwrap_or(name);
            if documents
                .insert(name.to_owned(), document.clone())
                .is_some()
            {
                return Err(format!("its `$id` `{name}` is that of another file"));
            }
        }
        let place = self.files.len();
        if let Some((event_type, version)) = whose(&name) {
            let key = (event_type.to_owned(), version);
            if let Some(other) = self.schemas.insert(key, place) {
                let other = self.files[other].path.display();
                return Err(format!(
                    "{other} is the schema of version {version} of `{event_type}` already"
                ));
            }
        }
        self.files.push(File {
            path,
            uri,
            document,
        });
        Ok(())
    }

    /// Every schema, by type and then by version.
    pub(super) fn schemas(&self) -> impl Iterator<Item = Schema<'_>> {
        self.schemas
            .iter()
            .map(|((event_type, version), place)| Schema {
                event_type,
                version: *version,
                file: &self.files[*place],
            })
    }

    /// The document that a reference without fragment leads to, from the one at `base`; and where that is.
    pub(super) fn neighbour(&self, base: &str, reference: &str) -> Option<(&str, &Value)> {
        let uri = if reference.contains("://") {
            reference.to_owned()
        } else {
            let root = base.find("://")? + 3;
            let (root, path) = base.split_at(root + base.get(root..)?.find('/')?);
            let mut parts: Vec<_> = path.split('/').skip(1).collect();
            parts.pop();
            if reference.starts_with('/') {
                parts.clear();
            }
            for part in reference.trim_start_matches('/').split('/') {
                match part {
                    "." => {}
                    ".." => drop(parts.pop()),
                    name => parts.push(name),
                }
            }
            format!("{root}/{}", parts.join("/"))
        };
        let (uri, document) = self.documents.get_key_value(&uri)?;
        Some((uri, document))
    }

    /// Finds what is referred to in this folder, and nowhere else.
    pub(super) fn retriever(&self) -> Retriever {
        Retriever {
            documents: Arc::clone(&self.documents),
            referred: Arc::clone(&self.referred),
        }
    }

    /// Files that are no schema and that no schema refers to: most likely their names are wrong.
    pub(super) fn unused(&self) -> Vec<String> {
        let referred = self.referred.lock();
        let schemas: HashSet<_> = self.schemas.values().copied().collect();
        let is_unused = |(place, file): &(usize, &File)| {
            let id = file.document.get("$id").and_then(Value::as_str);
            let id = id.is_some_and(|id| referred.contains(id.strip_suffix('#').unwrap_or(id)));
            !schemas.contains(place) && !id && !referred.contains(&file.uri)
        };
        let files = self.files.iter().enumerate().filter(is_unused);
        files
            .map(|(_, file)| {
                format!(
                    "{}: it is neither `<type>/<version>.json` nor `<type>.v<version>.json`, and no schema refers to it",
                    file.path.display()
                )
            })
            .collect()
    }
}

/// Answers a `$ref` that leads out of its document.
pub(super) struct Retriever {
    documents: Arc<HashMap<String, Value>>,
    referred: Arc<Mutex<HashSet<String>>>,
}

impl Retrieve for Retriever {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let name = uri.as_str();
        let name = name.split_once('#').map_or(name, |(name, _)| name);
        let Some(document) = self.documents.get(name) else {
            let place = name.strip_prefix(BASE).unwrap_or(name);
            return Err(format!("`{place}` is not in the folder, and nothing is fetched").into());
        };
        self.referred.lock().insert(name.to_owned());
        Ok(document.clone())
    }
}

fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), PluginError> {
    let unreadable = |error: std::io::Error| {
        PluginError::Unavailable(format!("the folder {}: {error}", folder.display()))
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Follows links: a folder that Kubernetes mounts is made of them.
        if path.is_dir() {
            if depth >= DEPTH_MAX {
                let message = format!(
                    "{}: there are too many folders within folders",
                    path.display()
                );
                return Err(PluginError::Settings(message));
            }
            walk(&path, depth + 1, paths)?;
        } else if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            let message = format!(
                "{}: there are more than {FILES_MAX} files",
                folder.display()
            );
            return Err(PluginError::Settings(message));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!(
            "it is {bytes} bytes long, more than {FILE_BYTES_MAX}"
        ));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| format!("is not JSON: {error}"))
}

/// The type and version that a file is the schema of: `Login/2.json` or `Login.v2.json`.
fn whose(name: &str) -> Option<(&str, u32)> {
    let stem = name.strip_suffix(".json")?;
    let number = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        is_plain.then(|| text.parse().ok()).flatten()
    };
    let as_folder = || {
        let (event_type, version) = stem.rsplit_once('/')?;
        Some((event_type, number(version)?))
    };
    let as_ending = || {
        let (event_type, version) = stem.rsplit_once(".v")?;
        Some((event_type, number(version)?))
    };
    as_folder()
        .or_else(as_ending)
        .filter(|(event_type, _)| !event_type.is_empty())
}

/// A path as it stands in a URI.
fn encoded(name: &str) -> String {
    const KEPT: percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'.')
        .remove(b'-')
        .remove(b'_')
        .remove(b'~');
    percent_encoding::utf8_percent_encode(name, &KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::whose;

    #[test]
    fn a_file_name_says_type_and_version() {
        assert_eq!(whose("Login/2.json"), Some(("Login", 2)));
        assert_eq!(whose("Login.v12.json"), Some(("Login", 12)));
        assert_eq!(whose("shop/Order/1.json"), Some(("shop/Order", 1)));
        assert_eq!(whose("order.created.v1.json"), Some(("order.created", 1)));
        for other in [
            "Login/two.json",
            "Login/02.json",
            "Login.json",
            "1.json",
            ".v1.json",
            "Login/0.json",
            "Login/+1.json",
        ] {
            assert_eq!(whose(other), None, "{other}");
        }
    }
}
