//! The guards in front of every protocol, each driven to its edge over real HTTP: keys with rates of their own, rate
//! limits, the overflow policies; and what each counts agrees, to the event, with what the clients were told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use support::webhooks::{KEY, RING, motion, ring};
use support::{
    DEAD_ROUTE, SOON, TS, accepted, assert_answer, assert_books_balance, error, event, events,
    log_line, metric, retry_after, service, settle, sha256, start, stored,
};
use telemetryx_testkit::{Connection, Response, Service, eventually};

/// The three headers that say what a client may still send: limit, remaining, reset.
#[track_caller]
fn allowance(answer: &Response) -> [u64; 3] {
    ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"].map(|name| {
        let value = answer.header(name);
        let value = value.unwrap_or_else(|| panic!("{} has no {name}", answer.status));
        value.parse().expect("it is a whole number")
    })
}

/// A client with an address of its own.
fn from(last: u8, service: &Service) -> Connection {
    let local = Ipv4Addr::new(127, 0, 7, last);
    Connection::open_from(local, &service.address()).expect("the service takes connections")
}

fn post(connection: &mut Connection, body: impl AsRef<[u8]>) -> Response {
    connection
        .request("POST", "/ingest", &[], body.as_ref())
        .expect("it is answered")
}

/// Events of this source and type, without ids.
fn events_of(source: &str, event_type: &str, count: usize) -> String {
    let one = format!(r#"{{"ts":"{TS}","source":"{source}","type":"{event_type}"}}"#);
    format!("[{}]", vec![one; count].join(","))
}

#[test]
fn each_address_has_a_bucket_of_its_own_and_hears_what_is_left_in_it() {
    let service = start("admission: { rate_limit: { enabled: true, rps: 0.01, burst: 3 } }");
    let (mut one, mut two) = (from(1, &service), from(2, &service));
    for left in [2, 1] {
        let answer = post(&mut one, event("a"));
        assert_eq!(answer.status, 202);
        assert_eq!(allowance(&answer), [3, left, (3 - left) * 100]);
    }
    // What cannot be read takes a token as well.
    let answer = post(&mut one, "{");
    assert_eq!((answer.status, allowance(&answer)), (400, [3, 0, 300]));
    for _ in 0..2 {
        let answer = post(&mut one, event("b"));
        let message = error("rate_limited", "the rate limit is spent");
        assert_answer(&answer, 429, message);
        let [limit, left, reset] = allowance(&answer);
        assert_eq!((limit, left), (3, 0));
        assert!((90..=100).contains(&reset), "{reset}");
        assert_eq!(reset, retry_after(&answer));
    }
    // Another connection is no way around it, another address is another client, and to ask takes nothing.
    assert_eq!(post(&mut from(1, &service), event("b")).status, 429);
    let answer = post(&mut two, event("c"));
    assert_eq!((answer.status, allowance(&answer)), (202, [3, 2, 100]));
    let asked = one.request("GET", "/stats", &[], b"").unwrap();
    assert_eq!((asked.status, asked.header("ratelimit-limit")), (200, None));
    assert_eq!(assert_books_balance(&service)["door"]["rate_limited"], 3);
    assert_eq!(service.get("/status").json()["rate_limit"]["buckets"], 2);
}

#[test]
fn keys_that_are_not_known_take_tokens_of_their_address_and_of_nobody_else() {
    let config = |per: &str| {
        format!(
            "auth: {{ keys: [ {{ name: shop, sha256: {} }} ] }}
admission: {{ rate_limit: {{ enabled: true, per: {per}, rps: 0.01, burst: 3 }} }}",
            sha256("right")
        )
    };
    let post = |connection: &mut Connection, key| {
        let key: Option<(&str, &str)> = key;
        let body = event("a");
        let answer = connection.request("POST", "/ingest", key.as_slice(), body.as_bytes());
        answer.expect("it is answered")
    };
    let (right, wrong) = (Some(("x-api-key", "right")), Some(("x-api-key", "wrong")));
    let service = start(&config("source_ip"));
    let mut guessing = from(1, &service);
    for (key, left) in [(wrong, 2), (None, 1), (wrong, 0)] {
        let answer = post(&mut guessing, key);
        assert_eq!(answer.status, 401);
        assert_eq!(allowance(&answer)[..2], [3, left]);
    }
    // Whether a key is right is not said any more.
    for key in [wrong, None, right] {
        let answer = post(&mut guessing, key);
        assert_eq!(answer.status, 429);
        retry_after(&answer);
    }
    assert_eq!(post(&mut from(2, &service), right).status, 202);
    for per in ["all", "key", "source"] {
        let service = start(&config(per));
        for _ in 0..5 {
            assert_eq!(post(&mut from(1, &service), wrong).status, 401, "{per}");
        }
        let answer = post(&mut from(1, &service), right);
        assert_eq!((answer.status, allowance(&answer)[1]), (202, 2), "{per}");
    }
}

#[test]
fn headers_on_which_it_depends_who_sends_or_what_is_stored_are_there_once() {
    let service = start("");
    for name in ["X-Api-Key", "Authorization", "Idempotency-Key"] {
        for values in [["Bearer a", "Bearer a"], ["Bearer a", "Bearer b"]] {
            let headers = values.map(|value| (name, value));
            let body = event("a");
            let answer = service.request("POST", "/ingest", &headers, body.as_bytes());
            let message = format!("the header `{name}` is there twice: send it once");
            assert_answer(&answer, 400, error("duplicate_header", &message));
            let once = service.request("POST", "/ingest", &headers[..1], body.as_bytes());
            assert_answer(&once, 202, accepted(1));
        }
    }
}

#[test]
fn who_does_not_sign_spends_nothing_of_what_all_senders_share() {
    let service = start(&format!(
        "auth: {{ keys: [ {{ name: web, sha256: {} }} ] }}
{RING}
admission: {{ rate_limit: {{ enabled: true, per: all, rps: 0.01, burst: 4 }} }}",
        sha256("web-key"),
    ));
    // A stranger is limited by its address, with a bucket of the same size.
    let mut stranger = from(1, &service);
    let mut unsigned = |_| {
        stranger
            .request("POST", "/webhooks/ring", &[], b"{}")
            .unwrap()
    };
    let answers: Vec<_> = (0..6).map(|n| unsigned(n).status).collect();
    assert_eq!(answers, [401, 401, 401, 401, 429, 429]);
    // All that are known still share a whole one: keys, and deliveries that are signed.
    let mut known = from(2, &service);
    let mut keyed = || {
        let headers = [("x-api-key", "web-key")];
        known
            .request("POST", "/ingest", &headers, event("a").as_bytes())
            .unwrap()
    };
    let signed = |id: &str| ring(&service, KEY, motion(id));
    let answer = keyed();
    assert_eq!((answer.status, allowance(&answer)[1]), (202, 3));
    let answer = signed("1");
    assert_eq!((answer.status, allowance(&answer)[1]), (202, 2));
    assert_eq!((keyed().status, signed("2").status), (202, 202));
    assert_eq!((keyed().status, signed("3").status), (429, 429));
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["accepted"], 4);
    assert_eq!(ledger["door"]["rate_limited"], 4);
    assert_eq!(ledger["door"]["unsigned"], 4);
}

