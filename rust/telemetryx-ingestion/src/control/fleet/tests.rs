//! Several processes over one table in memory. They end as after a kill: nobody says goodbye.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::testing::{Server, Table};
use super::*;
use crate::control::{
    Control, DeadLetter, Keeper, LetterFilter, Part, ReplayState, Stage, letters, replays,
};
use crate::observe::{DoorBooks, DoorSaved};

fn quick() -> Pace {
    Pace {
        look: Duration::from_millis(10),
        beat: Duration::from_millis(200),
        silence: Duration::from_secs(3),
        settle: Duration::from_millis(20),
        orphan: Duration::from_millis(50),
        ..Pace::default()
    }
}

async fn process_with(server: &Arc<Server>, pace: Pace, max_bytes: u64) -> Control {
    let table = Arc::new(Table(Arc::clone(server)));
    let fleet = Fleet::start_at_pace(table, None, max_bytes, &Handle::current(), pace).unwrap();
    let control = Control {
        path: fleet.path().to_owned(),
        keeper: Keeper::Fleet(fleet),
    };
    control.up_to_date(Duration::from_secs(10)).await.unwrap();
    control
}

async fn process(server: &Arc<Server>) -> Control {
    process_with(server, quick(), 1 << 20).await
}

fn name_of(control: &Control) -> String {
    match &control.keeper {
        Keeper::Fleet(fleet) => fleet.process.clone(),
        Keeper::File(_) => unreachable!(),
    }
}

fn of_route(partition: u32, offset: u64) -> DeadLetter {
    DeadLetter {
        route: Some("store".into()),
        stage: Stage::Delivery,
        code: "rejected".into(),
        field: None,
        message: "no".into(),
        partition,
        offset: Some(offset),
        format: "stored",
        body: format!("event\n{partition}:{offset}").into(),
        request_id: None,
    }
}

fn of_door(body: &str) -> DeadLetter {
    DeadLetter {
        route: None,
        stage: Stage::Validation,
        code: "missing_field".into(),
        field: Some("ts".into()),
        message: "`ts` must be given".into(),
        partition: 0,
        offset: None,
        format: "json",
        body: body.into(),
        request_id: Some("r-1".into()),
    }
}

fn all(control: &Control) -> serde_json::Value {
    let list = letters::list(
        &control.reader().unwrap(),
        &LetterFilter::default(),
        None,
        1000,
    );
    json!(list.unwrap())
}

fn ids(control: &Control) -> Vec<i64> {
    let list = all(control);
    let list = list.as_array().unwrap();
    list.iter()
        .map(|letter| letter["id"].as_i64().unwrap())
        .collect()
}

#[track_caller]
fn count(control: &Control) -> usize {
    ids(control).len()
}

