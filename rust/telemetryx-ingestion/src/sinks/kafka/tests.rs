//! What can be told without a server.

use std::sync::Arc;

use telemetryx_common::{Event, Timestamp};

use super::lanes::Lane;
use super::link::Link;
use super::sending::{Meaning, meaning};
use super::*;
use crate::route::{Cause, Letter, Stretch};

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

/// A sink without a server.
fn sink(broker: &str) -> KafkaSink {
    let settings = format!("brokers = '{broker}'\ntopic = 't'\ntimeout = '100ms'");
    let settings = toml::Value::Table(settings.parse().unwrap());
    KafkaSink {
        settings: Settings::read(settings, "r").unwrap(),
        route: "r".to_owned(),
        lanes: Mutex::default(),
        shrunk: AtomicU32::new(0),
    }
}

#[test]
fn a_batch_that_comes_again_knows_what_became_of_each_event_also_if_it_is_cut_elsewhere() {
    let mut lanes = Lanes::default();
    let first = journal(10..13);
    let attempt = &mut lanes.of(first.cause()).attempt;
    let places = attempt.places(&first);
    assert_eq!(fates(attempt, &places), [Fate::Unsent; 3]);
    for place in &places {
        attempt.tracker.set(*place, Fate::Waiting);
    }
    attempt.tracker.report(0, None);
    let lost = RDKafkaErrorCode::MessageTimedOut;
    attempt.tracker.report(2, Some(lost));
    assert!(attempt.tracker.has_failed());
    assert_eq!(attempt.tracker.waiting(), 1);

    // A replay of the same events in between is another matter, and so is each dead letter.
    let letter = |number| Cause::Redrive(Letter { log: 7, number });
    for cause in [Cause::Replay, letter(1), letter(2)] {
        let other = &mut lanes.of(cause).attempt;
        let its = other.places(&batch(cause, 10..13));
        assert_eq!(fates(other, &its), [Fate::Unsent; 3]);
        other.tracker.set(0, Fate::Acknowledged);
    }

    let again = journal(11..14);
    let attempt = &mut lanes.of(again.cause()).attempt;
    let places = attempt.places(&again);
    let known = [Fate::Waiting, Fate::Failed(lost), Fate::Unsent];
    assert_eq!(fates(attempt, &places), known);
    // Its producer ended without a word of it; a report that comes all the same counts for nothing.
    let before = Arc::clone(&attempt.tracker);
    attempt.give_up_waiting();
    before.report(1, None);
    assert_eq!(
        fates(attempt, &places)[0],
        Fate::Failed(RDKafkaErrorCode::PurgeInflight)
    );
}

#[test]
fn batches_that_were_given_up_leave_nothing_behind() {
    let mut lanes = Lanes::default();
    for first in (0..1000).step_by(100) {
        let batch = journal(first..first + 100);
        let attempt = &mut lanes.of(batch.cause()).attempt;
        // Kafka is away, and so are the attempts of the route after each batch has come twice.
        for _ in 0..2 {
            let places = attempt.places(&batch);
            assert_eq!(places, (0..100).collect::<Vec<_>>());
            for place in places {
                attempt.tracker.set(place, Fate::Waiting);
            }
        }
        attempt.careful = true;
    }
    let next = journal(1000..1001);
    let attempt = &mut lanes.of(next.cause()).attempt;
    assert_eq!(attempt.places(&next), [0]);
    assert_eq!((attempt.tracker.waiting(), attempt.careful), (0, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_producer_is_ended_or_used_that_belongs_to_something_else() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sink = sink(&silent.local_addr().unwrap().to_string());
    let of = async |cause: Cause| {
        let mut lanes = sink.lanes.lock().await;
        let Lane { link, attempt, .. } = lanes.of(cause);
        (link.clone().unwrap(), Arc::clone(&attempt.tracker))
    };
    let whole = journal(0..3);
    let journals = whole.cause();
    sink.deliver(&whole).await.unwrap_err();
    let (link, tracker) = of(journals).await;
    assert_eq!(tracker.waiting(), 3);

    // A replay that fails ends its own.
    let replay = batch(Cause::Replay, 0..2);
    sink.deliver(&replay).await.unwrap_err();
    let (replays, its) = of(Cause::Replay).await;
    assert!(!Arc::ptr_eq(&link, &replays));
    its.report(0, Some(RDKafkaErrorCode::TopicAuthorizationFailed));
    drop(replays);
    sink.deliver(&replay).await.unwrap_err();
    assert_eq!(tracker.waiting(), 3);
    assert!(Arc::ptr_eq(&link, &of(journals).await.0));

    // One of a batch is refused: it comes again message by message, until it is given up. What comes next does not.
    {
        let mut lanes = sink.lanes.lock().await;
        let lane = lanes.of(journals);
        (lane.link, lane.attempt.careful) = (None, true);
    }
    drop((link, tracker));
    sink.deliver(&whole).await.unwrap_err();
    assert!(of(journals).await.0.careful);
    sink.deliver(&journal(3..4)).await.unwrap_err();
    assert!(!of(journals).await.0.careful);
    // Nor does the check before a batch open another one.
    let link = of(journals).await.0;
    sink.check().await.unwrap_err();
    assert!(Arc::ptr_eq(&link, &of(journals).await.0));
}

#[test]
fn a_refusal_is_believed_only_of_a_message_that_was_alone_in_its_request() {
    let whole = journal(0..3);
    let mut attempt = Attempt::default();
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
    let settings = sink("127.0.0.1:1").settings;
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("rdk:")).count()
    };
    let client = settings.client().unwrap();
    let link = Link::open(&client, settings.fingerprint(), "r", false).unwrap();
    assert!(threads() > 0);
    drop(link);
    telemetryx_testkit::eventually(Duration::from_secs(10), "no thread is left", || {
        threads() == 0
    });
}
