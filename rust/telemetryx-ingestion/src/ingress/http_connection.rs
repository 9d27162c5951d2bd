//! HTTP on one connection: tells HTTP/1.1 from HTTP/2 by what was agreed on over TLS or by the first bytes, cuts off those that send nothing, drains at the end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::HttpService;
use super::answer::AnswerBody;
use super::protocol::ServeConnection;
use super::stream::{Peer, Stream};
use crate::config::HttpConfig;

/// What every HTTP/2 connection starts with; no HTTP/1 method does.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests at a time on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 128;
/// Bytes that a client may send on one HTTP/2 connection before we have read them; no budget knows of those that lie
/// there. (hyper's own bound is 1 MiB.)
const H2_CONNECTION_WINDOW: u32 = 256 << 10;
/// The same of one request: two that nobody reads leave room for others.
const H2_STREAM_WINDOW: u32 = 128 << 10;
/// Bytes of headers in one request.
const HEADERS_MAX: usize = 16 << 10;
/// An HTTP/2 connection without a request is ended after so many times the time for a request's head, even if it gives
/// signs of life.
const H2_IDLE: u32 = 6;
/// Most bytes read ahead on one connection; no budget knows of them, so they are few.
const READ_BUFFER: usize = 16 << 10;
/// An idle HTTP/2 connection is asked for a sign of life at least this often.
const H2_PING: Duration = Duration::from_secs(15);

/// The connections of one HTTP socket.
pub(super) struct HttpConnections {
    service: Arc<HttpService>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    header_timeout: Duration,
}

impl HttpConnections {
    /// Connections whose requests `service` answers.
    pub(super) fn new(service: Arc<HttpService>, config: &HttpConfig) -> Self {
        let header_timeout = Duration::from(config.header_timeout);
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(READ_BUFFER);
        Self {
            service,
            http1,
            http2: http2_builder(header_timeout),
            header_timeout,
        }
    }

    async fn run(&self, stream: Stream, peer: Peer, stop: CancellationToken) {
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
                let answer = in_turns(service.answer(request, peer)).await;
                let activity = Arc::clone(&under_way.0);
                Ok::<_, Infallible>(answer.map(|body| Watched { body, activity }))
            }
        });
        let io = TokioIo::new(stream);
        if is_h2 {
            let mut connection = std::pin::pin!(self.http2.serve_connection(io, answer));
            tokio::select! {
                ended = connection.as_mut() => return log_end(ended),
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
                () = activity.idle_for(self.header_timeout * H2_IDLE) => {
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

impl ServeConnection for HttpConnections {
    fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        async move { self.run(stream, peer, stop).await }.boxed()
    }
}

/// What is there at once is given when all others have had a turn: a client that sends one request after the other and
/// reads all answers would keep its thread to itself.
async fn in_turns<F: Future>(answering: F) -> F::Output {
    let mut answering = std::pin::pin!(answering);
    let mut has_waited = false;
    let answer = poll_fn(|context| {
        let polled = answering.as_mut().poll(context);
        has_waited |= polled.is_pending();
        polled
    })
    .await;
    if !has_waited {
        tokio::task::yield_now().await;
    }
    answer
}

/// HTTP/2 with the limits that every port of ours has.
pub(super) fn http2_builder(header_timeout: Duration) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .max_header_list_size(HEADERS_MAX as u32)
        .max_pending_accept_reset_streams(64)
        .keep_alive_interval(H2_PING.min(header_timeout))
        .keep_alive_timeout(header_timeout);
    http2
}

/// Whether a connection is used: how many requests are under way, how many steps were made on all.
#[derive(Default)]
struct Activity {
    under_way: AtomicUsize,
    steps: AtomicUsize,
}

/// A request under way.
struct UnderWay(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Resolves when no request came and nothing of an answer was taken for that long, or twice as long at the most.
    async fn idle_for(&self, time: Duration) {
        let mut steps = usize::MAX;
        loop {
            tokio::time::sleep(time).await;
            let now = self.steps.load(Ordering::Relaxed);
            if now == steps && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            steps = now;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body that says when some of it is taken: a long answer that is read is no idle connection.
struct Watched {
    body: AnswerBody,
    activity: Arc<Activity>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = <AnswerBody as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.activity.steps.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What was agreed on over TLS; else looks at the first bytes without taking them. `None` if the client went away.
async fn starts_as_h2(stream: &Stream) -> Option<bool> {
    if let Some(agreed) = stream.agreed() {
        return Some(agreed == b"h2");
    }
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