#[test]
fn a_bucket_refills_at_its_rate_and_never_gives_more() {
    let (rps, burst) = (50.0, 5.0);
    let service = start(&format!(
        "admission: {{ rate_limit: {{ enabled: true, per: all, rps: {rps}, burst: {burst} }} }}"
    ));
    let mut connection = service.connect();
    let (begun, mut taken, mut refused) = (Instant::now(), 0.0, 0);
    while taken < 30.0 {
        assert!(begun.elapsed() < SOON, "it refills");
        match post(&mut connection, event("a")).status {
            202 => taken += 1.0,
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    let most = burst + rps * begun.elapsed().as_secs_f64();
    assert!(taken <= most, "{taken} of {most}");
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["accepted"], 30);
    assert_eq!(ledger["door"]["rate_limited"], refused);
}

#[test]
fn a_key_with_a_rate_is_limited_by_itself_however_it_is_shown() {
    let service = start(&format!(
        "auth: {{ keys: [ {{ name: slow, sha256: {}, source: door, rps: 0.01, burst: 3 }}, {{ name: free, sha256: {} }} ] }}",
        sha256("slow-key"),
        sha256("free-key"),
    ));
    let send = |name: &str, value: &str, source: &str| {
        let body = events_of(source, "login", 1);
        service.request("POST", "/ingest", &[(name, value)], body.as_bytes())
    };
    let answer = send("authorization", "Bearer slow-key", "door");
    assert_eq!((answer.status, allowance(&answer)), (202, [3, 2, 100]));
    // A key that may not send for this source is refused, and that counts as well.
    let answer = send("x-api-key", "slow-key", "window");
    assert_eq!((answer.status, allowance(&answer)), (403, [3, 1, 200]));
    let answer = send("x-api-key", "slow-key", "door");
    assert_eq!((answer.status, allowance(&answer)), (202, [3, 0, 300]));
    for (name, value) in [
        ("x-api-key", "slow-key"),
        ("authorization", "Bearer slow-key"),
    ] {
        let answer = send(name, value, "door");
        assert_eq!((answer.status, allowance(&answer)[0]), (429, 3));
    }
    // The other key has none, and who shows no key takes nothing from anybody.
    for _ in 0..10 {
        let answer = send("x-api-key", "free-key", "window");
        assert_eq!(
            (answer.status, answer.header("ratelimit-limit")),
            (202, None)
        );
        let answer = send("x-api-key", "unknown-key", "window");
        assert_eq!(
            (answer.status, answer.header("ratelimit-limit")),
            (401, None)
        );
    }
    let ledger = assert_books_balance(&service);
    assert_eq!(
        (&ledger["accepted"], &ledger["door"]["rate_limited"]),
        (&json!(12), &json!(2))
    );
    for key in ["slow-key", "free-key", "unknown-key"] {
        assert!(!service.log().contains(key), "{key} is in the log");
    }
}

#[test]
fn of_two_limits_the_client_hears_the_one_that_ends_first() {
    let service = start(&format!(
        "auth: {{ keys: [ {{ name: a, sha256: {}, rps: 0.01, burst: 2 }} ] }}
admission: {{ rate_limit: {{ enabled: true, per: all, rps: 0.01, burst: 4 }} }}",
        sha256("a")
    ));
    let send = || {
        service.request(
            "POST",
            "/ingest",
            &[("x-api-key", "a")],
            event("a").as_bytes(),
        )
    };
    assert_eq!(allowance(&send())[..2], [2, 1]);
    assert_eq!(allowance(&send())[..2], [2, 0]);
    for _ in 0..3 {
        let answer = send();
        assert_eq!(
            (answer.status, &allowance(&answer)[..2]),
            (429, &[2, 0][..])
        );
    }
    // Who is over the own limit takes nothing of what others share: two tokens are left there.
    let mut config = format!(
        "auth: {{ keys: [ {{ name: a, sha256: {}, rps: 0.01, burst: 9 }} ] }}\n",
        sha256("a")
    );
    config.push_str("admission: { rate_limit: { enabled: true, per: key, rps: 0.01, burst: 2 } }");
    let service = start(&config);
    let send = || {
        service.request(
            "POST",
            "/ingest",
            &[("x-api-key", "a")],
            event("a").as_bytes(),
        )
    };
    let statuses = [send(), send(), send()].map(|answer| (answer.status, allowance(&answer)[0]));
    assert_eq!(statuses, [(202, 2), (202, 2), (429, 2)]);
}

#[test]
fn events_over_the_limit_of_their_source_are_refused_by_index_and_are_no_dead_letters() {
    let service =
        start("admission: { rate_limit: { enabled: true, per: source, rps: 0.01, burst: 3 } }");
    let one = |source: &str| format!(r#"{{"ts":"{TS}","source":{source}}}"#);
    let names = [
        r#""a""#, r#""7""#, "7", r#""a""#, "7", "7", r#""a""#, r#""a""#,
    ];
    let body = format!("[{}]", names.map(one).join(","));
    let answer = service.post_json("/ingest", &body);
    assert_eq!(allowance(&answer)[..2], [3, 0]);
    let shown = answer.expect_status(202).json();
    assert_eq!(
        (&shown["accepted"], &shown["rejected"]),
        (&json!(6), &json!(2))
    );
    let errors: Vec<_> = shown["errors"].as_array().unwrap().iter().collect();
    for (error, index) in errors.iter().zip([5, 7]) {
        assert_eq!(
            (&error["index"], &error["field"], &error["code"]),
            (&json!(index), &json!("source"), &json!("rate_limited")),
        );
    }
    let message = errors[1]["message"].as_str().unwrap();
    assert!(
        message.contains("source `a`") && message.contains("send this event again in"),
        "{message}"
    );
    // If none of a body can be taken, it is the body that is to be sent again, invalid events or not.
    let answer = service.post_json("/ingest", format!("[{},{{}}]", one(r#""a""#)));
    let message = error("rate_limited", "the rate limit is spent");
    assert_answer(&answer, 429, message);
    assert!((90..=100).contains(&retry_after(&answer)));
    assert_eq!(service.post_json("/ingest", one(r#""b""#)).status, 202);

    let ledger = assert_books_balance(&service);
    let door = &ledger["door"];
    assert_eq!(
        (&ledger["accepted"], &door["rate_limited"], &door["refused"]),
        (&json!(7), &json!(3), &json!(1))
    );
    let letters = service.get("/dead-letters").json();
    assert_eq!(
        (&letters["count"], &letters["dead_letters"][0]["code"]),
        (&json!(1), &json!("missing_field"))
    );
    let counted = |outcome: &str| {
        metric(
            &service,
            &format!(r#"ingestion_events_total{{protocol="http",outcome="{outcome}"}}"#),
        )
    };
    assert_eq!(
        ["accepted", "rate_limited", "refused"].map(counted),
        [7.0, 3.0, 1.0]
    );
}

/// A million sources, none of which comes twice: what is kept of them stays within its bound, who was there before keeps a
/// bucket of its own, and every event is in the books.
#[test]
fn a_million_sources_take_bounded_memory() {
    // No route keeps anything of them, so that what grows is the limiter.
    let service = start(
        "admission: { rate_limit: { enabled: true, per: source, rps: 0.001, burst: 2 } }
routes: [ { name: none, sink: { kind: sqlite }, filter: { types: [none] } } ]",
    );
    let mut connection = service.connect();
    assert_eq!(
        post(&mut connection, events_of("before", "x", 1)).status,
        202
    );
    let rest: Vec<_> = (0..20_000)
        .map(|n| format!(r#"{{"ts":"{TS}","source":"{n}"}}"#))
        .collect();
    // What a body of this size takes anyway is taken before.
    let mut sent = 20_001;
    assert_eq!(
        post(&mut connection, format!("[{}]", rest.join(","))).status,
        202
    );
    let before = service.rss_kib();
    for batch in 1..50 {
        let many: Vec<_> = (0..20_000)
            .map(|n| format!(r#"{{"ts":"{TS}","source":"{}"}}"#, batch * 20_000 + n))
            .collect();
        sent += many.len();
        let status = post(&mut connection, format!("[{}]", many.join(","))).status;
        assert!([202, 429].contains(&status), "{status}");
    }
    let grown = service.rss_kib().saturating_sub(before);
    let held = service.get("/status").json()["rate_limit"].clone();
    assert!(held["buckets"].as_u64().unwrap() <= 114_688, "{held}");
    assert!(held["bytes"].as_u64().unwrap() < 4 << 20, "{held}");
    assert!(grown < 64 << 10, "{grown} KiB more than before the flood");
    let statuses = [(); 2].map(|()| post(&mut connection, events_of("before", "x", 1)).status);
    assert_eq!(statuses, [202, 429], "its bucket held two");
    let ledger = assert_books_balance(&service);
    let limited = ledger["door"]["rate_limited"].as_u64().unwrap();
    assert_eq!(
        ledger["accepted"].as_u64().unwrap() + limited,
        sent as u64 + 2
    );
    assert!(limited > 500_000, "the flood was limited: {limited}");
}

#[test]
fn repeated_refusals_are_counted_in_the_log_not_repeated() {
    let service =
        start("admission: { rate_limit: { enabled: true, per: all, rps: 0.001, burst: 1 } }");
    let (mut connection, begun) = (service.connect(), Instant::now());
    assert_eq!(post(&mut connection, event("a")).status, 202);
    for _ in 0..500 {
        assert_eq!(post(&mut connection, event("a")).status, 429);
    }
    let shown = service.get("/status").json()["overload"]["rate_limited"].clone();
    assert_eq!(
        (&shown["reason"], &shown["count"]),
        (&json!("limit_exceeded"), &json!(500))
    );
    assert!(shown["last"].as_str().unwrap() > "2026", "{shown}");
    let first = log_line(&service, "rate_limited");
    assert_eq!(
        (&first["reason"], &first["count"]),
        (&json!("limit_exceeded"), &json!(1))
    );
    let log = service.log();
    let counts: Vec<u64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["event"] == "rate_limited")
        .map(|line| line["count"].as_u64().unwrap())
        .collect();
    assert!(
        counts.len() as u64 <= 1 + begun.elapsed().as_secs(),
        "{counts:?}"
    );
    assert!(counts.iter().sum::<u64>() <= 500, "{counts:?}");
}

#[test]
fn a_backlog_is_limited_in_events_and_in_bytes_and_each_policy_does_what_it_says() {
    let large = format!(r#"{{"ts":"{TS}","payload":"{}"}}"#, "x".repeat(600 << 10));
    for (limit, body) in [
        ("max_backlog_events: 2", event("a")),
        ("max_backlog_bytes: 1MiB", large),
    ] {
        for (policy, status, log) in [
            (
                "policy: reject",
                429,
                ("queue_saturated", "queue_full_reject"),
            ),
            (
                "policy: drop",
                202,
                ("load_shedding", "queue_full_drop_or_sample"),
            ),
            (
                "policy: sample, sample_rate: 0",
                202,
                ("load_shedding", "queue_full_drop_or_sample"),
            ),
        ] {
            let service = start(&format!(
                "admission: {{ overflow: {{ {policy}, {limit} }} }}\n{DEAD_ROUTE}"
            ));
            // Up to its limit, and beyond it by the request that reaches it.
            for _ in 0..2 {
                assert_answer(&service.post_json("/ingest", &body), 202, accepted(1));
            }
            for _ in 0..3 {
                let answer = service.post_json("/ingest", &body);
                assert_eq!(answer.status, status);
                match status {
                    429 => assert_eq!(retry_after(&answer), 1),
                    _ => assert_eq!(answer.json()["durability"], "shed"),
                }
            }
            let ledger = assert_books_balance(&service);
            let (rejected, shed) = if status == 429 { (3, 0) } else { (0, 3) };
            assert_eq!(ledger["accepted"], 2, "{limit} {policy}");
            assert_eq!(
                ledger["door"],
                json!({"refused": 0, "rate_limited": 0, "overloaded": rejected, "shed": shed, "unsigned": 0})
            );
            assert_eq!(log_line(&service, log.0)["reason"], log.1);
            let shown = service.get("/status").json();
            let counted = &shown["overload"][log.0];
            assert_eq!(
                (&counted["reason"], &counted["count"]),
                (&json!(log.1), &json!(3))
            );
            assert_eq!(shown["shed"]["events"], shed);
            assert_eq!(metric(&service, "ingestion_dropped_total") as u64, shed);
        }
    }
}

#[test]
fn what_a_sample_keeps_says_its_rate_and_adds_up_again() {
    let config =
        "admission: { overflow: { policy: sample, sample_rate: 0.25, max_backlog_events: 3 } }\n";
    let mut service = start(&format!("{config}{DEAD_ROUTE}"));
    service
        .post_json("/ingest", events(["a", "b", "c"]))
        .expect_status(202);
    let (mut kept, mut shed) = (0, 0);
    for batch in 0..20 {
        let many: Vec<_> = (0..20)
            .map(|n| {
                let own = if n % 2 == 0 {
                    r#""sample_rate":"0.5""#
                } else {
                    r#""other":"x""#
                };
                format!(r#"{{"id":"{batch}-{n}","ts":"{TS}","attributes":{{{own}}}}}"#)
            })
            .collect();
        let answer = service.post_json("/ingest", format!("[{}]", many.join(",")));
        let answer = answer.expect_status(202).json();
        assert_eq!(
            (&answer["accepted"], &answer["rejected"]),
            (&json!(20), &json!(0))
        );
        let lost = answer["shed"].as_u64().unwrap();
        assert!(
            (14..=16).contains(&lost),
            "three of four, also of a part: {answer}"
        );
        assert_eq!(answer["durability"], "fsynced");
        shed += lost;
        kept += 20 - lost;
    }
    let ledger = assert_books_balance(&service);
    assert_eq!(
        (&ledger["accepted"], &ledger["door"]["shed"]),
        (&json!(kept + 3), &json!(shed))
    );
    assert!((99..=101).contains(&kept), "{kept}");
    // The route comes to life: what it delivers can be scaled up to what was sent.
    service.kill();
    service.set_config(config);
    service.restart();
    settle(&service);
    let headers = [("accept", "application/x-ndjson")];
    let stored = service
        .request("GET", "/events?limit=1000", &headers, b"")
        .expect_status(200)
        .ndjson();
    let mut sums = BTreeMap::new();
    for event in &stored {
        let rate = &event["attributes"]["sample_rate"];
        *sums
            .entry(rate.as_str().unwrap_or_default().to_owned())
            .or_insert(0) += 1;
    }
    assert_eq!(
        sums.remove(""),
        Some(3),
        "what came while there was room says nothing"
    );
    assert_eq!(sums.keys().collect::<Vec<_>>(), ["0.125", "0.25"]);
    assert_eq!(sums.values().sum::<u64>(), kept);
    assert!(sums["0.25"].abs_diff(50) <= 2, "{sums:?}");
}

/// The names of the hardening text, as they stand and with `OTEL_` before them.
#[test]
fn the_inherited_variables_turn_on_each_guard() {
    for prefix in ["", "OTEL_"] {
        let with = |variables: &[(&str, &str)]| {
            let named = variables
                .iter()
                .fold(service().config(DEAD_ROUTE), |service, (name, value)| {
                    service.env(&format!("{prefix}{name}"), value)
                });
            named.start()
        };
        let limited = with(&[
            ("ENABLE_RATE_LIMITING", "true"),
            ("RATE_LIMIT_RPS", "0.01"),
            ("RATE_LIMIT_BURST", "2"),
        ]);
        let statuses = [(); 3].map(|()| limited.post_json("/ingest", event("a")).status);
        assert_eq!(statuses, [202, 202, 429]);
        let default = with(&[("ENABLE_RATE_LIMITING", "true")]);
        let answer = default.post_json("/ingest", event("a"));
        assert_eq!(
            allowance(&answer),
            [200, 199, 1],
            "100 a second, 200 at once"
        );

        for (policy, status) in [("reject", 429), ("DROP", 202), ("sample", 202)] {
            let full = with(&[
                ("STAGING_MAX_BACKLOG", "1"),
                ("OVERFLOW_POLICY", policy),
                ("OVERFLOW_SAMPLE_RATE", "0.0"),
            ]);
            full.post_json("/ingest", event("a")).expect_status(202);
            full.post_json("/ingest", event("b")).expect_status(status);
            let ledger = full.get("/ledger").json();
            assert_eq!(
                (&ledger["accepted"], &ledger["door"]["shed"]),
                (&json!(1), &json!(i32::from(status == 202)))
            );
        }
    }
}

/// What the answers to one client said, to compare with the books.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Told {
    /// Events of a 202.
    accepted: u64,
    /// Those of them that were dropped.
    shed: u64,
    /// Events refused as invalid.
    refused: u64,
    /// Requests of one event refused by a rate limit.
    limited: u64,
    /// Requests refused for the backlog.
    overloaded: u64,
    /// Events sent, and no answer came.
    unknown: u64,
}

impl Told {
    fn hear(&mut self, answer: &Response) {
        let body = answer.json();
        let number = |name: &str| body[name].as_u64().unwrap_or_default();
        match (answer.status, body["error"]["code"].as_str()) {
            (202, _) => {
                self.accepted += number("accepted");
                self.refused += number("rejected");
                self.shed += match body["durability"].as_str() {
                    Some("shed") => number("accepted"),
                    _ => number("shed"),
                };
            }
            (429, Some("rate_limited")) => self.limited += 1,
            (429, Some("backlog_full" | "queue_full")) => self.overloaded += 1,
            other => panic!("{other:?}: {body}"),
        }
    }

    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.shed += other.shed;
        self.refused += other.refused;
        self.limited += other.limited;
        self.overloaded += other.overloaded;
        self.unknown += other.unknown;
    }

    /// The door's books, if they know of nothing else.
    fn door(&self) -> Value {
        json!({
            "refused": self.refused, "rate_limited": self.limited,
            "overloaded": self.overloaded, "shed": self.shed, "unsigned": 0,
        })
    }

    /// Every answer is in the books, and nothing else.
    #[track_caller]
    fn assert_is(&self, service: &Service) {
        let ledger = assert_books_balance(service);
        assert_eq!(ledger["accepted"], self.accepted - self.shed, "{self:?}");
        assert_eq!(ledger["door"], self.door());
    }
}

/// Three good events and a bad one, from each of eight addresses, as fast as they are answered, until `enough` requests
/// were answered or it is told to stop.
fn storm(service: &Service, stop: &AtomicBool, answered: &AtomicU64, enough: u64) -> Vec<Told> {
    std::thread::scope(|threads| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                threads.spawn(move || {
                    let (mut told, mut connection) = (Told::default(), from(client, service));
                    let good = events_of(&format!("source-{client}"), "login", 3);
                    let body = good.replace(']', ",{}]");
                    while !stop.load(Ordering::Relaxed) && answered.load(Ordering::Relaxed) < enough
                    {
                        match connection.request("POST", "/ingest", &[], body.as_bytes()) {
                            Ok(answer) => told.hear(&answer),
                            Err(_) => {
                                told.unknown += 3;
                                break;
                            }
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    told
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    })
}

/// The door's books on the disk.
fn saved_door(service: &Service) -> Value {
    let path = service.data_dir().join("control.db");
    let read = || -> rusqlite::Result<String> {
        rusqlite::Connection::open(path)?.query_row(
            "SELECT totals FROM door WHERE id = 1",
            [],
            |row| row.get(0),
        )
    };
    let saved: Value = read()
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let names = ["refused", "rate_limited", "overloaded", "shed", "unsigned"];
    names
        .map(|name| (name.to_owned(), saved[name].clone()))
        .into_iter()
        .collect()
}

/// Rate limits and a full backlog at once, with each policy, eight clients, some of their events bad: whatever each of
/// them was told is in the books to the event, the same after a kill, and what was promised is delivered.
#[test]
fn in_a_storm_the_books_agree_with_every_answer_also_after_a_kill() {
    for policy in ["reject", "drop", "sample"] {
        let config = format!(
            "admission:
  rate_limit: {{ enabled: true, rps: 100, burst: 40 }}
  overflow: {{ policy: {policy}, sample_rate: 0.3, max_backlog_events: 300 }}\n"
        );
        let mut service = start(&format!("{config}{DEAD_ROUTE}"));
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let each = storm(&service, &stop, &answered, 2000);
        let mut told = Told::default();
        each.iter().for_each(|one| told.add(one));
        assert_eq!(told.unknown, 0);
        assert!(told.limited > 0 && told.refused > 0, "{told:?}");
        assert!(told.overloaded > 0 || told.shed > 0, "{told:?}");
        told.assert_is(&service);

        // By whose they were; each client was one source.
        let shed = service.get("/status").json()["shed"].clone();
        let by_source: BTreeMap<_, _> = each
            .iter()
            .enumerate()
            .filter(|(_, one)| one.shed > 0)
            .map(|(client, one)| (format!("source-{client}"), one.shed))
            .collect();
        assert_eq!(
            (&shed["events"], &shed["by_source"]),
            (&json!(told.shed), &json!(by_source))
        );
        if told.shed > 0 {
            assert_eq!(shed["by_type"], json!({"login": told.shed}));
        }

        // The books are saved once a second.
        eventually(SOON, "the door's books are on the disk", || {
            saved_door(&service) == told.door()
        });
        service.kill();
        service.restart();
        told.assert_is(&service);
        assert_eq!(service.get("/status").json()["shed"], shed);

        // Killed in the middle of it: nothing that was promised is gone, and nothing is there that was not sent.
        answered.store(0, Ordering::Relaxed);
        let each = std::thread::scope(|threads| {
            let killer = threads.spawn(|| {
                eventually(SOON, "the storm goes on", || {
                    answered.load(Ordering::Relaxed) > 500
                });
                let pid = rustix::process::Pid::from_raw(service.pid().cast_signed()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            });
            let each = storm(&service, &stop, &answered, u64::MAX);
            killer.join().unwrap();
            each
        });
        each.iter().for_each(|one| told.add(one));
        service.set_config(&config);
        service.restart();
        settle(&service);
        let ledger = assert_books_balance(&service);
        let found = ledger["accepted"].as_u64().unwrap();
        let promised = told.accepted - told.shed;
        assert!(
            (promised..=promised + told.unknown).contains(&found),
            "{found} of {told:?}"
        );
        assert_eq!(stored(&service).len() as u64, found);
        for (name, most) in told.door().as_object().unwrap() {
            // A request that was not answered can have been counted.
            let found = ledger["door"][name].as_u64().unwrap();
            assert!(
                found <= most.as_u64().unwrap() + told.unknown,
                "{name}: {found} of {most}"
            );
        }
    }
}
