//! The `grpc` sink with the brain of `python/brain` as a real process: findings become events once, link to their causes
//! and are never handed to a brain; whoever is killed, hangs, raises or sends garbage.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "it issues only")]
#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use certificates::Authority;
use serde_json::{Value, json};
use support::outages::{Outages, Trouble};
use support::python::{program, python_of_brain};
use support::{
    Load, SOON, TS, assert_books_balance, event, events, metric, service, settle, start, stored,
};
use telemetryx_testkit::{Brain, Proxy, Service, eventually, free_port};

/// Finds something in each event.
const ECHO: &str = "
from telemetryx_brain import Finding, brain

@brain
def echo(events):
    return [Finding('echo', cause=event, payload={'of': event.id}) for event in events]
";

/// `telemetryx-brain`.
fn command() -> PathBuf {
    python_of_brain().with_file_name("telemetryx-brain")
}

/// One with this module.
#[track_caller]
fn brain_of(module: &str) -> Brain {
    Brain::of(&command(), module)
}

/// A route named `brain`, and those that show what comes of it.
fn config_with(url: &str, sink: &str, route: &str) -> String {
    format!(
        "routes: [ {{ name: stats, sink: {{ kind: stats }} }}, {{ name: store, sink: {{ kind: sqlite }}, batch: {{ flush_interval: 5ms }} }},
  {{ name: brain, sink: {{ kind: grpc, url: {url:?}, {sink} }}, batch: {{ flush_interval: 5ms }},
     retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ failures: 3, open_for: 50ms }}, {route} }} ]
"
    )
}

fn config(url: &str) -> String {
    config_with(url, "", "")
}

/// All events of that type, the oldest first.
#[track_caller]
fn of_type(service: &Service, kind: &str) -> Vec<Value> {
    settle(service);
    let headers = [("accept", "application/x-ndjson")];
    let path = format!("/events?type={kind}");
    let answer = service.request("GET", &path, &headers, b"");
    let mut found = answer.expect_status(200).ndjson();
    found.reverse();
    found
}

#[track_caller]
fn health(service: &Service) -> Value {
    service.get("/health").expect_status(200).json()["routes"]["brain"].clone()
}

#[track_caller]
fn wait_until_down(service: &Service, words: &str) {
    let mut last = Value::Null;
    eventually(SOON, &format!("the brain is down with `{words}`"), || {
        last = health(service);
        let error = last["error"].as_str().unwrap_or_default();
        last["state"] == "down" && error.contains(words)
    });
}

#[track_caller]
fn ledger(service: &Service) -> Value {
    assert_books_balance(service)["routes"]["brain"].clone()
}

#[track_caller]
fn post(service: &Service, body: impl Into<String>) {
    service.post_json("/ingest", body.into()).expect_status(202);
}

/// One reading of a thermometer.
fn reading(n: usize, value: f64) -> String {
    json!({ "id": format!("r{n}"), "ts": TS, "type": "reading", "source": 7, "payload": { "temperature": value } })
        .to_string()
}

/// A brain that breaks the contract as the word in its file says.
struct Garbage {
    folder: tempfile::TempDir,
    brain: Brain,
}

impl Garbage {
    fn start(word: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("word");
        std::fs::write(&file, word).unwrap();
        let script = program("garbage_brain.py");
        // A program of its own: arguments before the script's would be Python's.
        let runs_it = folder.path().join("brain.sh");
        let text = format!(
            "#!/bin/sh\nexec '{}' '{script}' \"$@\"\n",
            python_of_brain().display()
        );
        std::fs::write(&runs_it, text).unwrap();
        std::fs::set_permissions(&runs_it, Permissions::from_mode(0o755)).unwrap();
        let brain = Brain::start(&runs_it, &[file.to_str().unwrap()]);
        Self { folder, brain }
    }

    fn now(&self, word: &str) {
        // In one step: it may be read at any moment.
        let new = self.folder.path().join("new");
        std::fs::write(&new, word).unwrap();
        std::fs::rename(new, self.folder.path().join("word")).unwrap();
    }
}

