//! One batch to the sink, until every event of it is delivered or dead; what the sink keeps of them made durable; and how
//! long to wait for a sink that takes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::EventBatch;
use super::breaker::Breaker;
use super::handle::ReaderHandle;
use super::shared_sink::{Delivered, SharedSink};
use crate::config::RetryConfig;
use crate::journal::{Assignment, FailedDelivery};
use crate::sinks::RejectedBySink;

/// How long a sink may take for one batch, or to write what it keeps, once the route shall end.
const LAST_WAIT: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5000 });
/// How long it may take for a last flush once the route shall end at once.
const LAST_FLUSH: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 2000 });
/// The shortest pause before the route goes back to its last commit.
const REWIND_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });

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
    pub(super) handle: ReaderHandle,
    /// Told of what fails.
    pub(super) assignment: Arc<dyn Assignment>,
    /// How often the route went back since its last commit. As long as it has, what succeeds may only be what succeeded
    /// before: nobody says that all is well.
    pub(super) rewinds: u32,
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
        if !batch.is_empty() && !self.sink.rests_for().is_zero() {
            // A replay was told so.
            self.wait(Duration::ZERO).await?;
        }
        while !batch.is_empty() {
            if failures > 0 {
                self.handle.metrics().retries.increment(1);
            }
            match self.attempt(batch, &mut done, failures > 0).await? {
                Ok(()) => self.succeeded(),
                Err(error) => {
                    failures += 1;
                    self.failed(&error);
                    let gives_up = !self.sink.get().tries_for_ever();
                    if gives_up && !self.retry.attempts.allows_another(failures) {
                        let message = format!("gave up after {failures} attempts: {error}");
                        bury(batch, &message, &mut done);
                        break;
                    }
                    let pause = self.backoff(failures);
                    self.tell_failure(batch, failures, &error, pause);
                    self.wait(pause).await?;
                }
            }
        }
        Ok(done)
    }

    /// One attempt. Its end is not waited for once the route is to end and the sink takes too long, or `is_down` already.
    /// The attempt is broken off in the middle then, as a kill would do it, and `batch` is of no use any more.
    ///
    /// # Errors
    /// [`Stopped`]; the inner error is the sink's.
    pub(super) async fn attempt(
        &self,
        batch: &mut EventBatch<'_>,
        done: &mut Delivered,
        is_down: bool,
    ) -> Result<Result<(), String>, Stopped> {
        tokio::select! {
            biased;
            delivered = self.sink.deliver(batch, done) => Ok(delivered),
            () = self.given_up(is_down, Duration::ZERO) => Err(Stopped),
        }
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
            let flushed = tokio::select! {
                biased;
                flushed = self.sink.flush() => flushed,
                () = self.given_up(failures > 0, LAST_FLUSH) => return Err(Unflushed::Stopped),
            };
            let Err(error) = flushed else {
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
            self.wait(self.backoff(failures))
                .await
                .map_err(|Stopped| Unflushed::Stopped)?;
        }
    }

    /// Asks the sink how it is.
    pub(super) async fn check(&self) {
        let checked = tokio::select! {
            biased;
            checked = self.sink.get().check() => checked,
            () = self.ends(false, Duration::ZERO) => return,
        };
        match checked {
            Err(error) => self.handle.sink_is_down(&error.to_string(), false),
            Ok(()) if self.rewinds == 0 => self.handle.sink_is_up(),
            Ok(()) => {}
        }
    }

    /// The route has to go back to its last commit, for this reason. Waits, the longer the more often that was in vain.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(super) async fn pause_before_rewind(&mut self, why: &str) -> Result<(), Stopped> {
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        self.rewinds = self.rewinds.saturating_add(1);
        self.handle.sink_is_down(why, false);
        self.wait(self.backoff(self.rewinds).max(REWIND_PAUSE))
            .await
    }

    /// The route got past what it had gone back for.
    pub(super) fn committed(&mut self) {
        if std::mem::take(&mut self.rewinds) > 0 {
            self.handle.sink_is_up();
        }
    }

    fn succeeded(&mut self) {
        self.breaker.succeeded();
        if self.rewinds == 0 {
            self.handle.sink_is_up();
        }
    }

    /// Tells the journal of events that wait to be tried again.
    fn tell_failure(&self, batch: &EventBatch<'_>, attempts: u32, error: &str, pause: Duration) {
        let offsets = || batch.offsets().map(|(offset, _)| offset);
        if let (Some(first), Some(last)) = (offsets().min(), offsets().max()) {
            self.assignment.failed(FailedDelivery {
                first,
                end: last + 1,
                attempts,
                error: error.to_owned(),
                again_in: pause.max(self.breaker.closed_in(Instant::now())),
            });
        }
    }

    fn failed(&mut self, error: &str) {
        let opened = self.breaker.failed(Instant::now());
        self.handle.sink_is_down(error, self.breaker.is_open());
        if opened {
            tracing::warn!(
                route = self.handle.name(),
                reason = error,
                "the circuit breaker opened"
            );
        }
    }

    /// Waits for so long, and until breaker and sink allow another try. A sink that is down is not waited for once the
    /// route is to end.
    async fn wait(&self, pause: Duration) -> Result<(), Stopped> {
        let pause = pause
            .max(self.breaker.closed_in(Instant::now()))
            .max(self.sink.rests_for());
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.given_up(true, Duration::ZERO) => Err(Stopped),
        }
    }

    /// Returns when the sink is not to be waited for any more; the route is to stop then.
    async fn given_up(&self, is_down: bool, after_stop: Duration) {
        self.ends(is_down, after_stop).await;
        self.stop.cancel();
    }

    /// Returns so long after the route was told to stop, or some time after it was told to end.
    async fn ends(&self, is_down: bool, after_stop: Duration) {
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(after_stop).await;
        };
        let drained = async {
            self.drain.cancelled().await;
            if !is_down {
                tokio::time::sleep(LAST_WAIT).await;
            }
        };
        tokio::select! {
            () = stopped => {}
            () = drained => {}
        }
    }

    /// Exponential backoff with full jitter: somewhere up to `initial × 2^(failures − 1)`, at most `max`.
    fn backoff(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(31));
        let initial = Duration::from(self.retry.initial);
        let ceiling = initial.saturating_mul(doubled).min(self.retry.max.into());
        ceiling.mul_f64(fastrand::f64()).max(initial / 10)
    }
}

/// Gives up all events of a batch.
fn bury(batch: &mut EventBatch<'_>, message: &str, done: &mut Delivered) {
    while let Some(index) = batch.len().checked_sub(1) {
        let (origin, _) = batch.remove(index);
        let event = RejectedBySink {
            index,
            code: "attempts_exhausted",
            message: message.to_owned(),
        };
        done.rejected.push((origin, event));
    }
}
