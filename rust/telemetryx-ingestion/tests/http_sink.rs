//! The `http` sink with real receivers: a program in Python that verifies signatures with the library of
//! standardwebhooks.com, and another TelemetryX. What comes again has the id that it had; nothing is missing, whoever is
//! killed, hangs or refuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "it issues only")]
#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::time::Instant;

use certificates::Authority;
use serde_json::{Value, json};
use support::kills::kill_under_load;
use support::outages::{Outages, Trouble};
use support::receiver::{Receiver, Taken};
use support::{
    Load, SOON, Tally, assert_books_balance, event, events, metric, service, settle, start,
};
use telemetryx_testkit::{Proxy, Service, eventually, eventually_some};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_KEY: &str = "whsec_plJ3nmyCDGBKInavdOK15jsl9Hb0XBC3";

/// A route `out` to this URL, and `stats` beside it, which must not feel anything of its troubles.
fn config(url: &str, more: &str) -> String {
    format!(
        "routes:
  - {{ name: stats, sink: {{ kind: stats }} }}
  - {{ name: out, sink: {{ kind: http, url: {url:?}, {more} }}, batch: {{ max_events: 500 }},
      retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ failures: 3, open_for: 100ms }} }}"
    )
}

/// The ids of the events of a batch.
#[track_caller]
fn ids(batch: &Taken) -> Vec<String> {
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    let lines = std::str::from_utf8(&batch.body).unwrap().lines();
    lines
        .map(|line| id(&serde_json::from_str(line).unwrap()))
        .collect()
}

fn webhook_id(batch: &Taken) -> String {
    batch.headers["webhook-id"].as_str().unwrap().to_owned()
}

/// What a receiver has that knows a batch by its id: each event with how often it came in batches of different ids.
fn deduplicated(taken: &[Taken]) -> HashMap<String, u32> {
    let mut seen = BTreeMap::<_, &[u8]>::new();
    let mut counts = HashMap::new();
    for batch in taken {
        match seen.insert(webhook_id(batch), &batch.body) {
            Some(before) => assert_eq!(before, batch.body, "two batches of one id"),
            None => {
                for id in ids(batch) {
                    *counts.entry(id).or_insert(0) += 1;
                }
            }
        }
    }
    counts
}

/// All that was accepted is there, and nothing else; once, if it is told by the batch's id.
#[track_caller]
fn assert_taken(service: &Service, receiver: &Receiver, tally: &Tally, once: bool) {
    settle(service);
    assert_books_balance(service);
    let counts = deduplicated(&receiver.taken());
    let missing = tally
        .acknowledged
        .iter()
        .filter(|id| !counts.contains_key(*id));
    assert_eq!(missing.count(), 0, "of {}", tally.acknowledged.len());
    let known: HashSet<_> = tally.acknowledged.iter().chain(&tally.unknown).collect();
    assert!(counts.keys().all(|id| known.contains(id)));
    if once {
        assert!(counts.values().all(|count| *count == 1));
    }
}

fn out(service: &Service) -> Value {
    let health = service.get("/health").expect_status(200).json();
    health["routes"]["out"].clone()
}

/// The words with which `/health` says that the route is down.
#[track_caller]
fn trouble(service: &Service, words: &str) -> String {
    eventually_some(SOON, words, || {
        let error = out(service)["error"].as_str()?.to_owned();
        error.contains(words).then_some(error)
    })
}

