//! Clocks that jump by hours, forth and back: those of single processes, of all, and of the journal's server as well.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use telemetryx_testkit::{Clock, Service, eventually};

use crate::rig::{MEMBERS, Plan, RECOVERED_WITHIN, Rig};
use crate::support::{Load, SOON, Tally};

/// Refused at the door, and kept as a dead letter by all of the fleet.
const INVALID: &[u8] = br#"[{"id":"invalid","ts":"2026-01-01T00:00:00Z","no_such_field":[]}]"#;

#[test]
fn clocks_jump_by_hours_forth_and_back_over_kafka() {
    let mut rig = clocks_jump_by_hours_forth_and_back(Plan::kafka());
    let told = rig.kafka().messages("telemetryx.events").into_iter();
    let told = told.filter_map(|message| message.timestamp).map(|millis| {
        let ahead = millis / 1000 - Timestamp::now().as_second();
        ahead as f64 / 3600.0
    });
    let (least, most) = told.fold((0.0, 0.0), |(least, most), hours: f64| {
        (hours.min(least), hours.max(most))
    });
    assert!(
        least < -5.0 && most > 5.0,
        "Kafka's clock jumped: {least} {most}"
    );
}

#[test]
fn clocks_jump_by_hours_forth_and_back_over_postgres() {
    clocks_jump_by_hours_forth_and_back(Plan::postgres());
}

fn clocks_jump_by_hours_forth_and_back(plan: Plan) -> Rig {
    let rig = plan.with_clocks().start();
    let load = rig.load("clocks");
    // Each for itself, so that they differ.
    for (member, hours) in [
        ("ingest-1", 7),
        ("deliver-1", 7),
        ("ingest-2", -7),
        ("deliver-2", -7),
        ("journal", 6),
    ] {
        jump(&rig, &[member], hours);
        goes_on(&rig, &load);
    }
    // What the fleet keeps together is kept by one that is hours ahead and by one that is hours behind.
    for door in ["ingest-1", "ingest-2"] {
        let answer = rig.fleet.get(door).post_json("/ingest", INVALID);
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    eventually(SOON, "the letters of both are everywhere", || {
        rig.fleet
            .all()
            .all(|service| service.get("/dead-letters").json()["count"] == 2)
    });
    // Back, further than they went, and forth again.
    for (member, hours) in [("ingest-1", -7), ("deliver-1", -7), ("journal", -6)] {
        jump(&rig, &[member], hours);
        goes_on(&rig, &load);
    }
    // All at once, as on one machine.
    let all: Vec<_> = MEMBERS
        .iter()
        .map(|(name, _)| *name)
        .chain(["journal"])
        .collect();
    for hours in [9, -9, 0] {
        jump(&rig, &all, hours);
        goes_on(&rig, &load);
    }
    let tally = Rig::stop(load);
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    rig.assert_recovers(&tally);
    assert_was_told_wrong(&rig);
    rig
}

#[test]
fn processes_whose_clocks_are_wrong_are_killed_and_start_again() {
    let mut rig = Plan::kafka().with_clocks().start();
    let load = rig.load("wrong");
    for (member, hours) in [
        ("ingest-1", -8),
        ("deliver-1", -8),
        ("ingest-2", 8),
        ("deliver-2", 8),
    ] {
        jump(&rig, &[member], hours);
        rig.fleet.get_mut(member).kill();
        rig.fleet.get_mut(member).restart();
        goes_on(&rig, &load);
        // While it is away.
        rig.fleet.get_mut(member).kill();
        set(&rig.clocks[member], -hours);
        rig.fleet.get_mut(member).restart();
        is_told(rig.fleet.get(member), -hours);
        goes_on(&rig, &load);
    }
    let tally = Rig::stop(load);
    rig.assert_recovers(&tally);
    assert_was_told_wrong(&rig);
}

#[test]
fn a_fleet_that_has_nothing_to_do_is_there_after_its_clocks_were_set_back() {
    let rig = Plan::kafka().with_clocks().start();
    let all = MEMBERS.map(|(name, _)| name);
    let mut tally = Tally::default();
    for hours in [-3, -6] {
        jump(&rig, &all, hours);
        // Longer than a session.
        std::thread::sleep(Duration::from_secs(10));
        let load = rig.load(&format!("idle{hours}"));
        goes_on(&rig, &load);
        tally.add(Rig::stop(load));
    }
    rig.assert_recovers(&tally);
}

/// Nothing but an answer of Kafka would wake who waits until a time of day, and there is none.
#[test]
fn a_fleet_whose_clocks_are_set_back_while_kafka_is_away_is_there_when_it_is_back() {
    let mut rig = Plan::kafka().with_clocks().start();
    let load = rig.load("before");
    goes_on(&rig, &load);
    let mut tally = Rig::stop(load);
    rig.kafka().kill(0);
    // Long enough for all clients to have noticed, and to wait before they try again.
    std::thread::sleep(Duration::from_secs(3));
    jump(&rig, &MEMBERS.map(|(name, _)| name), -6);
    std::thread::sleep(Duration::from_secs(1));
    rig.kafka().restart(0);
    let load = rig.load("after");
    goes_on(&rig, &load);
    tally.add(Rig::stop(load));
    rig.assert_recovers(&tally);
}

/// Sets the clocks of these so many hours ahead, or behind, and sees to it that this is what they go by.
#[track_caller]
fn jump(rig: &Rig, names: &[&str], hours: i64) {
    eprintln!("{names:?}: {hours:+} h");
    for name in names {
        set(&rig.clocks[name], hours);
    }
    for name in names.iter().filter(|name| **name != "journal") {
        is_told(rig.fleet.get(name), hours);
    }
}

fn set(clock: &Clock, hours: i64) {
    let by = Duration::from_secs(hours.unsigned_abs() * 3600);
    match hours < 0 {
        true => clock.set_behind(by),
        false => clock.set_ahead(by),
    }
}

/// The minute that a process takes for the present one is so many hours away from that of this process.
#[track_caller]
fn is_told(service: &Service, hours: i64) {
    eventually(SOON, "it goes by its clock", || {
        let rates = service.get("/stats/rates?window=1m").json();
        let minute = rates["rates"][0]["minute"].as_str();
        let Some(minute) = minute.and_then(|text| text.parse::<Timestamp>().ok()) else {
            return false;
        };
        let ahead = minute.as_second() - Timestamp::now().as_second();
        (ahead - hours * 3600).abs() <= 120
    });
}

/// Both doors take events in, and both routes deliver them, soon.
#[track_caller]
fn goes_on(rig: &Rig, load: &[Load; 2]) {
    let since = Instant::now();
    let counted = || {
        let stats = rig.fleet.get("ingest-1").get("/stats").json();
        stats["events_count"].as_u64().unwrap_or(0)
    };
    load.iter().for_each(|load| load.wait_for(50));
    let (rows, events) = (rig.stored(), counted());
    eventually(RECOVERED_WITHIN, "both routes go on", || {
        rig.stored() > rows + 50 && counted() > events + 50
    });
    assert!(since.elapsed() < RECOVERED_WITHIN, "{:?}", since.elapsed());
}

/// Of what is stored, some was taken in hours ago and some in hours to come, as the doors say.
#[track_caller]
fn assert_was_told_wrong(rig: &Rig) {
    let told = rig.postgres.sql(
        "SELECT count(*) FILTER (WHERE received_at > now() + interval '6 hours') > 0,
                count(*) FILTER (WHERE received_at < now() - interval '6 hours') > 0 FROM events",
    );
    assert_eq!(told, "t|t");
}
