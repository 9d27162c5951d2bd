//! `telemetryx journal export|import` when something goes wrong: files that are cut, changed or foreign, journals that are not
//! empty or still in use, kills, a full disk, a large journal, what retention has removed, sinks that know offsets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs
)]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{SOON, TS, assert_books_balance, events, service, start, stored};
use telemetryx_testkit::{Exit, RedisServer, Service, SmallDisk, eventually};
use tempfile::TempDir;

/// How long many events may take on a busy machine.
const LONG: Duration = Duration::from_secs(180);
const STORE: &str = "routes: [ { name: store, sink: { kind: sqlite } } ]";

/// Waits until no route has anything before it.
#[track_caller]
fn settle(service: &Service) {
    eventually(LONG, "every route has passed everything", || {
        let ledger = service.get("/ledger").json();
        let routes = ledger["routes"].as_object().unwrap().clone();
        routes.values().all(|route| route["pending"] == 0)
    });
}

/// A service that has stopped, with so many events delivered.
fn stopped(config: &str, count: usize) -> Service {
    let mut service = start(config);
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        let ids = batch.iter().map(|number| format!("e-{number}"));
        service.post_json("/ingest", events(ids)).expect_status(202);
    }
    settle(&service);
    service.terminate();
    service
}

/// Where the journal goes on.
struct Next {
    folder: TempDir,
    config: String,
}

