//! What can be asked: counts, rates, stored events page by page and as a stream, status, health and metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use support::{SOON, TS, assert_answer, error, event, service, settle, start};
use telemetryx_testkit::{Service, eventually};

fn get(service: &Service, path: &str) -> Value {
    service.get(path).expect_status(200).json()
}

/// Posts this text as events and waits until routes have them.
#[track_caller]
fn given(service: &Service, body: &str) {
    service.post_json("/ingest", body).expect_status(202);
    settle(service);
}

fn ids(page: &Value) -> Vec<&str> {
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_str().unwrap())
        .collect()
}

#[test]
fn stats_tell_sources_apart_by_number_and_by_name() {
    let service = start("");
    assert_eq!(
        get(&service, "/stats"),
        json!({"sources_count": 0, "events_count": 0})
    );
    given(
        &service,
        r#"[{"ts":"2026-01-02T00:00:00Z","type":"Heartbeat","source":123},
            {"ts":"2026-01-01T00:00:00+02:00","type":"Login","sourceId":123},
            {"ts":"2026-01-03T00:00:00.5Z","event_type":"Heartbeat","source_id":123},
            {"ts":1767225600,"source":"a b/ü"},
            {"ts":1767225600,"source":18446744073709551615}]"#,
    );
    assert_eq!(
        get(&service, "/stats"),
        json!({"sources_count": 3, "events_count": 5})
    );
    assert_eq!(
        get(&service, "/stats/123"),
        json!({
            "source_id": 123, "total_events": 3, "first_event": "2025-12-31T22:00:00Z",
            "last_event": "2026-01-03T00:00:00.500Z", "event_types": {"Heartbeat": 2, "Login": 1},
        })
    );
    assert_eq!(
        get(&service, "/stats/a%20b%2F%C3%BC"),
        json!({
            "source_id": "a b/ü", "total_events": 1, "first_event": TS, "last_event": TS, "event_types": {"event": 1},
        })
    );
    assert_eq!(
        get(&service, "/stats/18446744073709551615")["source_id"],
        u64::MAX
    );
    assert_answer(
        &service.get("/stats/nobody"),
        404,
        error("not_found", "no event of the source `nobody` was seen"),
    );
    assert_answer(
        &service.get("/stats/%FF"),
        400,
        error("invalid_path", "the path is not UTF-8 once percent-decoded"),
    );
}

#[test]
fn rates_count_by_minute_of_acceptance_oldest_first_with_gaps_as_zero() {
    let service = start("");
    given(
        &service,
        r#"[{"ts":"2020-01-01T00:00:00Z","type":"a"},{"ts":1767225600,"type":"a"},{"ts":1767225600,"type":"b"}]"#,
    );
    let answer = get(&service, "/stats/rates?window=5m");
    let rates = answer["rates"].as_array().unwrap();
    assert_eq!((&answer["window"], rates.len()), (&json!("5m"), 5));
    let minutes: Vec<_> = rates
        .iter()
        .map(|rate| rate["minute"].as_str().unwrap())
        .collect();
    assert!(
        minutes.is_sorted() && minutes.iter().all(|minute| minute.ends_with(":00Z")),
        "{minutes:?}"
    );
    // Now, or in the minute before if one has just ended.
    let total: u64 = rates
        .iter()
        .map(|rate| rate["events"].as_u64().unwrap())
        .sum();
    assert_eq!((total, &rates[0]["events"]), (3, &json!(0)));
    let only = get(&service, "/stats/rates?type=a&window=2m");
    let total: u64 = only["rates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rate| rate["events"].as_u64().unwrap())
        .sum();
    assert_eq!(total, 2);
    assert_eq!(
        get(&service, "/stats/rates")["rates"]
            .as_array()
            .unwrap()
            .len(),
        60
    );
    let message = "`window` must be a duration such as `60m`, at most 1440m";
    for window in ["x", "0s", "1441m", "-1m", ""] {
        assert_answer(
            &service.get(&format!("/stats/rates?window={window}")),
            400,
            error("invalid_parameter", message),
        );
    }
}

#[test]
fn events_are_filtered_by_time_type_and_source() {
    let service = start("");
    given(
        &service,
        r#"[{"id":"1","ts":"2026-01-01T00:00:00Z","type":"a","source":"x"},
            {"id":"2","ts":"2026-01-02T00:00:00Z","type":"b","source":7},
            {"id":"3","ts":"2026-01-03T00:00:00Z","type":"a","source":"7"},
            {"id":"4","ts":"2026-01-04T00:00:00Z","type":"b","source":"x' OR 1=1 --"}]"#,
    );
    for (query, expected) in [
        ("", vec!["4", "3", "2", "1"]),
        ("?type=a", vec!["3", "1"]),
        ("?type=nothing", vec![]),
        ("?source=x", vec!["1"]),
        ("?source=7", vec!["3", "2"]),
        ("?source=x%27%20OR%201%3D1%20--", vec!["4"]),
        ("?from=2026-01-02T00:00:00Z", vec!["4", "3", "2"]),
        ("?to=2026-01-02T00:00:00Z", vec!["1"]),
        (
            "?from=2026-01-02T00:00:00Z&to=2026-01-04T00:00:00Z&type=a",
            vec!["3"],
        ),
        ("?from=1767312000", vec!["4", "3", "2"]),
        ("?limit=2", vec!["4", "3"]),
    ] {
        let page = get(&service, &format!("/events{query}"));
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!(page["next"].is_null(), query != "?limit=2", "{query}");
    }
}

