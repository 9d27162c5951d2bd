use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use proptest::prelude::*;
use telemetryx_common::{Event, EventType, Timestamp};

use self::faulty::{Fault, Faulty, ids};
use super::piece::Piece;
use super::writer::{Roll, Writer};
use super::*;
use crate::route::{EventBatch, Letter, Origin, Stretch};

mod faulty;
mod settings;

const LOG: u128 = 0xabc;

fn event(id: &str, event_type: u64, hour: u64) -> Event<'static> {
    let ts = i64::try_from(hour).unwrap() * 3_600_000_000_000;
    let mut event = Event::new(Timestamp::from_unix_nanos(ts));
    event.id = id.to_owned().into();
    event.event_type = EventType::from_name(format!("t{event_type}").into());
    event
}

/// The wanted events of the log from `from` up to `end`, as the route delivers them: offsets that it does not want are left
/// out, and a processor adds an event behind a batch for some that it has seen.
fn batch(from: u64, end: u64, unwanted: &[bool]) -> (EventBatch<'static>, Stretch) {
    let stretch = Stretch {
        log: LOG,
        first: from,
        end,
        part: 0,
    };
    let mut batch = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
    for offset in wanted(from, end, unwanted) {
        batch.push(
            offset,
            event(&format!("e{offset}"), offset / 5 % 3, offset % 2),
        );
    }
    for offset in wanted(from, end, unwanted).filter(|offset| offset % 7 == 6) {
        batch.push_derived(event(&format!("d{offset}"), 9, offset % 3));
    }
    (batch, stretch)
}

fn wanted(from: u64, end: u64, unwanted: &[bool]) -> impl Iterator<Item = u64> {
    let is_unwanted = |offset: u64| unwanted.get(offset as usize).copied().unwrap_or(false);
    (from..end).filter(move |offset| !is_unwanted(*offset))
}

const ROLL: Roll = Roll {
    bytes: usize::MAX,
    age: Duration::from_secs(3600),
};

