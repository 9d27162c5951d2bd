//! The sink `parquet` with a real S3 server and with a folder, read by DuckDB: every event is there once with the values that
//! were sent, whoever is killed, hangs or refuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/certificates.rs"]
#[allow(dead_code, reason = "the server shakes hands here")]
mod certificates;
mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certificates::{Authority, Pair};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use support::kills::kill_under_load;
use support::parquet::{parquet_ids, parquet_rows};
use support::{Load, SOON, TS, assert_books_balance, event, events, service, settle};
use telemetryx_testkit::{S3Server, Service, eventually};
use tokio::net::{TcpListener, TcpStream};

/// A service whose route `lake` delivers there; `keys` are more keys of the sink, each with a comma before it.
fn config(url: &str, keys: &str) -> String {
    format!(
        "routes: [ {{ name: stats, sink: {{ kind: stats }} }},
          {{ name: lake, sink: {{ kind: parquet, url: '{url}'{keys} }}, batch: {{ flush_interval: 10ms }},
            retry: {{ initial: 20ms, max: 200ms }}, breaker: {{ failures: 1000000 }} }} ]"
    )
}

/// Pieces are written soon, and many.
const QUICK: &str = ", roll: { age: 100ms, bytes: 64KiB }";

fn in_folder(folder: &Path, keys: &str) -> String {
    config(&format!("file://{}", folder.display()), keys)
}

fn in_bucket(port: u16, keys: &str) -> String {
    let keys = format!(", options: {{ {} }}{keys}", S3Server::options(port));
    config(&format!("s3://{}/lake", S3Server::BUCKET), &keys)
}

fn lake(s3: &S3Server) -> PathBuf {
    s3.bucket().join("lake")
}

#[track_caller]
fn given(service: &Service, body: &str) {
    service.post_json("/ingest", body).expect_status(202);
    settle(service);
}

/// The route's sink is down, with words like these.
#[track_caller]
fn assert_down(service: &Service, words: &str) {
    eventually(SOON, words, || {
        let shown = service.get("/status").json()["routes"]["lake"].to_string();
        let health = service.get("/health").expect_status(200).json();
        shown.contains(words) && health["status"] == "degraded"
    });
}

/// Every event that was accepted is in the files once.
#[track_caller]
fn assert_exact(service: &Service, folder: &Path) -> u64 {
    settle(service);
    let accepted = assert_books_balance(service)["accepted"].as_u64().unwrap();
    let ids = parquet_ids(folder);
    let doubles: Vec<_> = ids.iter().filter(|(_, times)| **times != 1).collect();
    assert!(doubles.is_empty(), "not there once: {doubles:?}");
    assert_eq!(ids.len() as u64, accepted);
    accepted
}

