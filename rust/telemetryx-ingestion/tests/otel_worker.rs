//! `config/otel-worker.yaml`, as it comes and with the environment variables that it names: raw payloads in an object
//! store, rows in PostgreSQL, and what is said when PostgreSQL is away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::time::SystemTime;

use serde_json::{Value, json};
use support::python::python;
use support::{SOON, assert_books_balance, log_line, service, settle};
use telemetryx_testkit::{Postgres, S3Server, Service, eventually};

const CONFIG: &str = include_str!("../config/otel-worker.yaml");

/// The bodies of the log records that DuckDB finds in the raw payloads.
const BODIES: &str = "
import duckdb, sys
files = sys.argv[1] + '/type=*/date=*/hour=*/*.parquet'
for (found,) in duckdb.execute('SELECT payload FROM read_parquet(?)', [files]).fetchall():
    print(found)
";

/// So many log records, in one request.
fn records(first: u64, count: u64) -> String {
    // Not older than what the table retains.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_nanos();
    let record = |number: u64| {
        json!({
            "timeUnixNano": (now + u128::from(number)).to_string(),
            "severityText": "INFO",
            "body": { "stringValue": format!("record-{number};") },
        })
    };
    let records: Vec<_> = (first..first + count).map(record).collect();
    let resource = json!({ "attributes": [
        { "key": "service.name", "value": { "stringValue": "checkout" } },
    ] });
    let scope = json!({ "logRecords": records });
    json!({ "resourceLogs": [ { "resource": resource, "scopeLogs": [scope] } ] }).to_string()
}

#[track_caller]
fn export(service: &Service, first: u64, count: u64) -> u16 {
    let answer = service.post_json("/v1/logs", records(first, count));
    answer.status
}

/// How often each record is in this text, which holds all of them.
#[track_caller]
fn assert_each_once(text: &str, records: u64, place: &str) {
    for number in 0..records {
        let found = text.matches(&format!("record-{number};")).count();
        assert_eq!(found, 1, "record {number} in {place}");
    }
}

#[test]
fn raw_payloads_and_rows_arrive_and_trouble_is_named_as_it_was() {
    let (mut postgres, s3) = (Postgres::start(), S3Server::start());
    let route = |name: &str| format!("TELEMETRYX_ROUTES__{name}");
    let service = service()
        .config(CONFIG)
        .otlp()
        .env(&route("ROWS__SINK__URL"), &postgres.url())
        .env(&route("ROWS__RETRY__MAX"), "100ms")
        .env(&route("ROWS__BREAKER__OPEN_FOR"), "100ms")
        .env(
            &route("RAW__SINK__URL"),
            &format!("s3://{}", S3Server::BUCKET),
        )
        .env(
            &route("RAW__SINK__OPTIONS__ENDPOINT"),
            &format!("http://127.0.0.1:{}", s3.port()),
        )
        .env(&route("RAW__SINK__OPTIONS__ACCESS_KEY_ID"), "test")
        .env(&route("RAW__SINK__OPTIONS__SECRET_ACCESS_KEY"), "test1234")
        .env(&route("RAW__SINK__ROLL__AGE"), "500ms")
        .env("BATCH_MAX_SIZE", "10")
        .env("OTEL_BATCH_FLUSH_INTERVAL_MS", "20")
        .env("PROCESSING_QUEUE_MAX_DEPTH", "2")
        .env("STAGING_MAX_BACKLOG", "300")
        .start();
    assert_eq!(export(&service, 0, 100), 200);
    settle(&service);

    postgres.kill();
    let mut sent = 100;
    eventually(
        SOON,
        "the backlog is full, and exporters are told to wait",
        || {
            match export(&service, sent, 50) {
                200 => sent += 50,
                429 => return true,
                other => panic!("{other}"),
            }
            false
        },
    );
    assert!(sent >= 400, "{sent} were taken");
    assert_eq!(
        log_line(&service, "queue_saturated")["reason"],
        "queue_full_reject"
    );
    let paused = log_line(&service, "processing_paused");
    assert_eq!(
        (&paused["reason"], &paused["route"], &paused["batches"]),
        (&json!("buffer_full"), &json!("rows"), &json!(2))
    );
    let failed = log_line(&service, "batch_persist_failed");
    assert_eq!(failed["route"], "rows", "{failed}");
    eventually(SOON, "the raw payloads do not wait", || {
        let status = service.get("/status").json();
        status["routes"]["raw"]["lag_events"] == 0
    });

    postgres.restart();
    settle(&service);
    assert_eq!(export(&service, sent, 1), 200);
    settle(&service);
    let rows = postgres.sql("SELECT payload FROM events");
    assert_each_once(&rows, sent + 1, "PostgreSQL");
    let asked = Command::new(python())
        .arg("-c")
        .arg(BODIES)
        .arg(s3.bucket())
        .output()
        .unwrap();
    assert!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    let raw = String::from_utf8(asked.stdout).unwrap();
    assert_each_once(&raw, sent + 1, "the object store");
    let books = assert_books_balance(&service);
    assert_eq!(books["accepted"], sent + 1);
    let shown = service.get("/events?limit=1").expect_status(200).json();
    let newest: &Value = &shown["events"][0];
    assert_eq!(
        (&newest["source"], &newest["type"]),
        (&json!("checkout"), &json!("otel.log"))
    );
}
