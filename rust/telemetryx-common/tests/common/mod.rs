//! Decoding into values that are easy to compare.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use telemetryx_common::{
    DecodeError, DecodeLimits, Event, EventError, RejectedEvent, decode_json, decode_ndjson,
    decode_protobuf,
};

/// What a decoder visited: events, or why not and their bytes.
pub type Visited<'a> = Vec<Result<Event<'a>, (EventError, String)>>;

fn outcome<'a>(
    result: Result<Event<'a>, RejectedEvent<'a>>,
) -> Result<Event<'a>, (EventError, String)> {
    result.map_err(|rejected| {
        let raw = String::from_utf8_lossy(rejected.raw).into_owned();
        (rejected.error, raw)
    })
}

pub fn decode(body: &str) -> Result<Visited<'_>, DecodeError> {
    let mut visited = Vec::new();
    let limits = DecodeLimits::default();
    decode_json(body.as_bytes(), &limits, |result| {
        visited.push(outcome(result))
    })?;
    Ok(visited)
}

pub fn decode_lines(body: &[u8]) -> Result<Visited<'_>, DecodeError> {
    let mut visited = Vec::new();
    let limits = DecodeLimits::default();
    decode_ndjson(body, &limits, |result| visited.push(outcome(result)))?;
    Ok(visited)
}

pub fn decode_proto(body: &[u8]) -> Result<Visited<'_>, DecodeError> {
    let mut visited = Vec::new();
    let limits = DecodeLimits::default();
    decode_protobuf(body, &limits, |result| visited.push(outcome(result)))?;
    Ok(visited)
}

/// The one sound event of a body.
pub fn one(body: &str) -> Event<'static> {
    let mut visited = decode(body).unwrap();
    assert_eq!(visited.len(), 1);
    visited.remove(0).unwrap().into_owned()
}

/// Why the one event of a body is refused.
pub fn refused(body: &str) -> EventError {
    let mut visited = decode(body).unwrap();
    assert_eq!(visited.len(), 1);
    visited.remove(0).unwrap_err().0
}
