//! Framed TCP as a client meets it: every answer, its order, its limits, and what is left after a kill.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use serde_json::{Value, json};
use support::{
    SOON, TS, Tally, assert_books_balance, event, events, metric, service, settle, sha256, stored,
};
use telemetryx_proto::v1;
use telemetryx_testkit::{FrameConnection, Service, ServiceBuilder, eventually, frame, free_port};

/// A service that also takes frames, and where.
struct Framed {
    service: Service,
    address: String,
}

impl std::ops::Deref for Framed {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl Framed {
    #[track_caller]
    fn start(config: &str) -> Self {
        Self::of(service().config(config))
    }

    #[track_caller]
    fn of(builder: ServiceBuilder) -> Self {
        let port = free_port();
        Self {
            service: builder
                .env("TELEMETRYX_TCP__PORT", &port.to_string())
                .start(),
            address: format!("127.0.0.1:{port}"),
        }
    }

    #[track_caller]
    fn frames(&self) -> FrameConnection {
        FrameConnection::open(&self.address).expect("the service takes frames")
    }

    /// A good client is served over a connection of its own.
    #[track_caller]
    fn assert_serves(&self, id: &str) {
        let begun = Instant::now();
        let answer = self.frames().ask(event(id)).unwrap();
        assert_eq!(answer["status"], 202, "{answer}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    fn wait_until_no_memory_is_held(&self) {
        eventually(SOON, "no memory is held", || {
            let memory = &self.get("/status").json()["memory"];
            memory["used"] == 0 && memory["answers"] == 0
        });
    }
}

/// The answer with what differs from time to time taken out.
#[track_caller]
fn normalised(mut answer: Value) -> Value {
    let fields = answer.as_object_mut().expect("an answer is an object");
    let id = fields.remove("request_id").expect("it has a request id");
    assert_eq!(id.as_str().unwrap().len(), 16);
    if let Some(receipt) = fields.remove("receipt") {
        assert_eq!(receipt.as_str().unwrap().split('-').count(), 3);
    }
    answer
}

fn accepted(events: u64) -> Value {
    json!({"status": 202, "accepted": events, "rejected": 0, "durability": "fsynced"})
}

/// A batch whose first event takes just so many bytes: that length is the second byte of the batch.
fn batch_with_first_event_of(bytes: usize, id: &str) -> Vec<u8> {
    let mut event = v1::Event {
        id: id.into(),
        time_unix_nano: 1_767_225_600_000_000_000,
        payload: br#""""#.to_vec().into(),
        ..v1::Event::default()
    };
    let missing = bytes - event.encoded_len();
    event.payload = format!("\"{}\"", "x".repeat(missing)).into();
    assert_eq!(event.encoded_len(), bytes);
    let batch = v1::EventBatch {
        events: vec![event],
    };
    batch.encode_to_vec()
}

#[test]
fn nothing_listens_unless_a_port_is_given() {
    let service = support::start("");
    assert!(!service.log().contains("\"tcp\""), "{}", service.log());
    let service = support::start("tcp: { port: 0 }");
    let log = service.log();
    let line = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|fields| fields["message"] == "listening" && fields["protocol"] == "tcp");
    let address = line.unwrap_or_else(|| panic!("{log}"))["address"].clone();
    let mut frames = FrameConnection::open(address.as_str().unwrap()).unwrap();
    assert_eq!(frames.ask(event("a")).unwrap()["status"], 202);
}

#[test]
fn json_and_protobuf_are_told_apart_and_answered_as_over_http() {
    let service = Framed::start("");
    let mut frames = service.frames();
    let bodies: [(Vec<u8>, u64); 7] = [
        (event("a").into(), 1),
        (events(["b", "c"]).into(), 2),
        (format!(r#"{{"events":{}}}"#, events(["d"])).into(), 1),
        (format!(" \t\r{}", event("e")).into(), 1),
        // Their second bytes are `{` and `[`, and their first one is a line feed.
        (batch_with_first_event_of(usize::from(b'{'), "p1"), 1),
        (batch_with_first_event_of(usize::from(b'['), "p2"), 1),
        (batch_with_first_event_of(usize::from(b' '), "p3"), 1),
    ];
    for (body, count) in bodies {
        let answer = frames.ask(&body).unwrap();
        assert_eq!(normalised(answer), accepted(count), "{body:?}");
    }
    let answer = frames.ask(format!(r#"[{},{{}}]"#, event("f"))).unwrap();
    let over_http = service.post_json("/ingest", format!(r#"[{},{{}}]"#, event("f")));
    let mut expected = over_http.json();
    expected["status"] = 202.into();
    assert_eq!(normalised(answer), normalised(expected));
    for wrong in ["{", "[]", "[{}]", "", "\u{1}", "\n{}"] {
        let format = if wrong.starts_with(['{', '[']) {
            "application/json"
        } else {
            "application/x-protobuf"
        };
        let over_http = service.post("/ingest", format, wrong);
        let mut expected = over_http.json();
        expected["status"] = over_http.status.into();
        assert_eq!(over_http.status, 400, "{wrong:?}");
        let answer = normalised(frames.ask(wrong).unwrap());
        assert_eq!(answer, expected, "{wrong:?}");
    }
    settle(&service);
    let stored = stored(&service);
    for id in ["a", "b", "c", "d", "e", "f", "p1", "p2", "p3"] {
        assert_eq!(stored.get(id), Some(&1), "{id}");
    }
    assert_books_balance(&service);
}

#[test]
fn many_frames_under_way_are_answered_in_order() {
    let service = Framed::start("tcp: { max_in_flight: 16 }");
    let mut frames = service.frames();
    let mut bytes = Vec::new();
    for n in 0..500 {
        // Frames of very different size, so that some are ready before those before them.
        bytes.extend(match n % 10 {
            9 => frame("{"),
            3 => frame(format!(
                r#"{{"id":"{n}","ts":"{TS}","payload":"{}"}}"#,
                "x".repeat(200_000)
            )),
            digit => frame(events((0..=digit).map(|m| format!("{n}-{m}")))),
        });
    }
    let mut sender = frames.stream().try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&bytes));
    for n in 0..500 {
        let answer = frames.answer().unwrap();
        let expected = match n % 10 {
            9 => (json!(400), Value::Null),
            3 => (json!(202), json!(1)),
            digit => (json!(202), json!(digit + 1)),
        };
        let got = (answer["status"].clone(), answer["accepted"].clone());
        assert_eq!(got, expected, "{n}");
    }
    sending.join().unwrap().unwrap();
    settle(&service);
    // Each ten frames: 1 + 2 + 3 + 1 + 5 + 6 + 7 + 8 + 9 events.
    assert_eq!(stored(&service).len(), 50 * 42);
}

#[test]
fn client_that_ends_its_side_is_answered_to_the_last_frame() {
    let service = Framed::start("");
    let mut frames = service.frames();
    for n in 0..300 {
        frames.send(event(&n.to_string())).unwrap();
    }
    // And one that is cut off.
    frames.send_raw(&frame(event("cut"))[..20]).unwrap();
    frames.finish_sending().unwrap();
    for n in 0..300 {
        assert_eq!(frames.answer().unwrap()["status"], 202, "{n}");
    }
    let answer = frames.answer().unwrap();
    assert_eq!(
        (&answer["status"], &answer["error"]["code"]),
        (&json!(400), &json!("incomplete_body"))
    );
    assert!(frames.closes_within(SOON));
    service.wait_until_no_memory_is_held();
}

#[test]
fn frame_over_the_limit_is_answered_and_the_connection_closed() {
    let service = Framed::start("");
    service.assert_serves("before");
    let before = service.rss_kib();
    for length in [5 * 1024 * 1024 + 1, u32::MAX] {
        let mut frames = service.frames();
        frames.send(event("good")).unwrap();
        frames.send_raw(&length.to_be_bytes()).unwrap();
        // It is told, though it goes on sending.
        let _closed = frames.send_raw(&vec![b' '; 300_000]);
        assert_eq!(frames.answer().unwrap()["status"], 202);
        let answer = frames.answer().unwrap();
        assert_eq!(
            normalised(answer),
            json!({"status": 413, "error": {
                "code": "too_large",
                "message": "the body is over the limit of 5242880 bytes (http.max_body)"
            }})
        );
        assert!(frames.closes_within(SOON));
    }
    let after = service.rss_kib();
    assert!(after < before + 4 * 1024, "{before} KiB became {after} KiB");
    service.assert_serves("after");
}

#[test]
fn largest_frame_is_taken() {
    let service = Framed::start("http: { max_event: 5MiB }");
    let mut body = format!(r#"{{"id":"big","ts":"{TS}","payload":"#);
    let rest = 5 * 1024 * 1024 - body.len() - 3;
    body += &format!("\"{}\"}}", "x".repeat(rest));
    assert_eq!(body.len(), 5 << 20);
    let mut frames = service.frames();
    for _ in 0..3 {
        assert_eq!(normalised(frames.ask(&body).unwrap()), accepted(1));
        assert_eq!(frames.ask(event("small")).unwrap()["status"], 202);
    }
    service.wait_until_no_memory_is_held();
}

#[test]
fn frame_without_memory_or_rate_is_429_and_the_connection_goes_on() {
    let service = Framed::start("admission: { memory_budget: 1MiB }\nhttp: { max_body: 1MiB }");
    // Over half of the budget is held by a frame that is not whole yet.
    let mut holder = service.frames();
    holder.send_raw(&900_000_u32.to_be_bytes()).unwrap();
    holder.send_raw(&vec![b' '; 800_000]).unwrap();
    eventually(SOON, "memory is held", || {
        service.get("/status").json()["memory"]["used"].as_u64() > Some(800_000)
    });
    let mut frames = service.frames();
    let large = " ".repeat(600_000);
    for _ in 0..3 {
        let answer = frames.ask(&large).unwrap();
        assert_eq!(
            normalised(answer),
            json!({"status": 429, "retry_after": 1, "error": {
                "code": "memory_budget_spent",
                "message": "too many bytes are under way; try again"
            }})
        );
        assert_eq!(normalised(frames.ask(event("small")).unwrap()), accepted(1));
    }
    drop(holder);
    service.wait_until_no_memory_is_held();

    let limited = Framed::start(
        "admission: { rate_limit: { enabled: true, rps: 0.01, burst: 2, per: source_ip } }",
    );
    let mut frames = limited.frames();
    for _ in 0..2 {
        assert_eq!(frames.ask(event("a")).unwrap()["status"], 202);
    }
    let answer = frames.ask(event("a")).unwrap();
    assert_eq!(answer["status"], 429);
    assert_eq!(answer["error"]["code"], "rate_limited");
    assert!(answer["retry_after"].as_u64() > Some(50), "{answer}");
}

#[test]
fn slow_frames_are_408_and_idle_connections_are_closed() {
    let service = Framed::start("http: { body_timeout: 300ms }\ntcp: { idle_timeout: 1s }");
    let whole = frame(event("slow"));
    for at_once in [1, 3, 4, 30] {
        let mut frames = service.frames();
        frames.send(event("first")).unwrap();
        frames.send_raw(&whole[..at_once]).unwrap();
        assert_eq!(frames.answer().unwrap()["status"], 202);
        let answer = frames.answer().unwrap();
        assert_eq!(
            (&answer["status"], &answer["error"]["code"]),
            (&json!(408), &json!("body_timeout")),
            "{at_once}"
        );
        assert!(frames.closes_within(SOON));
    }
    // One byte at a time does not help; the answer is the pause.
    let mut frames = service.frames();
    let mut stream = frames.stream().try_clone().unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = 1000_u32.to_be_bytes().into_iter().chain([b' '; 900]);
            while !ended.load(Ordering::Relaxed)
                && stream.write_all(&[bytes.next().unwrap()]).is_ok()
            {
                std::thread::sleep(Duration::from_millis(25));
            }
        });
        assert_eq!(frames.answer().unwrap()["status"], 408);
        ended.store(true, Ordering::Relaxed);
    });
    // Idle ones are closed without a word, also after they were used.
    let mut idle = service.frames();
    assert!(idle.closes_within(SOON));
    let mut used = service.frames();
    used.ask(event("used")).unwrap();
    let begun = Instant::now();
    assert!(used.closes_within(SOON));
    assert!(begun.elapsed() > Duration::from_millis(700));
    service.wait_until_no_memory_is_held();
}

#[test]
fn strangers_are_sent_away_after_some_refusals_and_at_once_if_they_send_nothing() {
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // "secret"
    let keys = format!("auth: {{ keys: [ {{ name: shop, sha256: {hash} }} ] }}");
    let service = Framed::start(&keys);
    for (body, refusals) in [
        (event("a"), 16),
        (r#"{"key":"wrong"}"#.to_owned(), 16),
        (String::new(), 1),
    ] {
        let mut frames = service.frames();
        frames.send_raw(&frame(&body).repeat(1000)).unwrap();
        for _ in 0..refusals {
            assert_eq!(frames.answer().unwrap()["status"], 401, "{body}");
        }
        assert!(frames.answer().is_err(), "{body}");
        assert!(frames.closes_within(SOON));
    }
    // With the key, an empty frame is a mistake like any other.
    let mut frames = service.frames();
    assert_eq!(frames.ask(r#"{"key":"secret"}"#).unwrap()["status"], 200);
    for _ in 0..20 {
        assert_eq!(frames.ask("").unwrap()["status"], 400);
    }
    assert_eq!(normalised(frames.ask(event("a")).unwrap()), accepted(1));
    service.wait_until_no_memory_is_held();

    // Guesses take the tokens of their address.
    let limit = "rate_limit: { enabled: true, rps: 0.01, burst: 2, per: source_ip }";
    let limited = Framed::start(&format!("{keys}\nadmission: {{ {limit} }}"));
    let mut frames = limited.frames();
    for status in [401, 401, 429] {
        let answer = frames.ask(r#"{"key":"wrong"}"#).unwrap();
        assert_eq!(answer["status"], status, "{answer}");
    }
    assert!(frames.closes_within(SOON));
}

#[test]
fn keys_are_shown_once_in_a_frame_of_their_own() {
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // "secret"
    let service = Framed::start(&format!(
        "auth: {{ keys: [ {{ name: shop, sha256: {hash}, source: door }} ] }}"
    ));
    let mut frames = service.frames();
    let answer = frames.ask(event("a")).unwrap();
    assert_eq!(
        normalised(answer),
        json!({"status": 401, "error": {
            "code": "unauthorized",
            "message": "send an API key first, in a frame of its own: {\"key\":\"<key>\"}"
        }})
    );
    let counted = || {
        let count = |name| metric(&service, &format!("ingestion_requests{name}_total"));
        (count(""), count("_errors"))
    };
    assert_eq!(counted(), (1.0, 1.0));
    for guesses in 2..5 {
        let answer = frames.ask(r#"{"key":"wrong"}"#).unwrap();
        assert_eq!(answer["status"], 401, "{answer}");
        // Whoever guesses keys is seen.
        assert_eq!(counted(), (f64::from(guesses), f64::from(guesses)));
    }
    let log = service.log();
    assert!(
        log.contains("no API key, or one that is not known"),
        "{log}"
    );
    assert_eq!(frames.ask(event("b")).unwrap()["status"], 401);
    // The key and what follows it may be sent together.
    frames.send(r#" { "key" : "secret" } "#).unwrap();
    frames.send(event("c")).unwrap();
    frames
        .send(format!(r#"{{"id":"d","ts":"{TS}","source":"other"}}"#))
        .unwrap();
    assert_eq!(
        frames.answer().unwrap(),
        json!({"status": 200, "key": "shop"})
    );
    assert_eq!(normalised(frames.answer().unwrap()), accepted(1));
    assert_eq!(frames.answer().unwrap()["status"], 403);
    // Another one's key is not kept for the next connection.
    assert_eq!(service.frames().ask(event("e")).unwrap()["status"], 401);
    settle(&service);
    assert_eq!(service.get("/ledger").json()["accepted"], 1);
    assert!(!service.log().contains("secret"), "{}", service.log());

    // Without keys in the config a key is welcome and means nothing; an event may have a field of that name.
    let open = Framed::start("");
    let mut frames = open.frames();
    assert_eq!(
        frames.ask(r#"{"key":"x"}"#).unwrap(),
        json!({"status": 200})
    );
    let answer = frames.ask(format!(r#"{{"key":"x","ts":"{TS}"}}"#)).unwrap();
    assert_eq!(normalised(answer), accepted(1));
}

#[test]
fn a_frame_that_is_sent_again_is_stored_once_if_its_events_have_ids() {
    let service = Framed::start("");
    for _ in 0..3 {
        let answer = service.frames().ask(events(["a", "b"])).unwrap();
        assert_eq!(normalised(answer), accepted(2));
    }
    let without = format!(r#"{{"ts":"{TS}"}}"#);
    for _ in 0..2 {
        service.frames().ask(&without).unwrap();
    }
    settle(&service);
    assert_eq!(stored(&service).len(), 4, "a, b, and two without an id");
}

#[test]
fn shutdown_answers_what_is_under_way_and_reads_nothing_new() {
    let mut framed = Framed::start("");
    let mut idle = framed.frames();
    let mut frames = framed.frames();
    for n in 0..50 {
        frames.send(event(&format!("whole-{n}"))).unwrap();
    }
    let mut last = event("half");
    last += &" ".repeat(2000);
    let last = frame(last);
    let (half, rest) = last.split_at(1000);
    frames.send_raw(half).unwrap();
    for n in 0..50 {
        assert_eq!(frames.answer().unwrap()["status"], 202, "{n}");
    }
    eventually(SOON, "the last frame is under way", || {
        framed.get("/status").json()["memory"]["used"].as_u64() > Some(0)
    });
    framed.service.signal_term();
    assert!(idle.closes_within(SOON), "an idle one is closed at once");
    frames.send_raw(rest).unwrap();
    frames.send(event("too late")).ok();
    assert_eq!(normalised(frames.answer().unwrap()), accepted(1));
    assert!(frames.closes_within(SOON));
    assert!(framed.service.wait().success());
    framed.service.restart();
    settle(&framed);
    let stored = stored(&framed);
    assert_eq!((stored.len(), stored.get("half")), (51, Some(&1)));
    assert!(!stored.contains_key("too late"));
}

#[test]
fn frames_are_counted_as_requests_are() {
    let service = Framed::start("");
    let mut frames = service.frames();
    frames.ask(events(["a", "b"])).unwrap();
    frames.ask(format!("[{},{{}}]", event("c"))).unwrap();
    frames.ask("{").unwrap();
    let events = |outcome| {
        let name = format!("ingestion_events_total{{protocol=\"tcp\",outcome=\"{outcome}\"}}");
        metric(&service, &name)
    };
    assert_eq!((events("accepted"), events("refused")), (3.0, 1.0));
    assert_eq!(metric(&service, "ingestion_requests_total"), 3.0);
    assert_eq!(metric(&service, "ingestion_requests_errors_total"), 1.0);
    assert_eq!(
        metric(&service, "ingestion_processing_latency_seconds_count"),
        3.0
    );
    assert!(metric(&service, "ingestion_bytes_total") > 100.0);
    eventually(
        SOON,
        "this connection and the one that asks are counted",
        || metric(&service, "ingestion_connections") == 2.0,
    );
}

#[test]
fn thousand_connections_that_announce_large_frames_stay_within_the_memory_budget() {
    let service = Framed::start(
        "admission: { memory_budget: 32MiB }\nhttp: { max_body: 16MiB, body_timeout: 3s }",
    );
    service.assert_serves("before");
    let before = service.rss_kib();
    let mut held = Vec::new();
    for _ in 0..1000 {
        let mut frames = service.frames();
        frames.send_raw(&(16_u32 << 20).to_be_bytes()).unwrap();
        let _refused = frames.send_raw(&[b' '; 60_000]);
        held.push(frames);
    }
    let used = service.get("/status").json()["memory"]["used"]
        .as_u64()
        .unwrap();
    assert!((1..=32 << 20).contains(&used), "{used}");
    let peak = service.rss_peak_kib();
    println!("1000 announce 16 MiB: {before} KiB, at most {peak} KiB, {used} bytes of the budget");
    // The budget; and of each one what is read ahead, and a connection's state.
    assert!(
        peak < before + 32 * 1024 + 1000 * (16 + 16),
        "{before} KiB became {peak} KiB"
    );
    // Those that got memory are told that they are slow, the others were told at once.
    for frames in &mut held {
        let answer = frames.answer().unwrap();
        assert!(
            [429, 408].map(Value::from).contains(&answer["status"]),
            "{answer}"
        );
    }
    drop(held);
    service.wait_until_no_memory_is_held();
    service.assert_serves("after");
}

#[test]
fn client_that_never_reads_its_answers_is_cut_off_and_harms_nobody() {
    let service = Framed::start("http: { body_timeout: 1s }\nroutes: []");
    service.assert_serves("before");
    let before = service.rss_kib();
    // Each frame is small and its answer long: a thousand errors.
    let body = frame(format!("[{}]", vec!["{}"; 2000].join(",")));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut frames = service.frames();
                    let begun = Instant::now();
                    while frames.send_raw(&body).is_ok() {
                        assert!(begun.elapsed() < SOON * 3, "never cut off");
                    }
                })
            })
            .collect();
        while !clients
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let answer = service.frames().ask(event("other")).unwrap();
            assert!(
                [202, 429].map(Value::from).contains(&answer["status"]),
                "{answer}"
            );
        }
    });
    let peak = service.rss_peak_kib();
    println!("never reading: {before} KiB, at most {peak} KiB");
    assert!(peak < before + (256 + 128) * 1024, "{before} to {peak} KiB");
    service.wait_until_no_memory_is_held();
    service.assert_serves("after");
}

#[test]
fn strangers_that_never_read_take_little_memory_each() {
    let service = Framed::start(&format!(
        "auth: {{ keys: [ {{ name: shop, sha256: {} }} ] }}",
        sha256("shop-key")
    ));
    let frames_sent = frame("{}").repeat(1000);
    // Each sends until nothing more is taken from it, and reads nothing.
    let strangers = |count| -> Vec<_> {
        let one = |_| {
            let mut stranger = service.frames();
            let stream = stranger.stream();
            let stall = Some(Duration::from_millis(50));
            stream.set_write_timeout(stall).unwrap();
            while stream.write_all(&frames_sent).is_ok() {}
            stranger
        };
        (0..count).map(one).collect()
    };
    let _first = strangers(20);
    let before = service.rss_kib();
    let _more = strangers(100);
    let after = service.rss_kib();
    println!("100 strangers: {before} KiB became {after} KiB");
    assert!(after < before + 100 * 64, "{before} KiB became {after} KiB");
    // Who reads and shows its key is served.
    let mut known = service.frames();
    assert_eq!(known.ask(r#"{"key":"shop-key"}"#).unwrap()["status"], 200);
    assert_eq!(known.ask(event("a")).unwrap()["status"], 202);
}

#[test]
fn half_a_frame_and_gone_leaves_nothing_behind() {
    let service = Framed::start("");
    let whole = frame(event("half"));
    for cut in 1..whole.len() {
        service.frames().send_raw(&whole[..cut]).unwrap();
    }
    service.wait_until_no_memory_is_held();
    service.assert_serves("whole");
    eventually(SOON, "their connections are gone", || {
        metric(&service, "ingestion_connections") <= 1.0
    });
    settle(&service);
    assert_eq!(stored(&service).into_keys().collect::<Vec<_>>(), ["whole"]);
}

/// Sends frames of ten events, 32 of them under way at a time, until the connection breaks.
fn send_until_broken(address: &str, name: &str) -> Tally {
    let mut tally = Tally::default();
    let Ok(mut frames) = FrameConnection::open(address) else {
        return tally;
    };
    let mut waiting = std::collections::VecDeque::new();
    for n in 0_u64.. {
        let ids: Vec<_> = (0..10).map(|m| format!("{name}-{n}-{m}")).collect();
        let sent = frames.send(events(&ids));
        waiting.push_back(ids);
        if sent.is_err() {
            break;
        }
        if waiting.len() < 32 {
            continue;
        }
        let Ok(answer) = frames.answer() else { break };
        let status = u16::try_from(answer["status"].as_u64().unwrap()).unwrap();
        *tally.statuses.entry(status).or_insert(0) += 1;
        let ids = waiting.pop_front().unwrap();
        if status == 202 {
            tally.acknowledged.extend(ids);
        }
    }
    // Answers may have come before the end.
    while let Some(ids) = waiting.pop_front() {
        match frames.answer() {
            Ok(answer) if answer["status"] == 202 => tally.acknowledged.extend(ids),
            Ok(_) => {}
            Err(_) => tally.unknown.extend(ids),
        }
    }
    tally
}

#[test]
fn kills_under_load_lose_nothing_that_was_acknowledged() {
    let mut framed = Framed::start("");
    let mut all = Tally::default();
    for round in 0..5 {
        let address = framed.address.clone();
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (address, name) = (address.clone(), format!("{round}-{client}"));
                std::thread::spawn(move || send_until_broken(&address, &name))
            })
            .collect();
        let before = framed.get("/ledger").json()["accepted"].as_u64().unwrap();
        eventually(SOON, "events are accepted", || {
            framed.get("/ledger").json()["accepted"].as_u64() > Some(before + 500)
        });
        framed.service.kill();
        for client in clients {
            all.add(client.join().unwrap());
        }
        framed.service.restart();
    }
    println!(
        "{} acknowledged, {} unknown",
        all.acknowledged.len(),
        all.unknown.len()
    );
    assert!(all.acknowledged.len() > 1000);
    assert_eq!(all.statuses.keys().collect::<Vec<_>>(), [&202]);
    all.assert_kept(&framed);
}
