//! `kafka`: one message an event in a topic of Apache Kafka.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the sink: sends a batch, waits for what becomes of it |
//! | `attempt.rs` | what became of each event, also when the batch comes again |
//! | `link.rs` | a producer of librdkafka, and what it reports |
//! | `message.rs` | an event as a message |
//! | `settings.rs` | what the config says, checked, and what librdkafka is told |
//!
//! The producer is idempotent and never gives a message up: while Kafka is away, its messages wait, in order, and the
//! delivery fails only so that the route can say so. The same batch comes again then, and what was sent is not sent again
//! (`attempt.rs`). A message that Kafka refuses stops the producer, so that none of its key overtakes it. What is left is
//! sent by a careful one, a message a request, which finds the one that is meant.

mod attempt;
mod link;
mod message;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use self::attempt::{Attempt, Attempts, Fate};
use self::link::{Link, Ticket};
use self::message::Scratch;
use self::settings::Settings;
use super::{DeliverError, RejectedBySink, Sink, SinkContext, SinkFactory};
use crate::plugin::PluginError;
use crate::route::EventBatch;

/// So many events are handed over without giving way to others.
const EVENTS_AT_ONCE: usize = 512;
/// How long to wait for room in librdkafka's queue before looking again.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(20);
/// How long a producer that is to be ended may take to hear of what it has sent.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a producer that is ended may take to report what it has not sent.
const END_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long Kafka is asked for the topic at the start of a route.
const LOOK_UP_WAIT_MAX: Duration = Duration::from_secs(5);

struct KafkaSink {
    settings: Settings,
    route: String,
    state: Mutex<State>,
    /// How often batches had to be made smaller, since the topic takes none so large.
    shrunk: AtomicU32,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    attempts: Attempts,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    Ok(Box::new(KafkaSink {
        settings: Settings::read(parameters, context.route)?,
        route: context.route.to_owned(),
        state: Mutex::default(),
        shrunk: AtomicU32::new(0),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "kafka",
        constructor: construct,
        // Messages are put together by librdkafka; whoever reads the topic shall soon have them.
        flush_interval: Duration::from_millis(5),
    }
}

/// How sending went.
enum Sent {
    /// Everything is acknowledged or rejected.
    All,
    /// It takes too long; librdkafka goes on.
    Late,
    /// Some failed.
    Failed,
}

/// What failures mean.
enum Meaning {
    /// Kafka refuses some messages for what they are; it is known which.
    Rejected,
    /// The same, but another one of the same request may be meant.
    OneIsRefused,
    /// No fault of a message.
    Failed(Option<RDKafkaErrorCode>),
}

#[async_trait]
impl Sink for KafkaSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let deadline = Instant::now() + self.settings.timeout;
        let mut state = self.state.lock().await;
        let State { link, attempts } = &mut *state;
        let mut attempt = attempts.take(batch.cause());
        let places = attempt.places(batch);
        let done = self
            .send_all(link, &mut attempt, &places, batch, deadline)
            .await;
        let done = done.map_err(DeliverError::Retryable).and_then(|()| {
            let rejected = self.rejected(&attempt, &places);
            if !rejected.is_empty() {
                // The rest comes again at once, and is acknowledged already.
                return Err(DeliverError::Rejected(rejected));
            }
            for place in &places {
                attempt.tracker.set(*place, Fate::Settled);
            }
            Ok(())
        });
        attempts.put(attempt);
        done
    }

    async fn check(&self) -> Result<(), DeliverError> {
        let link = {
            let mut state = self.state.lock().await;
            self.open(&mut state.link, false)
                .map_err(DeliverError::Retryable)?
        };
        let topic = self.settings.topic.clone();
        let patience = self.settings.timeout.min(LOOK_UP_WAIT_MAX);
        let asked = tokio::task::spawn_blocking(move || link.look_up(&topic, patience));
        let answer = asked.await.unwrap_or_else(|error| Err(error.to_string()));
        answer.map_err(|error| DeliverError::Retryable(self.about(&error)))
    }
}

