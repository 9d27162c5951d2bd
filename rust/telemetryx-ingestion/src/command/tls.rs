//! TLS of the commands that are clients: whom they trust, and what they show.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::pem;

/// Whom to trust, and what to show.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsOptions {
    /// PEM file with the authorities whose servers are trusted; an https:// URL needs it.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate to show where clients need one.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
}

impl TlsOptions {
    /// For servers with a certificate of `ca_file`, made out to the name they are reached by.
    ///
    /// # Errors
    /// There is no such file, or one of them cannot be used.
    pub(super) fn config(&self, alpn: &[&str]) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(ring::default_provider());
        let file = self.ca_file.as_ref();
        let file = file.ok_or("https:// needs --ca-file: whose servers are trusted")?;
        let roots = Arc::new(pem::authorities(file)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| format!("`{}` cannot be used: {error}", file.display()))?;
        self.config_with(provider, verifier, alpn)
    }

    /// For the service of our own config, on this machine: as [`TlsOptions::config`] if `ca_file` is given, else whatever
    /// certificate it shows. It is told nothing and asked for its health only, and a certificate that is made out to
    /// another name, is expired or was replaced a moment ago is no reason to end a service that works.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn config_for_ourselves(&self, alpn: &[&str]) -> Result<Arc<ClientConfig>, String> {
        if self.ca_file.is_some() {
            return self.config(alpn);
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
        self.config_with(provider, verifier, alpn)
    }

    fn config_with(
        &self,
        provider: Arc<CryptoProvider>,
        verifier: Arc<dyn ServerCertVerifier>,
        alpn: &[&str],
    ) -> Result<Arc<ClientConfig>, String> {
        let versions = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let clients = versions
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&self.cert_file, &self.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let (chain, key) = (pem::certificates(cert_file)?, pem::private_key(key_file)?);
                let config = clients.with_client_auth_cert(chain, key);
                config.map_err(|error| {
                    let (cert, key) = (cert_file.display(), key_file.display());
                    format!("`{cert}` and `{key}` cannot be used: {error}")
                })?
            }
            _ => clients.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _shown: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, shown, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, shown, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
