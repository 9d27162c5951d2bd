//! HTTP to an object store: TLS as every sink has it, and a deadline that counts from the last byte that went or came, so
//! that a large part over a slow line is not given up while it moves; but not at a crawl for ever.

use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpService,
};
use object_store::{ClientOptions, Result};
use parking_lot::Mutex;
use rustls::ClientConfig;

/// The most that is handed to the connection at a time: what is seen to move.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// The most that is read of an answer. The largest one is a plan.
const ANSWER_BYTES_MAX: usize = super::plan::PLAN_BYTES_MAX;

/// The slowest exchange that is waited for, over all of its time.
const BYTES_PER_SECOND_MIN: u64 = 1 << 10;
/// Beside that, so many times the wait for the next byte.
const WAITS_MAX: u32 = 3;

/// Makes clients for an object store.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) tls: ClientConfig,
    /// The longest wait for a connection, and for the next byte.
    pub(super) timeout: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .connect_timeout(self.timeout)
            // A redirected request has a signature for another address.
            .redirect(reqwest::redirect::Policy::none())
            // Nor do events go where no config says.
            .no_proxy()
            .user_agent(concat!("telemetryx/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| object_store::Error::Generic {
            store: "HTTP",
            source: Box::new(error),
        })?;
        Ok(HttpClient::new(WatchedClient {
            client,
            timeout: self.timeout,
        }))
    }
}

#[derive(Debug)]
struct WatchedClient {
    client: reqwest::Client,
    timeout: Duration,
}

#[async_trait]
impl HttpService for WatchedClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let progress = Progress::default();
        let mut exchange = pin!(self.exchange(request, &progress));
        loop {
            let (deadline, why) = progress.deadline(self.timeout);
            tokio::select! {
                biased;
                done = &mut exchange => return done,
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            if progress.deadline(self.timeout).0 <= Instant::now() {
                return Err(HttpError::new(HttpErrorKind::Timeout, why));
            }
        }
    }
}

impl WatchedClient {
    async fn exchange(
        &self,
        request: HttpRequest,
        progress: &Progress,
    ) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let address = parts.uri.to_string();
        let url = address
            .parse()
            .map_err(|error| HttpError::new(HttpErrorKind::Request, Told(format!("{error}"))))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(WatchedBody {
            body,
            rest: Bytes::new(),
            progress: progress.clone(),
        }));
        let answer = self.client.execute(request).await.map_err(failed)?;
        progress.moved(0);
        let answer: http::Response<reqwest::Body> = answer.into();
        let (parts, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(failed)?.into_data() {
                progress.moved(data.len());
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > ANSWER_BYTES_MAX {
                let why = Told(format!(
                    "the answer is longer than {ANSWER_BYTES_MAX} bytes"
                ));
                return Err(HttpError::new(HttpErrorKind::Decode, why));
            }
        }
        Ok(http::Response::from_parts(parts, Bytes::from(bytes).into()))
    }
}

/// How far an exchange is.
#[derive(Clone)]
struct Progress(Arc<Mutex<Moved>>);

struct Moved {
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Moved {
            since: now,
            last: now,
            bytes: 0,
        })))
    }
}

impl Progress {
    fn moved(&self, bytes: usize) {
        let mut moved = self.0.lock();
        moved.last = Instant::now();
        moved.bytes += bytes as u64;
    }

    /// When it is given up if nothing more moves until then, and why.
    fn deadline(&self, timeout: Duration) -> (Instant, GivenUp) {
        let moved = self.0.lock();
        let quiet = moved.last + timeout;
        let allowed = timeout * WAITS_MAX + Duration::from_secs(moved.bytes / BYTES_PER_SECOND_MIN);
        let crawling = moved.since + allowed;
        if quiet <= crawling {
            (quiet, GivenUp::Quiet(timeout))
        } else {
            (crawling, GivenUp::Crawling(moved.bytes, allowed))
        }
    }
}

/// A request's body that tells how far it is.
struct WatchedBody {
    body: HttpRequestBody,
    /// Of the last part, what was not handed out.
    rest: Bytes,
    progress: Progress,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.rest = frame.into_data().unwrap_or_default();
                }
                ended => return ended,
            }
        }
        let length = this.rest.len().min(FRAME_BYTES_MAX);
        this.progress.moved(length);
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        match self.body.size_hint().exact() {
            Some(body) => SizeHint::with_exact(body + rest),
            None => SizeHint::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum GivenUp {
    #[error("nothing moved for {0:?}")]
    Quiet(Duration),
    #[error("only {0} bytes moved in {1:?}")]
    Crawling(u64, Duration),
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

/// The innermost reason says most: the outer ones say that a request failed.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = match &error {
        error if error.is_timeout() => HttpErrorKind::Timeout,
        error if error.is_connect() => HttpErrorKind::Connect,
        _ => HttpErrorKind::Interrupted,
    };
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = inner.to_string();
        cause = inner.source();
    }
    HttpError::new(kind, Told(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_slowly_is_waited_for_and_what_crawls_is_not() {
        let timeout = Duration::from_secs(10);
        let after = |bytes: usize, seconds: u64| {
            let progress = Progress::default();
            progress.0.lock().since = Instant::now() - Duration::from_secs(seconds);
            progress.moved(bytes);
            let (deadline, why) = progress.deadline(timeout);
            (deadline > Instant::now(), why.to_string())
        };
        assert_eq!(after(0, 5), (true, "nothing moved for 10s".to_owned()));
        // 8 MiB at 100 KiB/s.
        assert!(after(8 << 20, 82).0);
        // A byte every nine seconds.
        assert_eq!(
            after(4, 36),
            (false, "only 4 bytes moved in 30s".to_owned())
        );
    }
}
