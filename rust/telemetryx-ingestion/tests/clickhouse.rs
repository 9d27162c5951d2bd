//! The `clickhouse` sink with a real server of Debian's version: each accepted event there once, whoever is killed, hangs
//! or comes late; values as they were sent. Statements and rows for today's version: `src/sinks/clickhouse/tests.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use support::kills::kill_under_load;
use support::outages::{Outages, Trouble};
use support::{
    Load, SOON, Tally, assert_books_balance, event, events, metric, service, settle, start,
};
use telemetryx_testkit::{
    ClickHouse, Connection, Proxy, Service, SmallDisk, eventually, eventually_some,
};

fn config(url: &str, more: &str) -> String {
    format!(
        "routes:
  - {{ name: stats, sink: {{ kind: stats }} }}
  - {{ name: out, sink: {{ kind: clickhouse, url: {url:?}, {more} }}, batch: {{ max_events: 2000, flush_interval: 20ms }},
      retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ failures: 3, open_for: 100ms }} }}"
    )
}

/// All that was accepted is in the table, each once, and nothing else.
#[track_caller]
fn assert_stored(service: &Service, server: &ClickHouse, tally: &Tally) {
    settle(service);
    let accepted = assert_books_balance(service)["accepted"].as_u64().unwrap();
    let stored = server.sql("SELECT id FROM events ORDER BY id");
    let ids: Vec<_> = stored.lines().collect();
    let unique: HashSet<_> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "some are there twice");
    let missing = tally
        .acknowledged
        .iter()
        .filter(|id| !unique.contains(id.as_str()));
    assert_eq!(missing.count(), 0, "of {}", tally.acknowledged.len());
    assert_eq!(ids.len() as u64, accepted);
}

/// Events in the table, if there is one.
fn rows_of(server: &ClickHouse) -> u64 {
    let count = server.try_sql("SELECT count() FROM events");
    count.map_or(0, |count| count.trim().parse().unwrap())
}

fn health(service: &Service) -> Value {
    let health = service.get("/health").expect_status(200).json();
    health["routes"]["out"].clone()
}

#[track_caller]
fn trouble(service: &Service, words: &str) {
    eventually(SOON, words, || {
        health(service)["error"]
            .as_str()
            .is_some_and(|error| error.contains(words))
    });
}

#[test]
fn values_are_those_that_were_sent_and_the_database_is_made() {
    let server = ClickHouse::start();
    let service = start(&config(
        &server.url(),
        "database: \"te`lem\", table: \"e\\\\v\", partition: day",
    ));
    let body = r#"[
        {"id":"a","ts":"2026-01-01T00:00:00.123456789Z","type":"t\\'","source":7,"schema_version":4294967295,
         "partition_key":"p","attributes":{"k\"":"v'"},"payload":{"b": [1.50, "\u00fc\t"]}},
        {"id":"b","ts":"1969-12-31T23:59:59.5Z"},
        {"id":"c","ts":"1677-09-22T00:00:00Z","source":"7","payload":"x"}]"#;
    service.post_json("/ingest", body).expect_status(202);
    settle(&service);
    let rows = server.sql("SELECT * FROM `te\\`lem`.`e\\\\v` ORDER BY id FORMAT JSONEachRow");
    let mut rows: Vec<Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    let mut journals = HashSet::new();
    for (offset, row) in rows.iter_mut().enumerate() {
        assert_eq!(row["journal_offset"], offset.to_string());
        journals.insert(row["journal"].take().to_string());
        let received: i64 = row["received_at_nanos"]
            .take()
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(received > 1_700_000_000_000_000_000);
        row["received_at"].take();
    }
    assert_eq!(journals.len(), 1);
    let row = |offset: u64, more: Value| {
        let mut row = json!({"schema_version": 1, "partition_key": null, "attributes": "{}", "payload": "null",
            "source": "unknown", "type": "event", "journal": null, "journal_offset": offset.to_string(),
            "received_at": null, "received_at_nanos": null});
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row
    };
    assert_eq!(
        rows,
        [
            row(
                0,
                json!({"id": "a", "ts": "2026-01-01 00:00:00", "ts_nanos": "1767225600123456789", "type": "t\\'",
                "source": "7", "schema_version": 4294967295_u32, "partition_key": "p",
                "attributes": "{\"k\\\"\":\"v'\"}", "payload": "{\"b\": [1.50, \"\\u00fc\\t\"]}"})
            ),
            row(
                1,
                json!({"id": "b", "ts": "0000-00-00 00:00:00", "ts_nanos": "-500000000"})
            ),
            row(
                2,
                json!({"id": "c", "ts": "0000-00-00 00:00:00", "ts_nanos": "-9223286400000000000", "source": "7",
                "payload": "\"x\""})
            ),
        ]
    );
}

