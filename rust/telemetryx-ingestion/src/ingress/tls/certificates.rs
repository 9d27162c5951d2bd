//! Certificates from files, and from the same files again when they change.

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::config::{Config, ConfigError, TlsConfig};
use crate::observe::CertificateStates;
use crate::pem;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The certificates that one section of the config names.
pub(in crate::ingress) struct Certificates {
    key: &'static str,
    files: TlsConfig,
    current: ArcSwap<ServerConfig>,
    seen: Mutex<Seen>,
    states: Arc<CertificateStates>,
}

/// What was seen of the files.
struct Seen {
    /// Those that were read last.
    read: Stamp,
    /// Those that were there at the last look.
    last: Stamp,
    /// When they were first seen as they are.
    since: Instant,
}

impl Certificates {
    /// Reads the files that the section `key` names.
    ///
    /// # Errors
    /// A file that cannot be used: its key, its path, what is wrong.
    pub(in crate::ingress) fn load(
        key: &'static str,
        files: &TlsConfig,
        states: &Arc<CertificateStates>,
    ) -> Result<Self, ConfigError> {
        let read = Stamp::of(files);
        let current = server_config(key, files)?;
        states.set(key, None);
        Ok(Self {
            key,
            files: files.clone(),
            current: ArcSwap::from_pointee(current),
            seen: Mutex::new(Seen {
                last: read.clone(),
                read,
                since: Instant::now(),
            }),
            states: Arc::clone(states),
        })
    }

    /// Those in use now.
    pub(super) fn current(&self) -> ServerConfig {
        ServerConfig::clone(&self.current.load())
    }

    /// Follows the files for as long as it is polled. Several may: each change is taken over once.
    pub(super) async fn follow(self: Arc<Self>) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            let this = Arc::clone(&self);
            // Files may be on a network. A look that panics changes nothing.
            tokio::task::spawn_blocking(move || this.look()).await.ok();
        }
    }

    /// Takes the files over if they changed and have been the same for [`LOOK`], whoever looked: a certificate and its key
    /// are seldom written at once. Files that cannot be used are told once for each change.
    fn look(&self) {
        let now = Stamp::of(&self.files);
        let mut seen = self.seen.lock();
        if now != seen.last {
            seen.last = now;
            seen.since = Instant::now();
            return;
        }
        if now == seen.read || seen.since.elapsed() < LOOK {
            return;
        }
        seen.read = now;
        match server_config(self.key, &self.files) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                self.states.set(self.key, None);
                tracing::info!(key = self.key, "the new certificates are in use");
            }
            Err(error) => {
                tracing::error!(
                    key = self.key,
                    %error,
                    "the new certificates cannot be used; the old ones stay"
                );
                self.states.set(self.key, Some(error.to_string()));
            }
        }
    }
}

/// Says what is wrong with the certificates of the config.
pub(crate) fn check(config: &Config) -> Vec<ConfigError> {
    let sections = config.tls_sections().into_iter();
    sections
        .filter(|(_, tls)| tls.is_complete())
        .filter_map(|(key, tls)| server_config(key, tls).err())
        .collect()
}

/// What tells whether files changed: which file a path leads to, when it was written, how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp([Option<(u64, i64, i64, u64)>; 3]);

impl Stamp {
    fn of(files: &TlsConfig) -> Self {
        let paths = [&files.cert_file, &files.key_file, &files.client_ca_file];
        Self(paths.map(|path| {
            let found = std::fs::metadata(path.as_ref()?).ok()?;
            Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
        }))
    }
}

fn server_config(key: &str, files: &TlsConfig) -> Result<ServerConfig, ConfigError> {
    let provider = Arc::new(ring::default_provider());
    let wrong = |name: &str, message: String, hint: &str| ConfigError {
        origin: None,
        key: format!("{key}.{name}"),
        message,
        hint: Some(hint.to_owned()),
    };
    let (cert_file, key_file) = (given(&files.cert_file), given(&files.key_file));
    let chain = pem::certificates(cert_file).map_err(|message| {
        let hint = "name a PEM file with the server's certificate";
        wrong("cert_file", message, hint)
    })?;
    let private = pem::private_key(key_file).map_err(|message| {
        let hint = "name a PEM file with the key of the certificate";
        wrong("key_file", message, hint)
    })?;
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("cert_file", error.to_string(), "this is a fault of ours"))?;
    let clients = match &files.client_ca_file {
        None => versions.with_no_client_auth(),
        Some(file) => {
            let verifier = client_verifier(file, provider).map_err(|message| {
                let hint = "name a PEM file with the certificates of the clients' authorities";
                wrong("client_ca_file", message, hint)
            })?;
            versions.with_client_cert_verifier(verifier)
        }
    };
    let mut config = clients
        .with_single_cert(chain, private)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let message = format!(
                    "`{}` is not the key of the certificate in `{}`",
                    key_file.display(),
                    cert_file.display()
                );
                let hint = "the server's own certificate must be the first in its file";
                wrong("key_file", message, hint)
            }
            error => {
                let message = format!("`{}` cannot be used: {error}", cert_file.display());
                wrong("cert_file", message, "make the certificate anew")
            }
        })?;
    if files.client_ca_file.is_some() {
        // A session that is taken up again is not asked for its certificate, which may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn client_verifier(
    file: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let roots = pem::authorities(file)?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| format!("`{}` cannot be used: {error}", file.display()))
}

/// The rules between settings see to it that there is one.
fn given(file: &Option<PathBuf>) -> &Path {
    file.as_deref().unwrap_or_else(|| Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key.
    fn issue() -> [String; 2] {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        [pair.cert.pem(), pair.signing_key.serialize_pem()]
    }

    #[test]
    fn certificate_whose_key_is_written_later_is_not_taken_for_broken_however_many_look() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        let [cert_file, key_file] = paths.clone().map(Some);
        let files = TlsConfig {
            cert_file,
            key_file,
            client_ca_file: None,
        };
        std::iter::zip(&paths, issue()).for_each(|(path, pem)| std::fs::write(path, pem).unwrap());
        let states = Arc::new(CertificateStates::default());
        let certificates = Certificates::load("http.tls", &files, &states).unwrap();
        let before = certificates.current.load_full();
        let [cert, key] = issue();

        // Four listeners look, one right after the other, while the files do not fit together.
        std::fs::write(&paths[0], cert).unwrap();
        for _ in 0..4 {
            certificates.look();
        }
        assert_eq!(states.to_json()["http.tls"]["state"], "in_use");
        std::fs::write(&paths[1], key).unwrap();
        let changed = Instant::now();
        while Arc::ptr_eq(&before, &certificates.current.load_full()) {
            assert_eq!(states.to_json()["http.tls"]["state"], "in_use");
            assert!(changed.elapsed() < 20 * LOOK, "they are taken over");
            certificates.look();
        }
        assert!(changed.elapsed() >= LOOK);
    }
}
