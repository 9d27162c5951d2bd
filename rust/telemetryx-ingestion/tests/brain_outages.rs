//! The `grpc` sink and its brain in trouble: whoever is killed, hangs, goes down, is cut off or sends garbage, everything is
//! found once, the other routes go on, and the trouble is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use support::brain::{
    ECHO, Garbage, brain_of, config, config_with, health, ledger, of_type, post, wait_until_down,
};
use support::outages::{Outages, Trouble};
use support::{
    Load, SOON, assert_books_balance, event, events, metric, service, settle, start, stored,
};
use telemetryx_testkit::{Brain, Proxy, Service, SmallDisk, eventually};

/// A brain that can be held in the middle of a batch. It finds something in each event, and says at the end of a batch how
/// many it has looked at.
struct Held(Brain);

impl Held {
    fn start() -> Self {
        Self(brain_of(
            "
import time
from pathlib import Path
from telemetryx_brain import Finding, brain
seen = 0

@brain
def held(events):
    global seen
    Path('at_work').touch()
    while Path('hold').exists():
        time.sleep(0.005)
    seen += len(events)
    yield from (Finding('echo', cause=event, payload={'of': event.id}) for event in events)
    yield Finding('seen', cause=events[-1], payload=seen)
",
        ))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.folder().join(name)
    }

    /// From now on it goes into batches and does not come out.
    fn hold(&self) {
        std::fs::write(self.file("hold"), "").unwrap();
        std::fs::remove_file(self.file("at_work")).ok();
    }

    #[track_caller]
    fn wait_until_at_work(&self) {
        eventually(SOON, "the brain is at work", || {
            self.file("at_work").exists()
        });
    }

    fn let_go(&self) {
        std::fs::remove_file(self.file("hold")).unwrap();
    }
}

/// How often something was found in each event.
#[track_caller]
fn echoes(service: &Service) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for finding in of_type(service, "brain.echo") {
        let of = finding["payload"]["of"].as_str().unwrap().to_owned();
        assert_eq!(finding["attributes"]["cause.id"], json!(of));
        *found.entry(of).or_default() += 1;
    }
    found
}

/// In each of these something was found, once, and in nothing else.
#[track_caller]
fn assert_found_once(service: &Service, ids: &[String]) {
    let mut last = BTreeMap::new();
    eventually(SOON, "everything is found", || {
        last = echoes(service);
        last.len() >= ids.len()
    });
    let expected: BTreeMap<_, _> = ids.iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(last, expected);
}

#[track_caller]
fn post_ids(service: &Service, name: &str, count: usize) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|n| format!("{name}-{n}")).collect();
    post(service, events(&ids));
    ids
}

#[test]
fn a_brain_that_breaks_the_contract_is_named_and_does_no_harm() {
    let garbage = Garbage::start("fine");
    let service = start(&config_with(&garbage.brain.url(), "timeout: 1s", ""));
    let mut posted = 0;
    let mut post_one = || {
        posted += 1;
        post(&service, event(&format!("g{posted}")));
    };
    let last_error =
        || service.get("/status").json()["routes"]["brain"]["health"]["last_error"].to_string();
    for (wrong, words) in [
        ("sequence", "which waits for none"),
        ("nothing", "says nothing"),
        ("no_cause", "without a cause"),
        ("far_cause", "event 4000000000 of a batch"),
        ("no_type", "without a type"),
        ("no_text", "no UTF-8 text"),
        ("far_refusal", "refuses event 1000000"),
        ("bytes", "no message of the contract"),
        ("raises", "a fault of the brain"),
        ("silent", "gave no answer within 1s"),
        ("ends_at_once", "ended the stream at once"),
        ("answers_first", "does not begin with `ready`"),
        ("protocol", "speaks version 99"),
        ("no_credit", "was not ready for another batch within 1s"),
        ("endless_credit", "ready for more than 100000 batches"),
    ] {
        // Some of it shows only on a new stream.
        garbage.now("ends");
        post_one();
        eventually(SOON, "the stream is ended", || {
            last_error().ends_with("it ended the stream\"")
        });
        garbage.now(wrong);
        eventually(SOON, &format!("`{wrong}` is named"), || {
            last_error().contains(words)
        });
        assert_eq!(health(&service)["state"], "down", "{wrong}");
        garbage.now("fine");
        settle(&service);
    }
    // What nobody waits for is in the log.
    for (wrong, words) in [
        ("ready_twice", "ready twice"),
        ("twice", "which waits for none"),
    ] {
        garbage.now(wrong);
        post_one();
        settle(&service);
        eventually(SOON, &format!("`{wrong}` is in the log"), || {
            let log = service.log();
            let mut lines = log.lines();
            lines.any(|line| line.contains("the stream to the brain") && line.contains(words))
        });
        garbage.now("fine");
    }
    settle(&service);
    assert_eq!(
        assert_books_balance(&service)["accepted"],
        posted,
        "nothing was found"
    );
    assert_eq!(ledger(&service)["delivered"], posted);
    assert!(!service.log().contains("panicked"), "{}", service.log());
}