/// Files below a folder whose names end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_value_is_as_it_was_sent_and_hostile_types_stay_in_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    let service = service().config(&in_folder(folder.path(), QUICK)).start();
    let types = [
        "Login",
        "..",
        "../../etc",
        "a/b",
        "a=b",
        "100%",
        "%2F",
        " x ",
        "ü\u{1f980}",
        "\"'`$(x)",
        "007",
        "__HIVE_DEFAULT_PARTITION__",
        "con:*?<>|",
        "\\",
        "~",
        "a\u{7f}b",
    ];
    let long = [
        "x".repeat(128),
        "/".repeat(128),
        "é".repeat(64),
        format!("{}y", "/".repeat(127)),
    ];
    let mut sent = vec![
        json!({"id":"0","ts":"2026-01-01T00:00:00.123456789Z","type":"Login","source":u64::MAX,"schema_version":u32::MAX,
            "partition_key":"tenant","attributes":{"a\"":"ü","b":""},"payload":{"z":1.50,"y":[null]}}),
        json!({"id":"1","ts":"1969-07-20T20:17:40Z","type":"event","source":"unknown","payload":null}),
        json!({"id":"2","ts":"1677-09-21T00:12:44Z","type":"event","source":"x' OR 1=1 --","payload":"\u{1}\u{ffff}"}),
        // The dialect of Telemetron.
        json!({"id":"3","ts":"2025-12-31T23:59:59.999999999Z","type":"Heartbeat","source":7,"payload":1}),
    ];
    let names = types.into_iter().map(str::to_owned).chain(long);
    for (n, name) in names.enumerate() {
        sent.push(json!({"id":format!("t{n}"),"ts":TS,"type":name,"source":"s","payload":{"n":n}}));
    }
    let before = time_ns();
    let taken = service.post_json("/ingest", Value::from(sent.clone()).to_string());
    assert_eq!(taken.json()["rejected"], 0, "{}", taken.text());
    settle(&service);
    let mut rows = parquet_rows(folder.path());
    assert_eq!(rows.len(), sent.len());
    for event in &sent {
        let place = rows.iter().position(|row| row["id"] == event["id"]);
        let row = rows.swap_remove(place.expect("each is there once"));
        assert_eq!(row["type"], event["type"]);
        assert_eq!(
            row["source"],
            event["source"]
                .as_str()
                .map_or_else(|| event["source"].to_string(), str::to_owned)
        );
        assert_eq!(
            row["schema_version"],
            event
                .get("schema_version")
                .cloned()
                .unwrap_or_else(|| json!(1))
        );
        assert_eq!(
            row["partition_key"],
            event.get("partition_key").cloned().unwrap_or_default()
        );
        assert_eq!(
            row["attributes"],
            event
                .get("attributes")
                .cloned()
                .unwrap_or_else(|| json!({}))
        );
        assert_eq!(row["payload"], event["payload"].to_string());
        let ts: jiff::Timestamp = event["ts"].as_str().unwrap().parse().unwrap();
        assert_eq!(i128::from(row["ts"].as_i64().unwrap()), ts.as_nanosecond());
        let received = row["received_at"].as_i64().unwrap();
        assert!((before..=time_ns()).contains(&received));
        // What the folders say is the same, as far as their names can hold it.
        let folder = &row["folder"];
        let day = event["ts"].as_str().unwrap().get(..13).unwrap();
        let hour = folder["hour"].as_u64().unwrap();
        assert_eq!(
            format!("{}T{hour:02}", folder["date"].as_str().unwrap()),
            day
        );
        let name = event["type"].as_str().unwrap();
        if name.len() < 60 {
            let shown = folder["type"].as_str();
            assert_eq!(shown.unwrap_or("__HIVE_DEFAULT_PARTITION__"), name);
        }
    }
    // Nothing lies anywhere else.
    let top: BTreeSet<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        top.iter()
            .all(|name| name.starts_with("type=") || name == "_telemetryx"),
        "{top:?}"
    );
    assert_eq!(
        files(folder.path(), ".parquet").len(),
        top.len(),
        "one for each type, and one of them in two hours"
    );
    assert_readers_find_their_way(&files(folder.path(), ".parquet")[0]);
}

fn time_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

/// Statistics, page index, filter, compression are there.
fn assert_readers_find_their_way(file: &Path) {
    let options = ReadOptionsBuilder::new().with_page_index().build();
    let reader =
        SerializedFileReader::new_with_options(File::open(file).unwrap(), options).unwrap();
    let metadata = reader.metadata();
    let group = metadata.row_group(0);
    let column = |name: &str| {
        let place =
            (0..group.num_columns()).find(|n| group.column(*n).column_path().string() == name);
        place.unwrap()
    };
    for name in [
        "id",
        "ts",
        "type",
        "source",
        "received_at",
        "attributes.key_value.key",
    ] {
        let column = group.column(column(name));
        assert!(
            column.compression().to_string().contains("ZSTD"),
            "{name}: {}",
            column.compression()
        );
        let counted = column.statistics().unwrap().null_count_opt();
        assert!(counted.is_some(), "{name}");
        assert!(
            column.column_index_offset().is_some() && column.offset_index_offset().is_some(),
            "{name}"
        );
    }
    assert!(group.column(column("id")).bloom_filter_offset().is_some());
    for name in ["type", "source"] {
        assert!(
            group
                .column(column(name))
                .dictionary_page_offset()
                .is_some(),
            "{name}"
        );
    }
}

#[test]
fn kills_of_the_service_leave_neither_gap_nor_double() {
    let s3 = S3Server::start();
    let quicker = ", roll: { age: 20ms, bytes: 64KiB }";
    let mut service = service().config(&in_bucket(s3.port(), quicker)).start();
    let tally = kill_under_load(&mut service);
    tally.assert_counted(&service);
    assert!(assert_exact(&service, &lake(&s3)) >= tally.acknowledged.len() as u64);
    // One plan is all that lies beside the files.
    assert_eq!(files(&s3.bucket(), ".json").len(), 1);
}

#[test]
fn kills_with_a_folder_leave_neither_gap_nor_double_nor_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service().config(&in_folder(folder.path(), QUICK)).start();
    let load = Load::start(&service, "f", 2, 40, 60);
    for _ in 0..4 {
        load.wait_for(1_500);
        service.kill();
        service.restart();
    }
    load.wait_for(500);
    let tally = load.stop();
    tally.assert_counted(&service);
    assert_exact(&service, folder.path());
    let torn: Vec<_> = files(folder.path(), "")
        .into_iter()
        .filter(|file| file.to_string_lossy().contains('#'))
        .collect();
    assert!(torn.len() <= 1, "{torn:?}");
}

