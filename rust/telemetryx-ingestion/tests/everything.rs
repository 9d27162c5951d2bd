//! Real events through every outlet at once, while the service and each of the servers are killed in turn: at the end all
//! of them have the same events, each once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use support::python::{python, python_of_brain};
use support::{SOON, assert_books_balance, service, settle, start};
use telemetryx_testkit::{
    Brain, ClickHouse, Kafka, Postgres, RedisServer, S3Server, Service, eventually, eventually_some,
};

const DELIVERIES: &str = include_str!("data/github-webhooks.ndjson");
/// As often each of the deliveries is sent, under another id each time.
const ROUNDS: usize = 3;
/// Lines of one request.
const LINES: usize = 27;

/// Writes down what it is handed. What was written outlives its process, and what comes again is there twice.
const BRAIN: &str = r#"
from telemetryx_brain import brain

@brain
def note(events):
    with open("seen", "a") as seen:
        seen.writelines(f"{event.id}\t{event.type}\n" for event in events)
"#;

const BY_TYPE: &str = "
import duckdb, sys
files = sys.argv[1] + '/type=*/date=*/hour=*/*.parquet'
query = 'SELECT type, count(*), count(DISTINCT id) FROM read_parquet(?, hive_partitioning=false) GROUP BY type'
for kind, rows, ids in duckdb.execute(query, [files]).fetchall():
    print(kind, rows if rows == ids else f'{rows} rows of {ids} events', sep='\\t')
";

/// Events of each type.
type Counts = BTreeMap<String, u64>;

/// Counts ids of each type; each once, however often it is there.
fn distinct(events: impl IntoIterator<Item = (String, String)>) -> Counts {
    let by_id: BTreeMap<_, _> = events.into_iter().collect();
    let mut counts = Counts::new();
    for kind in by_id.into_values() {
        *counts.entry(kind).or_insert(0) += 1;
    }
    counts
}

/// Counts from lines of a type and a number.
fn parsed(lines: &str, separator: char) -> Counts {
    let count = |line: &str| {
        let (kind, count) = line.split_once(separator).unwrap();
        let count = count.parse();
        (kind.to_owned(), count.unwrap_or_else(|_| panic!("{line}")))
    };
    lines.lines().map(count).collect()
}

fn id_and_type(event: &Value) -> (String, String) {
    let text = |field: &str| event[field].as_str().unwrap().to_owned();
    (text("id"), text("type"))
}

fn ndjson_events(service: &Service) -> Vec<Value> {
    let headers = [("accept", "application/x-ndjson")];
    let answer = service.request("GET", "/events", &headers, b"");
    answer.expect_status(200).ndjson()
}

fn in_events(service: &Service) -> Vec<(String, String)> {
    ndjson_events(service).iter().map(id_and_type).collect()
}

/// What `/stats` says of all the sources together.
fn in_stats(service: &Service) -> Counts {
    let sources = DELIVERIES.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["source"].as_str().unwrap().replace('/', "%2F")
    });
    let mut counts = Counts::new();
    for source in sources.collect::<BTreeSet<_>>() {
        let stats = service
            .get(&format!("/stats/{source}"))
            .expect_status(200)
            .json();
        for (kind, count) in stats["event_types"].as_object().unwrap() {
            *counts.entry(kind.clone()).or_insert(0) += count.as_u64().unwrap();
        }
    }
    counts
}

/// Every delivery in every round, in requests.
fn requests() -> Vec<String> {
    let lines = (0..ROUNDS).flat_map(|round| {
        DELIVERIES.lines().enumerate().map(move |(number, line)| {
            let mut event: BTreeMap<&str, &serde_json::value::RawValue> =
                serde_json::from_str(line).unwrap();
            let id = serde_json::value::to_raw_value(&format!("{round}-{number}")).unwrap();
            event.insert("id", &id);
            serde_json::to_string(&event).unwrap()
        })
    });
    let lines: Vec<_> = lines.collect();
    lines.chunks(LINES).map(|lines| lines.join("\n")).collect()
}