#[test]
fn kills_of_the_service_and_of_the_brain_under_load_find_everything_once() {
    let mut brain = brain_of(ECHO);
    let mut service = start(&config_with(&brain.url(), "timeout: 5s", "in_flight: 2"));
    let load = Load::start(&service, "k", 2, 20, 20);
    let kills = std::env::var("TELEMETRYX_KILLS").map_or(3, |kills| kills.parse().unwrap());
    for round in 0..kills {
        load.wait_for(600);
        service.kill();
        service.restart();
        if round % 2 == 0 {
            load.wait_for(200);
            brain.kill();
            load.wait_for(100);
            brain.restart();
        }
    }
    load.wait_for(300);
    let tally = load.stop();
    settle(&service);
    settle(&service);
    assert_books_balance(&service);
    let stored = stored(&service);
    assert!(stored.values().all(|count| *count == 1), "each id once");
    let found = echoes(&service);
    let lost = tally
        .acknowledged
        .iter()
        .filter(|id| found.get(*id) != Some(&1))
        .count();
    assert_eq!(
        lost,
        0,
        "of {} events nothing or too much was found",
        tally.acknowledged.len()
    );
    let events = stored.len() - found.len();
    assert_eq!(found.len(), events, "each stored event has its finding");
}

#[test]
fn a_batch_whose_answer_is_lost_is_answered_again_without_another_look() {
    let brain = Held::start();
    let proxy = Proxy::start(brain.0.port());
    let url = format!("http://{}", proxy.address());
    let service = start(&config_with(&url, "timeout: 20s", ""));
    let mut ids = Vec::new();
    for round in 0..5 {
        brain.hold();
        ids.extend(post_ids(&service, &format!("c{round}"), 50));
        brain.wait_until_at_work();
        let connections = proxy.connections();
        proxy.cut();
        // It waits behind the one that is held.
        eventually(SOON, "it comes again", || {
            proxy.connections() > connections && health(&service)["state"] == "down"
        });
        brain.let_go();
        settle(&service);
    }
    assert_found_once(&service, &ids);
    let seen = of_type(&service, "brain.seen");
    let most = seen.iter().map(|event| event["payload"].as_u64().unwrap());
    assert_eq!(most.max(), Some(250), "{seen:?}");
    assert_eq!(ledger(&service)["delivered"], 250);
}

#[test]
fn a_brain_killed_in_the_middle_of_a_batch_finds_everything_once_it_is_back() {
    let mut brain = Held::start();
    let service = start(&config(&brain.0.url()));
    let mut ids = Vec::new();
    for round in 0..3 {
        brain.hold();
        ids.extend(post_ids(&service, &format!("m{round}"), 30));
        brain.wait_until_at_work();
        brain.0.kill();
        wait_until_down(&service, "the brain at 127.0.0.1");
        let status = &service.get("/status").json()["routes"]["brain"];
        assert!(status["health"]["last_error"].is_string(), "{status}");
        brain.let_go();
        brain.0.restart();
        settle(&service);
        assert_eq!(health(&service)["state"], "up");
    }
    assert_found_once(&service, &ids);
}

#[test]
fn a_brain_that_does_not_hear_is_noticed_by_pings_however_long_it_may_think() {
    let brain = Held::start();
    let proxy = Proxy::start(brain.0.port());
    let url = format!("http://{}", proxy.address());
    let service = start(&config_with(&url, "timeout: 1h, keepalive: 500ms", ""));
    brain.hold();
    let mut ids = post_ids(&service, "thought", 10);
    brain.wait_until_at_work();
    // More pings than gRPC lets pass unless it is told to; thinking, it answers them.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        (proxy.connections(), &health(&service)["state"]),
        (1, &json!("up"))
    );
    brain.let_go();
    settle(&service);
    type Step<'a> = &'a dyn Fn();
    let (stop, go_on): (Step<'_>, Step<'_>) = (&|| brain.0.hang(), &|| brain.0.go_on());
    let (deaf, fine): (Step<'_>, Step<'_>) = (&|| proxy.hang(), &|| proxy.restore());
    for (name, begin, end) in [("stopped", stop, go_on), ("half-open", deaf, fine)] {
        brain.hold();
        ids.extend(post_ids(&service, name, 10));
        brain.wait_until_at_work();
        begin();
        wait_until_down(&service, "the brain at 127.0.0.1");
        brain.let_go();
        end();
        settle(&service);
    }
    assert_found_once(&service, &ids);
}

#[test]
fn a_service_goes_down_without_waiting_for_a_brain_that_is_away() {
    let garbage = Garbage::start("ends");
    let wait = "shutdown: { timeout: 5m }\n";
    let mut service = start(&(config_with(&garbage.brain.url(), "timeout: 1h", "") + wait));
    let ids = post_ids(&service, "away", 20);
    wait_until_down(&service, "it ended the stream");
    // It is there again, and says nothing.
    garbage.now("silent");
    eventually(SOON, "the brain is asked", || {
        garbage.brain.log().contains("silent")
    });
    assert!(service.terminate().success());
    assert!(!service.log().contains("panicked"), "{}", service.log());

    let mut brain = brain_of(ECHO);
    service.set_config(&(config(&brain.url()) + wait));
    brain.kill();
    service.restart();
    wait_until_down(&service, "the brain at 127.0.0.1");
    assert!(service.terminate().success());
    brain.restart();
    service.restart();
    settle(&service);
    assert_found_once(&service, &ids);
}