#[test]
fn a_server_that_is_killed_or_hangs_delays_its_route_and_loses_nothing() {
    let mut s3 = S3Server::start();
    let keys = format!("{QUICK}, timeout: 500ms");
    let service = service().config(&in_bucket(s3.port(), &keys)).start();
    let load = Load::start(&service, "s", 2, 40, 60);
    load.wait_for(1_000);
    s3.kill();
    load.wait_for(1_000);
    assert_down(&service, "efused");
    s3.restart();
    load.wait_for(1_000);
    s3.hang();
    load.wait_for(1_000);
    assert_down(&service, "nothing moved for 500ms");
    s3.go_on();
    load.wait_for(1_000);
    let tally = load.stop();
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    tally.assert_counted(&service);
    assert_exact(&service, &lake(&s3));
    assert_eq!(service.get("/health").json()["status"], "healthy");
}

#[test]
fn pieces_are_written_when_they_are_old_when_they_are_large_and_at_the_end() {
    let s3 = S3Server::start();
    let mut service = service()
        .config(&in_bucket(s3.port(), ", roll: { age: 1h }"))
        .start();
    service
        .post_json("/ingest", events(["a", "b"]))
        .expect_status(202);
    eventually(SOON, "the route has read them", || {
        let read = support::metric(&service, "route_delivered_events_total{route=\"lake\"}");
        read >= 2.0
    });
    let books = assert_books_balance(&service);
    assert_eq!(books["routes"]["lake"]["pending"], 2, "kept, not delivered");
    assert!(parquet_ids(&s3.bucket()).is_empty());
    service.terminate();
    assert_eq!(parquet_ids(&lake(&s3)).len(), 2, "written at the end");

    // A piece that is larger than one part of an upload, of text that cannot be compressed.
    service.set_config(&in_bucket(s3.port(), ", roll: { age: 1h, bytes: 12MiB }"));
    service.restart();
    let mut random = 88_172_645_463_325_252_u64;
    for n in 0..30 {
        let mut payload = String::new();
        while payload.len() < 900_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            payload.push_str(&format!("{random:016x}"));
        }
        let large = json!({"id":format!("large-{n}"),"ts":TS,"payload":payload});
        service
            .post_json("/ingest", large.to_string())
            .expect_status(202);
    }
    eventually(SOON, "a large file is there", || {
        files(&lake(&s3), ".parquet")
            .iter()
            .any(|file| file.metadata().is_ok_and(|file| file.len() > 9 << 20))
    });
    let peak = service.rss_peak_kib() >> 10;
    assert!(peak < 250, "{peak} MiB");
    service.terminate();
    assert_eq!(parquet_ids(&lake(&s3)).len(), 32);
}

#[test]
fn a_dead_letter_sent_again_is_there_once_and_a_replay_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let usual = in_folder(folder.path(), QUICK);
    let strict = usual.replace(
        "retry:",
        "processors: [ { name: SchemaMigration, types: { login: { 1: { rename: { a: b } } } } } ], retry:",
    );
    let mut service = service().config(&strict).start();
    given(
        &service,
        &events(["a", "b"]).replace(r#"{"n":1}"#, r#""text""#),
    );
    given(&service, &event("c").replace("login", "other"));
    assert_eq!(parquet_ids(folder.path()).len(), 1, "two are dead");
    service.set_config(&usual);
    service.terminate();
    service.restart();
    let sent = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert_exact(&service, folder.path());
    assert_eq!(
        files(folder.path(), ".parquet")
            .iter()
            .filter(|file| file.to_string_lossy().contains("-letter-"))
            .count(),
        2
    );

    let refused = service.run(&["replay", "--route", "lake", "--from", "0"]);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("the `parquet` sink adds files"),
        "{refused:?}"
    );
    assert_exact(&service, folder.path());
}

#[test]
fn services_and_journals_share_a_bucket_without_writing_over_each_other() {
    let s3 = S3Server::start();
    let start = || service().config(&in_bucket(s3.port(), QUICK)).start();
    let (one, other) = (start(), start());
    for (service, name) in [(&one, "one"), (&other, "other")] {
        given(service, &events((0..50).map(|n| format!("{name}-{n}"))));
    }
    drop((one, other));
    // As with a data directory that was lost: the offsets begin anew.
    given(&start(), &events((0..50).map(|n| format!("third-{n}"))));
    let ids = parquet_ids(&lake(&s3));
    assert_eq!((ids.len(), ids.values().max()), (150, Some(&1)));
    assert_eq!(files(&s3.bucket(), ".json").len(), 3, "a plan each");
}

