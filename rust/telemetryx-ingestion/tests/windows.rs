//! `Window` under random events, commits, failed deliveries and crashes: every window is emitted exactly once (by id),
//! always with the same content, and with the numbers of a naive model.
//!
//! Each case is made from a seed; a failure prints it, and `TELEMETRYX_SEED=… cargo test --test windows` runs it alone.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt;
use serde_json::Value;
use telemetryx_common::{Event, EventType, Source, Timestamp};
use telemetryx_ingestion::config::PluginConfig;
use telemetryx_ingestion::processors::{EventProcessor, build};
use telemetryx_ingestion::route::{Cause, EventBatch, Origin};
use telemetryx_testkit::{Service, TestSeed, eventually};

const SECOND: i64 = 1_000_000_000;
const CASES: u64 = 5_000;

/// What one case varies.
#[derive(Debug, Clone, Copy)]
struct Plan {
    window: i64,
    lateness: i64,
    by_source: bool,
    /// Windows open at most; below 10 the bound is met all the time.
    open_max: usize,
    /// Whether the clock closes windows in the middle, where no model can say what is late.
    idle: bool,
}

impl Plan {
    fn random(rng: &mut Rng) -> Self {
        Self {
            window: rng.i64(1..=10),
            lateness: rng.i64(0..=15),
            by_source: rng.bool(),
            open_max: if rng.u8(..4) == 0 {
                rng.usize(1..5)
            } else {
                10_000
            },
            idle: rng.u8(..3) == 0,
        }
    }

    fn processor(&self) -> Box<dyn EventProcessor> {
        let settings = format!(
            "aggregate = ['count', 'sum', 'min', 'max']\nfield = 'v'\nby = '{}'\nwindow = '{}s'\nlateness = '{}s'\n\
             idle_after = '5s'\nmax_open_windows = {}",
            if self.by_source { "source" } else { "type" },
            self.window,
            self.lateness,
            self.open_max,
        );
        build(&PluginConfig {
            name: "Window".into(),
            rest: toml::from_str(&settings).unwrap(),
        })
        .unwrap()
    }

    fn key(&self, event: &Event<'_>) -> String {
        if self.by_source {
            event.source.to_string()
        } else {
            event.event_type.to_string()
        }
    }

    fn start(&self, event: &Event<'_>) -> i64 {
        let window = self.window * SECOND;
        event.ts.unix_nanos().div_euclid(window) * window
    }
}

/// What a window says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Numbers {
    count: i64,
    values: i64,
    sum: i64,
    min: Option<i64>,
    max: Option<i64>,
}

impl Numbers {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.values += other.values;
        self.sum += other.sum;
        self.min = [self.min, other.min].into_iter().flatten().min();
        self.max = [self.max, other.max].into_iter().flatten().max();
    }
}

fn events(rng: &mut Rng) -> Vec<Event<'static>> {
    let mut now = 1_000 * SECOND;
    (0..rng.usize(0..60))
        .map(|_| {
            now += rng.i64(0..3 * SECOND);
            let mut event = Event::new(Timestamp::from_unix_nanos(now - rng.i64(0..20 * SECOND)));
            event.event_type = EventType::from_name(["A", "B", "Heartbeat"][rng.usize(..3)].into());
            event.source = match rng.u64(..4) {
                0 => Source::Name("web".into()),
                number => Source::Number(number),
            };
            event.payload = match rng.u8(..5) {
                0 => "null".into(),
                1 => r#"{"v":"7"}"#.into(),
                _ => format!(r#"{{"u":1.5,"v":{}}}"#, rng.i64(-100..100)).into(),
            };
            event
        })
        .collect()
}

/// The windows that the events make, and how many come too late, told without state, batches or crashes.
fn model(plan: &Plan, events: &[Event<'_>]) -> (BTreeMap<(i64, String), Numbers>, u64) {
    let mut windows = BTreeMap::<_, Numbers>::new();
    let (mut newest, mut late) = (i64::MIN, 0);
    for event in events {
        let start = plan.start(event);
        let watermark = newest.saturating_sub(plan.lateness * SECOND);
        if start.saturating_add(plan.window * SECOND) <= watermark {
            late += 1;
            continue;
        }
        let payload: Value = serde_json::from_str(&event.payload).unwrap();
        let value = payload["v"].as_i64();
        let one = Numbers {
            count: 1,
            values: i64::from(value.is_some()),
            sum: value.unwrap_or(0),
            min: value,
            max: value,
        };
        windows
            .entry((start, plan.key(event)))
            .or_default()
            .add(&one);
        newest = newest.max(event.ts.unix_nanos());
    }
    (windows, late)
}

/// A route that runs as `route/run.rs` does, on a disk and a sink that are variables.
struct Route<'e> {
    plan: Plan,
    events: &'e [Event<'static>],
    processor: Box<dyn EventProcessor>,
    position: usize,
    clock: i64,
    /// The disk: cursor and state, saved in one step.
    disk: (usize, Value),
    /// The sink: by id.
    sink: BTreeMap<String, Event<'static>>,
}

