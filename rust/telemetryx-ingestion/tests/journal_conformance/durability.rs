//! What was acknowledged is there, whoever is killed, and as it was sent.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use telemetryx_common::{Event, EventType, Source, wire};
use telemetryx_ingestion::clock;
use telemetryx_ingestion::journal::{AppendError, JournalError};
use telemetryx_testkit::TestSeed;

use crate::bench::Bench;
use crate::child::Child;
use crate::events::{Maker, assert_exactly, assert_in_order, encoded, ids};
use crate::reader::{ALL, Reader, read_all, soon};

pub(crate) async fn what_was_acknowledged_outlives_its_handle(bench: Bench) {
    let mut maker = Maker::default();
    let mut sent = Vec::new();
    for round in 0..3 {
        let journal = bench.open().await;
        for size in [1, 7, 300] {
            let events = maker.batch(&["a", "b", "c", "d", "e"], size);
            soon("appended", journal.append(encoded(&events)))
                .await
                .unwrap();
            sent.extend(ids(&events));
        }
        // Not closed.
        drop(journal);
        let journal = bench.open().await;
        let got = read_all(&*journal, "a").await;
        assert_exactly(&got, &sent);
        assert_in_order(&got);
        let held: u64 = journal
            .extents()
            .iter()
            .map(|extent| extent.end - extent.start)
            .sum();
        assert_eq!(held, sent.len() as u64, "in round {round}");
    }
}

pub(crate) async fn killed_process_loses_and_doubles_nothing(bench: Bench) {
    let mut seed = TestSeed::new();
    let mut acked = BTreeSet::new();
    for round in 0..3 {
        let child = Child::start(bench.config_elsewhere(), &format!("append round{round} 4"));
        let mut before = 0;
        let mut note = |line: String| {
            let (what, ids) = line.split_once(' ').unwrap();
            assert_eq!(what, "acked", "{line}");
            acked.extend(ids.split(' ').map(str::to_owned));
        };
        while before < 50 {
            note(child.line());
            before += 1;
        }
        std::thread::sleep(Duration::from_micros(seed.below(50_000)));
        child.kill().into_iter().for_each(&mut note);

        let journal = bench.open().await;
        let got = read_all(&*journal, "a").await;
        // What was under way when it was killed may be there too, and must be there once.
        assert_in_order(&got);
        let found: BTreeSet<_> = got.iter().map(|got| got.id.clone()).collect();
        assert_eq!(found.len(), got.len(), "an event is there twice");
        let lost: Vec<_> = acked.difference(&found).take(5).collect();
        assert!(lost.is_empty(), "lost of {}: {lost:?} …", acked.len());
        println!(
            "round {round}: {} acknowledged, {} found",
            acked.len(),
            found.len()
        );
    }
}

pub(crate) async fn closed_journal_keeps_all_and_takes_no_more(bench: Bench) {
    let journal = bench.open().await;
    let mut reader = Reader::of(&*journal, "a").await;
    let mut appending = tokio::task::JoinSet::new();
    let acked = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for client in 0..6 {
        let (journal, acked) = (Arc::clone(&journal), Arc::clone(&acked));
        appending.spawn(async move {
            let mut maker = Maker::default();
            let keys = [format!("client-{client}")];
            loop {
                let events = maker.batch(&keys, 5);
                match journal.append(encoded(&events)).await {
                    Ok(_) => acked.lock().extend(ids(&events)),
                    Err(error) => break error,
                }
            }
        });
    }
    let mut first = reader.parts.pop_first().unwrap().1;
    let reading = tokio::spawn(async move {
        loop {
            if let Err(error) = first.subscription.next(ALL).await {
                break error;
            }
        }
    });
    crate::reader::until("some are acknowledged", || async {
        acked.lock().len() > 200
    })
    .await;
    soon("a journal is closed", journal.close()).await;
    while let Some(ended) = soon("an appender ends", appending.join_next()).await {
        let error = ended.unwrap();
        assert!(matches!(error, AppendError::Closed), "{error}");
    }
    let error = soon("reading ends", reading).await.unwrap();
    // Who reads lets go of its partition at the end, and may be told that first.
    let ended = matches!(error, JournalError::Closed | JournalError::Lost(_));
    assert!(ended, "{error}");
    let late = Maker::default().batch(&["late"], 1);
    let error = soon("refused", journal.append(encoded(&late)))
        .await
        .unwrap_err();
    assert!(matches!(error, AppendError::Closed), "{error}");
    drop((reader, journal));

    let journal = bench.open().await;
    let got = read_all(&*journal, "a").await;
    assert_in_order(&got);
    let found: BTreeSet<_> = got.iter().map(|got| &got.id).collect();
    assert_eq!(found.len(), got.len(), "an event is there twice");
    let acked = acked.lock();
    assert!(
        acked.iter().all(|id| found.contains(id)),
        "an acknowledged event is gone"
    );
    // Each appender had one batch under way at most.
    assert!(found.len() <= acked.len() + 6 * 5);
}

