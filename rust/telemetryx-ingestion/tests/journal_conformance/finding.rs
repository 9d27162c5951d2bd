//! What was appended is found again: by the position that the append told, by offset, by time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use telemetryx_common::Timestamp;
use telemetryx_ingestion::clock;
use telemetryx_ingestion::journal::{BatchLimit, Extent, Journal, Position};

use crate::bench::Bench;
use crate::events::{Got, Maker, assert_exactly, decoded, encoded, ids};
use crate::reader::{ALL, soon, until};

/// The events of a position, in the order of its ranges.
async fn at(journal: &dyn Journal, position: &Position) -> Vec<Got> {
    let mut got = Vec::new();
    for range in &position.ranges {
        let scan = journal.scan(range.partition, range.first, range.end(), ALL);
        let delivery = soon("read", scan).await.unwrap();
        assert_eq!(
            (delivery.partition, delivery.first, delivery.end),
            (range.partition, range.first, range.end())
        );
        got.extend(decoded(&delivery));
    }
    got
}

pub(crate) async fn positions_cover_exactly_their_batches(bench: Bench) {
    let journal = bench.open().await;
    let mut appending = tokio::task::JoinSet::new();
    for client in 0..8 {
        let journal = Arc::clone(&journal);
        let keys: Vec<_> = (0..6)
            .map(|key| format!("client-{client}-key-{key}"))
            .collect();
        appending.spawn(async move {
            let mut maker = Maker::default();
            let mut kept = Vec::new();
            for size in [1, 1, 2, 5, 30, 200, 1, 3] {
                let events = maker.batch(&keys, size);
                let appended = soon("appended", journal.append(encoded(&events))).await;
                kept.push((appended.unwrap(), ids(&events)));
            }
            kept
        });
    }
    let kept = appending.join_all().await.concat();
    drop(journal);
    // Also for whoever opens it later: a receipt outlives the process that gave it.
    let journal = bench.open().await;
    let mut owners = BTreeMap::new();
    for (number, (position, sent)) in kept.iter().enumerate() {
        assert!(!position.ranges.is_empty());
        assert_eq!(position.events(), sent.len() as u64);
        let mut ranges: Vec<_> = position.ranges.to_vec();
        ranges.sort_by_key(|range| (range.partition, range.first));
        for pair in ranges.windows(2) {
            let apart = pair[0].partition != pair[1].partition || pair[0].end() < pair[1].first;
            assert!(apart, "these are one range or overlap: {pair:?}");
        }
        let got = at(&*journal, position).await;
        assert_exactly(&got, sent);
        for got in got {
            let other = owners.insert((got.partition, got.offset), number);
            assert_eq!(other, None, "{got:?} is in two positions");
        }
    }
}

pub(crate) async fn scan_reads_any_part_within_its_limits(bench: Bench) {
    let journal = bench.open().await;
    let mut maker = Maker::default();
    let keys: Vec<_> = (0..16).map(|key| format!("key-{key}")).collect();
    for size in [1, 50, 3, 200, 20, 1, 1, 90] {
        let events = maker.batch(&keys, size);
        soon("appended", journal.append(encoded(&events)))
            .await
            .unwrap();
    }
    soon("extents are seen", journal.refresh()).await.unwrap();
    for Extent {
        partition,
        start,
        end,
    } in journal.extents()
    {
        let whole = soon("read", journal.scan(partition, start, end, ALL))
            .await
            .unwrap();
        let whole = decoded(&whole);
        assert_eq!(whole.len() as u64, end - start, "no offset is left out");
        assert!(
            end - start >= 9,
            "partition {partition} holds too little for this test"
        );
        // From any offset on, a few at a time.
        for (from, to) in [
            (start, end),
            (start + 1, end - 1),
            (start + 4, start + 5),
            (end - 1, end),
        ] {
            let mut at = from;
            let mut got = Vec::new();
            while at < to {
                let limit = BatchLimit { events: 7, ..ALL };
                let part = soon("read", journal.scan(partition, at, to, limit))
                    .await
                    .unwrap();
                assert!(
                    part.first == at && part.end > at && part.end <= to,
                    "{part:?}"
                );
                got.extend(decoded(&part));
                assert!(part.events() <= 7);
                at = part.end;
            }
            assert_eq!(got, whole[(from - start) as usize..(to - start) as usize]);
        }
        // One event alone may be larger than the limit.
        let tiny = BatchLimit { bytes: 1, ..ALL };
        let one = soon("read", journal.scan(partition, start, end, tiny))
            .await
            .unwrap();
        assert_eq!(decoded(&one), whole[..1]);
        // Nothing, and what is beyond the end, is no mistake, and waits for nobody.
        let none = soon("read", journal.scan(partition, start, start, ALL))
            .await
            .unwrap();
        assert_eq!((none.first, none.end, none.missing), (start, start, 0));
        let beyond = soon("read", journal.scan(partition, end - 1, end + 100, ALL))
            .await
            .unwrap();
        assert_eq!(decoded(&beyond), whole[whole.len() - 1..]);
        assert_eq!(beyond.end, end);
        let beyond = soon("read", journal.scan(partition, end, end + 100, ALL))
            .await
            .unwrap();
        assert_eq!((beyond.first, beyond.end, beyond.missing), (end, end, 0));
    }
}

pub(crate) async fn offset_is_found_by_time(bench: Bench) {
    let journal = bench.open().await;
    let keys: Vec<_> = (0..16).map(|key| format!("key-{key}")).collect();
    let mut maker = Maker::default();
    let before = clock::now();
    let mut marks = Vec::new();
    for _ in 0..3 {
        pass_time().await;
        let events = maker.batch(&keys, 64);
        soon("appended", journal.append(encoded(&events)))
            .await
            .unwrap();
        pass_time().await;
        soon("extents are seen", journal.refresh()).await.unwrap();
        marks.push((clock::now(), journal.extents()));
    }
    for extent in journal.extents() {
        let find = async |time: Timestamp| {
            let found = soon("found", journal.offset_at(extent.partition, time)).await;
            found.unwrap()
        };
        assert_eq!(find(before).await, extent.start, "all came after that");
        assert_eq!(find(Timestamp::UNIX_EPOCH).await, extent.start);
        for (time, extents) in &marks {
            let then = extents
                .iter()
                .find(|then| then.partition == extent.partition);
            assert_eq!(
                find(*time).await,
                then.unwrap().end,
                "in {extent:?} at {time}"
            );
        }
        let hour = 3_600_000_000_000;
        let future = Timestamp::from_unix_nanos(clock::now().unix_nanos() + hour);
        assert_eq!(find(future).await, extent.end, "nothing came so late");
    }
}

/// Engines know times to the millisecond.
async fn pass_time() {
    let now = clock::now().unix_nanos();
    let passed = Duration::from_millis(20).as_nanos() as i64;
    until("time passes", || async {
        clock::now().unix_nanos() > now + passed
    })
    .await;
}