#[test]
fn anomalies_become_events_that_link_to_their_cause_and_nothing_is_found_in_findings() {
    let brain = Brain::start(&command(), &[]);
    let service = start(&config(&brain.url()));
    let values = (0..60).map(|n| {
        if n == 50 {
            90.0
        } else {
            20.0 + f64::from(n % 5)
        }
    });
    let readings: Vec<_> = values
        .enumerate()
        .map(|(n, value)| reading(n, value))
        .collect();
    for part in readings.chunks(7) {
        post(&service, format!("[{}]", part.join(",")));
    }
    eventually(SOON, "the anomaly is stored", || {
        !of_type(&service, "brain.anomaly").is_empty()
    });
    let found = of_type(&service, "brain.anomaly");
    let [anomaly] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (&anomaly["source"], &anomaly["schema_version"]),
        (&json!(7), &json!(1))
    );
    assert_eq!(anomaly["ts"], TS);
    assert_eq!(
        anomaly["attributes"],
        json!({ "cause.id": "r50", "cause.route": "brain", "cause.ts": TS,
                "cause.type": "reading", "field": "temperature" })
    );
    let payload = &anomaly["payload"];
    assert_eq!(
        (&payload["value"], &payload["samples"]),
        (&json!(90.0), &json!(50))
    );
    assert!(
        (payload["mean"].as_f64().unwrap() - 22.0).abs() < 1e-9,
        "{payload}"
    );
    assert!(payload["z"].as_f64().unwrap() > 40.0, "{payload}");

    // It is accepted like any other: in the books of every route, in `/stats`, in the metrics.
    settle(&service);
    assert_eq!(assert_books_balance(&service)["accepted"], 61);
    let of_brain = ledger(&service);
    assert_eq!(
        (&of_brain["delivered"], &of_brain["filtered"]),
        (&json!(60), &json!(1))
    );
    assert_eq!(
        service.get("/stats/7").json()["event_types"],
        json!({ "brain.anomaly": 1, "reading": 60 })
    );
    let accepted = metric(
        &service,
        "ingestion_events_total{protocol=\"brain\",outcome=\"accepted\"}",
    );
    assert!((accepted - 1.0).abs() < 1e-9);
    assert_eq!(health(&service)["state"], "up");
}

