//! Where the brain is, and the connection to it: HTTP/2, with TLS if the URL says `https`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::AsciiMetadataValue;

use super::super::secret::SinkSecret;
use super::super::tls::TlsFiles;

const MISSING: &str = "`url` is missing: `http://127.0.0.1:50061`, for example";
/// How long a brain may take to answer a ping. Its gRPC library does that, whatever the brain is at.
const PING_WAIT_MAX: Duration = Duration::from_secs(20);
const WRONG: &str = "`url` must be http://host:port, or https://host:port for TLS";

/// Where the brain is, and how to come in.
pub(super) struct Address {
    origin: Uri,
    host: String,
    port: u16,
    tls: Option<TlsFiles>,
    token: Option<SinkSecret>,
    keepalive: Duration,
}

/// An open connection: requests go in, tasks move the bytes.
pub(super) struct Open {
    pub(super) sender: Sender,
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

/// hyper's sender as tonic wants it.
pub(super) struct Sender(SendRequest<Body>);

type Answering = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

impl Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        Box::pin(self.0.send_request(request))
    }
}

impl Address {
    /// Reads all files; reaches nothing. A connection on which nothing came for `keepalive` is pinged.
    ///
    /// # Errors
    /// What is wrong, each mistake with its key.
    pub(super) fn new(
        url: &str,
        tls: Option<TlsFiles>,
        token: Option<SinkSecret>,
        keepalive: Duration,
    ) -> Result<Self, Vec<String>> {
        if url.is_empty() {
            return Err(vec![MISSING.to_owned()]);
        }
        let wrong = || vec![WRONG.to_owned()];
        let origin: Uri = url.parse().map_err(|_| wrong())?;
        let secure = match origin.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong()),
        };
        let authority = origin.authority().ok_or_else(wrong)?;
        let port = authority.port_u16().ok_or_else(wrong)?;
        let is_bare = matches!(origin.path(), "" | "/") && origin.query().is_none();
        if !is_bare || authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        if tls.is_some() && !secure {
            return Err(vec![
                "`tls` is set, but `url` does not say `https://`".to_owned(),
            ]);
        }
        let tls = secure.then(|| tls.unwrap_or_default());
        if let Some(files) = &tls {
            files
                .client_config()
                .map_err(|error| vec![error.to_string()])?;
        }
        let host = authority.host();
        let address = Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls,
            token,
            keepalive,
            origin: origin.clone(),
        };
        address.metadata().map_err(|error| vec![error])?;
        Ok(address)
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        format!("the brain at {}:{}", self.host, self.port)
    }

    /// What the URI of a call begins with.
    pub(super) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    /// The header `authorization`, if there is a token.
    ///
    /// # Errors
    /// The token's file cannot be read, or it is none that a header can carry.
    pub(super) fn metadata(&self) -> Result<Option<AsciiMetadataValue>, String> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let token = token.read()?;
        let value = format!("Bearer {}", token.expose()).parse();
        let mut value: AsciiMetadataValue =
            value.map_err(|_| "`token` has characters that no header can carry".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Connects. Certificates are read again, so that new ones need no restart.
    ///
    /// # Errors
    /// The system's words.
    pub(super) async fn connect(&self) -> Result<Open, String> {
        let socket = TcpStream::connect((self.host.as_str(), self.port));
        let socket = socket.await.map_err(|error| error.to_string())?;
        socket
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let Some(files) = self.tls.clone() else {
            return self.shake_hands(socket).await;
        };
        let config = tokio::task::spawn_blocking(move || files.client_config()).await;
        let config = config.map_err(|error| error.to_string())?;
        let mut config = config.map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let stream = stream.await.map_err(|error| format!("TLS: {error}"))?;
        self.shake_hands(stream).await
    }

    async fn shake_hands(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Open, String> {
        let tasks = Tasks::default();
        let shaken = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.keepalive)
            .keep_alive_timeout(PING_WAIT_MAX.min(self.keepalive))
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = shaken.map_err(|error| error.to_string())?;
        tasks.execute(async move {
            // That it broke is seen by whoever waits for an answer.
            let _broken = connection.await;
        });
        Ok(Open {
            sender: Sender(sender),
            tasks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn refused(url: &str, tls: Option<TlsFiles>) -> String {
        let refused = Address::new(url, tls, None, HOUR).err().unwrap();
        refused.join("; ")
    }

    #[test]
    fn urls_that_are_none_are_refused_and_say_what_is_right() {
        for url in [
            "127.0.0.1:50061",
            "http://127.0.0.1",
            "ftp://127.0.0.1:1",
            "http://me:pw@127.0.0.1:1",
            "http://127.0.0.1:1/path",
            "http://127.0.0.1:1?x=1",
            "http://:1",
            "http://127.0.0.1:99999",
            "not a url",
        ] {
            assert_eq!(refused(url, None), WRONG, "{url}");
        }
        assert_eq!(refused("", None), MISSING);
        let tls = Some(TlsFiles::default());
        assert!(refused("http://127.0.0.1:1", tls).contains("`https://`"));
    }

    #[test]
    fn an_address_of_ip_version_6_is_without_brackets() {
        let address = Address::new("http://[::1]:50061", None, None, HOUR);
        let address = address.ok().unwrap();
        assert_eq!((address.host.as_str(), address.port), ("::1", 50061));
        assert_eq!(address.shown(), "the brain at ::1:50061");
    }

    #[test]
    fn a_token_is_a_header_that_is_not_shown() {
        let token = SinkSecret::of("token", Some("s3cret".parse().unwrap()), None);
        let address = Address::new("http://h:1", None, token.unwrap(), HOUR);
        let address = address.ok().unwrap();
        let value = address.metadata().unwrap().unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{value:?}").contains("s3cret"));
    }
}
