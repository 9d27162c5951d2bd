//! TLS to a destination, the same for every sink: `tls: { ca_file, cert_file, key_file }`.
//!
//! The destination's certificate is always verified, with its name.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::plugin::PluginError;

/// How much of a file is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files that `tls` names.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TlsFiles {
    /// Authorities that may have signed the destination's certificate; none: those of the system.
    ca_file: Option<PathBuf>,
    /// Our own certificate, for a destination that asks for one.
    cert_file: Option<PathBuf>,
    /// Its key.
    key_file: Option<PathBuf>,
}

impl TlsFiles {
    /// What the files say now. Read them again before each connection, so that new certificates need no restart; it
    /// may take some milliseconds.
    ///
    /// # Errors
    /// [`PluginError`]: the key, its file, what is wrong with it.
    pub(super) fn client_config(&self) -> Result<ClientConfig, PluginError> {
        let wrong =
            |error: rustls::Error| PluginError::Unavailable(format!("`tls.cert_file`: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(self.roots()?);
        match (&self.cert_file, &self.key_file) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => {
                let cert = certificates("cert_file", cert)?;
                let key = PrivateKeyDer::from_pem_slice(&read("key_file", key)?)
                    .map_err(|error| unusable("key_file", key, &error))?;
                builder.with_client_auth_cert(cert, key).map_err(wrong)
            }
            _ => Err(PluginError::Settings(
                "`tls` takes `cert_file` and `key_file` together".to_owned(),
            )),
        }
    }

    fn roots(&self) -> Result<RootCertStore, PluginError> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => {
                for authority in certificates("ca_file", path)? {
                    roots
                        .add(authority)
                        .map_err(|error| unusable("ca_file", path, &error))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                if roots.add_parsable_certificates(found.certs).0 == 0 {
                    return Err(PluginError::Unavailable(
                        "this machine has no certificates of authorities: set `tls.ca_file`"
                            .to_owned(),
                    ));
                }
            }
        }
        Ok(roots)
    }
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PluginError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(key, path)?).collect();
    let found = found.map_err(|error| unusable(key, path, &error))?;
    match found.is_empty() {
        false => Ok(found),
        true => Err(unusable(key, path, &"it holds no certificate in PEM")),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, PluginError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| unusable(key, path, &error))?;
    Ok(bytes)
}

fn unusable(key: &str, path: &Path, error: &dyn std::fmt::Display) -> PluginError {
    PluginError::Unavailable(format!("`tls.{key}`: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(files: &TlsFiles) -> String {
        files.client_config().unwrap_err().to_string()
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let with_ca = |ca: &Path| TlsFiles {
            ca_file: Some(ca.into()),
            ..TlsFiles::default()
        };
        assert!(refused(&with_ca(Path::new("/no/such"))).starts_with("`tls.ca_file`: /no/such: "));
        assert!(refused(&with_ca(&empty)).ends_with("it holds no certificate in PEM"));

        let authority = folder.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&authority, made.cert.pem()).unwrap();
        with_ca(&authority).client_config().unwrap();
        let half = TlsFiles {
            cert_file: Some(authority.clone()),
            ..with_ca(&authority)
        };
        assert!(refused(&half).contains("together"), "{}", refused(&half));
        let both = TlsFiles {
            key_file: Some(empty),
            ..half
        };
        assert!(
            refused(&both).starts_with("`tls.key_file`: "),
            "{}",
            refused(&both)
        );
    }
}
