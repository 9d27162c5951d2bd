//! Webhooks in trouble: the service is killed while GitHub delivers, and strangers send what nobody should.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use support::webhooks::{KEY, RING, hex, hmac, motion, ring, seconds, sha256};
use support::{SOON, accepted, assert_answer, assert_books_balance, error, settle, start};
use telemetryx_testkit::{Connection, Service, eventually};

const GITHUB_KEY: &str = "It's a Secret to Everybody";
/// Where they come from, `data/README.md` says.
const DELIVERIES: &str = include_str!("data/github-webhooks.ndjson");

#[derive(Deserialize)]
struct Event<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn parsed(lines: &str) -> BTreeMap<String, Event<'_>> {
    let events = lines
        .lines()
        .map(|line| serde_json::from_str::<Event<'_>>(line).unwrap());
    events.map(|event| (event.id.clone(), event)).collect()
}

/// A delivery as GitHub sends it.
struct Delivery<'a> {
    event: &'a Event<'a>,
    signature: String,
}

impl Delivery<'_> {
    /// Delivered once; GitHub itself tries again when somebody asks it to.
    fn send(&self, address: &str) -> Option<u16> {
        let event = self.event.kind.split('.').next().unwrap();
        let headers = [
            ("content-type", "application/json"),
            ("x-github-event", event),
            ("x-github-delivery", &self.event.id),
            ("x-hub-signature-256", &self.signature),
        ];
        let body = self.event.payload.get().as_bytes();
        let mut connection = Connection::open(address).ok()?;
        let answer = connection.request("POST", "/webhooks/github", &headers, body);
        Some(answer.ok()?.status)
    }
}

#[test]
fn githubs_deliveries_are_each_stored_once_though_the_service_is_killed_meanwhile() {
    let mut service = start(&format!(
        "webhooks: {{ github: {{ keys: [\"{GITHUB_KEY}\"] }} }}"
    ));
    let sent = parsed(DELIVERIES);
    assert_eq!(sent.len(), 324);
    let deliveries: Vec<_> = sent
        .values()
        .map(|event| Delivery {
            event,
            signature: sha256(GITHUB_KEY, event.payload.get()),
        })
        .collect();
    let (next, unanswered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let address = service.address();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while let Some(delivery) = deliveries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut tries = 0;
                    eventually(SOON, "the delivery is taken", || {
                        tries += 1;
                        match delivery.send(&address) {
                            Some(status) => {
                                assert_eq!(status, 202, "{}", delivery.event.id);
                                true
                            }
                            None => {
                                unanswered.fetch_add(1, Ordering::Relaxed);
                                false
                            }
                        }
                    });
                    // Every third comes once more, as GitHub's "Redeliver" sends it.
                    if tries == 1 && delivery.event.id.as_bytes()[0] % 3 == 0 {
                        delivery.send(&address);
                    }
                }
            });
        }
        for kill in 1..=6 {
            eventually(SOON, "more was delivered", || {
                next.load(Ordering::Relaxed) >= kill * 45
            });
            service.kill();
            service.restart();
        }
    });
    assert!(
        unanswered.into_inner() > 0,
        "the kills hit deliveries under way"
    );
    settle(&service);
    assert_books_balance(&service);
    let headers = [("accept", "application/x-ndjson")];
    let stored = service.request("GET", "/events", &headers, b"");
    let stored = stored.expect_status(200).text().to_owned();
    assert_eq!(stored.lines().count(), 324);
    let stored = parsed(&stored);
    for (id, event) in &sent {
        let found = &stored[id];
        assert_eq!(found.payload.get(), event.payload.get(), "{id}");
        assert_eq!(
            found.kind,
            format!("github.{}", event.kind.split('.').next().unwrap())
        );
        let payload: serde_json::Value = serde_json::from_str(event.payload.get()).unwrap();
        let repository = payload.pointer("/repository/full_name");
        if let Some(repository) = repository.and_then(|name| name.as_str()) {
            assert_eq!(found.source, repository, "{id}");
        }
        assert!(!found.source.is_empty() && !event.source.is_empty());
    }
}

/// A good delivery is taken.
#[track_caller]
fn assert_takes(service: &Service, request_id: &str) {
    assert_answer(&ring(service, KEY, motion(request_id)), 202, accepted(1));
}

#[track_caller]
fn assert_no_memory_is_held(service: &Service) {
    eventually(SOON, "no memory is held", || {
        service.get("/status").json()["memory"]["used"] == 0
    });
}

