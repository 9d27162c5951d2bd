//! The order of a key's events, and the partition that they are in.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use telemetryx_common::{Event, Source};

use crate::bench::Bench;
use crate::events::{Maker, assert_exactly, assert_in_order, encoded, event, ids};
use crate::reader::{Reader, read_all, soon};

pub(crate) async fn key_keeps_its_order_with_several_appenders(bench: Bench) {
    let journal = bench.open().await;
    let mut appending = tokio::task::JoinSet::new();
    for client in 0..6 {
        let journal = Arc::clone(&journal);
        let keys: Vec<_> = (0..5)
            .map(|key| format!("client-{client}-key-{key}"))
            .collect();
        appending.spawn(async move {
            let mut maker = Maker::default();
            let mut sent = Vec::new();
            for size in (1..40).cycle().take(60) {
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
    let got = read_all(&*journal, "a").await;
    assert_exactly(&got, &sent);
    assert_in_order(&got);
}

pub(crate) async fn key_stays_in_its_partition(bench: Bench) {
    let keys: Vec<String> = (0..60).map(|key| key.to_string()).collect();
    let mut found: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for round in 0..3 {
        let journal = bench.open().await;
        let events: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(number, key)| match round {
                0 => event(key, 0),
                // The source is the key of an event that names none.
                1 => Event {
                    source: Source::Name(Cow::Owned(key.clone())),
                    partition_key: None,
                    ..event(key, 1)
                },
                _ => Event {
                    source: Source::Number(number as u64),
                    partition_key: None,
                    ..event(key, 2)
                },
            })
            .collect();
        for events in events.chunks(7) {
            soon("appended", journal.append(encoded(events)))
                .await
                .unwrap();
        }
        for got in read_all(&*journal, "a").await {
            let key = got.id.split(':').next().unwrap().to_owned();
            found.entry(key).or_default().insert(got.partition);
        }
    }
    assert_eq!(found.len(), keys.len());
    let torn: Vec<_> = found
        .iter()
        .filter(|(_, partitions)| partitions.len() > 1)
        .collect();
    assert!(torn.is_empty(), "keys in several partitions: {torn:?}");
}

pub(crate) async fn keys_are_spread_over_all_partitions(bench: Bench) {
    let journal = bench.open().await;
    let mut maker = Maker::default();
    let keys: Vec<_> = (0..400).map(|key| format!("device-{key}")).collect();
    let events = maker.batch(&keys, 400);
    let position = soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    let mut reader = Reader::of(&*journal, "a").await;
    let got = reader.drain(&*journal).await;
    assert_exactly(&got, ids(&events));
    let partitions = journal.extents().len();
    assert_eq!(partitions, bench.partitions());
    let numbers: Vec<_> = journal
        .extents()
        .iter()
        .map(|extent| extent.partition)
        .collect();
    assert_eq!(numbers, Vec::from_iter(0..partitions as u32));
    let mut held = vec![0; partitions];
    got.iter().for_each(|got| held[got.partition as usize] += 1);
    // Chance would have to be very unkind to make one so small.
    assert!(
        held.iter().all(|&events| events >= 400 / partitions / 3),
        "{held:?}"
    );
    assert!(position.ranges.len() >= partitions);
}
