//! One batch to the sink, until every event of it is delivered or dead.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::shared_sink::{Delivered, SharedSink};
use super::{EventBatch, RouteHandle};
use crate::config::RetryConfig;
use crate::sinks::RejectedBySink;

/// The route is to stop; the batch was not delivered, and is again in the journal's hands.
pub(super) struct Stopped;

/// Delivers to one sink with retries and a circuit breaker.
pub(super) struct Deliverer {
    pub(super) sink: SharedSink,
    pub(super) retry: RetryConfig,
    pub(super) breaker: Breaker,
    pub(super) handle: RouteHandle,
    /// Cancelled when the route shall end once it has passed everything; a sink that is down is not waited for.
    pub(super) drain: CancellationToken,
    /// Cancelled when the route shall stop even if its sink is down.
    pub(super) stop: CancellationToken,
}

impl Deliverer {
    /// Delivers `batch`. Returns when every event of it is settled, or the route is to stop.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(super) async fn deliver(
        &mut self,
        batch: &mut EventBatch<'_>,
    ) -> Result<Delivered, Stopped> {
        let mut done = Delivered::default();
        let mut failures = 0;
        while !batch.is_empty() {
            if failures > 0 {
                self.handle.metrics().retries.increment(1);
            }
            match self.sink.deliver(batch, &mut done).await {
                Ok(()) => {
                    self.breaker.succeeded();
                    self.handle.metrics().breaker_open.set(0.0);
                    self.handle.sink_is_up();
                }
                Err(error) => {
                    failures += 1;
                    let opened = self.breaker.failed(Instant::now());
                    self.handle.sink_is_down(&error, self.breaker.is_open());
                    if opened {
                        self.handle.metrics().breaker_open.set(1.0);
                        tracing::warn!(
                            route = self.handle.name(),
                            reason = error,
                            "the circuit breaker opened"
                        );
                    }
                    if !self.retry.attempts.allows_another(failures) {
                        let message = format!("gave up after {failures} attempts: {error}");
                        while let Some(index) = batch.len().checked_sub(1) {
                            let (origin, _) = batch.remove(index);
                            let code = "attempts_exhausted";
                            let message = message.clone();
                            let event = RejectedBySink {
                                index,
                                code,
                                message,
                            };
                            done.rejected.push((origin, event));
                        }
                        break;
                    }
                    let now = Instant::now();
                    let asked = self.sink.get().not_before();
                    let pause = self
                        .pause(failures)
                        .max(self.breaker.closed_in(now))
                        .max(asked.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.cancelled() => return Err(Stopped),
                        () = self.drain.cancelled() => {
                            self.stop.cancel();
                            return Err(Stopped);
                        }
                    }
                }
            }
        }
        Ok(done)
    }

    /// Exponential backoff with full jitter: somewhere up to `initial × 2^(failures − 1)`, at most `max`.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(31));
        let initial = Duration::from(self.retry.initial);
        let ceiling = initial.saturating_mul(doubled).min(self.retry.max.into());
        ceiling.mul_f64(fastrand::f64()).max(initial / 10)
    }
}
