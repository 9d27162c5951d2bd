//! Clients that mean harm, or are broken: each is cut off or refused, memory stays bounded, and a good client does not
//! notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{SOON, TS, accepted, assert_answer, error, event, service, settle, start, stored};
use telemetryx_testkit::{Connection, H2Connection, Service, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");
const TOO_LARGE: &str = "the body is over the limit of 5242880 bytes (http.max_body)";

/// A good client is served: over a connection of its own, and quickly.
#[track_caller]
fn assert_serves(service: &Service, id: &str) {
    let begun = Instant::now();
    assert_answer(&service.post_json("/ingest", event(id)), 202, accepted(1));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        begun.elapsed()
    );
}

/// As many open files as we may have; how many connections that leaves.
fn raise_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let more = Rlimit {
        current: Some(65_536),
        maximum: Some(65_536),
    };
    if now.maximum.is_some_and(|maximum| maximum < 65_536)
        && setrlimit(Resource::Nofile, more).is_err()
    {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: now.maximum,
                ..now
            },
        )
        .expect("up to the hard limit");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(1500)
        .min(20_000)
}

#[test]
fn one_byte_at_a_time_is_cut_off_in_head_and_body() {
    let service = start("http: { header_timeout: 300ms, body_timeout: 300ms }");
    let trickled: [(&[u8], &[u8]); 3] = [
        (b"", b"POST /ingest HTTP/1.1\r\nhost: x\r\n"),
        (b"", b"PRI * HTTP/2.0\r\n\r\nSM"),
        (
            b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n",
            &[b' '; 500],
        ),
    ];
    for (at_once, slowly) in trickled {
        let mut stream = TcpStream::connect(service.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(25)))
            .unwrap();
        stream.write_all(at_once).unwrap();
        let begun = Instant::now();
        let mut bytes = slowly.iter().cycle();
        let mut answer = Vec::new();
        // One byte every 25 ms; reading is the pause.
        loop {
            let sent = stream.write_all(&[*bytes.next().unwrap()]);
            let mut buffer = [0; 1024];
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            if sent.is_err() {
                break;
            }
            assert!(
                begun.elapsed() < SOON,
                "never cut off: {}",
                String::from_utf8_lossy(slowly)
            );
        }
        assert!(
            begun.elapsed() > Duration::from_millis(200),
            "cut off too early, after {:?}",
            begun.elapsed()
        );
        let answer = String::from_utf8_lossy(&answer);
        if !at_once.is_empty() {
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        }
        assert_serves(&service, "good");
    }
    // An idle kept-alive connection is closed as well.
    let mut idle = service.connect();
    idle.request("GET", "/healthz", &[], b"").unwrap();
    assert!(idle.closes_within(SOON));
}

#[test]
fn thousands_of_connections_that_send_nothing_are_cut_off_and_harm_nobody() {
    let count = raise_file_limit();
    let service = start("http: { max_connections: 30000, header_timeout: 4s }");
    let before = service.rss_kib();
    let mut good = service.connect();
    let begun = Instant::now();
    let mut silent = Vec::with_capacity(count);
    for number in 0..count {
        silent.push(TcpStream::connect(service.address()).unwrap());
        if number % 1000 == 0 {
            good.request("GET", "/healthz", &[], b"").unwrap();
        }
    }
    println!("opened in {:?}", begun.elapsed());
    let answer = good
        .request("POST", "/ingest", &[JSON], event("kept-alive").as_bytes())
        .unwrap();
    assert_answer(&answer, 202, accepted(1));
    assert_serves(&service, "new");
    let during = service.rss_kib();
    println!("{count} silent connections: {before} KiB became {during} KiB");
    assert!(
        during < before + 100 * 1024,
        "{before} KiB became {during} KiB"
    );
    eventually(SOON, "they are cut off", || {
        support::metric(&service, "ingestion_connections") < 10.0
    });
    assert_serves(&service, "after");
    drop(silent);
}

#[test]
fn connections_over_the_limit_are_closed_at_once_and_room_comes_back() {
    let service = start("http: { max_connections: 20, header_timeout: 500ms }");
    let mut held: Vec<_> = (0..60).map(|_| service.connect()).collect();
    let closed = held
        .iter_mut()
        .skip(25)
        .filter_map(|one| one.closes_within(SOON).then_some(()))
        .count();
    assert_eq!(closed, 35);
    eventually(SOON, "the silent ones made room", || {
        Connection::open(&service.address())
            .and_then(|mut new| new.request("POST", "/ingest", &[JSON], event("a").as_bytes()))
            .is_ok_and(|answer| answer.status == 202)
    });
    assert!(held.iter_mut().all(|one| one.closes_within(SOON)));
    assert!(support::metric(&service, "ingestion_connections_refused_total") >= 35.0);
}

