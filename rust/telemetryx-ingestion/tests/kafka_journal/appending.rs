//! What appends meanwhile, and what must have come of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use telemetryx_ingestion::journal::kafka::KafkaJournal;
use telemetryx_ingestion::journal::{AppendError, Journal, Position};
use telemetryx_testkit::eventually;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{SOON, World, numbered};

/// Appends that go on until they are stopped.
pub(crate) struct Appending {
    stop: CancellationToken,
    task: JoinHandle<Appended>,
    done: Arc<Mutex<usize>>,
}

#[derive(Default)]
pub(crate) struct Appended {
    /// Each with the number of its first event.
    pub(crate) acknowledged: Vec<(usize, Position)>,
    pub(crate) failed: Vec<AppendError>,
    pub(crate) slowest: Duration,
}

pub(crate) const BATCH: usize = 50;

impl Appending {
    pub(crate) fn start(world: &World, journal: &Arc<KafkaJournal>, name: &'static str) -> Self {
        let (stop, done) = (CancellationToken::new(), Arc::<Mutex<usize>>::default());
        let task = world.runtime.spawn({
            let (journal, stop, done) = (Arc::clone(journal), stop.clone(), Arc::clone(&done));
            async move {
                let (mut appended, mut from) = (Appended::default(), 0);
                while !stop.is_cancelled() {
                    let begun = Instant::now();
                    match journal.append(numbered(name, from, BATCH)).await {
                        Ok(position) => {
                            assert_eq!(position.events(), BATCH as u64);
                            appended.acknowledged.push((from, position));
                            *done.lock().unwrap() += 1;
                        }
                        Err(error) => {
                            appended.failed.push(error);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    appended.slowest = appended.slowest.max(begun.elapsed());
                    from += BATCH;
                }
                appended
            }
        });
        Self { stop, task, done }
    }

    /// Waits until so many more were acknowledged.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: usize) {
        let until = self.acknowledged() + more;
        eventually(SOON, "appends are acknowledged", || {
            self.acknowledged() >= until
        });
    }

    /// How many were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        *self.done.lock().unwrap()
    }

    pub(crate) fn stop(self, world: &World) -> Appended {
        self.stop.cancel();
        world.wait(self.task).unwrap()
    }
}

/// Each acknowledged event is where its position says; the events of each source are in their order.
#[track_caller]
pub(crate) fn assert_there(world: &World, topic: &str, name: &str, appended: &Appended) {
    let messages = world.kafka.messages(topic);
    let there: HashMap<_, _> = messages
        .iter()
        .map(|one| ((one.partition as u32, one.offset as u64), one))
        .collect();
    for (from, position) in &appended.acknowledged {
        let ranges = position.ranges.iter();
        let places =
            ranges.flat_map(|range| (range.first..range.end()).map(|at| (range.partition, at)));
        let mut found: Vec<_> = places
            .map(|place| there[&place].header("event_id").to_owned())
            .collect();
        let mut expected: Vec<_> = (*from..from + BATCH)
            .map(|n| format!("{name}-{n}"))
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
    let mut last = HashMap::<&[u8], u64>::new();
    for message in &messages {
        let id = message.header("event_id");
        let number = id.rsplit_once('-').unwrap().1.parse().unwrap();
        let key = message.key.as_deref().unwrap();
        let before = last.insert(key, number);
        assert!(
            before.is_none_or(|before| before < number),
            "{id} after {before:?}"
        );
    }
}
