//! TLS for every listener: handshakes, and what is said to those who come without.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::stream::{self, Stream};
use crate::observe::Metrics;

mod certificates;

pub(super) use certificates::Certificates;
pub(crate) use certificates::check;

/// What HTTP listeners agree to speak.
pub(super) const ALPN_HTTP: &[&str] = &["h2", "http/1.1"];
/// What gRPC listeners agree to speak.
pub(super) const ALPN_GRPC: &[&str] = &["h2"];
/// What a client of HTTP without TLS is told.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: application/json\r\ncontent-length: 77\r\nconnection: close\r\n\r\n\
    {\"error\":{\"code\":\"tls_required\",\"message\":\"this port speaks TLS: use https\"}}";

/// TLS on one listener.
pub(super) struct Tls {
    certificates: Arc<Certificates>,
    /// What is offered, the best first.
    alpn: Vec<Vec<u8>>,
}

impl Tls {
    /// With these certificates.
    pub(super) fn new(certificates: Arc<Certificates>, alpn: &[&str]) -> Self {
        let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { certificates, alpn }
    }

    /// Follows the certificates' files for as long as it is polled.
    pub(super) fn follow(&self) -> impl Future<Output = Infallible> + use<> {
        Arc::clone(&self.certificates).follow()
    }

    /// Shakes hands within `time`. `None` if the client does not, or may not come in; that is its affair, counted, and
    /// said at `RUST_LOG=debug`.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
        time: Duration,
        metrics: &Metrics,
    ) -> Option<Stream> {
        let shaken = tokio::time::timeout(time, self.shake_hands(socket)).await;
        let why = match shaken {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err((error, socket))) => {
                // The alert that tells it why has been sent.
                stream::send_away(socket).await;
                error.to_string()
            }
            Err(_) => "it took too long".to_owned(),
        };
        metrics.handshakes_failed.increment(1);
        tracing::debug!(error = why, "a TLS handshake failed");
        None
    }

    async fn shake_hands(
        &self,
        mut socket: TcpStream,
    ) -> Result<Stream, (std::io::Error, TcpStream)> {
        let mut first = [0];
        if let Ok(1) = socket.peek(&mut first).await
            && first[0].is_ascii_alphabetic()
            && self.speaks_http1()
        {
            let told = socket.write_all(SPEAK_TLS).await;
            let error = told
                .err()
                .unwrap_or_else(|| std::io::Error::other("HTTP without TLS"));
            return Err((error, socket));
        }
        let mut config = self.certificates.current();
        config.alpn_protocols.clone_from(&self.alpn);
        let accept = TlsAcceptor::from(Arc::new(config)).accept(socket);
        let stream = accept.into_fallible().await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn speaks_http1(&self) -> bool {
        self.alpn.iter().any(|name| name == b"http/1.1")
    }
}
