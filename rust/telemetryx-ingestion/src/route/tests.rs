//! Routes over a real journal, with sinks that misbehave in ways that no server can be made to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use telemetryx_common::{Event, Timestamp, wire};
use telemetryx_testkit::eventually;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Books, EventBatch, Plugins, Progress, Route, RouteHandle, RouteSettings};
use crate::config::{Attempts, BreakerConfig, EmbeddedConfig, FilterConfig, RetryConfig};
use crate::control::{self, Control, LetterFilter};
use crate::journal::{BatchLimit, EmbeddedJournal, EncodedBatch, Journal};
use crate::observe::Metrics;
use crate::processors::{EventProcessor, ProcessingError};
use crate::sinks::{DeliverError, Sink};

const SOON: Duration = Duration::from_secs(20);
const BATCH_EVENTS: usize = 10;

/// A sink that does as it is told. What is set beforehand is how it behaves, the rest what it saw.
#[derive(Default)]
struct Odd {
    /// Deliveries that fail.
    fails: AtomicU32,
    /// With it, the wish to be left alone for so long.
    rest: Option<Duration>,
    /// Flushes after which what came before is lost.
    loses: AtomicU32,
    /// Each delivery is refused, after the thread was busy for so long.
    refuses_after: Option<Duration>,
    /// No delivery and no flush ends.
    hangs: AtomicBool,
    /// It keeps what it gets for an hour, or until it is hurried.
    keeps: bool,
    tries_for_ever: bool,
    /// Checks that fail.
    unwell: AtomicU32,
    /// How many bytes it has saved.
    state_bytes: usize,

    handle: Mutex<Option<RouteHandle>>,
    keeps_until: Mutex<Option<Instant>>,
    not_before: Mutex<Option<Instant>>,
    deliveries: AtomicU64,
    too_early: AtomicU64,
    /// What the route said of the sink at each flush that loses.
    told_at_loss: Mutex<Vec<&'static str>>,
}

fn takes_one(counter: &AtomicU32) -> bool {
    let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    });
    taken.is_ok()
}

fn away<T>() -> Result<T, DeliverError> {
    Err(DeliverError::Retryable("away".to_owned()))
}

#[async_trait]
impl Sink for Arc<Odd> {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        if self.not_before.lock().is_some_and(|at| Instant::now() < at) {
            self.too_early.fetch_add(1, Ordering::Relaxed);
        }
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if takes_one(&self.fails) {
            *self.not_before.lock() = self.rest.map(|rest| Instant::now() + rest);
            return away();
        }
        if let Some(busy) = self.refuses_after {
            std::thread::sleep(busy);
            return Err(DeliverError::Refused {
                code: "refused",
                message: format!("{} events", batch.len()),
            });
        }
        if self.keeps {
            let hour = Instant::now() + Duration::from_secs(3600);
            self.keeps_until.lock().get_or_insert(hour);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), DeliverError> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if takes_one(&self.loses) {
            let handle = self.handle.lock().clone();
            let told = handle.map_or("nothing", |handle| handle.status().sink.state);
            self.told_at_loss.lock().push(told);
            return away();
        }
        *self.keeps_until.lock() = None;
        Ok(())
    }

    fn keeps_until(&self) -> Option<Instant> {
        *self.keeps_until.lock()
    }

    fn hurry(&self) {
        if let Some(until) = &mut *self.keeps_until.lock() {
            *until = Instant::now();
        }
    }

    fn tries_for_ever(&self) -> bool {
        self.tries_for_ever
    }

    fn not_before(&self) -> Option<Instant> {
        *self.not_before.lock()
    }

    async fn check(&self) -> Result<(), DeliverError> {
        if takes_one(&self.unwell) {
            return away();
        }
        Ok(())
    }

    fn save(&self) -> Option<Value> {
        (self.state_bytes > 0).then(|| "x".repeat(self.state_bytes).into())
    }
}

/// A processor that wants a save once it has seen so many events since the last one.
struct Eager {
    after: u64,
    seen: AtomicU64,
}

#[async_trait]
impl EventProcessor for Eager {
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError> {
        self.seen.fetch_add(batch.journaled(), Ordering::Relaxed);
        Ok(())
    }

    fn save(&self) -> Option<Value> {
        Some(Value::Null)
    }

    fn saved(&self) {
        self.seen.store(0, Ordering::Relaxed);
    }

    fn wants_save(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.after
    }
}

struct Rig {
    folder: TempDir,
    journal: Arc<dyn Journal>,
    control: Control,
    metrics: Arc<Metrics>,
}

