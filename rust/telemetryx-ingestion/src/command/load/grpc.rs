//! The least gRPC a load generator needs: unary calls over one HTTP/2 connection, messages already encoded.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;

use super::http::{Answer, HttpError};
use super::target::Target;

/// One connection; the task that drives it ends with it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    uri: http::Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// `headers` are lines, like `x-api-key: …`.
    pub(super) async fn open(
        target: &Target,
        from: Option<IpAddr>,
        headers: &[String],
    ) -> Result<Self, HttpError> {
        let stream = target.connect(from).await?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let driver = tokio::spawn(async move {
            // That it broke is seen by whoever waits for an answer.
            let _broken = connection.await;
        });
        let unusable = |what: &dyn std::fmt::Display| HttpError::Unreadable(what.to_string());
        let uri = format!("{}://{}{}", target.scheme(), target.address, target.path);
        let uri = uri.parse().map_err(|error| unusable(&error))?;
        let mut all = HeaderMap::new();
        all.insert("content-type", HeaderValue::from_static("application/grpc"));
        all.insert("te", HeaderValue::from_static("trailers"));
        for line in headers {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let name = name
                .trim()
                .parse::<HeaderName>()
                .map_err(|error| unusable(&error))?;
            let value = value.trim().parse().map_err(|error| unusable(&error))?;
            all.insert(name, value);
        }
        Ok(Self {
            sender,
            driver,
            uri,
            headers: all,
            body: Bytes::new(),
        })
    }

    /// One call with a whole message; the status is the HTTP one that OTLP gives the same meaning.
    pub(super) async fn exchange(&mut self, message: &[u8]) -> Result<Answer<'_>, HttpError> {
        let mut request = Request::post(self.uri.clone())
            .body(Full::new(Bytes::copy_from_slice(message)))
            .map_err(|error| HttpError::Unreadable(error.to_string()))?;
        request.headers_mut().clone_from(&self.headers);
        self.sender.ready().await.map_err(broken)?;
        let answer = self.sender.send_request(request).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let collected = body.collect().await.map_err(broken)?;
        let code = collected
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .or_else(|| head.headers.get("grpc-status"))
            .and_then(|code| code.to_str().ok()?.parse().ok());
        let status = match code {
            Some(code) => status(code),
            None => head.status.as_u16(),
        };
        self.body = collected.to_bytes();
        Ok(Answer {
            status,
            // A flag and four bytes of length are before the message.
            body: self.body.get(5..).unwrap_or_default(),
            close: false,
        })
    }
}

/// The HTTP status with the meaning of a gRPC code.
fn status(code: u16) -> u16 {
    match code {
        0 => 200,
        3 | 11 => 400,
        16 => 401,
        7 => 403,
        5 | 12 => 404,
        4 => 408,
        8 => 429,
        14 => 503,
        _ => 500,
    }
}

fn broken(error: hyper::Error) -> HttpError {
    HttpError::Io(std::io::Error::other(error))
}
