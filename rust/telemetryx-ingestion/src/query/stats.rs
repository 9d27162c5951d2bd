//! `GET /stats`, `/stats/{source_id}`, `/stats/rates`: what was accepted, counted.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::Query;
use crate::clock;
use crate::counters::{Counters, MinuteRate};
use crate::intake::Refusal;

fn counters(of: &Query) -> Result<&Counters, Refusal> {
    of.counters.as_ref().ok_or_else(|| {
        Refusal::NotFound("no route counts events: name one in `query.counters_from`".into())
    })
}

fn json(value: impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|_| Refusal::Internal)
}

/// All sources together.
///
/// # Errors
/// [`Refusal::NotFound`] if no route counts.
pub fn totals(of: &Query) -> Result<Value, Refusal> {
    json(counters(of)?.totals())
}

/// One source.
///
/// # Errors
/// [`Refusal::NotFound`] if it was never seen.
pub fn source(of: &Query, name: &str) -> Result<Value, Refusal> {
    match counters(of)?.source(name) {
        Some(stats) => json(stats),
        None if counters(of)?.is_full() => Err(Refusal::NotFound(format!(
            "`{name}` is not among the sources that are told apart (`max_sources` of the sink `stats`): if it was \
             seen, it is counted under `(other)`"
        ))),
        None => Err(Refusal::NotFound(format!(
            "no event of the source `{name}` was seen"
        ))),
    }
}

/// The answer of `/stats/rates`: written as it is, for it is long.
#[derive(Serialize)]
struct Rates {
    window: String,
    rates: Vec<MinuteRate>,
}

/// Events accepted per minute, as JSON: `?window=60m[&type=T]`.
///
/// # Errors
/// [`Refusal::BadRequest`] if the window cannot be read or is longer than what is kept.
pub fn rates(of: &Query, parameters: &HashMap<String, String>) -> Result<Vec<u8>, Refusal> {
    let counters = counters(of)?;
    let window = parameters.get("window").map_or("60m", String::as_str);
    let minutes = window
        .parse::<crate::config::Duration>()
        .ok()
        .map(|window| std::time::Duration::from(window).as_secs().div_ceil(60))
        .and_then(|minutes| usize::try_from(minutes).ok())
        .filter(|minutes| (1..=counters.minutes()).contains(minutes))
        .ok_or_else(|| Refusal::BadRequest {
            code: "invalid_parameter",
            message: format!(
                "`window` must be a duration such as `60m`, at most {}m",
                counters.minutes()
            ),
        })?;
    let only = parameters.get("type").map(String::as_str);
    let rates = Rates {
        window: format!("{minutes}m"),
        rates: counters.rates(clock::now(), minutes, only),
    };
    serde_json::to_vec(&rates).map_err(|_| Refusal::Internal)
}
