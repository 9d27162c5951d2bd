//! `/stats` from Redis: what is there, or what was known last, and since when it is old.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{FromRedisValue, Pipeline};
use telemetryx_common::Timestamp;

use super::ANSWER_WAIT_MAX;
use super::connection::Link;
use super::keys::Keys;
use crate::clock;
use crate::counters::{MinuteRate, OTHER, SourceStats, Totals, minutes_up_to};
use crate::intake::Refusal;
use crate::query::CounterStore;

/// How long nothing is asked after there was no answer.
const REST: Duration = Duration::from_secs(1);
/// Minutes asked for at once.
const MINUTES_AT_ONCE: usize = 60;
/// Counts that an answer has at most.
const COUNTS_MAX: usize = 250_000;

/// Reads the counters, over a connection of its own.
pub(super) struct RedisCounters {
    link: Link,
    keys: Keys,
    minutes: usize,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    totals: Option<Totals>,
    outage: Option<Outage>,
}

/// Redis did not answer.
#[derive(Debug, Clone)]
struct Outage {
    /// What was accepted from then on may not be counted.
    since: Timestamp,
    last: Timestamp,
    /// When it did not answer last, by a clock that nobody sets.
    asked: Instant,
    /// The last error.
    words: String,
    /// It answers again.
    over: bool,
}

impl RedisCounters {
    /// `minutes`: for how many rates are kept.
    pub(super) fn new(link: Link, keys: Keys, minutes: usize) -> Self {
        Self {
            link,
            keys,
            minutes,
            known: Mutex::default(),
        }
    }

    /// Totals that Redis had.
    pub(super) fn learn(&self, totals: Totals) {
        self.known.lock().totals = Some(totals);
    }

    /// The totals known last.
    pub(super) fn known(&self) -> Option<Totals> {
        self.known.lock().totals
    }

    /// Redis does not answer. `oldest`: when the first event was accepted that it should have counted.
    pub(super) fn failed(&self, words: &str, oldest: Option<Timestamp>) {
        let now = clock::now();
        let mut known = self.known.lock();
        let lasts = known.outage.as_ref().filter(|outage| !outage.over);
        let since = lasts.map_or(now, |outage| outage.since);
        let since = oldest.map_or(since, |oldest| since.min(oldest));
        known.outage = Some(Outage {
            since,
            last: now,
            asked: Instant::now(),
            words: words.to_owned(),
            over: false,
        });
    }

    /// Why not to ask now: Redis did not answer a moment ago, and who asks shall not wait in vain one after the other.
    fn rests(&self) -> Result<(), Refusal> {
        let known = self.known.lock();
        let Some(outage) = known.outage.as_ref().filter(|outage| !outage.over) else {
            return Ok(());
        };
        if outage.asked.elapsed() > REST {
            return Ok(());
        }
        Err(Refusal::Unavailable(outage.words.clone()))
    }

    /// Redis answers.
    fn answered(&self) {
        if let Some(outage) = &mut self.known.lock().outage {
            outage.over = true;
        }
    }

    /// It has everything that was accepted up to `newest`.
    pub(super) fn delivered(&self, newest: Option<Timestamp>) {
        let mut known = self.known.lock();
        let Some(outage) = &mut known.outage else {
            return;
        };
        outage.over = true;
        if newest.is_some_and(|newest| newest >= outage.last) {
            known.outage = None;
        }
    }

    /// Asks, and notes whether there was an answer.
    async fn ask<T: FromRedisValue>(&self, questions: &Pipeline) -> Result<T, Refusal> {
        self.rests()?;
        let answer = self.link.ask_all(questions).await;
        match &answer {
            Ok(_) => self.answered(),
            Err(words) => self.failed(words, None),
        }
        answer.map_err(Refusal::Unavailable)
    }

    /// Types and their counts, of these minutes.
    async fn minutes_of(
        &self,
        minutes: &[i64],
        only: Option<&str>,
    ) -> Result<Vec<BTreeMap<String, u64>>, Refusal> {
        let mut questions = redis::pipe();
        for minute in minutes {
            let key = self.keys.minute(*minute);
            match only {
                Some(kind) => questions.hget(key, kind),
                None => questions.hgetall(key),
            };
        }
        match only {
            None => self.ask(&questions).await,
            Some(kind) => {
                let counts: Vec<Option<u64>> = self.ask(&questions).await?;
                let one = |count: Option<u64>| count.map(|count| (kind.to_owned(), count));
                Ok(counts
                    .into_iter()
                    .map(|count| one(count).into_iter().collect())
                    .collect())
            }
        }
    }

