//! What reads a route meanwhile, and what must have come of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use telemetryx_ingestion::journal::kafka::KafkaJournal;
use telemetryx_ingestion::journal::{Assignment, Journal, JournalError};
use telemetryx_testkit::eventually;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::world::{LIMIT, SOON, World, ids};

/// What one process reads of route `r`: each event, and a count that it saves with its position.
pub(crate) struct Reading {
    stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    pub(crate) seen: SeenEvents,
    partitions: Arc<Mutex<BTreeMap<u32, usize>>>,
    handed: Arc<AtomicUsize>,
}

pub(crate) type SeenEvents = Arc<Mutex<Vec<(u32, u64, String)>>>;

impl Reading {
    pub(crate) fn start(world: &World, journal: &Arc<KafkaJournal>) -> Self {
        let _inside = world.runtime.enter();
        Self::begin(journal)
    }

    /// On the runtime that runs this.
    pub(crate) fn begin(journal: &Arc<KafkaJournal>) -> Self {
        let (stop, seen) = (CancellationToken::new(), SeenEvents::default());
        let partitions = Arc::<Mutex<BTreeMap<u32, usize>>>::default();
        let handed = Arc::<AtomicUsize>::default();
        let task = tokio::spawn({
            let (journal, stop, seen) = (Arc::clone(journal), stop.clone(), Arc::clone(&seen));
            let (partitions, handed) = (Arc::clone(&partitions), Arc::clone(&handed));
            async move {
                let mut assignments = journal.subscribe("r").await.unwrap();
                let mut tasks = JoinSet::new();
                loop {
                    let assignment = tokio::select! {
                        assignment = assignments.next() => assignment,
                        () = stop.cancelled() => break,
                    };
                    let Ok(assignment) = assignment else { break };
                    handed.fetch_add(1, Ordering::Relaxed);
                    let (stop, seen) = (stop.clone(), Arc::clone(&seen));
                    let partitions = Arc::clone(&partitions);
                    tasks.spawn(async move {
                        let number = assignment.partition();
                        *partitions.lock().unwrap().entry(number).or_default() += 1;
                        read(&*assignment, stop, seen).await;
                        let mut partitions = partitions.lock().unwrap();
                        let held = partitions.get_mut(&number).unwrap();
                        *held -= 1;
                        if *held == 0 {
                            partitions.remove(&number);
                        }
                    });
                }
                while tasks.join_next().await.is_some() {}
            }
        });
        Self {
            stop,
            task,
            seen,
            partitions,
            handed,
        }
    }

    /// How often it was handed a partition.
    pub(crate) fn handed(&self) -> usize {
        self.handed.load(Ordering::Relaxed)
    }

    pub(crate) fn partitions(&self) -> usize {
        self.partitions.lock().unwrap().len()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn read(assignment: &dyn Assignment, stop: CancellationToken, seen: SeenEvents) {
    let revoked = assignment.revoked();
    'open: loop {
        let mut subscription = match assignment.open().await {
            Ok(subscription) => subscription,
            Err(JournalError::Lost(_)) => return,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if stop.is_cancelled() || revoked.is_cancelled() {
                    return;
                }
                continue;
            }
        };
        let saved = std::str::from_utf8(subscription.state()).unwrap();
        let mut count = saved.parse::<u64>().unwrap_or(0);
        assert_eq!(
            count,
            subscription.position(),
            "position and state are a pair"
        );
        loop {
            let delivery = tokio::select! {
                delivery = subscription.next(LIMIT) => delivery,
                () = stop.cancelled() => return,
                () = revoked.cancelled() => return,
            };
            let delivery = match delivery {
                Ok(delivery) => delivery,
                Err(JournalError::Lost(_)) => return,
                Err(_) => continue 'open,
            };
            count += delivery.events() + delivery.missing;
            let partition = assignment.partition();
            let state = count.to_string();
            match subscription.commit(delivery.id(), state.as_bytes()).await {
                Ok(()) => {}
                Err(JournalError::Lost(_)) => return,
                Err(_) => continue 'open,
            }
            let read = ids(&delivery).into_iter();
            let read = read.map(|(offset, id)| (partition, offset, id));
            seen.lock().unwrap().extend(read);
        }
    }
}

/// Every event of the topic was committed once by one of these, those of a partition in their order, and what is saved
/// agrees with the positions.
#[track_caller]
pub(crate) fn assert_read(world: &World, journal: &KafkaJournal, seen: &[SeenEvents]) {
    world.wait(journal.refresh()).unwrap();
    let extents = journal.extents();
    let commits = journal.commits("r");
    for extent in extents.iter().filter(|extent| extent.end > 0) {
        let mut commits = commits.iter();
        let committed = commits
            .find(|one| one.partition == extent.partition)
            .unwrap();
        assert_eq!(committed.position, extent.end, "{extent:?}");
        assert_eq!(committed.state, extent.end.to_string(), "{extent:?}");
    }
    let mut times = HashMap::<(u32, u64), u32>::new();
    for seen in seen {
        let mut last = HashMap::new();
        for (partition, offset, id) in &*seen.lock().unwrap() {
            *times.entry((*partition, *offset)).or_default() += 1;
            let before = last.insert(partition, *offset);
            assert!(
                before.is_none_or(|before| before < *offset),
                "{id} after {before:?}"
            );
        }
    }
    let events: u64 = extents.iter().map(|extent| extent.end).sum();
    assert_eq!(times.len() as u64, events);
    assert!(times.values().all(|times| *times == 1), "committed twice");
}

#[track_caller]
pub(crate) fn all_read(world: &World, journal: &KafkaJournal) {
    eventually(SOON, "all is read and committed", || {
        world.wait(journal.refresh()).ok();
        let events: u64 = journal.extents().iter().map(|extent| extent.end).sum();
        let read: u64 = journal.commits("r").iter().map(|one| one.position).sum();
        events == read && journal.backlog().events == 0
    });
}