#[test]
fn troubles_of_the_brain_and_of_the_way_to_it_are_named_once_and_end_well() {
    let brain = brain_of(ECHO);
    let proxy = Proxy::start(brain.port());
    let url = format!("http://{}", proxy.address());
    let sink = format!("kind: grpc, url: {url:?}, timeout: 500ms");
    let store = ", { name: store, sink: { kind: sqlite }, batch: { flush_interval: 5ms } } ]\n";
    let service = start(&Outages::config(&sink).replace(" ]\n", store));
    let outages = Outages::of(&service);
    let mut troubles = Trouble::of_the_network(&proxy, "within 500ms", "");
    troubles.push(Trouble::new(
        "stopped",
        "within 500ms",
        || brain.hang(),
        || brain.go_on(),
    ));
    outages.go_through(&troubles);
    drop(troubles);
    assert_found_once(&service, &outages.ids());
    // Of all streams one is left.
    eventually(SOON, "the others have ended", || {
        let log = brain.log();
        let count = |what| log.matches(what).count();
        count("is connected from") == count("is gone") + 1
    });
}

#[test]
fn a_stopped_brain_answers_what_it_has_and_a_new_one_goes_on() {
    let mut brain = brain_of(ECHO);
    let service = start(&config(&brain.url()));
    let load = Load::start(&service, "t", 1, 20, 20);
    for _ in 0..2 {
        load.wait_for(300);
        brain.terminate();
        wait_until_down(&service, "brain at 127.0.0.1");
        brain.restart();
    }
    load.wait_for(100);
    let tally = load.stop();
    settle(&service);
    assert_eq!(
        of_type(&service, "brain.echo").len(),
        tally.acknowledged.len()
    );
}

#[test]
fn a_full_backlog_whose_slowest_route_is_the_brains_does_not_lock_itself_up() {
    let mut brain = brain_of(ECHO);
    let limit = "admission: { overflow: { max_backlog_events: 100 } }\n";
    let service = start(&(config(&brain.url()) + limit));
    brain.kill();
    let mut posted = 0;
    eventually(SOON, "the backlog is full", || {
        let ids = (posted..posted + 50).map(|n| format!("b{n}"));
        let status = service.post_json("/ingest", events(ids)).status;
        posted += if status == 202 { 50 } else { 0 };
        status == 429
    });
    brain.restart();
    settle(&service);
    eventually(SOON, "all is found", || {
        of_type(&service, "brain.echo").len() == posted
    });
    eventually(SOON, "there is room again", || {
        service.post_json("/ingest", event("again")).status == 202
    });
}

#[test]
fn a_disk_filled_while_the_brain_was_away_frees_itself_when_it_is_back() {
    let disk = SmallDisk::of_kib(8 * 1024);
    let mut brain = brain_of(ECHO);
    let route = "batch: { max_events: 50, flush_interval: 5ms }, retry: { initial: 5ms, max: 50ms }, breaker: { open_for: 50ms }";
    let service = service()
        .data_dir(&disk.path().join("data"))
        .config(&format!(
            "journal: {{ embedded: {{ segment_size: 256KiB, retain: {{ bytes: 0B }} }} }}
routes: [ {{ name: stats, sink: {{ kind: stats }} }}, {{ name: brain, sink: {{ kind: grpc, url: {:?} }}, {route} }} ]",
            brain.url()
        ))
        .start();
    brain.kill();
    let load = Load::start(&service, "d", 2, 10, 1000);
    eventually(SOON, "the disk is full", || {
        service.get("/health").json()["journal"]["state"] == "no_space"
    });
    let tally = load.stop();
    let filler = disk.fill();
    brain.restart();
    settle(&service);
    eventually(SOON, "there is room again", || {
        service.post_json("/ingest", event("again")).status == 202
    });
    settle(&service);
    assert_eq!(service.get("/health").json()["status"], "healthy");
    let accepted = metric(
        &service,
        "ingestion_events_total{protocol=\"brain\",outcome=\"accepted\"}",
    );
    let posted = tally.acknowledged.len() as f64 + 1.0;
    assert!((accepted - posted).abs() < 1e-9, "{accepted} of {posted}");
    assert_books_balance(&service);
    drop(filler);
}

#[test]
fn what_is_found_while_the_service_goes_down_is_kept() {
    let brain = brain_of(
        "
import time
from telemetryx_brain import Finding, brain

@brain
def slow(events):
    time.sleep(0.3)
    return [Finding('echo', cause=event) for event in events]
",
    );
    let mut service = start(&config_with(&brain.url(), "", "in_flight: 1"));
    for n in 0..4 {
        post(&service, event(&format!("d{n}")));
    }
    service.terminate();
    service.restart();
    settle(&service);
    assert_eq!(of_type(&service, "brain.echo").len(), 4);
    assert_books_balance(&service);
}
