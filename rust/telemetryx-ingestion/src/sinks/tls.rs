//! TLS to a destination, the same for every sink: `tls: { ca_file, cert_file, key_file }`.
//!
//! The destination's certificate is always verified, with its name.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::pem;
use crate::plugin::PluginError;

/// The files that `tls` names.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsFiles {
    /// Authorities that may have signed the destination's certificate; none: those of the system.
    pub(crate) ca_file: Option<PathBuf>,
    /// Our own certificate, for a destination that asks for one.
    pub(crate) cert_file: Option<PathBuf>,
    /// Its key.
    pub(crate) key_file: Option<PathBuf>,
}

impl TlsFiles {
    /// What the files say now. Read them again before each connection, so that new certificates need no restart; it
    /// may take some milliseconds.
    ///
    /// # Errors
    /// [`PluginError`]: the key, its file, what is wrong with it.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, PluginError> {
        let wrong =
            |error: rustls::Error| PluginError::Unavailable(format!("`tls.cert_file`: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(self.roots()?);
        match (&self.cert_file, &self.key_file) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => {
                let cert = pem::certificates(cert).map_err(|why| unusable("cert_file", &why))?;
                let key = pem::private_key(key).map_err(|why| unusable("key_file", &why))?;
                builder.with_client_auth_cert(cert, key).map_err(wrong)
            }
            _ => Err(PluginError::Settings(
                "`tls` takes `cert_file` and `key_file` together".to_owned(),
            )),
        }
    }

    /// For a destination that is reached without TLS, by a library that wants to be told all the same: it trusts nobody.
    ///
    /// # Errors
    /// [`PluginError`], for a fault of ours.
    pub(super) fn trusting_nobody() -> Result<ClientConfig, PluginError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| PluginError::Unavailable(error.to_string()))?;
        Ok(builder
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth())
    }

    fn roots(&self) -> Result<RootCertStore, PluginError> {
        match &self.ca_file {
            Some(file) => pem::authorities(file).map_err(|why| unusable("ca_file", &why)),
            None => pem::system_authorities()
                .map_err(|why| PluginError::Unavailable(format!("{why}: set `tls.ca_file`"))),
        }
    }
}

fn unusable(key: &str, why: &str) -> PluginError {
    PluginError::Unavailable(format!("`tls.{key}`: {why}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        assert!(
            refused(&with_ca(Path::new("/no/such")))
                .starts_with("`tls.ca_file`: `/no/such` cannot")
        );
        assert!(refused(&with_ca(&empty)).ends_with("holds no certificate"));

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
