//! One route, read by several processes: each partition by one of them at a time, whoever comes, goes, hangs or is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use telemetryx_ingestion::journal::{BatchLimit, DeliveryId, Journal, JournalError};
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;
use crate::child::Child;
use crate::events::{Maker, assert_exactly, encoded, ids};
use crate::reader::{ALL, Member, Reader, settled, soon, until};

pub(crate) async fn partition_is_free_again_once_it_is_dropped(bench: Bench) {
    let first = bench.open().await;
    let events = Maker::default().batch(&["a", "b", "c", "d", "e", "f"], 60);
    soon("appended", first.append(encoded(&events)))
        .await
        .unwrap();
    let mut reader = Reader::of(&*first, "a").await;
    let all = reader.drain(&*first).await;
    reader.commit("first").await;
    // The process ends as it should; another one goes on where it was.
    drop(reader);
    first.close().await;
    drop(first);
    let second = bench.open().await;
    let mut reader = Reader::of(&*second, "a").await;
    for part in reader.parts.values() {
        assert_eq!(part.subscription.state(), b"first");
    }
    assert_eq!(reader.drain(&*second).await, []);
    assert_exactly(&all, ids(&events));
}

/// Appends for as long as `enough` is not set; how many events were acknowledged.
fn load(journal: &Arc<dyn Journal>, enough: &CancellationToken) -> tokio::task::JoinHandle<u64> {
    let (journal, enough) = (Arc::clone(journal), enough.clone());
    tokio::spawn(async move {
        let keys: Vec<_> = (0..16).map(|key| format!("key-{key}")).collect();
        let mut maker = Maker::default();
        let mut sent = 0;
        while !enough.is_cancelled() {
            let events = maker.batch(&keys, 32);
            soon("appended", journal.append(encoded(&events)))
                .await
                .unwrap();
            sent += 32;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sent
    })
}

pub(crate) async fn partitions_are_divided_and_handed_over_without_a_gap_in_the_books(
    bench: Bench,
) {
    if !bench.is_shared() {
        return alone(bench).await;
    }
    let journal = bench.open().await;
    let enough = CancellationToken::new();
    let loading = load(&journal, &enough);
    let all: Vec<u32> = (0..bench.partitions() as u32).collect();
    let first = Member::join(bench.open().await, "a").await;
    until("one reads everything", || async { first.held() == all }).await;
    let second = Member::join(bench.open().await, "a").await;
    let divided = |members: &[&Member]| {
        let each: Vec<_> = members.iter().map(|member| member.held()).collect();
        let mut together = each.concat();
        together.sort_unstable();
        together == all && each.iter().all(|held| !held.is_empty())
    };
    until("two share", || async { divided(&[&first, &second]) }).await;
    let third = Member::join(bench.open().await, "a").await;
    until("three share", || async {
        divided(&[&first, &second, &third])
    })
    .await;
    first.leave().await;
    until("two share what one has left", || async {
        divided(&[&second, &third])
    })
    .await;
    second.leave().await;
    until("the last one reads everything", || async {
        third.held() == all
    })
    .await;

    enough.cancel();
    let sent = loading.await.unwrap();
    until("all is settled", || async {
        journal.refresh().await.unwrap();
        let settled: u64 = journal
            .commits("a")
            .iter()
            .map(|commit| commit.position)
            .sum();
        settled == sent
    })
    .await;
    for commit in journal.commits("a") {
        assert_eq!(
            settled(&commit.state),
            commit.position,
            "each event was settled once: {commit:?}"
        );
    }
    third.leave().await;
}

/// Where only one process can read, that one reads everything, and counts each event once though it starts anew.
async fn alone(bench: Bench) {
    let mut sent = 0;
    for _ in 0..3 {
        let journal = bench.open().await;
        let enough = CancellationToken::new();
        let loading = load(&journal, &enough);
        let member = Member::join(Arc::clone(&journal), "a").await;
        until("it reads everything", || async { member.held() == [0] }).await;
        until("it is loaded", || async {
            journal.extents()[0].end > sent + 320
        })
        .await;
        enough.cancel();
        sent += loading.await.unwrap();
        until("all is settled", || async {
            // The other route has nothing to say where it was never opened.
            journal.backlog().events == 0
        })
        .await;
        member.leave().await;
        drop(journal);
        let journal = bench.open().await;
        let reader = Reader::of(&*journal, "a").await;
        let part = &reader.parts[&0];
        assert_eq!(part.subscription.position(), sent);
        assert_eq!(
            settled(part.subscription.state()),
            sent,
            "each event was settled once"
        );
    }
}

pub(crate) async fn who_holds_on_to_a_revoked_partition_commits_nothing_more(bench: Bench) {
    if !bench.is_shared() {
        return;
    }
    let (first, second) = (bench.open().await, bench.open().await);
    let keys: Vec<_> = (0..16).map(|key| format!("key-{key}")).collect();
    let events = Maker::default().batch(&keys, 160);
    soon("appended", first.append(encoded(&events)))
        .await
        .unwrap();
    let mut stubborn = Reader::of(&*first, "a").await;
    let mut before = BTreeMap::new();
    for (&partition, part) in &mut stubborn.parts {
        let delivery = part.next(BatchLimit { events: 3, ..ALL }).await;
        part.commit(delivery.end, "held").await;
        before.insert(partition, delivery.end);
        part.next(BatchLimit { events: 3, ..ALL }).await;
    }
    let mut assignments = soon("another reads", second.subscribe("a")).await.unwrap();
    until("a holder is asked for a partition", || async {
        stubborn
            .parts
            .values()
            .any(|part| part.assignment.revoked().is_cancelled())
    })
    .await;
    // An engine may wait for who lives and does not let go, or hand the partition out after a while.
    let taken = match tokio::time::timeout(PATIENCE, assignments.next()).await {
        Ok(taken) => taken.unwrap(),
        Err(_) => {
            let asked = stubborn
                .parts
                .iter()
                .find(|(_, part)| part.assignment.revoked().is_cancelled());
            let &number = asked.unwrap().0;
            let part = stubborn.parts.get_mut(&number).unwrap();
            let position = part.subscription.position();
            part.commit(position, "still held").await;
            stubborn.parts.remove(&number);
            let taken = soon("what was dropped is handed out", assignments.next())
                .await
                .unwrap();
            assert_eq!(taken.partition(), number);
            let subscription = soon("opened", taken.open()).await.unwrap();
            assert_eq!(subscription.position(), position);
            assert_eq!(subscription.state(), b"still held");
            return;
        }
    };
    let mut subscription = soon("opened", taken.open()).await.unwrap();
    assert_eq!(subscription.position(), before[&taken.partition()]);
    assert_eq!(subscription.state(), b"held");
    let lost = stubborn.parts.get_mut(&taken.partition()).unwrap();
    assert!(
        lost.assignment.revoked().is_cancelled(),
        "who held it was told"
    );
    let late = DeliveryId(lost.subscription.position());
    let delivery = soon("read", subscription.next(ALL)).await.unwrap();
    for state in [&b"too late"[..], b"later still"] {
        let refused = soon("answered", lost.subscription.commit(late, state)).await;
        assert!(matches!(refused, Err(JournalError::Lost(_))), "{refused:?}");
        soon(
            "committed",
            subscription.commit(delivery.id(), b"the other's"),
        )
        .await
        .unwrap();
    }
    soon("seen", second.refresh()).await.unwrap();
    let commits = second.commits("a");
    let commit = commits
        .iter()
        .find(|commit| commit.partition == taken.partition())
        .unwrap();
    assert_eq!(
        (commit.position, &*commit.state),
        (delivery.end, &b"the other's"[..])
    );
}

/// Longer than an engine waits for who does not let go, if it does not wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn partitions_of_a_killed_process_are_read_by_another(bench: Bench) {
    let journal = bench.open().await;
    let keys: Vec<_> = (0..16).map(|key| format!("key-{key}")).collect();
    let events = Maker::default().batch(&keys, 160);
    soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    let mut reader = Reader::of(&*journal, "a").await;
    let mut got = Vec::new();
    for part in reader.parts.values_mut() {
        let delivery = part.next(BatchLimit { events: 3, ..ALL }).await;
        part.commit(delivery.end, "before").await;
        got.extend(crate::events::decoded(&delivery));
    }
    drop(reader);
    journal.close().await;
    drop(journal);

    let child = Child::start(bench.config_elsewhere(), "hold a");
    while child.line() != "holds all" {}
    child.kill();
    let journal = bench.open().await;
    let mut reader = Reader::of(&*journal, "a").await;
    for part in reader.parts.values() {
        assert_eq!(part.subscription.state(), b"before");
    }
    got.extend(reader.drain(&*journal).await);
    assert_exactly(&got, ids(&events));
    reader.commit("after").await;
}

