//! The store: where it is, who we are there, and the few things that are done with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use reqwest::Url;

use super::http::Connector;
use super::{names, plan};
use crate::config::Secret;
use crate::plugin::PluginError;
use crate::sinks::secret::SinkSecret;
use crate::sinks::tls::TlsFiles;

/// A larger object goes in parts of this size.
const PART_BYTES: usize = 8 << 20;
/// Parts of one object that are under way at the same time.
const PARTS_AT_ONCE: usize = 3;
/// More tries of one request in quick succession, as for a connection that had just ended. All else is the route's to say.
const RETRIES: usize = 1;
/// The longest text of an error that is shown: stores answer with pages of XML.
const WORDS_MAX: usize = 400;
/// Leftovers of one file that are looked for.
const TORN_MAX: u32 = 8;

/// Which kind of store a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
    Folder,
}

/// Where the store is, and what its options say.
#[derive(Debug)]
pub(super) struct Location {
    kind: Kind,
    url: Url,
    /// The sink's folder within the bucket.
    prefix: Path,
    options: BTreeMap<String, SinkSecret>,
    tls: Option<TlsFiles>,
    timeout: Duration,
}

/// An open store.
#[derive(Clone)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Where it is a folder: which one.
    folder: Option<PathBuf>,
}

impl Location {
    /// Reads files, and reaches nothing.
    ///
    /// # Errors
    /// [`PluginError`] naming the key.
    pub(super) fn new(
        url: &str,
        options: BTreeMap<String, toml::Value>,
        tls: Option<TlsFiles>,
        timeout: Duration,
    ) -> Result<Self, PluginError> {
        let wrong = |why: &str| PluginError::Settings(format!("`url`: {why}"));
        let form = "it must be s3://bucket/folder, gs://bucket/folder, az://container/folder or file:///folder";
        let parsed = Url::parse(url).map_err(|_| wrong(form))?;
        let (kind, host) = match parsed.scheme() {
            "s3" => (Kind::S3, true),
            "gs" => (Kind::Gcs, true),
            "az" => (Kind::Azure, true),
            "file" => (Kind::Folder, false),
            _ => return Err(wrong(form)),
        };
        if parsed.host_str().is_some_and(|host| !host.is_empty()) != host {
            return Err(wrong(form));
        }
        if parsed.query().is_some()
            || parsed.fragment().is_some()
            || !parsed.username().is_empty()
            || parsed.password().is_some()
        {
            return Err(wrong("all but bucket and folder belongs under `options`"));
        }
        let prefix = match kind {
            Kind::Folder => Path::default(),
            _ => Path::from_url_path(parsed.path()).map_err(|error| wrong(&error.to_string()))?,
        };
        let this = Self {
            kind,
            options: read_options(kind, options)?,
            url: parsed,
            prefix,
            tls,
            timeout,
        };
        if this.tls.is_some() && (kind == Kind::Folder || this.is_plain()) {
            let why = "`tls` is set, but the store is not reached by https://";
            return Err(PluginError::Settings(why.to_owned()));
        }
        match kind {
            Kind::Folder => drop(this.folder()?),
            _ => drop(this.open()?),
        }
        Ok(this)
    }

    /// The store with the secrets and certificates that the files hold now. It is not reached.
    ///
    /// # Errors
    /// [`PluginError`] naming the key.
    pub(super) fn open(&self) -> Result<Store, PluginError> {
        let mut folder = None;
        let objects: Arc<dyn ObjectStore> = match self.kind {
            Kind::S3 => {
                let builder = AmazonS3Builder::from_env()
                    .with_url(self.url.as_str())
                    .with_retry(self.retry())
                    .with_http_connector(self.connector()?);
                let builder = self.with_options(builder, AmazonS3Builder::with_config)?;
                Arc::new(builder.build().map_err(unusable)?)
            }
            Kind::Gcs => {
                let builder = GoogleCloudStorageBuilder::from_env()
                    .with_url(self.url.as_str())
                    .with_retry(self.retry())
                    .with_http_connector(self.connector()?);
                let builder = self.with_options(builder, GoogleCloudStorageBuilder::with_config)?;
                Arc::new(builder.build().map_err(unusable)?)
            }
            Kind::Azure => {
                let builder = MicrosoftAzureBuilder::from_env()
                    .with_url(self.url.as_str())
                    .with_retry(self.retry())
                    .with_http_connector(self.connector()?);
                let builder = self.with_options(builder, MicrosoftAzureBuilder::with_config)?;
                Arc::new(builder.build().map_err(unusable)?)
            }
            Kind::Folder => {
                let path = self.folder()?;
                // It is not made: a disk that is not mounted must not be taken for an empty one.
                let opened = LocalFileSystem::new_with_prefix(&path).map_err(unusable)?;
                folder = Some(path);
                Arc::new(opened.with_fsync(true))
            }
        };
        Ok(Store {
            objects,
            prefix: self.prefix.clone(),
            folder,
        })
    }