#[test]
fn kills_of_service_and_server_under_load_leave_each_event_once() {
    let mut server = ClickHouse::start();
    let mut service = start(&config(&server.url(), "timeout: 2s"));
    let mut tally = kill_under_load(&mut service);
    let load = Load::start(&service, "k", 1, 20, 50);
    for _ in 0..4 {
        load.wait_for(400);
        server.kill();
        load.wait_for(100);
        server.restart();
    }
    load.wait_for(400);
    tally.add(load.stop());
    tally.assert_counted(&service);
    assert_stored(&service, &server, &tally);
}

#[test]
fn inserts_that_a_hung_server_does_late_do_not_come_twice() {
    let server = ClickHouse::start();
    let mut service = start(&config(&server.url(), "timeout: 250ms"));
    let load = Load::start(&service, "h", 1, 10, 20);
    for round in 0..4 {
        let before = rows_of(&server);
        eventually(SOON, "the server inserts", || rows_of(&server) > before);
        let retries = || metric(&service, "route_retries_total{route=\"out\"}");
        let before = retries();
        server.hang();
        eventually(SOON, "a batch is sent again", || retries() > before);
        if round % 2 == 1 {
            // What it sent lies in the socket of the server.
            service.kill();
            server.go_on();
            service.restart();
        }
        server.go_on();
    }
    let tally = load.stop();
    tally.assert_counted(&service);
    assert_stored(&service, &server, &tally);
    let writers = server.sql("SELECT max(writer) FROM telemetryx_writers");
    assert!(writers.trim().parse::<u64>().unwrap() > 1, "{writers}");
}

#[test]
fn insert_that_was_given_up_fails_when_it_comes_late() {
    let server = ClickHouse::start();
    let proxy = Proxy::start(server.port());
    let scratch = tempfile::tempdir().unwrap();
    let url = scratch.path().join("url");
    std::fs::write(&url, format!("http://{}", proxy.address())).unwrap();
    let service = start(&format!(
        "routes: [ {{ name: out, sink: {{ kind: clickhouse, url_file: {url:?}, timeout: 300ms }},
            batch: {{ flush_interval: 5ms }}, retry: {{ initial: 5ms, max: 50ms }} }} ]"
    ));
    service
        .post_json("/ingest", event("first"))
        .expect_status(202);
    settle(&service);
    proxy.hang();
    // Until that is noticed, some bytes may still pass.
    let mut probe = Connection::open(&proxy.address()).unwrap();
    probe.set_timeout(Duration::from_millis(300)).unwrap();
    assert!(probe.request("GET", "/ping", &[], b"").is_err());
    service
        .post_json("/ingest", event("second"))
        .expect_status(202);
    trouble(&service, "no answer within 300ms");
    // The server is well, and is reached another way.
    std::fs::write(&url, server.url()).unwrap();
    settle(&service);
    let count = || server.sql("SELECT count(), uniqExact(id) FROM events");
    assert_eq!(count(), "2\t2\n");
    proxy.restore();
    eventually(SOON, "the insert comes and fails", || {
        server.log().contains("'throwIf'")
    });
    assert_eq!(count(), "2\t2\n");
}

