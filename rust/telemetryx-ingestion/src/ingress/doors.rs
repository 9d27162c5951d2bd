//! All doors: binds every socket before any data is touched, then builds every protocol and hands out listeners.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::HttpService;
use super::http_connection::HttpConnections;
use super::listener::{self, Listener};
use super::protocol::{Listen, ProtocolFactory, ServeConnection, Setup};
use crate::config::{Config, ConfigError};
use crate::intake::Intake;
use crate::query::Query;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error} ({key})")]
pub struct ListenError {
    address: SocketAddr,
    error: std::io::Error,
    /// Where the config says it.
    key: &'static str,
}

/// Bound sockets that nobody serves yet.
pub struct Doors {
    http: TcpListener,
    http_address: SocketAddr,
    protocols: Vec<(&'static ProtocolFactory, Vec<TcpListener>)>,
}

impl Doors {
    /// Binds every socket of the config. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`ListenError`] for the first that cannot be had, such as a port that is taken.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let http = bind(&Listen {
            key: "http.host, http.port",
            address: SocketAddr::new(config.http.host, config.http.port),
        })?;
        let protocols = inventory::iter::<ProtocolFactory>.into_iter();
        let protocols = protocols.map(|protocol| {
            let sockets = (protocol.listens)(config);
            let sockets: Result<_, _> = sockets.iter().map(bind).collect();
            Ok((protocol, sockets?))
        });
        Ok(Self {
            http_address: http.local_addr().map_err(|error| ListenError {
                address: SocketAddr::new(config.http.host, config.http.port),
                error,
                key: "http.host, http.port",
            })?,
            http,
            protocols: protocols.collect::<Result<_, _>>()?,
        })
    }

    /// Where the HTTP port is.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Builds every protocol on its sockets.
    ///
    /// # Errors
    /// A protocol refuses its settings.
    pub fn open(
        self,
        intake: &Arc<Intake>,
        query: Arc<Query>,
        config: &Config,
    ) -> Result<Vec<Listener>, ConfigError> {
        let limit = Arc::new(Semaphore::new(config.http.max_connections as usize));
        let listener = |socket, connections| Listener {
            socket,
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
                if let Ok(address) = socket.local_addr() {
                    tracing::info!(protocol = protocol.name, %address, "listening");
                }
                listeners.push(listener(socket, connections));
            }
        }
        let service = HttpService::new(Arc::clone(intake), Some(query), endpoints, &config.http);
        let http = HttpConnections::new(Arc::new(service), &config.http);
        let http: Arc<dyn ServeConnection> = Arc::new(http);
        listeners.push(listener(self.http, http));
        Ok(listeners)
    }
}

fn bind(wanted: &Listen) -> Result<TcpListener, ListenError> {
    listener::bind(wanted.address).map_err(|error| ListenError {
        address: wanted.address,
        error,
        key: wanted.key,
    })
}
