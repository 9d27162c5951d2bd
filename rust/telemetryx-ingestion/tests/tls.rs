//! TLS on every listener as clients meet it: ours with rustls, curl and openssl; and what those get who come without TLS,
//! without a certificate, with a wrong one, or never finish.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/secured.rs"]
mod secured;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use certificates::{Authority, Pair};
use secured::{Clients, World, answer_of, ask_frame, ask_over, text};
use serde_json::{Value, json};
use support::{SOON, event, events, service};
use telemetryx_testkit::{Connection, FrameConnection, H2Connection, eventually, frame, free_port};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A program's whole run, with this on its standard input.
#[track_caller]
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} can be started: {error}"));
    // It may not want to read it.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap()
}

/// curl, quiet, with these arguments more: standard output, or what it complains of.
#[track_caller]
fn curl(arguments: &[&str]) -> Result<String, String> {
    let arguments = [&["-sS", "--max-time", "20", "--noproxy", "*"], arguments].concat();
    let output = run("curl", &arguments, b"");
    let said = String::from_utf8_lossy(if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    });
    let said = said.trim().to_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}

#[test]
fn http1_and_http2_are_spoken_as_agreed() {
    let world = World::new();
    let service = world.start(Clients::Anyone, "");
    let address = service.address();
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = service.connect(offered, None).unwrap();
        let found = stream.conn.alpn_protocol().map(String::from_utf8_lossy);
        assert_eq!(found.as_deref(), agreed, "{offered:?}");
        if agreed == Some("h2") {
            let mut h2 = H2Connection::over(Box::new(stream), "https", &address).unwrap();
            for id in ["a", "b"] {
                let body = event(id);
                let answer = h2.request("POST", "/ingest", &[JSON], body.as_bytes());
                assert_eq!(answer.unwrap().0, 202);
            }
        } else {
            let (status, body) = ask_over(stream, "POST", "/ingest", &event("c")).unwrap();
            assert_eq!(status, 202, "{body}");
        }
    }
    let error = service.connect(&["spdy/3"], None).unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    service.wait_until_stored(&["a", "b", "c"]);
}

#[test]
fn frames_are_pipelined_over_tls_and_stored_once() {
    let world = World::new();
    let mut service = world.start(Clients::Anyone, "");
    let ids: Vec<_> = (100..400).map(|n| n.to_string()).collect();
    for _ in 0..2 {
        let mut stream = service.connect_tcp(None).unwrap();
        // Together far more than one TLS record.
        let all: Vec<_> = ids.iter().flat_map(|id| frame(event(id))).collect();
        stream.write_all(&all).unwrap();
        for id in &ids {
            let answer = answer_of(&mut stream).unwrap();
            assert_eq!(
                (&answer["status"], &answer["accepted"]),
                (&json!(202), &json!(1)),
                "{id}"
            );
        }
        // One larger than any record, and its answer.
        let large = format!(
            r#"{{"id":"9","ts":"{}","payload":"{}"}}"#,
            support::TS,
            "x".repeat(300_000)
        );
        assert_eq!(ask_frame(&mut stream, large).unwrap()["status"], 202);
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(
            stream.read(&mut [0; 1]).unwrap(),
            0,
            "the end is said, not a reset"
        );
    }
    let mut expected: Vec<_> = ids.iter().map(String::as_str).collect();
    expected.push("9");
    service.wait_until_stored(&expected);
    // What was begun is answered when the service ends.
    let mut stream = service.connect_tcp(None).unwrap();
    let last = frame(events(["last"; 100]));
    stream.write_all(&last[..500]).unwrap();
    eventually(SOON, "it is under way", || {
        service.get("/status")["memory"]["used"].as_u64() > Some(0)
    });
    service.service.signal_term();
    stream.write_all(&last[500..]).unwrap();
    assert_eq!(answer_of(&mut stream).unwrap()["accepted"], 100);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(service.service.wait().success());
}

