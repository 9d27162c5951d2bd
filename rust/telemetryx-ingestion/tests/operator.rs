//! What an operator does at the command line: look at what was refused, send it again, deliver again what a sink lost,
//! look into the journal. On the real binary, with the service running and stopped.
#![allow(missing_docs, clippy::unwrap_used, clippy::string_slice)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use telemetryx_testkit::{Service, eventually};

const BIN: &str = env!("CARGO_BIN_EXE_telemetryx");
const SOON: Duration = Duration::from_secs(20);

/// `count` events with ids `<prefix>-0`, `<prefix>-1`, …
fn events(prefix: &str, count: usize) -> String {
    let events: Vec<_> = (0..count)
        .map(|n| {
            json!({ "id": format!("{prefix}-{n}"), "ts": "2026-01-01T00:00:00Z", "source": "door", "payload": { "n": n } })
        })
        .collect();
    json!(events).to_string()
}

#[track_caller]
fn accept(service: &Service, events: impl AsRef<[u8]>) {
    service.post_json("/ingest", events).expect_status(202);
}

/// The ids that `/events` shows, sorted.
#[track_caller]
fn stored(service: &Service) -> Vec<String> {
    try_stored(service).expect("/events answers")
}

/// As `stored`; `None` while the store is not there yet.
fn try_stored(service: &Service) -> Option<Vec<String>> {
    let page = service.get("/events?limit=1000");
    if page.status != 200 {
        return None;
    }
    let page = page.json();
    let events = page["events"].as_array().expect("a page has events");
    let mut ids: Vec<_> = events
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    Some(ids)
}

#[track_caller]
fn wait_until_stored(service: &Service, count: usize) {
    eventually(SOON, "the events are in /events", || {
        try_stored(service).is_some_and(|ids| ids.len() == count)
    });
}

/// The ledger once nothing is pending; the books must balance.
#[track_caller]
fn settled_ledger(service: &Service) -> Value {
    let mut ledger = Value::Null;
    eventually(SOON, "nothing is pending", || {
        ledger = service.get("/ledger").expect_status(200).json();
        let mut routes = ledger["routes"].as_object().unwrap().values();
        routes.all(|route| route["pending"] == 0)
    });
    for (name, route) in ledger["routes"].as_object().unwrap() {
        assert_eq!(route["difference"], 0, "route {name} in {ledger}");
    }
    ledger
}

/// Runs a command that must end with `code`; returns what it printed.
#[track_caller]
fn run(service: &Service, arguments: &[&str], code: i32) -> String {
    let exit = service.run(arguments);
    assert_eq!(exit.code, Some(code), "{arguments:?}: {exit:?}");
    if code == 0 {
        exit.stdout
    } else {
        exit.stdout + &exit.stderr
    }
}

fn segment_files(service: &Service) -> Vec<PathBuf> {
    let folder = service.data_dir().join("journal").read_dir().unwrap();
    let mut files: Vec<_> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
        .collect();
    files.sort();
    files
}

/// Changes one byte where `text` stands, and says where that is.
fn flip_a_byte_at(file: &Path, text: &str) -> u64 {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes())
        .expect("the text is in the file");
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
    at as u64
}

