//! `redis`: counters in Redis, by source, type and minute; answers `/stats`.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the sink: one call of the script for each part of a log |
//! | `settings.rs` | the keys of the sink |
//! | `counting.rs` | what a part adds to the counts, and the call that says so |
//! | `count.lua` | the script: adds the counts and moves the applied offset together |
//! | `keys.rs` | the names of the keys |
//! | `answers.rs` | `/stats` |
//! | `connection.rs` | a connection that is made anew when it breaks |
//!
//! Redis keeps, for each route and log, the offset up to which events are counted. A part of the log that lies below it
//! is not counted again, and of one that lies across it only what is behind it; so a kill, of us or of Redis, between a
//! delivery and the commit of the route's cursor does no harm.

mod answers;
mod connection;
mod counting;
mod keys;
mod settings;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, ServerErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha1::{Digest, Sha1};
use telemetryx_common::Event;

use self::answers::RedisCounters;
use self::connection::{Link, Server};
use self::counting::{Call, Counted, Once};
use self::keys::Keys;
use self::settings::{Publish, RedisConfig};
use super::secret::SinkSecret;
use super::{DeliverError, Sink, SinkContext, SinkFactory};
use crate::counters::Totals;
use crate::plugin::{self, PluginError};
use crate::query::CounterStore;
use crate::route::{Cause, EventBatch, Letter, Stretch};

const SCRIPT: &str = include_str!("count.lua");
/// Events counted by one call of the script: it holds up Redis for some milliseconds.
const EVENTS_AT_ONCE: usize = 5_000;
/// Counts of types that all sources have together.
const COUNTS_MAX: usize = 500_000;
/// How long a dead letter that was counted is remembered: it is sent again at once if a crash comes in between.
const MARK_SECONDS: u64 = 30 * 24 * 3600;
/// How long a question for `/stats` may take.
const ANSWER_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(2);

struct RedisSink {
    config: RedisConfig,
    route: String,
    link: Link,
    keys: Keys,
    script: String,
    counters: Arc<RedisCounters>,
    seen: Mutex<Option<Seen>>,
}

/// How far Redis has counted, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    log: u128,
    applied: u64,
}

/// What is saved with the route's cursor.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// Hexadecimal.
    log: String,
    applied: u64,
    events: u64,
    sources: u64,
}

/// What the script did.
enum Done {
    /// All is counted, now or before.
    All,
    /// A first part was counted before; nothing is counted now.
    Partly,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let mut config: RedisConfig = plugin::settings(parameters)?;
    let mut mistakes = config.mistakes();
    let url = SinkSecret::of("url", config.url.take(), config.url_file.take());
    let password = SinkSecret::of("password", None, config.password_file.take());
    let keys = Keys::new(&config.prefix);
    let server = match (url, password) {
        (Ok(Some(url)), Ok(password)) => {
            let tls = config.tls.clone().unwrap_or_default();
            let server = Server::new(url, password, tls, keys.totals());
            mistakes.extend(server.check(config.tls.is_some()).err());
            Some(Arc::new(server))
        }
        (url, password) => {
            if matches!(url, Ok(None)) {
                mistakes.push(
                    "`url` or `url_file` is missing: `redis://host:6379`, for example".to_owned(),
                );
            }
            let refused = [url.err(), password.err()].into_iter().flatten();
            mistakes.extend(refused.map(|error| error.to_string()));
            None
        }
    };
    let Some(server) = server.filter(|_| mistakes.is_empty()) else {
        return Err(PluginError::Several(mistakes));
    };
    let minutes = usize::try_from(config.minutes_ttl.as_secs() / 60).unwrap_or(usize::MAX);
    let answers = Link::new(Arc::clone(&server), ANSWER_WAIT_MAX);
    Ok(Box::new(RedisSink {
        counters: Arc::new(RedisCounters::new(answers, keys.clone(), minutes)),
        link: Link::new(server, config.timeout.into()),
        route: context.route.to_owned(),
        script: Sha1::digest(SCRIPT)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        seen: Mutex::new(None),
        keys,
        config,
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "redis",
        constructor: construct,
        // As for `stats`: counting is cheap, and `/stats` is to be soon right.
        flush_interval: std::time::Duration::from_millis(5),
    }
}

#[async_trait]
impl Sink for RedisSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        // Events that a processor made were not accepted from anybody.
        let events: Vec<_> = batch.offsets().collect();
        let counted = match batch.cause() {
            Cause::Journal(stretch) => self.count_stretch(stretch, &events).await,
            Cause::Redrive(letter) => self.count_letter(letter, &events).await,
            // Refused before: see `refuses_replay`.
            Cause::Replay => Ok(()),
        };
        match counted {
            Ok(()) => {
                let newest = events.iter().map(|(_, event)| event.received_at).max();
                self.counters.delivered(newest);
                Ok(())
            }
            Err(error) => {
                let oldest = events.first().map(|(_, event)| event.received_at);
                self.counters.failed(&error, oldest);
                Err(DeliverError::Retryable(error))
            }
        }
    }

    async fn check(&self) -> Result<(), DeliverError> {
        let mut questions = redis::pipe();
        questions.hlen(self.keys.totals());
        let asked = self.link.ask_all::<(u64,)>(&questions);
        asked.await.map(drop).map_err(|error| {
            self.counters.failed(&error, None);
            DeliverError::Retryable(error)
        })
    }

