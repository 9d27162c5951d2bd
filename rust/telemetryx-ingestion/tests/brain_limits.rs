//! What a brain finds that is no event, is not allowed or is too much: it becomes a dead letter, and so does what is too
//! large for the brain; all else goes on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::json;
use support::brain::{ECHO, Garbage, brain_of, config, health, ledger, of_type, post};
use support::{SOON, TS, assert_books_balance, event, events, metric, settle, start};
use telemetryx_testkit::eventually;

#[test]
fn findings_that_are_no_events_are_kept_as_dead_letters_and_the_others_stored() {
    let garbage = Garbage::start("invalid");
    let service = start(&config(&garbage.brain.url()));
    post(&service, event("a"));
    settle(&service);
    eventually(SOON, "the one that is right is stored", || {
        of_type(&service, "brain.fine").len() == 1
    });
    let letters = service
        .get("/dead-letters")
        .expect_status(200)
        .json()
        .to_string();
    for code in [
        "invalid_json",
        "too_long",
        "timestamp_in_future",
        "event_too_large",
    ] {
        assert!(letters.contains(code), "{code}: {letters}");
    }
    let refused = metric(
        &service,
        "ingestion_events_total{protocol=\"brain\",outcome=\"refused\"}",
    );
    assert!((refused - 4.0).abs() < 1e-9, "{refused}");
    assert_eq!(assert_books_balance(&service)["door"]["refused"], 4);
    assert!(service.log().contains("findings of a brain were refused"));
    assert_eq!(
        ledger(&service)["delivered"],
        1,
        "the batch itself is delivered"
    );
}

#[test]
fn an_event_too_large_for_the_brain_is_a_dead_letter_and_the_others_are_delivered() {
    let garbage = Garbage::start("small");
    let service = start(&config(&garbage.brain.url()));
    let large = json!({ "id": "large", "ts": TS, "payload": "x".repeat(5_000) }).to_string();
    let others: Vec<_> = (0..40).map(|n| event(&format!("e{n}"))).collect();
    post(
        &service,
        format!(
            "[{},{large},{}]",
            others[..20].join(","),
            others[20..].join(",")
        ),
    );
    settle(&service);
    let of_brain = ledger(&service);
    assert_eq!(
        (&of_brain["delivered"], &of_brain["dead"]),
        (&json!(40), &json!(1))
    );
}

#[test]
fn what_is_too_much_for_an_answer_is_halved_down_to_the_event_that_is_a_dead_letter() {
    let brain = brain_of(
        "
from telemetryx_brain import Finding, brain
looked_at = set()

@brain
def much(events):
    for event in events:
        again = event.id in looked_at
        looked_at.add(event.id)
        yield Finding('again' if again else 'echo', cause=event, payload={'of': event.id})
        if event.id == 'many':
            yield from [Finding('many', cause=event)] * 200
        if event.id == 'large':
            yield Finding('large', cause=event, payload='x' * (9 << 20))
",
    );
    let service = start(&config(&brain.url()));
    let ids = (0..40).map(|n| match n {
        7 => "many".to_owned(),
        23 => "large".to_owned(),
        _ => format!("e{n}"),
    });
    post(&service, events(ids));
    settle(&service);
    let found = of_type(&service, "brain.echo");
    assert_eq!(found.len(), 38);
    assert_eq!(assert_books_balance(&service)["accepted"], 78);
    let of_brain = ledger(&service);
    assert_eq!(
        (&of_brain["delivered"], &of_brain["dead"]),
        (&json!(38), &json!(2))
    );
    let letters = service.get("/dead-letters?route=brain").json().to_string();
    for words in [
        "201 findings in 1 events: 102 are the most",
        "the answer to 1 events takes 94",
    ] {
        assert!(letters.contains(words), "{words}: {letters}");
    }
    assert_eq!(health(&service)["state"], "up");
}

#[test]
fn a_brain_that_does_not_keep_to_the_limits_is_taken_at_its_word_as_a_refusal() {
    let garbage = Garbage::start("fine");
    let service = start(&config(&garbage.brain.url()));
    for (dead, (wrong, words)) in [
        ("too_many", "found 10000 things in a batch of 1"),
        ("far_too_many", "200000 parts"),
        ("too_large", "its answer has 94"),
        ("far_too_large", "message length too large"),
    ]
    .into_iter()
    .enumerate()
    {
        garbage.now(wrong);
        post(&service, event(wrong));
        settle(&service);
        let letters = service.get("/dead-letters?route=brain").json().to_string();
        assert!(letters.contains(words), "{wrong}: {letters}");
        assert_eq!(ledger(&service)["dead"], dead + 1, "{wrong}");
        garbage.now("fine");
        post(&service, event(&format!("after {wrong}")));
        settle(&service);
        assert_eq!(ledger(&service)["delivered"], dead + 1, "{wrong}");
        assert_eq!(health(&service)["state"], "up");
    }
}

#[test]
fn what_is_found_in_a_batch_is_accepted_as_a_whole() {
    let brain = brain_of(
        "
from telemetryx_brain import Finding, brain

@brain
def large(events):
    return [Finding('large', cause=event, payload='x' * 700_000) for event in events]
",
    );
    let service = start(&(config(&brain.url()) + "http: { max_batch: 10 }\n"));
    let appends = || metric(&service, "journal_append_seconds_count");
    let before = appends();
    post(&service, events((0..10).map(|n| format!("l{n}"))));
    settle(&service);
    eventually(SOON, "all is found", || {
        assert_books_balance(&service)["accepted"] == 20
    });
    // One of the events, and one of all that was found in them.
    let made = appends() - before;
    assert!((made - 2.0).abs() < 1e-9, "{made} appends");
}

#[test]
fn a_service_that_allows_only_some_types_says_so_of_findings_until_theirs_is_one() {
    let brain = brain_of(ECHO);
    let strict = concat!(env!("CARGO_MANIFEST_DIR"), "/config/strict.yaml");
    let strict = std::fs::read_to_string(strict).unwrap() + &config(&brain.url());
    let mut service = start(&strict);
    let login = |id: &str| {
        json!({ "id": id, "ts": TS, "type": "Login", "source": "web", "schema_version": 1 })
            .to_string()
    };
    post(&service, login("first"));
    settle(&service);
    let refused = || service.get("/dead-letters").json().to_string();
    eventually(SOON, "the finding is a dead letter", || {
        refused().contains("type `brain.echo` is not one of those allowed")
    });
    let allowed = strict.replace("Logout, Purchase]", "Logout, Purchase, brain.echo]");
    assert_ne!(strict, allowed);
    service.set_config(&allowed);
    service.terminate();
    service.restart();
    post(&service, login("second"));
    settle(&service);
    let redriven = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    eventually(SOON, "both are found", || {
        of_type(&service, "brain.echo").len() == 2
    });
}