#[test]
fn curl_and_openssl_speak_to_every_listener() {
    let world = World::new();
    let service = world.start(Clients::Certified, "");
    let client = world.clients.issue("client");
    let url = format!("https://{}/ingest", service.address());
    let body = event("curl");
    for (version, expected) in [("--http1.1", "202 1.1"), ("--http2", "202 2")] {
        let answer = curl(&[
            version,
            "--cacert",
            text(&world.servers.file),
            "--cert",
            text(&client.cert),
            "--key",
            text(&client.key),
            "-H",
            "content-type: application/json",
            "-d",
            &body,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
            &url,
        ]);
        assert_eq!(answer.as_deref(), Ok(expected));
    }
    // Without a certificate, without the authority's, and without TLS.
    let message = curl(&["--cacert", text(&world.servers.file), &url]).unwrap_err();
    println!("curl without a certificate: {message}");
    assert!(message.contains("certificate required"), "{message}");
    let message = curl(&[&url]).unwrap_err();
    assert!(
        message.contains("unable to get local issuer certificate"),
        "{message}"
    );
    let plain = url.replace("https", "http");
    let answer = curl(&["-w", " %{http_code}", "-d", "{}", &plain]);
    let told =
        r#"{"error":{"code":"tls_required","message":"this port speaks TLS: use https"}} 400"#;
    assert_eq!(answer.as_deref(), Ok(told));

    let openssl = |address: &str, alpn: &[&str], input: &[u8]| {
        let arguments = [
            &[
                "s_client",
                "-connect",
                address,
                "-CAfile",
                text(&world.servers.file),
                "-cert",
                text(&client.cert),
                "-key",
                text(&client.key),
                "-verify_return_error",
                // Not `Q` and the like: the input is for the server; and the answer is waited for.
                "-ign_eof",
            ],
            alpn,
        ]
        .concat();
        let output = run("openssl", &arguments, input);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let request = format!(
        "POST /ingest HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let said = openssl(
        &service.address(),
        &["-alpn", "http/1.1"],
        request.as_bytes(),
    );
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    assert!(said.contains("Verification: OK"), "{said}");
    assert!(said.contains("HTTP/1.1 202 Accepted"), "{said}");
    let said = openssl(
        &service.address(),
        &["-alpn", "h2"],
        b"no preface of HTTP/2\r\n\r\n",
    );
    assert!(said.contains("ALPN protocol: h2"), "{said}");
    // Framed TCP agrees on nothing. Frames over the limit end the connection.
    let frames = [frame(event("openssl")), vec![0xff; 4]].concat();
    let said = openssl(&service.tcp, &[], &frames);
    assert!(said.contains("No ALPN negotiated"), "{said}");
    assert!(said.contains(r#"{"status":202,"accepted":1,"#), "{said}");
    assert!(said.contains(r#"{"status":413,"#), "{said}");
}

#[test]
fn clients_without_a_good_certificate_are_turned_away_from_every_listener() {
    let world = World::new();
    let service = world.start(Clients::Certified, "http: { header_timeout: 2s }");
    let good = world.clients.issue("good");
    let expired = world.clients.issue_until("expired", 2020);
    let foreign = Authority::new(world.dir.path(), "foreign").issue("stranger");
    let self_made = Pair {
        cert: world.clients.file.with_file_name("stranger.pem"),
        key: world.clients.file.with_file_name("stranger.key"),
    };
    service.assert_serves(Some(&good), "first");
    for (client, alert) in [
        (None, "CertificateRequired"),
        (Some(&expired), "CertificateExpired"),
        (Some(&foreign), "UnknownCA"),
        (Some(&self_made), "UnknownCA"),
    ] {
        // In TLS 1.3 the client has shaken hands before the server has seen its certificate.
        let told = service.ask(client, "POST", "/ingest", &event("bad"));
        let told = told.unwrap_err().to_string();
        assert!(told.contains(alert), "HTTP/1.1, {alert}: {told}");
        let stream = service.connect(&["h2"], client);
        let told = stream
            .and_then(|stream| {
                H2Connection::over(Box::new(stream), "https", &service.address())?.request(
                    "POST",
                    "/ingest",
                    &[JSON],
                    event("bad").as_bytes(),
                )
            })
            .unwrap_err()
            .to_string();
        assert!(told.contains(alert), "HTTP/2, {alert}: {told}");
        let told = service
            .connect_tcp(client)
            .and_then(|mut stream| ask_frame(&mut stream, event("bad")))
            .unwrap_err()
            .to_string();
        assert!(told.contains(alert), "TCP, {alert}: {told}");
        service.assert_serves(Some(&good), "good");
    }
    let ledger = service.ask(Some(&good), "GET", "/ledger", "").unwrap().1;
    let ledger: Value = serde_json::from_str(&ledger).unwrap();
    assert_eq!(ledger["accepted"], 10, "five times two, all of them good");
    assert!(!service.log().contains("\"ERROR\""), "{}", service.log());
}

#[test]
fn who_comes_without_tls_is_told_or_closed_and_so_is_tls_where_there_is_none() {
    let world = World::new();
    let secured = world.start(Clients::Anyone, "");
    let answer = Connection::open(&secured.address())
        .and_then(|mut plain| plain.request("POST", "/ingest", &[JSON], &[b'x'; 200_000]))
        .unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["code"], "tls_required");
    // HTTP/2 without TLS begins with a letter as well; a frame of TCP does not.
    let mut h2 = H2Connection::open(&secured.address()).unwrap();
    assert!(h2.is_sent_away());
    let mut frames = FrameConnection::open(&secured.tcp).unwrap();
    frames.send(event("plain")).unwrap();
    assert!(frames.closes_within(SOON));
    eventually(SOON, "each is counted", || {
        secured.metric("ingestion_tls_handshakes_failed_total") == 3.0
    });
    secured.assert_serves(None, "good");

    let port = free_port();
    let plain = service()
        .env("TELEMETRYX_TCP__PORT", &port.to_string())
        .start();
    for address in [plain.address(), format!("127.0.0.1:{port}")] {
        let begun = Instant::now();
        let error = world.servers.connect(&address, &[], None).unwrap_err();
        println!("TLS to {address}: {error}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    plain.post_json("/ingest", event("good")).expect_status(202);
}

#[test]
fn handshakes_that_never_end_are_cut_off_and_harm_nobody() {
    let world = World::new();
    let service = world.start(Clients::Anyone, "http: { header_timeout: 400ms }");
    service.assert_serves(None, "before");
    let before = service.rss_kib();
    // Nothing; a part of a first record; a record that says it is long.
    let openings: [&[u8]; 4] = [b"", &[22], &[22, 3, 1, 2, 0, 1, 0], &[22, 3, 3, 0x40, 0]];
    let mut half_open = Vec::new();
    for _ in 0..100 {
        for address in [&service.address(), &service.tcp] {
            for opening in openings {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(opening).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                half_open.push(stream);
            }
        }
    }
    // One byte at a time does not help: reading is the pause.
    let mut slow = TcpStream::connect(service.address()).unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(25)))
        .unwrap();
    let begun = Instant::now();
    let mut bytes = [22, 3, 3, 0x40, 0].into_iter().chain([0; 10_000]);
    while slow.write_all(&[bytes.next().unwrap()]).is_ok() {
        match slow.read(&mut [0; 100]) {
            Ok(0) => break,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => assert!(begun.elapsed() < SOON, "never cut off"),
        }
    }
    service.assert_serves(None, "during");
    for stream in &mut half_open {
        // An end or a reset; not a timeout.
        let closed = stream.read(&mut [0; 100]);
        assert!(
            !closed.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "never cut off"
        );
    }
    service.assert_serves(None, "after");
    let after = service.rss_peak_kib();
    println!("800 half-open handshakes: {before} KiB, at most {after} KiB");
    assert!(after < before + 800 * 16 + 4096, "{before} to {after} KiB");
    eventually(SOON, "their connections are gone", || {
        service.metric("ingestion_connections") <= 1.0
    });
}
