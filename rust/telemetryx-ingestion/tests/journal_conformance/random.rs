//! Any order of appending, reading, committing, giving up, closing and crashing does what a plain model does.
//!
//! A failing run prints its seed; `TELEMETRYX_SEED=…` runs that workload again, alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use telemetryx_ingestion::journal::{BatchLimit, Journal};
use telemetryx_testkit::TestSeed;

use crate::bench::Bench;
use crate::events::{Got, Maker, assert_exactly, assert_in_order, decoded, encoded, ids};
use crate::reader::{Reader, soon};

/// What is done in one workload.
const STEPS: usize = 150;
/// A next that nobody answers is given up after this time.
const PATIENCE: Duration = Duration::from_millis(30);

/// One route's reading of one partition, as it must be.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Where it reads next.
    at: u64,
    committed: u64,
    state: String,
    /// The ends of what it was handed since its last commit.
    under_way: Vec<u64>,
    /// By offset, everything that it has ever read.
    read: BTreeMap<u64, String>,
}

/// What all of it must look like.
#[derive(Default)]
struct Model {
    maker: Maker,
    acknowledged: Vec<String>,
    routes: BTreeMap<&'static str, BTreeMap<u32, Place>>,
}

pub(crate) async fn any_workload_does_what_the_model_does(bench: Bench) {
    if std::env::var_os("TELEMETRYX_SEED").is_some() {
        return workload(&bench, TestSeed::new()).await;
    }
    let mut seeds = TestSeed::new();
    for _ in 0..bench.workloads() {
        make_anew(&bench).await;
        workload(&bench, TestSeed::of(seeds.next_u64() >> 16)).await;
    }
}

/// Each workload begins with an empty journal.
async fn make_anew(bench: &Bench) {
    let journal = bench.open().await;
    journal.close().await;
    drop(journal);
    bench.make_anew().await;
}

async fn workload(bench: &Bench, mut seed: TestSeed) {
    let mut model = Model::default();
    let mut journal = bench.open().await;
    let mut readers: BTreeMap<&'static str, Reader> = BTreeMap::new();
    // A route is read once a handle.
    let mut subscribed = BTreeSet::new();
    for step in 0..STEPS {
        let route = bench.routes()[seed.below(2) as usize];
        match seed.below(20) {
            0..6 => model.append(&*journal, &mut seed).await,
            6 => model.append_at_once(&journal, &mut seed).await,
            7 if step % 3 == 0 => {
                // In a crash nobody says goodbye.
                readers.clear();
                if seed.below(2) == 0 {
                    soon("closed", journal.close()).await;
                }
                drop(journal);
                journal = bench.open().await;
                subscribed.clear();
                model.forget_what_is_not_committed(None, None);
            }
            8 => {
                readers.remove(route);
                model.forget_what_is_not_committed(Some(route), None);
            }
            action => {
                if !readers.contains_key(route) {
                    if !subscribed.insert(route) {
                        readers.clear();
                        drop(journal);
                        journal = bench.open().await;
                        subscribed = BTreeSet::from([route]);
                        model.forget_what_is_not_committed(None, None);
                    }
                    let reader = Reader::of(&*journal, route).await;
                    model.begins(route, &reader);
                    readers.insert(route, reader);
                }
                let reader = readers.get_mut(route).unwrap();
                let partition = seed.below(reader.parts.len() as u64) as u32;
                match action {
                    9..15 => model.read(route, partition, reader, &mut seed).await,
                    15..19 => model.commit(route, partition, reader, &mut seed).await,
                    _ => {
                        let part = reader.parts.remove(&partition).unwrap().reopen().await;
                        reader.parts.insert(partition, part);
                        model.forget_what_is_not_committed(Some(route), Some(partition));
                        model.begins(route, reader);
                    }
                }
            }
        }
        model.looks_like(&*journal).await;
    }
    // In the end every route comes to everything, each event once.
    readers.clear();
    drop(journal);
    let journal = bench.open().await;
    model.forget_what_is_not_committed(None, None);
    for route in bench.routes() {
        let mut reader = Reader::of(&*journal, route).await;
        model.begins(route, &reader);
        let got = reader.drain(&*journal).await;
        model.was_handed(route, &got);
        let all: Vec<_> = model.routes[route]
            .iter()
            .flat_map(|(&partition, place)| {
                place.read.iter().map(move |(&offset, id)| Got {
                    partition,
                    offset,
                    id: id.clone(),
                })
            })
            .collect();
        assert_exactly(&all, &model.acknowledged);
        assert_in_order(&all);
    }
    journal.close().await;
}

