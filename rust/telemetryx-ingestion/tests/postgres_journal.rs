//! The journal `postgres` in the real binary, with a real PostgreSQL: requests share commits, the view of the queue tells what
//! became of each row, a full backlog is handled at the door, and what is not needed any more leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Load, assert_books_balance, retry_after, settle};
use telemetryx_testkit::{Postgres, Proxy, Service, ServiceBuilder, eventually};

/// How long something that should come soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(90);
/// The same for the first tables.
const START: Duration = Duration::from_secs(120);
/// Seconds of a longer run, for those who want to see more of it.
const LONG_RUN: &str = "TELEMETRYX_TEST_QUEUE_SECONDS";

fn service(postgres: &Postgres, journal: &str, rest: &str) -> ServiceBuilder {
    let url = postgres.url();
    let config = format!(
        "journal: {{ engine: postgres, postgres: {{ url: '{url}', lease: 3s{journal} }} }}\n\
         otlp: {{ enabled: false }}\nquery: {{ counters_from: , events_from: }}\n{rest}"
    );
    support::service().config(&config)
}

/// A route whose sink is a table in the same server.
fn store(url: &str) -> String {
    format!(
        "{{ name: store, sink: {{ kind: postgres, url: '{url}', timeout: 2s }}, \
         retry: {{ initial: 300ms, max: 600ms }}, breaker: {{ failures: 1000, open_for: 100ms }} }}"
    )
}

/// Once it takes events.
fn started(service: ServiceBuilder) -> Service {
    let service = service.start();
    eventually(START, "it is well", || service.get("/health").status == 200);
    service
}

fn post(service: &Service, ids: impl IntoIterator<Item = impl AsRef<str>>) -> u16 {
    service.post_json("/ingest", support::events(ids)).status
}

fn number(postgres: &Postgres, sql: &str) -> i64 {
    postgres.sql(sql).parse().unwrap()
}

#[test]
fn requests_share_commits_and_each_is_a_row() {
    let postgres = Postgres::start();
    let service = started(service(
        &postgres,
        "",
        "routes: []\nadmission: { overflow: { max_backlog_events: 1000000 } }",
    ));
    let answer = service
        .post_json("/ingest", support::event("first"))
        .expect_status(202);
    assert_eq!(answer.json()["durability"], "committed");
    let load = Load::start(&service, "shared", 24, 1, 20);
    load.wait_for(2000);
    let tally = load.stop();
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    let rows = number(&postgres, "SELECT count(*) FROM telemetryx_journal.queue");
    assert_eq!(rows, tally.acknowledged.len() as i64 + 1);
    // A row knows the transaction that wrote it.
    let commits = number(
        &postgres,
        "SELECT count(DISTINCT xmin::text) FROM telemetryx_journal.queue",
    );
    eprintln!("{rows} requests in {commits} commits");
    assert!(commits * 2 < rows, "{rows} requests in {commits} commits");
    // Offsets have no gaps.
    let apart = "SELECT count(*) FROM (SELECT first_offset - lag(first_offset + events, 1, 0::bigint) \
                 OVER (PARTITION BY partition ORDER BY first_offset) AS gap FROM telemetryx_journal.queue) g WHERE gap <> 0";
    assert_eq!(number(&postgres, apart), 0);
    let health = service.get("/status").json();
    assert_eq!(health["journal"]["engine"], "postgres");
    assert_eq!(health["journal"]["end_offset"], rows);
}