#[test]
fn half_a_request_and_gone_leaves_nothing_behind() {
    let service = start("");
    let body = event("half");
    let whole = format!(
        "POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for cut in (1..whole.len()).step_by(3) {
        let mut connection = service.connect();
        connection.send_raw(&whole.as_bytes()[..cut]).unwrap();
        if cut % 2 == 0 {
            connection.finish_sending().unwrap();
            assert!(connection.closes_within(SOON));
        }
    }
    eventually(SOON, "no memory is held", || {
        service.get("/status").json()["memory"]["used"] == 0
    });
    assert_serves(&service, "whole");
    settle(&service);
    assert_eq!(stored(&service).into_keys().collect::<Vec<_>>(), ["whole"]);
}

#[test]
fn huge_headers_are_refused_over_http1_and_http2() {
    let service = start("");
    let before = service.rss_kib();
    let huge = "x".repeat(1 << 20);
    let mut connection = service.connect();
    match connection.request("GET", "/healthz", &[("x-huge", &huge)], b"") {
        Ok(answer) => assert_eq!(answer.status, 431),
        Err(error) => println!("HTTP/1.1: {error}"),
    }
    let many: Vec<_> = (0..5000).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "v")).collect();
    if let Ok(answer) = service.connect().request("GET", "/healthz", &many, b"") {
        assert_eq!(answer.status, 431);
    }
    let mut h2 = H2Connection::open(&service.address()).unwrap();
    let large = "x".repeat(15_000);
    let headers: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| (*name, large.as_str()))
        .collect();
    match h2.request("GET", "/healthz", &headers[..1], b"") {
        Ok((status, _)) => assert_eq!(status, 200, "one of 15 KB is within the limit of 16 KiB"),
        Err(error) => panic!("{error}"),
    }
    // Two of them are over it (and more than a frame may hold).
    if let Ok((status, _)) = h2.request("GET", "/healthz", &headers, b"") {
        assert!([0, 431].contains(&status), "{status}");
    }
    assert_serves(&service, "good");
    assert!(service.rss_kib() < before + 8 * 1024);
}

#[test]
fn six_mebibytes_are_refused_and_memory_is_unmoved() {
    let service = start("");
    assert_serves(&service, "before");
    let before = service.rss_kib();
    let body = vec![b' '; 6 << 20];
    let mut connection = service.connect();
    for _ in 0..3 {
        let answer = connection
            .request("POST", "/ingest", &[JSON], &body)
            .unwrap();
        assert_answer(&answer, 413, error("too_large", TOO_LARGE));
    }
    let peak = service.rss_peak_kib();
    assert!(peak < before + 2 * 1024, "{before} KiB became {peak} KiB");
    let answer = connection
        .request("POST", "/ingest", &[JSON], event("after").as_bytes())
        .unwrap();
    assert_answer(&answer, 202, accepted(1));
}

#[test]
fn client_that_asks_first_is_told_not_to_send_a_body_that_is_too_large() {
    let service = start("");
    let mut connection = service.connect();
    connection
        .send_raw(b"POST /ingest HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 6291456\r\n\r\n")
        .unwrap();
    assert_answer(
        &connection.read_any_response().unwrap(),
        413,
        error("too_large", TOO_LARGE),
    );
    let mut connection = service.connect();
    let body = event("asked");
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.send_raw(head.as_bytes()).unwrap();
    assert_eq!(connection.read_any_response().unwrap().status, 100);
    connection.send_raw(body.as_bytes()).unwrap();
    assert_answer(&connection.read_response().unwrap(), 202, accepted(1));
}

/// 1 GiB of blanks through a packer.
fn bomb(packer: &mut impl Write) {
    let blanks = vec![b' '; 1 << 20];
    for _ in 0..1024 {
        packer.write_all(&blanks).unwrap();
    }
}

