//! Brokers away, at the start and under load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use telemetryx_ingestion::journal::{AppendError, Journal};
use telemetryx_testkit::{Kafka, eventually};

use crate::appending::{Appending, assert_there};
use crate::reading::{Reading, all_read, assert_read};
use crate::world::{SOON, World, numbered};

#[test]
fn what_is_acknowledged_is_there_though_the_broker_is_killed() {
    let mut world = World::of(Kafka::start());
    let journal = world.open("killed", "delivery_timeout = '3s'");
    let appending = Appending::start(&world, &journal, "a");
    appending.wait_for(20);
    world.kafka_mut().kill(0);
    eventually(SOON, "the journal says so", || !journal.status().is_ok());
    let begun = Instant::now();
    let refused = world.wait(journal.append(numbered("b", 0, 1)));
    assert!(
        matches!(refused, Err(AppendError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    world.kafka_mut().restart(0);
    appending.wait_for(20);
    eventually(SOON, "it is well again", || journal.status().is_ok());
    let appended = appending.stop(&world);
    assert!(!appended.failed.is_empty());
    assert!(
        appended
            .failed
            .iter()
            .all(|error| matches!(error, AppendError::Unavailable(_))),
        "{:?}",
        appended.failed
    );
    assert!(
        appended.slowest < Duration::from_secs(5),
        "{:?}",
        appended.slowest
    );
    assert_there(&world, "killed", "a", &appended);
}

#[test]
fn the_loss_of_one_broker_of_three_loses_nothing_and_is_survived_unaided() {
    let mut world = World::of(Kafka::builder().brokers(3).start());
    let keys = "replication_factor = 3\ndelivery_timeout = '20s'";
    let journal = world.open("three", keys);
    assert!(
        journal.status().warnings.is_empty(),
        "{:?}",
        journal.status()
    );
    let appending = Appending::start(&world, &journal, "a");
    let reading = Reading::start(&world, &journal);
    for broker in [0, 1] {
        appending.wait_for(20);
        world.kafka_mut().kill(broker);
        appending.wait_for(20);
        world.kafka_mut().restart(broker);
    }
    appending.wait_for(20);
    let appended = appending.stop(&world);
    assert_there(&world, "three", "a", &appended);
    all_read(&world, &journal);
    assert_read(&world, &journal, &[Arc::clone(&reading.seen)]);
    world.wait(reading.stop());
}

#[test]
fn the_start_does_not_wait_for_kafka_and_all_goes_on_when_it_comes() {
    let mut world = World::of(Kafka::start());
    world.kafka_mut().kill(0);
    let begun = Instant::now();
    let journal = world.open_anyhow("later", "delivery_timeout = '2s'");
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(!journal.status().is_ok());
    let begun = Instant::now();
    let refused = world.wait(journal.append(numbered("a", 0, 1)));
    assert!(
        matches!(refused, Err(AppendError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(4));
    let reading = Reading::start(&world, &journal);
    world.kafka_mut().restart(0);
    eventually(SOON, "the journal is well", || journal.status().is_ok());
    world.wait(journal.append(numbered("a", 0, 100))).unwrap();
    eventually(SOON, "the route reads", || reading.count() == 100);
    world.wait(reading.stop());
}