    async fn read_rates(
        &self,
        wanted: &[i64],
        only: Option<&str>,
    ) -> Result<Vec<MinuteRate>, Refusal> {
        let mut rates = Vec::with_capacity(wanted.len());
        let mut counts = 0;
        for some in wanted.chunks(MINUTES_AT_ONCE) {
            let found = self.minutes_of(some, only).await?;
            counts += found.iter().map(BTreeMap::len).sum::<usize>();
            if counts > COUNTS_MAX {
                return Err(Refusal::BadRequest {
                    code: "too_many_counts",
                    message: format!(
                        "these minutes have more than {COUNTS_MAX} counts of types: ask for a shorter `window` or one `type`"
                    ),
                });
            }
            let found = some.iter().zip(found);
            rates.extend(found.map(|(minute, types)| MinuteRate::new(*minute, types)));
        }
        Ok(rates)
    }
}

#[async_trait]
impl CounterStore for RedisCounters {
    async fn totals(&self) -> Result<Totals, Refusal> {
        let mut questions = redis::pipe();
        questions.hget(self.keys.totals(), "events");
        questions.hlen(self.keys.sources());
        let answer = self.ask::<(Option<u64>, u64)>(&questions).await;
        let (events, sources_count) = match answer {
            Ok(totals) => totals,
            Err(error) => return self.known().ok_or(error),
        };
        let totals = Totals {
            sources_count,
            events_count: events.unwrap_or(0),
        };
        self.learn(totals);
        Ok(totals)
    }

    async fn source(&self, name: &str) -> Result<Option<SourceStats>, Refusal> {
        let mut questions = redis::pipe();
        questions.hgetall(self.keys.source(name));
        let (fields,): (HashMap<String, String>,) = self.ask(&questions).await?;
        let time = |name| Timestamp::parse(fields.get(name)?).ok();
        let (Some(first), Some(last)) = (time("first"), time("last")) else {
            return Ok(None);
        };
        let types = fields.iter().filter_map(|(field, count)| {
            Some((field.strip_prefix("type:")?.to_owned(), count.parse().ok()?))
        });
        let numeric = fields.contains_key("number");
        let stats = SourceStats::new(name, numeric, first, last, types.collect());
        Ok(Some(stats))
    }

    async fn rates(
        &self,
        now: Timestamp,
        minutes: usize,
        only: Option<&str>,
    ) -> Result<Vec<MinuteRate>, Refusal> {
        let wanted: Vec<_> = minutes_up_to(now, minutes).collect();
        let rates = tokio::time::timeout(ANSWER_WAIT_MAX, self.read_rates(&wanted, only));
        rates.await.unwrap_or_else(|_| {
            let words = format!("redis: so much was not read within {ANSWER_WAIT_MAX:?}");
            Err(Refusal::Unavailable(words))
        })
    }

    async fn is_full(&self) -> Result<bool, Refusal> {
        let mut questions = redis::pipe();
        questions.hexists(self.keys.sources(), OTHER);
        let (full,) = self.ask(&questions).await?;
        Ok(full)
    }

    fn minutes(&self) -> usize {
        self.minutes
    }

    fn behind_since(&self, pending: u64) -> Option<Timestamp> {
        let mut known = self.known.lock();
        let outage = known.outage.as_ref()?;
        let since = outage.since;
        if outage.over && pending == 0 {
            known.outage = None;
            return None;
        }
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::connection::Server;
    use super::*;
    use crate::sinks::secret::SinkSecret;
    use crate::sinks::tls::TlsFiles;

    fn counters() -> RedisCounters {
        let url = SinkSecret::Given("redis://127.0.0.1:1".parse().unwrap());
        let keys = Keys::new("p");
        let server = Server::new(url, None, TlsFiles::default(), keys.totals());
        let link = Link::new(Arc::new(server), ANSWER_WAIT_MAX);
        RedisCounters::new(link, keys, 60)
    }

    #[test]
    fn it_is_asked_again_after_a_rest_though_the_clock_was_set_back() {
        let counters = counters();
        counters.failed("away", None);
        assert!(counters.rests().is_err());
        let hours_ahead = clock::now().unix_nanos() + 5 * 3600 * 1_000_000_000;
        if let Some(outage) = &mut counters.known.lock().outage {
            outage.last = Timestamp::from_unix_nanos(hours_ahead);
            outage.asked -= 2 * REST;
        }
        assert!(counters.rests().is_ok());
    }

    #[test]
    fn an_outage_counts_from_the_oldest_event_that_is_not_counted_and_not_from_one_that_is_over() {
        let counters = counters();
        assert_eq!(counters.behind_since(7), None);
        counters.failed("away", None);
        let first = counters.behind_since(7).unwrap();
        counters.failed("away", None);
        assert_eq!(counters.behind_since(7), Some(first), "the same outage");

        counters.answered();
        assert_eq!(counters.behind_since(7), Some(first), "it catches up");
        counters.failed("away again", None);
        let second = counters.behind_since(7).unwrap();
        assert!(second > first, "{second} is another outage than {first}");
        // A batch shows what was not counted before.
        let accepted = Timestamp::from_unix_nanos(second.unix_nanos() - 1);
        counters.failed("away", Some(accepted));
        assert_eq!(counters.behind_since(7), Some(accepted));

        counters.delivered(Some(clock::now()));
        assert_eq!(counters.behind_since(7), None);
    }
}