#[test]
fn refused_event_is_seen_and_sent_again_once_the_cause_is_mended() {
    let mut service = Service::builder(BIN)
        .config("validation: { required: [source] }")
        .start();
    let answer = service.post_json(
        "/ingest",
        r#"[{"id":"good","ts":"2026-01-01T00:00:00Z","source":"a"},{"id":"late","ts":"2026-01-01T00:00:00Z","payload":{"π":3}}]"#,
    );
    assert_eq!(answer.expect_status(202).json()["rejected"], 1);

    let list = run(&service, &["dead-letters", "list"], 0);
    assert!(
        list.contains("validation") && list.contains("source"),
        "{list}"
    );
    assert!(list.ends_with("\n1 dead letter.\n"), "{list}");
    let json = run(&service, &["dead-letters", "list", "--json"], 0);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["count"], 1);
    let id = json["dead_letters"][0]["id"].to_string();
    let shown = run(&service, &["dead-letters", "show", &id], 0);
    assert!(
        shown.contains(r#"{"id":"late","ts":"2026-01-01T00:00:00Z","payload":{"π":3}}"#),
        "{shown}"
    );
    assert!(
        run(
            &service,
            &["dead-letters", "list", "--stage", "delivery"],
            0
        )
        .contains("No dead letters")
    );
    let hint = run(&service, &["dead-letters", "redrive"], 2);
    assert!(hint.contains("--all"), "{hint}");
    assert!(run(&service, &["dead-letters", "show", "999"], 1).contains("no dead letter 999"));

    // Nothing is mended yet: it is refused again.
    let again = run(&service, &["dead-letters", "redrive", "--all", "--wait"], 1);
    assert!(again.contains("0 sent again, 1 dead again"), "{again}");
    let shown = run(&service, &["dead-letters", "show", &id, "--json"], 0);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["redrives"], &shown["event"]["id"]),
        (&json!(1), &json!("late"))
    );
    let before = settled_ledger(&service);

    service.set_config("validation: { required: [] }");
    assert!(service.terminate().success());
    service.restart();
    let sent = run(
        &service,
        &["dead-letters", "redrive", "--id", &id, "--wait"],
        0,
    );
    assert!(
        sent.contains(&format!("process {}", service.pid())),
        "{sent}"
    );
    assert!(sent.contains("1 sent again, 0 dead again"), "{sent}");
    wait_until_stored(&service, 2);
    assert_eq!(stored(&service), ["good", "late"]);
    assert_eq!(
        run(&service, &["dead-letters", "list"], 0),
        "No dead letters.\n"
    );
    let after = settled_ledger(&service);
    assert_eq!(after["accepted"], 2);
    assert_eq!(after["door"]["refused"], before["door"]["refused"]);
}

#[test]
fn letters_marked_while_the_service_is_stopped_are_sent_at_its_next_start() {
    let mut service = Service::builder(BIN)
        .config("validation: { required: [type] }")
        .start();
    service
        .post_json("/ingest", events("late", 3))
        .expect_status(400);
    assert!(service.terminate().success());
    let marked = run(
        &service,
        &["dead-letters", "redrive", "--stage", "validation"],
        0,
    );
    assert!(
        marked.starts_with("3 dead letters") && marked.contains("at its next start"),
        "{marked}"
    );
    assert!(run(&service, &["dead-letters", "list"], 0).contains("(to be sent again)"));
    let waited = run(&service, &["dead-letters", "redrive", "--all", "--wait"], 1);
    assert!(
        waited.contains("3 of them on the way already") && waited.contains("no service runs"),
        "{waited}"
    );
    service.set_config("validation: { required: [] }");
    service.restart();
    wait_until_stored(&service, 3);
    eventually(SOON, "the letters are gone", || {
        service.run(&["dead-letters", "list"]).stdout == "No dead letters.\n"
    });
}

#[test]
fn directory_without_a_service_is_said_in_one_line_and_not_made() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing");
    for arguments in [
        &["dead-letters", "list"][..],
        &["dead-letters", "redrive", "--all"],
        &["journal", "inspect"],
        &["journal", "verify"],
        &["journal", "cat"],
        &["replay", "--route", "store", "--from", "0"],
    ] {
        for dir in [&missing, &scratch.path().to_owned()] {
            let mut arguments = arguments.to_vec();
            arguments.extend(["--data-dir", dir.to_str().unwrap()]);
            let exit = Service::builder(BIN).run(&arguments);
            assert_eq!(
                (exit.code, exit.stdout.as_str()),
                (Some(1), ""),
                "{arguments:?} {exit:?}"
            );
            assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
            assert!(
                exit.stderr.contains(dir.to_str().unwrap()),
                "{}",
                exit.stderr
            );
        }
    }
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
}

