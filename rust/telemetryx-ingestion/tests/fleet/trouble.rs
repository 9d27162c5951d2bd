//! What can happen to a fleet with any journal.

use std::time::{Duration, Instant};

use telemetryx_testkit::{Service, TestSeed, eventually};

use crate::rig::{Plan, RECOVERED_WITHIN, Rig, START};
use crate::support::{self, SOON};

pub(crate) fn readers_are_added_killed_and_stopped_past_their_session(plan: Plan) {
    let mut rig = plan.start();
    let load = rig.load("readers");
    eventually(START, "both read", || {
        rig.read_by("deliver-1") == 3 && rig.read_by("deliver-2") == 3
    });
    rig.fleet.add("deliver-3", "deliver, query");
    eventually(RECOVERED_WITHIN, "the third reads", || {
        rig.read_by("deliver-3") == 2
    });
    rig.fleet.get_mut("deliver-2").kill();
    eventually(RECOVERED_WITHIN, "two share what three had", || {
        rig.read_by("deliver-1") == 3 && rig.read_by("deliver-3") == 3
    });
    rig.fleet.get_mut("deliver-2").restart();
    eventually(RECOVERED_WITHIN, "it reads again", || {
        rig.read_by("deliver-2") == 2
    });
    // It goes on where it was, in the middle of something, when others have long had its partitions.
    rig.fleet.get("deliver-1").hang();
    eventually(RECOVERED_WITHIN, "others have its partitions", || {
        rig.read_by("deliver-2") == 3 && rig.read_by("deliver-3") == 3
    });
    load.iter().for_each(|load| load.wait_for(100));
    rig.fleet.get("deliver-1").go_on();
    load.iter().for_each(|load| load.wait_for(100));
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

pub(crate) fn the_network_is_cut_between_each_pair(plan: Plan) {
    let mut seed = TestSeed::new();
    let mut rig = plan.start();
    let load = rig.load("network");
    for turn in 0..3 {
        let to_stores = [&rig.to_postgres, &rig.to_redis];
        let proxies = to_stores.into_iter().chain(rig.to_journal());
        for (number, proxy) in proxies.enumerate() {
            if seed.below(2) == 0 {
                proxy.hang();
            } else {
                proxy.cut();
                proxy.refuse();
            }
            std::thread::sleep(Duration::from_millis(500 + seed.below(1500)));
            if number < 2 {
                // The door and the other route know nothing of it.
                load.iter().for_each(|load| load.wait_for(50));
            }
            proxy.restore();
            if turn == 2 {
                load.iter().for_each(|load| load.wait_for(50));
            }
        }
    }
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
    rig.fleet.restore();
}

pub(crate) fn postgres_fails_over_in_the_middle_of_transactions(plan: Plan) {
    let mut rig = plan.start();
    let load = rig.load("postgres");
    for _ in 0..3 {
        rig.postgres.kill();
        load.iter().for_each(|load| load.wait_for(100));
        // The other route goes on.
        let door = rig.fleet.get("ingest-1");
        let before = door.get("/stats").json()["events_count"].as_u64();
        eventually(SOON, "the counters go on", || {
            door.get("/stats").json()["events_count"].as_u64() > before
        });
        rig.postgres.restart();
        load.iter().for_each(|load| load.wait_for(50));
    }
    let tally = Rig::stop(load);
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    rig.assert_recovers(&tally);
}

pub(crate) fn redis_is_away_and_everything_else_goes_on(plan: Plan) {
    let mut rig = plan.start();
    let load = rig.load("redis");
    rig.redis.kill();
    load.iter().for_each(|load| load.wait_for(200));
    let before = rig.stored();
    eventually(SOON, "the store goes on", || rig.stored() > before + 100);
    let health = rig.fleet.get("deliver-1").get("/health");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (200, &"degraded".into())
    );
    rig.redis.restart();
    let tally = Rig::stop(load);
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    rig.assert_recovers(&tally);
}

pub(crate) fn processes_are_killed_and_started_again(plan: Plan) {
    let mut seed = TestSeed::new();
    let mut rig = plan.start();
    let load = rig.load("processes");
    for member in ["ingest-1", "deliver-1", "ingest-2", "deliver-2"] {
        std::thread::sleep(Duration::from_millis(seed.below(500)));
        rig.fleet.get_mut(member).kill();
        std::thread::sleep(Duration::from_millis(seed.below(500)));
        rig.fleet.get_mut(member).restart();
        load.iter().for_each(|load| load.wait_for(50));
    }
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
}

/// How long the answer took, which is 503 with `Retry-After`, and `/health` says it as well.
#[track_caller]
pub(crate) fn refuses(door: &Service) -> Duration {
    let mut took = Duration::ZERO;
    eventually(SOON, "it refuses", || {
        let asked = Instant::now();
        let answer = door.post_json("/ingest", support::event("refused-0"));
        took = asked.elapsed();
        if answer.status == 503 {
            assert!(support::retry_after(&answer) > 0);
        }
        answer.status == 503
    });
    eventually(SOON, "it is unhealthy", || {
        door.get("/health").status == 503
    });
    took
}