#[test]
fn what_is_unfinished_is_finished_though_filters_and_processors_stand_before_it() {
    let s3 = S3Server::start();
    let narrow = in_bucket(s3.port(), QUICK).replace(
        "retry:",
        "filter: { types: [login] }, processors: [ { name: Window, window: 1s, idle_after: 1s, by: source } ], retry:",
    );
    let mut service = service().config(&narrow).start();
    let mut expected = 0;
    for round in 0..4 {
        let body: Vec<_> = (0..400)
            .map(|n| {
                let kind = if n % 3 == 0 { "login" } else { "other" };
                let second = n % 40 + 1;
                format!(r#"{{"id":"{round}-{n}","ts":"2026-01-01T00:{round:02}:{second:02}Z","type":"{kind}","source":"s"}}"#)
            })
            .collect();
        expected += body.iter().filter(|event| event.contains("login")).count();
        service
            .post_json("/ingest", format!("[{}]", body.join(",")))
            .expect_status(202);
        eventually(SOON, "something is written", || {
            !files(&s3.bucket(), ".parquet").is_empty()
        });
        service.kill();
        service.restart();
    }
    settle(&service);
    let windows = |rows: &[Value]| {
        rows.iter()
            .filter(|row| row["type"] == "window.source")
            .count()
    };
    // Every window is closed by the clock in the end, and written.
    let counted = || {
        let rows = parquet_rows(&lake(&s3));
        let counts = rows.iter().filter(|row| row["type"] == "window.source");
        let counts = counts
            .map(|row| serde_json::from_str::<Value>(row["payload"].as_str().unwrap()).unwrap());
        let counts: u64 = counts
            .map(|window| {
                window["count"].as_u64().unwrap() + window["late_events"].as_u64().unwrap()
            })
            .sum();
        (counts, rows)
    };
    eventually(SOON, "all windows are there", || {
        counted().0 >= expected as u64
    });
    let (counts, rows) = counted();
    assert_eq!(counts, expected as u64, "no window twice");
    assert_eq!(rows.len() - windows(&rows), expected);
    let ids: BTreeSet<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len(), "each is there once");
    assert_books_balance(&service);
}

#[test]
fn windows_that_wait_to_be_saved_have_the_piece_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = in_folder(folder.path(), ", roll: { age: 1h }").replace(
        "retry:",
        "processors: [ { name: Window, window: 1s, max_open_windows: 5 } ], retry:",
    );
    let service = service().config(&config).start();
    for second in 10..50 {
        let ts = format!("2026-01-01T00:00:{second}Z");
        let one = event(&second.to_string()).replace(TS, &ts);
        service.post_json("/ingest", one).expect_status(202);
    }
    eventually(SOON, "events are written before the hour is over", || {
        !parquet_rows(folder.path()).is_empty()
    });
    assert_books_balance(&service);
}

#[test]
fn a_secret_from_a_file_needs_no_restart_and_shows_nowhere() {
    let s3 = S3Server::start();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("secret");
    std::fs::write(&file, "wrong-hunter2\n").unwrap();
    let secret = format!("secret_access_key_file: {file:?}");
    let config = in_bucket(s3.port(), QUICK).replace("secret_access_key: test1234", &secret);
    assert!(config.contains("secret_access_key_file"), "{config}");
    let service = service().config(&config).start();
    service.post_json("/ingest", event("a")).expect_status(202);
    assert_down(&service, "SignatureDoesNotMatch");
    std::fs::write(&file, "test1234\n").unwrap();
    assert_eq!(assert_exact(&service, &lake(&s3)), 1);
    let shown = service.run(&["check"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for text in [
        service.log(),
        format!("{shown:?}"),
        service.get("/status").text().to_owned(),
    ] {
        assert!(
            !text.contains("hunter2") && !text.contains("test1234"),
            "{text}"
        );
    }
}

#[test]
fn tls_is_spoken_with_the_authority_that_is_named() {
    let s3 = S3Server::start();
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::new(scratch.path(), "ca");
    let stranger = Authority::new(scratch.path(), "stranger");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(terminate_tls(listener, authority.issue("s3"), s3.port()));
    let config = |ca: &Path| {
        let plain = in_bucket(port, &format!("{QUICK}, tls: {{ ca_file: {ca:?} }}"));
        plain.replace("http://", "https://")
    };
    let mut service = service().config(&config(&stranger.file)).start();
    service.post_json("/ingest", event("a")).expect_status(202);
    assert_down(&service, "certificate");
    service.set_config(&config(&authority.file));
    service.terminate();
    service.restart();
    assert_eq!(assert_exact(&service, &lake(&s3)), 1);
}

/// Takes TLS off what comes, and hands it on.
async fn terminate_tls(listener: TcpListener, pair: Pair, upstream: u16) {
    let chain = vec![CertificateDer::from_pem_file(&pair.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    while let Ok((socket, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(mut client) = acceptor.accept(socket).await {
                let mut server = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut server)
                    .await
                    .ok();
            }
        });
    }
}
