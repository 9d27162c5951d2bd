//! What can be told without a server.

use telemetryx_common::{Event, Timestamp};

use super::attempt::{Attempt, Attempts, Fate};
use super::*;
use crate::route::{Cause, Stretch};

fn batch(cause: Cause, offsets: std::ops::Range<u64>) -> EventBatch<'static> {
    let mut batch = EventBatch::new(cause, Timestamp::UNIX_EPOCH);
    for offset in offsets {
        batch.push(offset, Event::new(Timestamp::UNIX_EPOCH));
    }
    batch
}

fn journal(offsets: std::ops::Range<u64>) -> EventBatch<'static> {
    let stretch = Stretch {
        log: 7,
        first: offsets.start,
        end: offsets.end,
        part: 0,
    };
    batch(Cause::Journal(stretch), offsets)
}

fn fates(attempt: &Attempt, places: &[usize]) -> Vec<Fate> {
    places
        .iter()
        .map(|place| attempt.tracker.get(*place))
        .collect()
}

#[test]
fn a_batch_that_comes_again_knows_what_became_of_each_event_also_if_it_is_cut_elsewhere() {
    let mut attempts = Attempts::default();
    let first = journal(10..13);
    let mut attempt = attempts.take(first.cause());
    let places = attempt.places(&first);
    assert_eq!(fates(&attempt, &places), [Fate::Unsent; 3]);
    for place in &places {
        attempt.tracker.set(*place, Fate::Waiting);
    }
    attempt.tracker.report(0, None);
    let lost = RDKafkaErrorCode::MessageTimedOut;
    attempt.tracker.report(2, Some(lost));
    assert!(attempt.tracker.has_failed());
    assert_eq!(attempt.tracker.waiting(), 1);
    attempts.put(attempt);

    // A replay of the same events in between is another matter.
    let replay = batch(Cause::Replay, 10..13);
    let mut other = attempts.take(replay.cause());
    let its = other.places(&replay);
    assert_eq!(fates(&other, &its), [Fate::Unsent; 3]);

    let again = journal(11..14);
    let mut attempt = attempts.take(again.cause());
    let places = attempt.places(&again);
    let known = [Fate::Waiting, Fate::Failed(lost), Fate::Unsent];
    assert_eq!(fates(&attempt, &places), known);
    // Its producer ended without a word of it; a report that comes all the same counts for nothing.
    let before = Arc::clone(&attempt.tracker);
    attempt.give_up_waiting();
    before.report(1, None);
    assert_eq!(
        fates(&attempt, &places)[0],
        Fate::Failed(RDKafkaErrorCode::PurgeInflight)
    );

    // Once all is settled nothing is known of them any more.
    for place in [vec![0], places].concat() {
        attempt.tracker.set(place, Fate::Settled);
    }
    attempts.put(attempt);
    let mut attempt = attempts.take(first.cause());
    let places = attempt.places(&first);
    assert_eq!(fates(&attempt, &places), [Fate::Unsent; 3]);
}

#[test]
fn a_refusal_is_believed_only_of_a_message_that_was_alone_in_its_request() {
    let whole = journal(0..3);
    let mut attempt = Attempts::default().take(whole.cause());
    let places = attempt.places(&whole);
    let refused = RDKafkaErrorCode::MessageSizeTooLarge;
    attempt.tracker.set(0, Fate::Acknowledged);
    attempt
        .tracker
        .set(1, Fate::Failed(RDKafkaErrorCode::PurgeQueue));
    attempt.tracker.set(2, Fate::Failed(refused));
    assert!(matches!(
        meaning(false, &attempt, &places),
        Meaning::OneIsRefused
    ));
    assert_eq!(attempt.tracker.get(2), Fate::Failed(refused));
    // Another failure beside it: that one is sent again.
    assert!(matches!(
        meaning(true, &attempt, &places),
        Meaning::Failed(None)
    ));
    attempt.tracker.set(1, Fate::Acknowledged);
    assert!(matches!(
        meaning(true, &attempt, &places),
        Meaning::Rejected
    ));
    assert_eq!(attempt.tracker.get(2), Fate::Rejected(refused));
}

#[test]
fn the_threads_of_a_producer_end_with_it() {
    let settings = "brokers = '127.0.0.1:1'\ntopic = 't'"
        .parse::<toml::Table>()
        .unwrap();
    let settings = Settings::read(toml::Value::Table(settings), "r").unwrap();
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("rdk:")).count()
    };
    let link = Link::open(&settings.client().unwrap(), "r", false).unwrap();
    assert!(threads() > 0);
    drop(link);
    telemetryx_testkit::eventually(Duration::from_secs(10), "no thread is left", || {
        threads() == 0
    });
}
