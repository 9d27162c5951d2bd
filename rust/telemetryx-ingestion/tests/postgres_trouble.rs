//! The journal `postgres` when its server is not what it was: a replica, an older state of itself, one that somebody deleted
//! from; and commands of an operator beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::{assert_books_balance, events, settle};
use telemetryx_testkit::{Postgres, Service, ServiceBuilder, eventually};

/// How long something that should come soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// Of a service with the route `lines`, whose file is in this directory.
fn config(url: &str, journal: &str, folder: &Path) -> String {
    let lines = folder.join("lines");
    format!(
        "journal: {{ engine: postgres, postgres: {{ url: '{url}', partitions: 1, lease: 3s, delivery_timeout: 3s{journal} }} }}
otlp: {{ enabled: false }}
query: {{ counters_from: , events_from: }}
routes: [ {{ name: lines, sink: {{ kind: file, path: {lines:?} }} }} ]
"
    )
}

fn service(url: &str, journal: &str, folder: &Path) -> ServiceBuilder {
    support::service().config(&config(url, journal, folder))
}

fn is_well(service: &Service) -> bool {
    service.get("/health").status == 200
}

/// Posts until it is taken; one event a request, so that each is a row.
fn post(service: &Service, ids: impl IntoIterator<Item = String>) {
    for id in ids {
        eventually(SOON, "it is taken", || {
            service.post_json("/ingest", events([&id])).status == 202
        });
    }
}

fn ids(name: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{name}-{number}"))
        .collect()
}

fn restart_with(service: &mut Service, config: &str) {
    service.set_config(config);
    service.terminate();
    service.restart();
}

/// A service that knows its route and does not deliver, and the config with which it does.
fn takes_in_only(postgres: &Postgres, folder: &Path) -> (Service, String) {
    let mut service = service(&postgres.url(), "", folder).start();
    eventually(SOON, "it is well", || is_well(&service));
    let config = config(&postgres.url(), "", folder);
    let door = config.replace("routes:", "roles: [ingest, query]\nroutes:");
    restart_with(&mut service, &door);
    (service, config)
}

/// The books once all that waited was delivered by this config.
fn delivered_with(service: &mut Service, config: &str) -> Value {
    restart_with(service, config);
    settle(service);
    assert_books_balance(service)
}

/// The ids that came, each once, in their order.
fn came(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("lines")).unwrap_or_default();
    let id = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["id"].as_str().unwrap().to_owned()
    };
    text.lines().map(id).collect()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

#[test]
fn events_that_are_acknowledged_after_a_failover_that_lost_some_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start();
    let service = service(&postgres.url(), "", folder.path()).start();
    post(&service, ids("kept", 20));
    settle(&service);
    let identity = "SELECT identity FROM telemetryx_journal.journal";
    let before = postgres.sql(identity);

    // What an asynchronous replica had.
    postgres.kill();
    let (data, replica) = (postgres.data_dir(), folder.path().join("replica"));
    copy(&data, &replica);
    postgres.restart();
    eventually(SOON, "it is well", || is_well(&service));
    post(&service, ids("lost", 30));
    settle(&service);
    let receipt = service.post_json("/ingest", events(["lost-30"]));
    let receipt = receipt.expect_status(202).json()["receipt"].clone();
    settle(&service);

    postgres.kill();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&replica, &data);
    postgres.restart();
    post(&service, ids("after", 10));
    eventually(SOON, "all that was acknowledged is delivered", || {
        let came = came(folder.path());
        ids("after", 10).iter().all(|id| came.contains(id))
    });
    // The name is another one: nobody takes offsets for those from before.
    eventually(SOON, "it is said", || {
        service
            .log()
            .contains("the server lost what it had committed")
    });
    assert_ne!(postgres.sql(identity), before);
    let receipt = receipt.as_str().unwrap();
    assert_eq!(service.get(&format!("/receipts/{receipt}")).status, 404);
    let health = service.get("/health").json();
    assert_eq!(health["status"], "degraded", "{health}");
    let damage = health["journal"]["damage"].to_string();
    assert!(damage.contains("lost what it had committed"), "{health}");
    settle(&service);
    assert_books_balance(&service);
    for (name, count) in [("kept", 20), ("lost", 30), ("after", 10)] {
        let came = came(folder.path());
        let came: Vec<_> = came.iter().filter(|id| id.starts_with(name)).collect();
        let distinct: std::collections::BTreeSet<_> = came.iter().collect();
        assert!(distinct.len() >= count, "{name}: {came:?}");
    }
}