#[test]
fn every_outlet_has_every_event_once_whoever_is_killed() {
    let (mut postgres, mut clickhouse, mut redis, mut s3, mut kafka, mut brain) = (
        Postgres::start(),
        ClickHouse::start(),
        RedisServer::start(),
        S3Server::start(),
        Kafka::start(),
        Brain::of(&python_of_brain().with_file_name("telemetryx-brain"), BRAIN),
    );
    let receiver = start("");
    let collector = service().otlp().start();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("events.ndjson");
    let patience = "retry: { initial: 5ms, max: 100ms }, breaker: { failures: 5, open_for: 200ms }";
    let sinks = [
        ("store", "kind: sqlite".to_owned()),
        ("stats", "kind: stats".to_owned()),
        (
            "postgres",
            format!("kind: postgres, url: '{}'", postgres.url()),
        ),
        (
            "clickhouse",
            format!("kind: clickhouse, url: '{}'", clickhouse.url()),
        ),
        ("redis", format!("kind: redis, url: '{}'", redis.url())),
        (
            "parquet",
            format!(
                "kind: parquet, url: 's3://{}', options: {{ {} }}, roll: {{ age: 300ms }}",
                S3Server::BUCKET,
                S3Server::options(s3.port())
            ),
        ),
        (
            "kafka",
            format!("kind: kafka, brokers: '{}', topic: events", kafka.brokers()),
        ),
        ("brain", format!("kind: grpc, url: '{}'", brain.url())),
        (
            "http",
            format!("kind: http, url: '{}/ingest'", receiver.url()),
        ),
        (
            "otlp",
            format!(
                "kind: otlp, url: 'http://{}'",
                collector.otlp_http_address()
            ),
        ),
        ("file", format!("kind: file, path: {file:?}")),
    ];
    let routes: Vec<_> = sinks
        .iter()
        .map(|(name, sink)| format!("  - {{ name: {name}, sink: {{ {sink} }}, {patience} }}"))
        .collect();
    let config = format!("routes:\n{}\n", routes.join("\n"));
    let mut service = service().config(&config).start();

    for (number, request) in requests().iter().enumerate() {
        let posted = service.post("/ingest", "application/x-ndjson", request);
        assert_eq!(
            posted.expect_status(202).json()["accepted"],
            request.lines().count()
        );
        match number % 12 {
            1 | 5 | 9 => {
                service.kill();
                service.restart();
            }
            2 => postgres.kill(),
            3 => redis.kill(),
            4 => s3.kill(),
            6 => brain.kill(),
            7 => {
                kafka.kill(0);
                clickhouse.kill();
            }
            8 => {
                postgres.restart();
                redis.restart();
                s3.restart();
                brain.restart();
                kafka.restart(0);
                clickhouse.restart();
            }
            _ => {}
        }
    }
    postgres.restart();
    redis.restart();
    s3.restart();
    brain.restart();
    kafka.restart(0);
    clickhouse.restart();
    eventually(3 * SOON, "every route has everything", || {
        let status = service.get("/status").json();
        let routes = status["routes"].as_object().unwrap();
        routes.values().all(|route| route["lag_events"] == 0)
    });
    settle(&service);

    let sent = distinct(requests().iter().flat_map(|request| {
        let events = request
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| id_and_type(&event)).collect::<Vec<_>>()
    }));
    let total: u64 = sent.values().sum();
    assert_eq!(total as usize, ROUNDS * DELIVERIES.lines().count());
    let books = assert_books_balance(&service);
    assert_eq!(books["accepted"], total);

    let stored = in_events(&service);
    assert_eq!(stored.len() as u64, total, "each once in SQLite");
    assert_eq!(distinct(stored), sent, "SQLite");
    assert_eq!(in_stats(&service), sent, "stats");
    let rows = postgres.sql("SELECT type, count(*) FROM events GROUP BY type");
    assert_eq!(parsed(&rows, '|'), sent, "PostgreSQL");
    let rows = clickhouse.sql("SELECT type, count() FROM events GROUP BY type");
    assert_eq!(parsed(&rows, '\t'), sent, "ClickHouse");
    let hash = redis.ask(&["HGETALL", "{telemetryx}:types"]);
    let (pairs, []) = hash.list().as_chunks::<2>() else {
        panic!("{hash:?}")
    };
    let counted = pairs
        .iter()
        .map(|[kind, count]| (kind.text().to_owned(), count.text().parse().unwrap()));
    assert_eq!(counted.collect::<Counts>(), sent, "Redis");
    let asked = Command::new(python())
        .arg("-c")
        .arg(BY_TYPE)
        .arg(s3.bucket())
        .output()
        .unwrap();
    assert!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    assert_eq!(
        parsed(&String::from_utf8(asked.stdout).unwrap(), '\t'),
        sent,
        "Parquet, as DuckDB reads it"
    );
    let messages = kafka.messages("events");
    let in_kafka = messages.iter().map(|message| {
        (
            message.header("id").to_owned(),
            message.header("type").to_owned(),
        )
    });
    assert_eq!(distinct(in_kafka), sent, "Kafka");
    let seen = std::fs::read_to_string(brain.folder().join("seen")).unwrap();
    let seen = seen.lines().map(|line| line.split_once('\t').unwrap());
    assert_eq!(
        distinct(seen.map(|(id, kind)| (id.to_owned(), kind.to_owned()))),
        sent,
        "the brain"
    );
    let received = eventually_some(SOON, "the other service has stored everything", || {
        let received = distinct(in_events(&receiver));
        (received == sent).then_some(received)
    });
    assert_eq!(received, sent, "HTTP");
    let collected = eventually_some(SOON, "the collector has stored everything", || {
        let records = ndjson_events(&collector);
        let attribute = |record: &Value, name: &str| {
            let value = record["attributes"][name].as_str();
            value.unwrap_or_else(|| panic!("{record}")).to_owned()
        };
        let named = records.iter().map(|record| {
            (
                attribute(record, "telemetryx.id"),
                attribute(record, "name"),
            )
        });
        let collected = distinct(named);
        (collected == sent).then_some(collected)
    });
    assert_eq!(collected, sent, "OTLP");
    let lines = std::fs::read_to_string(&file).unwrap();
    let lines = lines
        .lines()
        .map(|line| id_and_type(&serde_json::from_str(line).unwrap()));
    assert_eq!(distinct(lines), sent, "file");
    println!(
        "{total} events of {} types agree in eleven outlets",
        sent.len()
    );
}