impl<'e> Route<'e> {
    fn start(plan: Plan, events: &'e [Event<'static>]) -> Self {
        let mut route = Self {
            plan,
            events,
            processor: plan.processor(),
            position: 0,
            clock: 2_000 * SECOND,
            disk: (0, Value::Null),
            sink: BTreeMap::new(),
        };
        route.crash();
        route
    }

    fn crash(&mut self) {
        self.processor = self.plan.processor();
        self.processor.restore(self.disk.1.clone()).unwrap();
        self.processor.saved();
        self.position = self.disk.0;
    }

    /// One batch; false if it did not get as far as being settled.
    fn batch(&mut self, size: usize, rng: &mut Rng) {
        let now = Timestamp::from_unix_nanos(self.clock);
        let mut batch = EventBatch::new(Cause::Replay, now);
        let end = (self.position + size).min(self.events.len());
        for (offset, event) in (0..).zip(&self.events[self.position..end]) {
            batch.push(offset, event.clone());
        }
        if batch.is_empty() {
            self.processor.idle(now);
        }
        let done = self.processor.process_event(&mut batch).now_or_never();
        done.unwrap().unwrap();
        // Before delivery, or after it and before it is settled.
        let (lost, unsettled) = (rng.u8(..10) == 0, rng.u8(..10) == 0);
        if !lost {
            let derived = batch
                .iter()
                .filter(|(origin, _)| *origin == Origin::Derived);
            for (_, event) in derived {
                let id = event.id.to_string();
                let first = self.sink.entry(id).or_insert_with(|| event.clone());
                assert_eq!(first, event, "emitted again, and different");
            }
        }
        if lost || unsettled {
            self.crash();
        } else {
            self.position = end;
        }
    }

    fn commit(&mut self, rng: &mut Rng) {
        let state = self.processor.save().unwrap();
        if rng.u8(..10) == 0 {
            return self.crash();
        }
        // As text, as on disk.
        let state = serde_json::from_str(&state.to_string()).unwrap();
        self.disk = (self.position, state);
        if rng.u8(..10) == 0 {
            return self.crash();
        }
        self.processor.saved();
    }

    fn is_due(&self) -> bool {
        let due = self.processor.output_due();
        due.is_some_and(|due| due.unix_nanos() <= self.clock)
    }

    fn run(&mut self, rng: &mut Rng) {
        let mut readable = 0;
        while self.position < self.events.len() || rng.u8(..8) > 0 {
            self.clock += rng.i64(0..SECOND);
            match rng.u8(..10) {
                0 => self.crash(),
                1 | 2 => self.commit(rng),
                3 | 4 => readable = (readable + rng.usize(..8)).min(self.events.len()),
                5 if self.plan.idle => self.clock += 10 * SECOND,
                _ if self.position < readable => {
                    let size = rng.usize(1..6).min(readable - self.position);
                    self.batch(size, rng);
                }
                _ if self.plan.idle && self.is_due() => self.batch(0, rng),
                _ => {}
            }
            assert!(readable >= self.position);
        }
        // Then nothing comes any more, and time passes.
        while self.position < self.events.len()
            || self.processor.output_due().is_some()
            || self.processor.save().unwrap()["closed"] != Value::Array(Vec::new())
        {
            self.clock += 60 * SECOND;
            if self.position < self.events.len() {
                self.batch(10, rng);
            } else if self.is_due() {
                self.batch(0, rng);
            }
            self.commit(rng);
        }
    }
}