/// A route that runs, until it is dropped.
struct Running {
    handle: RouteHandle,
    drain: CancellationToken,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::install());
        let path = folder.path().join("journal");
        let journal = EmbeddedJournal::open(
            &path,
            &EmbeddedConfig::default(),
            false,
            Arc::clone(&metrics),
        );
        Self {
            journal: Arc::new(journal.unwrap()),
            control: Control::start(folder.path(), 1 << 20).unwrap(),
            metrics,
            folder,
        }
    }

    async fn append(&self, events: u32) {
        let mut body = Vec::new();
        for n in 0..events {
            let event = Event::new(Timestamp::UNIX_EPOCH);
            wire::encode_event(&event, &format!("e{n}"), &mut body);
        }
        let batch = EncodedBatch {
            body: body.into(),
            events,
            is_own: false,
            earliest: Timestamp::UNIX_EPOCH,
            latest: Timestamp::UNIX_EPOCH,
        };
        self.journal.append(batch).await.unwrap();
    }

    fn run(&self, sink: &Arc<Odd>) -> Running {
        self.run_with(sink, Attempts::Unlimited, Vec::new())
    }

    fn run_with(
        &self,
        sink: &Arc<Odd>,
        attempts: Attempts,
        processors: Vec<(String, Box<dyn EventProcessor>)>,
    ) -> Running {
        let settings = RouteSettings {
            name: "r".to_owned(),
            kind: "odd".to_owned(),
            filter: FilterConfig::default(),
            limit: BatchLimit {
                events: BATCH_EVENTS,
                bytes: 1 << 20,
                wait: Duration::ZERO,
            },
            batches_max: 2,
            in_flight: 1,
            retry: RetryConfig {
                initial: crate::config::Duration::millis(5),
                max: crate::config::Duration::millis(20),
                attempts,
            },
            breaker: BreakerConfig {
                failures: 1_000_000,
                ..BreakerConfig::default()
            },
        };
        let (processors, odd) = (Mutex::new(processors), Arc::clone(sink));
        let make = Box::new(move || {
            Ok(Plugins {
                processors: std::mem::take(&mut *processors.lock()),
                sink: Box::new(Arc::clone(&odd)),
            })
        });
        let journal = Arc::clone(&self.journal);
        let (control, metrics) = (self.control.clone(), Arc::clone(&self.metrics));
        let route = Route::new(settings, make, journal, control, metrics).unwrap();
        let handle = route.handle();
        *sink.handle.lock() = Some(handle.clone());
        let (drain, stop) = route.stoppers();
        Running {
            handle,
            drain,
            stop,
            task: tokio::spawn(route.run()),
        }
    }
}

impl Running {
    /// How far it is in the only partition.
    fn progress(&self) -> Progress {
        let progress = self.handle.status().progress;
        progress.get(&0).copied().unwrap_or_default()
    }

    #[track_caller]
    fn passes(&self, events: u64) -> Books {
        eventually(SOON, "the route has passed all events", || {
            self.progress().books.passed() == events
        });
        self.progress().books
    }