#[test]
fn header_with_many_signatures_or_a_gigantic_one_is_refused_at_once() {
    let service = start(&format!(
        "webhooks: {{ stripe: {{ keys: [whsec_secret] }}, ring: {{ keys: [{KEY}] }} }}"
    ));
    assert_takes(&service, "before");
    let before = service.rss_kib();
    let (now, zeros, body) = (seconds(0), "0".repeat(64), r#"{"id":"evt_1","type":"x"}"#);
    let signed = format!("{now}.{body}");
    let right = hex(&hmac("sha256", b"whsec_secret", signed.as_bytes()));
    let send = |header: &str| {
        let headers = [("stripe-signature", header)];
        let mut connection = service.connect();
        connection.request("POST", "/webhooks/stripe", &headers, body.as_bytes())
    };
    let among = |before: usize, after: usize| {
        let wrong = format!(",v1={zeros}");
        format!(
            "t={now}{},v1={right}{}",
            wrong.repeat(before),
            wrong.repeat(after)
        )
    };
    // The first eight are looked at.
    for (header, status) in [
        (among(7, 0), 202),
        (among(7, 100), 202),
        (among(8, 0), 401),
        (among(150, 0), 401),
        (format!("t={now},{}v1={right}", "v0=x,".repeat(2000)), 202),
        ("v1=".repeat(4000), 401),
        (",".repeat(15_000), 401),
        (format!("t={},v1={right}", "1".repeat(12_000)), 401),
    ] {
        let answer = send(&header).unwrap();
        assert_eq!(
            answer.status,
            status,
            "{}…",
            header.chars().take(40).collect::<String>()
        );
    }
    for megabytes in [1, 4] {
        // Over what a head may have: answered, or cut off while it is sent.
        if let Ok(answer) = send(&format!("t={now},v1={}", "a".repeat(megabytes << 20))) {
            assert_eq!(answer.status, 431);
        }
    }
    assert!(service.rss_peak_kib() < before + 8 * 1024);
    assert_takes(&service, "after");
}

#[test]
fn signature_header_that_is_there_twice_is_refused_even_if_one_is_right() {
    let service = start(RING);
    let body = motion("r-1");
    let (right, wrong) = (sha256(KEY, &body), sha256("another-key", &body));
    for values in [[&right, &wrong], [&wrong, &right], [&right, &right]] {
        let headers = values.map(|value| ("x-signature", value.as_str()));
        let answer = service.request("POST", "/webhooks/ring", &headers, body.as_bytes());
        assert_answer(
            &answer,
            401,
            error("signature_wrong", "the signature is wrong"),
        );
    }
    assert_takes(&service, "r-1");
}

#[test]
fn five_mebibytes_with_a_wrong_signature_are_hashed_and_forgotten() {
    let service = start(&format!("{RING}\nadmission: {{ memory_budget: 12MiB }}"));
    assert_takes(&service, "before");
    let before = service.rss_kib();
    // Nothing that could be parsed.
    let body = vec![b'['; 5 << 20];
    let wrong = format!("sha256={}", "0".repeat(64));
    let statuses: Vec<_> = std::thread::scope(|threads| {
        let send = || {
            let mut connection = service.connect();
            let headers = [("x-signature", wrong.as_str())];
            let mut send = || connection.request("POST", "/webhooks/ring", &headers, &body);
            [send().unwrap().status, send().unwrap().status]
        };
        let clients: Vec<_> = (0..8).map(|_| threads.spawn(send)).collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    assert!(statuses.iter().all(|status| [401, 429].contains(status)));
    assert!(statuses.contains(&401), "{statuses:?}");
    let peak = service.rss_peak_kib();
    assert!(peak < before + 32 * 1024, "{before} KiB became {peak} KiB");
    assert_no_memory_is_held(&service);
    let ledger = service.get("/ledger").json();
    let refused = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!(ledger["door"]["unsigned"], refused);
    assert_takes(&service, "after");

    // What cannot be right is not even read.
    let headers = [("x-signature", "sha256=00")];
    let answer = service.request("POST", "/webhooks/ring", &headers, &body);
    assert_eq!(answer.status, 401);
    let mut connection = service.connect();
    let head = "POST /webhooks/ring HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5000000\r\n\r\n";
    connection.send_raw(head.as_bytes()).unwrap();
    let answer = connection.read_any_response().unwrap();
    assert_eq!(answer.json()["error"]["code"], "signature_missing");
}

#[test]
fn a_bomb_is_unpacked_only_if_it_is_signed_and_no_further_than_the_limit() {
    let blanks = vec![b' '; 1 << 20];
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
    for _ in 0..512 {
        packer.write_all(&blanks).unwrap();
    }
    let bomb = packer.finish().unwrap();
    let service = start(RING);
    assert_takes(&service, "before");
    let before = service.rss_kib();
    let send = |signature: &str| {
        let headers = [("content-encoding", "gzip"), ("x-signature", signature)];
        service.request("POST", "/webhooks/ring", &headers, &bomb)
    };
    assert_eq!(send(&sha256("another-key", &bomb)).status, 401);
    let peak = service.rss_peak_kib();
    assert!(peak < before + 4 * 1024, "{before} KiB became {peak} KiB");
    let answer = send(&sha256(KEY, &bomb));
    assert_eq!(answer.json()["error"]["code"], "too_large");
    assert_eq!(answer.status, 413);
    let peak = service.rss_peak_kib();
    assert!(peak < before + 16 * 1024, "{before} KiB became {peak} KiB");
    assert_takes(&service, "after");
}

#[test]
fn slow_and_broken_off_bodies_are_cut_off_and_leave_nothing() {
    let service = start(&format!("{RING}\nhttp: {{ body_timeout: 300ms }}"));
    let body = motion("r-1");
    let head = format!(
        "POST /webhooks/ring HTTP/1.1\r\nhost: x\r\nx-signature: {}\r\ncontent-length: {}\r\n\r\n",
        sha256(KEY, &body),
        body.len()
    );
    let begun = |part: &str| {
        let mut connection = service.connect();
        connection.send_raw(head.as_bytes()).unwrap();
        connection.send_raw(part.as_bytes()).unwrap();
        connection
    };
    let almost = body.strip_suffix('}').unwrap();
    let mut slow = begun(almost);
    slow.set_timeout(Duration::from_secs(20)).unwrap();
    let answer = slow.read_response().unwrap();
    assert_eq!(answer.json()["error"]["code"], "body_timeout");
    drop(begun(almost));
    begun("").finish_sending().unwrap();
    assert_no_memory_is_held(&service);
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["accepted"], 0);
    assert_eq!(ledger["door"]["unsigned"], 0);
    assert_takes(&service, "r-1");
}
