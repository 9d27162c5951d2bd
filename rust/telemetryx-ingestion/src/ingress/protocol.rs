//! What a protocol is: paths on the HTTP port, sockets of its own, or both. A file that submits a [`ProtocolFactory`] is
//! a protocol; nothing else names it.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::http_door::Call;
use super::stream::{Peer, Stream};
use crate::config::{Config, ConfigError, TlsConfig};
use crate::intake::Intake;

/// Makes one protocol from the config.
pub(super) struct ProtocolFactory {
    /// Its name, in logs.
    pub(super) name: &'static str,
    /// The sockets it wants for itself; none if it is off.
    pub(super) listens: fn(&Config) -> Vec<Listen<'_>>,
    /// Builds it. One element of [`Built::connections`] for each socket it asked for, in that order.
    pub(super) build: fn(&Setup<'_>) -> Result<Built, ConfigError>,
}

inventory::collect!(ProtocolFactory);

/// A socket that a protocol wants.
pub(super) struct Listen<'c> {
    /// The key of its port in the config, for errors.
    pub(super) key: &'static str,
    /// Where.
    pub(super) address: SocketAddr,
    /// Its certificates, and the key of the section that names them; no TLS if it names none.
    pub(super) tls: (&'static str, &'c TlsConfig),
    /// What is offered over TLS, the best first; empty: clients know what is spoken here.
    pub(super) alpn: &'static [&'static str],
}

/// What a protocol is built from.
pub(super) struct Setup<'s> {
    /// The path that events take.
    pub(super) intake: &'s Arc<Intake>,
    /// All settings; a protocol reads its own section and `http`.
    pub(super) config: &'s Config,
}

/// A protocol, ready to serve.
#[derive(Default)]
pub(super) struct Built {
    /// Its paths on the HTTP port.
    pub(super) endpoints: Vec<Arc<dyn HttpEndpoint>>,
    /// What happens on the connections of its own sockets.
    pub(super) connections: Vec<Arc<dyn ServeConnection>>,
}

/// Paths of a protocol that speaks HTTP.
pub(super) trait HttpEndpoint: Send + Sync {
    /// The `endpoint` label in metrics: a word of ours.
    fn label(&self) -> &'static str;

    /// Whether a path is one of these.
    fn claims(&self, path: &str) -> bool;

    /// Answers one request, of any method.
    fn answer<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer>;
}

/// What happens on the connections of one socket.
pub(super) trait ServeConnection: Send + Sync + 'static {
    /// Serves one connection to its end. Once `stop` is cancelled it finishes what is under way and takes nothing new.
    fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()>;
}
