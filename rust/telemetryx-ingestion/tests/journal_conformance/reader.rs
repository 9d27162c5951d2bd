//! A route's reading: all partitions as one process reads them, and the part of one process of several.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use telemetryx_ingestion::journal::{
    Assignment, Assignments, BatchLimit, Delivery, DeliveryId, Journal, JournalError, Subscription,
};
use tokio_util::sync::CancellationToken;

use crate::events::{Got, decoded};

/// How long something that should come soon may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// As much as there is, without waiting for more.
pub(crate) const ALL: BatchLimit = BatchLimit {
    events: 10_000,
    bytes: 64 << 20,
    wait: Duration::ZERO,
};

/// Fails the test if it takes too long.
#[track_caller]
pub(crate) fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let location = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(SOON, future).await {
            Ok(value) => value,
            Err(_) => panic!("waited {SOON:?} in vain at {location}: {what}"),
        }
    }
}

/// Asks again and again until it is so.
#[track_caller]
pub(crate) fn until<F: Future<Output = bool>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> impl Future<Output = ()> {
    let location = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        while !condition().await {
            assert!(
                begun.elapsed() < SOON,
                "waited {SOON:?} in vain at {location}: {what}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// One partition, held. The subscription goes first.
pub(crate) struct Part {
    pub(crate) subscription: Box<dyn Subscription>,
    pub(crate) assignment: Box<dyn Assignment>,
}

impl Part {
    /// Reads on from its last commit.
    pub(crate) async fn reopen(self) -> Self {
        drop(self.subscription);
        let subscription = soon("a partition is opened again", self.assignment.open()).await;
        Self {
            subscription: subscription.unwrap(),
            assignment: self.assignment,
        }
    }

    pub(crate) async fn next(&mut self, limit: BatchLimit) -> Delivery {
        let begun = self.subscription.position();
        let delivery = soon("there is a delivery", self.subscription.next(limit)).await;
        let delivery = delivery.unwrap();
        assert_eq!(delivery.partition, self.assignment.partition());
        assert_eq!(delivery.first, begun, "it starts where it said");
        assert_eq!((delivery.missing, &delivery.gaps), (0, &Vec::new()));
        assert_eq!(self.subscription.position(), delivery.end);
        delivery
    }

    pub(crate) async fn commit(&mut self, position: u64, state: &str) {
        let commit = self
            .subscription
            .commit(DeliveryId(position), state.as_bytes());
        soon("a commit is saved", commit).await.unwrap();
        assert_eq!(self.subscription.state(), state.as_bytes());
    }
}

/// All partitions of a route, read by this process alone.
pub(crate) struct Reader {
    pub(crate) parts: BTreeMap<u32, Part>,
    _assignments: Box<dyn Assignments>,
}

impl Reader {
    pub(crate) async fn of(journal: &dyn Journal, route: &str) -> Self {
        soon("the partitions are known", journal.refresh())
            .await
            .unwrap();
        let all = journal.extents().len();
        assert!(all > 0, "a journal has a partition");
        let subscribed = soon("a route is read", journal.subscribe(route)).await;
        let mut assignments = subscribed.unwrap();
        let mut parts = BTreeMap::new();
        while parts.len() < all {
            let assignment = soon("a partition is handed out", assignments.next())
                .await
                .unwrap();
            let subscription = soon("a partition is opened", assignment.open())
                .await
                .unwrap();
            let part = Part {
                subscription,
                assignment,
            };
            let twice = parts.insert(part.assignment.partition(), part);
            assert!(twice.is_none(), "a partition is handed out twice");
        }
        Self {
            parts,
            _assignments: assignments,
        }
    }

    /// Reads everything that is durable now.
    pub(crate) async fn drain(&mut self, journal: &dyn Journal) -> Vec<Got> {
        soon("the extents are seen", journal.refresh())
            .await
            .unwrap();
        let mut got = Vec::new();
        for extent in journal.extents() {
            let part = self.parts.get_mut(&extent.partition).unwrap();
            while part.subscription.position() < extent.end {
                got.extend(decoded(&part.next(ALL).await));
            }
        }
        got
    }

    /// Commits where each partition is now.
    pub(crate) async fn commit(&mut self, state: &str) {
        for part in self.parts.values_mut() {
            part.commit(part.subscription.position(), state).await;
        }
    }
}

/// Everything that a route without a position finds.
pub(crate) async fn read_all(journal: &dyn Journal, route: &str) -> Vec<Got> {
    Reader::of(journal, route).await.drain(journal).await
}

/// A process that takes part in reading a route as it should: it reads what it is handed, counts the events that it
/// settles in what it saves, and lets go of what it is asked for.
pub(crate) struct Member {
    journal: Arc<dyn Journal>,
    held: Arc<Mutex<BTreeMap<u32, u64>>>,
    stop: CancellationToken,
    taking: tokio::task::JoinHandle<()>,
}

impl Member {
    pub(crate) async fn join(journal: Arc<dyn Journal>, route: &str) -> Self {
        let mut assignments = soon("a route is read", journal.subscribe(route))
            .await
            .unwrap();
        let held: Arc<Mutex<BTreeMap<u32, u64>>> = Arc::default();
        let stop = CancellationToken::new();
        let (holding, stopped) = (Arc::clone(&held), stop.clone());
        let taking = tokio::spawn(async move {
            let mut reading = tokio::task::JoinSet::new();
            loop {
                let assignment = tokio::select! {
                    assignment = assignments.next() => assignment,
                    () = stopped.cancelled() => break,
                };
                let assignment = match assignment {
                    Ok(assignment) => assignment,
                    // There will never be another one; those that there are stay.
                    Err(JournalError::Closed) => {
                        stopped.cancelled().await;
                        break;
                    }
                    Err(error) => panic!("{error}"),
                };
                let (holding, stopped) = (Arc::clone(&holding), stopped.clone());
                reading.spawn(async move {
                    let partition = assignment.partition();
                    *holding.lock().entry(partition).or_insert(0) += 1;
                    read(&*assignment, &stopped).await;
                    let mut holding = holding.lock();
                    if let Some(times) = holding.get_mut(&partition) {
                        *times -= 1;
                    }
                    holding.retain(|_, times| *times > 0);
                    drop(assignment);
                });
            }
            while let Some(ended) = reading.join_next().await {
                ended.expect("reading does not panic");
            }
        });
        Self {
            journal,
            held,
            stop,
            taking,
        }
    }

    /// The partitions that it reads now.
    pub(crate) fn held(&self) -> Vec<u32> {
        self.held.lock().keys().copied().collect()
    }

    /// Lets go of everything, as at the end of a process.
    pub(crate) async fn leave(self) {
        self.stop.cancel();
        soon("a member leaves", self.taking)
            .await
            .expect("a member does not panic");
        soon("a journal is closed", self.journal.close()).await;
    }
}

/// Reads one partition until it is another's, or the process ends.
async fn read(assignment: &dyn Assignment, stopped: &CancellationToken) {
    let revoked = assignment.revoked();
    let mut subscription = match assignment.open().await {
        Ok(subscription) => subscription,
        Err(JournalError::Lost(_)) => return,
        Err(error) => panic!("{error}"),
    };
    let mut settled = settled(subscription.state());
    let limit = BatchLimit {
        events: 100,
        bytes: 1 << 20,
        wait: Duration::from_millis(1),
    };
    loop {
        let delivery = tokio::select! {
            delivery = subscription.next(limit) => delivery,
            () = revoked.cancelled() => return,
            () = stopped.cancelled() => return,
        };
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(JournalError::Lost(_)) => return,
            Err(error) => panic!("{error}"),
        };
        settled += decoded(&delivery).len() as u64;
        let state = settled.to_string();
        loop {
            match subscription.commit(delivery.id(), state.as_bytes()).await {
                Ok(()) => break,
                Err(JournalError::Lost(_)) => return,
                // Nothing was saved: the same may be tried again.
                Err(JournalError::Io(_)) if !revoked.is_cancelled() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(JournalError::Io(_)) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// How many events a member has counted in what it saved.
pub(crate) fn settled(state: &[u8]) -> u64 {
    match std::str::from_utf8(state).unwrap() {
        "" => 0,
        text => text.parse().unwrap(),
    }
}