fn emitted(plan: &Plan, sink: &BTreeMap<String, Event<'_>>) -> Vec<((i64, String), Numbers, u64)> {
    sink.values()
        .map(|event| {
            let payload: Value = serde_json::from_str(&event.payload).unwrap();
            let start = event.ts.unix_nanos() - plan.window * SECOND;
            let text = Timestamp::from_unix_nanos(start).to_string();
            assert_eq!(event.attribute("window_start"), Some(text.as_str()));
            let key = event.attribute("window_key").unwrap().to_owned();
            assert_eq!(
                payload["key"]
                    .as_str()
                    .map_or_else(|| payload["key"].to_string(), Into::into),
                key
            );
            let numbers = Numbers {
                count: payload["count"].as_i64().unwrap(),
                values: payload["values"].as_i64().unwrap(),
                sum: payload["sum"].as_i64().unwrap(),
                min: payload["min"].as_i64(),
                max: payload["max"].as_i64(),
            };
            (
                (start, key),
                numbers,
                payload["late_events"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn case(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::random(&mut rng);
    let events = events(&mut rng);
    let mut route = Route::start(plan, &events);
    route.run(&mut rng);

    let windows = emitted(&plan, &route.sink);
    let pending = route.processor.save().unwrap()["late"].as_u64().unwrap();
    let late = windows.iter().map(|(_, _, late)| late).sum::<u64>() + pending;
    let counted = windows
        .iter()
        .map(|(_, numbers, _)| numbers.count)
        .sum::<i64>();
    assert_eq!(
        counted + late as i64,
        events.len() as i64,
        "{plan:?}: events counted once"
    );
    if plan.open_max >= 10_000 {
        let names: BTreeSet<_> = windows.iter().map(|(name, ..)| name).collect();
        assert_eq!(
            names.len(),
            windows.len(),
            "{plan:?}: a window was emitted twice"
        );
    }
    if !plan.idle {
        let mut found = BTreeMap::<_, Numbers>::new();
        for (name, numbers, _) in windows {
            found.entry(name).or_default().add(&numbers);
        }
        assert_eq!((found, late), model(&plan, &events), "{plan:?}");
    }
}

#[test]
fn every_window_is_emitted_exactly_once_with_the_right_numbers_whatever_crashes() {
    if let Ok(seed) = std::env::var("TELEMETRYX_SEED") {
        return case(seed.parse().expect("TELEMETRYX_SEED is a number"));
    }
    let base = fastrand::u64(..);
    for seed in (0..CASES).map(|n| base.wrapping_add(n)) {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| case(seed))) {
            eprintln!("failed with TELEMETRYX_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// The same with the real thing: what the simulated route above takes for granted of `route/run.rs`.
#[test]
fn windows_of_the_real_service_add_up_after_kills() {
    let mut rng = TestSeed::new();
    let mut service = Service::builder(env!("CARGO_BIN_EXE_telemetryx"))
        .config(
            "routes:\n- name: store\n  sink: { kind: sqlite }\n  processors:\n  \
             - { name: Window, window: 1s, idle_after: 1s, aggregate: [count, sum], field: n }\n",
        )
        .start();
    let mut sent = 0;
    for round in 0..8 {
        for _ in 0..20 {
            let now = Timestamp::from_unix_nanos(jiff::Timestamp::now().as_nanosecond() as i64);
            let event = format!(r#"{{"ts":"{now}","type":"T","payload":{{"n":3}}}}"#);
            service.post_json("/ingest", event).expect_status(202);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(rng.below(1_500)));
        if round % 4 == 3 {
            service.terminate();
        } else {
            service.kill();
        }
        service.restart();
    }
    let windows = || -> Vec<Value> {
        let page = service
            .get("/events?type=window.type&limit=1000")
            .expect_status(200);
        page.json()["events"].as_array().unwrap().clone()
    };
    let total = |name: &str| -> i64 {
        let windows = windows();
        windows
            .iter()
            .map(|window| window["payload"][name].as_i64().unwrap())
            .sum()
    };
    eventually(Duration::from_secs(20), "all windows are closed", || {
        total("count") == sent
    });
    assert_eq!((total("sum"), total("late_events")), (3 * sent, 0));
    let windows = windows();
    let starts: BTreeSet<_> = windows
        .iter()
        .map(|window| window["payload"]["window_start"].as_str())
        .collect();
    assert_eq!(
        starts.len(),
        windows.len(),
        "a window was emitted twice, with two ids"
    );
    let ledger = service.get("/ledger").json();
    assert_eq!(
        ledger["routes"]["store"]["delivered"], sent,
        "windows are in no book: {ledger}"
    );
    assert_eq!(ledger["routes"]["store"]["difference"], 0, "{ledger}");
}
