//! One batch to the sink, until every event of it is delivered or dead; and what the sink keeps of them made durable.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::shared_sink::{Delivered, SharedSink};
use super::{EventBatch, RouteHandle};
use crate::config::RetryConfig;
use crate::sinks::RejectedBySink;

/// The route is to stop; the batch was not delivered, and is again in the journal's hands.
pub(super) struct Stopped;

/// Why the sink has not made durable what was delivered.
pub(super) enum Unflushed {
    /// It lost it, for this reason: the route has to go back to its last commit.
    Lost(String),
    /// The route is to stop.
    Stopped,
}

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
            let result = tokio::select! {
                result = self.sink.deliver(batch, &mut done) => result,
                // Slow, it is waited for; down, it is not.
                () = self.given_up(), if failures > 0 => return Err(Stopped),
            };
            match result {
                Ok(()) => self.succeeded(),
                Err(error) => {
                    failures += 1;
                    self.failed(&error);
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
                    self.wait(failures).await?;
                }
            }
        }
        Ok(done)
    }

    /// Makes durable what was delivered. A sink that keeps all of it after a failure is asked again until it succeeds, since
    /// nobody else could bring it before the route goes back.
    ///
    /// # Errors
    /// [`Unflushed`].
    pub(super) async fn flush(&mut self) -> Result<(), Unflushed> {
        let mut failures = 0;
        loop {
            if failures > 0 {
                self.handle.metrics().retries.increment(1);
            }
            let Err(error) = self.sink.flush().await else {
                if failures > 0 {
                    self.succeeded();
                }
                return Ok(());
            };
            let error = error.to_string();
            if self.sink.get().keeps_until().is_none() {
                return Err(Unflushed::Lost(error));
            }
            failures += 1;
            self.failed(&error);
            self.wait(failures)
                .await
                .map_err(|Stopped| Unflushed::Stopped)?;
        }
    }

    fn succeeded(&mut self) {
        self.breaker.succeeded();
        self.handle.metrics().breaker_open.set(0.0);
        self.handle.sink_is_up();
    }

    fn failed(&mut self, error: &str) {
        let opened = self.breaker.failed(Instant::now());
        self.handle.sink_is_down(error, self.breaker.is_open());
        if opened {
            self.handle.metrics().breaker_open.set(1.0);
            tracing::warn!(
                route = self.handle.name(),
                reason = error,
                "the circuit breaker opened"
            );
        }
    }

    /// Waits until it is time for another try. A sink that is down is not waited for once the route is to end.
    async fn wait(&self, failures: u32) -> Result<(), Stopped> {
        let now = Instant::now();
        let asked = self.sink.get().not_before();
        let pause = self
            .pause(failures)
            .max(self.breaker.closed_in(now))
            .max(asked.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)));
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.given_up() => Err(Stopped),
        }
    }

    /// Waits until the route is to end, while its sink is down: it stops then.
    async fn given_up(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.drain.cancelled() => self.stop.cancel(),
        }
    }

    /// Exponential backoff with full jitter: somewhere up to `initial × 2^(failures − 1)`, at most `max`.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(31));
        let initial = Duration::from(self.retry.initial);
        let ceiling = initial.saturating_mul(doubled).min(self.retry.max.into());
        ceiling.mul_f64(fastrand::f64()).max(initial / 10)
    }
}
