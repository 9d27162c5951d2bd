//! Unary calls of gRPC over one HTTP/2 connection, which is made anew when it breaks.

use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tonic::Code;

use crate::sinks::DeliverError;
use crate::sinks::web::{ANSWER_BYTES_MAX, Open, Web, innermost, shown};

/// A flag and four bytes of length are before a message.
const PREFIX_BYTES: usize = 5;

#[derive(Default)]
pub(super) struct Grpc {
    open: Mutex<Option<Connection>>,
}

/// Dropping it ends it, also if the server hangs.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Grpc {
    /// One call, and the message that answers it.
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
        let mut slot = self.open.lock().await;
        let answered = async {
            let usable = slot
                .take()
                .filter(|connection| connection.sender.is_ready());
            let mut connection = match usable {
                Some(connection) => connection,
                None => Connection::to(&open).await?,
            };
            connection.sender.ready().await?;
            let answer = connection.sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            *slot = Some(connection);
            Ok::<_, Fault>((head, trailers, body.to_bytes()))
        };
        let answered = tokio::time::timeout(web.timeout(), answered).await;
        let (head, trailers, body) = match answered {
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
        let found = |name: &str| {
            let value = trailers.get(name).or_else(|| head.headers.get(name))?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let code = found("grpc-status").and_then(|code| code.parse().ok());
        let Some(code) = code.map(Code::from_i32) else {
            let said = format!("{}: this is no gRPC", head.status);
            return Err(open.place.retryable(&said));
        };
        if code == Code::Ok {
            // Without asking for it, no answer is packed.
            return Ok(body.get(PREFIX_BYTES..).unwrap_or_default().to_vec());
        }
        let message = found("grpc-message").unwrap_or_default();
        let message = percent_encoding::percent_decode_str(&message).decode_utf8_lossy();
        let said = format!("{code:?}: {}", shown(&message));
        if matches!(code, Code::Unauthenticated | Code::PermissionDenied) {
            web.reopen();
        }
        web.heed(&head.headers);
        match code {
            Code::InvalidArgument => Err(DeliverError::Refused {
                code: "grpc_invalid_argument",
                message: said,
            }),
            // A limit of the message, not of the load: a smaller one may pass.
            Code::ResourceExhausted if said.contains("larger than") => Err(DeliverError::Refused {
                code: "grpc_too_large",
                message: said,
            }),
            _ => Err(open.place.retryable(&said)),
        }
    }
}

impl Connection {
    async fn to(open: &Open) -> Result<Self, Fault> {
        let host = open.place.host.trim_matches(['[', ']']).to_owned();
        let socket = TcpStream::connect((host.as_str(), open.place.port)).await?;
        socket.set_nodelay(true)?;
        match &open.tls {
            None => Self::over(socket).await,
            Some(tls) => {
                let mut tls = tls.clone();
                tls.alpn_protocols = vec![b"h2".to_vec()];
                let name = ServerName::try_from(host)?;
                let connector = TlsConnector::from(std::sync::Arc::new(tls));
                Self::over(connector.connect(name, socket).await?).await
            }
        }
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Fault> {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // That it broke is seen by whoever waits for an answer.
            let _broken = connection.await;
        });
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
        })
    }
}

fn request(
    open: &Open,
    path: &'static str,
    message: &[u8],
    is_packed: bool,
) -> Result<Request<Full<Bytes>>, Fault> {
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
    let mut request = Request::post(uri).body(Full::new(body.into()))?;
    *request.headers_mut() = headers;
    Ok(request)
}
