//! Sockets: accepts connections within their limit and drains them at the end. What is spoken on them is a protocol's affair.

use std::io::{Error, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protocol::ServeConnection;
use crate::observe::Metrics;

/// Connections that the kernel holds until they are accepted. Where that is full it drops newcomers, and they try again
/// after a second: tokio's own 128 is full after a burst of a millisecond. (The system's `somaxconn` is a bound too.)
const BACKLOG: u32 = 4096;
/// How long an answer may lie unread.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// The pause after `accept` fails, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: SocketAddr,
}

/// One connection's bytes.
pub(super) struct Stream {
    socket: TcpStream,
}

impl Stream {
    /// Looks at the first bytes without taking them.
    pub(super) async fn peek(&self, seen: &mut [u8]) -> std::io::Result<usize> {
        self.socket.peek(seen).await
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

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
    pub(super) connections: Arc<dyn ServeConnection>,
    /// Connections that all sockets may have open together.
    pub(super) limit: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

impl Listener {
    /// Accepts until `stop`, then lets the connections finish what is under way. Returns when all have ended.
    pub async fn run(self, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
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
            let stop = stop.clone();
            tracker.spawn(async move {
                metrics.connections.increment(1.0);
                prepare(&socket);
                connections
                    .serve(Stream { socket }, Peer { address }, stop)
                    .await;
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
