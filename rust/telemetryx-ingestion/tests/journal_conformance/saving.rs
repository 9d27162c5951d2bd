//! Positions and what is saved with them: both or neither, after any end; and what can be seen of them.

use std::collections::BTreeMap;
use std::time::Duration;

use telemetryx_ingestion::journal::{BatchLimit, DeliveryId, JournalError};
use telemetryx_testkit::TestSeed;

use crate::bench::Bench;
use crate::child::{Child, seen, state_of};
use crate::events::{Maker, assert_exactly, decoded, encoded, ids};
use crate::reader::{ALL, Reader, soon, until};

pub(crate) async fn what_is_not_committed_comes_again(bench: Bench) {
    let journal = bench.open().await;
    let keys: Vec<_> = (0..12).map(|key| format!("key-{key}")).collect();
    let events = Maker::default().batch(&keys, 240);
    soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    let few = BatchLimit { events: 4, ..ALL };
    let mut reader = Reader::of(&*journal, "a").await;
    let mut committed = BTreeMap::new();
    let mut settled = Vec::new();
    for (&partition, part) in &mut reader.parts {
        let first = part.next(few).await;
        let second = part.next(few).await;
        // What was handed out later is not settled by this.
        let state = format!("after {}", first.end);
        part.commit(first.end, &state).await;
        assert_eq!(part.subscription.position(), second.end);
        settled.extend(decoded(&first));
        committed.insert(partition, (first.end, state));
    }
    drop((reader, journal));

    let journal = bench.open().await;
    let mut reader = Reader::of(&*journal, "a").await;
    for (partition, part) in &reader.parts {
        let (position, state) = &committed[partition];
        assert_eq!(part.subscription.position(), *position);
        assert_eq!(part.subscription.state(), state.as_bytes());
    }
    let again = reader.drain(&*journal).await;
    settled.extend(again.clone());
    assert_exactly(&settled, ids(&events));

    // The same in one process, after a fault of the sink.
    for (partition, part) in std::mem::take(&mut reader.parts) {
        let part = part.reopen().await;
        let (position, state) = &committed[&partition];
        assert_eq!(part.subscription.position(), *position);
        assert_eq!(part.subscription.state(), state.as_bytes());
        reader.parts.insert(partition, part);
    }
    assert_eq!(reader.drain(&*journal).await, again);
}

pub(crate) async fn position_and_state_are_saved_in_one_step_whenever_the_process_is_killed(
    bench: Bench,
) {
    let mut seed = TestSeed::new();
    for round in 0..4 {
        let child = Child::start(bench.config_elsewhere(), "commit a");
        let mut last = BTreeMap::new();
        // By partition: what it said last that it saves, and that it has saved.
        let mut note = |line: String| {
            let words: Vec<_> = line.split(' ').collect();
            let [what, partition, position, turn] = words[..] else {
                panic!("{line}")
            };
            let number = |text: &str| text.parse::<u64>().unwrap();
            let of: &mut BTreeMap<_, _> = last.entry(number(partition)).or_default();
            of.insert(what.to_owned(), (number(position), number(turn)));
        };
        for _ in 0..60 {
            note(child.line());
        }
        std::thread::sleep(Duration::from_micros(seed.below(20_000)));
        child.kill().into_iter().for_each(&mut note);

        let journal = bench.open().await;
        let reader = Reader::of(&*journal, "a").await;
        for (partition, part) in &reader.parts {
            let Some(said) = last.get(&u64::from(*partition)) else {
                continue;
            };
            let found = (
                part.subscription.position(),
                part.subscription.state().to_vec(),
            );
            let either = ["committing", "committed"].map(|what| {
                let (position, turn) = said.get(what).copied().unwrap_or_default();
                (position, state_of(position, turn).into_bytes())
            });
            assert!(
                either.contains(&found) || (said.len() == 1 && found.0 < either[0].0),
                "round {round}: {found:?} of {said:?}"
            );
        }
    }
}

pub(crate) async fn state_that_is_too_large_changes_nothing(bench: Bench) {
    let journal = bench.open().await;
    let events = Maker::default().batch(&["one"], 10);
    let position = soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    let mut reader = Reader::of(&*journal, "a").await;
    let part = reader.parts.get_mut(&position.ranges[0].partition).unwrap();
    let three = part.next(BatchLimit { events: 3, ..ALL }).await;
    // As much as the books of a route take, and more.
    let state = format!("{{\"größe\":\"{}\"}}", "x".repeat(2500));
    part.commit(three.end, &state).await;

    let six = part.next(BatchLimit { events: 3, ..ALL }).await;
    // What every route would write with every commit, no engine takes.
    let huge = "x".repeat(32 << 20);
    let commit = part.subscription.commit(six.id(), huge.as_bytes());
    let refused = soon("answered", commit).await.unwrap_err();
    let JournalError::StateTooLarge { bytes, most } = refused else {
        panic!("{refused}")
    };
    assert_eq!(bytes, huge.len());
    assert!(most >= 3000, "{most}");
    assert_eq!(part.subscription.state(), state.as_bytes());
    if let Some(seen) = bench.commits(&*journal, "a").await {
        let seen = seen
            .iter()
            .find(|seen| seen.partition == three.partition)
            .unwrap();
        assert_eq!((seen.position, &*seen.state), (three.end, state.as_bytes()));
    }
    // The largest that fits does.
    let largest = "x".repeat(most);
    part.commit(six.end, &largest).await;
    let over = "x".repeat(most + 1);
    let commit = part.subscription.commit(six.id(), over.as_bytes());
    let refused = soon("answered", commit).await;
    assert!(
        matches!(refused, Err(JournalError::StateTooLarge { .. })),
        "{refused:?}"
    );
    drop((reader, journal));

    let journal = bench.open().await;
    let reader = Reader::of(&*journal, "a").await;
    let part = &reader.parts[&three.partition];
    assert_eq!(part.subscription.position(), six.end);
    assert!(part.subscription.state() == largest.as_bytes());
}