impl Next {
    fn new(config: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            config: config.to_owned(),
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn import(&self, file: &Path) -> Exit {
        self.run(&["journal", "import", text(file)])
    }

    fn run(&self, arguments: &[&str]) -> Exit {
        let builder = service().config(&self.config).data_dir(&self.data_dir());
        builder.run(arguments)
    }

    fn start(&self) -> Service {
        let builder = service().config(&self.config).data_dir(&self.data_dir());
        builder.start()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn export(service: &Service, file: &Path) -> String {
    let exit = service.run(&["journal", "export", text(file)]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout
}

/// It ended in exit 1 with a line that has these words.
#[track_caller]
fn assert_refused(exit: &Exit, words: &str) {
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.starts_with("telemetryx: "), "{exit:?}");
    assert!(exit.stderr.contains(words), "{words}: {exit:?}");
}

/// So many events are in the journal, and all are delivered.
#[track_caller]
fn assert_goes_on(next: &Next, count: usize) {
    let service = next.start();
    settle(&service);
    let ledger = assert_books_balance(&service);
    assert_eq!(ledger["accepted"], count, "{ledger}");
    service
        .post_json("/ingest", events(["after"]))
        .expect_status(202);
    settle(&service);
    assert_eq!(assert_books_balance(&service)["accepted"], count + 1);
}

#[test]
fn files_that_are_cut_changed_or_foreign_are_refused_before_anything_is_written() {
    let old = stopped(STORE, 300);
    let next = Next::new(STORE);
    let file = next.folder.path().join("export");
    export(&old, &file);
    let good = fs::read(&file).unwrap();
    let broken = next.folder.path().join("broken");
    let cut = |length: usize| good[..length].to_vec();
    let flipped = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 0x10;
        bytes
    };
    let mut twice = good.clone();
    twice.extend_from_slice(&good);
    let middle = good.len() / 2;
    for (bytes, words) in [
        (cut(good.len() - 1), "not whole"),
        (cut(middle), "not whole"),
        (cut(10), "no file of"),
        (Vec::new(), "no file of"),
        (flipped(middle), "damaged"),
        (flipped(good.len() - 3), "damaged"),
        (twice, "goes on behind its end"),
        (
            fs::read(env!("CARGO_BIN_EXE_telemetryx")).unwrap(),
            "no file of",
        ),
        (
            b"telemetryx journal export 9\nwhatever".to_vec(),
            "version 9",
        ),
    ] {
        fs::write(&broken, bytes).unwrap();
        let exit = next.import(&broken);
        assert_refused(&exit, words);
        assert!(exit.stderr.contains("Nothing was changed"), "{exit:?}");
        assert!(!next.data_dir().exists(), "{words}");
    }
    assert_refused(&next.import(Path::new("/nowhere")), "No such file");
    let exit = next.import(&file);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_goes_on(&next, 300);
}

#[test]
fn journal_that_is_not_empty_is_refused_and_it_is_said_how_to_empty_it() {
    let old = stopped(STORE, 50);
    let next = Next::new(STORE);
    let file = next.folder.path().join("export");
    export(&old, &file);
    let mut other = next.start();
    other
        .post_json("/ingest", events(["other"]))
        .expect_status(202);
    settle(&other);
    assert_refused(&next.import(&file), "in use by process");
    other.terminate();
    let exit = next.import(&file);
    assert_refused(&exit, "the journal is not empty");
    // It is done as it is said.
    let said = exit.stderr.split('`').nth(1).expect("a command").to_owned();
    let done = std::process::Command::new("sh")
        .args(["-c", &said])
        .status();
    assert!(done.unwrap().success(), "{said}");
    assert_eq!(next.import(&file).code, Some(0));
    assert_goes_on(&next, 50);
    // What it has is not taken in again.
    assert_refused(&next.import(&file), "the journal is not empty");
}

#[test]
fn journal_that_took_over_books_alone_is_not_empty() {
    let old = stopped(STORE, 50);
    let next = Next::new(STORE);
    let file = next.folder.path().join("export");
    let name = text(&file);
    let exit = old.run(&["journal", "export", name, "--only-undelivered"]);
    assert!(exit.stdout.starts_with("0 events"), "{exit:?}");
    let exit = next.import(&file);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(
        exit.stdout.contains("50 more were accepted before"),
        "{exit:?}"
    );
    assert_refused(&next.import(&file), "the journal is not empty");
    assert_goes_on(&next, 50);
}

#[test]
fn service_that_runs_is_not_exported_and_a_file_that_is_there_is_kept() {
    let mut service = start(STORE);
    service
        .post_json("/ingest", events(["a"]))
        .expect_status(202);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export");
    let exit = service.run(&["journal", "export", text(&file)]);
    assert_refused(&exit, "in use by process");
    assert!(exit.stderr.contains("stop the service first"), "{exit:?}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    service.terminate();
    fs::write(&file, "mine").unwrap();
    let exit = service.run(&["journal", "export", text(&file)]);
    assert_refused(&exit, "is there already");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let nowhere = Next::new(STORE);
    assert_refused(&nowhere.run(&["journal", "export", "x"]), "no journal");
    assert!(!nowhere.data_dir().exists());
}

#[test]
fn from_standard_output_to_standard_input_without_a_file() {
    let old = stopped(STORE, 500);
    let next = Next::new(STORE);
    let mut from = old.command();
    let mut from = from
        .args(["journal", "export", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut whole = Vec::new();
    from.stdout.take().unwrap().read_to_end(&mut whole).unwrap();
    let told = from.wait_with_output().unwrap();
    assert!(told.status.success());
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("500 events"), "{told}");

    // A stream that ends early is seen only at its end.
    let exit = import_stream(&next, &whole[..whole.len() - 30]);
    assert_refused(&exit, "not whole");
    assert!(exit.stderr.contains("To make it empty"), "{exit:?}");
    assert_refused(&import_stream(&next, &whole), "the journal is not empty");
    fs::remove_dir_all(next.data_dir()).unwrap();
    let exit = import_stream(&next, &whole);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_goes_on(&next, 500);
}

/// The command that imports what is written to it.
fn import_from_input(next: &Next) -> Child {
    let config = next.folder.path().join("config.yaml");
    fs::write(&config, &next.config).unwrap();
    std::process::Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(["--config", text(&config), "journal", "import", "-"])
        .env("TELEMETRYX_DATA_DIR", next.data_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn import_stream(next: &Next, bytes: &[u8]) -> Exit {
    let mut child = import_from_input(next);
    let mut input = child.stdin.take().unwrap();
    // Where it refuses at once, nobody reads to the end.
    input.write_all(bytes).ok();
    drop(input);
    let output = child.wait_with_output().unwrap();
    Exit {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Starts a command of this service.
fn spawn(service: &Service, arguments: &[&str]) -> Child {
    let mut command = service.command();
    let command = command.args(arguments).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().unwrap()
}

/// Large enough that a command on it can be killed on its way.
fn large(config: &str, batches: usize) -> (Service, usize) {
    let mut service = start(config);
    let payload = "x".repeat(900);
    let mut connection = service.connect();
    for batch in 0..batches {
        let events: Vec<_> = (0..1000)
            .map(|n| {
                format!(
                    r#"{{"id":"{batch}-{n}","ts":"{TS}","source":"s{}","payload":"{payload}"}}"#,
                    n % 50
                )
            })
            .collect();
        let body = format!("[{}]", events.join(","));
        let json = [("content-type", "application/json")];
        let answer = connection.request("POST", "/ingest", &json, body.as_bytes());
        answer.unwrap().expect_status(202);
    }
    eventually(LONG, "all is counted", || {
        service.get("/ledger").json()["routes"]["stats"]["pending"] == 0
    });
    service.terminate();
    (service, batches * 1000)
}

const COUNTS: &str = "routes: [ { name: stats, sink: { kind: stats } } ]";

#[test]
fn export_that_is_killed_leaves_nothing_that_is_taken_for_whole() {
    let (old, count) = large(COUNTS, 40);
    let next = Next::new(COUNTS);
    let file = next.folder.path().join("export");
    let partial = next.folder.path().join("export.partial");
    export(&old, &file);
    assert!(!partial.exists());
    let size = fs::metadata(&file).unwrap().len();
    let mut refused = 0;
    for quarter in 0..4 {
        fs::remove_file(&file).unwrap();
        let mut child = spawn(&old, &["journal", "export", text(&file)]);
        let written = || fs::metadata(&partial).map_or(0, |data| data.len());
        while written() <= size * quarter / 4 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if !file.exists() {
            // A kill between the last byte and the name leaves it whole.
            if fs::metadata(&partial).unwrap().len() < size {
                assert_refused(&next.import(&partial), "");
                assert!(!next.data_dir().exists());
                refused += 1;
            }
            export(&old, &file);
        }
        assert!(!partial.exists());
        assert_eq!(fs::metadata(&file).unwrap().len(), size);
    }
    assert!(refused > 0, "it was never killed on its way");
    assert_eq!(next.import(&file).code, Some(0));
    assert_goes_on(&next, count);
}

#[test]
fn import_that_is_killed_leaves_a_journal_that_is_refused() {
    let (old, count) = large(COUNTS, 40);
    let next = Next::new(COUNTS);
    let file = next.folder.path().join("export");
    export(&old, &file);
    let whole = fs::read(&file).unwrap();
    for tenths in [1, 4, 7, 9] {
        let mut child = import_from_input(&next);
        let input = child.stdin.as_mut().unwrap();
        input
            .write_all(&whole[..whole.len() * tenths / 10])
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_refused(&next.import(&file), "the journal is not empty");
        fs::remove_dir_all(next.data_dir()).unwrap();
    }
    assert_eq!(next.import(&file).code, Some(0));
    assert_goes_on(&next, count);
}

/// The most memory that a command takes, in KiB.
fn peak_kib(mut child: Child) -> u64 {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn memory_stays_small_however_large_the_journal_is() {
    let (old, count) = large(COUNTS, 200);
    let next = Next::new(COUNTS);
    let file = next.folder.path().join("export");
    let begun = Instant::now();
    let export = peak_kib(spawn(&old, &["journal", "export", text(&file)]));
    let exported = begun.elapsed();
    let bytes = fs::metadata(&file).unwrap().len();
    assert!(bytes > 180 << 20, "{bytes}");
    let idle = service()
        .config(&next.config)
        .data_dir(&next.data_dir())
        .start_nothing();
    let begun = Instant::now();
    let import = peak_kib(spawn(&idle, &["journal", "import", text(&file)]));
    println!(
        "{count} events, {bytes} bytes: export {exported:?}, {export} KiB; import {:?}, {import} KiB",
        begun.elapsed()
    );
    // The journal reads by blocks of 8 MiB, and takes bodies to be written.
    for peak in [export, import] {
        assert!(peak < 120 * 1024, "{peak} KiB, of a file of {bytes} bytes");
    }
    assert_goes_on(&next, count);
}

#[test]
fn full_disk_is_said_and_leaves_no_part_of_a_file() {
    let (old, count) = large(COUNTS, 4);
    let disk = SmallDisk::of_kib(1024);
    let file = disk.path().join("export");
    let exit = old.run(&["journal", "export", text(&file)]);
    assert_refused(&exit, "No space left on device");
    assert_eq!(disk.path().read_dir().unwrap().count(), 0);
    // Nothing happened to the journal.
    let next = Next::new(COUNTS);
    let file = next.folder.path().join("export");
    export(&old, &file);
    let small = service().config(COUNTS).data_dir(&disk.path().join("data"));
    let exit = small.run(&["journal", "import", text(&file)]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(
        exit.stderr.to_lowercase().contains("no space left"),
        "{exit:?}"
    );
    assert_eq!(next.import(&file).code, Some(0));
    assert_goes_on(&next, count);
}

#[test]
fn counts_in_memory_go_along_from_files_to_files() {
    let config = "routes: [ { name: stats, sink: { kind: stats } }, { name: store, sink: { kind: sqlite } } ]";
    let old = stopped(config, 230);
    let next = Next::new(config);
    let file = next.folder.path().join("export");
    export(&old, &file);
    let exit = next.import(&file);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let service = next.start();
    service
        .post_json("/ingest", events(["new-1", "new-2"]))
        .expect_status(202);
    settle(&service);
    let stats = service.get("/stats").json();
    assert_eq!(stats["events_count"], 232, "{stats}");
    // What the store keeps lies elsewhere, and stays where it was.
    assert_eq!(stored(&service).len(), 2);
}

#[test]
fn what_retention_has_removed_stays_in_the_books() {
    let routes = "{ name: stats, sink: { kind: stats } }, { name: away, sink: { kind: stats }, filter: { types: [none] } }";
    let config = format!(
        "journal: {{ embedded: {{ segment_size: 64KiB, retain: {{ bytes: 128KiB }} }} }}\nroutes: [ {routes} ]"
    );
    let mut old = stopped(&config, 3000);
    old.restart();
    let before = assert_books_balance(&old);
    let start_offset = old.get("/status").json()["journal"]["start_offset"]
        .as_u64()
        .unwrap();
    assert!(start_offset > 0, "something was removed");
    old.terminate();
    // A route that is new there has missed what was removed.
    let next = Next::new(&format!(
        "routes: [ {routes}, {{ name: late, sink: {{ kind: stats }} }} ]\nquery: {{ counters_from: stats }}"
    ));
    let file = next.folder.path().join("export");
    let told = export(&old, &file);
    assert!(told.contains("are not in it"), "{told}");
    let exit = next.import(&file);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(
        exit.stdout.contains("route `late` had no position"),
        "{exit:?}"
    );
    let mut service = next.start();
    for _ in 0..2 {
        settle(&service);
        let after = assert_books_balance(&service);
        assert_eq!(after["accepted"], before["accepted"]);
        for route in ["stats", "away"] {
            assert_eq!(after["routes"][route], before["routes"][route], "{route}");
        }
        assert_eq!(after["routes"]["late"]["expired"], start_offset, "{after}");
        // And once more, from what was committed by then.
        service.terminate();
        service.restart();
    }

    // The same without what all have passed.
    let small = Next::new(COUNTS);
    let file = small.folder.path().join("export");
    let arguments = ["journal", "export", "--only-undelivered", text(&file)];
    let told = old.run(&arguments);
    assert!(told.stdout.starts_with("0 events"), "{told:?}");
    let exit = small.import(&file);
    assert!(
        exit.stdout.contains("route `away` is not in the config"),
        "{exit:?}"
    );
    let service = small.start();
    let after = assert_books_balance(&service);
    assert_eq!(after["accepted"], before["accepted"]);
    assert_eq!(after["routes"]["stats"], before["routes"]["stats"]);
}

#[test]
fn redis_counts_each_event_once_and_a_route_that_was_killed_is_ended_in_order_first() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let config = format!(
        "routes: [ {{ name: counters, sink: {{ kind: redis, url: {:?}, timeout: 1s }},
            retry: {{ initial: 20ms, max: 100ms }}, breaker: {{ open_for: 50ms }} }} ]
query: {{ counters_from: counters }}",
        redis.url()
    );
    let counted = |redis: &RedisServer| {
        redis
            .ask(&["HGET", "{telemetryx}:totals", "events"])
            .text()
            .to_owned()
    };
    let mut old = stopped(&config, 100);
    old.restart();
    redis.kill();
    old.post_json("/ingest", events(["late-1", "late-2"]))
        .expect_status(202);
    eventually(SOON, "the sink is down", || {
        old.get("/health").json()["routes"]["counters"]["state"] == "down"
    });
    old.kill();
    let next = Next::new(&config);
    let file = next.folder.path().join("export");
    let exit = old.run(&["journal", "export", text(&file)]);
    assert_refused(&exit, "did not end in order");
    assert!(exit.stderr.contains("--accept-doubles"), "{exit:?}");
    assert!(!file.exists());
    redis.restart();
    old.restart();
    settle(&old);
    old.terminate();
    export(&old, &file);
    assert_eq!(next.import(&file).code, Some(0));
    let service = next.start();
    service
        .post_json("/ingest", events(["new"]))
        .expect_status(202);
    settle(&service);
    assert_books_balance(&service);
    assert_eq!(counted(&redis), "103");
    let stats: Value = service.get("/stats").json();
    assert_eq!(stats["events_count"], 103, "{stats}");
}

#[test]
fn file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let old = stopped(STORE, 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export");
    export(&old, &file);
    let mode = File::open(&file)
        .unwrap()
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[cfg(feature = "kafka")]
mod with_kafka {
    use telemetryx_testkit::Kafka;

    use super::*;
    use support::Load;

    fn config(kafka: &Kafka, topic: &str, store: &Path, more: &str) -> String {
        format!(
            "journal: {{ engine: kafka, kafka: {{ brokers: {:?}, topic: {topic}, group_prefix: {topic}, partitions: 4 }} }}
routes: [ {{ name: store, sink: {{ kind: sqlite, path: {store:?} }} }}{more} ]",
            kafka.brokers()
        )
    }

    #[test]
    fn fleet_that_takes_in_is_noticed() {
        let kafka = Kafka::start();
        let folder = tempfile::tempdir().unwrap();
        let config = config(&kafka, "busy", &folder.path().join("store.db"), "");
        let mut old = start(&config);
        let load = Load::start(&old, "busy", 1, 3, 100);
        load.wait_for(300);
        let file = folder.path().join("export");
        let exit = old.run(&["journal", "export", text(&file)]);
        assert_refused(&exit, "the journal moved while it was exported");
        assert!(exit.stderr.contains("Stop every process"), "{exit:?}");
        assert!(!file.exists() && !folder.path().join("export.partial").exists());
        let tally = load.stop();
        tally.assert_kept_without_counters(&old);
        old.terminate();
        export(&old, &file);
        let next = Next::new(STORE);
        assert_eq!(next.import(&file).code, Some(0));
        assert_goes_on(&next, tally.acknowledged.len());
    }

    #[test]
    fn topic_that_is_not_empty_is_refused_and_can_be_made_anew() {
        let old = stopped(
            "routes: [ { name: store, sink: { kind: sqlite } }, { name: stats, sink: { kind: stats } } ]",
            120,
        );
        let kafka = Kafka::start();
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store.db");
        let file = folder.path().join("export");
        export(&old, &file);

        // What keeps all it knows in memory is not for many processes.
        let next = Next::new(&config(
            &kafka,
            "new",
            &store,
            ", { name: stats, sink: { kind: stats } }",
        ));
        let exit = next.import(&file);
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.stderr.contains("routes[1].sink (stats)"), "{exit:?}");

        let next = Next::new(&config(&kafka, "new", &store, ""));
        let exit = next.import(&file);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert!(
            exit.stdout.contains("route `stats` is not in the config"),
            "{exit:?}"
        );
        let exit = next.import(&file);
        assert_refused(&exit, "the journal is not empty");
        assert!(exit.stderr.contains("`new` and `new.control`"), "{exit:?}");
        for topic in ["new", "new.control"] {
            kafka.delete_topic(topic);
        }
        let exit = next.import(&file);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert_goes_on(&next, 120);
    }
}
