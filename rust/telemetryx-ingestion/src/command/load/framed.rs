//! Framed TCP: several frames under way on a connection, answered in order.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::SystemTime;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::engine::{Sent, Shared};
use super::http::{Answer, HttpError};
use super::target::{Target, Wire};
use super::template::Template;

/// Room kept free in a connection's read buffer.
const READ_BYTES: usize = 16 * 1024;
const LENGTH_BYTES: usize = 4;
/// An answer larger than this is refused.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// One connection.
#[derive(Debug)]
struct Connection {
    stream: Wire,
    buffer: BytesMut,
}

impl Connection {
    async fn open(target: &Target, from: Option<IpAddr>) -> Result<Self, HttpError> {
        Ok(Self {
            stream: target.connect(from).await?,
            buffer: BytesMut::with_capacity(READ_BYTES),
        })
    }

    /// Waits for more bytes. May be given up at any time: what was read is kept.
    async fn read(&mut self) -> Result<(), HttpError> {
        self.buffer.reserve(READ_BYTES / 2);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(HttpError::Closed),
            _ => Ok(()),
        }
    }

    /// The next whole answer that has arrived.
    fn next(&mut self) -> Result<Option<BytesMut>, HttpError> {
        let Some((length, _)) = self.buffer.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > ANSWER_BYTES_MAX {
            return Err(HttpError::Unreadable(format!("a frame of {length} bytes")));
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length)))
    }
}

/// Sends on one connection, until there is nothing more to send and all is answered, or it breaks.
pub(super) async fn drive(shared: &Shared, template: &mut Template) -> Result<(), HttpError> {
    let mut under_way = VecDeque::new();
    let driven = drive_window(shared, template, &mut under_way).await;
    if driven.is_err() {
        // One of them is counted with the error itself.
        shared.broken(under_way.len().saturating_sub(1) as u64);
    }
    driven
}

async fn drive_window(
    shared: &Shared,
    template: &mut Template,
    under_way: &mut VecDeque<Sent>,
) -> Result<(), HttpError> {
    let plan = &shared.plan;
    let mut connection = Connection::open(&plan.target, plan.from).await?;
    let mut frames = Vec::new();
    let mut due = shared.next_turn();
    loop {
        // All that is due and fits goes out in one write.
        frames.clear();
        while under_way.len() < plan.in_flight
            && let Some(at) = due
            && let now = Instant::now()
            && at <= now
        {
            // Without a rate nothing is due while the window is full.
            let sent = shared.number(if plan.rate == 0 { now } else { at });
            frames.extend_from_slice(template.fill(sent.first, SystemTime::now()));
            under_way.push_back(sent);
            due = shared.next_turn();
        }
        if !frames.is_empty() {
            connection.stream.write_all(&frames).await?;
            connection.stream.flush().await?;
        }
        let next = due.filter(|_| under_way.len() < plan.in_flight);
        match (under_way.is_empty(), next) {
            (true, None) => return Ok(()),
            (true, Some(at)) => {
                tokio::time::sleep_until(at).await;
                continue;
            }
            (false, None) => connection.read().await?,
            (false, Some(at)) => tokio::select! {
                read = connection.read() => read?,
                () = tokio::time::sleep_until(at) => continue,
            },
        }
        while let Some(body) = connection.next()? {
            let Some(sent) = under_way.pop_front() else {
                return Err(HttpError::Unreadable("an answer to nothing".to_owned()));
            };
            let answer = Answer {
                status: 0,
                body: &body,
                close: false,
            };
            shared.answered(&sent, &answer);
        }
    }
}