#[test]
fn batches_are_signed_as_the_library_of_the_specification_wants_it() {
    let receiver = Receiver::start(&[KEY, OTHER_KEY]);
    let scratch = tempfile::tempdir().unwrap();
    let (keys, headers) = (scratch.path().join("keys"), scratch.path().join("headers"));
    // While a key is changed, both sign.
    std::fs::write(&keys, format!("{KEY}\n{OTHER_KEY}\n")).unwrap();
    std::fs::write(&headers, "X-Secret: hunter2\n\n").unwrap();
    let url = format!("http://me:pass%20word@{}/hooks?x=1", receiver.address());
    let service = start(&config(
        &url,
        &format!(
            "hmac: {{ key_file: {keys:?} }}, headers: {{ x-tenant: a }}, headers_file: {headers:?}"
        ),
    ));
    let body = r#"{"id":"a","ts":"2026-01-01T00:00:00.000000001Z","type":"t","source":7,"payload":{"b": [1.50,
 "ü\n"]},"attributes":{"k":"v"}}"#;
    service.post_json("/ingest", body).expect_status(202);
    settle(&service);
    let [taken] = receiver.taken().try_into().ok().unwrap();
    assert_eq!(taken.path, "/hooks?x=1");
    let mut sent: Value = serde_json::from_slice(&taken.body).unwrap();
    assert!(sent["received_at"].take().is_string());
    assert_eq!(
        sent,
        json!({"id":"a","ts":"2026-01-01T00:00:00.000000001Z","type":"t","source":7,"schema_version":1,
            "attributes":{"k":"v"},"payload":{"b":[1.50,"ü\n"]},"received_at":null})
    );
    assert!(
        taken.body.windows(5).any(|part| part == b"1.50,"),
        "the payload is sent byte for byte"
    );
    let header = |name: &str| taken.headers[name].as_str().unwrap_or_default();
    assert_eq!(header("content-type"), "application/x-ndjson");
    assert_eq!(header("idempotency-key"), header("webhook-id"));
    assert_eq!(header("authorization"), "Basic bWU6cGFzcyB3b3Jk");
    assert_eq!((header("x-tenant"), header("x-secret")), ("a", "hunter2"));
    assert!(header("user-agent").starts_with("telemetryx/"));

    // A key that the receiver does not have: the route waits for a right one, and says so in the receiver's words.
    std::fs::write(&keys, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n").unwrap();
    service.post_json("/ingest", event("b")).expect_status(202);
    let words = trouble(&service, "401 Unauthorized");
    assert!(words.contains("No matching signature found"), "{words}");
    std::fs::write(&keys, format!("{KEY} {OTHER_KEY}")).unwrap();
    settle(&service);
    assert_eq!(deduplicated(&receiver.taken()).len(), 2);
    let log = service.log();
    for secret in ["hunter2", "pass word", "pass%20word", "MfKQ9r8G"] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
}

