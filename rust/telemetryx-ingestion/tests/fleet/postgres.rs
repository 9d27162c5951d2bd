//! What can happen to the PostgreSQL that the journal is in.

use std::time::{Duration, Instant};

use crate::rig::{Plan, RECOVERED_WITHIN, Rig};
use crate::trouble::refuses;

#[test]
fn the_server_is_killed_in_the_middle_of_transactions_and_comes_back() {
    let mut rig = Plan::postgres().start();
    let load = rig.load("queue");
    for _ in 0..3 {
        rig.queue().kill();
        let refused = refuses(rig.fleet.get("ingest-1"));
        assert!(refused < Duration::from_secs(10), "{refused:?}");
        rig.queue().restart();
        let back = Instant::now();
        load.iter().for_each(|load| load.wait_for(200));
        assert!(back.elapsed() < RECOVERED_WITHIN);
    }
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

#[test]
fn the_server_hangs_and_goes_on() {
    let mut rig = Plan::postgres().start();
    let load = rig.load("hangs");
    rig.queue().hang();
    let refused = refuses(rig.fleet.get("ingest-1"));
    assert!(refused < Duration::from_secs(10), "{refused:?}");
    rig.queue().go_on();
    load.iter().for_each(|load| load.wait_for(200));
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}