pub(crate) async fn journal_made_anew_has_another_identity(bench: Bench) {
    let journal = bench.open().await;
    let first = journal.identity();
    let events = Maker::default().batch(&["a"], 10);
    journal.append(encoded(&events)).await.unwrap();
    let mut reader = Reader::of(&*journal, "a").await;
    assert_eq!(reader.drain(&*journal).await.len(), 10);
    reader.commit("ten").await;
    drop(reader);
    journal.close().await;
    drop(journal);

    let journal = bench.open().await;
    assert_eq!(journal.identity(), first, "the same journal");
    let commits = bench.commits(&*journal, "a").await;
    assert!(commits.is_none_or(|commits| !commits.is_empty()));
    journal.close().await;
    drop(journal);

    bench.make_anew().await;
    let journal = bench.open().await;
    assert_ne!(
        journal.identity(),
        first,
        "another journal under the same name"
    );
    let commits = bench.commits(&*journal, "a").await;
    assert_eq!(
        commits.unwrap_or_default(),
        [],
        "positions are those of the other one"
    );
    assert!(journal.extents().iter().all(|extent| extent.end == 0));
    let events = Maker::default().batch(&["b"], 3);
    journal.append(encoded(&events)).await.unwrap();
    assert_exactly(&read_all(&*journal, "a").await, ids(&events));
}

/// One with everything an event can have.
fn odd_events() -> Vec<Event<'static>> {
    let now = clock::now();
    let text = |text: &str| Cow::Owned(text.to_owned());
    let named = |id: &str| Event {
        id: text(id),
        received_at: now,
        ..Event::new(now)
    };
    vec![
        named("bare:0"),
        Event {
            event_type: EventType::Heartbeat,
            source: Source::Number(u64::MAX),
            ..named("heartbeat:0")
        },
        Event {
            source: Source::Number(0),
            payload: text("0"),
            ..named("zero:0")
        },
        Event {
            event_type: EventType::from_name(text("größe\u{1f600}")),
            source: Source::Name(text("quelle mit 空白")),
            partition_key: Some(text("schlüssel")),
            schema_version: u32::MAX,
            attributes: vec![
                (text(""), text("")),
                (text("a\"b\\"), text("\n\t\u{7f}")),
                (text("z"), text("\u{0}")),
            ],
            payload: text("  { \"a\" : [1, 2.50, 1e3, \"\\u00e4\\/\"],\n \"a\": null }  "),
            ..named("überall:0")
        },
        Event {
            partition_key: Some(text("")),
            ..named("empty key:0")
        },
        Event {
            id: text(&format!("{}:0", "i".repeat(126))),
            ..named("")
        },
        Event {
            ts: telemetryx_common::Timestamp::from_unix_nanos(-1),
            ..named("before 1970:0")
        },
        Event {
            ts: telemetryx_common::Timestamp::from_unix_nanos(i64::MAX),
            ..named("far:0")
        },
    ]
}

pub(crate) async fn events_are_kept_byte_for_byte(bench: Bench) {
    let journal = bench.open().await;
    let sent = odd_events();
    let position = soon("appended", journal.append(encoded(&sent)))
        .await
        .unwrap();
    assert_eq!(position.events(), sent.len() as u64);
    let mut found = Vec::new();
    for range in &position.ranges {
        let scan = journal.scan(range.partition, range.first, range.end(), ALL);
        let delivery = soon("read", scan).await.unwrap();
        for offset in delivery.offsets() {
            found.push(
                delivery
                    .encoded(offset)
                    .expect("each event is there")
                    .to_vec(),
            );
        }
        for slice in &delivery.slices {
            assert!(wire::events(&slice.body).all(|event| event.is_ok()));
        }
    }
    let alone = |event: &Event<'_>| encoded(std::slice::from_ref(event)).body.to_vec();
    let mut wanted: Vec<_> = sent.iter().map(alone).collect();
    wanted.sort();
    found.sort();
    let readable = |all: &[Vec<u8>]| -> Vec<String> {
        let each = all.iter().flat_map(|body| wire::events(body));
        each.map(|event| format!("{:?}", event.unwrap())).collect()
    };
    assert_eq!(readable(&found), readable(&wanted));
    assert!(
        found == wanted,
        "the bytes differ, though they mean the same"
    );
}

pub(crate) async fn large_batches_and_large_events_fit(bench: Bench) {
    let journal = bench.open().await;
    let mut maker = Maker::default();
    let filled = |mut event: Event<'static>, bytes: usize| {
        event.payload = Cow::Owned(format!("\"{}\"", "x".repeat(bytes)));
        event
    };
    let keys: Vec<_> = (0..40).map(|key| format!("key-{key}")).collect();
    let mut sent = Vec::new();
    // As much as one request may bring by default, in many events and in one.
    let many = maker.batch(&keys, 10_000);
    let several: Vec<_> = maker
        .batch(&keys, 10)
        .into_iter()
        .map(|event| filled(event, 400 << 10))
        .collect();
    let one = vec![filled(maker.next("large"), 900 << 10)];
    for events in [many, several, one] {
        let position = soon("appended", journal.append(encoded(&events)))
            .await
            .unwrap();
        assert_eq!(position.events(), events.len() as u64);
        sent.extend(ids(&events));
    }
    let got = read_all(&*journal, "a").await;
    assert_exactly(&got, &sent);
    assert_in_order(&got);

    // What is too large for the engine is refused as such, and what follows is not held up.
    let huge = vec![filled(maker.next("huge"), 200 << 20)];
    match soon("answered", journal.append(encoded(&huge))).await {
        Err(AppendError::TooLarge { limit, .. }) => assert!(limit.contains("bytes"), "{limit}"),
        answered => {
            answered.unwrap();
            sent.extend(ids(&huge));
        }
    }
    let after = maker.batch(&keys, 50);
    soon("appended", journal.append(encoded(&after)))
        .await
        .unwrap();
    sent.extend(ids(&after));
    assert_exactly(&read_all(&*journal, "b").await, &sent);
}