    fn folder(&self) -> Result<PathBuf, PluginError> {
        self.url.to_file_path().map_err(|()| {
            PluginError::Settings("`url`: it names no folder: file:///folder".to_owned())
        })
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            max_retries: RETRIES,
            retry_timeout: self.timeout,
            ..RetryConfig::default()
        }
    }

    /// True if the endpoint is reached without TLS.
    fn is_plain(&self) -> bool {
        let names = ["endpoint", "endpoint_url", "base_url"];
        self.options.iter().any(|(name, value)| {
            names.iter().any(|known| name.ends_with(known))
                && matches!(value, SinkSecret::Given(url) if url.expose().starts_with("http://"))
        })
    }

    fn connector(&self) -> Result<Connector, PluginError> {
        let files = self.tls.clone().unwrap_or_default();
        let tls = match files.client_config() {
            // Where nothing is to be verified, a machine without authorities will do.
            Err(_) if self.is_plain() => TlsFiles::trusting_nobody()?,
            made => made?,
        };
        Ok(Connector {
            tls,
            timeout: self.timeout,
        })
    }

    fn with_options<B, K: FromStr>(
        &self,
        builder: B,
        set: impl Fn(B, K, String) -> B,
    ) -> Result<B, PluginError> {
        self.options
            .iter()
            .try_fold(builder, |builder, (name, value)| {
                let value = value.read().map_err(PluginError::Unavailable)?;
                Ok(match name.parse() {
                    Ok(key) => set(builder, key, value.expose().to_owned()),
                    Err(_) => builder,
                })
            })
    }
}

/// Checks the names of options, and finds those that are in files.
fn read_options(
    kind: Kind,
    options: BTreeMap<String, toml::Value>,
) -> Result<BTreeMap<String, SinkSecret>, PluginError> {
    let mut given: BTreeMap<String, (Option<Secret>, Option<PathBuf>)> = BTreeMap::new();
    for (name, value) in options {
        let wrong = |why: &str| PluginError::Settings(format!("`options.{name}`: {why}"));
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Boolean(yes) => yes.to_string(),
            toml::Value::Integer(number) => number.to_string(),
            _ => return Err(wrong("it must be a text, a number or true or false")),
        };
        match (known(kind, &name), name.strip_suffix("_file")) {
            (Known::Yes, _) => {
                let secret = text.parse().map_err(|error| wrong(&format!("{error}")))?;
                given.entry(name).or_default().0 = Some(secret);
            }
            (_, Some(stem)) if known(kind, stem) == Known::Yes => {
                given.entry(stem.to_owned()).or_default().1 = Some(text.into());
            }
            (Known::Client, _) => {
                return Err(wrong(
                    "connections are made as `tls` and `timeout` of the sink and the scheme of the endpoint say",
                ));
            }
            _ => return Err(wrong("the store has no such option")),
        }
    }
    let mut read = BTreeMap::new();
    for (name, (secret, file)) in given {
        let found = SinkSecret::of(&format!("options.{name}"), secret, file)?;
        read.extend(found.map(|found| (name, found)));
    }
    Ok(read)
}

#[derive(PartialEq, Eq)]
enum Known {
    Yes,
    /// It says how connections are made.
    Client,
    No,
}

fn known(kind: Kind, name: &str) -> Known {
    match kind {
        Kind::S3 => match name.parse() {
            Ok(AmazonS3ConfigKey::Client(_)) => Known::Client,
            Ok(_) => Known::Yes,
            Err(_) => Known::No,
        },
        Kind::Gcs => match name.parse() {
            Ok(GoogleConfigKey::Client(_)) => Known::Client,
            Ok(_) => Known::Yes,
            Err(_) => Known::No,
        },
        Kind::Azure => match name.parse() {
            Ok(AzureConfigKey::Client(_)) => Known::Client,
            Ok(_) => Known::Yes,
            Err(_) => Known::No,
        },
        Kind::Folder => Known::No,
    }
}