#[test]
fn the_view_tells_what_is_pending_failed_and_complete() {
    let (postgres, sink) = (Postgres::start(), Postgres::start());
    let proxy = Proxy::start(sink.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    proxy.refuse();
    let routes = format!(
        "routes: [ {}, {{ name: lines, sink: {{ kind: file, path: out.ndjson }} }} ]",
        store(&url)
    );
    let service = started(service(&postgres, "", &routes));
    for id in ["a", "b", "c"] {
        assert_eq!(post(&service, [id]), 202);
    }
    let view = |what: &str| {
        postgres.sql(&format!(
            "SELECT {what} FROM telemetryx_journal.ingestion_queue"
        ))
    };
    let count = |status: &str, route: &str| {
        let found = view(&format!(
            "count(*) FILTER (WHERE status = '{status}' AND route = '{route}')"
        ));
        found.parse::<u32>().unwrap()
    };
    eventually(SOON, "one route has them, and the other failed", || {
        count("complete", "lines") == 3 && count("failed", "store") > 0
    });
    eventually(SOON, "it is tried again and again", || {
        view("max(attempts) FILTER (WHERE status = 'failed')")
            .parse::<u32>()
            .unwrap_or(0)
            >= 3
    });
    let told = postgres.sql(
        "SELECT bool_and(next_attempt_at > received_at AND length(last_error) > 0) \
         FROM telemetryx_journal.ingestion_queue WHERE status = 'failed'",
    );
    assert_eq!(told, "t");
    assert_eq!(count("failed", "lines") + count("pending", "lines"), 0);
    // As sent: the payload is what the route reads.
    assert_eq!(
        view("bool_and(position('\\x7b226e223a317d'::bytea IN payload) > 0)"),
        "t"
    );
    proxy.restore();
    settle(&service);
    eventually(SOON, "all is complete", || count("complete", "store") == 3);
    assert_eq!(
        view("count(*) FILTER (WHERE attempts > 0 OR last_error IS NOT NULL)"),
        "0"
    );
    assert_books_balance(&service);
}

#[test]
fn a_full_backlog_is_rejected_dropped_or_sampled() {
    let postgres = Postgres::start();
    for policy in ["reject", "drop", "sample"] {
        let store = store("postgres://postgres@127.0.0.1:1/none");
        let rest = format!(
            "routes: [ {store} ]\nadmission: {{ overflow: {{ policy: {policy}, sample_rate: 0.5 }} }}"
        );
        let journal = format!(", schema: {policy}, max_backlog: 20");
        let service = started(service(&postgres, &journal, &rest));
        for turn in 0..20 {
            assert_eq!(post(&service, [format!("{turn}")]), 202, "{policy} {turn}");
        }
        let mut shed = 0;
        for turn in 20..60 {
            let answer = service.post_json("/ingest", support::event(&turn.to_string()));
            match policy {
                "reject" => {
                    assert_eq!(answer.status, 429);
                    assert!(retry_after(&answer) > 0);
                }
                _ => {
                    let answer = answer.expect_status(202).json();
                    shed += u32::from(answer["durability"] == "shed");
                }
            }
        }
        let kept = number(
            &postgres,
            &format!("SELECT sum(events) FROM {policy}.queue"),
        );
        match policy {
            "reject" => assert_eq!(kept, 20),
            "drop" => assert_eq!((kept, shed), (20, 40)),
            _ => assert!(
                kept > 20 && kept < 60 && shed > 0,
                "{kept} kept, {shed} shed"
            ),
        }
    }
}

#[test]
fn the_server_is_killed_under_load_and_nothing_acknowledged_is_lost() {
    let mut postgres = Postgres::start();
    let rest = format!(
        "routes: [ {} ]\nadmission: {{ overflow: {{ max_backlog_events: 1000000 }} }}",
        store(&postgres.url())
    );
    let service = started(service(&postgres, ", delivery_timeout: 2s", &rest));
    let load = Load::start(&service, "killed", 6, 5, 50);
    load.wait_for(100);
    for _ in 0..2 {
        postgres.kill();
        eventually(SOON, "it refuses, soon enough", || {
            let asked = Instant::now();
            let answer = service.post_json("/ingest", support::event("refused"));
            assert!(
                asked.elapsed() < Duration::from_secs(8),
                "{:?}",
                asked.elapsed()
            );
            if answer.status == 503 {
                assert!(retry_after(&answer) > 0);
            }
            answer.status == 503
        });
        eventually(SOON, "it says so", || service.get("/health").status == 503);
        postgres.restart();
        let back = Instant::now();
        load.wait_for(100);
        eventually(SOON, "it is well again", || {
            service.get("/health").status == 200
        });
        eprintln!("well again after {:?}", back.elapsed());
        assert!(back.elapsed() < Duration::from_secs(30));
    }
    let tally = load.stop();
    assert!(tally.statuses.contains_key(&503), "{:?}", tally.statuses);
    settle(&service);
    assert_books_balance(&service);
    let stored = postgres.sql("SELECT id FROM events");
    let stored: std::collections::HashSet<_> = stored.lines().collect();
    let lost = tally
        .acknowledged
        .iter()
        .filter(|id| !stored.contains(id.as_str()));
    assert_eq!(lost.count(), 0, "of {}", tally.acknowledged.len());
}

#[test]
fn the_service_starts_without_the_server_and_is_well_once_it_is_there() {
    let mut postgres = Postgres::start();
    postgres.kill();
    let service = service(&postgres, ", delivery_timeout: 1s", "routes: []").start();
    let answer = service.post_json("/ingest", support::event("early"));
    assert_eq!(answer.status, 503);
    assert!(retry_after(&answer) > 0);
    assert_eq!(service.get("/health").status, 503);
    postgres.restart();
    eventually(SOON, "it takes events", || post(&service, ["late"]) == 202);
    assert_eq!(service.get("/health").status, 200);
}

#[test]
fn pieces_that_nobody_needs_are_dropped_and_nothing_bloats() {
    let seconds = std::env::var(LONG_RUN)
        .ok()
        .and_then(|text| text.parse().ok());
    let run = Duration::from_secs(seconds.unwrap_or(12));
    let postgres = Postgres::start_with(&["autovacuum_naptime=1s"], |_| {});
    let rest = "routes: [ { name: lines, sink: { kind: file, path: out.ndjson, rotate: { bytes: 16MiB } } } ]\n\
                admission: { overflow: { max_backlog_events: 1000000 } }";
    let service = started(service(
        &postgres,
        ", piece_size: 256KiB, retain: { bytes: 0B }",
        rest,
    ));
    let load = Load::start(&service, "bloat", 4, 20, 200);
    let begun = Instant::now();
    let mut sizes = Vec::new();
    let mut before = 0;
    while begun.elapsed() < run {
        std::thread::sleep(run / 12);
        let row = postgres.sql(
            "SELECT (SELECT sum(pg_total_relation_size(oid)) FROM pg_class c WHERE relnamespace = \
                'telemetryx_journal'::regnamespace AND relkind = 'r' AND relname LIKE 'queue%'), \
             (SELECT sum(pg_total_relation_size(oid)) FROM pg_class c WHERE relnamespace = \
                'telemetryx_journal'::regnamespace AND relkind = 'r' AND relname NOT LIKE 'queue%'), \
             (SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE schemaname = 'telemetryx_journal'), \
             (SELECT count(*) FROM telemetryx_journal.pieces)",
        );
        let columns: Vec<u64> = row
            .split('|')
            .map(|column| column.parse().unwrap())
            .collect();
        let accepted = load.acknowledged();
        eprintln!(
            "{:6.1?}: {} events/s, queue {} KiB in {} pieces, other tables {} KiB, {} dead rows",
            begun.elapsed(),
            (accepted - before) * 12 / run.as_secs().max(1),
            columns[0] >> 10,
            columns[3],
            columns[1] >> 10,
            columns[2]
        );
        before = accepted;
        sizes.push(columns);
    }
    let tally = load.stop();
    settle(&service);
    let pieces = number(
        &postgres,
        "SELECT max(piece) FROM telemetryx_journal.pieces",
    );
    assert!(pieces > 3, "there were {pieces} pieces");
    eventually(SOON, "what was passed is dropped", || {
        number(&postgres, "SELECT count(*) FROM telemetryx_journal.pieces") <= 2
    });
    let children =
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'telemetryx_journal.queue'::regclass";
    assert!(number(&postgres, children) <= 2);
    // Small tables stay small however often they change.
    for columns in &sizes {
        assert!(
            columns[1] < 2 << 20,
            "other tables have {} bytes",
            columns[1]
        );
    }
    let status = service.get("/status").json();
    assert!(
        status["journal"]["start_offset"].as_u64() > Some(0),
        "{status}"
    );
    let books = assert_books_balance(&service);
    assert_eq!(books["accepted"], json!(tally.acknowledged.len()));
    assert_eq!(books["routes"]["lines"]["expired"], 0);
}

#[test]
fn a_route_that_left_the_config_is_said_to_hold_back_what_is_kept() {
    let postgres = Postgres::start();
    let with = |name: &str| {
        format!("routes: [ {{ name: {name}, sink: {{ kind: file, path: out.ndjson }} }} ]")
    };
    let mut service = started(service(&postgres, "", &with("old")));
    assert_eq!(post(&service, ["a"]), 202);
    settle(&service);
    service.terminate();
    let service = started(self::service(&postgres, "", &with("new")));
    eventually(SOON, "it is said", || {
        let warnings = service.get("/status").json()["journal"]["warnings"].clone();
        warnings
            .to_string()
            .contains("route `old` is not in the config")
    });
    postgres.sql("DELETE FROM telemetryx_journal.positions WHERE route = 'old'");
    eventually(SOON, "it is over", || {
        service.get("/status").json()["journal"]
            .get("warnings")
            .is_none()
    });
}

#[test]
fn settings_of_the_server_that_break_the_promise_are_said() {
    let postgres = Postgres::start_with(&["fsync=off", "synchronous_commit=off"], |_| {});
    let service = started(service(&postgres, "", "routes: []"));
    eventually(SOON, "it is said", || {
        let warnings = service.get("/status").json()["journal"]["warnings"].to_string();
        warnings.contains("fsync = off")
    });
    assert!(service.log().contains("fsync = off"));
    assert_eq!(post(&service, ["a"]), 202);
}