#[test]
fn bombs_of_a_gibibyte_are_refused_and_memory_is_unmoved() {
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(4));
    bomb(&mut deflate);
    let deflate = deflate.finish().unwrap();
    // Nobody comes to the end, where checksums are.
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], &deflate[..]].concat();
    let zlib = [&[0x78, 0x9c], &deflate[..]].concat();
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    bomb(&mut zstd);
    let zstd = zstd.finish().unwrap();
    let service = start("");
    assert_serves(&service, "before");
    let before = service.rss_kib();
    let mut connection = service.connect();
    for (encoding, body) in [
        ("gzip", gzip),
        ("deflate", zlib),
        ("deflate", deflate),
        ("zstd", zstd),
    ] {
        println!("{encoding}: 1 GiB in {} KiB", body.len() / 1024);
        assert!(body.len() < 2 << 20);
        let begun = Instant::now();
        let headers = [JSON, ("content-encoding", encoding)];
        let answer = connection
            .request("POST", "/ingest", &headers, &body)
            .unwrap();
        assert_answer(&answer, 413, error("too_large", TOO_LARGE));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    let peak = service.rss_peak_kib();
    println!("{before} KiB, at most {peak} KiB");
    // A body within the limit, 5 MiB, may be unpacked before it is known that there is more.
    assert!(peak < before + 16 * 1024, "{before} KiB became {peak} KiB");
    assert_serves(&service, "after");
}

#[test]
fn chunked_body_without_end_is_refused_and_cut_off() {
    let service = start("http: { body_timeout: 500ms }");
    assert_serves(&service, "before");
    let before = service.rss_kib();
    let mut stream = TcpStream::connect(service.address()).unwrap();
    stream
        .write_all(b"POST /ingest HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(vec![b' '; 0x10000]);
    chunk.extend(b"\r\n");
    let begun = Instant::now();
    let mut sent = 0;
    while stream.write_all(&chunk).is_ok() {
        sent += 0x10000;
        assert!(begun.elapsed() < SOON, "it takes {sent} bytes and more");
    }
    let mut answer = vec![0; 12];
    // The reset may have overtaken the answer: this client never stopped to listen.
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(answer, b"HTTP/1.1 413");
    }
    let peak = service.rss_peak_kib();
    println!(
        "cut off after {} MiB; {before} KiB, at most {peak} KiB",
        sent >> 20
    );
    assert!(peak < before + 16 * 1024);
    eventually(SOON, "no memory is held", || {
        service.get("/status").json()["memory"]["used"] == 0
    });
    assert_serves(&service, "after");
}

#[test]
fn lies_about_the_length_are_found_out() {
    let service = start("http: { body_timeout: 300ms }");
    let body = event("a");
    let post = |headers: &str, body: &str| {
        let mut connection = service.connect();
        connection
            .send_raw(
                format!("POST /ingest HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}").as_bytes(),
            )
            .unwrap();
        connection
    };
    // Too long: the rest never comes.
    let mut connection = post(&format!("content-length: {}", body.len() + 1), &body);
    assert_eq!(connection.read_response().unwrap().status, 408);
    // Too short: what is left over is no request.
    let mut connection = post(&format!("content-length: {}", body.len() - 1), &body);
    assert_eq!(connection.read_response().unwrap().status, 400);
    assert!(connection.closes_within(SOON));
    // Two lengths, no length, or two ways to say it, as request smugglers do: refused, or one message and no more.
    for headers in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: -1",
        "content-length: +5",
        "content-length: 99999999999999999999999",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
    ] {
        let mut connection = post(headers, "0\r\n\r\nGET /stats HTTP/1.1\r\nhost: x\r\n\r\n");
        match connection.read_response() {
            Ok(answer) => assert_eq!(answer.status, 400, "{headers}"),
            Err(error) => println!("{headers}: {error}"),
        }
        assert!(connection.closes_within(SOON), "{headers}");
    }
    let mut connection = post(
        "content-length: 4\r\ntransfer-encoding: chunked",
        "0\r\n\r\n",
    );
    assert_eq!(connection.read_response().unwrap().status, 400);
    assert_serves(&service, "good");
    assert_eq!(service.get("/ledger").json()["accepted"], 1);
}

#[test]
fn bytes_that_are_no_http_are_turned_away() {
    let service = start("http: { header_timeout: 300ms }");
    let tls_hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for bytes in [
        &tls_hello[..],
        b"\0\0\0\0\0\0\0\0",
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/3.0\r\n\r\n",
        &[0xff; 70_000],
    ] {
        let mut connection = service.connect();
        // It may be closed while we still send.
        let _sent = connection.send_raw(bytes);
        assert!(connection.closes_within(SOON), "{:?}", &bytes[..4]);
    }
    // An HTTP/2 preface, then nonsense.
    let mut connection = service.connect();
    connection
        .send_raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        .unwrap();
    assert!(connection.closes_within(SOON));
    assert_serves(&service, "good");
}

