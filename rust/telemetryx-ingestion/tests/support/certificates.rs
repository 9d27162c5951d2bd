//! Certificates for tests, and a client that uses them.
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An authority, and the directory where its certificates and keys are, as PEM.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    /// Its own certificate.
    pub(crate) file: PathBuf,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// A connection over TLS.
pub(crate) type TlsConnection = StreamOwned<ClientConnection, TcpStream>;

impl Authority {
    /// A new one; its own certificate is `dir/<name>.pem`.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = dir.join(format!("{name}.pem"));
        std::fs::write(&file, issuer.pem()).unwrap();
        Self {
            issuer,
            dir: dir.to_owned(),
            file,
        }
    }

    /// A certificate for this machine, good for servers and clients.
    pub(crate) fn issue(&self, name: &str) -> Pair {
        self.issue_until(name, 2999)
    }

    /// One that ends with that year.
    pub(crate) fn issue_until(&self, name: &str, year: i32) -> Pair {
        self.make(name, &["localhost", "127.0.0.1"], year)
    }

    /// One for a machine of these names.
    #[allow(dead_code, reason = "each test takes what it needs")]
    pub(crate) fn issue_for(&self, name: &str, machines: &[&str]) -> Pair {
        self.make(name, machines, 2999)
    }

    fn make(&self, name: &str, machines: &[&str], year: i32) -> Pair {
        let machines = machines.iter().map(|&machine| machine.to_owned());
        let mut params = CertificateParams::new(Vec::from_iter(machines)).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        std::fs::write(&pair.cert, cert.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// Connects to a server with a certificate of this authority and shakes hands.
    pub(crate) fn connect(
        &self,
        address: &str,
        alpn: &[&str],
        client: Option<&Pair>,
    ) -> Result<TlsConnection, std::io::Error> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        socket.set_write_timeout(Some(Duration::from_secs(30)))?;
        let config = Arc::new(self.client_config(alpn, client));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    fn client_config(&self, alpn: &[&str], client: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(Pair { cert, key }) => {
                let cert = CertificateDer::from_pem_file(cert).unwrap();
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}