#[test]
fn server_that_takes_nothing_in_is_left_for_one_that_does() {
    let folder = tempfile::tempdir().unwrap();
    let read_only = Postgres::start_with(&["default_transaction_read_only=on"], |_| {});
    let mut primary = Postgres::start();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
        read_only.port(),
        primary.port()
    );
    let service = service(&url, "", folder.path()).start();
    eventually(SOON, "it is well", || is_well(&service));
    post(&service, ids("a", 3));
    settle(&service);
    // It becomes a replica under the connections that are open, and the primary again.
    primary.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    primary.sql("SELECT pg_reload_conf()");
    eventually(SOON, "nothing is taken", || {
        service.post_json("/ingest", events(["refused"])).status == 503
    });
    let health = service.get("/health");
    assert_eq!(health.status, 503);
    primary.kill();
    std::fs::remove_file(primary.data_dir().join("postgresql.auto.conf")).unwrap();
    primary.restart();
    post(&service, ids("b", 3));
    settle(&service);
    let mut came = came(folder.path());
    // Some were taken before the server had read its settings.
    came.retain(|id| id != "refused");
    assert_eq!(came, [ids("a", 3), ids("b", 3)].concat());
}

#[test]
fn rows_that_somebody_deleted_are_passed_as_expired_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let (mut service, config) = takes_in_only(&postgres, folder.path());
    post(&service, ids("e", 30));
    // In the middle, and at the end of a piece.
    postgres.sql("DELETE FROM telemetryx_journal.queue WHERE first_offset IN (3, 10, 11, 19)");
    // One says that it has more events than there is memory for.
    postgres.sql("UPDATE telemetryx_journal.queue SET events = 1000000000 WHERE first_offset = 22");
    let pieces = "SELECT telemetryx_journal.make_piece(2), telemetryx_journal.make_piece(2), \
                  telemetryx_journal.make_piece(1), telemetryx_journal.make_piece(7)";
    postgres.sql("DELETE FROM telemetryx_journal.queue WHERE first_offset = 29");
    postgres.sql(pieces);
    let numbers =
        "SELECT string_agg(piece::text, ' ' ORDER BY piece) FROM telemetryx_journal.pieces";
    assert_eq!(postgres.sql(numbers), "1 2", "only the next one is made");
    post(&service, ids("later", 5));
    let books = delivered_with(&mut service, &config);
    assert_eq!(books["routes"]["lines"]["expired"], 6, "{books}");
    assert_eq!(books["routes"]["lines"]["delivered"], 29, "{books}");
    let came = came(folder.path());
    assert_eq!(came.len(), 29);
    assert!(!came.contains(&"e-10".to_owned()));
    let health = service.get("/health").json();
    let damage = health["journal"]["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 5, "{health}");
    assert!(
        damage[1]
            .as_str()
            .unwrap()
            .contains("from offset 10 up to 12"),
        "{health}"
    );
}

