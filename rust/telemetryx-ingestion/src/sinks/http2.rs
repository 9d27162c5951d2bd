//! A connection over HTTP/2, as gRPC wants it, with TLS if there is a configuration for it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::web::innermost;

/// How long the other side may take to answer a ping. A gRPC library does that, whatever its program is at.
const PING_WAIT_MAX: Duration = Duration::from_secs(20);

/// An open connection: requests go in, tasks move the bytes.
pub(super) struct Open {
    pub(super) sender: SendRequest<Body>,
    pub(super) tasks: Tasks,
}

/// All that runs for one connection; a cheap clone.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Ends all, and with them the connection, also if the other side takes no byte any more.
    pub(super) fn end(&self) {
        self.0.lock().abort_all();
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().spawn(task);
    }
}

/// Connects to `host`, a name or an address without brackets. With `keepalive`, a connection on which nothing comes for so
/// long is pinged, and ends if that is not answered.
///
/// # Errors
/// The system's words.
pub(super) async fn connect(
    host: &str,
    port: u16,
    tls: Option<ClientConfig>,
    keepalive: Option<Duration>,
) -> Result<Open, String> {
    let socket = TcpStream::connect((host, port));
    let socket = socket.await.map_err(|error| error.to_string())?;
    let immediate = socket.set_nodelay(true);
    immediate.map_err(|error| error.to_string())?;
    let Some(mut tls) = tls else {
        return shake_hands(socket, keepalive).await;
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, socket);
    let stream = stream.await.map_err(|error| format!("TLS: {error}"))?;
    shake_hands(stream, keepalive).await
}

async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    keepalive: Option<Duration>,
) -> Result<Open, String> {
    let tasks = Tasks::default();
    let mut builder = http2::Builder::new(tasks.clone());
    builder.timer(TokioTimer::new());
    if let Some(keepalive) = keepalive {
        builder
            .keep_alive_interval(keepalive)
            .keep_alive_timeout(PING_WAIT_MAX.min(keepalive));
    }
    let shaken = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| innermost(&error))?;
    tasks.execute(async move {
        // That it broke is seen by whoever waits for an answer.
        let _broken = connection.await;
    });
    Ok(Open { sender, tasks })
}