/// Waits until it is so; what other processes did comes a moment later.
async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not in time: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letter_is_the_same_in_all_processes_also_in_those_that_come_later() {
    let server = Server::new();
    let (a, b) = (process(&server).await, process(&server).await);
    a.keep(vec![of_route(3, 17), of_door("{}")], None)
        .await
        .unwrap();
    assert_eq!(count(&a), 2, "who wrote it sees it");
    soon("the other one sees it", || count(&b) == 2).await;
    let id = ids(&a)[1];

    // What becomes of it is told under its number.
    let filter = LetterFilter {
        id: Some(id),
        ..LetterFilter::default()
    };
    assert_eq!(b.ask_redrive(filter.clone()).await.unwrap(), 1);
    assert_eq!(
        b.ask_redrive(filter.clone()).await.unwrap(),
        0,
        "it is on its way"
    );
    soon("it is to be sent again", || {
        !a.letters_to_redrive(Some(("store", 3)), 9)
            .unwrap()
            .is_empty()
    })
    .await;
    assert!(
        a.letters_to_redrive(Some(("store", 2)), 9)
            .unwrap()
            .is_empty()
    );
    assert!(
        a.letters_to_redrive(Some(("other", 3)), 9)
            .unwrap()
            .is_empty()
    );
    let letter = a
        .letters_to_redrive(Some(("store", 3)), 9)
        .unwrap()
        .remove(0);
    assert_eq!(
        (letter.id, letter.body.as_slice()),
        (id, b"event\n3:17".as_slice())
    );
    a.bury_again(id, "again".into(), "still no".into())
        .await
        .unwrap();
    let late = process(&server).await;
    assert_eq!(all(&late), all(&a));
    let list = all(&late);
    assert_eq!(
        (
            &list[1]["redrives"],
            &list[1]["code"],
            &list[1]["state"],
            &list[1]["partition"]
        ),
        (&json!(1), &json!("again"), &json!("dead"), &json!(3))
    );

    // Asked for again, the newest reason stays.
    assert_eq!(b.ask_redrive(filter).await.unwrap(), 1);
    assert_eq!(all(&b)[1]["message"], "still no");
    b.settle(vec![id]).await.unwrap();
    b.settle(vec![id]).await.unwrap();
    soon("it is gone", || count(&a) == 1).await;
    let names = server.names();
    assert!(
        !names
            .keys()
            .any(|name| name.contains("store/3/17") || name.contains("letter-state")),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn letter_that_a_killed_process_kept_before_its_commit_is_kept_once() {
    let server = Server::new();
    let killed = process(&server).await;
    killed.forget_from("store", 0, 0).await.unwrap();
    killed
        .keep(vec![of_route(0, 4), of_route(0, 9), of_route(1, 9)], None)
        .await
        .unwrap();
    drop(killed);
    let next = process(&server).await;
    // It goes on at 5: what lies before is in the books.
    next.forget_from("store", 0, 5).await.unwrap();
    assert_eq!(next.dead_between(0, 0, 100).unwrap().len(), 1);
    assert_eq!(
        next.dead_between(1, 0, 100).unwrap().len(),
        1,
        "another partition"
    );
    next.keep(vec![of_route(0, 9)], None).await.unwrap();
    let id = ids(&next)[0];
    next.keep(vec![of_route(0, 9), of_route(0, 10)], None)
        .await
        .unwrap();
    let dead = next.dead_between(0, 0, 100).unwrap();
    let offsets: Vec<_> = dead.iter().map(|(_, offset, _)| *offset).collect();
    assert_eq!(offsets, [4, 9, 10]);
    assert!(ids(&next).contains(&id), "kept twice, it stays as it was");
    assert_eq!(all(&process(&server).await), all(&next));
}

#[tokio::test(flavor = "multi_thread")]
async fn letter_that_comes_late_from_who_lost_the_partition_is_removed_unless_it_was_buried_anew() {
    let server = Server::new();
    let (former, owner) = (process(&server).await, process(&server).await);
    former.forget_from("store", 0, 0).await.unwrap();
    former.keep(vec![of_route(0, 1)], None).await.unwrap();
    owner.forget_from("store", 0, 2).await.unwrap();
    owner.keep(vec![of_route(0, 7)], None).await.unwrap();
    // The former one does not know yet that it is not the owner any more.
    former
        .keep(vec![of_route(0, 7), of_route(0, 8)], None)
        .await
        .unwrap();
    soon("what it may not bury is removed", || {
        server.names_of("letter/") == ["letter/store/0/1", "letter/store/0/7"]
    })
    .await;
    soon("all see it", || count(&owner) == 2 && count(&former) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letter_settled_while_it_is_asked_for_does_not_come_back() {
    let server = Server::new();
    let (a, b) = (process(&server).await, process(&server).await);
    a.keep(vec![of_route(0, 1)], None).await.unwrap();
    soon("both have it", || count(&b) == 1).await;
    let id = ids(&a)[0];
    // The one is told nothing while the other settles.
    let state = values::LetterState {
        redrive: true,
        redrives: 0,
        code: None,
        message: None,
    };
    a.settle(vec![id]).await.unwrap();
    let late = (values::letter_state(id), value(&state).unwrap());
    Table(Arc::clone(&server)).put(vec![late]).await.unwrap();
    soon("its state is removed as well", || {
        server.names_of("letter").is_empty()
    })
    .await;
    assert_eq!(count(&process(&server).await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_has_one_number_and_its_parts_are_served_by_whoever_has_the_partition() {
    let server = Server::new();
    let (a, b) = (process(&server).await, process(&server).await);
    let mut told = b.changes();
    told.mark_unchanged();
    let part = |partition, first, behind| Part {
        partition,
        first,
        behind,
    };
    let id = a
        .ask_replay("store", vec![part(0, 5, 10), part(4, 0, 7)])
        .await
        .unwrap();
    soon("who serves it is told", || {
        told.has_changed().unwrap() && b.next_replay("store", 4).unwrap().is_some()
    })
    .await;
    assert_eq!(b.next_replay("store", 1).unwrap(), None);
    assert_eq!(b.next_replay("stats", 0).unwrap(), None);
    let mut first = a.next_replay("store", 0).unwrap().unwrap();
    let mut second = b.next_replay("store", 4).unwrap().unwrap();
    assert_eq!(
        (first.id, first.next, second.id, second.next),
        (id, 5, id, 0)
    );
    (first.next, first.delivered, first.state) = (10, 4, ReplayState::Done);
    a.save_replay(first).await.unwrap();
    (second.next, second.delivered, second.error) = (3, 3, Some("away".into()));
    b.save_replay(second.clone()).await.unwrap();
    drop(b);

    let c = process(&server).await;
    assert_eq!(c.next_replay("store", 0).unwrap(), None);
    assert_eq!(c.next_replay("store", 4).unwrap(), Some(second.clone()));
    let whole = replays::get(&c.reader().unwrap(), id).unwrap();
    assert_eq!(
        whole.to_json(),
        json!({
            "id": id, "route": "store", "events": 12, "passed": 8, "delivered": 7, "state": "pending",
            "error": "partition 4: away",
            "parts": [
                { "partition": 0, "first": 5, "behind": 10, "next": 10, "delivered": 4, "state": "done" },
                { "partition": 4, "first": 0, "behind": 7, "next": 3, "delivered": 3, "state": "pending", "error": "away" },
            ],
        })
    );
    (second.next, second.delivered, second.state, second.error) = (7, 7, ReplayState::Done, None);
    c.save_replay(second).await.unwrap();
    let whole = replays::get(&c.reader().unwrap(), id).unwrap();
    assert_eq!((whole.state(), whole.delivered()), (ReplayState::Done, 11));

    let alone = c.ask_replay("store", vec![part(4, 1, 2)]).await.unwrap();
    let alone = replays::get(&c.reader().unwrap(), alone).unwrap().to_json();
    assert_eq!(
        (&alone["partition"], &alone["next"], &alone["parts"]),
        (&json!(4), &json!(1), &json!(null))
    );
    assert!(c.ask_replay("store", vec![]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_that_are_over_are_forgotten_at_last() {
    let server = Server::new();
    let a = process(&server).await;
    let part = Part {
        partition: 0,
        first: 0,
        behind: 1,
    };
    let first = a.ask_replay("store", vec![part]).await.unwrap();
    for _ in 0..110 {
        let mut replay = a.next_replay("store", 0).unwrap().unwrap();
        replay.state = ReplayState::Done;
        a.save_replay(replay).await.unwrap();
        a.ask_replay("store", vec![part]).await.unwrap();
    }
    let db = a.reader().unwrap();
    assert!(matches!(
        replays::get(&db, first),
        Err(rusqlite::Error::QueryReturnedNoRows)
    ));
    assert_eq!(server.names_of("replay/").len(), 101);
    assert_eq!(server.names_of("replay-part/").len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_the_door_are_handed_to_one_process_and_to_another_when_that_is_gone() {
    let server = Server::new();
    let mut processes = vec![];
    for _ in 0..3 {
        processes.push(process(&server).await);
    }
    let may = |process: &Control| !process.letters_to_redrive(None, 9).unwrap().is_empty();
    processes[0]
        .keep(vec![of_door("1"), of_door("2")], None)
        .await
        .unwrap();
    // As the loop does that sends them: each asks at the beginning, and when it is told.
    assert!(!processes.iter().any(may), "nothing is asked for");
    processes[1]
        .ask_redrive(LetterFilter::default())
        .await
        .unwrap();
    soon("one is the keeper", || processes.iter().any(may)).await;
    for _ in 0..100 {
        let keepers = processes.iter().filter(|process| may(process)).count();
        assert!(keepers <= 1, "{keepers} at once");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let keeper = processes.iter().position(may).unwrap();
    let mut told: Vec<_> = processes.iter().map(Control::changes).collect();
    told.remove(keeper);
    told.iter_mut().for_each(|told| told.mark_unchanged());
    drop(processes.remove(keeper));
    soon("another one is it", || processes.iter().any(may)).await;
    let next = processes.iter().position(may).unwrap();
    soon("it is told that there is work", || {
        told[next].has_changed().unwrap()
    })
    .await;
    let letters = processes[next].letters_to_redrive(None, 9).unwrap();
    let ids = letters.iter().map(|letter| letter.id).collect();
    processes[next].settle(ids).await.unwrap();
    let beats = || {
        server
            .state
            .lock()
            .log
            .iter()
            .filter(|(name, _)| name == "keeper")
            .count()
    };
    soon("the keeper is quiet without work", || {
        let before = beats();
        std::thread::sleep(quick().beat * 3);
        beats() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_contact_stops_being_the_keeper() {
    let server = Server::new();
    let a = process(&server).await;
    a.keep(vec![of_door("1")], None).await.unwrap();
    a.ask_redrive(LetterFilter::default()).await.unwrap();
    let may = || !a.letters_to_redrive(None, 9).unwrap().is_empty();
    soon("it is the keeper", may).await;
    server.set(|state| state.is_away = true);
    soon("it is not any more", || !may()).await;
    server.set(|state| state.is_away = false);
    soon("it is again", may).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_refused_events_go_first_and_those_of_routes_stay() {
    let server = Server::new();
    let (a, b) = (
        process_with(&server, quick(), 10_000).await,
        process_with(&server, quick(), 10_000).await,
    );
    a.keep(vec![of_route(0, 0)], None).await.unwrap();
    for n in 0..40 {
        let keeper = if n % 2 == 0 { &a } else { &b };
        keeper
            .keep(vec![of_door(&format!("{n:01000}"))], None)
            .await
            .unwrap();
    }
    let refused = || {
        let filter = LetterFilter {
            stage: Some("validation".into()),
            ..LetterFilter::default()
        };
        let list = letters::list(&a.reader().unwrap(), &filter, None, 100).unwrap();
        list.into_iter()
            .map(|letter| String::from_utf8(letter.body).unwrap())
            .collect::<Vec<_>>()
    };
    // As many as fit, or some less.
    soon("it is within the limit", || {
        (7..=8).contains(&refused().len())
    })
    .await;
    let newest: Vec<_> = (0..40).rev().map(|n| format!("{n:01000}")).collect();
    assert!(newest.starts_with(&refused()));
    assert_eq!(a.dead_between(0, 0, 1).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_nothing_is_promised_and_what_is_known_can_be_asked() {
    let server = Server::new();
    let a = process(&server).await;
    a.keep(vec![of_route(0, 1)], None).await.unwrap();
    server.set(|state| state.is_away = true);
    let failed = a.keep(vec![of_route(0, 2)], None).await.unwrap_err();
    assert!(
        failed.to_string().contains("the server is away"),
        "{failed}"
    );
    assert!(a.keep(vec![of_door("{}")], None).await.is_err());
    assert!(a.forget_from("store", 0, 0).await.is_err());
    assert!(a.settle(ids(&a)).await.is_err());
    assert_eq!(count(&a), 1);
    server.set(|state| state.is_away = false);
    a.keep(vec![of_route(0, 2)], None).await.unwrap();
    assert_eq!(count(&a), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handed_out_before_all_is_known() {
    let server = Server::new();
    let a = process(&server).await;
    a.keep(vec![of_route(0, 1)], None).await.unwrap();
    a.ask_redrive(LetterFilter::default()).await.unwrap();
    a.ask_replay(
        "store",
        vec![Part {
            partition: 0,
            first: 0,
            behind: 1,
        }],
    )
    .await
    .unwrap();
    server.set(|state| state.is_mute = true);
    let table = Arc::new(Table(Arc::clone(&server)));
    let late = Control::start_shared(table, None, 1 << 20, &Handle::current()).unwrap();
    let told = late.changes();
    let wait = Duration::from_millis(50);
    assert!(matches!(
        late.up_to_date(wait).await,
        Err(ControlError::Late(_))
    ));
    assert!(
        late.letters_to_redrive(Some(("store", 0)), 9)
            .unwrap()
            .is_empty()
    );
    assert_eq!(late.next_replay("store", 0).unwrap(), None);
    server.set(|state| state.is_mute = false);
    late.up_to_date(Duration::from_secs(10)).await.unwrap();
    soon("whoever waits is told", || told.has_changed().unwrap()).await;
    assert_eq!(
        late.letters_to_redrive(Some(("store", 0)), 9)
            .unwrap()
            .len(),
        1
    );
    assert!(late.next_replay("store", 0).unwrap().is_some());
}

fn refused(count: u64) -> DoorSaved {
    let books = DoorBooks::default();
    books.refused.add(count);
    books.saved()
}

/// What the whole fleet turned away, as `process` with these books of its own sees it.
fn sum(process: &Control, own: u64) -> DoorSaved {
    refused(own).plus(process.doors_elsewhere().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn books_of_all_doors_are_summed_also_of_those_that_are_gone() {
    let server = Server::new();
    let pace = Pace {
        idle_door: Duration::from_millis(100),
        ..quick()
    };
    let a = process_with(&server, pace, 1 << 20).await;
    let b = process_with(&server, pace, 1 << 20).await;
    a.save_door(refused(3)).await.unwrap();
    a.save_door(refused(5)).await.unwrap();
    b.save_door(refused(10)).await.unwrap();
    soon("each sees both", || {
        sum(&a, 5) == refused(15) && sum(&b, 10) == refused(15)
    })
    .await;
    let name = name_of(&b);
    drop(b);
    for _ in 0..20 {
        let gone = process_with(&server, pace, 1 << 20).await;
        gone.save_door(refused(1)).await.unwrap();
    }
    soon("the sum holds", || sum(&a, 5) == refused(35)).await;
    // One that has a door is the keeper, and adds up those that are gone.
    assert!(a.letters_to_redrive(None, 1).unwrap().is_empty());
    soon("names of those that are gone are gone", || {
        server.names_of("door/").len() == 1
    })
    .await;
    assert!(!server.names().contains_key(&format!("door/{name}")));
    assert_eq!(sum(&a, 5), refused(35));
    a.save_door(refused(6)).await.unwrap();
    assert_eq!(sum(&a, 6), refused(36));
    let late = process(&server).await;
    assert_eq!(sum(&late, 0), refused(36));
}

#[tokio::test(flavor = "multi_thread")]
async fn door_that_was_only_quiet_is_counted_once() {
    let server = Server::new();
    let pace = Pace {
        idle_door: Duration::from_millis(100),
        ..quick()
    };
    let quiet = process_with(&server, pace, 1 << 20).await;
    let keeper = process_with(&server, pace, 1 << 20).await;
    for round in 1..4 {
        quiet.save_door(refused(10 * round)).await.unwrap();
        assert!(keeper.letters_to_redrive(None, 1).unwrap().is_empty());
        soon("it is taken for gone", || {
            server.names_of("door/").is_empty()
        })
        .await;
        soon("all see the same", || {
            sum(&quiet, 10 * round) == refused(10 * round) && sum(&keeper, 0) == refused(10 * round)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_is_as_old_as_its_first_process() {
    let server = Server::new();
    let a = process(&server).await;
    soon("it is born", || !server.names_of("born").is_empty()).await;
    soon("it is known", || a.since().unwrap() == a.since().unwrap()).await;
    let b = process(&server).await;
    assert_eq!(a.since().unwrap(), b.since().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn value_of_a_newer_version_or_a_damaged_one_stops_nobody() {
    let server = Server::new();
    let table = Table(Arc::clone(&server));
    let junk = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    table
        .put(vec![
            ("letter/store/0/1".into(), junk(r#"{"v":99}"#)),
            ("letter/store/0/2".into(), junk("\u{0}")),
            ("keeper".into(), junk("[]")),
            ("door/x".into(), junk(r#"{"v":1,"books":7}"#)),
            ("what/is/this".into(), junk("")),
        ])
        .await
        .unwrap();
    let a = process(&server).await;
    a.keep(vec![of_route(0, 1)], None).await.unwrap();
    assert_eq!(count(&a), 1);
    assert_eq!(sum(&a, 0), refused(0));
}