impl KafkaSink {
    /// Sends what Kafka does not have yet, until all is acknowledged or rejected.
    ///
    /// # Errors
    /// Why it cannot be done now.
    async fn send_all(
        &self,
        link: &mut Option<Arc<Link>>,
        attempt: &mut Attempt,
        places: &[usize],
        batch: &EventBatch<'_>,
        deadline: Instant,
    ) -> Result<(), String> {
        loop {
            // Something may have failed while nobody waited, or the password have changed.
            let is_over = |open: &mut Arc<Link>| {
                let settings = || self.settings.client();
                attempt.tracker.has_failed()
                    || open.last_error().is_some()
                        && settings().is_ok_and(|settings| open.is_outdated(&settings))
            };
            if let Some(open) = link.take_if(is_over) {
                self.end(open, attempt).await;
            }
            attempt.begin();
            let open = self.open(link, attempt.careful)?;
            let sent = self
                .send_rest(&open, attempt, places, batch, deadline)
                .await;
            let (fatal, last_error) = (open.fatal(), open.last_error());
            match sent {
                Sent::All => open.is_fine(),
                Sent::Late => {
                    if open.careful {
                        meaning(true, attempt, places);
                    }
                    if fatal.is_some() {
                        *link = None;
                    }
                    let waited = format!("no answer within {:?}", self.settings.timeout);
                    let words = match fatal.or(last_error) {
                        Some(last) => format!("{waited}: {last}"),
                        None => waited,
                    };
                    return Err(self.about(&words));
                }
                Sent::Failed => {
                    let careful = open.careful;
                    if !careful {
                        // Only then it is known what became of all.
                        *link = None;
                        self.end(open, attempt).await;
                    }
                    match meaning(careful, attempt, places) {
                        Meaning::Rejected => {}
                        Meaning::OneIsRefused => {
                            attempt.careful = true;
                            if Instant::now() < deadline {
                                continue;
                            }
                            let words = "an event is refused; which, is being found";
                            return Err(self.about(words));
                        }
                        Meaning::Failed(code) => {
                            if careful {
                                *link = None;
                            }
                            let code = code.map(|code| code.to_string());
                            let words = [code, fatal.or(last_error)].into_iter().flatten();
                            let words = words.collect::<Vec<_>>().join(": ");
                            return Err(self.about(&words));
                        }
                    }
                }
            }
            if std::mem::take(&mut attempt.careful) {
                *link = None;
                self.shrink(attempt, places);
            }
            return Ok(());
        }
    }

    /// Sends once what is not sent, and waits for the reports.
    async fn send_rest(
        &self,
        link: &Link,
        attempt: &Attempt,
        places: &[usize],
        batch: &EventBatch<'_>,
        deadline: Instant,
    ) -> Sent {
        let tracker = &attempt.tracker;
        let mut scratch = Scratch::default();
        let stops = || !link.careful && tracker.has_failed();
        for (number, (place, event)) in std::iter::zip(places, batch.events()).enumerate() {
            if !matches!(tracker.get(*place), Fate::Unsent | Fate::Failed(_)) {
                continue;
            }
            if number % EVENTS_AT_ONCE == EVENTS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            loop {
                if stops() {
                    break;
                }
                let ticket = Box::new(Ticket {
                    tracker: Arc::clone(tracker),
                    place: *place as u32,
                });
                let (topic, format) = (&self.settings.topic, self.settings.format);
                let record = message::record(topic, format, event, &mut scratch, ticket);
                // The report may come before `send` returns.
                tracker.set(*place, Fate::Waiting);
                match link.send(record) {
                    Ok(()) => break,
                    Err(RDKafkaErrorCode::QueueFull) => {
                        tracker.take_back(*place, Fate::Unsent);
                        if Instant::now() >= deadline {
                            return Sent::Late;
                        }
                        // Others' reports make room too.
                        let soon = deadline.min(Instant::now() + ROOM_WAIT_MAX);
                        timeout_at(soon, tracker.changed()).await.ok();
                    }
                    // Too large for our own limit, whatever it is sent with.
                    Err(code @ RDKafkaErrorCode::MessageSizeTooLarge) => {
                        tracker.take_back(*place, Fate::Rejected(code));
                        break;
                    }
                    Err(code) => {
                        tracker.take_back(*place, Fate::Failed(code));
                        break;
                    }
                }
            }
            if stops() {
                break;
            }
        }
        while tracker.waiting() > 0 && !stops() {
            if timeout_at(deadline, tracker.changed()).await.is_err() {
                return Sent::Late;
            }
        }
        if tracker.has_failed() {
            Sent::Failed
        } else {
            Sent::All
        }
    }

