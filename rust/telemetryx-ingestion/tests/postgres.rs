//! The sink `postgres` against a real server: every event is in the table once, whoever is killed or hangs, and `/events`
//! shows what was sent.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/certificates.rs"]
#[allow(dead_code, reason = "the server shakes hands here")]
mod certificates;
mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use certificates::Authority;
use serde_json::{Value, json};
use support::kills::kill_under_load;
use support::{
    Load, SOON, TS, assert_answer, assert_books_balance, error, service, settle, stored,
};
use telemetryx_testkit::{Postgres, Proxy, Service, eventually};

/// Rows that take the server longer to look through than a batch may take.
const LARGE: u64 = 2_000_000;

/// A service whose route `store` delivers there; `keys` are more keys of the sink, each with a comma before it.
fn config(postgres: &Postgres, keys: &str) -> String {
    format!(
        "routes: [ {{ name: stats, sink: {{ kind: stats }} }},
          {{ name: store, sink: {{ kind: postgres, url: \"{}\"{keys} }},
            retry: {{ initial: 20ms, max: 200ms }}, breaker: {{ failures: 1000000 }} }} ]",
        postgres.url()
    )
}

fn start(postgres: &Postgres, keys: &str) -> Service {
    service().config(&config(postgres, keys)).start()
}

#[track_caller]
fn given(service: &Service, body: &str) {
    service.post_json("/ingest", body).expect_status(202);
    settle(service);
}

fn get(service: &Service, path: &str) -> Value {
    service.get(path).expect_status(200).json()
}

fn count(postgres: &Postgres) -> u64 {
    postgres.sql("SELECT count(*) FROM events").parse().unwrap()
}

/// The route's sink is down, with words like these.
#[track_caller]
fn assert_down(service: &Service, words: &str) {
    eventually(SOON, words, || {
        let shown = get(service, "/status")["routes"]["store"].to_string();
        shown.contains(words) && get(service, "/health")["status"] == "degraded"
    });
}

#[test]
fn events_are_in_the_table_as_they_were_sent_and_answer_events() {
    let postgres = Postgres::start();
    let service = start(&postgres, "");
    // The table is made as the route starts.
    eventually(SOON, "there is a table", || {
        postgres.try_sql("TABLE events").is_ok()
    });
    assert_eq!(
        get(&service, "/events"),
        json!({"events": [], "next": null})
    );
    given(
        &service,
        r#"[{"id":"1","ts":"2026-01-01T00:00:00.123456789Z","type":"Login","source":18446744073709551615,
             "schema_version":3,"partition_key":"tenant","attributes":{"a\"":"ü","b":""},"payload":{ "z" : 1.50,"z":[] }},
            {"id":"2","ts":"1969-07-20T20:17:40Z"},
            {"id":"3","ts":"2026-01-01T00:00:01Z","source":"x' OR 1=1 --","payload":1e-20000}]"#,
    );
    assert_eq!(
        postgres.sql(
            "SELECT id, ts, type, source, schema_version, partition_key, attributes->>'a\"', payload FROM events ORDER BY id"
        ),
        "1|2026-01-01 00:00:00.123456+00|Login|18446744073709551615|3|tenant|ü|{ \"z\" : 1.50,\"z\":[] }\n\
         2|1969-07-20 20:17:40+00|event|unknown|1|||null\n\
         3|2026-01-01 00:00:01+00|event|x' OR 1=1 --|1|||1e-20000"
    );
    assert_eq!(
        postgres.sql(
            "SELECT bool_and(received_at BETWEEN now() - interval '1 minute' AND now()) FROM events"
        ),
        "t"
    );
    let page = get(&service, "/events?limit=2");
    let shown = &page["events"][1];
    for (field, value) in [
        ("id", json!("1")),
        ("ts", json!("2026-01-01T00:00:00.123456Z")),
        ("type", json!("Login")),
        ("source", json!(u64::MAX)),
        ("schema_version", json!(3)),
        ("partition_key", json!("tenant")),
        ("attributes", json!({"a\"": "ü", "b": ""})),
    ] {
        assert_eq!(shown[field], value, "{page}");
    }
    assert!(
        service
            .get("/events")
            .text()
            .contains(r#"{ "z" : 1.50,"z":[] }"#)
    );
    let ids = |query: &str| {
        let page = get(&service, &format!("/events{query}"));
        let ids = page["events"].as_array().unwrap().iter();
        ids.map(|event| event["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (query, expected) in [
        ("", "3 1 2"),
        ("?type=Login", "1"),
        ("?source=18446744073709551615", "1"),
        ("?source=x%27%20OR%201%3D1%20--", "3"),
        ("?source=%00", ""),
        ("?from=2026-01-01T00:00:00.123456Z", "3 1"),
        ("?from=2026-01-01T00:00:00.123456001Z", "3"),
        ("?to=2026-01-01T00:00:00.123456Z", "2"),
        ("?to=2026-01-01T00:00:00.123456001Z", "1 2"),
        ("?to=1970-01-01T00:00:00Z&limit=1", "2"),
    ] {
        assert_eq!(ids(query), expected, "{query}");
    }
    assert_eq!(get(&service, "/stats")["events_count"], 3);
    assert_books_balance(&service);
}

#[test]
fn pages_show_each_event_once_and_a_cursor_that_was_changed_is_refused() {
    let postgres = Postgres::start();
    let service = start(&postgres, "");
    let body: Vec<_> = (0..300)
        .map(|n| {
            format!(
                r#"{{"id":"é-{n}","ts":"2026-01-0{}T00:00:00Z"}}"#,
                1 + n % 2
            )
        })
        .collect();
    given(&service, &format!("[{}]", body.join(",")));
    for limit in [1, 7, 150, 299, 300] {
        let (mut seen, mut next) = (Vec::new(), String::new());
        loop {
            let page = get(&service, &format!("/events?limit={limit}{next}"));
            let events = page["events"].as_array().unwrap();
            seen.extend(events.iter().map(|event| event["id"].to_string()));
            match page["next"].as_str() {
                Some(cursor) => next = format!("&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(seen.len(), 300, "limit {limit}");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 300, "limit {limit}");
    }
    assert_eq!(stored(&service).len(), 300, "streamed");
    for cursor in ["0-%27", "0-AA", "0-_w", "0-a", "x", "0"] {
        assert_answer(
            &service.get(&format!("/events?cursor={cursor}")),
            400,
            error(
                "invalid_parameter",
                "`cursor` must be the `next` of the page before",
            ),
        );
    }
}

#[test]
fn what_comes_again_is_not_stored_again() {
    let postgres = Postgres::start();
    let mut service = service().config(&config(&postgres, "")).otlp().start();
    given(&service, &support::events(["a", "b"]));
    // Sent again, beside a new one, and twice in one batch.
    given(&service, &support::events(["b", "c", "c"]));
    // The same id at another time is another event; the part of a microsecond makes none.
    given(
        &service,
        r#"[{"id":"a","ts":"2026-01-01T00:00:01Z"},{"id":"a","ts":"2026-01-01T00:00:01.0000009Z"}]"#,
    );
    assert_eq!(count(&postgres), 4);
    // Without a time of its own it has another time of receipt when it is sent again.
    let log = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"a"}},{"body":{"stringValue":"b"}}]}]}]}"#;
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    for _ in 0..2 {
        service
            .request("POST", "/v1/logs", &headers, log.as_bytes())
            .expect_status(200);
        settle(&service);
    }
    assert_eq!(count(&postgres), 6);
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["routes"]["store"]["delivered"], 11, "{ledger}");

    let applied = || postgres.sql("SELECT route, applied FROM telemetryx_positions");
    assert_eq!(applied(), "store|11");
    let replayed = service.run(&["replay", "--route", "store", "--from", "0"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!((count(&postgres), applied().as_str()), (6, "store|11"));
    // A position that is ahead is left there, and what comes below it is stored all the same if it is not there.
    postgres
        .sql("UPDATE telemetryx_positions SET applied = 1000; DELETE FROM events WHERE id = 'a'");
    service.kill();
    service.restart();
    given(&service, &support::events(["a", "d"]));
    assert_eq!((count(&postgres), applied().as_str()), (6, "store|1000"));
    let replayed = service.run(&["replay", "--route", "store", "--from", "0"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!(count(&postgres), 7);
}

#[test]
fn a_server_that_is_killed_or_hangs_delays_its_route_and_loses_nothing() {
    let mut postgres = Postgres::start();
    let service = start(&postgres, ", timeout: 2s");
    eventually(SOON, "there is a table", || {
        postgres.try_sql("TABLE events").is_ok()
    });
    let load = Load::start(&service, "load", 1, 10, 200);
    load.wait_for(200);
    postgres.kill();
    load.wait_for(200);
    assert_down(&service, "onnect");
    postgres.restart();
    load.wait_for(200);
    postgres.hang();
    load.wait_for(200);
    assert_down(&service, "within 2s");
    assert_eq!(service.get("/events").status, 503);
    postgres.go_on();
    load.wait_for(200);
    let tally = load.stop();
    tally.assert_kept(&service);
    assert_eq!(count(&postgres), stored(&service).len() as u64);
    assert_eq!(get(&service, "/health")["status"], "healthy");
}

#[test]
fn a_service_that_is_killed_in_the_middle_goes_on_without_gap_or_double() {
    let postgres = Postgres::start();
    let mut service = start(&postgres, "");
    let all = kill_under_load(&mut service);
    all.assert_kept(&service);
    assert_eq!(count(&postgres), stored(&service).len() as u64);
}

#[test]
fn what_others_added_to_the_table_does_not_lose_an_event() {
    let postgres = Postgres::start();
    let service = start(&postgres, "");
    eventually(SOON, "there is a table", || {
        postgres.try_sql("TABLE events").is_ok()
    });
    // A column that only the server fills, and a key that refuses what ours does not.
    postgres.sql("ALTER TABLE events ADD COLUMN note text NOT NULL DEFAULT 'none'");
    postgres.sql("CREATE UNIQUE INDEX once ON events (source, ts)");
    let event =
        |id: &str, source: &str| format!(r#"{{"id":"{id}","ts":"{TS}","source":"{source}"}}"#);
    given(&service, &event("1", "a"));
    // With one that is there already, one that the key refuses, and one that is new.
    let batch = [event("1", "a"), event("2", "a"), event("3", "b")];
    given(&service, &format!("[{}]", batch.join(",")));
    assert_eq!(
        postgres.sql("SELECT id, note FROM events ORDER BY id"),
        "1|none\n3|none"
    );
    let shown = service.run(&["dead-letters", "list", "--stage", "delivery", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["count"], 1, "{shown}");
    assert!(shown.to_string().contains("unique constraint"), "{shown}");
    assert_books_balance(&service);
}

#[test]
fn an_event_that_the_server_refuses_is_a_dead_letter_with_its_words_and_the_rest_is_stored() {
    let postgres = Postgres::start();
    let service = start(&postgres, ", payload: jsonb");
    eventually(SOON, "there is a table", || {
        postgres.try_sql("TABLE events").is_ok()
    });
    postgres.sql("ALTER TABLE events ADD CONSTRAINT no_eighteen CHECK (id <> '18')");
    let body: Vec<_> = (0..200)
        .map(|n| match n {
            17 => format!(r#"{{"id":"{n}","ts":"{TS}","payload":{{"a":1e-20000}}}}"#),
            199 => format!(r#"{{"id":"{n}","ts":"{TS}","schema_version":4294967295}}"#),
            _ => format!(r#"{{"id":"{n}","ts":"{TS}","payload":{{"b":1,"a":1.0}}}}"#),
        })
        .collect();
    given(&service, &format!("[{}]", body.join(",")));
    assert_eq!(count(&postgres), 197);
    assert_eq!(
        postgres.sql("SELECT DISTINCT payload FROM events"),
        r#"{"a": 1.0, "b": 1}"#
    );
    let letters = || {
        let shown = service.run(&["dead-letters", "list", "--stage", "delivery", "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        shown
    };
    let shown = letters();
    assert_eq!(shown["count"], 3, "{shown}");
    for words in [
        "value overflows numeric format",
        "invalid_data",
        "violates check constraint \\\"no_eighteen\\\"",
        "schema_version 4294967295",
    ] {
        assert!(shown.to_string().contains(words), "{words} in {shown}");
    }
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["routes"]["store"]["dead"], 3);
    // Sent again they are refused again; nothing else changes.
    let again = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(
        (letters()["count"].as_u64(), count(&postgres)),
        (Some(3), 197)
    );
    assert_books_balance(&service);
}

#[test]
fn partitions_are_made_on_demand_and_dropped_once_too_old() {
    let postgres = Postgres::start();
    postgres.wait_past_midnight();
    let mut service = start(&postgres, "");
    eventually(SOON, "there is a table", || {
        postgres.try_sql("TABLE events").is_ok()
    });
    let partitions = || {
        postgres.sql("SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY inhrelid::regclass::text")
    };
    let day = |days: i64| {
        postgres.sql(&format!(
            "SELECT 'events_p' || to_char(now() AT TIME ZONE 'UTC' + interval '{days} days', 'YYYYMMDD')"
        ))
    };
    let names = |days: &[i64]| {
        let named = days.iter().map(|&days| day(days));
        let mut names: Vec<_> = std::iter::once("events_default".to_owned())
            .chain(named)
            .collect();
        names.sort_unstable();
        names.join("\n")
    };
    eventually(SOON, "partitions are made ahead", || {
        partitions() == names(&[0, 1, 2])
    });
    let ago = |days: i64| {
        let ts = postgres.sql(&format!(
            "SELECT to_char(now() AT TIME ZONE 'UTC' - interval '{days} days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
        ));
        format!(r#"{{"id":"{days}","ts":"{ts}"}}"#)
    };
    let body: Vec<_> = [0, 5, 20, 30, 40, 4000].map(ago).into();
    given(&service, &format!("[{}]", body.join(",")));
    assert_eq!(partitions(), names(&[0, 1, 2, -5, -20, -30]));
    let lies_in = |id: i64| {
        postgres.sql(&format!(
            "SELECT tableoid::regclass FROM events WHERE id = '{id}'"
        ))
    };
    assert_eq!(
        (lies_in(20), lies_in(40)),
        (day(-20), "events_default".to_owned())
    );
    assert_eq!(lies_in(4000), "events_default");

    service.terminate();
    // What cannot be dropped stays, and nothing else stays for that.
    postgres.sql(&format!("CREATE VIEW on_it AS TABLE {}", day(-30)));
    service.set_config(&config(&postgres, ", retain: { age: 10d }"));
    service.restart();
    eventually(SOON, "what is too old is gone", || {
        count(&postgres) == 3 && partitions() == names(&[0, 1, 2, -5, -30])
    });
    eventually(SOON, "it is said", || {
        service.log().contains("other objects depend on it")
    });
    postgres.sql("DROP VIEW on_it");
    service.terminate();
    service.restart();
    eventually(SOON, "it is gone too", || {
        count(&postgres) == 2 && partitions() == names(&[0, 1, 2, -5])
    });
    // A plain table is no partitioned one, and the payload of a table does not change.
    for (keys, words) in [
        (", partition: none", "`partition` says otherwise"),
        (", payload: jsonb", "must be jsonb, as `payload` says"),
    ] {
        service.terminate();
        service.set_config(&config(&postgres, keys));
        service.restart();
        assert_down(&service, words);
    }
    service.set_config(&config(
        &postgres,
        ", table: 'my \"own', schema: other, partition: none, retain: { age: 10d }",
    ));
    service.restart();
    given(&service, &format!("[{},{}]", ago(5), ago(0)));
    let plain = || postgres.sql("SELECT string_agg(id, ' ' ORDER BY id) FROM other.\"my \"\"own\"");
    eventually(SOON, "the young ones are there", || plain() == "0 5");
    assert_eq!(stored(&service).len(), 2);
}

#[test]
fn a_large_default_partition_holds_up_no_delivery_and_partitions_are_made_beside_it() {
    let postgres = Postgres::start_with(&["fsync=off", "max_wal_size=4GB"], |_| {});
    postgres.wait_past_midnight();
    let mut service = start(&postgres, "");
    let partitions =
        || postgres.sql("SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('events')");
    eventually(SOON, "partitions are made ahead", || partitions() == "4");
    service.terminate();
    // As after some days without the service, with much of another time.
    let drops = postgres.sql(
        "SELECT string_agg('DROP TABLE ' || inhrelid::regclass, ';') FROM pg_inherits WHERE inhparent = 'events'::regclass",
    );
    postgres.sql(&format!(
        "{drops}; CREATE UNLOGGED TABLE events_default (LIKE events);
         INSERT INTO events_default SELECT n::text, '2020-01-01', 't', 's', 1, NULL, NULL, '1', now()
             FROM generate_series(1, {LARGE}) n;
         ALTER TABLE events ATTACH PARTITION events_default DEFAULT"
    ));
    service.set_config(&config(&postgres, ", timeout: 100ms"));
    service.restart();
    let now =
        postgres.sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
    given(&service, &format!(r#"{{"id":"of now","ts":"{now}"}}"#));
    let lies_in = "SELECT tableoid::regclass FROM events WHERE id = 'of now'";
    assert_eq!(postgres.sql(lies_in), "events_default");
    // What fails on a busy machine is tried again a minute later.
    eventually(4 * SOON, "those of the next days are there", || {
        partitions() == "3"
    });
    assert_eq!(count(&postgres), LARGE + 1);
    assert_books_balance(&service);
}

#[test]
fn a_table_that_others_changed_is_named_and_no_event_is_buried_for_it() {
    let postgres = Postgres::start();
    let service = start(&postgres, "");
    eventually(SOON, "there is a table", || {
        postgres.try_sql("TABLE events").is_ok()
    });
    for (number, (change, words, back)) in [
        (
            "ALTER source TYPE varchar(5)",
            "column source is character varying(5), and must be text",
            "ALTER source TYPE text",
        ),
        (
            "ADD COLUMN tenant text NOT NULL DEFAULT 'one'; ALTER TABLE events ALTER tenant DROP DEFAULT",
            "column tenant is NOT NULL without a default",
            "DROP COLUMN tenant",
        ),
        (
            "ALTER attributes TYPE json",
            "column attributes is json, and must be jsonb",
            "ALTER attributes TYPE jsonb",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        // The connection is the one from before.
        given(&service, &support::event(&format!("before {number}")));
        postgres.sql(&format!("ALTER TABLE events {change}"));
        let event = format!(
            r#"{{"id":"after {number}","ts":"{TS}","source":"long name","attributes":{{"a":"b"}}}}"#
        );
        service.post_json("/ingest", event).expect_status(202);
        assert_down(&service, words);
        postgres.sql(&format!("ALTER TABLE events {back}"));
        settle(&service);
    }
    assert_eq!(count(&postgres), 6);
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["routes"]["store"]["dead"], 0, "{ledger}");
}

#[test]
fn an_event_that_a_trigger_refuses_is_a_dead_letter_and_what_one_fills_is_no_fault() {
    let postgres = Postgres::start();
    let service = start(&postgres, "");
    eventually(SOON, "there is a table", || {
        postgres.try_sql("TABLE events").is_ok()
    });
    postgres.sql(
        "ALTER TABLE events ADD COLUMN tenant text NOT NULL;
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.id = 'bad' THEN RAISE EXCEPTION 'no % here', NEW.id; END IF;
             IF NEW.id <> 'no tenant' THEN NEW.tenant := 'one'; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER look BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION look()",
    );
    given(
        &service,
        &support::events(["a", "bad", "b", "no tenant", "c"]),
    );
    assert_eq!(count(&postgres), 3);
    let shown = service.run(&["dead-letters", "list", "--stage", "delivery", "--json"]);
    for words in ["no bad here", "raised", "null value in column"] {
        assert!(shown.stdout.contains(words), "{words} in {shown:?}");
    }
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["routes"]["store"]["dead"], 2, "{ledger}");
}

#[test]
fn an_event_takes_about_as_many_bytes_as_the_docs_say() {
    let postgres = Postgres::start();
    let service = start(&postgres, "");
    let event = format!(
        r#"{{"ts":"{TS}","type":"measurement","source":"source-000017","payload":{{"temperature":21.5,"unit":"C","note":"{}"}}}}"#,
        "x".repeat(73)
    );
    assert_eq!(event.len(), 200);
    let body = format!("[{}]", vec![event; 1000].join(","));
    for _ in 0..20 {
        service.post_json("/ingest", &body).expect_status(202);
    }
    settle(&service);
    let size = postgres.sql(
        "SELECT (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'events'::regclass) \
         / (SELECT count(*) FROM events)",
    );
    let size: f64 = size.parse().unwrap();
    assert!((300.0..500.0).contains(&size), "{size}");
}

#[test]
fn the_next_host_is_taken_where_the_first_says_nothing_and_the_encoding_has_to_be_utf8() {
    let postgres = Postgres::start();
    let hung = Proxy::start(postgres.port());
    hung.hang();
    let config = |hosts: &str, database: &str| {
        format!(
            "routes: [ {{ name: store, sink: {{ kind: postgres, url: 'postgres://postgres@{hosts}/{database}', timeout: 4s }},
                retry: {{ initial: 20ms, max: 200ms }}, breaker: {{ failures: 1000000 }} }} ]"
        )
    };
    let good = format!("127.0.0.1:{}", postgres.port());
    let hosts = format!("{},{good}", hung.address());
    let mut service = service().config(&config(&hosts, "postgres")).start();
    given(&service, &support::event("a"));
    assert_eq!(count(&postgres), 1);

    postgres.sql("CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0");
    service.terminate();
    service.set_config(&config(&good, "latin"));
    service.restart();
    service
        .post_json("/ingest", support::event("€"))
        .expect_status(202);
    assert_down(
        &service,
        "the encoding of the database is LATIN1, and must be UTF8",
    );
    service.terminate();
    service.set_config(&config(&good, "postgres"));
    service.restart();
    settle(&service);
    assert_eq!(postgres.sql("SELECT id FROM events ORDER BY id"), "a\n€");
    assert_books_balance(&service);
}

#[test]
fn two_services_make_the_schema_at_once_and_share_the_table() {
    let postgres = Postgres::start();
    let services: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| start(&postgres, "")))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    for (number, service) in services.iter().enumerate() {
        let own = format!("own-{number}");
        given(service, &support::events(["same", own.as_str()]));
    }
    assert_eq!(count(&postgres), 4);
    assert_eq!(
        postgres.sql("SELECT \"table\", version FROM telemetryx_migrations"),
        "events|1"
    );
    assert_eq!(
        postgres.sql("SELECT count(*) FROM telemetryx_positions"),
        "3"
    );
    // Each journal is a log of its own: a service that lost its disk begins a new one.
    for service in &services {
        assert_eq!(stored(service).len(), 4);
        assert_books_balance(service);
    }
}

#[test]
fn tls_and_a_password_from_a_file_are_taken_and_new_ones_need_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    let own = authority.issue("server");
    let postgres = Postgres::start_with(&["ssl=on"], |postgres| {
        for (from, name) in [(&own.cert, "server.crt"), (&own.key, "server.key")] {
            let to = postgres.data_dir().join(name);
            std::fs::copy(from, &to).unwrap();
            std::fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
            postgres.give(&to);
        }
        // Only over TLS, and only with a password.
        let rules =
            "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(postgres.data_dir().join("pg_hba.conf"), rules).unwrap();
    });
    postgres
        .sql("CREATE ROLE tele LOGIN PASSWORD 'right one'; GRANT CREATE ON SCHEMA public TO tele");
    let password = folder.path().join("password");
    std::fs::write(&password, "wrong one\n").unwrap();
    let config = |tls: &str| {
        format!(
            "routes: [ {{ name: store, retry: {{ initial: 20ms, max: 200ms }}, breaker: {{ failures: 1000000 }},
              sink: {{ kind: postgres, url: 'postgres://tele@localhost:{}/postgres', password_file: {}{tls} }} }} ]",
            postgres.port(),
            password.display(),
        )
    };
    let ca = format!(", tls: {{ ca_file: {} }}", authority.file.display());
    let mut service = service().config(&config(&ca)).start();
    service
        .post_json("/ingest", support::event("a"))
        .expect_status(202);
    assert_down(&service, "password authentication failed");
    std::fs::write(&password, "right one").unwrap();
    settle(&service);
    assert_eq!(stored(&service).len(), 1);
    assert_eq!(
        postgres.sql("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'tele'"),
        "t"
    );
    for (tls, words) in [
        // Without TLS the server does not let it in; an authority that is not known is none.
        ("", "pg_hba.conf"),
        (", tls: {}", "certificate"),
    ] {
        service.terminate();
        service.set_config(&config(tls));
        service.restart();
        assert_down(&service, words);
        assert!(!service.log().contains("right one"));
    }
    let checked = service.run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn check_names_each_wrong_key_and_shows_no_password() {
    let url = "url: 'postgres://me:hunter2@127.0.0.1:1/db'";
    for (keys, words) in [
        ("", "`url` or `url_file` is missing"),
        ("url: 'postgres://me@'", "`url`"),
        ("url: 'postgres://me@h/db?sslmode=maybe'", "`url`"),
        (
            "url: 'postgresql+asyncpg://me:hunter2@h/db?ssl=x'",
            "`url`: it must be",
        ),
        ("url_file: /no/such", "`url_file`: /no/such"),
        (
            "url: 'postgres://me@h/db', password_file: /no/such",
            "`password_file`: /no/such",
        ),
        (
            &format!("{url}, password_file: /etc/hostname"),
            "`password_file`",
        ),
        (
            &format!("{url}, tls: {{ ca_file: /no/such }}"),
            "`tls.ca_file`: `/no/such`",
        ),
        (&format!("{url}, tabel: x"), "unknown field `tabel`"),
        (&format!("{url}, partition: week"), "week"),
        (&format!("{url}, table: ''"), "`table`"),
        (
            &format!("{url}, partition: hour, retain: {{ age: 365d }}"),
            "`retain.age`",
        ),
        (&format!("{url}, timeout: 0s"), "`timeout`"),
    ] {
        let config = format!("routes: [ {{ name: store, sink: {{ kind: postgres, {keys} }} }} ]");
        let checked = service().config(&config).run(&["check"]);
        assert_eq!(checked.code, Some(2), "{keys}: {checked:?}");
        assert!(checked.stderr.contains(words), "{keys}: {}", checked.stderr);
        assert!(!checked.stderr.contains("hunter2"), "{}", checked.stderr);
    }
    let config = format!("routes: [ {{ name: store, sink: {{ kind: postgres, {url} }} }} ]");
    let checked = service().config(&config).run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(
        checked.stdout.contains("postgres://me:***@127.0.0.1:1/db"),
        "{}",
        checked.stdout
    );
}