#[test]
fn another_service_takes_signed_batches_as_deliveries_and_plain_ones_as_events() {
    let b = start(&format!(
        "webhooks: {{ upstream: {{ preset: standard-webhooks, keys: [{KEY:?}] }} }}"
    ));
    let a = start(&format!(
        "routes:
  - {{ name: signed, sink: {{ kind: http, url: \"{0}/webhooks/upstream\", format: json, compression: gzip, hmac: {{ key: {KEY:?} }} }}, batch: {{ max_events: 20 }} }}
  - {{ name: plain, sink: {{ kind: http, url: \"{0}/ingest\", compression: zstd }} }}",
        b.url()
    ));
    let sent: BTreeSet<_> = (0..60).map(|n| format!("e-{n:02}")).collect();
    for part in sent.iter().collect::<Vec<_>>().chunks(7) {
        a.post_json("/ingest", events(part)).expect_status(202);
    }
    settle(&a);
    settle(&b);
    let headers = [("accept", "application/x-ndjson")];
    let answer = b
        .request("GET", "/events", &headers, b"")
        .expect_status(200);
    let (mut signed, mut plain) = (Vec::new(), BTreeSet::new());
    for event in answer.ndjson() {
        let id = event["id"].as_str().unwrap();
        match event["payload"].as_array() {
            Some(batch) => {
                assert!(id.contains("msg_") && batch.len() <= 20, "{event}");
                signed.extend(
                    batch
                        .iter()
                        .map(|event| event["id"].as_str().unwrap().to_owned()),
                );
            }
            None => {
                assert_eq!(
                    (&event["payload"], &event["type"]),
                    (&json!({"n": 1}), &json!("login"))
                );
                plain.insert(id.to_owned());
            }
        }
    }
    signed.sort();
    assert_eq!(
        signed,
        sent.iter().cloned().collect::<Vec<_>>(),
        "each once"
    );
    assert_eq!(plain, sent);
    assert_eq!(assert_books_balance(&b)["door"]["unsigned"], 0);
}

#[test]
fn receiver_that_is_killed_hangs_or_loses_answers_has_every_event_once() {
    let mut receiver = Receiver::start(&[KEY]);
    let service = start(&config(
        &receiver.url(),
        &format!("timeout: 300ms, hmac: {{ key: {KEY:?} }}"),
    ));
    let load = Load::start(&service, "r", 1, 10, 50);
    load.wait_for(300);
    for _ in 0..2 {
        receiver.kill();
        load.wait_for(300);
        trouble(&service, "Connection refused");
        receiver.restart();
        load.wait_for(300);
        receiver.hang();
        trouble(&service, "no answer within 300ms");
        eventually(SOON, "the other route passes by", || {
            metric(&service, "route_lag_events{route=\"stats\"}") < 300.0
        });
        receiver.go_on();
        load.wait_for(300);
    }
    let mut known = BTreeSet::new();
    for (behaviour, words) in [
        ("lose", "connection closed"),
        ("cut", "end of file"),
        ("garbage", "invalid HTTP"),
        ("hang", "no answer within"),
    ] {
        receiver.behave(&json!({"do": behaviour}));
        load.wait_for(100);
        known.insert(trouble(&service, words));
        receiver.behave(&json!({"do": "ok"}));
        eventually(SOON, "it is up again", || out(&service)["state"] == "up");
    }
    // An answer that does not end is read as far as it must be.
    receiver.behave(&json!({"do": "endless"}));
    load.wait_for(500);
    let tally = load.stop();
    tally.assert_counted(&service);
    receiver.behave(&json!({"do": "ok"}));
    assert_taken(&service, &receiver, &tally, true);
    assert_eq!(known.len(), 4);
    let lines = service
        .log()
        .lines()
        .filter(|line| line.contains("breaker opened"))
        .count();
    let retries = metric(&service, "route_retries_total{route=\"out\"}");
    assert!(
        (lines as f64) < retries / 2.0,
        "{lines} lines of {retries} retries"
    );
}

#[test]
fn every_trouble_of_the_network_ends_with_every_event_there_once() {
    let receiver = Receiver::start(&[]);
    let proxy = Proxy::start(receiver.port());
    let service = start(&Outages::config(&format!(
        "kind: http, url: 'http://{}', timeout: 300ms",
        proxy.address()
    )));
    let outages = Outages::of(&service);
    outages.go_through(&Trouble::of_the_network(
        &proxy,
        "no answer within 300ms",
        "invalid HTTP",
    ));
    let counts = deduplicated(&receiver.taken());
    let mut ids: Vec<_> = counts.keys().cloned().collect();
    ids.sort();
    assert_eq!(ids, outages.ids());
    assert!(counts.values().all(|count| *count == 1));
}

#[test]
fn kills_of_the_service_lose_nothing() {
    let receiver = Receiver::start(&[]);
    let mut service = start(&config(&receiver.url(), ""));
    let tally = kill_under_load(&mut service);
    tally.assert_counted(&service);
    assert_taken(&service, &receiver, &tally, false);
}

#[test]
fn what_the_receiver_refuses_becomes_a_dead_letter_with_its_words_and_the_rest_goes_on() {
    let receiver = Receiver::start(&[]);
    for (status, code) in [(400, "http_400"), (413, "http_413"), (422, "http_422")] {
        receiver.behave(&json!({"do": "refuse", "status": status, "poison": "e-13"}));
        let service = start(&config(&receiver.url(), "compression: gzip"));
        let before = receiver.taken().len();
        service
            .post_json("/ingest", events((0..30).map(|n| format!("e-{n}"))))
            .expect_status(202);
        settle(&service);
        let ledger = assert_books_balance(&service);
        assert_eq!(ledger["routes"]["out"]["dead"], 1, "{ledger}");
        let mut taken = receiver.taken().split_off(before);
        for batch in &mut taken {
            let mut plain = Vec::new();
            let packed = std::mem::take(&mut batch.body);
            flate2::read::MultiGzDecoder::new(&packed[..])
                .read_to_end(&mut plain)
                .unwrap();
            batch.body = plain;
        }
        let counts = deduplicated(&taken);
        assert_eq!(counts.len(), 29);
        assert!(counts.values().all(|count| *count == 1));
        let shown = service
            .run(&["dead-letters", "list", "--route", "out"])
            .stdout;
        assert!(shown.contains(code), "{shown}");

        // Once the receiver takes it, it can be sent again; a replay sends everything again, under other ids.
        receiver.behave(&json!({"do": "ok"}));
        let redriven = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
        assert_eq!(redriven.code, Some(0), "{redriven:?}");
        eventually(SOON, "it is redriven", || {
            assert_books_balance(&service)["routes"]["out"]["dead"] == 0
        });
        assert_eq!(receiver.taken().len(), before + taken.len() + 1);
        let replayed = service.run(&["replay", "--route", "out", "--from", "0"]);
        assert_eq!(replayed.code, Some(0), "{replayed:?}");
        eventually(SOON, "all is replayed", || {
            receiver.taken().len() > before + taken.len() + 1
        });
        assert_books_balance(&service);
    }
}

#[test]
fn receiver_that_refuses_everything_is_waited_for_and_a_few_events_are_dead_letters() {
    let receiver = Receiver::start(&[]);
    receiver.behave(&json!({"do": "answer", "status": 400, "body": "unknown tenant"}));
    let config = config(&receiver.url(), "");
    let service = start(&config.replace("max_events: 500", "max_events: 2000"));
    let dead = || assert_books_balance(&service)["routes"]["out"]["dead"].clone();
    let post = |ids: std::ops::Range<u32>| {
        let ids = ids.map(|n| format!("e-{n}"));
        service.post_json("/ingest", events(ids)).expect_status(202);
    };
    post(0..3);
    settle(&service);
    assert_eq!(dead(), 3);
    post(3..1503);
    let words = trouble(&service, "the server or its config is at fault");
    assert!(
        words.ends_with("400 Bad Request: unknown tenant"),
        "{words}"
    );
    assert_eq!(dead(), 3);
    receiver.behave(&json!({"do": "ok"}));
    settle(&service);
    assert_eq!(dead(), 3);
    let counts = deduplicated(&receiver.taken());
    assert_eq!(counts.len(), 1500);
    assert!(counts.values().all(|count| *count == 1));
}

#[test]
fn parts_of_a_batch_are_under_way_together_and_each_key_stays_in_order() {
    let mut receiver = Receiver::start(&[]);
    let service =
        start(&config(&receiver.url(), "timeout: 500ms").replace("batch:", "in_flight: 4, batch:"));
    let post = |numbers: std::ops::Range<u32>| {
        let events = numbers.map(|n| {
            let key = n % 10;
            json!({"id": format!("k{key}-{n:04}"), "ts": support::TS, "partition_key": format!("key {key}")})
        });
        let body = Value::from_iter(events).to_string();
        service.post_json("/ingest", body).expect_status(202);
    };
    // One after the other they would wait for ever.
    receiver.behave(&json!({"do": "together", "count": 3}));
    post(0..100);
    settle(&service);
    for (behaviour, words) in [("lose", "connection closed"), ("hang", "no answer within")] {
        receiver.behave(&json!({"do": behaviour}));
        let first = if behaviour == "lose" { 100 } else { 300 };
        post(first..first + 200);
        trouble(&service, words);
        receiver.behave(&json!({"do": "ok"}));
        settle(&service);
    }
    receiver.kill();
    post(500..700);
    trouble(&service, "Connection refused");
    receiver.restart();
    settle(&service);
    receiver.behave(&json!({"do": "refuse", "status": 422, "poison": "-0777"}));
    post(700..900);
    settle(&service);

    let taken = receiver.taken();
    let mut last = HashMap::new();
    let mut seen = HashSet::new();
    for batch in &taken {
        for id in ids(batch) {
            if seen.insert(id.clone()) {
                let key = id.split_once('-').unwrap().0.to_owned();
                let before = last.insert(key, id.clone());
                assert!(
                    before.as_ref().is_none_or(|before| *before < id),
                    "{id} after {before:?}"
                );
            }
        }
    }
    let counts = deduplicated(&taken);
    assert_eq!(counts.len(), 899, "all but the poison");
    assert!(
        counts.values().all(|count| *count == 1),
        "told by the batch's id"
    );
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["routes"]["out"]["dead"], 1, "{ledger}");
}

#[test]
fn path_of_a_url_is_shown_to_nobody_whatever_the_receiver_repeats() {
    let receiver = Receiver::start(&[]);
    let path = "/hooks/T0123456/s3cretPart";
    let service = start(&config(
        &format!("{}{path}?key=k3yOfTheHook", receiver.url()),
        "",
    ));
    service.post_json("/ingest", event("a")).expect_status(202);
    let repeated = format!("Cannot POST {path}?key=k3yOfTheHook");
    for status in [404, 500] {
        receiver.behave(&json!({"do": "answer", "status": status, "body": repeated}));
        let words = trouble(&service, &status.to_string());
        assert!(words.ends_with("Cannot POST …?…"), "{words}");
    }
    for location in [format!("{path}/"), format!("{}{path}/", receiver.url())] {
        let headers = json!({"location": location});
        receiver.behave(&json!({"do": "answer", "status": 308, "headers": headers}));
        trouble(&service, "308");
    }
    receiver.behave(&json!({"do": "answer", "status": 400, "body": repeated}));
    settle(&service);
    let letters = service.run(&["dead-letters", "list", "--json"]).stdout;
    let status = service.get("/status").text().to_owned();
    assert!(letters.contains("Cannot POST"), "{letters}");
    for shown in [letters, status, service.log()] {
        for secret in ["s3cretPart", "T0123456", "k3yOfTheHook"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}

#[test]
fn route_waits_as_long_as_the_receiver_says_and_for_whoever_mends_the_url() {
    let receiver = Receiver::start(&[]);
    receiver.behave(&json!({"do": "answer", "status": 404, "body": "no <b>such</b>\n\n hook"}));
    let scratch = tempfile::tempdir().unwrap();
    let url = scratch.path().join("url");
    std::fs::write(&url, receiver.url()).unwrap();
    let config = config("URL", "").replace("url: \"URL\"", &format!("url_file: {url:?}"));
    let service = start(&config);
    service.post_json("/ingest", event("a")).expect_status(202);
    let words = trouble(&service, "404 Not Found");
    assert!(
        words.ends_with("404 Not Found: no <b>such</b> hook"),
        "{words}"
    );
    for status in [401, 403, 405, 408, 415, 425, 500, 502, 503] {
        receiver.behave(&json!({"do": "answer", "status": status}));
        trouble(&service, &status.to_string());
    }
    let headers = json!({"location": "http://127.0.0.1:1/elsewhere"});
    receiver.behave(&json!({"do": "answer", "status": 307, "headers": headers}));
    trouble(
        &service,
        "redirects are not followed (to http://127.0.0.1:1)",
    );
    receiver.behave(&json!({"do": "answer", "status": 429, "headers": {"retry-after": "2"}}));
    trouble(&service, "429");
    let begun = Instant::now();
    receiver.behave(&json!({"do": "ok"}));
    settle(&service);
    assert!(begun.elapsed().as_millis() > 500, "it came back too early");
    assert_eq!(receiver.taken().len(), 1);

    receiver.behave(&json!({"do": "answer", "status": 404}));
    service.post_json("/ingest", event("b")).expect_status(202);
    trouble(&service, "404");
    let other = Receiver::start(&[]);
    std::fs::write(&url, other.url()).unwrap();
    settle(&service);
    assert_eq!((receiver.taken().len(), other.taken().len()), (1, 1));
    assert_eq!(assert_books_balance(&service)["routes"]["out"]["dead"], 0);
}

#[test]
fn receiver_with_a_certificate_of_a_known_authority_is_trusted_and_no_other() {
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::new(scratch.path(), "ca");
    let issued = authority.issue("server");
    let mut b = service()
        .config(&format!(
            "http: {{ tls: {{ cert_file: {:?}, key_file: {:?} }} }}",
            issued.cert, issued.key
        ))
        .speaks_tls()
        .start();
    let url = format!("https://localhost:{}/ingest", b.port());
    let ca = &authority.file;
    let a = start(&config(&url, &format!("tls: {{ ca_file: {ca:?} }}")));
    let stranger = start(&config(&url, ""));
    for service in [&a, &stranger] {
        service.post_json("/ingest", event("a")).expect_status(202);
    }
    settle(&a);
    trouble(&stranger, "certificate");
    b.kill();
    assert_eq!(assert_books_balance(&a)["routes"]["out"]["delivered"], 1);
}

#[test]
fn check_names_each_wrong_key_and_shows_no_secret() {
    let check = |sink: &str| {
        let config = format!("routes: [ {{ name: r, sink: {{ kind: http, {sink} }} }} ]");
        service().config(&config).run(&["check"])
    };
    for (sink, words) in [
        ("", "`url` or `url_file` is missing"),
        ("url: \"ftp://h\"", "`url` must be http://"),
        ("url: \"http://h\", tls: {}", "`tls` is set"),
        ("url: \"http://h\", timeout: 0s", "`timeout`"),
        (
            "url: \"http://h\", url_file: x",
            "`url` and `url_file` are both set",
        ),
        ("url: \"http://h\", format: xml", "`ndjson` or `json`"),
        ("url: \"http://h\", hmac: {}", "`hmac.key` is missing"),
        (
            "url: \"http://h\", hmac: { key: hunter2 }",
            "`hmac.key`: a key",
        ),
        (
            "url: \"http://h\", hmac: { key: x, scheme: jwt }",
            "standard-webhooks",
        ),
        (
            "url: \"http://h\", headers: { \"a b\": hunter2 }",
            "is no name of a header",
        ),
        (
            "url: \"http://h\", headers_file: /no/such",
            "`headers_file`",
        ),
        ("url: \"http://h\", urls: x", "unknown field `urls`"),
    ] {
        let shown = check(sink);
        assert_eq!(shown.code, Some(2), "{sink}: {shown:?}");
        assert!(shown.stderr.contains(words), "{sink}: {shown:?}");
        assert!(!shown.stderr.contains("hunter2"), "{shown:?}");
    }
    let shown = check(&format!(
        "url: \"https://me:hunter2@h/x\", hmac: {{ key: {KEY:?} }}, headers: {{ authorization: hunter2 }}, compression: zstd"
    ));
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let shown = format!("{shown:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("MfKQ9"),
        "{shown}"
    );
}
