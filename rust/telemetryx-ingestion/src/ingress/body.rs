//! Reads a request's body within its limits: bytes, time, and the memory budget of all requests under way.

use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

use super::decompress::{self, Encoding};
use crate::admission::{MemoryBudget, MemoryPermit};
use crate::config::HttpConfig;
use crate::intake::{MEMORY_SPENT, Refusal};

/// Most memory taken for a body before its first byte: those who send heads alone are to take little from the others.
const STEP: usize = 8 << 10;
/// Most bytes read and forgotten of a body that is not wanted.
const DISCARDED_MAX: usize = 64 << 20;
/// How many such bodies are read at a time, over all connections: each takes a buffer that no budget knows of. Those
/// beyond are not waited with, which would keep what has arrived of them in memory.
static DISCARDING: Semaphore = Semaphore::const_new(64);

/// The limits of one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// Most bytes, sent and unpacked.
    pub(super) bytes: usize,
    /// Most time from the end of the head to the end of the body.
    pub(super) time: Duration,
}

impl BodyLimits {
    /// Those of the config.
    pub(super) fn of(config: &HttpConfig) -> Self {
        Self {
            bytes: config.max_body.as_usize(),
            time: config.body_timeout.into(),
        }
    }
}

/// The body, unpacked, and the memory it takes. `verify` sees it as it was sent, before anything is unpacked.
pub(super) async fn read(
    headers: &HeaderMap,
    body: &mut Incoming,
    limits: BodyLimits,
    memory: &MemoryBudget,
    verify: impl FnOnce(&[u8]) -> Result<(), Refusal>,
) -> Result<(Bytes, MemoryPermit), Refusal> {
    let encoding = Encoding::of(headers.get(CONTENT_ENCODING))?;
    let reading = collect(headers, body, limits.bytes, memory);
    let (sent, permit) = tokio::time::timeout(limits.time, reading)
        .await
        .map_err(|_| Refusal::TooSlow(limits.time))??;
    verify(&sent)?;
    match encoding {
        None => Ok((sent, permit)),
        Some(encoding) => decompress::unpack(encoding, &sent, limits.bytes, permit),
    }
}

/// Reads on behind an answer that was given before the body was read, and forgets what comes: a connection closed with
/// unread bytes is reset, and the reset overtakes the answer. Bounded in bytes and time; a client that waits to be told
/// to send its body is not told.
pub(super) fn discard(headers: &HeaderMap, mut body: Incoming, limits: BodyLimits) {
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    let Ok(turn) = DISCARDING.try_acquire() else {
        return;
    };
    tokio::spawn(tokio::time::timeout(limits.time, async move {
        let _turn = turn;
        let mut left = DISCARDED_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    }));
}

async fn collect(
    headers: &HeaderMap,
    body: &mut Incoming,
    limit: usize,
    memory: &MemoryBudget,
) -> Result<(Bytes, MemoryPermit), Refusal> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(Refusal::body_too_large(limit));
    }
    // Taken before it is made, as much again as has arrived: what a client only announces takes nothing from the others.
    let mut room = announced.unwrap_or(STEP).min(STEP);
    let mut permit = memory.take(room).ok_or(MEMORY_SPENT)?;
    let mut first = Bytes::new();
    let mut joined = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::Gone)?.into_data() else {
            continue;
        };
        let length = first.len() + joined.len() + data.remaining();
        if length > limit {
            return Err(Refusal::body_too_large(limit));
        }
        if length > room {
            let most = announced.unwrap_or(limit);
            let more = length.next_power_of_two().min(most).max(length) - room;
            permit.grow(more)?;
            room += more;
        }
        // Most bodies come in one piece: that is passed on as it is.
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            joined.reserve_exact(room - joined.len());
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok((
        if joined.is_empty() {
            first
        } else {
            joined.into()
        },
        permit,
    ))
}