#[test]
fn replay_restores_what_a_sink_lost_and_changes_no_book() {
    let mut service = Service::start(BIN);
    accept(&service, events("a", 100));
    wait_until_stored(&service, 100);
    let ledger = settled_ledger(&service);
    let stats = service.get("/stats").json();
    let lose_everything = || {
        let store = rusqlite::Connection::open(service.data_dir().join("store.db")).unwrap();
        store.busy_timeout(SOON).unwrap();
        assert_eq!(store.execute("DELETE FROM events", []).unwrap(), 100);
    };
    lose_everything();
    assert_eq!(stored(&service).len(), 0);

    let wrong = run(&service, &["replay", "--route", "stor", "--from", "0"], 1);
    assert!(wrong.contains("did you mean `store`?"), "{wrong}");
    let beyond = run(
        &service,
        &["replay", "--route", "store", "--from", "101"],
        1,
    );
    assert!(beyond.contains("behind the end"), "{beyond}");
    let nothing = [
        "replay",
        "--route",
        "store",
        "--from",
        "2200-01-01T00:00:00Z",
    ];
    assert!(run(&service, &nothing, 0).contains("nothing to replay"));

    let part = ["replay", "--route", "store", "--from", "0", "--to", "30"];
    let done = run(&service, &part, 0);
    assert!(done.contains("Done: 30 events delivered again."), "{done}");
    assert_eq!(stored(&service).len(), 30);
    let all = [
        "replay",
        "--route",
        "store",
        "--from",
        "2020-01-01T00:00:00Z",
    ];
    let done = run(&service, &all, 0);
    assert!(done.contains("Done: 100 events delivered again."), "{done}");
    assert_eq!(stored(&service).len(), 100);
    assert_eq!(settled_ledger(&service), ledger);
    assert_eq!(service.get("/stats").json(), stats);

    lose_everything();
    assert!(service.terminate().success());
    let asked = run(&service, &["replay", "--route", "store", "--from", "0"], 0);
    assert!(asked.contains("at the next start"), "{asked}");
    service.restart();
    wait_until_stored(&service, 100);
    assert_eq!(settled_ledger(&service)["routes"], ledger["routes"]);
}