#[test]
fn silent_http2_connection_is_cut_off() {
    let service = start("http: { header_timeout: 300ms }");
    let mut connection = service.connect();
    connection
        .send_raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    assert!(connection.closes_within(SOON), "a preface and nothing more");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let service = start("");
    let mut connection = service.connect();
    let mut requests = String::new();
    for n in 0..200 {
        let body = if n % 10 == 9 {
            "{".to_owned()
        } else {
            event(&n.to_string())
        };
        requests += &format!(
            "POST /ingest HTTP/1.1\r\nhost: x\r\nx-request-id: r{n}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    connection.send_raw(requests.as_bytes()).unwrap();
    for n in 0..200 {
        let answer = connection.read_response().unwrap();
        assert_eq!(
            answer.header("x-request-id"),
            Some(format!("r{n}").as_str())
        );
        assert_eq!(answer.status, if n % 10 == 9 { 400 } else { 202 });
    }
    settle(&service);
    assert_eq!(stored(&service).len(), 180);
}

#[test]
fn thousand_large_bodies_at_once_stay_within_the_memory_budget() {
    let service = service()
        .config(
            "admission: { memory_budget: 16MiB }
http: { max_body: 1MiB, body_timeout: 20s }
routes: [ { name: stats, sink: { kind: stats } } ]",
        )
        .start();
    assert_serves(&service, "before");
    let before = service.rss_kib();
    let body = format!(
        "{}{}",
        " ".repeat((1 << 20) - 200),
        format_args!(r#"{{"ts":"{TS}"}}"#)
    );
    let mut statuses = BTreeMap::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..1000)
            .map(|_| {
                let client = || {
                    let mut connection = service.connect();
                    let answer = connection.request("POST", "/ingest", &[JSON], body.as_bytes())?;
                    if answer.status == 429 {
                        assert_eq!(answer.json()["error"]["code"], "memory_budget_spent");
                        assert!(answer.header("retry-after").is_some());
                    }
                    Ok::<_, std::io::Error>(answer.status)
                };
                std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, client)
                    .unwrap()
            })
            .collect();
        for client in clients {
            let status = client.join().unwrap().map_err(|error| error.kind());
            *statuses.entry(format!("{status:?}")).or_insert(0) += 1;
        }
    });
    let peak = service.rss_peak_kib();
    println!("{statuses:?}; {before} KiB, at most {peak} KiB");
    assert!(
        statuses
            .keys()
            .all(|status| ["Ok(202)", "Ok(429)"].contains(&status.as_str())),
        "{statuses:?}"
    );
    assert!(statuses.contains_key("Ok(429)") && statuses.contains_key("Ok(202)"));
    // The budget, and what 1,000 connections take to be read at all: two buffers of 32 KiB each (one read, one being filled),
    // and the state of a connection.
    assert!(
        peak < before + 16 * 1024 + 1000 * (2 * 32 + 16),
        "{before} KiB became {peak} KiB"
    );
    eventually(SOON, "all memory is given back", || {
        service.get("/status").json()["memory"]["used"] == 0
    });
    assert_serves(&service, "after");
    settle(&service);
    let accepted = statuses["Ok(202)"] + 2;
    assert_eq!(service.get("/stats").json()["events_count"], accepted);
}

#[test]
fn flood_of_refused_events_in_few_bytes_stays_within_the_memory_budget() {
    let service = start("admission: { memory_budget: 32MiB }\ndead_letters: { max_bytes: 4MiB }");
    let body = format!("[{}]", vec!["{}"; 20_000].join(","));
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(body.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let answer = service.request(
        "POST",
        "/ingest",
        &[JSON, ("content-encoding", "gzip")],
        &packed,
    );
    let told = answer.expect_status(400).json();
    assert_eq!(told["errors"].as_array().unwrap().len(), 1000);
    assert_eq!(told["errors_omitted"], 19_000);

    let before = service.rss_kib();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let answer = service.request(
                        "POST",
                        "/ingest",
                        &[JSON, ("content-encoding", "gzip")],
                        &packed,
                    );
                    assert!(matches!(answer.status, 400 | 429), "{}", answer.status);
                }
            });
        }
    });
    let after = service.rss_kib();
    println!("refused flood: {before} KiB before, {after} KiB after");
    assert!(
        after < before + 32 * 1024 + 64 * 1024,
        "{before} → {after} KiB"
    );
    assert_serves(&service, "good");
    let kept = std::fs::metadata(service.data_dir().join("control.db")).unwrap();
    assert!(kept.len() < 64 << 20, "control.db has {} bytes", kept.len());
}
