//! A blocking client of framed TCP that can also misbehave.

use std::io::{Error, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take before the test fails.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// One connection, kept open.
#[derive(Debug)]
pub struct FrameConnection {
    stream: TcpStream,
}

impl FrameConnection {
    /// Connects to `host:port`.
    pub fn open(address: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT_DEFAULT))?;
        stream.set_write_timeout(Some(TIMEOUT_DEFAULT))?;
        Ok(Self { stream })
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends exactly these bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes)
    }

    /// Sends a frame.
    pub fn send(&mut self, body: impl AsRef<[u8]>) -> Result<(), Error> {
        self.send_raw(&frame(body))
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub fn finish_sending(&mut self) -> Result<(), Error> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Reads the next answer.
    pub fn answer(&mut self) -> Result<Value, Error> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends a frame and reads its answer.
    pub fn ask(&mut self, body: impl AsRef<[u8]>) -> Result<Value, Error> {
        self.send(body)?;
        self.answer()
    }

    /// True if the server closes the connection within this time; what it sends until then is thrown away.
    pub fn closes_within(&mut self, time: Duration) -> bool {
        let begun = std::time::Instant::now();
        let mut thrown = [0; 4096];
        while let Some(left) = time
            .checked_sub(begun.elapsed())
            .filter(|left| !left.is_zero())
        {
            if self.stream.set_read_timeout(Some(left)).is_err() {
                return true;
            }
            match self.stream.read(&mut thrown) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
        false
    }
}

/// A frame as it is sent: its length, and its bytes.
///
/// # Panics
/// If they are over 4 GiB.
pub fn frame(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = u32::try_from(body.len()).expect("a frame has at most 4 GiB");
    [&length.to_be_bytes(), body].concat()
}
