//! `GET /status`, `/health` and `/metrics`: how the parts are.

use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::Query;
use super::progress::{self, PartitionProgress, Total};
use crate::admission::RateLimiter;
use crate::clock;
use crate::observe::Counted;
use crate::route::RouteStatus;

/// Routes, journal, version, uptime.
#[must_use]
pub fn status(of: &Query) -> Value {
    Handle::current().block_on(of.refresh());
    let routes: Map<_, _> = of
        .routes
        .iter()
        .map(|route| {
            let waiting = of.journal.waiting();
            let partitions = progress::of_route(of, route);
            let total = Total::of(&partitions, waiting);
            let status = route.status();
            let mut entry = json!({
                "sink": route.kind(),
                "cursor": total.position,
                "lag_events": total.pending,
                "lag_seconds": lag_seconds(&status),
                "health": status.sink,
            });
            if partitions.len() > 1 {
                entry["partitions"] = partitions.iter().map(shown).collect();
            }
            (route.name().to_owned(), entry)
        })
        .collect();
    let backlog = of.journal.backlog();
    let webhooks: Map<_, _> = of
        .intake
        .webhooks
        .signature_failures()
        .map(|(name, failures)| {
            let failures: Map<_, _> = failures
                .map(|(fault, count)| (fault.as_str().to_owned(), count.into()))
                .collect();
            (name.to_owned(), json!({ "signature_failures": failures }))
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": of.started.1.to_string(),
        "uptime_seconds": of.started.0.elapsed().as_secs(),
        "journal": of.journal.status(),
        "backlog": { "events": backlog.events, "bytes": backlog.bytes },
        "memory": { "used": of.intake.memory.used(), "answers": of.intake.answers.used() },
        "door": of.door.totals(),
        "overload": overload(of),
        "shed": of.door.shed_by.shown(),
        "rate_limit": rate_limit(of),
        "webhooks": webhooks,
        "certificates": of.certificates.to_json(),
        "routes": routes,
    })
}

fn shown(it: &PartitionProgress) -> Value {
    json!({
        "partition": it.extent.partition,
        "cursor": it.progress.position,
        "lag_events": it.pending(),
        "read_here": it.is_read_here,
    })
}

/// The log events of overload: how often since the start, and when last.
fn overload(of: &Query) -> Value {
    let mut failed = Counted::default();
    let mut paused = Counted::default();
    let mut error = None;
    for status in of.routes.iter().map(|route| route.status()) {
        if status.batches_failed.last > failed.last {
            error = status.sink.last_error;
        }
        failed.add(status.batches_failed);
        paused.add(status.pauses);
    }
    of.intake.overload.shown(paused, failed, error.as_deref())
}

/// How many clients have a bucket of their own now, and what all buckets take; `null` if no limiter is on.
fn rate_limit(of: &Query) -> Value {
    let held = of.intake.rate_limiter.as_ref().map(RateLimiter::held);
    held.map_or(
        Value::Null,
        |held| json!({ "buckets": held.buckets, "bytes": held.bytes }),
    )
}

/// 503 if nothing can be accepted; 200 otherwise, `degraded` if a route's sink is down or events are spilled.
#[must_use]
pub fn health(of: &Query) -> (StatusCode, Value) {
    let journal = of.journal.status();
    let mut degraded = !journal.damage.is_empty() || journal.spill.is_some();
    let routes: Map<_, _> = of
        .routes
        .iter()
        .map(|route| {
            let sink = route.status().sink;
            degraded |= matches!(sink.state, "down" | "stopped");
            let mut entry = json!({ "state": sink.state, "since": sink.since });
            if let (Some(error), "down" | "stopped") = (sink.last_error, sink.state) {
                entry["error"] = error.into();
            }
            (route.name().to_owned(), entry)
        })
        .collect();
    let (code, status) = match (journal.is_ok(), degraded) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (true, true) => (StatusCode::OK, "degraded"),
        (true, false) => (StatusCode::OK, "healthy"),
    };
    let mut part = json!({
        "state": journal.state,
        "since": journal.since.unwrap_or_else(|| of.started.1.to_string()),
    });
    if let Some(reason) = journal.reason {
        part["error"] = reason.into();
    }
    if !journal.damage.is_empty() {
        part["damage"] = json!(journal.damage);
    }
    if let Some(spill) = &journal.spill {
        part["spill"] = json!(spill);
    }
    (
        code,
        json!({ "status": status, "journal": part, "routes": routes }),
    )
}

/// All metrics as Prometheus text; those that are readings are read now.
#[must_use]
pub fn metrics(of: &Query) -> String {
    let metrics = &of.metrics;
    let journal = of.journal.status();
    metrics.journal_bytes.set(journal.bytes as f64);
    let spilled = journal.spill.map(|spill| (spill.events, spill.bytes));
    let (events, bytes) = spilled.unwrap_or_default();
    metrics.spill_events.set(events as f64);
    metrics.spill_bytes.set(bytes as f64);
    metrics.queue_depth.set(of.journal.backlog().events as f64);
    metrics.memory.set(of.intake.memory.used() as f64);
    for route in &of.routes {
        let waiting = of.journal.waiting();
        let total = Total::of(&progress::of_route(of, route), waiting);
        let status = route.status();
        let handles = route.metrics();
        handles.lag_events.set(total.pending as f64);
        handles.lag_seconds.set(lag_seconds(&status));
        handles
            .breaker_open
            .set(f64::from(u8::from(status.sink.breaker_open)));
        handles.ledger_difference.set(total.difference() as f64);
    }
    metrics.render()
}

/// How long ago the oldest event that the route has not settled was accepted.
fn lag_seconds(status: &RouteStatus) -> f64 {
    let nanos = status
        .waiting_since
        .map_or(0, |since| clock::now().unix_nanos() - since.unix_nanos());
    nanos.max(0) as f64 / 1e9
}