#[test]
fn piece_that_somebody_dropped_is_passed_as_expired_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let (mut service, config) = takes_in_only(&postgres, folder.path());
    for (number, name) in [(2, "first"), (3, "second"), (4, "third")] {
        post(&service, ids(name, 5));
        postgres.sql(&format!("SELECT telemetryx_journal.make_piece({number})"));
    }
    post(&service, ids("fourth", 5));
    // The oldest, one in the middle, and the one that is written.
    for number in [1, 3, 4] {
        postgres.sql(&format!("DROP TABLE telemetryx_journal.queue_{number}"));
    }
    post(&service, ids("fifth", 5));
    eventually(SOON, "it is well again", || is_well(&service));
    let books = delivered_with(&mut service, &config);
    assert_eq!(books["routes"]["lines"]["expired"], 15, "{books}");
    let came = came(folder.path());
    let kept: Vec<_> = ["second", "fifth"]
        .iter()
        .flat_map(|name| ids(name, 5))
        .collect();
    assert_eq!(came, kept);
    let health = service.get("/health").json();
    let damage = health["journal"]["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 3, "{health}");
    // Dropped in order they are gone from the books, too.
    eventually(SOON, "the position is saved", || {
        postgres.sql("SELECT telemetryx_journal.drop_piece(1)") == "t"
    });
    let oldest = "SELECT min(piece) FROM telemetryx_journal.pieces";
    assert_eq!(postgres.sql(oldest), "2");
}

#[test]
fn position_that_somebody_deleted_is_made_anew_and_seen() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let service = service(&postgres.url(), "", folder.path()).start();
    eventually(SOON, "it is well", || is_well(&service));
    post(&service, ids("a", 10));
    settle(&service);
    postgres.sql("DELETE FROM telemetryx_journal.positions");
    post(&service, ids("b", 10));
    settle(&service);
    assert_books_balance(&service);
    let mut came = came(folder.path());
    came.dedup();
    assert!(came.ends_with(&ids("b", 10)), "{came:?}");
}

#[test]
fn process_whose_lease_is_over_gives_up_what_it_read_and_goes_on_when_the_server_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start();
    let service = service(&postgres.url(), "", folder.path()).start();
    eventually(SOON, "it is well", || is_well(&service));
    post(&service, ids("a", 10));
    settle(&service);
    postgres.kill();
    eventually(SOON, "it is given up", || {
        service.log().contains("for longer than its lease")
    });
    postgres.restart();
    post(&service, ids("b", 10));
    settle(&service);
    assert_books_balance(&service);
    // Everything from before was committed.
    assert_eq!(came(folder.path()), [ids("a", 10), ids("b", 10)].concat());
}

#[test]
fn operators_command_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let elsewhere = || service(&postgres.url(), ", schema: elsewhere", folder.path());
    for command in [
        &["dead-letters", "list"] as &[&str],
        &["journal", "export", "nowhere"],
    ] {
        let exit = elsewhere().run(command);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let words = "there is no journal in the schema elsewhere";
        assert!(exit.stderr.contains(words), "{exit:?}");
    }
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'elsewhere'";
    assert_eq!(postgres.sql(there), "0");
    // Nor does it take part in another config's journal.
    let service = service(&postgres.url(), "", folder.path()).start();
    eventually(SOON, "it is well", || is_well(&service));
    let other = config(&postgres.url(), "", folder.path());
    let other = other.replace("name: lines", "name: other");
    let exit = support::service()
        .config(&other)
        .run(&["dead-letters", "list"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let routes = "SELECT string_agg(DISTINCT route, ' ') FROM telemetryx_journal.positions";
    assert_eq!(postgres.sql(routes), "lines");
}

#[test]
fn embedded_journal_that_is_left_behind_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let away = format!(
        "routes: [ {{ name: away, sink: {{ kind: file, path: {:?} }} }} ]",
        folder.path()
    );
    let mut service = support::start(&away);
    service
        .post_json("/ingest", events(ids("left", 3)))
        .expect_status(202);
    service.terminate();
    let postgres = Postgres::start();
    service.set_config(&config(&postgres.url(), "", folder.path()));
    service.restart();
    let log = service.log();
    assert!(
        log.contains("an embedded journal lies here") && log.contains("\"events\":3"),
        "{log}"
    );
}

#[test]
fn table_of_somebody_else_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    postgres.sql("CREATE SCHEMA theirs; CREATE TABLE theirs.journal (entry text)");
    let service = service(&postgres.url(), ", schema: theirs", folder.path()).start();
    eventually(SOON, "it is said", || {
        let health = service.get("/health").json();
        let error = health["journal"]["error"].as_str().unwrap_or_default();
        error.contains("did not make") && error.contains("journal.postgres.schema")
    });
}