impl Model {
    fn batch(&mut self, seed: &mut TestSeed) -> Vec<telemetryx_common::Event<'static>> {
        let keys: Vec<_> = (0..1 + seed.below(8))
            .map(|_| format!("key-{}", seed.below(10)))
            .collect();
        let most = [2, 10, 100][seed.below(3) as usize];
        let mut events = self.maker.batch(&keys, 1 + seed.below(most) as usize);
        for event in &mut events {
            event.payload = format!("\"{}\"", "x".repeat(seed.below(400) as usize)).into();
        }
        events
    }

    async fn append(&mut self, journal: &dyn Journal, seed: &mut TestSeed) {
        let events = self.batch(seed);
        let position = soon("appended", journal.append(encoded(&events)))
            .await
            .unwrap();
        assert_eq!(position.events(), events.len() as u64);
        self.acknowledged.extend(ids(&events));
    }

    /// Several at once, each of keys of its own.
    async fn append_at_once(&mut self, journal: &Arc<dyn Journal>, seed: &mut TestSeed) {
        let mut appending = tokio::task::JoinSet::new();
        for client in 0..2 + seed.below(6) {
            let events = self
                .maker
                .batch(&[format!("client-{client}")], 1 + seed.below(20) as usize);
            self.acknowledged.extend(ids(&events));
            let journal = Arc::clone(journal);
            appending.spawn(async move {
                soon("appended", journal.append(encoded(&events)))
                    .await
                    .unwrap();
            });
        }
        appending.join_all().await;
    }

    /// A route is opened where it committed, with what it saved.
    #[track_caller]
    fn begins(&mut self, route: &'static str, reader: &Reader) {
        let places = self.routes.entry(route).or_default();
        for (&partition, part) in &reader.parts {
            let place = places.entry(partition).or_default();
            assert_eq!(
                part.subscription.position(),
                place.at,
                "{route} in partition {partition}"
            );
            let state = String::from_utf8_lossy(part.subscription.state());
            assert_eq!(state, place.state, "{route} in partition {partition}");
        }
    }

    fn forget_what_is_not_committed(&mut self, route: Option<&str>, partition: Option<u32>) {
        for (name, places) in &mut self.routes {
            for (number, place) in places {
                if route.is_none_or(|route| route == *name)
                    && partition.is_none_or(|one| one == *number)
                {
                    place.at = place.committed;
                    place.under_way.clear();
                }
            }
        }
    }

    #[track_caller]
    fn was_handed(&mut self, route: &'static str, got: &[Got]) {
        let places = self.routes.get_mut(route).unwrap();
        for got in got {
            let place = places.get_mut(&got.partition).unwrap();
            assert_eq!(got.offset, place.at, "offsets are without a gap: {got:?}");
            place.at += 1;
            let before = place.read.insert(got.offset, got.id.clone());
            assert!(
                before.is_none_or(|before| before == got.id),
                "another event than before: {got:?}"
            );
        }
    }

    async fn read(
        &mut self,
        route: &'static str,
        partition: u32,
        reader: &mut Reader,
        seed: &mut TestSeed,
    ) {
        let limit = BatchLimit {
            events: 1 + seed.below(60) as usize,
            bytes: 1 << seed.below(16),
            wait: Duration::from_millis(seed.below(4)),
        };
        let part = reader.parts.get_mut(&partition).unwrap();
        if let Ok(delivery) = tokio::time::timeout(PATIENCE, part.subscription.next(limit)).await {
            let delivery = delivery.unwrap();
            assert!(delivery.events() <= limit.events as u64);
            assert!(delivery.bytes <= limit.bytes || delivery.events() == 1);
            assert_eq!(delivery.missing, 0);
            self.was_handed(route, &decoded(&delivery));
            let place = self
                .routes
                .get_mut(route)
                .unwrap()
                .get_mut(&partition)
                .unwrap();
            assert_eq!(place.at, delivery.end);
            place.under_way.push(delivery.end);
        }
    }

    async fn commit(
        &mut self,
        route: &'static str,
        partition: u32,
        reader: &mut Reader,
        seed: &mut TestSeed,
    ) {
        let place = self
            .routes
            .get_mut(route)
            .unwrap()
            .get_mut(&partition)
            .unwrap();
        let part = reader.parts.get_mut(&partition).unwrap();
        // Up to any delivery, also none: then the state alone is saved.
        let settled = seed.below(place.under_way.len() as u64 + 1) as usize;
        let position = match settled {
            0 => place.committed,
            settled => place.under_way[settled - 1],
        };
        let state = format!("{position}, {}", "y".repeat(seed.below(2000) as usize));
        part.commit(position, &state).await;
        place.under_way.drain(..settled);
        (place.committed, place.state) = (position, state);
    }

    /// What the journal says of itself is so.
    async fn looks_like(&self, journal: &dyn Journal) {
        soon("seen", journal.refresh()).await.unwrap();
        let extents = journal.extents();
        let held: u64 = extents.iter().map(|extent| extent.end - extent.start).sum();
        assert_eq!(held, self.acknowledged.len() as u64);
        for (route, places) in &self.routes {
            for commit in journal.commits(route) {
                let place = &places[&commit.partition];
                assert_eq!(
                    commit.position, place.committed,
                    "{route} in {}",
                    commit.partition
                );
                assert_eq!(commit.state, place.state);
            }
        }
    }
}
