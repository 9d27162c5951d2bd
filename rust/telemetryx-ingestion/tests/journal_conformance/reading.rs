//! How a route reads: from the oldest on, at its own pace, in batches within their limits, nothing skipped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use telemetryx_ingestion::journal::BatchLimit;
use telemetryx_testkit::TestSeed;

use crate::bench::Bench;
use crate::events::{Maker, assert_exactly, assert_in_order, decoded, encoded, ids};
use crate::reader::{ALL, Reader, read_all, soon, until};

pub(crate) async fn new_route_starts_at_the_oldest(bench: Bench) {
    let journal = bench.open().await;
    let events = Maker::default().batch(&["a", "b", "c", "d"], 40);
    for events in events.chunks(10) {
        soon("appended", journal.append(encoded(events)))
            .await
            .unwrap();
    }
    let reader = Reader::of(&*journal, "a").await;
    for extent in journal.extents() {
        let part = &reader.parts[&extent.partition];
        assert_eq!(part.subscription.position(), extent.start);
        assert_eq!(part.subscription.state(), b"");
    }
    assert_eq!(journal.commits("a"), [], "nothing was committed");
    drop(reader);
    assert_exactly(&read_all(&*journal, "b").await, ids(&events));
}

pub(crate) async fn routes_are_independent(bench: Bench) {
    let journal = bench.open().await;
    let keys: Vec<_> = (0..12).map(|key| format!("key-{key}")).collect();
    let mut maker = Maker::default();
    let first = maker.batch(&keys, 60);
    soon("appended", journal.append(encoded(&first)))
        .await
        .unwrap();
    let (mut a, mut b) = (
        Reader::of(&*journal, "a").await,
        Reader::of(&*journal, "b").await,
    );
    assert_exactly(&a.drain(&*journal).await, ids(&first));
    a.commit("a has them").await;
    let second = maker.batch(&keys, 60);
    soon("appended", journal.append(encoded(&second)))
        .await
        .unwrap();
    assert_exactly(&a.drain(&*journal).await, ids(&second));
    let all: Vec<_> = ids(&first).into_iter().chain(ids(&second)).collect();
    assert_exactly(&b.drain(&*journal).await, &all);
    drop((a, b, journal));

    let journal = bench.open().await;
    let (mut a, mut b) = (
        Reader::of(&*journal, "a").await,
        Reader::of(&*journal, "b").await,
    );
    for part in a.parts.values() {
        assert_eq!(part.subscription.state(), b"a has them");
    }
    assert!(
        b.parts
            .values()
            .all(|part| part.subscription.state().is_empty())
    );
    assert_exactly(&a.drain(&*journal).await, ids(&second));
    assert_exactly(&b.drain(&*journal).await, &all);
}

pub(crate) async fn batches_keep_their_limits(bench: Bench) {
    let journal = bench.open().await;
    let mut maker = Maker::default();
    let mut sent = Vec::new();
    for size in [500, 1, 30, 200] {
        let mut events = maker.batch(&["one"], size);
        for (number, event) in events.iter_mut().enumerate() {
            event.payload = format!("\"{}\"", "x".repeat(number * 37 % 600)).into();
        }
        soon("appended", journal.append(encoded(&events)))
            .await
            .unwrap();
        sent.extend(ids(&events));
    }
    let mut reader = Reader::of(&*journal, "a").await;
    let extents = journal.extents();
    let full = extents
        .iter()
        .find(|extent| extent.end > extent.start)
        .unwrap();
    let part = reader.parts.get_mut(&full.partition).unwrap();
    let mut got = Vec::new();
    let mut turn = 0;
    while part.subscription.position() < full.end {
        turn += 1;
        let (events, bytes) = [(1, 1 << 20), (17, 1 << 20), (1000, 3000), (1000, 1)][turn % 4];
        let delivery = part
            .next(BatchLimit {
                events,
                bytes,
                wait: Duration::ZERO,
            })
            .await;
        assert!(delivery.events() >= 1 && delivery.events() <= events as u64);
        assert!(
            delivery.bytes <= bytes || delivery.events() == 1,
            "{} of {bytes}",
            delivery.bytes
        );
        got.extend(decoded(&delivery));
    }
    assert_exactly(&got, &sent);
    assert_in_order(&got);
}

pub(crate) async fn batch_waits_for_the_first_event_and_then_for_more_only_so_long(bench: Bench) {
    let journal = bench.open().await;
    let mut maker = Maker::default();
    let mut reader = Reader::of(&*journal, "a").await;
    // Whichever partition the key is in.
    let events = maker.batch(&["one"], 1);
    let position = soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    let mut part = reader.parts.remove(&position.ranges[0].partition).unwrap();
    assert_eq!(decoded(&part.next(ALL).await).len(), 1);

    // Nobody sends: it waits.
    let waiting = tokio::time::timeout(Duration::from_millis(200), part.subscription.next(ALL));
    assert!(waiting.await.is_err(), "there is nothing to be delivered");

    // One comes, and no more: it is handed out once the time is over, and not before.
    let wait = Duration::from_millis(400);
    let limit = BatchLimit { wait, ..ALL };
    let events = maker.batch(&["one"], 1);
    let begun = Instant::now();
    let (_, delivery) = tokio::join!(
        async {
            soon("appended", journal.append(encoded(&events)))
                .await
                .unwrap()
        },
        part.next(limit)
    );
    assert!(begun.elapsed() >= wait, "it did not wait for more");
    assert_eq!(decoded(&delivery).len(), 1);

    // As many come as it may hold: it is handed out at once.
    let limit = BatchLimit {
        wait: SO_LONG,
        events: 10,
        ..ALL
    };
    let events = maker.batch(&["one"], 10);
    let begun = Instant::now();
    let (_, delivery) = tokio::join!(
        async {
            for event in &events {
                let one = encoded(std::slice::from_ref(event));
                soon("appended", journal.append(one)).await.unwrap();
            }
        },
        part.next(limit)
    );
    assert!(
        begun.elapsed() < SO_LONG,
        "it waited though the batch was full"
    );
    assert_eq!(decoded(&delivery).len(), 10);
}