    fn save(&self) -> Option<Value> {
        let seen = (*self.seen.lock())?;
        let totals = self.counters.known()?;
        let saved = Saved {
            log: format!("{:032x}", seen.log),
            applied: seen.applied,
            events: totals.events_count,
            sources: totals.sources_count,
        };
        serde_json::to_value(saved).ok()
    }

    fn remembers_offsets(&self) -> bool {
        true
    }

    fn moved(&self, _state: Value) -> Value {
        // It is about the log of the former journal.
        Value::Null
    }

    fn restore(&self, state: Value) -> Result<(), PluginError> {
        if state.is_null() {
            return Ok(());
        }
        let wrong = |error: &dyn std::fmt::Display| {
            PluginError::Settings(format!("what was saved of Redis: {error}"))
        };
        let saved: Saved = serde_json::from_value(state).map_err(|error| wrong(&error))?;
        let log = u128::from_str_radix(&saved.log, 16).map_err(|error| wrong(&error))?;
        let applied = saved.applied;
        // Going back to the last commit, we know more than was saved.
        let mut seen = self.seen.lock();
        if seen.is_none_or(|seen| seen.log != log || seen.applied < applied) {
            *seen = Some(Seen { log, applied });
        }
        if self.counters.known().is_none() {
            self.counters.learn(Totals {
                sources_count: saved.sources,
                events_count: saved.events,
            });
        }
        Ok(())
    }

    fn refuses_replay(&self) -> Option<&'static str> {
        Some("the `redis` sink counts: delivered again, events would be counted twice")
    }

    fn counters(&self) -> Option<Arc<dyn CounterStore>> {
        Some(Arc::clone(&self.counters) as Arc<dyn CounterStore>)
    }
}

impl RedisSink {
    /// Counts what Redis has not counted yet of a part of the log.
    async fn count_stretch(
        &self,
        stretch: Stretch,
        events: &[(u64, &Event<'_>)],
    ) -> Result<(), String> {
        let log = stretch.log;
        let field = format!("{}/{log:032x}", self.route);
        let (mut first, mut rest) = (stretch.first, events);
        while !rest.is_empty() {
            let (some, behind) = rest.split_at(rest.len().min(EVENTS_AT_ONCE));
            let end = behind.first().map_or(stretch.end, |(offset, _)| *offset);
            let once = Once::Applied {
                field: &field,
                first,
                end,
            };
            let (done, before) = self.count(some, once).await?;
            let applied = match done {
                Done::All => end.max(before),
                Done::Partly => before,
            };
            self.compare(log, before, applied);
            (first, rest) = match done {
                Done::All => (end, behind),
                Done::Partly => {
                    let had = rest.partition_point(|(offset, _)| *offset < applied);
                    (applied, &rest[had..])
                }
            };
        }
        Ok(())
    }

    async fn count_letter(
        &self,
        letter: Letter,
        events: &[(u64, &Event<'_>)],
    ) -> Result<(), String> {
        let key = self.keys.redriven(&self.route, letter.log, letter.number);
        let once = Once::Mark(key, MARK_SECONDS);
        self.count(events, once).await.map(drop)
    }

    /// Calls the script; what it did, and the offset up to which it had counted before.
    async fn count(
        &self,
        events: &[(u64, &Event<'_>)],
        once: Once<'_>,
    ) -> Result<(Done, u64), String> {
        let events: Vec<_> = events.iter().map(|(_, event)| *event).collect();
        let command = Counted::of(events.iter().copied()).command(&Call {
            script: &self.script,
            keys: &self.keys,
            route: &self.route,
            once,
            limits: [self.config.max_types, self.config.max_sources, COUNTS_MAX],
            minutes_ttl: self.config.minutes_ttl.as_secs().cast_signed(),
            channel: self.config.channel.as_deref().unwrap_or_default(),
            publish: match self.config.publish {
                Some(Publish::Events) => &events,
                _ => &[],
            },
        });
        let command = &command;
        let ask = |mut redis: MultiplexedConnection| async move {
            match command.query_async(&mut redis).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    let mut load = redis::cmd("SCRIPT");
                    load.arg("LOAD").arg(SCRIPT).exec_async(&mut redis).await?;
                    command.query_async(&mut redis).await
                }
                answer => answer,
            }
        };
        let (done, before, events_count, sources_count): (String, String, u64, u64) =
            self.link.ask(ask).await?;
        self.counters.learn(Totals {
            sources_count,
            events_count,
        });
        let done = if done == "partly" {
            Done::Partly
        } else {
            Done::All
        };
        // Empty: it has not heard of this log.
        Ok((done, before.parse().unwrap_or(0)))
    }

    /// Notes that Redis has counted up to `applied`, and says so if it has forgotten what it had counted.
    fn compare(&self, log: u128, before: u64, applied: u64) {
        let mut seen = self.seen.lock();
        let known = seen.filter(|seen| seen.log == log).map(|seen| seen.applied);
        if let Some(known) = known.filter(|known| before < *known) {
            tracing::error!(
                route = self.route,
                redis = before,
                counted = known,
                "Redis has forgotten counts: its applied offset is behind what this route had counted, \
                 and up to {} events are not counted any more; it needs `appendonly yes` to keep them",
                known - before
            );
        }
        *seen = Some(Seen { log, applied });
    }
}
