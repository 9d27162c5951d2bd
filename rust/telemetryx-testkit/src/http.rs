//! A blocking HTTP/1.1 connection for tests.
//!
//! It sends what it is told, right or wrong, and reads one answer at a time: by `Content-Length`, chunked, or until the
//! server closes. The connection stays open between requests, so a test can show that it is still usable.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net;

/// How long an answer may take before the test fails.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header lines, in order; the names as they were sent.
    pub headers: Vec<(String, String)>,
    /// The body, as sent (chunks put together, nothing decompressed).
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(sent, _)| sent.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!(
                "status {}, body is not JSON ({error}): {}",
                self.status,
                self.lossy()
            ),
        }
    }

    /// The body's lines, each as JSON.
    ///
    /// # Panics
    /// If one is not.
    #[track_caller]
    pub fn ndjson(&self) -> Vec<serde_json::Value> {
        let lines = self.text().lines().filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect()
    }

    /// The answer itself if it has this status.
    ///
    /// # Panics
    /// If it has another; the message shows the body.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "body: {}", self.lossy());
        self
    }

    fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.body)
            .chars()
            .take(2000)
            .collect()
    }
}

/// One connection, kept open.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: String,
    /// Read, and not yet part of an answer.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `host:port`.
    pub fn open(address: &str) -> Result<Self, Error> {
        Self::over(TcpStream::connect(address)?, address)
    }

    /// Connects to `host:port`, an IPv4 address, from this address of the machine; of `127.0.0.0/8` all are.
    pub fn open_from(local: Ipv4Addr, address: &str) -> Result<Self, Error> {
        let remote: SocketAddr = address
            .parse()
            .map_err(|_| unreadable("the address is no IP address and port"))?;
        let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddr::from((local, 0)))?;
        net::connect(&socket, &remote)?;
        Self::over(socket.into(), address)
    }

    fn over(stream: TcpStream, address: &str) -> Result<Self, Error> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT_DEFAULT))?;
        stream.set_write_timeout(Some(TIMEOUT_DEFAULT))?;
        Ok(Self {
            stream,
            host: address.to_owned(),
            buffer: Vec::new(),
        })
    }

    /// How long reading waits; `ErrorKind::WouldBlock` or `TimedOut` after that.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), Error> {
        self.stream.set_read_timeout(Some(timeout))?;
        self.stream.set_write_timeout(Some(timeout))
    }

    /// Sends exactly these bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub fn finish_sending(&mut self) -> Result<(), Error> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Sends a request with `Host` and `Content-Length`, and these headers beside them, and reads the answer.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Error> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method != "GET" {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        // A server may answer, and close, before it has read a body that it refuses: the answer counts.
        let sent = self.send_raw(&bytes);
        match (self.read_response(), sent) {
            (Ok(response), _) => Ok(response),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    /// Reads one answer, past any `100 Continue`.
    pub fn read_response(&mut self) -> Result<Response, Error> {
        loop {
            let response = self.read_any_response()?;
            if response.status >= 200 {
                return Ok(response);
            }
        }
    }

    /// Reads one answer, also an interim one.
    pub fn read_any_response(&mut self) -> Result<Response, Error> {
        let head_end = loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.read_more()?;
        };
        let head: Vec<u8> = self.buffer.drain(..head_end).collect();
        let head = String::from_utf8(head).map_err(|_| unreadable("the head is not UTF-8"))?;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        let status = status.ok_or_else(|| unreadable("no status line"))?;
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| unreadable("a header without a colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        response.body = self.read_body(&response)?;
        Ok(response)
    }

    /// True if the server has closed the connection, or does so within `timeout`. Bytes that arrive are kept.
    pub fn closes_within(&mut self, timeout: Duration) -> bool {
        let until = std::time::Instant::now() + timeout;
        while let Some(left) = until
            .checked_duration_since(std::time::Instant::now())
            .filter(|left| !left.is_zero())
        {
            if self.stream.set_read_timeout(Some(left)).is_err() {
                return true;
            }
            match self.read_more() {
                Ok(()) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(_) => return true,
            }
        }
        let restored = self.stream.set_read_timeout(Some(TIMEOUT_DEFAULT));
        restored.is_err()
    }

    fn read_body(&mut self, head: &Response) -> Result<Vec<u8>, Error> {
        if head.status < 200 || head.status == 204 || head.status == 304 {
            return Ok(Vec::new());
        }
        if head.header("transfer-encoding").is_some() {
            return self.read_chunks();
        }
        if let Some(length) = head.header("content-length") {
            let length = length
                .parse()
                .map_err(|_| unreadable("Content-Length is no number"))?;
            return self.read_exactly(length);
        }
        while self.read_more().is_ok() {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                self.read_more()?;
            };
            let line: Vec<u8> = self.buffer.drain(..line_end + 2).collect();
            let line = String::from_utf8_lossy(&line);
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)
                .map_err(|_| unreadable("a chunk without a size"))?;
            let chunk = self.read_exactly(size + 2)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn read_exactly(&mut self, length: usize) -> Result<Vec<u8>, Error> {
        while self.buffer.len() < length {
            self.read_more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn read_more(&mut self) -> Result<(), Error> {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            // Callers ask until there is enough.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn unreadable(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection_to_server_answering(answers: &'static [&'static str]) -> Connection {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Connection::open(&address).unwrap()
    }

    #[test]
    fn answers_are_read_one_at_a_time_in_every_form() {
        let mut connection = connection_to_server_answering(&[
            "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nX-Request-Id: a:b\r\n\r\n{}",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n3;x\r\n:1}\r\n0\r\n\r\n",
            "HTTP/1.1 500 Oh\r\n\r\nuntil close",
        ]);
        let first = connection
            .request("POST", "/", &[("content-type", "a/b")], b"x")
            .unwrap();
        assert_eq!(
            (first.status, first.header("x-request-ID"), first.text()),
            (202, Some("a:b"), "{}")
        );
        assert_eq!(
            connection.request("GET", "/", &[], b"").unwrap().json()["a"],
            1
        );
        assert_eq!(
            connection
                .request("GET", "/", &[], b"")
                .unwrap()
                .expect_status(500)
                .text(),
            "until close"
        );
        assert!(connection.closes_within(Duration::from_secs(1)));
    }

    #[test]
    fn open_connection_is_not_taken_for_closed() {
        let mut connection =
            connection_to_server_answering(&["HTTP/1.1 204 No Content\r\n\r\n", "x"]);
        assert!(!connection.closes_within(Duration::from_millis(20)));
        assert_eq!(
            connection.request("GET", "/", &[], b"").unwrap().status,
            204
        );
    }

    #[test]
    #[should_panic(expected = "body: oops")]
    fn wrong_status_shows_the_body() {
        Response {
            status: 500,
            headers: Vec::new(),
            body: b"oops".to_vec(),
        }
        .expect_status(200);
    }
}