#[test]
fn replay_and_redrive_bring_back_what_is_missing_and_nothing_twice() {
    let server = ClickHouse::start();
    let mut service = start(&config(&server.url(), ""));
    let ids: Vec<_> = (0..50).map(|n| format!("e-{n:02}")).collect();
    service
        .post_json("/ingest", events(&ids))
        .expect_status(202);
    settle(&service);
    let stored = || server.sql("SELECT id FROM events ORDER BY id");
    let all: String = ids.iter().map(|id| format!("{id}\n")).collect();
    assert_eq!(stored(), all);
    server.sql("ALTER TABLE events DELETE WHERE id < 'e-10'");
    eventually(SOON, "some are deleted", || stored().lines().count() == 40);
    for _ in 0..2 {
        let replayed = service.run(&["replay", "--route", "out", "--from", "0"]);
        assert_eq!(replayed.code, Some(0), "{replayed:?}");
        eventually(SOON, "they are there again", || {
            stored().lines().count() >= 50
        });
        assert_eq!(stored(), all);
        // A new process knows of which journal the offsets are.
        service.terminate();
        service.restart();
    }
}

#[test]
fn event_that_a_column_cannot_be_made_of_becomes_a_dead_letter_with_the_servers_words() {
    let server = ClickHouse::start();
    let service = start(&config(&server.url(), ""));
    eventually(SOON, "there is a table", || {
        server.sql("EXISTS TABLE events") == "1\n"
    });
    server.sql("ALTER TABLE events ADD COLUMN n UInt32 DEFAULT toUInt32(payload)");
    let numbered = |id: u32, payload: &str| {
        format!(r#"{{"id":"n-{id}","ts":"2026-01-01T00:00:00Z","payload":{payload}}}"#)
    };
    let bodies: Vec<_> = (0..20)
        .map(|id| numbered(id, if id == 13 { "[1]" } else { "7" }))
        .collect();
    service
        .post_json("/ingest", format!("[{}]", bodies.join(",")))
        .expect_status(202);
    settle(&service);
    let books = assert_books_balance(&service);
    assert_eq!(books["routes"]["out"]["dead"], 1, "{books}");
    let letters = service
        .run(&["dead-letters", "list", "--route", "out"])
        .stdout;
    assert!(letters.contains("invalid_data"), "{letters}");
    assert_eq!(
        server.sql("SELECT count(), uniq(id), sum(n) FROM events WHERE id LIKE 'n-%'"),
        "19\t19\t133\n"
    );
    server.sql("ALTER TABLE events DROP COLUMN n");
    for _ in 0..2 {
        service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    }
    eventually(SOON, "it is there", || {
        server.sql("SELECT count() FROM events WHERE id = 'n-13'") == "1\n"
    });
    assert_eq!(assert_books_balance(&service)["routes"]["out"]["dead"], 0);
}

#[test]
fn every_trouble_ends_with_every_event_there_once() {
    let disk = SmallDisk::of_kib(64 << 10);
    let mut server = ClickHouse::start_in(disk.path());
    let proxy = Proxy::start(server.port());
    let service = start(&Outages::config(&format!(
        "kind: clickhouse, url: 'http://{}', timeout: 500ms",
        proxy.address()
    )));
    let outages = Outages::of(&service);
    let mut troubles = Trouble::of_the_network(&proxy, "no answer within 500ms", "invalid HTTP");
    troubles.extend([
        Trouble::new(
            "hung server",
            "no answer within 500ms",
            || server.hang(),
            || server.go_on(),
        ),
        Trouble::new(
            "another kind of server",
            "no ClickHouse",
            || proxy.answer_with(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
            || proxy.restore(),
        ),
        // To a question, no event is to blame for what may be one's fault in an insert.
        Trouble::new(
            "refused questions",
            "Cannot parse input",
            || proxy.answer_with(CANNOT_PARSE),
            || proxy.restore(),
        ),
        Trouble::new(
            "read-only",
            "readonly mode",
            || server.set_default_user("", "readonly"),
            || server.set_default_user("", "default"),
        ),
        Trouble::new(
            "wrong password",
            "assword",
            || server.set_default_user("secret", "default"),
            || server.set_default_user("", "default"),
        ),
        Trouble::new(
            "column gone",
            "payload",
            || drop(server.sql("ALTER TABLE events DROP COLUMN payload")),
            || drop(server.sql("ALTER TABLE events ADD COLUMN payload String")),
        ),
        outages.disk_full(&disk, "No space left on device"),
    ]);
    outages.go_through(&troubles);
    drop(troubles);
    server.kill();
    outages.post(200);
    server.restart();
    outages.wait_until_delivered("killed");
    let stored = server.sql("SELECT id FROM events ORDER BY id");
    assert!(stored.lines().eq(outages.ids()), "each is there once");
}

const CANNOT_PARSE: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 43\r\n\r\n\
    Code: 27. DB::Exception: Cannot parse input";

#[test]
fn a_column_that_others_changed_is_named_and_no_event_is_buried_for_it() {
    let server = ClickHouse::start();
    let service = start(&config(&server.url(), ""));
    let with_key = r#"{"id":"a","ts":"2026-01-01T00:00:00Z","partition_key":"p"}"#;
    service.post_json("/ingest", with_key).expect_status(202);
    settle(&service);
    server.sql("ALTER TABLE events MODIFY COLUMN partition_key String");
    // The writer is the one from before.
    service.post_json("/ingest", event("b")).expect_status(202);
    trouble(
        &service,
        "has column partition_key as String: it must be Nullable(String)",
    );
    server.sql("ALTER TABLE events MODIFY COLUMN partition_key Nullable(String)");
    settle(&service);
    assert_eq!(server.sql("SELECT id FROM events ORDER BY id"), "a\nb\n");
    let books = assert_books_balance(&service);
    assert_eq!(books["routes"]["out"]["dead"], 0, "{books}");
}

#[test]
fn a_new_password_needs_no_restart_and_is_never_shown() {
    let server = ClickHouse::start();
    server.set_default_user("right", "default");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let service = start(&config(
        &server.url(),
        &format!("user: default, password_file: {file:?}"),
    ));
    service.post_json("/ingest", event("a")).expect_status(202);
    trouble(&service, "assword");
    std::fs::write(&file, "right\n").unwrap();
    settle(&service);
    assert_eq!(server.sql("SELECT id FROM events"), "a\n");
    let health = eventually_some(SOON, "it is up", || {
        let health = health(&service);
        (health["state"] == "up").then_some(health)
    });
    assert!(!format!("{health}{}", service.log()).contains("hunter2"));
}

#[test]
fn check_names_each_wrong_key() {
    let check = |sink: &str| {
        let config = format!("routes: [ {{ name: r, sink: {{ kind: clickhouse, {sink} }} }} ]");
        service().config(&config).run(&["check"])
    };
    for (sink, words) in [
        ("", "`url` or `url_file` is missing"),
        ("url: \"http://h\", database: \"\"", "`database`"),
        ("url: \"http://h\", partition: year", "`month` or `day`"),
        ("url: \"http://a:b@h\", user: c", "leave one out"),
        (
            "url: \"http://h\", password_file: /no/such",
            "`password_file`",
        ),
        (
            "url: \"http://h\", compression: gzip",
            "unknown field `compression`",
        ),
    ] {
        let shown = check(sink);
        assert_eq!(shown.code, Some(2), "{sink}: {shown:?}");
        assert!(shown.stderr.contains(words), "{sink}: {shown:?}");
    }
    let shown =
        check("url: \"https://h:8443\", user: me, password: hunter2, table: t, partition: day");
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(!format!("{shown:?}").contains("hunter2"), "{shown:?}");
}