pub(crate) async fn process_that_hung_commits_nothing_once_another_reads(bench: Bench) {
    if !bench.is_shared() {
        return;
    }
    let journal = bench.open().await;
    let keys: Vec<_> = (0..16).map(|key| format!("key-{key}")).collect();
    let events = Maker::default().batch(&keys, 160);
    soon("appended", journal.append(encoded(&events)))
        .await
        .unwrap();
    let mut child = Child::start(bench.config_elsewhere(), "hold a");
    while child.line() != "holds all" {}
    child.signal(Signal::STOP);
    let mut reader = Reader::of(&*journal, "a").await;
    assert_exactly(&reader.drain(&*journal).await, ids(&events));
    reader.commit("the other's").await;
    // It may go on before it knows what has happened.
    child.go_on();
    child.signal(Signal::CONT);
    let mut answers = BTreeSet::new();
    for _ in 0..bench.partitions() {
        let line = child.line();
        let (partition, answer) = line.split_once(' ').unwrap();
        assert_eq!(answer, "lost", "partition {partition}");
        answers.insert(partition.to_owned());
    }
    assert_eq!(answers.len(), bench.partitions());
    soon("seen", journal.refresh()).await.unwrap();
    for commit in journal.commits("a") {
        assert_eq!(commit.state, "the other's");
    }
}
