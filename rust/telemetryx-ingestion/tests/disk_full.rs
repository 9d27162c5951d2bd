//! The disk fills up under load: nothing acknowledged is lost, clients are told, and work goes on by itself when there
//! is room again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use support::{Load, SOON, Tally, service};
use telemetryx_testkit::{Service, SmallDisk, eventually};

const ROOM_KIB: u64 = 256 * 1024;

/// A service on a disk of 6 MiB.
fn on(disk: &SmallDisk) -> Service {
    service()
        .data_dir(&disk.path().join("data"))
        .config(
            "journal: { embedded: { segment_size: 256KiB } }
routes: [ { name: stats, sink: { kind: stats } },
  { name: store, sink: { kind: sqlite }, retry: { initial: 5ms, max: 50ms }, breaker: { open_for: 50ms } } ]",
        )
        .start()
}

/// Load until the disk is full and the service says so.
fn fill(service: &Service) -> Load {
    let load = Load::start(service, "d", 3, 10, 1000);
    eventually(SOON, "health says that there is no space", || {
        let health = service.get("/health");
        health.status == 503 && health.json()["journal"]["state"] == "no_space"
    });
    load
}

fn assert_only_told_to_come_back(tally: &Tally) {
    println!("answers: {:?}", tally.statuses);
    assert!(
        tally
            .statuses
            .keys()
            .all(|status| [202, 429, 503].contains(status)),
        "{:?}",
        tally.statuses
    );
    assert!(tally.statuses.contains_key(&503) && !tally.acknowledged.is_empty());
}

#[test]
fn disk_that_fills_up_under_load_loses_nothing_and_work_goes_on_when_there_is_room() {
    let disk = SmallDisk::of_kib(6 * 1024);
    let service = on(&disk);
    let load = fill(&service);
    let health = service.get("/health").json();
    if health["status"] == "unhealthy" {
        assert!(
            health["journal"]["error"]
                .as_str()
                .unwrap()
                .contains("no space"),
            "{health}"
        );
    }
    service.get("/healthz").expect_status(200);
    disk.resize_kib(ROOM_KIB);
    load.wait_for(1000);
    // Stopped first: a fast machine fills the larger disk, too, while a breaker is still open.
    let tally = load.stop();
    eventually(SOON, "health is back", || {
        service.get("/health").json()["status"] == "healthy"
    });
    assert_only_told_to_come_back(&tally);
    tally.assert_kept(&service);
}

#[test]
fn kill_while_the_disk_is_full_loses_nothing() {
    let disk = SmallDisk::of_kib(6 * 1024);
    let mut service = on(&disk);
    let load = fill(&service);
    service.kill();
    let tally = load.stop();
    assert_only_told_to_come_back(&tally);
    // On the full disk it may start or say clearly why not; in neither case is anything lost.
    if let Err(error) = service.try_restart() {
        assert_eq!(error.status.unwrap().code(), Some(1), "{error}");
        let last = error.log.lines().last().unwrap();
        assert!(last.starts_with("telemetryx: "), "{error}");
        println!("on the full disk: {last}");
    }
    disk.resize_kib(ROOM_KIB);
    service.restart();
    tally.assert_kept(&service);
}

#[test]
fn disk_that_is_full_again_and_again_loses_nothing() {
    let disk = SmallDisk::of_kib(6 * 1024);
    let service = service()
        .data_dir(&disk.path().join("data"))
        .config("journal: { embedded: { segment_size: 256KiB } }\nroutes: [ { name: stats, sink: { kind: stats } } ]")
        .start();
    let load = fill(&service);
    for mib in [10, 14, 18] {
        disk.resize_kib(mib * 1024);
        load.wait_for(1000);
        eventually(SOON, "full again", || service.get("/health").status == 503);
    }
    disk.resize_kib(ROOM_KIB);
    load.wait_for(100);
    let tally = load.stop();
    assert_only_told_to_come_back(&tally);
    tally.assert_counted(&service);
}
