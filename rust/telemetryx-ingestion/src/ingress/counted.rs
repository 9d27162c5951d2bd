//! What is written down of every request to take in events, whatever it came by: a span, its time, its outcome.

use std::time::Instant;

use tracing::Instrument;
use tracing::field::{Empty, display};

use super::request_id::RequestId;
use super::stream::Peer;
use crate::intake::Refusal;
use crate::observe::Metrics;

/// Runs `taking` in the request's span, times it from `started`, the end of the request's head, and counts it.
pub(super) async fn counted<T>(
    metrics: &Metrics,
    started: Instant,
    peer: Peer,
    request_id: &RequestId,
    taking: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    // On at `RUST_LOG=debug`: a span a request costs more than taking in a small event.
    let span = tracing::debug_span!(
        "ingest", request_id = request_id.as_str(), source_ip = %peer.address.ip(),
        payload_size = Empty, decode_time = Empty, enqueue_time = Empty, process_time = Empty,
    );
    let taken = async {
        let taken = taking.await;
        let current = tracing::Span::current();
        current.record("process_time", display(started.elapsed().as_secs_f64()));
        tracing::debug!(
            outcome = if taken.is_ok() { "accepted" } else { "refused" },
            "request"
        );
        taken
    }
    .instrument(span)
    .await;
    metrics.requests.increment(1);
    metrics.latency.record(started.elapsed().as_secs_f64());
    if taken.is_err() {
        metrics.request_errors.increment(1);
    }
    taken
}
