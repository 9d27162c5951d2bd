//! Reads a request's body within its limits: bytes, time, and the memory budget of all requests under way.

use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::decompress::{self, Encoding};
use crate::admission::{MemoryBudget, MemoryPermit};
use crate::intake::{MEMORY_SPENT, Refusal};

/// Memory taken at a time for a body whose length is not known.
const STEP: usize = 64 << 10;

/// The limits of one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// Most bytes, sent and unpacked.
    pub(super) bytes: usize,
    /// Most time from the end of the head to the end of the body.
    pub(super) time: Duration,
}

/// The body, unpacked, and the memory it takes.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Incoming,
    limits: BodyLimits,
    memory: &MemoryBudget,
) -> Result<(Bytes, MemoryPermit), Refusal> {
    let encoding = Encoding::of(headers.get(CONTENT_ENCODING))?;
    let reading = collect(headers, body, limits.bytes, memory);
    let (sent, permit) = tokio::time::timeout(limits.time, reading)
        .await
        .map_err(|_| Refusal::TooSlow(limits.time))??;
    match encoding {
        None => Ok((sent, permit)),
        Some(encoding) => decompress::unpack(encoding, &sent, limits.bytes, permit),
    }
}

async fn collect(
    headers: &HeaderMap,
    mut body: Incoming,
    limit: usize,
    memory: &MemoryBudget,
) -> Result<(Bytes, MemoryPermit), Refusal> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let mut permit = memory.take(announced.unwrap_or(STEP)).ok_or(MEMORY_SPENT)?;
    let mut taken = announced.unwrap_or(STEP);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::Gone)?.into_data() else {
            continue;
        };
        let length = first.len() + joined.len() + data.remaining();
        if length > limit {
            return Err(too_large(limit));
        }
        while length > taken {
            if !permit.grow(STEP) {
                return Err(MEMORY_SPENT);
            }
            taken += STEP;
        }
        // Most bodies come in one piece: that is passed on as it is.
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.reserve(announced.unwrap_or(length));
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
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
            joined.freeze()
        },
        permit,
    ))
}

pub(super) fn too_large(limit: usize) -> Refusal {
    Refusal::TooLarge {
        what: "the body",
        limit: format!("{limit} bytes (http.max_body)"),
    }
}