    /// Sends smaller batches from now on, if none of these events was to blame when they were refused together.
    fn shrink(&self, attempt: &Attempt, places: &[usize]) {
        let mut fates = places.iter().map(|place| attempt.tracker.get(*place));
        if !fates.any(|fate| matches!(fate, Fate::Rejected(_))) {
            self.shrunk.fetch_add(1, Ordering::Relaxed);
            let route = &self.route;
            tracing::info!(
                route,
                "Kafka refuses batches that are so large; smaller ones are sent"
            );
        }
    }

    /// Ends the producer once what is under way is answered, or soon, and waits for its last reports.
    async fn end(&self, open: Arc<Link>, attempt: &mut Attempt) {
        let answered = async {
            while attempt.tracker.waiting() > 0 {
                attempt.tracker.changed().await;
            }
        };
        timeout(ANSWER_WAIT_MAX, answered).await.ok();
        drop(open);
        let reported = async {
            while attempt.tracker.waiting() > 0 {
                attempt.tracker.changed().await;
            }
        };
        timeout(END_WAIT_MAX, reported).await.ok();
        attempt.give_up_waiting();
    }

    /// The producer, opened if need be, as careful as is asked for.
    fn open(&self, link: &mut Option<Arc<Link>>, careful: bool) -> Result<Arc<Link>, String> {
        if let Some(open) = link.as_ref().filter(|open| open.careful || !careful) {
            return Ok(Arc::clone(open));
        }
        let opened = self.settings.client().and_then(|mut client| {
            settings::shrink(&mut client, self.shrunk.load(Ordering::Relaxed));
            Link::open(&client, &self.route, careful).map_err(settings::words)
        });
        let opened = Arc::new(opened.map_err(|error| self.about(&error))?);
        *link = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn rejected(&self, attempt: &Attempt, places: &[usize]) -> Vec<RejectedBySink> {
        let rejected = places.iter().enumerate().filter_map(|(index, place)| {
            let Fate::Rejected(code) = attempt.tracker.get(*place) else {
                return None;
            };
            Some(RejectedBySink {
                index,
                code: match code {
                    RDKafkaErrorCode::MessageSizeTooLarge => "message_too_large",
                    RDKafkaErrorCode::InvalidTimestamp => "invalid_timestamp",
                    _ => "invalid_record",
                },
                message: self.about(&code.to_string()),
            })
        });
        rejected.collect()
    }

    fn about(&self, words: &str) -> String {
        format!("kafka topic `{}`: {words}", self.settings.topic)
    }
}

/// What the failures mean. With a careful link, what is refused becomes rejected.
fn meaning(careful: bool, attempt: &Attempt, places: &[usize]) -> Meaning {
    let tracker = &attempt.tracker;
    let (mut refused, mut failed, mut reason) = (false, false, None);
    for place in places {
        let Fate::Failed(code) = tracker.get(*place) else {
            continue;
        };
        if is_refusal(code) {
            refused = true;
            if careful {
                tracker.set(*place, Fate::Rejected(code));
            }
        } else {
            failed = true;
            if !is_consequence(code) {
                reason.get_or_insert(code);
            }
        }
    }
    match (refused, careful, failed) {
        (true, false, _) => Meaning::OneIsRefused,
        (_, true, false) => Meaning::Rejected,
        _ => Meaning::Failed(reason),
    }
}

/// Kafka refuses the message, or another of its request, for what it is.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidRecord
    )
}

/// It failed because another one did.
fn is_consequence(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::GaplessGuarantee
            | RDKafkaErrorCode::InvalidDifferentRecord
            | RDKafkaErrorCode::OutOfOrderSequenceNumber
    )
}
