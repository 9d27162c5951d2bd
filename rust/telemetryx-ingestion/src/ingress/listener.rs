//! Sockets: accepts connections within their limit and drains them at the end. What is spoken on them is a protocol's affair.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protocol::ServeConnection;
use super::stream::{Peer, Stream};
use super::tls::Tls;
use crate::observe::Metrics;

/// Connections that the kernel holds until they are accepted. Where that is full it drops newcomers, and they try again
/// after a second: tokio's own 128 is full after a burst of a millisecond. (The system's `somaxconn` is a bound too.)
const BACKLOG: u32 = 4096;
/// How long an answer may lie unread.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// The pause after `accept` fails, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds a listening socket.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// One listening socket and what is spoken on it.
pub struct Listener {
    pub(super) socket: TcpListener,
    /// Its certificates; `None`: no TLS.
    pub(super) tls: Option<Arc<Tls>>,
    /// How long a client may take to shake hands.
    pub(super) handshake_timeout: Duration,
    pub(super) connections: Arc<dyn ServeConnection>,
    /// Connections that all sockets may have open together.
    pub(super) limit: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

impl Listener {
    /// Accepts until `stop`, then lets the connections finish what is under way. Returns when all have ended.
    pub async fn run(self, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let following = self.tls.as_ref().map(|tls| tls.follow());
        let following = OptionFuture::from(following);
        let mut following = std::pin::pin!(following);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
                Some(never) = following.as_mut(), if self.tls.is_some() => match never {},
            };
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Over the limit the connection is closed at once: to wait would tie up what the limit protects.
            let Ok(permit) = Arc::clone(&self.limit).try_acquire_owned() else {
                self.metrics.connections_refused.increment(1);
                continue;
            };
            let (connections, metrics) = (Arc::clone(&self.connections), Arc::clone(&self.metrics));
            let (tls, handshake_timeout) = (self.tls.clone(), self.handshake_timeout);
            let stop = stop.clone();
            tracker.spawn(async move {
                metrics.connections.increment(1.0);
                prepare(&socket);
                let stream = match tls {
                    None => Some(Stream::Plain(socket)),
                    Some(tls) => {
                        // Boxed: the state of a handshake is large, and would stay with the connection to its end.
                        let shaking = Box::pin(tls.accept(socket, handshake_timeout, &metrics));
                        tokio::select! {
                            stream = shaking => stream,
                            () = stop.cancelled() => None,
                        }
                    }
                };
                if let Some(stream) = stream {
                    connections.serve(stream, Peer { address }, stop).await;
                }
                metrics.connections.decrement(1.0);
                drop(permit);
            });
        }
        // Closed now, so that whoever connects is refused and does not wait for an answer that never comes.
        drop(self.socket);
        tracker.close();
        tracker.wait().await;
    }
}

/// Best effort: without these the connection works as well.
fn prepare(socket: &TcpStream) {
    socket.set_nodelay(true).ok();
    // A client that takes none of its answer is cut off by the kernel.
    let stall = u32::try_from(WRITE_STALL.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(socket, stall).ok();
}
