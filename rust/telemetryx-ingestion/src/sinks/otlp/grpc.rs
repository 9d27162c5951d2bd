//! Unary calls of gRPC over one HTTP/2 connection, which is made anew when it breaks.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tonic::body::Body;

use crate::ingress::otlp::reply::retry_delay;
use crate::sinks::DeliverError;
use crate::sinks::http2;
use crate::sinks::web::{ANSWER_BYTES_MAX, Open, Web, innermost, retry_after};

/// A flag and four bytes of length are before a message.
const PREFIX_BYTES: usize = 5;
/// Metadata whose name ends in `-bin`, with or without padding.
const BINARY: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Default)]
pub(super) struct Grpc {
    open: Mutex<Option<Arc<Connection>>>,
}

/// Dropping it ends it, also if the server hangs.
struct Connection(http2::Open);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.tasks.end();
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What came back, wherever it stands: with a body or without.
struct Answer {
    head: ::http::response::Parts,
    trailers: HeaderMap,
    body: Bytes,
}

impl Grpc {
    /// One call, and the message that answers it. Several may be under way at a time.
    ///
    /// # Errors
    /// [`DeliverError`], by the code that the server gives.
    pub(super) async fn call(
        &self,
        web: &Web,
        path: &'static str,
        message: &[u8],
        is_packed: bool,
    ) -> Result<Vec<u8>, DeliverError> {
        let open = web.open()?;
        let request = request(&open, path, message, is_packed)
            .map_err(|error| open.place.retryable(&error))?;
        let deadline = Instant::now() + web.timeout();
        let answered = match timeout_at(deadline, self.connection(&open)).await {
            Ok(Ok(connection)) => {
                let answered = timeout_at(deadline, connection.ask(request)).await;
                if !matches!(answered, Ok(Ok(_))) {
                    self.forget(&connection).await;
                }
                answered
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(elapsed) => Err(elapsed),
        };
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            failed => {
                // Perhaps an address or a certificate is another one by now.
                web.reopen();
                let words = match failed {
                    Ok(Err(error)) => innermost(&*error),
                    _ => web.too_slow(),
                };
                return Err(open.place.retryable(&words));
            }
        };
        let code = answer.text("grpc-status");
        let Some(code) = code.and_then(|code| code.parse().ok()).map(Code::from_i32) else {
            let said = format!("{}: this is no gRPC", answer.head.status);
            return Err(open.place.retryable(&said));
        };
        if code == Code::Ok {
            // Without asking for it, no answer is packed.
            let message = answer.body.get(PREFIX_BYTES..);
            return Ok(message.unwrap_or_default().to_vec());
        }
        let message = answer.text("grpc-message").unwrap_or_default();
        let message = percent_encoding::percent_decode_str(&message).decode_utf8_lossy();
        let said = format!("{code:?}: {}", open.secrets.shown(&message));
        if matches!(code, Code::Unauthenticated | Code::PermissionDenied) {
            web.reopen();
        }
        let wait = answer.wait();
        if let Some(wait) = wait {
            web.leave_alone(wait);
        }
        let refused = match code {
            Code::InvalidArgument => Some("grpc_invalid_argument"),
            // So servers say that a message is too large: a smaller one may pass. One that is overloaded says when to come
            // again, as OTLP has it.
            Code::OutOfRange if wait.is_none() => Some("grpc_out_of_range"),
            Code::ResourceExhausted if wait.is_none() => Some("grpc_resource_exhausted"),
            _ => None,
        };
        Err(match refused {
            Some(code) => DeliverError::Refused {
                code,
                message: said,
            },
            None => open.place.retryable(&said),
        })
    }

    async fn connection(&self, open: &Open) -> Result<Arc<Connection>, Fault> {
        let mut slot = self.open.lock().await;
        if let Some(connection) = &*slot
            && !connection.0.sender.is_closed()
        {
            return Ok(Arc::clone(connection));
        }
        let host = open.place.host.trim_matches(['[', ']']);
        let new = http2::connect(host, open.place.port, open.tls.clone(), None).await?;
        Ok(Arc::clone(slot.insert(Connection(new).into())))
    }

    /// It broke, or says nothing; whoever waits for an answer on it has a deadline.
    async fn forget(&self, connection: &Arc<Connection>) {
        let mut slot = self.open.lock().await;
        slot.take_if(|open| Arc::ptr_eq(open, connection));
    }
}

impl Connection {
    async fn ask(&self, request: Request<Body>) -> Result<Answer, Fault> {
        let mut sender = self.0.sender.clone();
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = body.to_bytes();
        Ok(Answer {
            head,
            trailers,
            body,
        })
    }
}

