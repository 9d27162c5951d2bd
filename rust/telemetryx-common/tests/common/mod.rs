//! Decoding into values that are easy to compare.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use telemetryx_common::{
    DecodeError, DecodeLimits, Event, EventError, decode_json, decode_ndjson, decode_protobuf,
};

/// What a decoder visited: events, or why not and their bytes.
pub type Visited<'a> = Vec<Result<Event<'a>, (EventError, String)>>;

fn outcome<'a>(
    raw: &[u8],
    result: Result<Event<'a>, EventError>,
) -> Result<Event<'a>, (EventError, String)> {
    result.map_err(|error| (error, String::from_utf8_lossy(raw).into_owned()))
}

pub fn decode(body: &str) -> Result<Visited<'_>, DecodeError> {
    let mut visited = Vec::new();
    let limits = DecodeLimits::default();
    decode_json(body.as_bytes(), &limits, |raw, result| {
        visited.push(outcome(raw, result))
    })?;
    Ok(visited)
}

pub fn decode_lines(body: &[u8]) -> Result<Visited<'_>, DecodeError> {
    let mut visited = Vec::new();
    let limits = DecodeLimits::default();
    decode_ndjson(body, &limits, |raw, result| {
        visited.push(outcome(raw, result))
    })?;
    Ok(visited)
}

pub fn decode_proto(body: &[u8]) -> Result<Visited<'_>, DecodeError> {
    let mut visited = Vec::new();
    let limits = DecodeLimits::default();
    decode_protobuf(body, &limits, |raw, result| {
        visited.push(outcome(raw, result))
    })?;
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
