//! `GET /stats`, `/stats/{source_id}`, `/stats/rates`: what was accepted, counted. They wait for the counters, so they are
//! asked on a thread that may block.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use telemetryx_common::Timestamp;
use tokio::runtime::Handle;

use super::{Query, progress};
use crate::clock;
use crate::counters::{Counters, MinuteRate, SourceStats, Totals};
use crate::intake::Refusal;
use crate::route::RouteHandle;

/// Counters of a sink or a processor that can answer `/stats`. They answer soon, also if they cannot.
#[async_trait]
pub trait CounterStore: Send + Sync {
    /// All sources together; the last ones known if the store cannot be reached.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if it cannot and none are known.
    async fn totals(&self) -> Result<Totals, Refusal>;

    /// One source; `None` if it was never seen.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if the store cannot be reached.
    async fn source(&self, name: &str) -> Result<Option<SourceStats>, Refusal>;

    /// Events accepted in each of the last `minutes` minutes up to `now`, oldest first, of one type or of all.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if the store cannot be reached, [`Refusal::BadRequest`] if that is more than fits into an
    /// answer.
    async fn rates(
        &self,
        now: Timestamp,
        minutes: usize,
        only: Option<&str>,
    ) -> Result<Vec<MinuteRate>, Refusal>;

    /// True if there were more sources than are told apart.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if the store cannot be reached.
    async fn is_full(&self) -> Result<bool, Refusal>;

    /// For how many minutes rates are kept.
    fn minutes(&self) -> usize;

    /// Since when it could not be reached, until it has what came meanwhile. `pending`: events that its route has not passed.
    fn behind_since(&self, _pending: u64) -> Option<Timestamp> {
        None
    }
}

#[async_trait]
impl CounterStore for Counters {
    async fn totals(&self) -> Result<Totals, Refusal> {
        Ok(Self::totals(self))
    }

    async fn source(&self, name: &str) -> Result<Option<SourceStats>, Refusal> {
        Ok(Self::source(self, name))
    }

    async fn rates(
        &self,
        now: Timestamp,
        minutes: usize,
        only: Option<&str>,
    ) -> Result<Vec<MinuteRate>, Refusal> {
        Ok(Self::rates(self, now, minutes, only))
    }

    async fn is_full(&self) -> Result<bool, Refusal> {
        Ok(Self::is_full(self))
    }

    fn minutes(&self) -> usize {
        Self::minutes(self)
    }
}

/// What answers `/stats`, and whose it is.
pub struct CountedBy {
    /// The counters.
    pub store: Arc<dyn CounterStore>,
    /// The route that feeds them.
    pub route: RouteHandle,
}

/// In an answer that is older than it should be.
#[derive(Serialize)]
struct Behind {
    /// Events that are not counted yet.
    events: u64,
    since: String,
}

/// An answer, and whether it is old.
#[derive(Serialize)]
struct Dated<T> {
    #[serde(flatten)]
    answer: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<Behind>,
}

impl CountedBy {
    fn dated<T: Serialize>(&self, of: &Query, answer: T) -> Dated<T> {
        let waiting = of.journal.waiting();
        let events = progress::Total::of(&progress::of_route(of, &self.route), waiting).pending;
        let since = self.store.behind_since(events);
        let behind = since.map(|since| Behind {
            events,
            since: since.to_string(),
        });
        Dated { answer, behind }
    }
}

fn counters(of: &Query) -> Result<&CountedBy, Refusal> {
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
/// [`Refusal::NotFound`] if no route counts; [`Refusal::Unavailable`] if its store cannot be reached and nothing is known.
pub fn totals(of: &Query) -> Result<Value, Refusal> {
    let counters = counters(of)?;
    let totals = Handle::current().block_on(counters.store.totals())?;
    json(counters.dated(of, totals))
}

/// One source.
///
/// # Errors
/// [`Refusal::NotFound`] if it was never seen; [`Refusal::Unavailable`] if the store cannot be reached.
pub fn source(of: &Query, name: &str) -> Result<Value, Refusal> {
    let counters = counters(of)?;
    let runtime = Handle::current();
    match runtime.block_on(counters.store.source(name))? {
        Some(stats) => json(counters.dated(of, stats)),
        None if runtime.block_on(counters.store.is_full())? => Err(Refusal::NotFound(format!(
            "`{name}` is not among the sources that are told apart (`max_sources` of what counts them): if it was seen, \
             it is counted under `(other)`"
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
/// [`Refusal::BadRequest`] if the window cannot be read or is longer than what is kept; [`Refusal::Unavailable`] if the
/// store cannot be reached.
pub fn rates(of: &Query, parameters: &HashMap<String, String>) -> Result<Vec<u8>, Refusal> {
    let counters = counters(of)?;
    let kept = counters.store.minutes();
    let window = parameters.get("window").map_or("60m", String::as_str);
    let minutes = window
        .parse::<crate::config::Duration>()
        .ok()
        .map(|window| std::time::Duration::from(window).as_secs().div_ceil(60))
        .and_then(|minutes| usize::try_from(minutes).ok())
        .filter(|minutes| (1..=kept).contains(minutes))
        .ok_or_else(|| Refusal::BadRequest {
            code: "invalid_parameter",
            message: format!("`window` must be a duration such as `60m`, at most {kept}m"),
        })?;
    let only = parameters.get("type").map(String::as_str);
    let rates = counters.store.rates(clock::now(), minutes, only);
    let answer = Rates {
        window: format!("{minutes}m"),
        rates: Handle::current().block_on(rates)?,
    };
    serde_json::to_vec(&counters.dated(of, answer)).map_err(|_| Refusal::Internal)
}