impl Answer {
    fn find(&self, name: &str) -> Option<&HeaderValue> {
        let trailer = self.trailers.get(name);
        trailer.or_else(|| self.head.headers.get(name))
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = self.find(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// For how long the server wants to be left alone.
    fn wait(&self) -> Option<std::time::Duration> {
        let status = self.find("grpc-status-details-bin");
        let status = status.and_then(|value| BINARY.decode(value.as_bytes()).ok());
        status
            .and_then(|status| retry_delay(&status))
            .or_else(|| retry_after(&self.head.headers))
            .or_else(|| retry_after(&self.trailers))
    }
}

fn request(
    open: &Open,
    path: &'static str,
    message: &[u8],
    is_packed: bool,
) -> Result<Request<Body>, Fault> {
    let mut body = Vec::with_capacity(PREFIX_BYTES + message.len());
    body.push(u8::from(is_packed));
    body.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    body.extend_from_slice(message);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    if is_packed {
        headers.insert(
            HeaderName::from_static("grpc-encoding"),
            HeaderValue::from_static("gzip"),
        );
    }
    headers.extend(open.headers.clone());
    let mut url = open.place.url.clone();
    url.set_query(None);
    url.set_path(path);
    let uri: Uri = url.as_str().parse()?;
    let mut request = Request::post(uri).body(Body::new(Full::new(Bytes::from(body))))?;
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::prelude::BASE64_STANDARD_NO_PAD;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpListener;
    use tokio::sync::Barrier;

    use super::*;
    use crate::sinks::web::WebConfig;

    /// A server that answers each call with these headers and no message, once as many as `together` are there.
    async fn server(headers: Vec<(&'static str, String)>, together: usize) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let barrier = Arc::new(Barrier::new(together));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (headers, barrier) = (headers.clone(), Arc::clone(&barrier));
                let service = service_fn(move |_| {
                    let (headers, barrier) = (headers.clone(), Arc::clone(&barrier));
                    async move {
                        barrier.wait().await;
                        let mut answer = ::http::Response::builder();
                        for (name, value) in headers {
                            answer = answer.header(name, value);
                        }
                        answer.body(Full::new(Bytes::new()))
                    }
                });
                let serving = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(serving);
            }
        });
        let web = Web::new(WebConfig {
            url: Some(url.parse().unwrap()),
            ..WebConfig::default()
        });
        web.ok().unwrap()
    }

    async fn refused(headers: Vec<(&'static str, String)>) -> (DeliverError, Option<Duration>) {
        let web = server(headers, 1).await;
        let error = Grpc::default().call(&web, "/a/b", b"", false).await;
        let now = std::time::Instant::now();
        let wait = web.not_before().map(|until| until.duration_since(now));
        (error.unwrap_err(), wait)
    }

    #[tokio::test]
    async fn too_large_is_told_from_too_much() {
        let status = |code: i32| {
            vec![
                ("grpc-status", code.to_string()),
                ("grpc-message", "no".to_owned()),
            ]
        };
        for (code, expected) in [
            (3, Some("grpc_invalid_argument")),
            (8, Some("grpc_resource_exhausted")),
            (11, Some("grpc_out_of_range")),
            (14, None),
        ] {
            let (error, wait) = refused(status(code)).await;
            assert_eq!(wait, None);
            match (error, expected) {
                (DeliverError::Refused { code, message }, Some(expected)) => {
                    assert_eq!(code, expected);
                    assert!(message.ends_with(": no"), "{message}");
                }
                (DeliverError::Retryable(words), None) => assert!(words.ends_with(": no")),
                (other, _) => panic!("{code}: {other}"),
            }
        }
        // A delay of 20 s, as OTLP has it, and as HTTP has it.
        let info =
            b"\x1a\x30\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x14";
        for (name, value) in [
            (
                "grpc-status-details-bin",
                BASE64_STANDARD_NO_PAD.encode(info),
            ),
            ("grpc-status-details-bin", BINARY.encode(info)),
            ("retry-after", "20".to_owned()),
        ] {
            let mut headers = status(8);
            headers.push((name, value));
            let (error, wait) = refused(headers).await;
            assert!(matches!(error, DeliverError::Retryable(_)), "{error}");
            let wait = wait.unwrap();
            assert!(wait > Duration::from_secs(10) && wait <= Duration::from_secs(20));
        }
    }

    #[tokio::test]
    async fn calls_are_under_way_together() {
        let web = server(vec![("grpc-status", "0".to_owned())], 5).await;
        let grpc = Grpc::default();
        let calls = (0..5).map(|_| grpc.call(&web, "/a/b", b"", false));
        for answer in futures_util::future::join_all(calls).await {
            answer.unwrap();
        }
    }
}
