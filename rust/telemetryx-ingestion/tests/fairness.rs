//! Clients that ask much or hold much: they wait for themselves, and the others are served before they are done. What is
//! said here is who comes before whom, not how fast.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{SOON, accepted, assert_answer, event, start};
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