fn unusable(error: object_store::Error) -> PluginError {
    PluginError::Unavailable(words(&error))
}

impl Store {
    /// Over any object store, for tests.
    #[cfg(test)]
    pub(super) fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            prefix: Path::default(),
            folder: None,
        }
    }

    fn path(&self, within: &str) -> Result<Path, String> {
        let prefix = self.prefix.as_ref();
        Path::parse(format!("{prefix}/{within}").trim_start_matches('/'))
            .map_err(|error| error.to_string())
    }

    /// True if it answers and lets us read.
    pub(super) async fn check(&self, route: &str) -> Result<(), String> {
        self.read(&names::probe(route)).await.map(|_| ())
    }

    /// A small object, if it is there.
    pub(super) async fn read(&self, within: &str) -> Result<Option<Bytes>, String> {
        let got = match self.objects.get(&self.path(within)?).await {
            Ok(got) => got,
            Err(error @ object_store::Error::NotFound { .. }) => {
                let words = words(&error);
                // A bucket that is not there is told as an object that is not there is.
                let no_bucket = ["NoSuchBucket", "ContainerNotFound"];
                return match no_bucket.iter().any(|code| words.contains(code)) {
                    true => Err(words),
                    false => Ok(None),
                };
            }
            Err(error) => return Err(words(&error)),
        };
        if got.meta.size > plan::PLAN_BYTES_MAX as u64 {
            return Err(format!("`{within}` has {} bytes", got.meta.size));
        }
        got.bytes().await.map(Some).map_err(|error| words(&error))
    }

    /// Writes an object, over what is there. It is there as a whole, or not at all.
    pub(super) async fn write(&self, within: &str, content: &[Bytes]) -> Result<(), String> {
        let path = self.path(within)?;
        let length: usize = content.iter().map(Bytes::len).sum();
        let written = if length <= PART_BYTES || self.folder.is_some() {
            let payload = content.iter().cloned().collect();
            self.objects.put(&path, payload).await.map(|_| ())
        } else {
            self.write_in_parts(&path, content).await
        };
        written.map_err(|error| words(&error))
    }

    async fn write_in_parts(&self, path: &Path, content: &[Bytes]) -> object_store::Result<()> {
        let mut upload = self.objects.put_multipart(path).await?;
        let parts: Vec<_> = parts(content)
            .into_iter()
            .map(|part| upload.put_part(part))
            .collect();
        let sent = futures_util::stream::iter(parts)
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await;
        let done = match sent {
            Ok(()) => upload.complete().await.map(|_| ()),
            Err(error) => Err(error),
        };
        if done.is_err() {
            // What cannot be taken back is the store's to tidy up.
            upload.abort().await.ok();
        }
        done
    }

    /// Removes an object; nothing if it is not there.
    pub(super) async fn remove(&self, within: &str) -> Result<(), String> {
        match self.objects.delete(&self.path(within)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(words(&error)),
        }
    }

    /// Removes what a kill left of a file that was not whole yet, in a folder. A bucket has rules for that.
    pub(super) fn remove_torn(&self, within: &str) {
        if let Some(folder) = &self.folder {
            for number in 1..=TORN_MAX {
                let torn = folder.join(format!("{within}#{number}"));
                if std::fs::remove_file(torn).is_err() {
                    break;
                }
            }
        }
    }
}

/// The chunks of a file, put together to parts.
fn parts(content: &[Bytes]) -> Vec<PutPayload> {
    let mut parts = Vec::new();
    let (mut open, mut length) = (Vec::new(), 0);
    for chunk in content {
        open.push(chunk.clone());
        length += chunk.len();
        if length >= PART_BYTES {
            parts.push(open.drain(..).collect());
            length = 0;
        }
    }
    if !open.is_empty() {
        parts.push(open.into_iter().collect());
    }
    parts
}

/// The store's own words on one line, not too many.
fn words(error: &object_store::Error) -> String {
    let text = error.to_string();
    let one_line: Vec<_> = text.split_whitespace().collect();
    let mut one_line = one_line.join(" ");
    if let Some((end, _)) = one_line.char_indices().nth(WORDS_MAX) {
        one_line.truncate(end);
        one_line.push('…');
    }
    one_line
}
