//! Clients that mean harm over HTTP/2: each is sent away, memory stays bounded, and a good client does not notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{SOON, accepted, assert_answer, event, metric, sha256, start};
use telemetryx_testkit::{H2Connection, Service, eventually, h2_frame};

const JSON: (&str, &str) = ("content-type", "application/json");
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
/// RFC 9113, 7: "the endpoint detected that its peer is exhibiting a behavior that might be generating excessive load".
const ENHANCE_YOUR_CALM: u32 = 11;

/// A good client is served: over a connection of its own, and quickly.
#[track_caller]
fn assert_serves(service: &Service, id: &str) {
    let begun = Instant::now();
    let mut h2 = H2Connection::open(&service.address()).unwrap();
    let answer = h2.request("POST", "/ingest", &[JSON], event(id).as_bytes());
    assert_eq!(answer.unwrap().0, 202);
    assert_answer(&service.post_json("/ingest", event(id)), 202, accepted(1));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// Many attackers send the same bytes again and again, and read nothing, until each is cut off; meanwhile others are
/// served. Gives the connections, to read what they were told.
#[track_caller]
fn flood(service: &Service, opening: &[u8], bytes: &[u8]) -> Vec<H2Connection> {
    let address = service.address();
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut attacker = H2Connection::open(&address).unwrap();
                    attacker.send_raw(opening).unwrap();
                    let begun = Instant::now();
                    while attacker.send_raw(bytes).is_ok() {
                        assert!(begun.elapsed() < SOON * 2, "never cut off");
                    }
                    attacker
                })
            })
            .collect();
        while !attackers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            assert_serves(service, "other");
        }
        attackers
            .into_iter()
            .map(|attacker| attacker.join().unwrap())
            .collect()
    })
}

#[track_caller]
fn assert_unmoved(service: &Service, before: u64, more_kib: u64) {
    let peak = service.rss_peak_kib();
    println!("{before} KiB, at most {peak} KiB");
    assert!(peak < before + more_kib, "{before} KiB became {peak} KiB");
    assert_serves(service, "after");
    eventually(SOON, "their connections are gone", || {
        metric(service, "ingestion_connections") <= 1.0
    });
    assert_eq!(service.get("/status").json()["memory"]["used"], 0);
}

#[test]
fn flood_of_http2_resets_is_sent_away_and_harms_nobody() {
    let service = start("");
    let before = service.rss_kib();
    let mut sent_away = 0;
    for _ in 0..5 {
        let mut attacker = H2Connection::open(&service.address()).unwrap();
        for _ in 0..5000 {
            if attacker.start_and_reset("/ingest").is_err() {
                break;
            }
        }
        sent_away += u32::from(attacker.is_sent_away());
    }
    let after = service.rss_kib();
    println!("resets: {sent_away} of 5 connections sent away; {before} KiB became {after} KiB");
    assert_eq!(sent_away, 5);
    assert!(after < before + 16 * 1024);
    assert_serves(&service, "good");
    eventually(SOON, "no memory is held", || {
        service.get("/status").json()["memory"]["used"] == 0
    });
}

#[test]
fn floods_of_settings_and_pings_are_cut_off_and_harm_nobody() {
    let service = start("http: { header_timeout: 300ms }");
    assert_serves(&service, "before");
    let before = service.rss_kib();
    // Each asks for an answer: those who never read theirs stop being read, and are ended as idle.
    let settings = h2_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(1000);
    let pings = h2_frame(PING, 0, 0, &[7; 8]).repeat(1000);
    for bytes in [settings, pings] {
        flood(&service, &[], &bytes);
        // And those that read them are ended as idle, too: signs of life are no requests.
        let mut polite = H2Connection::open(&service.address()).unwrap();
        let begun = Instant::now();
        while polite.send_raw(&bytes[..15]).is_ok() && polite.take_frame().is_ok() {
            assert!(begun.elapsed() < SOON, "never cut off");
        }
        assert!(
            begun.elapsed() > Duration::from_millis(300),
            "{:?}",
            begun.elapsed()
        );
    }
    assert_unmoved(&service, before, 16 * 1024);
}

