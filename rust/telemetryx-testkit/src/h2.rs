//! A blocking HTTP/2 connection, frame by frame, so that a test can also misbehave; without TLS ("prior knowledge"), or
//! over any stream that has it.
//!
//! It knows just enough of RFC 9113 and 7541 for tests: headers are sent as plain literals, and of an answer's headers
//! only the status is read.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long reading and writing may take before they fail.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// The setting that says how much of a body may be sent before the server asks for more, and what it is unless it is set.
const INITIAL_WINDOW_SIZE: u8 = 4;
const WINDOW_DEFAULT: i64 = 65_535;
/// Bytes of a body in one frame: more needs the server to say so.
const CHUNK: usize = 16_384;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// One frame as it was received.
#[derive(Debug, Clone)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    body: Vec<u8>,
}

/// What bytes come and go by.
pub trait ReadWrite: Read + Write + Send {}

impl<S: Read + Write + Send> ReadWrite for S {}

/// One HTTP/2 connection.
pub struct H2Connection {
    stream: Box<dyn ReadWrite>,
    /// The same, if it is nothing but a socket.
    socket: Option<TcpStream>,
    scheme: &'static str,
    authority: String,
    next: u32,
    answers: HashMap<u32, (u16, Vec<u8>, bool)>,
    goaway: Option<u32>,
    /// Bytes of bodies that the server lets be sent: over all streams, over each new one, and more over each.
    window: i64,
    window_of_stream: i64,
    credit: HashMap<u32, i64>,
}

impl H2Connection {
    /// Connects to `host:port` and sends the preface.
    pub fn open(address: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT_DEFAULT))?;
        stream.set_write_timeout(Some(TIMEOUT_DEFAULT))?;
        let socket = stream.try_clone()?;
        let mut this = Self::over(Box::new(stream), "http", address)?;
        this.socket = Some(socket);
        Ok(this)
    }

    /// Sends the preface over a stream that is connected; reading and writing time out after at most 30 s.
    pub fn over(
        mut stream: Box<dyn ReadWrite>,
        scheme: &'static str,
        address: &str,
    ) -> Result<Self, Error> {
        stream.write_all(PREFACE)?;
        let mut this = Self {
            stream,
            socket: None,
            scheme,
            authority: address.to_owned(),
            next: 1,
            answers: HashMap::new(),
            goaway: None,
            window: WINDOW_DEFAULT,
            window_of_stream: WINDOW_DEFAULT,
            credit: HashMap::new(),
        };
        // No dynamic header table: each answer's headers can be read alone.
        this.send(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])?;
        Ok(this)
    }

    /// Sends the head of a request (and its body, if there is one, as fast as the server lets it) and returns its stream.
    pub fn start(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<u32, Error> {
        let ends = if body.is_empty() { END_STREAM } else { 0 };
        let stream = self.send_head(ends, method, path, headers)?;
        let mut left = body;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(left.len().min(CHUNK));
            while self.window.min(self.credit_of(stream)) < chunk.len() as i64 {
                if self
                    .answers
                    .get(&stream)
                    .is_some_and(|(_, _, ended)| *ended)
                {
                    // The answer is there, and nobody waits for the rest.
                    return Ok(stream);
                }
                self.take_frame()?;
            }
            *self.credit.entry(stream).or_default() -= chunk.len() as i64;
            self.send_data(stream, chunk, rest.is_empty())?;
            left = rest;
        }
        self.credit.remove(&stream);
        Ok(stream)
    }

    /// Sends a request as a whole without reading anything, whatever the server lets be sent, and returns its stream.
    pub fn start_unread(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<u32, Error> {
        let stream = self.send_open(path, headers, body)?;
        self.send_data(stream, &[], true)?;
        Ok(stream)
    }

    fn send_data(&mut self, stream: u32, chunk: &[u8], is_last: bool) -> Result<(), Error> {
        self.window -= chunk.len() as i64;
        self.send(DATA, if is_last { END_STREAM } else { 0 }, stream, chunk)
    }

    /// Sends the head of a request and these bytes of its body, of which more could come, and returns its stream.
    pub fn begin(&mut self, path: &str, bytes: &[u8]) -> Result<u32, Error> {
        self.send_open(path, &[], bytes)
    }

    fn send_open(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        bytes: &[u8],
    ) -> Result<u32, Error> {
        let stream = self.send_head(0, "POST", path, headers)?;
        for chunk in bytes.chunks(CHUNK) {
            self.send_data(stream, chunk, false)?;
        }
        Ok(stream)
    }

    fn credit_of(&self, stream: u32) -> i64 {
        self.window_of_stream + self.credit.get(&stream).copied().unwrap_or_default()
    }

    fn send_head(
        &mut self,
        flags: u8,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<u32, Error> {
        let stream = self.next;
        self.next += 2;
        let mut block = Vec::new();
        let own = [
            (":method", method),
            (":scheme", self.scheme),
            (":path", path),
            (":authority", &self.authority),
        ];
        for (name, value) in own.iter().chain(headers) {
            literal(&mut block, name, value);
        }
        self.send(HEADERS, END_HEADERS | flags, stream, &block)?;
        Ok(stream)
    }

    /// Sends the head of a request whose body is still to come, then takes it back at once.
    pub fn start_and_reset(&mut self, path: &str) -> Result<(), Error> {
        let stream = self.begin(path, &[])?;
        self.send(RST_STREAM, 0, stream, &8u32.to_be_bytes())
    }

    /// Sends a request and reads its answer: status and body.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(u16, Vec<u8>), Error> {
        let stream = self.start(method, path, headers, body)?;
        self.answer(stream)
    }

    /// Reads the answer of a stream: status and body. The answers of others that come before it are kept.
    pub fn answer(&mut self, stream: u32) -> Result<(u16, Vec<u8>), Error> {
        loop {
            if let Some((_, _, true)) = self.answers.get(&stream) {
                let (status, body, _) = self.answers.remove(&stream).unwrap_or_default();
                return Ok((status, body));
            }
            self.take_frame()?;
        }
    }

    /// True if the server closes the connection within the time that reading may take; until then its pings are
    /// answered, as a graceful end asks.
    pub fn is_sent_away(&mut self) -> bool {
        loop {
            match self.take_frame() {
                Ok(()) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }

    /// The error code of the last GOAWAY that was read.
    pub fn goaway(&self) -> Option<u32> {
        self.goaway
    }

    /// True if there is something to read, or the end, within this time; for a connection without TLS.
    pub fn is_answered_within(&self, time: Duration) -> Result<bool, Error> {
        let socket = self.socket.as_ref().ok_or(ErrorKind::Unsupported)?;
        socket.set_read_timeout(Some(time))?;
        let seen = socket.peek(&mut [0]);
        socket.set_read_timeout(Some(TIMEOUT_DEFAULT))?;
        Ok(!seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
    }

    /// Reads a frame and does with it what a client does.
    pub fn take_frame(&mut self) -> Result<(), Error> {
        let frame = self.read_frame()?;
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                for setting in frame.body.as_chunks::<6>().0 {
                    let [0, INITIAL_WINDOW_SIZE, value @ ..] = *setting else {
                        continue;
                    };
                    self.window_of_stream = u32::from_be_bytes(value).into();
                }
                self.send(SETTINGS, ACK, 0, &[])?;
            }
            WINDOW_UPDATE => {
                let more = frame.body.first_chunk().copied().map(u32::from_be_bytes);
                let more = i64::from(more.ok_or(ErrorKind::InvalidData)?);
                match frame.stream {
                    0 => self.window += more,
                    stream => *self.credit.entry(stream).or_default() += more,
                }
            }
            PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.body)?,
            HEADERS => {
                let status = status(&frame.body).ok_or(ErrorKind::InvalidData)?;
                self.answers
                    .insert(frame.stream, (status, Vec::new(), ends));
            }
            DATA => {
                let credit = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
                if let Some((_, body, ended)) = self.answers.get_mut(&frame.stream) {
                    body.extend_from_slice(&frame.body);
                    *ended = ends;
                }
                if credit > 0 {
                    self.send(WINDOW_UPDATE, 0, 0, &credit.to_be_bytes())?;
                    if !ends {
                        self.send(WINDOW_UPDATE, 0, frame.stream, &credit.to_be_bytes())?;
                    }
                }
            }
            GOAWAY => {
                let code = frame.body.get(4..8).and_then(|code| code.try_into().ok());
                self.goaway = code.map(u32::from_be_bytes);
            }
            RST_STREAM => {
                self.answers.entry(frame.stream).or_default().2 = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends any frame at all.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, body: &[u8]) -> Result<(), Error> {
        self.send_raw(&h2_frame(kind, flags, stream, body))
    }

    /// Sends exactly these bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes)
    }

    fn read_frame(&mut self) -> Result<Frame, Error> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            body,
        })
    }
}