pub(crate) async fn backlog_is_what_the_slowest_route_has_before_it(bench: Bench) {
    let journal = bench.open().await;
    let keys: Vec<_> = (0..12).map(|key| format!("key-{key}")).collect();
    let mut maker = Maker::default();
    // Every route of the config counts, also one that has not committed yet.
    let mut readers = Vec::new();
    for route in bench.routes() {
        readers.push(Reader::of(&*journal, route).await);
    }
    let backlog = async || {
        soon("backlog is seen", journal.refresh()).await.unwrap();
        journal.backlog().events
    };
    assert_eq!(backlog().await, 0);
    let events = maker.batch(&keys, 240);
    soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    assert_eq!(backlog().await, 240);
    for reader in &mut readers {
        assert_eq!(backlog().await, 240, "the slowest has passed nothing");
        reader.drain(&*journal).await;
        assert_eq!(backlog().await, 240, "what is read is not yet settled");
        reader.commit("all").await;
    }
    assert_eq!(backlog().await, 0);
    let events = maker.batch(&keys, 48);
    soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    assert_eq!(backlog().await, 48);
    let mut settled = 0;
    for reader in &mut readers {
        settled = 0;
        for part in reader.parts.values_mut() {
            if part.subscription.position() < extent_end(&*journal, part.assignment.partition()) {
                let delivery = part.next(BatchLimit { events: 2, ..ALL }).await;
                part.commit(delivery.end, "two").await;
                settled += delivery.events();
            }
        }
    }
    assert!(settled > 0);
    assert_eq!(backlog().await, 48 - settled);
    let status = journal.status();
    assert!(status.is_ok(), "{status:?}");
    assert_eq!((status.start_offset, status.end_offset), (0, 288));

    // It is seen without being asked for too: the door must know it.
    let events = maker.batch(&keys, 12);
    soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    until("the backlog is seen", || async {
        journal.backlog().events == 60 - settled
    })
    .await;
}

fn extent_end(journal: &dyn telemetryx_ingestion::journal::Journal, partition: u32) -> u64 {
    let extents = journal.extents();
    let found = extents.iter().find(|extent| extent.partition == partition);
    found.unwrap().end
}

pub(crate) async fn others_see_extents_and_commits(bench: Bench) {
    if !bench.is_shared() {
        // Nobody else can open it; what it sees itself is in the other tests.
        let journal = bench.open().await;
        assert!(
            bench.try_open().await.is_err(),
            "two processes have it open"
        );
        drop(journal);
        return;
    }
    let journal = bench.open().await;
    let mut child = Child::start(bench.config_elsewhere(), "look a");
    let keys: Vec<_> = (0..12).map(|key| format!("key-{key}")).collect();
    let mut maker = Maker::default();
    let mut reader = Reader::of(&*journal, "a").await;
    for turn in 0..3 {
        let events = maker.batch(&keys, 60);
        soon("appended", journal.append(encoded(&events)))
            .await
            .unwrap();
        soon("seen", journal.refresh()).await.unwrap();
        let ends: u64 = journal.extents().iter().map(|extent| extent.end).sum();
        assert_eq!(ends, 60 * (turn + 1));
        child.go_on();
        assert_eq!(child.line(), seen(&*journal, "a"));
        reader.drain(&*journal).await;
        for part in reader.parts.values_mut() {
            let state = format!("{turn} in {}", part.assignment.partition());
            let position = part.subscription.position();
            soon(
                "committed",
                part.subscription
                    .commit(DeliveryId(position), state.as_bytes()),
            )
            .await
            .unwrap();
        }
        soon("seen", journal.refresh()).await.unwrap();
        let commits = journal.commits("a");
        assert_eq!(commits.len(), journal.extents().len());
        for (commit, extent) in commits.iter().zip(journal.extents()) {
            assert_eq!(
                (commit.partition, commit.position),
                (extent.partition, extent.end)
            );
            assert_eq!(commit.state, format!("{turn} in {}", commit.partition));
        }
        child.go_on();
        assert_eq!(child.line(), seen(&*journal, "a"));
    }
    // Also once nobody reads any more.
    let last = seen(&*journal, "a");
    drop(reader);
    journal.close().await;
    child.go_on();
    assert_eq!(child.line(), last);
}
