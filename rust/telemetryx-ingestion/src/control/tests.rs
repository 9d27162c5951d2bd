//! The file of a service that is alone: files of older versions, and asking by the service itself.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

/// As the version before partitions made it.
const OLD: &str = "
    CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, route TEXT, stage TEXT NOT NULL, code TEXT NOT NULL,
        field TEXT, message TEXT NOT NULL, position INTEGER, format TEXT NOT NULL, body BLOB NOT NULL, request_id TEXT,
        redrives INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'dead');
    CREATE UNIQUE INDEX dead_letters_position ON dead_letters (route, position) WHERE position IS NOT NULL;
    CREATE TABLE refused_bytes (id INTEGER PRIMARY KEY CHECK (id = 1), bytes INTEGER NOT NULL);
    INSERT INTO refused_bytes VALUES (1, 0);
    CREATE TABLE replays (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, route TEXT NOT NULL, first INTEGER NOT NULL,
        behind INTEGER NOT NULL, next INTEGER NOT NULL, delivered INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL DEFAULT 'pending', error TEXT);
    INSERT INTO dead_letters (at, route, stage, code, message, position, format, body)
        VALUES (1, 'r', 'delivery', 'c', 'm', 7, 'stored', x'78'), (1, NULL, 'validation', 'c', 'm', NULL, 'json', x'7b7d');
    INSERT INTO replays (at, route, first, behind, next) VALUES (1, 'r', 0, 9, 4);
";
/// What the version before still does on a file that was upgraded.
const OLD_INSERT: &str =
    "INSERT INTO dead_letters (at, route, stage, code, message, position, format, body)
    VALUES (1, 'r', 'delivery', 'c', 'm', 8, 'stored', x'78') ON CONFLICT DO NOTHING";

fn letter(partition: u32, offset: u64) -> DeadLetter {
    DeadLetter {
        route: Some("r".into()),
        stage: Stage::Delivery,
        code: "c".into(),
        field: None,
        message: "m".into(),
        partition,
        offset: Some(offset),
        format: "stored",
        body: b"x".to_vec(),
        request_id: None,
    }
}

#[tokio::test]
async fn file_of_before_there_were_partitions_is_upgraded_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let old = Connection::open(&path).unwrap();
    old.execute_batch(OLD).unwrap();
    // A command may be the first that sees it.
    let db = open_existing(&path).unwrap();
    let letters = letters::list(&db, &LetterFilter::default(), None, 9).unwrap();
    let places: Vec<_> = letters
        .iter()
        .map(|letter| (letter.partition, letter.offset))
        .collect();
    assert_eq!(places, [(0, None), (0, Some(7))]);
    assert_eq!(json!(letters[1]).get("partition"), None);
    old.execute_batch(OLD_INSERT).unwrap();

    let control = Control::start(dir.path(), 1 << 20).unwrap();
    let control_again = Control::start(dir.path(), 1 << 20).unwrap();
    drop(control_again);
    let same_place_elsewhere = vec![letter(0, 7), letter(1, 7)];
    control.keep(same_place_elsewhere, None).await.unwrap();
    assert_eq!(
        letters::count(&db, &LetterFilter::default()).unwrap(),
        4,
        "the one that was there stays one"
    );
    assert_eq!(control.dead_between(1, 0, 9).unwrap().len(), 1);
    control.forget_from("r", 0, 0).await.unwrap();
    assert_eq!(control.dead_between(0, 0, 9).unwrap().len(), 0);
    assert_eq!(control.dead_between(1, 0, 9).unwrap().len(), 1);

    let replay = control.next_replay("r", 0).unwrap().unwrap();
    assert_eq!((replay.id, replay.first, replay.next), (1, 0, 4));
    assert_eq!(
        replays::get(&db, 1).unwrap().to_json(),
        json!({ "id": 1, "route": "r", "first": 0, "behind": 9, "next": 4, "delivered": 0, "state": "pending" })
    );
}

#[tokio::test]
async fn replay_of_several_partitions_is_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::start(dir.path(), 1 << 20).unwrap();
    let mut told = control.changes();
    let part = |partition, first, behind| Part {
        partition,
        first,
        behind,
    };
    let parts = vec![part(0, 0, 4), part(2, 1, 4)];
    let id = control.ask_replay("r", parts.clone()).await.unwrap();
    assert!(told.has_changed().unwrap(), "asked by the service itself");
    told.mark_unchanged();
    let db = control.reader().unwrap();
    let next = replays::ask(&db, "r", &parts).unwrap();
    told.changed().await.unwrap();
    assert_ne!(id, next);

    let mut first = control.next_replay("r", 2).unwrap().unwrap();
    assert_eq!((first.id, first.next), (id, 1));
    (first.state, first.error) = (ReplayState::Failed, Some("no".into()));
    control.save_replay(first).await.unwrap();
    assert_eq!(control.next_replay("r", 2).unwrap().unwrap().id, next);
    assert_eq!(control.next_replay("r", 0).unwrap().unwrap().id, id);
    let whole = replays::get(&db, id).unwrap();
    assert_eq!(whole.state(), ReplayState::Pending, "a part is left");
    assert_eq!(whole.error().unwrap(), "partition 2: no");
    let mut second = control.next_replay("r", 0).unwrap().unwrap();
    second.state = ReplayState::Done;
    control.save_replay(second).await.unwrap();
    assert_eq!(replays::get(&db, id).unwrap().state(), ReplayState::Failed);
    assert!(replays::get(&db, id + 1).is_err(), "a part has no number");
}

#[test]
fn file_of_a_newer_version_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    drop(open(&path).unwrap());
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 7).unwrap();
    for opened in [open(&path), open_existing(&path)] {
        let words = opened.unwrap_err().to_string();
        assert!(
            words.ends_with("it has schema version 7, this binary knows 1: use a newer one"),
            "{words}"
        );
    }
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(version, 7);
}