/// Longer than a test may take.
const SO_LONG: Duration = Duration::from_secs(600);

pub(crate) async fn waiting_can_be_given_up_without_loss(bench: Bench) {
    let journal = bench.open().await;
    let mut reader = Reader::of(&*journal, "a").await;
    let keys: Vec<_> = (0..8).map(|key| format!("key-{key}")).collect();
    let appending = {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move {
            let mut maker = Maker::default();
            let mut sent = Vec::new();
            for size in (1..9).cycle().take(300) {
                let events = maker.batch(&keys, size);
                soon("appended", journal.append(encoded(&events)))
                    .await
                    .unwrap();
                sent.extend(ids(&events));
            }
            sent
        })
    };
    let mut seed = TestSeed::new();
    let mut got = Vec::new();
    let mut given_up = 0;
    while !appending.is_finished() || given_up < 20 {
        for part in reader.parts.values_mut() {
            let limit = BatchLimit {
                events: 1 + seed.below(50) as usize,
                bytes: 1 << seed.below(16),
                wait: Duration::from_micros(seed.below(20_000)),
            };
            let patience = Duration::from_micros(seed.below(5_000));
            let before = part.subscription.position();
            match tokio::time::timeout(patience, part.subscription.next(limit)).await {
                Ok(delivery) => got.extend(decoded(&delivery.unwrap())),
                Err(_) => {
                    given_up += 1;
                    assert_eq!(
                        part.subscription.position(),
                        before,
                        "nothing was handed out"
                    );
                }
            }
        }
    }
    let sent = appending.await.unwrap();
    got.extend(reader.drain(&*journal).await);
    assert_exactly(&got, &sent);
    assert_in_order(&got);
}

pub(crate) async fn has_more_says_whether_it_would_wait(bench: Bench) {
    let journal = bench.open().await;
    let events = Maker::default().batch(&["one"], 5);
    let position = soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    let mut reader = Reader::of(&*journal, "a").await;
    let part = reader.parts.get_mut(&position.ranges[0].partition).unwrap();
    let one = BatchLimit { events: 1, ..ALL };
    for left in (0..5).rev() {
        assert_eq!(decoded(&part.next(one).await).len(), 1);
        if left > 0 {
            until("it is known that there is more", || async {
                part.subscription.has_more()
            })
            .await;
        }
    }
    assert!(!part.subscription.has_more(), "all is delivered");
}

pub(crate) async fn nothing_is_skipped_while_several_append(bench: Bench) {
    let journal = bench.open().await;
    let mut reader = Reader::of(&*journal, "a").await;
    let done = Arc::new(AtomicBool::new(false));
    let mut reading = tokio::task::JoinSet::new();
    for (_, part) in std::mem::take(&mut reader.parts) {
        let done = Arc::clone(&done);
        reading.spawn(async move {
            // All of it: the partition is another's once the assignment is dropped.
            let mut part = part;
            let mut got = Vec::new();
            loop {
                let ended = done.load(Ordering::SeqCst);
                let limit = BatchLimit {
                    events: 64,
                    wait: Duration::from_millis(1),
                    ..ALL
                };
                let next = part.subscription.next(limit);
                // Far longer than what is durable takes to be seen.
                match tokio::time::timeout(Duration::from_secs(2), next).await {
                    Ok(delivery) => got.extend(decoded(&delivery.unwrap())),
                    Err(_) if ended => return got,
                    Err(_) => {}
                }
            }
        });
    }
    let mut appending = tokio::task::JoinSet::new();
    for client in 0..12 {
        let journal = Arc::clone(&journal);
        let keys: Vec<_> = (0..4)
            .map(|key| format!("client-{client}-key-{key}"))
            .collect();
        appending.spawn(async move {
            let mut maker = Maker::default();
            let mut sent = Vec::new();
            for size in (1..30).cycle().take(100) {
                let events = maker.batch(&keys, size);
                soon("appended", journal.append(encoded(&events)))
                    .await
                    .unwrap();
                sent.extend(ids(&events));
            }
            sent
        });
    }
    let sent = appending.join_all().await.concat();
    done.store(true, Ordering::SeqCst);
    let got = soon("all is read", reading.join_all()).await.concat();
    assert_exactly(&got, &sent);
    assert_in_order(&got);
}
