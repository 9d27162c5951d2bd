//! What became of every event, per route: the numbers behind `/ledger`, `/status` and `/receipts`.
//!
//! Position and books change in one step under one lock, so that accepted = delivered + filtered + dead + pending +
//! expired holds whenever somebody looks; and they are saved in the same step as the route's cursor, so that it holds
//! after a crash too.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use telemetryx_common::Timestamp;

use super::RouteFilter;
use crate::clock;
use crate::observe::{Counted, RouteMetrics};

/// What became of the events that a route has passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// The sink has them.
    pub delivered: u64,
    /// The route's filter or a processor left them out.
    pub filtered: u64,
    /// They are dead letters.
    pub dead: u64,
    /// The journal had removed them, or could not read them any more, before the route came to them.
    pub expired: u64,
}

impl Books {
    /// Events passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.delivered + self.filtered + self.dead + self.expired
    }

    pub(super) fn add(&mut self, more: Self) {
        self.delivered += more.delivered;
        self.filtered += more.filtered;
        self.dead += more.dead;
        self.expired += more.expired;
    }
}

/// How a route's sink is.
#[derive(Debug, Clone, Serialize)]
pub struct SinkHealth {
    /// `up`, or `down` from the first failure to the next success; `starting` before the first answer; `stopped` when
    /// the route cannot run.
    pub state: &'static str,
    /// Since when, RFC 3339.
    pub since: String,
    /// Attempts that failed since then.
    pub failures: u64,
    /// The first error since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// The newest error, also an older one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// True while the circuit breaker is open.
    pub breaker_open: bool,
}

/// What a route says of itself.
#[derive(Debug, Clone)]
pub struct RouteStatus {
    /// The offset that is read next.
    pub position: u64,
    /// What became of those before.
    pub books: Books,
    /// Its sink.
    pub sink: SinkHealth,
    /// When the oldest event not passed was accepted, if it is known.
    pub waiting_since: Option<Timestamp>,
    /// Attempts to hand a batch to the sink that failed, since the start.
    pub batches_failed: Counted,
    /// How often it stopped reading for a time since its memory was full.
    pub pauses: Counted,
}

/// Others' view of a running route; a cheap clone.
#[derive(Clone)]
pub struct RouteHandle {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    kind: String,
    refuses_replay: Option<&'static str>,
    filter: RouteFilter,
    metrics: RouteMetrics,
    status: Mutex<RouteStatus>,
}

impl RouteHandle {
    pub(super) fn new(
        name: &str,
        kind: &str,
        refuses_replay: Option<&'static str>,
        filter: RouteFilter,
    ) -> Self {
        let metrics = RouteMetrics::new(name);
        let sink = SinkHealth {
            state: "starting",
            since: clock::now().to_string(),
            failures: 0,
            first_error: None,
            last_error: None,
            breaker_open: false,
        };
        let status = RouteStatus {
            position: 0,
            books: Books::default(),
            sink,
            waiting_since: None,
            batches_failed: Counted::default(),
            pauses: Counted::default(),
        };
        Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                kind: kind.to_owned(),
                refuses_replay,
                filter,
                metrics,
                status: Mutex::new(status),
            }),
        }
    }

    /// The route's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The kind of its sink.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.shared.kind
    }

    /// Why a replay would do harm, if it would.
    #[must_use]
    pub fn refuses_replay(&self) -> Option<&'static str> {
        self.shared.refuses_replay
    }

    /// Its filter.
    #[must_use]
    pub fn filter(&self) -> &RouteFilter {
        &self.shared.filter
    }

    /// Its metrics.
    #[must_use]
    pub fn metrics(&self) -> &RouteMetrics {
        &self.shared.metrics
    }

    /// What it says of itself now.
    #[must_use]
    pub fn status(&self) -> RouteStatus {
        self.shared.status.lock().clone()
    }

    /// The offset that is read next.
    pub(super) fn position(&self) -> u64 {
        self.shared.status.lock().position
    }

    pub(super) fn start_at(&self, position: u64, books: Books) {
        let mut status = self.shared.status.lock();
        status.position = position;
        status.books = books;
    }

    /// Everything before `position` is settled, with `more` in the books.
    pub(super) fn settle(&self, position: u64, more: Books) {
        let mut status = self.shared.status.lock();
        status.position = position;
        status.books.add(more);
        status.waiting_since = None;
    }

    /// A dead letter was sent again: it is delivered, or no longer wanted. False if no dead letter is booked.
    pub(super) fn redriven(&self, delivered: bool) -> bool {
        let books = &mut self.shared.status.lock().books;
        let Some(dead) = books.dead.checked_sub(1) else {
            return false;
        };
        books.dead = dead;
        if delivered {
            books.delivered += 1;
        } else {
            books.filtered += 1;
        }
        true
    }

    pub(super) fn waiting_since(&self, accepted: Option<Timestamp>) {
        self.shared.status.lock().waiting_since = accepted;
    }

    /// Its memory is full and its sink takes nothing: it stopped reading.
    pub(super) fn paused(&self, batches: usize) {
        self.shared.status.lock().pauses.tick();
        tracing::warn!(
            event = "processing_paused",
            reason = "buffer_full",
            route = self.name(),
            batches,
            "the sink takes nothing: reading stops until it does"
        );
    }

    /// What it had read is delivered: it reads on.
    pub(super) fn resumed(&self) {
        tracing::info!(route = self.name(), "reading goes on");
    }

    pub(super) fn is_down(&self) -> bool {
        self.shared.status.lock().sink.state == "down"
    }

    pub(super) fn sink_is_up(&self) {
        let mut status = self.shared.status.lock();
        let sink = &mut status.sink;
        sink.breaker_open = false;
        if sink.state != "up" {
            if sink.state == "down" {
                tracing::info!(
                    route = self.name(),
                    failures = sink.failures,
                    "the sink is back"
                );
            }
            sink.state = "up";
            sink.since = clock::now().to_string();
            sink.failures = 0;
            sink.first_error = None;
        }
    }

    pub(super) fn sink_is_down(&self, error: &str, breaker_open: bool) {
        let mut status = self.shared.status.lock();
        status.batches_failed.tick();
        let sink = &mut status.sink;
        sink.failures += 1;
        sink.last_error = Some(error.to_owned());
        sink.breaker_open = breaker_open;
        if sink.state != "down" {
            tracing::warn!(
                event = "batch_persist_failed",
                reason = error,
                route = self.name(),
                "the sink is down; its events stay in the journal"
            );
            sink.state = "down";
            sink.since = clock::now().to_string();
            sink.failures = 1;
            sink.first_error = Some(error.to_owned());
        }
    }

    pub(super) fn stopped(&self, error: &str) {
        let mut status = self.shared.status.lock();
        status.sink.state = "stopped";
        status.sink.since = clock::now().to_string();
        status.sink.last_error = Some(error.to_owned());
    }
}
