use serde_json::Value;
use telemetryx_common::{Event, Source, Timestamp};

use super::super::EventProcessor;
use super::super::tests::{processor, refuses, run};
use crate::route::{Cause, EventBatch, Origin};

const NAME: &str = "Window";
const MINUTE: &str = "window = '1m'\nidle_after = '10s'\n";

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_nanos(second * 1_000_000_000)
}

fn batch(now: i64, events: &[(i64, u64, &'static str)]) -> EventBatch<'static> {
    let mut batch = EventBatch::new(Cause::Replay, at(now));
    for (offset, (second, source, payload)) in (0..).zip(events) {
        let mut event = Event::new(at(*second));
        event.source = Source::Number(*source);
        event.payload = (*payload).into();
        batch.push(offset, event);
    }
    batch
}

/// Hands in events, and returns what is derived.
fn feed(
    window: &dyn EventProcessor,
    now: i64,
    events: &[(i64, u64, &'static str)],
) -> Vec<Event<'static>> {
    let mut batch = batch(now, events);
    if events.is_empty() {
        window.idle(at(now));
    }
    run(window, &mut batch).unwrap();
    let derived = batch
        .iter()
        .filter(|(origin, _)| *origin == Origin::Derived);
    derived.map(|(_, event)| event.clone()).collect()
}

fn save(window: &dyn EventProcessor) -> Value {
    let state = window.save().unwrap();
    window.saved();
    state
}

#[test]
fn a_window_is_an_event_of_its_own_with_its_numbers() {
    let settings = "aggregate = ['count', 'sum', 'min', 'max']\nfield = 'n'\nby = 'source'\n";
    let window = processor(NAME, &format!("{MINUTE}{settings}"));
    let first = [
        (61, 7, r#"{"n":9007199254740993}"#),
        (62, 7, r#"{"n":-1}"#),
        (63, 7, "null"),
    ];
    assert_eq!(feed(&*window, 500, &first), []);
    assert_eq!(feed(&*window, 501, &[(120, 8, "{}"), (3, 7, "{}")]), []);
    save(&*window);
    let [event] = feed(&*window, 502, &[]).try_into().unwrap();
    assert_eq!(event.ts, at(120));
    assert_eq!(event.event_type.as_str(), "window.source");
    assert_eq!(event.source, Source::Number(7));
    assert_eq!(event.received_at, at(501));
    assert_eq!(
        event.attribute("window_start"),
        Some("1970-01-01T00:01:00Z")
    );
    assert_eq!(event.attribute("window_end"), Some("1970-01-01T00:02:00Z"));
    assert_eq!(event.attribute("late_events"), Some("0"));
    assert_eq!(
        event.payload,
        r#"{"window_start":"1970-01-01T00:01:00Z","window_end":"1970-01-01T00:02:00Z","by":"source","key":7,"count":3,"sum":9007199254740992,"min":-1,"max":9007199254740993,"values":2,"late_events":0,"closed_by":"time"}"#
    );
    // The late one is told with the next window that closes.
    feed(&*window, 503, &[(180, 8, "{}")]);
    save(&*window);
    let [next] = feed(&*window, 504, &[]).try_into().unwrap();
    assert_eq!(next.attribute("late_events"), Some("1"));
}

#[test]
fn a_closed_window_is_not_emitted_before_its_state_is_saved_and_not_after_it_was_delivered() {
    let window = processor(NAME, MINUTE);
    assert_eq!(feed(&*window, 500, &[(1, 1, "1"), (60, 1, "1")]), []);
    assert_eq!(feed(&*window, 500, &[(61, 1, "1")]), [], "not saved yet");
    let state = window.save().unwrap();
    assert_eq!(
        feed(&*window, 500, &[(62, 1, "1")]),
        [],
        "not known to be saved"
    );
    window.saved();
    assert_eq!(window.output_due(), Some(Timestamp::UNIX_EPOCH));
    let first = feed(&*window, 501, &[(63, 1, "1")]);
    assert_eq!(first.len(), 1);
    assert_eq!(feed(&*window, 502, &[(64, 1, "1")]), []);

    let restarted = processor(NAME, MINUTE);
    restarted.restore(state).unwrap();
    restarted.saved();
    assert_eq!(feed(&*restarted, 900, &[]), first, "the same after a crash");
    let state = save(&*restarted);
    restarted.restore(state).unwrap();
    assert_eq!(feed(&*restarted, 901, &[]), [], "delivered");
}

#[test]
fn when_nothing_comes_any_more_the_clock_closes_windows() {
    let window = processor(NAME, &format!("{MINUTE}lateness = '5s'"));
    feed(&*window, 30, &[(30, 1, "1")]);
    assert_eq!(window.output_due(), Some(at(65)));
    feed(&*window, 64, &[]);
    assert_eq!(window.output_due(), Some(at(65)));
    feed(&*window, 65, &[]);
    assert_eq!(window.output_due(), None, "closed, and not saved yet");
    save(&*window);
    let [event] = feed(&*window, 66, &[]).try_into().unwrap();
    assert_eq!(event.attribute("closed_by"), Some("idle"));
    assert_eq!(window.output_due(), None);

    // Old events that come slowly are given their time.
    feed(&*window, 1_000, &[(70, 1, "1")]);
    assert_eq!(window.output_due(), Some(at(1_010)));
    // After a start nobody knows how long nothing has come.
    let restarted = processor(NAME, MINUTE);
    restarted.restore(save(&*window)).unwrap();
    assert_eq!(restarted.output_due(), Some(Timestamp::UNIX_EPOCH));
    feed(&*restarted, 5_000, &[]);
    assert_eq!(restarted.output_due(), Some(at(5_010)));
}

#[test]
fn too_many_windows_close_the_oldest_in_parts_and_ask_for_a_save() {
    let window = processor(
        NAME,
        &format!("{MINUTE}by = 'source'\nmax_open_windows = 2"),
    );
    feed(
        &*window,
        500,
        &[(1, 1, "1"), (1, 2, "1"), (1, 3, "1"), (1, 1, "1")],
    );
    assert!(window.wants_save());
    save(&*window);
    assert!(!window.wants_save());
    feed(&*window, 501, &[(60, 9, "1")]);
    save(&*window);
    let mut ids = std::collections::BTreeSet::new();
    for event in feed(&*window, 502, &[]) {
        assert!(ids.insert(event.id.clone()), "{event:?}");
        assert!(event.payload.contains(r#""count":1"#), "{event:?}");
    }
    assert_eq!(
        ids.len(),
        2,
        "those closed by time; the early ones came with the event before"
    );
}

#[test]
fn changed_settings_close_what_is_open() {
    let window = processor(NAME, MINUTE);
    feed(&*window, 500, &[(1, 1, "1")]);
    let state = save(&*window);
    let changed = processor(NAME, "window = '10s'");
    changed.restore(state).unwrap();
    let [event] = feed(&*changed, 501, &[]).try_into().unwrap();
    assert_eq!(event.attribute("closed_by"), Some("settings"));
    assert_eq!(event.attribute("window_end"), Some("1970-01-01T00:01:00Z"));
    assert!(changed.restore(Value::from("nonsense")).is_err());
}

#[test]
fn events_can_be_left_out_and_other_types_are_not_counted() {
    let window = processor(
        NAME,
        &format!("{MINUTE}keep_events = false\ntypes = ['event']"),
    );
    let mut events = batch(500, &[(1, 1, "1")]);
    let mut other = Event::new(at(1));
    other.event_type = telemetryx_common::EventType::Heartbeat;
    events.push(1, other);
    run(&*window, &mut events).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(window.save().unwrap()["open"].as_array().unwrap().len(), 1);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (settings, why) in [
        ("", "window"),
        ("window = '0s'", "the shortest is 1ms"),
        ("window = '1m'\naggregate = []", "`aggregate` is empty"),
        ("window = '1m'\naggregate = ['sum']", "need `field`"),
        ("window = '1m'\nfield = 'n'", "nothing is made of it"),
        (
            "window = '1m'\naggregate = ['mean']",
            "unknown variant `mean`",
        ),
        ("window = '1m'\nby = 'key'", "unknown variant `key`"),
        ("window = '1m'\nemit_type = ''", "`emit_type` is 0 bytes"),
        (
            "window = '1m'\nmax_open_windows = 0",
            "`max_open_windows` is 0",
        ),
        ("window = 60", "a duration with its unit"),
    ] {
        refuses(NAME, settings, why);
    }
}
