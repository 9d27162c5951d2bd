//! A connection as a protocol gets it: who is at the other end, and its bytes, encrypted or not.

use std::io::{Error, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How long bytes are read and forgotten after the last word to a client.
const LINGER: Duration = Duration::from_secs(1);
/// How many such bytes.
const LINGER_BYTES_MAX: usize = 64 << 20;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: SocketAddr,
}

/// One connection's bytes.
pub(super) enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// What client and server agreed to speak while they shook hands, empty if that was left open; `None` without TLS.
    pub(super) fn agreed(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().1.alpn_protocol().unwrap_or_default()),
        }
    }

    /// Looks at the first bytes of the socket without taking them; over TLS they mean nothing.
    pub(super) async fn peek(&self, seen: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.peek(seen).await,
            Self::Tls(stream) => stream.get_ref().0.peek(seen).await,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Ends our side of a connection after the last word to its client, then reads on for a moment and forgets what comes:
/// closing with unread bytes resets the connection, and the reset overtakes the last word.
pub(super) async fn send_away(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let ending = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut forgotten = vec![0; 8 << 10];
        let mut left = LINGER_BYTES_MAX;
        while let Ok(read @ 1..) = stream.read(&mut forgotten).await {
            match left.checked_sub(read) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Whoever does not listen has had its time.
    tokio::time::timeout(LINGER, ending).await.ok();
}
