//! The `grpc` sink with the brain of `python/brain` as a real process: findings become events once, link to their causes
//! and are never handed to a brain.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "it issues only")]
#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::collections::BTreeSet;
use std::path::Path;

use certificates::Authority;
use serde_json::{Value, json};
use support::brain::{
    ECHO, brain_of, command, config, config_with, health, ledger, of_type, post, wait_until_down,
};
use support::{
    SOON, TS, assert_books_balance, event, events, metric, service, settle, start, stored,
};
use telemetryx_testkit::{Brain, eventually, free_port};

/// One reading of a thermometer.
fn reading(n: usize, value: f64) -> String {
    json!({ "id": format!("r{n}"), "ts": TS, "type": "reading", "source": 7, "payload": { "temperature": value } })
        .to_string()
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
        ("", "`url` or `url_file` is missing"),
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
        (
            "url: 'http://h:1', keepalive: 1ms",
            "`keepalive` must be from 100ms to 1h",
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
