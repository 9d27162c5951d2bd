//! The least HTTP/1.1 a load generator needs: one keep-alive connection, one write and (mostly) one read a request.
//!
//! It shares the machine with the server it measures, so it does as little as it can: `exchange` takes a request that
//! is already bytes and reads answers with a `Content-Length` only. `get`, for the questions asked beside the load,
//! also reads chunked answers. No redirects, no pipelining.

use std::net::IpAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::target::{Target, Wire};

/// Room kept free in a connection's read buffer.
const READ_BYTES: usize = 16 * 1024;
/// An answer's head larger than this is refused.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header lines an answer may have.
const HEADERS_MAX: usize = 64;

/// What went wrong between a request and its answer. Nothing of it says whether the server took the request in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No connection; trying again later may help.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// `host:port`.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The server closed the connection before the answer was whole.
    #[error("connection closed before the answer")]
    Closed,
    /// What came back is not HTTP/1.1 as this client reads it.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
}

/// How an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    Length(usize),
    Chunked,
    Close,
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Bytes of the head, with the empty line.
    pub(crate) bytes: usize,
    pub(crate) body: BodyEnd,
    /// The server will close the connection after this answer.
    pub(crate) close: bool,
}

/// Reads the head of an answer; `None` while it is not whole.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => {
            return Err(HttpError::Unreadable(format!(
                "its head is over {HEAD_BYTES_MAX} bytes"
            )));
        }
        Err(error) => return Err(HttpError::Unreadable(error.to_string())),
    };
    let status = response.code.unwrap_or(0);
    let mut close = response.version == Some(0);
    let mut body = if status < 200 || status == 204 || status == 304 {
        BodyEnd::Length(0)
    } else {
        BodyEnd::Close
    };
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            let length = length.ok_or_else(|| {
                HttpError::Unreadable("its Content-Length is no number".to_owned())
            })?;
            body = BodyEnd::Length(length);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = BodyEnd::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(Some(Head {
        status,
        bytes: head_bytes,
        body,
        close,
    }))
}

