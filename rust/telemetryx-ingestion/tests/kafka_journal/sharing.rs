//! Processes that share a route: they come, go, hang, are killed, are too many.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use telemetryx_ingestion::journal::Journal;
use telemetryx_ingestion::journal::kafka::KafkaJournal;
use telemetryx_testkit::eventually;

use crate::appending::Appending;
use crate::reading::{Reading, all_read, assert_read};
use crate::world::{SOON, World, open_at};

#[test]
fn partitions_are_shared_and_handed_over_with_positions_and_states_that_agree() {
    let world = World::shared();
    let journal = world.open("handed", "");
    let appending = Appending::start(&world, &journal, "a");
    let first = Reading::start(&world, &journal);
    eventually(SOON, "one reads all", || first.partitions() == 12);
    appending.wait_for(20);
    let other = world.open("handed", "");
    assert_eq!(other.identity(), journal.identity());
    let second = Reading::start(&world, &other);
    eventually(SOON, "two share", || {
        (first.partitions(), second.partitions()) == (6, 6)
    });
    // What stays where it is, is read on all the while.
    assert_eq!((first.handed(), second.handed()), (12, 6));
    appending.wait_for(20);
    let (first_seen, second_seen) = (Arc::clone(&first.seen), Arc::clone(&second.seen));
    world.wait(first.stop());
    eventually(SOON, "the other one reads all", || {
        second.partitions() == 12
    });
    appending.wait_for(20);
    let appended = appending.stop(&world);
    assert!(appended.failed.is_empty(), "{:?}", appended.failed);
    all_read(&world, &other);
    assert_read(&world, &other, &[first_seen, second_seen]);
    world.wait(second.stop());
    world.wait(async { tokio::join!(journal.close(), other.close()) });
}

#[test]
fn more_readers_than_partitions_are_said_to_be_idle() {
    let world = World::shared();
    let journals: Vec<_> = (0..2)
        .map(|_| world.open("idle", "partitions = 1"))
        .collect();
    let readings: Vec<_> = journals
        .iter()
        .map(|journal| Reading::start(&world, journal))
        .collect();
    eventually(SOON, "one is idle", || {
        let idle = |journal: &&Arc<KafkaJournal>| {
            let warnings = journal.status().warnings;
            warnings
                .iter()
                .any(|warning| warning.contains("idle for route `r`"))
        };
        journals.iter().filter(idle).count() == 1
    });
    for reading in readings {
        world.wait(reading.stop());
    }
}

/// A reader in a process of its own, which can be stopped. It is the test below, started with these.
struct Process(Child);

impl Process {
    fn start(world: &World, topic: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sharing::reads_until_it_is_killed", "--ignored"])
            .env(
                "KAFKA_JOURNAL_TEST",
                format!("{} {topic}", world.kafka.brokers()),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "another test starts it"]
fn reads_until_it_is_killed() {
    let Ok(given) = std::env::var("KAFKA_JOURNAL_TEST") else {
        return;
    };
    let (brokers, topic) = given.split_once(' ').unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let journal = open_at(brokers, topic, "").await;
        Reading::begin(&journal).task.await.unwrap();
    });
}

#[test]
fn a_process_that_hangs_or_is_killed_loses_its_partitions_and_spoils_nothing() {
    use rustix::process::Signal;

    let world = World::shared();
    let journal = world.open("hung", "");
    let appending = Appending::start(&world, &journal, "a");
    let reading = Reading::start(&world, &journal);
    eventually(SOON, "one reads all", || reading.partitions() == 12);
    let process = Process::start(&world, "hung");
    eventually(SOON, "two share", || reading.partitions() == 6);
    appending.wait_for(20);
    process.signal(Signal::STOP);
    let begun = Instant::now();
    eventually(SOON, "one reads all again", || reading.partitions() == 12);
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    appending.wait_for(20);
    process.signal(Signal::CONT);
    eventually(SOON, "two share again", || reading.partitions() == 6);
    appending.wait_for(20);
    drop(process);
    eventually(SOON, "one reads all in the end", || {
        reading.partitions() == 12
    });
    appending.wait_for(20);
    appending.stop(&world);
    all_read(&world, &journal);
    // What the other one read is not seen here: the pairs agree, and nothing is committed twice here.
    world.wait(journal.refresh()).unwrap();
    for extent in journal.extents() {
        let commits = journal.commits("r");
        let committed = commits.iter().find(|one| one.partition == extent.partition);
        let state = committed.map_or_else(|| "0".into(), |one| one.state.clone());
        assert_eq!(state, extent.end.to_string());
    }
    world.wait(reading.stop());
}
