//! The sinks `file` and `stdout`: what was accepted is there as lines that can be posted again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use support::{Load, SOON, TS, assert_books_balance, event, events, service, settle, start};
use telemetryx_testkit::{Service, TestSeed, eventually};

fn to_file(path: &Path, more: &str) -> String {
    format!("routes: [ {{ name: lines, sink: {{ kind: file, path: {path:?}{more} }} }} ]")
}

/// The lines of every file in the folder, the newest file last.
fn lines(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
        lines.extend(
            text.lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()),
        );
    }
    lines
}

fn ids(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect()
}

#[test]
fn line_is_the_event_and_can_be_posted_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(&to_file(&folder.path().join("out.ndjson"), ""));
    let sent = format!(
        "{{\"id\":\"a\",\"ts\":\"{TS}\",\"type\":\"login\",\"source\":7,\"schema_version\":2,\"partition_key\":\"k\",\
         \"attributes\":{{\"room\":\"\u{e9}\\n\"}},\"payload\":{{\n\"n\": 1.50}}}}"
    );
    first.post_json("/ingest", &sent).expect_status(202);
    settle(&first);
    let written = lines(folder.path());
    let mut expected: Value = serde_json::from_str(&sent).unwrap();
    expected["received_at"] = written[0]["received_at"].clone();
    assert_eq!(written, [expected]);

    let again = tempfile::tempdir().unwrap();
    let second = start(&to_file(&again.path().join("out.ndjson"), ""));
    let text = std::fs::read(folder.path().join("out.ndjson")).unwrap();
    second
        .post("/ingest", "application/x-ndjson", &text)
        .expect_status(202);
    settle(&second);
    let mut copied = lines(again.path());
    copied[0]["received_at"] = written[0]["received_at"].clone();
    assert_eq!(copied, written);
    assert_eq!(copied[0]["payload"].to_string(), r#"{"n":1.5}"#);
}

#[test]
fn file_is_rotated_by_size_and_no_line_is_lost_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.ndjson");
    let service = start(&to_file(&path, ", rotate: { bytes: 20KiB, age: 1h }"));
    let renamed = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files
            .filter(|file| file.as_ref().unwrap().path() != path)
            .count()
    };
    for round in 0..3 {
        // An event takes some 190 bytes as a line.
        let ids = (0..150).map(|n| format!("{round}-{n}"));
        service.post_json("/ingest", events(ids)).expect_status(202);
        eventually(SOON, "the file is renamed", || renamed() == round + 1);
    }
    service
        .post_json("/ingest", event("last"))
        .expect_status(202);
    settle(&service);
    let written = lines(folder.path());
    let distinct: HashSet<_> = ids(&written).into_iter().collect();
    assert_eq!((written.len(), distinct.len(), renamed()), (451, 451, 3));
    assert!(distinct.contains("last") && path.exists());
}

#[test]
fn file_that_cannot_be_renamed_goes_on_growing_and_no_line_is_doubled() {
    let folder = tempfile::tempdir().unwrap();
    // A name that is possible, with a time behind it that is not.
    let path = folder.path().join("n".repeat(250));
    let service = start(&to_file(&path, ", rotate: { bytes: 1KiB }"));
    for round in 0..5 {
        let ids = (0..20).map(|n| format!("{round}-{n}"));
        service.post_json("/ingest", events(ids)).expect_status(202);
        settle(&service);
        // What is committed is flushed.
        eventually(SOON, "the file is to be renamed", || {
            service.log().contains("cannot be renamed")
        });
    }
    assert_books_balance(&service);
    assert_eq!(service.get("/health").json()["status"], "healthy");
    let written = lines(folder.path());
    let distinct: HashSet<_> = ids(&written).into_iter().collect();
    assert_eq!((written.len(), distinct.len()), (100, 100));
    assert_eq!(service.log().matches("cannot be renamed").count(), 1);

    // Somebody else renames it: another one is begun.
    let aside = folder.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    for n in 0..3 {
        service
            .post_json("/ingest", event(&format!("x{n}")))
            .expect_status(202);
        eventually(SOON, "it is written", || {
            ids(&lines(folder.path())).contains(&format!("x{n}").as_str())
        });
    }
    eventually(SOON, "there is another one", || path.exists());
    let written = lines(folder.path());
    let distinct: HashSet<_> = ids(&written).into_iter().collect();
    assert_eq!((written.len(), distinct.len()), (103, 103));
}

#[test]
fn kills_under_load_lose_no_line_and_tear_none() {
    let mut seed = TestSeed::new();
    let folder = tempfile::tempdir().unwrap();
    let mut service = start(&to_file(
        &folder.path().join("out.ndjson"),
        ", rotate: { bytes: 256KiB }",
    ));
    let load = Load::start(&service, "k", 2, 20, 50);
    for _ in 0..5 {
        load.wait_for(500 + seed.below(2000));
        service.kill();
        service.restart();
    }
    let tally = load.stop();
    settle(&service);
    assert_books_balance(&service);
    let written = lines(folder.path());
    let written: HashSet<_> = ids(&written).into_iter().collect();
    let lost = tally
        .acknowledged
        .iter()
        .filter(|id| !written.contains(id.as_str()));
    assert_eq!(lost.count(), 0);
}

#[test]
fn torn_last_line_is_removed_and_what_is_before_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.ndjson");
    let mut torn = File::create(&path).unwrap();
    writeln!(torn, "{}", json!({"id": "old"})).unwrap();
    write!(torn, "{{\"id\":\"{}", "x".repeat(200_000)).unwrap();
    let service = start(&to_file(&path, ""));
    service
        .post_json("/ingest", event("new"))
        .expect_status(202);
    settle(&service);
    assert_eq!(ids(&lines(folder.path())), ["old", "new"]);
    assert!(service.log().contains("a torn last line was removed"));
}

#[test]
fn file_that_cannot_be_written_degrades_the_route_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later").join("out.ndjson");
    let more = "retry: { initial: 5ms, max: 50ms }";
    let config = to_file(&path, "").replace("sink:", &format!("{more}, sink:"));
    let service = start(&config);
    service.post_json("/ingest", event("a")).expect_status(202);
    eventually(SOON, "the route is down", || {
        service.get("/health").json()["status"] == "degraded"
    });
    std::fs::create_dir(folder.path().join("later")).unwrap();
    settle(&service);
    assert_eq!(ids(&lines(&folder.path().join("later"))), ["a"]);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn stdout_has_the_events_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let prepared: Service = {
        let mut service = service()
            .config("routes: [ { name: lines, sink: { kind: stdout } } ]")
            .start();
        service.kill();
        service
    };
    let child = prepared
        .command()
        .stdout(File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    eventually(SOON, "the service answers", || {
        telemetryx_testkit::Connection::open(&prepared.address()).is_ok()
    });
    prepared.post_json("/ingest", event("a")).expect_status(202);
    prepared.post_json("/ingest", event("b")).expect_status(202);
    eventually(SOON, "both are printed", || {
        std::fs::read_to_string(&out).unwrap().lines().count() == 2
    });
    let text = std::fs::read_to_string(&out).unwrap();
    let printed: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(ids(&printed), ["a", "b"]);
}
