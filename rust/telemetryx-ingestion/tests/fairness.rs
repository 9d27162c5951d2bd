//! Clients that ask much or hold much: they wait for themselves, and the others are served before they are done. What is
//! said here is who comes before whom, not how fast.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use support::{SOON, TS, accepted, assert_answer, event, start};
use telemetryx_testkit::eventually;

/// Questions on each connection that asks without end.
const QUESTIONS: usize = 2000;

#[test]
fn whoever_asks_without_end_is_not_answered_before_all_others() {
    let service = start("");
    let question = "/stats/rates?window=1440m";
    let length = service.get(question).expect_status(200).body.len();
    let askers: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(service.address()).unwrap())
        .collect();
    let received: Vec<_> = askers.iter().map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for (asker, received) in askers.iter().zip(&received) {
            let request = format!("GET {question} HTTP/1.1\r\nhost: x\r\n\r\n");
            scope.spawn(move || {
                let mut asker = asker;
                asker.write_all(request.repeat(QUESTIONS).as_bytes()).ok();
            });
            scope.spawn(move || {
                let mut asker = asker;
                let mut buffer = vec![0; 1 << 20];
                while let Ok(count @ 1..) = asker.read(&mut buffer) {
                    received.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
        let answered = |received: &AtomicUsize| received.load(Ordering::Relaxed) / length;
        eventually(SOON, "each has an answer", || {
            received.iter().all(|received| answered(received) > 0)
        });
        for id in ["a", "b", "c"] {
            assert_eq!(service.get("/health").status, 200);
            assert_answer(&service.post_json("/ingest", event(id)), 202, accepted(1));
            assert_eq!(service.get("/metrics").status, 200);
        }
        let answered: Vec<_> = received.iter().map(answered).collect();
        for asker in &askers {
            asker.shutdown(Shutdown::Both).ok();
        }
        assert!(
            answered.iter().all(|answered| *answered < QUESTIONS),
            "{answered:?} of {QUESTIONS}"
        );
    });
}

#[test]
fn requests_of_which_nothing_but_the_head_has_come_leave_memory_to_the_others() {
    let service =
        start("admission: { memory_budget: 8MiB }\nhttp: { max_body: 1MiB, body_timeout: 60s }");
    let head = "POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    let mut heads: Vec<_> = (0..500).map(|_| service.connect()).collect();
    for connection in &mut heads {
        connection.send_raw(head.as_bytes()).unwrap();
    }
    let used = || service.get("/status").json()["memory"]["used"].as_u64();
    eventually(SOON, "all heads have come", || {
        used() >= Some(500 * (8 << 10))
    });
    assert_answer(&service.post_json("/ingest", event("a")), 202, accepted(1));
    drop(heads);
    eventually(SOON, "no memory is held", || used() == Some(0));
}

#[test]
fn a_request_that_could_never_fit_into_the_memory_is_not_told_to_come_back() {
    let service = start("admission: { memory_budget: 8MiB }");
    let one = format!(r#"{{"ts":"{TS}","payload":"{}"}}"#, "x".repeat(170));
    let body = format!("[{}]", vec![one.as_str(); 20_000].join(","));
    assert!(body.len() > 4 << 20 && body.len() < 5 << 20);
    let answer = service.post_json("/ingest", &body);
    assert_eq!((answer.status, answer.header("retry-after")), (413, None));
    let told = answer.json();
    assert_eq!(told["error"]["code"], "too_large");
    let message = told["error"]["message"].as_str().unwrap();
    let limit = "over the limit of 8388608 bytes (admission.memory_budget): it needs 8";
    assert!(message.contains(limit), "{message}");

    // Events that are refused are told of up to a limit, and those beyond take nothing; their dead letters fit.
    let empty = format!("[{}]", vec!["{}"; 19_999].join(","));
    let answer = service.post_json("/ingest", empty).expect_status(400);
    assert_eq!(answer.json()["errors_omitted"], 18_999);
    let door = &service.get("/ledger").json()["door"];
    assert_eq!(
        (&door["refused"], &door["overloaded"]),
        (&json!(19_999), &json!(0))
    );
    assert_answer(&service.post_json("/ingest", event("a")), 202, accepted(1));
}
