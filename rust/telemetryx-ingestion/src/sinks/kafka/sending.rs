//! Sends a batch, and waits for what becomes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode;
use tokio::time::{Instant, timeout, timeout_at};

use super::attempt::{Attempt, Fate};
use super::lanes::Lane;
use super::link::{Link, Ticket};
use super::{KafkaSink, settings};
use crate::kafka::message::{self, Scratch};
use crate::kafka::settings::words;
use crate::route::EventBatch;

/// So many events are handed over without giving way to others.
const EVENTS_AT_ONCE: usize = 512;
/// How long to wait for room in librdkafka's queue before looking again.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(20);
/// How long a producer that is to be ended may take to hear of what it has sent.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a producer that is ended may take to report what it has not sent.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

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
pub(super) enum Meaning {
    /// Kafka refuses some messages for what they are; it is known which.
    Rejected,
    /// The same, but another one of the same request may be meant.
    OneIsRefused,
    /// No fault of a message.
    Failed(Option<RDKafkaErrorCode>),
}

impl KafkaSink {
    /// Sends what Kafka does not have yet, until all is acknowledged or rejected.
    ///
    /// # Errors
    /// Why it cannot be done now.
    pub(super) async fn send_all(
        &self,
        lane: &mut Lane,
        places: &[usize],
        batch: &EventBatch<'_>,
        deadline: Instant,
    ) -> Result<(), String> {
        let Lane { link, attempt, .. } = lane;
        loop {
            // Something may have failed while nobody waited, or the password or a certificate have changed.
            let is_over = |open: &Arc<Link>| {
                attempt.tracker.has_failed()
                    || open.fatal().is_some()
                    || open.last_error().is_some() && open.is_outdated(self.settings.fingerprint())
            };
            if link.as_ref().is_none_or(is_over) {
                end(link.take(), attempt).await;
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
                        drop(open);
                        end(link.take(), attempt).await;
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
                let record = message::record(topic, format, "id", event, &mut scratch, ticket)
                    .timestamp(message::millis(event.ts));
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

    /// The producer, opened if need be, as careful as is asked for.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn open(
        &self,
        link: &mut Option<Arc<Link>>,
        careful: bool,
    ) -> Result<Arc<Link>, String> {
        if let Some(open) = link.as_ref().filter(|open| open.careful == careful) {
            return Ok(Arc::clone(open));
        }
        let made_with = self.settings.fingerprint();
        let opened = self.settings.client().and_then(|mut client| {
            settings::shrink(&mut client, self.shrunk.load(Ordering::Relaxed));
            Link::open(&client, made_with, &self.route, careful).map_err(words)
        });
        let opened = Arc::new(opened.map_err(|error| self.about(&error))?);
        *link = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// Ends a producer once what is under way is answered, or soon, and waits for its last reports. Of one that has ended
/// already, reports may still be on their way.
async fn end(open: Option<Arc<Link>>, attempt: &mut Attempt) {
    let tracker = Arc::clone(&attempt.tracker);
    let reported = async || {
        while tracker.waiting() > 0 {
            tracker.changed().await;
        }
    };
    if let Some(open) = open {
        timeout(ANSWER_WAIT_MAX, reported()).await.ok();
        open.give_up();
    }
    timeout(END_WAIT_MAX, reported()).await.ok();
    attempt.give_up_waiting();
}

/// What the failures mean. With a careful link, what is refused becomes rejected.
pub(super) fn meaning(careful: bool, attempt: &Attempt, places: &[usize]) -> Meaning {
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