#[test]
fn bad_parameters_of_events_are_400_and_named() {
    let service = start("");
    let limit = "`limit` must be a number from 1 to 10000";
    for (query, message) in [
        ("limit=0", limit),
        ("limit=10001", limit),
        ("limit=-1", limit),
        ("limit=ten", limit),
        (
            "cursor=zz",
            "`cursor` must be the `next` of the page before",
        ),
        (
            "from=then",
            "`from` must be an RFC 3339 time or an epoch number",
        ),
        ("to=", "`to` must be an RFC 3339 time or an epoch number"),
        (
            "foo=1",
            "`foo` must be left out: it is not one of from, to, type, source, limit, cursor",
        ),
    ] {
        assert_answer(
            &service.get(&format!("/events?{query}")),
            400,
            error("invalid_parameter", message),
        );
    }
}

#[test]
fn pages_over_equal_timestamps_show_each_event_once() {
    let service = start("");
    let body: Vec<_> = (0..300)
        .map(|n| format!(r#"{{"id":"{n}","ts":"2026-01-0{}T00:00:00Z"}}"#, 1 + n % 2))
        .collect();
    given(&service, &format!("[{}]", body.join(",")));
    for limit in [1, 7, 150, 299, 300, 301] {
        let (mut seen, mut times, mut next) = (HashSet::new(), Vec::new(), String::new());
        let mut pages = 0;
        loop {
            let page = get(&service, &format!("/events?limit={limit}{next}"));
            pages += 1;
            for event in page["events"].as_array().unwrap() {
                assert!(
                    seen.insert(event["id"].as_str().unwrap().to_owned()),
                    "twice: {event}"
                );
                times.push(event["ts"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(cursor) => next = format!("&cursor={cursor}"),
                None => break,
            }
            // What comes in between, newer than the cursor, moves nothing.
            if pages == 1 {
                given(
                    &service,
                    &event(&format!("later-{limit}")).replace(TS, "2026-02-01T00:00:00Z"),
                );
            }
        }
        let old = seen.iter().filter(|id| !id.starts_with("later")).count();
        assert_eq!((old, pages >= 300 / limit), (300, true), "limit {limit}");
        assert!(times.is_sorted_by(|a, b| a >= b), "newest first");
    }
}

#[test]
fn stream_to_a_slow_reader_takes_bounded_memory_and_shows_all() {
    let service = start("");
    let payload = "x".repeat(1000);
    for batch in 0..20 {
        let events: Vec<_> = (0..1000)
            .map(|n| {
                format!(
                    r#"{{"id":"{}","ts":"{TS}","payload":"{payload}"}}"#,
                    batch * 1000 + n
                )
            })
            .collect();
        service
            .post_json("/ingest", format!("[{}]", events.join(",")))
            .expect_status(202);
    }
    settle(&service);
    let before = service.rss_kib();
    let mut connection = service.connect();
    connection
        .send_raw(
            b"GET /events HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n",
        )
        .unwrap();
    // While the reader does not read, the service does not read ahead; it answers others.
    let mut largest = before;
    let stalled = std::time::Instant::now();
    eventually(SOON, "the reader is slow", || {
        assert_eq!(get(&service, "/stats")["events_count"], 20_000);
        largest = largest.max(service.rss_kib());
        stalled.elapsed() > Duration::from_millis(300)
    });
    let answer = connection.read_response().unwrap().expect_status(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    largest = largest.max(service.rss_kib());
    println!("20 MB streamed: {before} KiB before, at most {largest} KiB");
    assert!(
        largest < before + 16 * 1024,
        "{before} KiB became {largest} KiB"
    );
    let shown: HashSet<_> = answer
        .ndjson()
        .iter()
        .map(|event| event["id"].to_string())
        .collect();
    assert_eq!(
        (shown.len(), answer.text().lines().count()),
        (20_000, 20_000)
    );

    let headers = [("accept", "application/x-ndjson")];
    let some = service.request("GET", "/events?limit=1234", &headers, b"");
    assert_eq!(some.ndjson().len(), 1234);
    // A reader that goes away in the middle harms nobody.
    let mut gone = service.connect();
    gone.send_raw(
        b"GET /events HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n",
    )
    .unwrap();
    drop(gone);
    service.get("/healthz").expect_status(200);
}

#[test]
fn status_and_health_tell_how_each_part_is() {
    let service = start("");
    given(&service, &event("a"));
    let mut status = get(&service, "/status");
    let journal = status["journal"].clone();
    for (field, value) in [
        ("engine", json!("embedded")),
        ("state", json!("ok")),
        ("start_offset", json!(0)),
        ("end_offset", json!(1)),
    ] {
        assert_eq!(journal[field], value, "{journal}");
    }
    assert!(journal["segments"].as_u64() >= Some(1) && journal["bytes"].as_u64() > Some(0));
    assert!(status["version"].is_string() && status["uptime_seconds"].is_u64());
    for route in ["stats", "store"] {
        let route = status["routes"][route].take();
        assert_eq!(
            (&route["cursor"], &route["lag_events"]),
            (&json!(1), &json!(0)),
            "{route}"
        );
        assert_eq!(
            (&route["lag_seconds"], &route["health"]["state"]),
            (&json!(0.0), &json!("up"))
        );
        assert_eq!(route["health"]["breaker_open"], false);
    }
    let health = get(&service, "/health");
    assert_eq!(
        (&health["status"], &health["journal"]["state"]),
        (&json!("healthy"), &json!("ok"))
    );
    for route in ["stats", "store"] {
        assert_eq!(health["routes"][route]["state"], "up");
        assert!(
            health["routes"][route]["since"]
                .as_str()
                .unwrap()
                .ends_with('Z'),
            "{health}"
        );
    }
    assert_eq!(service.get("/healthz").text(), "OK");
    let head = service.connect().request("HEAD", "/healthz", &[], b"");
    // (A HEAD has no body; the connection cannot be used for more with this client.)
    drop(head);
}

/// Prometheus' text form: each sample has a HELP and a TYPE, and a value. Gives the number of samples by family.
#[track_caller]
fn families(text: &str) -> HashMap<String, usize> {
    let mut helped = HashSet::new();
    let mut typed = HashMap::new();
    let mut samples = HashMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 10 && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(
                typed.insert(name.to_owned(), kind.to_owned()).is_none(),
                "twice: {line}"
            );
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
            assert!(
                labels.ends_with('}') && labels.matches('"').count().is_multiple_of(2),
                "{line}"
            );
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| {
                    name.strip_suffix(end)
                        .filter(|name| typed.contains_key(*name))
                })
                .unwrap_or(name);
            assert!(
                helped.contains(family) && typed.contains_key(family),
                "no HELP or TYPE before {line}"
            );
            *samples.entry(family.to_owned()).or_insert(0) += 1;
        }
    }
    samples
}

#[test]
fn every_metric_of_the_contract_is_there_with_a_help_text() {
    let service = service()
        .config("processing: { plugins: [ { name: Enrich, attributes: { site: north } } ] }")
        .start();
    given(&service, &format!("[{},{{}}]", event("a")));
    service.post_json("/ingest", "{").expect_status(400);
    let answer = service.get("/metrics").expect_status(200);
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let families = families(answer.text());
    for name in [
        "ingestion_requests_total",
        "ingestion_requests_errors_total",
        "ingestion_queue_depth",
        "ingestion_processing_latency_seconds",
        "ingestion_dropped_total",
        "telemetron_http_requests_total",
        "telemetron_http_requests_duration_seconds",
        "telemetron_processor_plugin_errors_total",
        "telemetron_processor_plugin_duration_seconds",
        "telemetron_events_processed_total",
        "ingestion_events_total",
        "ingestion_bytes_total",
        "journal_append_seconds",
        "journal_fsync_seconds",
        "journal_batch_events",
        "journal_bytes",
        "data_dir_free_bytes",
        "data_dir_size_bytes",
        "route_lag_events",
        "route_lag_seconds",
        "route_delivered_events_total",
        "ledger_difference",
        "route_retries_total",
        "route_breaker_open",
        "dead_letters_total",
    ] {
        assert!(
            families.contains_key(name),
            "`{name}` is missing; there are {:?}",
            families.keys()
        );
    }
    for sample in [
        "ingestion_requests_total 2",
        "ingestion_requests_errors_total 1",
        r#"ingestion_events_total{protocol="http",outcome="accepted"} 1"#,
        r#"ingestion_events_total{protocol="http",outcome="refused"} 1"#,
        r#"telemetron_http_requests_total{endpoint="/ingest"} 2"#,
        r#"telemetron_http_requests_duration_seconds_count{endpoint="/ingest",status="202"} 1"#,
        r#"telemetron_processor_plugin_errors_total{plugin="Enrich"} 0"#,
        r#"route_delivered_events_total{route="store"} 1"#,
        r#"route_lag_events{route="stats"} 0"#,
        r#"ledger_difference{route="store"} 0"#,
        r#"dead_letters_total{route="",stage="validation",code="missing_field"} 1"#,
    ] {
        assert!(
            answer.text().contains(&format!("\n{sample}\n")),
            "`{sample}` is not in\n{}",
            answer.text()
        );
    }
    assert!(answer.body.len() < 100_000, "{} bytes", answer.body.len());
    // What clients send makes no new labels.
    service.get("/no/such/path/of/mine");
    service
        .post_json(
            "/ingest",
            r#"{"ts":1767225600,"type":"oddtype","source":"oddsource"}"#,
        )
        .expect_status(202);
    let text = service.get("/metrics").text().to_owned();
    assert!(!text.contains("odd") && !text.contains("no/such"));
}

#[test]
fn page_of_large_events_ends_early_and_the_next_ones_have_the_rest() {
    let service = start("");
    let payload = "x".repeat(900_000);
    for n in 0..20 {
        let event =
            format!(r#"{{"id":"large-{n}","ts":"2026-01-01T00:00:00Z","payload":"{payload}"}}"#);
        service.post_json("/ingest", event).expect_status(202);
    }
    settle(&service);
    let (mut ids, mut next, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let answer = service
            .get(&format!("/events?limit=10000{next}"))
            .expect_status(200);
        assert!(
            answer.body.len() < 10 << 20,
            "a page of {} bytes",
            answer.body.len()
        );
        let page = answer.json();
        let events = page["events"].as_array().unwrap();
        ids.extend(
            events
                .iter()
                .map(|event| event["id"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        match page["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), pages > 1), (20, true));
}