#[test]
fn a_brain_never_answers_what_a_brain_has_found_whatever_the_filter_says() {
    let echo = brain_of(ECHO);
    let url = echo.url();
    let second = format!(
        "{{ name: second, sink: {{ kind: grpc, url: {url:?} }}, batch: {{ flush_interval: 5ms }}, filter: {{ types: [brain.echo, login] }} }}"
    );
    let config = config(&url).replace(" ]\n", &format!(", {second} ]\n"));
    let service = start(&config);
    let answer = service.post_json("/ingest", events((0..50).map(|n| format!("e{n}"))));
    let receipt = support::receipt(&answer);
    // A client's is one too.
    post(
        &service,
        json!({ "id": "own", "ts": TS, "type": "brain.own" }).to_string(),
    );
    settle(&service);
    settle(&service);
    // Fifty by each of the two routes.
    eventually(SOON, "all is found", || {
        assert_books_balance(&service)["accepted"] == 151
    });
    settle(&service);
    let books = assert_books_balance(&service);
    assert_eq!(books["accepted"], 151, "and nothing more");
    for route in ["brain", "second"] {
        let books = &books["routes"][route];
        assert_eq!(
            (&books["delivered"], &books["filtered"]),
            (&json!(50), &json!(101)),
            "{route}"
        );
    }
    let found = of_type(&service, "brain.echo");
    let ids: BTreeSet<_> = found
        .iter()
        .map(|event| event["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 100);
    let shown = service.get(&format!("/receipts/{receipt}")).json();
    assert_eq!(shown["routes"]["brain"]["delivered"], 50, "{shown}");
}

#[test]
fn frames_refusals_and_exceptions_are_what_the_readme_says() {
    let brain = brain_of(
        "
from pathlib import Path
from telemetryx_brain import Finding, Refuse, brain

@brain(frame='pandas', fields=['n'])
def rows(frame):
    if not Path('loaded').exists():
        raise RuntimeError('the model is not loaded')
    bad = frame.index[frame['n'] == 13]
    if len(bad):
        raise Refuse(bad, 'unlucky', code='thirteen')
    return [Finding('row', cause=row, payload={'n': n}) for row, n in frame['n'].items()]
",
    );
    let service = start(&config(&brain.url()));
    let numbers: Vec<_> = (10..16)
        .map(|n| json!({ "id": format!("n{n}"), "ts": TS, "payload": { "n": n } }))
        .collect();
    post(&service, Value::from(numbers).to_string());
    wait_until_down(&service, "RuntimeError: the model is not loaded");
    eventually(SOON, "the brain's log has the traceback", || {
        brain.log().contains("of_the_test.py")
    });
    // Nobody else waits for it.
    eventually(SOON, "the others go on", || {
        service.get("/stats").json()["events_count"] == 6
    });
    std::fs::write(brain.folder().join("loaded"), "").unwrap();
    settle(&service);
    let found = of_type(&service, "brain.row");
    let numbers: Vec<_> = found
        .iter()
        .map(|event| event["payload"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, [10, 11, 12, 14, 15]);
    assert_eq!(ledger(&service)["dead"], 1);
    let letters = service
        .get("/dead-letters?route=brain")
        .expect_status(200)
        .json();
    let letter = letters.to_string();
    assert!(
        letter.contains("thirteen: unlucky") && letter.contains("refused_by_brain"),
        "{letter}"
    );
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
        ("too_many", "found 10000 things in a batch of"),
        ("far_too_many", "200000 parts"),
        ("too_large", "message length too large"),
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
fn findings_that_are_no_events_are_kept_as_dead_letters_and_the_others_stored() {
    let garbage = Garbage::start("invalid");
    let service = start(&config(&garbage.brain.url()));
    post(&service, event("a"));
    settle(&service);
    eventually(SOON, "the one that is right is stored", || {
        of_type(&service, "brain.fine").len() == 1
    });
    let letters = service
        .get("/dead-letters")
        .expect_status(200)
        .json()
        .to_string();
    for code in ["invalid_json", "too_long", "timestamp_in_future"] {
        assert!(letters.contains(code), "{code}: {letters}");
    }
    let refused = metric(
        &service,
        "ingestion_events_total{protocol=\"brain\",outcome=\"refused\"}",
    );
    assert!(
        (refused - 4.0).abs() < 1e-9,
        "with the one over http.max_event: {refused}"
    );
    assert_eq!(assert_books_balance(&service)["door"]["refused"], 4);
    assert!(service.log().contains("findings of a brain were refused"));
    assert_eq!(
        ledger(&service)["delivered"],
        1,
        "the batch itself is delivered"
    );
}

#[test]
fn an_event_too_large_for_the_brain_is_a_dead_letter_and_the_others_are_delivered() {
    let garbage = Garbage::start("small");
    let service = start(&config(&garbage.brain.url()));
    let large = json!({ "id": "large", "ts": TS, "payload": "x".repeat(5_000) }).to_string();
    let others: Vec<_> = (0..40).map(|n| event(&format!("e{n}"))).collect();
    post(
        &service,
        format!(
            "[{},{large},{}]",
            others[..20].join(","),
            others[20..].join(",")
        ),
    );
    settle(&service);
    let of_brain = ledger(&service);
    assert_eq!(
        (&of_brain["delivered"], &of_brain["dead"]),
        (&json!(40), &json!(1))
    );
}

#[test]
fn kills_of_the_service_and_of_the_brain_under_load_find_everything_once() {
    let mut brain = brain_of(ECHO);
    let mut service = start(&config_with(&brain.url(), "timeout: 5s", "in_flight: 2"));
    let load = Load::start(&service, "k", 2, 20, 20);
    let kills = std::env::var("TELEMETRYX_KILLS").map_or(4, |kills| kills.parse().unwrap());
    for round in 0..kills {
        load.wait_for(600);
        if round % 2 == 0 {
            service.kill();
            service.restart();
        } else {
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
    let mut found = BTreeMap::<String, u32>::new();
    let stored = stored(&service);
    assert!(stored.values().all(|count| *count == 1), "each id once");
    for finding in of_type(&service, "brain.echo") {
        let of = finding["payload"]["of"].as_str().unwrap().to_owned();
        assert_eq!(finding["attributes"]["cause.id"], json!(of));
        *found.entry(of).or_default() += 1;
    }
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
fn a_detector_counts_a_batch_once_that_comes_again() {
    // Says how many values there are, each time.
    let brain = brain_of(
        "
from telemetryx_brain import Finding, brain
seen = 0

@brain
def count(events):
    global seen
    seen += len(events)
    return [Finding('seen', cause=events[-1], payload=seen)]
",
    );
    let proxy = Proxy::start(brain.port());
    let url = format!("http://{}", proxy.address());
    let service = start(&config_with(&url, "timeout: 2s", ""));
    for round in 0..10 {
        post(&service, events((0..50).map(|n| format!("c{round}-{n}"))));
        // The batch arrives, and its answer does not.
        proxy.cut();
        settle(&service);
    }
    settle(&service);
    let found = of_type(&service, "brain.seen");
    let most = found
        .iter()
        .map(|event| event["payload"].as_u64().unwrap())
        .max();
    assert_eq!(most, Some(500), "{found:?}");
    assert_eq!(ledger(&service)["delivered"], 500);
}

#[test]
fn troubles_of_the_brain_and_of_the_way_to_it_are_named_once_and_end_well() {
    let brain = brain_of(ECHO);
    let proxy = Proxy::start(brain.port());
    let url = format!("http://{}", proxy.address());
    let sink = format!("kind: grpc, url: {url:?}, timeout: 500ms");
    let service = start(&Outages::config(&sink));
    let outages = Outages::of(&service);
    let mut troubles = Trouble::of_the_network(&proxy, "within 500ms", "");
    troubles.push(Trouble::new(
        "stopped",
        "within 500ms",
        || brain.hang(),
        || brain.go_on(),
    ));
    outages.go_through(&troubles);
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

#[test]
fn parts_of_a_batch_keep_the_order_of_their_keys_and_a_replay_finds_nothing_new() {
    let brain = brain_of(
        "
from telemetryx_brain import Finding, brain
last = {}

@brain(frame='batch')
def order(batch):
    if batch.cause.kind == 'journal':
        for event in batch.events:
            n = event.payload['n']
            if n != last.get(event.source, -1) + 1:
                yield Finding('disorder', cause=event, payload=[last.get(event.source), n])
            last[event.source] = n
    for event in batch.events:
        yield Finding('echo', cause=event)
",
    );
    let service = start(&config_with(&brain.url(), "", "in_flight: 4"));
    for n in 0..40 {
        let batch: Vec<_> = (0..20)
            .map(|source| json!({ "id": format!("{source}-{n}"), "ts": TS, "source": source, "payload": { "n": n } }))
            .collect();
        post(&service, Value::from(batch).to_string());
    }
    settle(&service);
    eventually(SOON, "all is found", || {
        of_type(&service, "brain.echo").len() == 800
    });
    assert!(of_type(&service, "brain.disorder").is_empty());

    let ids: BTreeSet<_> = stored(&service).into_keys().collect();
    let asked = json!({ "route": "brain", "from": 0 }).to_string();
    let answer = service.post_json("/replays", asked);
    assert!(answer.status < 300, "{}", answer.text());
    eventually(SOON, "the replay is done", || {
        service.get("/replays/1").json()["state"] == "done"
    });
    settle(&service);
    assert_eq!(stored(&service).into_keys().collect::<BTreeSet<_>>(), ids);
}

#[test]
fn certificates_and_tokens_are_asked_for_and_wrong_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let (server, client) = (authority.issue("server"), authority.issue("client"));
    let foreign = Authority::new(folder.path(), "foreign").issue("stranger");
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key, ca) = (text(&server.cert), text(&server.key), text(&authority.file));
    let brain = Brain::start(
        &command(),
        &[
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--client-ca",
            &ca,
            "--token-file",
            &text(&token),
        ],
    );
    let url = format!("https://127.0.0.1:{}", brain.port());
    let tls = |pair: Option<&certificates::Pair>, ca: &str| {
        let pair = pair.map_or_else(String::new, |pair| {
            format!(", cert_file: {:?}, key_file: {:?}", pair.cert, pair.key)
        });
        format!("timeout: 2s, tls: {{ ca_file: {ca:?}{pair} }}")
    };
    let good = format!("{}, token_file: {token:?}", tls(Some(&client), &ca));
    let foreign_ca = text(&folder.path().join("foreign.pem"));
    let mut service = start(&config_with(&url, &good, ""));
    post(&service, event("tls"));
    settle(&service);
    assert_eq!(ledger(&service)["delivered"], 1);
    for (sink, words) in [
        (
            format!("{}, token_file: {token:?}", tls(Some(&foreign), &ca)),
            "the brain at 127.0.0.1",
        ),
        (
            format!("{}, token_file: {token:?}", tls(None, &ca)),
            "the brain at 127.0.0.1",
        ),
        (
            format!("{}, token_file: {token:?}", tls(Some(&client), &foreign_ca)),
            "certificate",
        ),
        (
            format!("{}, token: wrong", tls(Some(&client), &ca)),
            "the token is missing or wrong",
        ),
    ] {
        service.set_config(&config_with(&url, &sink, ""));
        service.terminate();
        service.restart();
        wait_until_down(&service, words);
    }
    // Without TLS to a port that wants it.
    let plain = format!("http://127.0.0.1:{}", brain.port());
    service.set_config(&config_with(&plain, "timeout: 2s", ""));
    service.terminate();
    service.restart();
    wait_until_down(&service, "the brain at 127.0.0.1");
    service.set_config(&config_with(&url, &good, ""));
    service.terminate();
    service.restart();
    eventually(SOON, "it is back", || health(&service)["state"] == "up");
    assert!(!service.log().contains("s3cret"));
}

#[test]
fn a_check_names_each_wrong_key_and_shows_no_secret() {
    let check = |sink: &str| {
        let config = format!("routes: [ {{ name: brain, sink: {{ kind: grpc, {sink} }} }} ]");
        service().config(&config).run(&["check"])
    };
    for (sink, words) in [
        ("", "`url` is missing"),
        ("url: 'localhost:1'", "`url` must be http://host:port"),
        ("url: 'http://h:1', tls: {}", "does not say `https://`"),
        (
            "url: 'https://h:1', tls: { ca_file: /no/such }",
            "`tls.ca_file`: `/no/such`",
        ),
        (
            "url: 'http://h:1', timeout: 0s",
            "`timeout` must be from 1ms to 1h",
        ),
        ("url: 'http://h:1', token: a, token_file: /no", "both set"),
        ("url: 'http://h:1', token_file: /no/such", "/no/such"),
        ("url: 'http://h:1', tokn: a", "unknown field `tokn`"),
    ] {
        let exit = check(sink);
        assert_eq!(exit.code, Some(2), "{sink}: {}", exit.stderr);
        assert!(exit.stderr.contains(words), "{sink}: {}", exit.stderr);
    }
    // Nothing is reached.
    let url = format!("url: 'http://127.0.0.1:{}', token: hunter2", free_port());
    let exit = check(&url);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(!exit.stdout.contains("hunter2"), "{}", exit.stdout);
    assert!(exit.stdout.contains("grpc"), "{}", exit.stdout);
}