/// A frame of HTTP/2 as it is sent.
///
/// # Panics
/// If its body is over 16 MiB.
pub fn h2_frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    assert!(length < 1 << 24, "a frame has less than 16 MiB");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// A header that is not to be remembered, with its name and value in plain text.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        // An integer with a prefix of 7 bits.
        let mut rest = text.len();
        if rest < 127 {
            block.push(rest as u8);
        } else {
            block.push(127);
            rest -= 127;
            while rest >= 128 {
                block.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            block.push(rest as u8);
        }
        block.extend_from_slice(text.as_bytes());
    }
}

/// The status, which every answer has first.
fn status(block: &[u8]) -> Option<u16> {
    let first = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let block = block.get(first..)?;
    match block.first()? {
        0x88 => Some(200),
        0x89 => Some(204),
        0x8a => Some(206),
        0x8b => Some(304),
        0x8c => Some(400),
        0x8d => Some(404),
        0x8e => Some(500),
        // A literal whose name is number 8, `:status`.
        0x48 | 0x08 | 0x18 => {
            let length = block.get(1)? & 0x7f;
            let text = block.get(2..2 + usize::from(length))?;
            let digits = if block.get(1)? & 0x80 == 0 {
                text.to_vec()
            } else {
                huffman_digits(text)
            };
            std::str::from_utf8(&digits).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Digits in HPACK's Huffman code: 0 to 2 have five bits, 3 to 9 six.
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut digits) = (0, Vec::new());
    let code = |from: usize, length: usize| {
        bits.get(from..from + length)
            .and_then(|code| u8::from_str_radix(code, 2).ok())
    };
    while digits.len() < 3 {
        match (code(at, 5), code(at, 6)) {
            (Some(short @ 0..=2), _) => {
                digits.push(b'0' + short);
                at += 5;
            }
            (_, Some(long @ 0x19..=0x1f)) => {
                digits.push(b'3' + long - 0x19);
                at += 6;
            }
            _ => break,
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_each_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8c, 1, 2]), Some(400));
        assert_eq!(status(&[0x48, 3, b'2', b'0', b'2']), Some(202));
        // RFC 7541, C.6.1: 302.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
    }

    #[test]
    fn long_headers_have_a_length_of_several_bytes() {
        let mut block = Vec::new();
        literal(&mut block, "a", &"x".repeat(127 + 128));
        assert_eq!(block[..3], [0, 1, b'a']);
        assert_eq!(block[3..6], [127, 128, 1]);
    }
}
