//! Sockets: accepts connections within their limit, tells HTTP/1.1 from h2c by the first bytes, cuts off those that
//! send nothing, and drains them at the end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::HttpService;
use crate::config::HttpConfig;
use crate::observe::Metrics;

/// What every HTTP/2 connection starts with; no HTTP/1 method does.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests at a time on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 128;
/// Bytes of headers in one request.
const HEADERS_MAX: usize = 16 << 10;
/// An HTTP/2 connection without a request is ended after this time, even if it gives signs of life.
const H2_IDLE: Duration = Duration::from_secs(30);
/// Most bytes read ahead on one connection; no budget knows of them, so they are few.
const READ_BUFFER: usize = 32 << 10;
/// An idle HTTP/2 connection is asked for a sign of life at least this often.
const H2_PING: Duration = Duration::from_secs(15);
/// Connections that the kernel holds until they are accepted. Where that is full it drops newcomers, and they try again
/// after a second: tokio's own 128 is full after a burst of a millisecond. (The system's `somaxconn` is a bound too.)
const BACKLOG: u32 = 4096;
/// How long an answer may lie unread.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// The pause after `accept` fails, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One listening socket.
pub struct Listener {
    socket: TcpListener,
    server: Server,
}

/// What every connection needs.
struct Server {
    service: Arc<HttpService>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Listener {
    /// Binds the address of `config`.
    ///
    /// # Errors
    /// The system's, such as a port that is taken.
    pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// Serves `service` on `socket`.
    #[must_use]
    pub fn new(
        socket: TcpListener,
        service: Arc<HttpService>,
        config: &HttpConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let header_timeout = Duration::from(config.header_timeout);
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(READ_BUFFER);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX as u32)
            .max_pending_accept_reset_streams(64)
            .keep_alive_interval(H2_PING.min(header_timeout))
            .keep_alive_timeout(header_timeout);
        let connections = Arc::new(Semaphore::new(config.max_connections as usize));
        let server = Server {
            service,
            http1,
            http2,
            header_timeout,
            connections,
            metrics,
        };
        Self { socket, server }
    }

    /// Accepts until `stop`, then lets the connections finish what is under way. Returns when all have ended.
    pub async fn run(self, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let Self { socket, server } = self;
        let server = Arc::new(server);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Over the limit the connection is closed at once: to wait would tie up what the limit protects.
            let Ok(permit) = Arc::clone(&server.connections).try_acquire_owned() else {
                server.metrics.connections_refused.increment(1);
                continue;
            };
            let (server, stop) = (Arc::clone(&server), stop.clone());
            tracker.spawn(async move {
                server.metrics.connections.increment(1.0);
                server.serve(stream, peer, stop).await;
                server.metrics.connections.decrement(1.0);
                drop(permit);
            });
        }
        // Closed now, so that whoever connects is refused and does not wait for an answer that never comes.
        drop(socket);
        tracker.close();
        tracker.wait().await;
    }
}

impl Server {
    async fn serve(&self, stream: TcpStream, peer: SocketAddr, stop: CancellationToken) {
        stream.set_nodelay(true).ok();
        // A client that takes none of its answer is cut off by the kernel.
        let stall = u32::try_from(WRITE_STALL.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&stream, stall).ok();
        let is_h2 = tokio::select! {
            is_h2 = tokio::time::timeout(self.header_timeout, starts_as_h2(&stream)) => is_h2,
            () = stop.cancelled() => return,
        };
        let Ok(Some(is_h2)) = is_h2 else { return };
        let service = Arc::clone(&self.service);
        let activity = Arc::new(Activity::default());
        let seen = Arc::clone(&activity);
        let answer = service_fn(move |request| {
            let service = Arc::clone(&service);
            let under_way = seen.begin();
            async move {
                let answer = service.answer(request, peer.ip()).await;
                drop(under_way);
                Ok::<_, Infallible>(answer)
            }
        });
        let io = TokioIo::new(stream);
        if is_h2 {
            let mut connection = std::pin::pin!(self.http2.serve_connection(io, answer));
            tokio::select! {
                ended = connection.as_mut() => return log_end(ended),
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
                () = activity.idle_for(H2_IDLE) => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(self.header_timeout, connection).await.ok();
                    return;
                }
            }
            log_end(connection.await);
        } else {
            let mut connection = std::pin::pin!(self.http1.serve_connection(io, answer));
            tokio::select! {
                ended = connection.as_mut() => return log_end(ended),
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            log_end(connection.await);
        }
    }
}

/// Whether a connection is used: how many requests are under way, how many there were.
#[derive(Default)]
struct Activity {
    under_way: AtomicUsize,
    begun: AtomicUsize,
}

/// A request under way.
struct UnderWay(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Resolves when there was no request for that long, or twice as long at the most.
    async fn idle_for(&self, time: Duration) {
        let mut begun = usize::MAX;
        loop {
            tokio::time::sleep(time).await;
            let now = self.begun.load(Ordering::Relaxed);
            if now == begun && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            begun = now;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at the first bytes without taking them; `None` if the client went away.
async fn starts_as_h2(stream: &TcpStream) -> Option<bool> {
    let mut seen = [0; H2_PREFACE.len()];
    let mut pause = Duration::from_millis(1);
    loop {
        let length = stream
            .peek(&mut seen)
            .await
            .ok()
            .filter(|length| *length > 0)?;
        if seen[..length] != H2_PREFACE[..length] {
            return Some(false);
        }
        if length == H2_PREFACE.len() {
            return Some(true);
        }
        // A part of the preface: `peek` would return at once again.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// How clients end their connections is their affair; it is said at `RUST_LOG=debug`.
fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
