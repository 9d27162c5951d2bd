//! `kill -9` of the service under load, at moments of a seed: in the middle of what its sinks do.

use std::time::Duration;

use telemetryx_testkit::{Service, TestSeed};

use super::{Load, Tally};

/// How often, if `TELEMETRYX_KILLS` does not say.
const KILLS: u32 = 20;

/// Kills the service and starts it again, 20 times or as often as `TELEMETRYX_KILLS` says; what clients were told.
#[track_caller]
pub(crate) fn kill_under_load(service: &mut Service) -> Tally {
    let kills = std::env::var("TELEMETRYX_KILLS").map_or(KILLS, |kills| {
        kills.parse().expect("TELEMETRYX_KILLS is a number")
    });
    let mut seed = TestSeed::new();
    let mut all = Tally::default();
    for kill in 0..kills {
        let load = Load::start(service, &format!("kill-{kill}"), 2, 5, 50);
        load.wait_for(100);
        // No wait for anything: any moment is a good one.
        std::thread::sleep(Duration::from_micros(seed.below(50_000)));
        service.kill();
        all.add(load.stop());
        service.restart();
    }
    all
}
