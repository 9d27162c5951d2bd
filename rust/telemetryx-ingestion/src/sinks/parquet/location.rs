//! Where the store is, and who we are there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, RetryConfig};
use reqwest::Url;

use super::http::Connector;
use super::store::{Store, words};
use crate::config::Secret;
use crate::plugin::{self, PluginError};
use crate::sinks::secret::SinkSecret;
use crate::sinks::tls::TlsFiles;

/// More tries of one request in quick succession, as for a connection that had just ended. All else is the route's to say.
const RETRIES: usize = 1;

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
            absent: match self.kind {
                Kind::S3 | Kind::Gcs => Some("<Code>NoSuchKey</Code>"),
                Kind::Azure => Some("<Code>BlobNotFound</Code>"),
                Kind::Folder => None,
            },
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

/// Options that most have: `object_store` has no list of all.
const USUAL_OPTIONS: &[&str] = &[
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "endpoint",
    "virtual_hosted_style_request",
    "account_name",
    "account_key",
    "sas_key",
    "service_account",
    "service_account_key",
];

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
            _ => {
                // A folder has none.
                let options = if kind == Kind::Folder {
                    &[]
                } else {
                    USUAL_OPTIONS
                };
                let meant = plugin::nearest(&name, options);
                return Err(wrong(&format!("the store has no such option{meant}")));
            }
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
