//! `http.tls`, `tcp.tls`: certificates.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Certificates of a listener.
///
/// All files are PEM. They are read at start and again within two seconds after one of them changes; connections that
/// are open go on as they are. Files that cannot be used are logged, and the last good ones stay in use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// File with the server's certificate, and those of the authorities between it and the root, its own first.
    ///
    /// Empty: no TLS.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,

    /// File with the private key of the certificate (PKCS#8, PKCS#1 or SEC1).
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,

    /// File with the certificates of the authorities whose clients may connect.
    ///
    /// A client without a valid certificate of one of them is turned away in the handshake. Empty: clients need none.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

impl TlsConfig {
    /// Whether anything is said.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.cert_file.is_some() || self.key_file.is_some() || self.client_ca_file.is_some()
    }

    /// Whether certificate and key are said.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.cert_file.is_some() && self.key_file.is_some()
    }
}
