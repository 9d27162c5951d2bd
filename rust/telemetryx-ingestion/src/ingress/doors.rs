//! All doors: binds every socket before any data is touched, then builds every protocol and hands out listeners.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::HttpService;
use super::http_connection::HttpConnections;
use super::listener::{self, Listener};
use super::protocol::{Listen, ProtocolFactory, ServeConnection, Setup};
use super::questions::Questions;
use super::tls::{self, Certificates, Tls};
use crate::config::{Config, ConfigError, Role};
use crate::intake::Intake;
use crate::observe::CertificateStates;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error} ({key})")]
pub struct ListenError {
    address: SocketAddr,
    error: std::io::Error,
    /// Where the config says it.
    key: &'static str,
}

/// Why the doors stay shut.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] ConfigError),
}

/// Bound sockets that nobody serves yet.
pub struct Doors {
    http: Bound,
    http_address: SocketAddr,
    protocols: Vec<(&'static ProtocolFactory, Vec<Bound>)>,
    certificates: Arc<CertificateStates>,
}

/// A bound socket and its certificates.
struct Bound {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl Doors {
    /// Binds every socket of the config. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`BindError`] for the first that cannot be had, such as a port that is taken.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let mut binder = Binder::default();
        let http = binder.bind(&Listen {
            key: "http.host, http.port",
            address: SocketAddr::new(config.http.host, config.http.port),
            tls: ("http.tls", &config.http.tls),
            alpn: tls::ALPN_HTTP,
        })?;
        let protocols = inventory::iter::<ProtocolFactory>.into_iter();
        let protocols = protocols.filter(|_| config.has(Role::Ingest));
        let protocols = protocols.map(|protocol| {
            let sockets = (protocol.listens)(config);
            let sockets: Result<_, _> = sockets.iter().map(|wanted| binder.bind(wanted)).collect();
            Ok::<_, BindError>((protocol, sockets?))
        });
        let protocols = protocols.collect::<Result<_, _>>()?;
        Ok(Self {
            http_address: http.socket.local_addr().map_err(|error| ListenError {
                address: SocketAddr::new(config.http.host, config.http.port),
                error,
                key: "http.host, http.port",
            })?,
            http,
            protocols,
            certificates: binder.states,
        })
    }

    /// Where the HTTP port is.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// What became of the certificates' files, kept true while the listeners run.
    #[must_use]
    pub fn certificates(&self) -> Arc<CertificateStates> {
        Arc::clone(&self.certificates)
    }

    /// Builds every protocol on its sockets.
    ///
    /// # Errors
    /// A protocol refuses its settings.
    pub fn open(
        self,
        intake: &Arc<Intake>,
        questions: Questions,
        config: &Config,
    ) -> Result<Vec<Listener>, ConfigError> {
        let limit = Arc::new(Semaphore::new(config.http.max_connections as usize));
        let listener = |Bound { socket, tls }, connections| Listener {
            socket,
            tls,
            handshake_timeout: config.http.header_timeout.into(),
            connections,
            limit: Arc::clone(&limit),
            metrics: Arc::clone(&intake.metrics),
        };
        let mut listeners = Vec::new();
        let mut endpoints = Vec::new();
        for (protocol, sockets) in self.protocols {
            let built = (protocol.build)(&Setup { intake, config })?;
            endpoints.extend(built.endpoints);
            debug_assert_eq!(sockets.len(), built.connections.len(), "{}", protocol.name);
            for (socket, connections) in std::iter::zip(sockets, built.connections) {
                if let Ok(address) = socket.socket.local_addr() {
                    let tls = socket.tls.is_some();
                    tracing::info!(protocol = protocol.name, %address, tls, "listening");
                }
                listeners.push(listener(socket, connections));
            }
        }
        let service = HttpService::new(Arc::clone(intake), Some(questions), endpoints);
        let http = HttpConnections::new(Arc::new(service), &config.http);
        let http: Arc<dyn ServeConnection> = Arc::new(http);
        listeners.push(listener(self.http, http));
        Ok(listeners)
    }
}

/// Binds sockets; those that name the same section share its certificates.
#[derive(Default)]
struct Binder {
    certificates: HashMap<&'static str, Arc<Certificates>>,
    states: Arc<CertificateStates>,
}

impl Binder {
    fn bind(&mut self, wanted: &Listen<'_>) -> Result<Bound, BindError> {
        let (key, files) = wanted.tls;
        let certificates = match self.certificates.get(key) {
            Some(loaded) => Some(Arc::clone(loaded)),
            None if files.is_given() => {
                let loaded = Arc::new(Certificates::load(key, files, &self.states)?);
                self.certificates.insert(key, Arc::clone(&loaded));
                Some(loaded)
            }
            None => None,
        };
        let tls = certificates.map(|loaded| Arc::new(Tls::new(loaded, wanted.alpn)));
        let socket = listener::bind(wanted.address).map_err(|error| ListenError {
            address: wanted.address,
            error,
            key: wanted.key,
        })?;
        Ok(Bound { socket, tls })
    }
}
