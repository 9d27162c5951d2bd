//! What can happen to Kafka.

use std::time::{Duration, Instant};

use telemetryx_testkit::Kafka;

use crate::rig::{Plan, RECOVERED_WITHIN, Rig};
use crate::trouble::refuses;

#[test]
fn a_broker_that_is_killed_and_comes_back() {
    let mut rig = Plan::kafka().start();
    let load = rig.load("broker");
    rig.kafka().kill(0);
    let refused = refuses(rig.fleet.get("ingest-1"));
    assert!(refused < Duration::from_secs(10), "{refused:?}");
    rig.kafka().restart(0);
    let back = Instant::now();
    load.iter().for_each(|load| load.wait_for(200));
    assert!(back.elapsed() < RECOVERED_WITHIN);
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

#[test]
fn the_leader_of_partitions_is_lost() {
    let cluster = Kafka::builder().brokers(3);
    let more = ", replication_factor: 3, min_insync_replicas: 2";
    let mut rig = Plan::with_kafka(cluster, more).start();
    let load = rig.load("leader");
    // Each leads some.
    rig.kafka().kill(1);
    load.iter().for_each(|load| load.wait_for(200));
    rig.kafka().restart(1);
    load.iter().for_each(|load| load.wait_for(200));
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}