#[test]
fn replay_to_a_sink_that_counts_is_refused_with_the_reason() {
    let service = Service::start(BIN);
    accept(&service, events("a", 10));
    settled_ledger(&service);
    let refused = run(&service, &["replay", "--route", "stats", "--from", "0"], 1);
    assert!(
        refused.contains("route `stats` takes no replay: "),
        "{refused}"
    );

    let asked = service.post_json("/replays", r#"{"route":"stats","from":0}"#);
    let answer = asked.expect_status(400).json();
    let reason = answer["error"]["message"].as_str().unwrap();
    assert!(refused.contains(reason), "{reason} in {refused}");
    assert_eq!(service.get("/stats").json()["events_count"], 10);
}

#[test]
fn replay_of_what_is_not_there_is_refused() {
    let service = Service::start(BIN);
    accept(&service, events("a", 10));
    for (range, wrong) in [
        (r#""from":11"#, "`from` (11) must not lie behind `to` (10)"),
        (
            r#""from":5,"to":2"#,
            "`from` (5) must not lie behind `to` (2)",
        ),
        (r#""from":99,"to":999"#, "the end of the journal (10)"),
    ] {
        let asked = service.post_json("/replays", format!(r#"{{"route":"store",{range}}}"#));
        let answer = asked.expect_status(400).json();
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(wrong), "{message}");
    }
}

#[test]
fn journal_can_be_looked_into_while_the_service_runs_and_after() {
    let mut service = Service::builder(BIN)
        .config("journal: { embedded: { segment_size: 64KiB } }")
        .start();
    for batch in 0..20 {
        accept(&service, events(&format!("b{batch}"), 100));
    }
    settled_ledger(&service);
    let looked_into = |service: &Service, used_by: &str| {
        let text = run(service, &["journal", "inspect"], 0);
        assert!(
            text.contains(used_by) && text.contains("No damage seen"),
            "{text}"
        );
        let found = run(service, &["journal", "inspect", "--json"], 0);
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!((&found["start"], &found["end"]), (&json!(0), &json!(2000)));
        assert!(found["segments"].as_array().unwrap().len() > 1, "{found}");
        for route in ["stats", "store"] {
            assert!(
                found["routes"][route]["position"].as_u64().unwrap() <= 2000,
                "{found}"
            );
        }
        let verified = run(service, &["journal", "verify"], 0);
        assert!(
            verified.contains("2,000 events") && verified.contains("All is as it was written."),
            "{verified}"
        );

        let all = run(service, &["journal", "cat"], 0);
        assert_eq!(all.lines().count(), 2000);
        assert!(
            all.starts_with(r#"{"id":"b0-0","ts":"2026-01-01T00:00:00Z""#),
            "{}",
            &all[..200]
        );
        let part = run(
            service,
            &[
                "journal",
                "cat",
                "--from",
                "150",
                "--to",
                "1000",
                "--limit",
                "60",
                "--with-offsets",
            ],
            0,
        );
        let lines: Vec<Value> = part
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (lines.len(), &lines[0]["offset"], &lines[0]["id"]),
            (60, &json!(150), &json!("b1-50"))
        );
        assert_eq!(
            (&lines[59]["offset"], &lines[59]["id"]),
            (&json!(209), &json!("b2-9"))
        );
        all
    };
    let running = looked_into(&service, &format!("in use by process {}", service.pid()));
    assert!(service.terminate().success());
    let stopped = looked_into(&service, "not in use");
    assert_eq!(running, stopped);
    let found = run(&service, &["journal", "inspect", "--json"], 0);
    let found: Value = serde_json::from_str(&found).unwrap();
    let books = json!({ "delivered": 2000, "filtered": 0, "dead": 0, "expired": 0 });
    assert_eq!(found["routes"]["store"]["books"], books);
    assert_eq!(found["routes"]["store"]["lag_bytes"], 0);

    // What was printed can be posted again: the same events.
    let copy = Service::start(BIN);
    copy.post("/ingest", "application/x-ndjson", &stopped)
        .expect_status(202);
    let strip = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(r#","received_at""#).next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(strip(&run(&copy, &["journal", "cat"], 0)), strip(&stopped));
}

#[test]
fn cat_ends_quietly_when_nobody_reads_on() {
    let service = Service::start(BIN);
    for batch in 0..30 {
        accept(&service, events(&format!("b{batch}"), 200));
    }
    let mut cat = service
        .command()
        .args(["journal", "cat"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, cat.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.contains("b0-0"), "{first}");
    let ended = cat.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
}

#[test]
fn damaged_record_is_named_counted_and_the_rest_is_served() {
    // Without routes nobody has read the records before they are damaged.
    let mut service = Service::builder(BIN).config("routes: []").start();
    for name in ["first", "victim", "third"] {
        accept(&service, events(name, 10));
    }
    assert!(service.terminate().success());
    run(&service, &["journal", "verify"], 0);
    let files = segment_files(&service);
    flip_a_byte_at(&files[0], "victim-7");

    let verified = run(&service, &["journal", "verify"], 1);
    let place = files[0].file_name().unwrap().to_str().unwrap();
    let damaged: Vec<_> = verified
        .lines()
        .filter(|line| line.starts_with("DAMAGED: "))
        .collect();
    assert_eq!(damaged.len(), 1, "{verified}");
    assert!(
        damaged[0].contains(place) && damaged[0].contains("10 events lost, 10 up to 20"),
        "{verified}"
    );
    let exit = service.run(&["journal", "cat"]);
    assert_eq!((exit.code, exit.stdout.lines().count()), (Some(1), 20));
    assert!(
        exit.stderr.contains("events 10 up to 20 are damaged"),
        "{}",
        exit.stderr
    );

    service.set_config("{}");
    service.restart();
    let health = service.get("/health").expect_status(200).json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(
        health["journal"]["damage"][0]
            .as_str()
            .unwrap()
            .contains(place),
        "{health}"
    );
    accept(&service, events("fourth", 5));
    wait_until_stored(&service, 25);
    let ledger = settled_ledger(&service);
    for route in ["stats", "store"] {
        let books = &ledger["routes"][route];
        assert_eq!(
            (&books["delivered"], &books["expired"]),
            (&json!(25), &json!(10)),
            "{ledger}"
        );
    }
    assert_eq!(ledger["accepted"], 35);
    assert_eq!(service.get("/health").json()["status"], "degraded");
}

#[test]
fn second_service_on_a_directory_is_refused_and_told_who_has_it() {
    let first = Service::start(BIN);
    let second = Service::builder(BIN)
        .data_dir(first.data_dir())
        .try_start()
        .expect_err("the directory is in use");
    assert!(
        second.status.is_some_and(|status| !status.success()),
        "{second}"
    );
    let said = second.log.lines().last().unwrap_or_default();
    assert!(
        said.contains(&format!("process {}", first.pid())),
        "{second}"
    );
    assert!(
        said.contains(first.data_dir().to_str().unwrap()),
        "{second}"
    );
    accept(&first, events("a", 1));
}

#[test]
fn route_whose_position_is_damaged_stops_and_the_others_go_on() {
    let mut service = Service::start(BIN);
    accept(&service, events("a", 10));
    wait_until_stored(&service, 10);
    settled_ledger(&service);
    assert!(service.terminate().success());
    let cursors = service.data_dir().join("journal/cursors");
    let slots = [cursors.join("store.a"), cursors.join("store.b")];
    let slots = slots.map(|slot| {
        if slot.exists() {
            let mut bytes = std::fs::read(&slot).unwrap();
            bytes[30] ^= 0x40;
            std::fs::write(&slot, &bytes).unwrap();
            Some((slot, bytes))
        } else {
            None
        }
    });
    let slots: Vec<_> = slots.into_iter().flatten().collect();
    let inspected = run(&service, &["journal", "inspect"], 0);
    assert!(
        inspected.contains("DAMAGED: the position of route store: "),
        "{inspected}"
    );
    let verified = run(&service, &["journal", "verify"], 1);
    assert!(
        verified.contains("DAMAGED: the position of route store: "),
        "{verified}"
    );

    service.restart();
    let mut health = Value::Null;
    eventually(SOON, "the route says that it is stopped", || {
        health = service.get("/health").expect_status(200).json();
        health["routes"]["store"]["state"] == "stopped"
    });
    assert_eq!(health["status"], "degraded");
    let error = health["routes"]["store"]["error"].as_str().unwrap();
    assert!(
        error.contains("store") && error.contains("damaged"),
        "{health}"
    );
    accept(&service, events("b", 5));
    eventually(SOON, "the other route goes on", || {
        service.get("/stats").json()["events_count"] == 15
    });
    assert_eq!(stored(&service).len(), 10);
    for route in service.get("/ledger").json()["routes"]
        .as_object()
        .unwrap()
        .values()
    {
        assert_eq!(route["difference"], 0);
    }
    let begun = Instant::now();
    assert!(service.terminate().success());
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "a stopped route holds up nobody"
    );
    for (slot, bytes) in slots {
        assert_eq!(std::fs::read(slot).unwrap(), bytes);
    }
}

#[test]
fn redrive_of_more_letters_than_are_taken_at_a_time_comes_to_its_end() {
    let service = Service::start(BIN);
    let bodies = vec!["{}"; 700].join(",");
    service
        .post_json("/ingest", format!("[{bodies}]"))
        .expect_status(400);
    let said = run(&service, &["dead-letters", "redrive", "--all", "--wait"], 1);
    assert!(said.contains("700 dead again"), "{said}");
    // Sent again and refused again, they are the same refused events.
    assert_eq!(service.get("/ledger").json()["door"]["refused"], 700);
}
