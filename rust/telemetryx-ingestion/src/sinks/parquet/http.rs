//! HTTP to an object store: TLS as every sink has it, and a deadline that counts from the last byte that went or came, so
//! that a large part over a slow line is not given up while it moves.

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
            let deadline = progress.last() + self.timeout;
            tokio::select! {
                biased;
                done = &mut exchange => return done,
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            if progress.last() + self.timeout <= Instant::now() {
                return Err(HttpError::new(
                    HttpErrorKind::Timeout,
                    NoProgress(self.timeout),
                ));
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
        progress.moved();
        let answer: http::Response<reqwest::Body> = answer.into();
        let (parts, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            progress.moved();
            if let Ok(data) = frame.map_err(failed)?.into_data() {
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

/// When a byte last moved.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn moved(&self) {
        *self.0.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock()
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
        this.progress.moved();
        let length = this.rest.len().min(FRAME_BYTES_MAX);
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
#[error("nothing moved for {0:?}")]
struct NoProgress(Duration);

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