/// An answer, its body still in the connection's buffer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// The connection is of no further use.
    pub(crate) close: bool,
}

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Wire,
    buffer: BytesMut,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self, HttpError> {
        Self::open_from(target, None).await
    }

    /// As `open`, from this address of ours.
    pub(super) async fn open_from(
        target: &Target,
        from: Option<IpAddr>,
    ) -> Result<Self, HttpError> {
        Ok(Self {
            stream: target.connect(from).await?,
            buffer: BytesMut::with_capacity(READ_BYTES),
        })
    }

    /// Sends one whole request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>, HttpError> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let head = self.read_final_head().await?;
        let length = match head.body {
            BodyEnd::Length(length) => length,
            BodyEnd::Chunked => {
                return Err(HttpError::Unreadable(
                    "it is chunked; here only Content-Length is read".to_owned(),
                ));
            }
            BodyEnd::Close => {
                return Err(HttpError::Unreadable("it has no Content-Length".to_owned()));
            }
        };
        let end = head.bytes + length;
        while self.buffer.len() < end {
            self.read_more().await?;
        }
        let body = &self.buffer[head.bytes..end];
        Ok(Answer {
            status: head.status,
            body,
            close: head.close,
        })
    }

    /// Asks for `path`; the body may end in any of the ways HTTP/1.1 knows.
    pub(crate) async fn get(
        &mut self,
        host: &str,
        path: &str,
        accept: &str,
    ) -> Result<(u16, Vec<u8>), HttpError> {
        self.buffer.clear();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        let head = self.read_final_head().await?;
        self.buffer.advance(head.bytes);
        let mut body = Vec::new();
        match head.body {
            BodyEnd::Length(length) => {
                while self.buffer.len() < length {
                    self.read_more().await?;
                }
                body.extend_from_slice(&self.buffer[..length]);
            }
            BodyEnd::Chunked => self.read_chunks(&mut body).await?,
            BodyEnd::Close => {
                while self.read_more().await.is_ok() {}
                body.extend_from_slice(&self.buffer);
            }
        }
        Ok((head.status, body))
    }

    /// Reads past interim answers (`100 Continue`) to the head that counts.
    async fn read_final_head(&mut self) -> Result<Head, HttpError> {
        loop {
            self.read_more().await?;
            while let Some(head) = parse_head(&self.buffer)? {
                if head.status >= 200 {
                    return Ok(head);
                }
                self.buffer.advance(head.bytes);
            }
        }
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) -> Result<(), HttpError> {
        loop {
            let (size_bytes, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) => self.read_more().await?,
                    Err(_) => return Err(HttpError::Unreadable("a chunk has no size".to_owned())),
                }
            };
            let size = usize::try_from(size)
                .map_err(|_| HttpError::Unreadable("a chunk is too large".to_owned()))?;
            // The chunk and the line end after it; after the last chunk only the empty trailer's line end.
            while self.buffer.len() < size_bytes + size + 2 {
                self.read_more().await?;
            }
            body.extend_from_slice(&self.buffer[size_bytes..size_bytes + size]);
            self.buffer.advance(size_bytes + size + 2);
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn read_more(&mut self) -> Result<(), HttpError> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 2 {
            self.buffer.reserve(READ_BYTES);
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(HttpError::Closed),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers the first request with exactly these pieces, each its own segment.
    async fn server_answering(pieces: Vec<&'static [u8]>) -> Target {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::plain(listener.local_addr().unwrap(), "/");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            for piece in pieces {
                stream.write_all(piece).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        target
    }

    #[test]
    fn head_is_read_only_when_it_is_whole() {
        let answer =
            b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        for cut in 0..answer.len() - 5 {
            assert!(
                parse_head(&answer[..cut]).unwrap().is_none(),
                "cut at {cut}"
            );
        }
        let head = parse_head(answer).unwrap().unwrap();
        assert_eq!(
            (head.status, head.body, head.close),
            (202, BodyEnd::Length(5), true)
        );
        assert_eq!(&answer[head.bytes..], b"hello");
    }

    #[test]
    fn head_without_a_body_needs_no_length() {
        let head = parse_head(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(head.body, BodyEnd::Length(0));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n").is_err());
        assert!(parse_head(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn exchange_reads_past_an_interim_answer_and_over_torn_reads() {
        let target = server_answering(vec![
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Acc",
            b"epted\r\ncontent-length: 4\r\n\r\nab",
            b"cd",
        ])
        .await;
        let mut connection = Connection::open(&target).await.unwrap();
        let answer = connection
            .exchange(b"POST / HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(
            (answer.status, answer.body, answer.close),
            (202, &b"abcd"[..], false)
        );
    }

    #[tokio::test]
    async fn exchange_refuses_a_chunked_answer_by_name() {
        let target = server_answering(vec![
            b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ])
        .await;
        let mut connection = Connection::open(&target).await.unwrap();
        let error = connection
            .exchange(b"POST / HTTP/1.1\r\n\r\n")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("chunked"), "{error}");
    }

    #[tokio::test]
    async fn exchange_reports_a_connection_closed_half_way() {
        let target = server_answering(vec![
            b"HTTP/1.1 202 Accepted\r\ncontent-length: 9\r\n\r\nab",
        ])
        .await;
        let mut connection = Connection::open(&target).await.unwrap();
        let error = connection
            .exchange(b"POST / HTTP/1.1\r\n\r\n")
            .await
            .unwrap_err();
        assert!(
            matches!(error, HttpError::Closed | HttpError::Io(_)),
            "{error}"
        );
    }

    #[tokio::test]
    async fn get_reads_chunked_answers() {
        let target = server_answering(vec![
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1",
            b"0\r\n0123456789abcdef\r\n0\r\n\r\n",
        ])
        .await;
        let mut connection = Connection::open(&target).await.unwrap();
        let (status, body) = connection.get(&target.address, "/", "*/*").await.unwrap();
        assert_eq!(
            (status, body.as_slice()),
            (200, &b"abc0123456789abcdef"[..])
        );
    }
}