/// Delivers the log up to `end` in batches of `cuts` events, writes after those of `flushes`, and crashes where `crashes` says
/// so: after a failure, between a flush and its commit, between two batches.
async fn run(
    end: u64,
    unwanted: &[bool],
    faults: Vec<Fault>,
    cuts: &[u64],
    flushes: &[bool],
    crashes: &[bool],
) -> Result<(), TestCaseError> {
    let faulty = Faulty::new(faults);
    let store = faulty.store(None);
    let mut crashes = crashes.iter().copied();
    let mut crash = || crashes.next().unwrap_or(false);
    let (mut cuts, mut flushes) = (cuts.iter().cycle(), flushes.iter().cycle());
    let mut committed = 0;
    'process: while committed < end {
        let mut writer = Writer::new("r", ROLL);
        let mut at = committed;
        loop {
            let next = (at + cuts.next().unwrap()).min(end);
            let (events, stretch) = batch(at, next, unwanted);
            // What the route does not want at all, the sink is not handed.
            if !events.is_empty() {
                while writer.open(&store, stretch).await.is_err() {
                    if crash() {
                        continue 'process;
                    }
                }
                writer.take(&events, stretch).unwrap();
            }
            at = next;
            let due = writer.due().is_some_and(|due| due <= Instant::now());
            if due || *flushes.next().unwrap() || at == end {
                if writer.is_rebuilding() && !due {
                    // What was there before the crash is never taken for whole while a part is missing.
                    prop_assert!(at < end && writer.flush(&store).await.is_err());
                    continue;
                }
                let mut flushed = writer.flush(&store).await.is_ok();
                while !flushed && !crash() {
                    prop_assert!(
                        writer.due().is_some(),
                        "it still keeps what it failed to write"
                    );
                    flushed = writer.flush(&store).await.is_ok();
                }
                let there = ids(&faulty.inner).await;
                let doubles: Vec<_> = there
                    .iter()
                    .filter(|(id, times)| id.starts_with('e') && **times > 1)
                    .collect();
                prop_assert!(doubles.is_empty(), "readers see {doubles:?} twice");
                if !flushed || crash() {
                    continue 'process;
                }
                committed = at;
                for offset in wanted(0, committed, unwanted) {
                    let id = format!("e{offset}");
                    prop_assert_eq!(there.get(&id), Some(&1), "{} at {}", id, committed);
                }
                if at == end {
                    // What waited to be rebuilt is, and so what processors made is where it belongs as well.
                    let all = wanted(0, end, unwanted);
                    let derived = all.filter(|offset| offset % 7 == 6);
                    let ids = derived.map(|offset| format!("d{offset}"));
                    let ids =
                        ids.chain(wanted(0, end, unwanted).map(|offset| format!("e{offset}")));
                    prop_assert_eq!(there, ids.map(|id| (id, 1)).collect());
                    break;
                }
            }
            if crash() {
                continue 'process;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn every_event_is_in_the_files_once_whatever_fails_and_whenever_it_crashes(
        end in 1u64..120,
        unwanted in prop::collection::vec(prop::bool::weighted(0.3), 0..120),
        faults in prop::collection::vec(
            prop_oneof![3 => Just(Fault::None), 1 => Just(Fault::Before), 1 => Just(Fault::After)], 0..80),
        cuts in prop::collection::vec(1u64..25, 1..20),
        flushes in prop::collection::vec(any::<bool>(), 1..20),
        crashes in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(run(end, &unwanted, faults, &cuts, &flushes, &crashes))?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_events_at_the_same_offsets_are_never_written_over_those_before() {
    let faulty = Faulty::new(Vec::new());
    let store = faulty.store(None);
    for id in ["before", "after"] {
        let mut writer = Writer::new("r", ROLL);
        let stretch = Stretch {
            log: LOG,
            first: 0,
            end: 1,
            part: 0,
        };
        let mut batch = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
        batch.push(0, event(id, 1, 1));
        writer.open(&store, stretch).await.unwrap();
        writer.take(&batch, stretch).unwrap();
        writer.flush(&store).await.unwrap();
        assert!(writer.due().is_none());
    }
    let there: Vec<_> = ids(&faulty.inner).await.into_keys().collect();
    assert_eq!(there, ["after", "before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_cannot_be_understood_stops_writing() {
    let faulty = Faulty::new(Vec::new());
    let store = faulty.store(None);
    let (_, stretch) = batch(0, 1, &[]);
    let plan = names::plan("r", LOG);
    for (json, words) in [
        ("{", "EOF"),
        (r#"{"version":2,"pieces":[]}"#, "version 2"),
        (
            r#"{"version":1,"pieces":[{"name":"a","first":0,"end":1,"files":[{"path":"x/../a","rows":1}]}]}"#,
            "no piece",
        ),
        (
            r#"{"version":1,"pieces":[{"name":"a","first":0,"end":1,"files":[{"path":"type=x/b","rows":1}]}]}"#,
            "no piece",
        ),
    ] {
        let path = Path::parse(&plan).unwrap();
        faulty.inner.put(&path, json.into()).await.unwrap();
        let refused = Writer::new("r", ROLL).open(&store, stretch).await;
        let refused = refused.unwrap_err();
        assert!(
            refused.contains(words) && refused.contains(&plan),
            "{refused}"
        );
    }
}

#[test]
fn what_is_held_is_what_is_told_and_many_files_are_written_early() {
    let mut writer = Writer::new("r", ROLL);
    let stretch = Stretch {
        log: LOG,
        first: 0,
        end: 1500,
        part: 0,
    };
    let mut many = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
    for offset in 0..1500 {
        many.push(offset, event("x", offset, 0));
    }
    writer.take(&many, stretch).unwrap();
    assert!(writer.due().unwrap() <= Instant::now());

    // Text that cannot be compressed: the file is as large as what came, and both are told.
    let mut piece = Piece::default();
    let mut random = 88_172_645_463_325_252_u64;
    let mut sent = 0;
    for offset in 0..3000 {
        let mut payload = String::new();
        while payload.len() < 2000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            payload.push_str(&format!("{random:016x}"));
        }
        sent += payload.len();
        let mut large = event(&offset.to_string(), 1, 0);
        large.payload = payload.into();
        piece.push(Origin::Journal(offset), 0, &large).unwrap();
    }
    let told = piece.bytes();
    let files = piece.finish().unwrap();
    let written: usize = files[0].content.iter().map(Bytes::len).sum();
    // Hexadecimal digits hold half of their bits.
    assert!(written > sent / 3, "{written} of {sent}");
    assert!(
        told > written * 9 / 10 && told < written * 3 / 2,
        "{told} told, {written} written"
    );
    assert!(files[0].content.iter().all(|chunk| chunk.len() <= 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_object_that_the_store_says_is_missing_is_taken_for_missing() {
    let faulty = Faulty::new(Vec::new());
    let store = faulty.store(Some("<Code>NoSuchKey</Code>"));
    let far = "x".repeat(2000);
    for (words, is_absent) in [
        ("<Error><Code>NoSuchKey</Code></Error>".to_owned(), true),
        (format!("{far}<Error><Code>NoSuchKey</Code></Error>"), true),
        (
            "<Code>NoSuchBucket</Code><BucketName>NoSuchKey</BucketName>".to_owned(),
            false,
        ),
        (format!("{far}<Code>NoSuchBucket</Code>"), false),
        ("<html>404 Not Found</html>".to_owned(), false),
        (String::new(), false),
    ] {
        *faulty.not_found.lock() = Some(words.clone());
        let read = store.read("x").await;
        assert_eq!(read.is_ok_and(|read| read.is_none()), is_absent, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_was_begun_is_not_cut_because_pieces_are_smaller_now() {
    let faulty = Faulty::new(Vec::new());
    let store = faulty.store(None);
    let half = |from: u64| {
        let stretch = Stretch {
            log: LOG,
            first: from,
            end: from + 50,
            part: 0,
        };
        let mut batch = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
        for offset in from..from + 50 {
            let mut large = event(&format!("e{offset}"), 1, 1);
            large.payload = "x".repeat(20_000).into();
            batch.push(offset, large);
        }
        (batch, stretch)
    };
    // The service is killed between the flush and the commit, and starts with another config.
    let small = Roll {
        bytes: 64 << 10,
        ..ROLL
    };
    for roll in [ROLL, small] {
        let mut writer = Writer::new("r", roll);
        for (batch, stretch) in [half(0), half(50)] {
            let is_cut = writer.due().is_some_and(|due| due <= Instant::now());
            assert!(!is_cut, "it would be written in part");
            writer.open(&store, stretch).await.unwrap();
            writer.take(&batch, stretch).unwrap();
        }
        writer.flush(&store).await.unwrap();
    }
    let there = ids(&faulty.inner).await;
    assert_eq!((there.len(), there.values().max()), (100, Some(&1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dead_letter_of_the_same_number_is_not_written_over_the_first() {
    let faulty = Faulty::new(Vec::new());
    let letter = Letter {
        log: LOG,
        number: 7,
    };
    for id in ["a", "a", "b"] {
        let mut batch = EventBatch::new(Cause::Redrive(letter), Timestamp::UNIX_EPOCH);
        batch.push(3, event(id, 1, 1));
        let written = writer::write_letter("r", &faulty.store(None), &batch, letter).await;
        written.unwrap();
    }
    let there = ids(&faulty.inner).await;
    assert_eq!(
        there,
        BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)])
    );
}