#[test]
fn header_blocks_without_end_are_cut_off_and_told_to_be_calm() {
    let service = start("");
    assert_serves(&service, "before");
    let before = service.rss_kib();
    // A literal header, `a: aaa…`, in every frame; and frames with nothing in them.
    let field = [&[0, 1, b'a', 127, 233, 6][..], &[b'a'; 1000]].concat();
    let opening = h2_frame(HEADERS, 0, 1, &[]);
    for (name, fragment) in [("headers", &field[..]), ("nothing", &[])] {
        let bytes = h2_frame(CONTINUATION, 0, 1, fragment).repeat(16);
        let mut attackers = flood(&service, &opening, &bytes);
        let told = attackers
            .iter_mut()
            .filter_map(|attacker| attacker.is_sent_away().then(|| attacker.goaway()).flatten())
            .collect::<Vec<_>>();
        println!(
            "{name}: {} of 8 were told before the reset: {told:?}",
            told.len()
        );
        assert!(
            told.iter().all(|code| *code == ENHANCE_YOUR_CALM),
            "{told:?}"
        );
    }
    // One that stops to listen is told for sure. (In a header block it must acknowledge no settings: it does so before.)
    let mut attacker = H2Connection::open(&service.address()).unwrap();
    attacker.request("GET", "/healthz", &[], b"").unwrap();
    attacker.send_raw(&h2_frame(HEADERS, 0, 3, &[])).unwrap();
    while attacker.goaway().is_none() {
        // Reading is the pause.
        if attacker
            .is_answered_within(Duration::from_millis(20))
            .unwrap()
        {
            attacker.take_frame().unwrap();
            continue;
        }
        attacker
            .send_raw(&h2_frame(CONTINUATION, 0, 3, &field))
            .unwrap();
    }
    assert_eq!(attacker.goaway(), Some(ENHANCE_YOUR_CALM));
    assert_unmoved(&service, before, 16 * 1024);
}

#[test]
fn header_block_that_comes_slowly_is_cut_off() {
    let service = start("http: { header_timeout: 300ms }");
    let mut slow = TcpStream::connect(service.address()).unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(25)))
        .unwrap();
    let opening = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &h2_frame(SETTINGS, 0, 0, &[])[..],
        &h2_frame(HEADERS, 0, 1, &[]),
        // Of these 10,000 bytes comes one at a time.
        &h2_frame(CONTINUATION, 0, 1, &[0; 10_000])[..9],
    ];
    slow.write_all(&opening.concat()).unwrap();
    let begun = Instant::now();
    while slow.write_all(&[0]).is_ok() {
        assert!(begun.elapsed() < SOON, "never cut off");
        // Reading is the pause.
        match slow.read(&mut [0; 100]) {
            Ok(0) => break,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    assert!(
        begun.elapsed() > Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
    assert_serves(&service, "good");
}

#[test]
fn bodies_of_strangers_that_nobody_reads_take_no_memory() {
    let service = start(&format!(
        "auth: {{ keys: [ {{ name: shop, sha256: {} }} ] }}",
        sha256("shop-key")
    ));
    service.get("/healthz").expect_status(200);
    let before = service.rss_kib();
    // As many requests as bodies are read at a time, to be forgotten; these never end.
    let mut endless = H2Connection::open(&service.address()).unwrap();
    for _ in 0..64 {
        let stream = endless.begin("/ingest", b" ").unwrap();
        assert_eq!(endless.answer(stream).unwrap().0, 401);
    }
    // Others send what the windows of two requests allow them.
    let body = vec![b' '; 127 << 10];
    let mut others = Vec::new();
    for _ in 0..200 {
        let mut other = H2Connection::open(&service.address()).unwrap();
        // The windows are larger once the server has said so.
        assert_eq!(other.request("GET", "/healthz", &[], b"").unwrap().0, 200);
        let streams = [(); 2].map(|()| other.begin("/ingest", &body).unwrap());
        for stream in streams {
            assert_eq!(other.answer(stream).unwrap().0, 401);
        }
        others.push(other);
    }
    // Nothing went wrong on these connections, and all that was sent has been taken.
    for other in &mut others {
        assert_eq!(other.request("GET", "/healthz", &[], b"").unwrap().0, 200);
        assert_eq!(other.goaway(), None);
    }
    let peak = service.rss_peak_kib();
    println!("200 times 254 KiB: {before} KiB, at most {peak} KiB");
    assert!(peak < before + 200 * 100, "{before} KiB became {peak} KiB");
}

#[test]
fn clients_that_take_nothing_of_their_answers_are_cut_off_and_bounded_in_memory() {
    let service = start("http: { header_timeout: 2s }");
    assert_serves(&service, "before");
    let before = service.rss_kib();
    // Long answers: a thousand errors each, 100 KB, and all metrics.
    let body = format!("[{}]", vec!["{}"; 1000].join(","));
    let mut attackers = Vec::new();
    let mut asked = 0;
    for _ in 0..20 {
        let mut attacker = H2Connection::open(&service.address()).unwrap();
        // A window of one byte for every answer.
        let window = h2_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]);
        attacker.send_raw(&window).unwrap();
        for _ in 0..60 {
            let post = attacker.start_unread("/ingest", &[JSON], body.as_bytes());
            // One that is slow to ask is cut off before it has asked all.
            if post.is_err() || attacker.start("GET", "/metrics", &[], b"").is_err() {
                break;
            }
            asked += 1;
        }
        attackers.push(attacker);
    }
    assert!(asked > 600, "{asked}");
    for attacker in &mut attackers {
        assert_serves(&service, "during");
        assert!(attacker.is_sent_away());
    }
    // 120 MB of answers, if they were not bounded: 16 MiB of each kind, beside 120 streams a connection.
    assert_unmoved(&service, before, (16 + 16 + 24) * 1024 + 20 * 120 * 8);
    eventually(SOON, "no answer is held", || {
        service.get("/status").json()["memory"]["answers"] == 0
    });
}