    /// How long it takes to end.
    async fn ends(&mut self) -> Duration {
        let asked = Instant::now();
        let ended = tokio::time::timeout(SOON, &mut self.task).await;
        ended.expect("the route ends").unwrap();
        asked.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_too_large_stops_the_route_with_words_and_it_does_not_try_again() {
    let rig = Rig::new();
    let sink = Arc::new(Odd {
        state_bytes: 17 << 20,
        ..Odd::default()
    });
    rig.append(1).await;
    let route = rig.run(&sink);
    eventually(SOON, "the route is stopped", || {
        route.handle.status().sink.state == "stopped"
    });
    let words = route.handle.status().sink.last_error.unwrap();
    assert!(
        words.contains("16777216 fit") && words.contains("the state of the sink"),
        "{words}"
    );
    assert_eq!(sink.deliveries.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sink_loses_comes_again_and_it_is_not_said_to_be_back_until_it_has_it() {
    let rig = Rig::new();
    let sink = Arc::new(Odd {
        loses: AtomicU32::new(4),
        ..Odd::default()
    });
    rig.append(5).await;
    let route = rig.run(&sink);
    eventually(SOON, "the sink is back", || {
        route.handle.status().sink.state == "up" && sink.told_at_loss.lock().len() == 4
    });
    assert_eq!(route.passes(5).delivered, 5);
    assert_eq!(*sink.told_at_loss.lock(), ["up", "down", "down", "down"]);
    assert_eq!(sink.deliveries.load(Ordering::Relaxed), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_wants_a_save_has_the_sink_write_what_it_keeps() {
    let rig = Rig::new();
    let sink = Arc::new(Odd {
        keeps: true,
        ..Odd::default()
    });
    let eager: Box<dyn EventProcessor> = Box::new(Eager {
        after: 30,
        seen: AtomicU64::new(0),
    });
    rig.append(100).await;
    let eager = vec![("Eager".to_owned(), eager)];
    let route = rig.run_with(&sink, Attempts::Unlimited, eager);
    eventually(SOON, "what was kept is passed", || {
        route.progress().position >= 90
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_do_not_count_for_a_sink_whose_failures_say_nothing_of_the_batch() {
    for tries_for_ever in [true, false] {
        let rig = Rig::new();
        let sink = Arc::new(Odd {
            fails: AtomicU32::new(3),
            tries_for_ever,
            ..Odd::default()
        });
        rig.append(4).await;
        let attempts = Attempts::Limited(NonZeroU32::new(2).unwrap());
        let route = rig.run_with(&sink, attempts, Vec::new());
        let books = route.passes(4);
        let (delivered, dead) = if tries_for_ever { (4, 0) } else { (0, 4) };
        assert_eq!((books.delivered, books.dead), (delivered, dead));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_wants_to_be_left_alone_is_by_its_route_by_replays_and_by_dead_letters() {
    let rig = Rig::new();
    let sink = Arc::new(Odd {
        fails: AtomicU32::new(1),
        rest: Some(Duration::from_millis(400)),
        ..Odd::default()
    });
    let once = Attempts::Limited(NonZeroU32::MIN);
    rig.append(3).await;
    let route = rig.run_with(&sink, once, Vec::new());
    assert_eq!(route.passes(3).dead, 3, "one attempt is all there is");
    // All three want to deliver now.
    let db = control::open(&rig.folder.path().join("control.db")).unwrap();
    control::letters::ask_redrive(&db, &LetterFilter::default()).unwrap();
    let part = control::Part {
        partition: 0,
        first: 0,
        behind: 3,
    };
    control::replays::ask(&db, "r", &[part]).unwrap();
    rig.append(3).await;
    eventually(SOON, "all of it is delivered", || {
        route.progress().books.delivered == 6 && sink.deliveries.load(Ordering::Relaxed) >= 6
    });
    assert_eq!(sink.too_early.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_wait_until_the_halves_of_a_refused_batch_are_through() {
    let rig = Rig::new();
    let sink = Arc::new(Odd {
        refuses_after: Some(Duration::from_millis(20)),
        ..Odd::default()
    });
    rig.append(BATCH_EVENTS as u32).await;
    let mut route = rig.run(&sink);
    eventually(SOON, "halves are delivered", || {
        sink.deliveries.load(Ordering::Relaxed) >= 2
    });
    route.stop.cancel();
    route.ends().await;
    let made = sink.deliveries.load(Ordering::Relaxed);
    assert!(made < 15, "{made} of the 19 parts");
    assert_eq!(route.progress().books.passed(), 0, "given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_hangs_is_not_waited_for_at_the_end() {
    for keeps in [false, true] {
        let rig = Rig::new();
        let sink = Arc::new(Odd {
            keeps,
            hangs: AtomicBool::new(!keeps),
            ..Odd::default()
        });
        rig.append(1).await;
        let mut route = rig.run(&sink);
        eventually(SOON, "it is handed something", || {
            sink.deliveries.load(Ordering::Relaxed) == 1
                && (!keeps || sink.keeps_until.lock().is_some())
        });
        sink.hangs.store(true, Ordering::Relaxed);
        route.drain.cancel();
        route.ends().await;
        assert_eq!(route.progress().position, 0, "it comes again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_that_it_stopped_reading_also_while_its_sink_writes_what_it_keeps() {
    let rig = Rig::new();
    let sink = Arc::new(Odd {
        keeps: true,
        ..Odd::default()
    });
    let eager: Box<dyn EventProcessor> = Box::new(Eager {
        after: 1,
        seen: AtomicU64::new(0),
    });
    let route = rig.run_with(
        &sink,
        Attempts::Unlimited,
        vec![("Eager".to_owned(), eager)],
    );
    rig.append(1).await;
    route.passes(1);
    // From here on no flush ends; deliveries do.
    sink.loses.store(u32::MAX, Ordering::Relaxed);
    rig.append(100).await;
    eventually(SOON, "it says so", || {
        route.handle.status().pauses.count() == 1
    });
    sink.loses.store(0, Ordering::Relaxed);
    route.passes(101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_down_is_looked_at_again_though_nothing_comes() {
    let rig = Rig::new();
    let sink = Arc::new(Odd {
        unwell: AtomicU32::new(3),
        ..Odd::default()
    });
    let route = rig.run(&sink);
    eventually(SOON, "the sink is down", || {
        route.handle.status().sink.first_error.is_some()
    });
    eventually(SOON, "the sink is up", || {
        route.handle.status().sink.state == "up"
    });
}
