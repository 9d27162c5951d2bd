//! One route over one partition: what it is made of, and that it goes on whatever goes wrong. One run of it after the other
//! begins at the last commit, until it is asked to end or an operator has to decide.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Progress;
use super::breaker::Breaker;
use super::commit::Saved;
use super::delivering::Deliverer;
use super::handle::{ReaderHandle, RouteHandle};
use super::pipeline::{Pipeline, Step};
use super::replay::Replayer;
use super::run::Run;
use super::shared_sink::SharedSink;
use super::under_way::Kept;
use crate::config::{BreakerConfig, FilterConfig, RetryConfig};
use crate::control::Control;
use crate::journal::{Assignment, BatchLimit, Journal, JournalError, Subscription};
use crate::observe::Metrics;
use crate::processors::EventProcessor;
use crate::sinks::Sink;

/// What ends a run of the loop before it is asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Go back to the last commit and try again.
    #[error("{0}")]
    Rewind(String),
    /// An operator has to decide; the route stays stopped.
    #[error("{0}")]
    Stop(String),
    /// Another process reads the partition now.
    #[error("{0}")]
    Lost(String),
}

impl From<JournalError> for RouteError {
    fn from(error: JournalError) -> Self {
        match error {
            // Neither comes out otherwise the next time.
            JournalError::DamagedCursor(_) | JournalError::StateTooLarge { .. } => {
                Self::Stop(error.to_string())
            }
            JournalError::Lost(_) => Self::Lost(error.to_string()),
            JournalError::Io(_) | JournalError::Closed => Self::Rewind(error.to_string()),
        }
    }
}

/// What a route is made of, beside its plug-ins.
pub struct RouteSettings {
    /// Its name.
    pub name: String,
    /// The kind of its sink.
    pub kind: String,
    /// Which events it wants.
    pub filter: FilterConfig,
    /// When a batch is full.
    pub limit: BatchLimit,
    /// Most batches of a partition in memory at a time, the one under way included.
    pub batches_max: usize,
    /// Parts of a batch that are delivered at the same time.
    pub in_flight: usize,
    /// How it tries again.
    pub retry: RetryConfig,
    /// When it leaves its sink alone.
    pub breaker: BreakerConfig,
}

/// A route's plug-ins. Each reader has its own, which know nothing of other partitions.
pub struct Plugins {
    /// The processors by name, in order.
    pub processors: Vec<(String, Box<dyn EventProcessor>)>,
    /// The sink.
    pub sink: Box<dyn Sink>,
}

/// What the readers of a route have in common.
pub(super) struct Common {
    pub(super) settings: RouteSettings,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) control: Control,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handle: RouteHandle,
    /// Cancelled when all shall end that have passed everything.
    pub(super) drain: CancellationToken,
    /// Cancelled when all shall end at once.
    pub(super) stop: CancellationToken,
}

/// One route over one partition.
pub(super) struct Reader {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) control: Control,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limit: BatchLimit,
    pub(super) batches_max: usize,
    pub(super) pipeline: Pipeline,
    pub(super) deliverer: Deliverer,
    pub(super) handle: ReaderHandle,
    pub(super) redriven: Vec<i64>,
    /// The last commit says so.
    pub(super) rests: bool,
    /// What the sink keeps back.
    pub(super) kept: Option<Kept>,
    pub(super) assignment: Arc<dyn Assignment>,
    /// The subscription for the first run. (A lock only because the reader is shared between awaits.)
    opened: Mutex<Option<Result<Box<dyn Subscription>, RouteError>>>,
}

impl Reader {
    /// Of the partition that was assigned. It is where it was at its last commit from here on: nobody sees it without its
    /// books before it runs.
    pub(super) async fn open(
        common: &Common,
        plugins: Plugins,
        assignment: Box<dyn Assignment>,
    ) -> Self {
        let settings = &common.settings;
        let assignment: Arc<dyn Assignment> = assignment.into();
        let handle = common.handle.reader(assignment.partition());
        let steps = plugins.processors.into_iter().map(|(name, processor)| {
            let metrics = handle.metrics().plugin(&name);
            Step {
                name,
                processor: processor.into(),
                metrics,
            }
        });
        let mut this = Self {
            journal: Arc::clone(&common.journal),
            control: common.control.clone(),
            metrics: Arc::clone(&common.metrics),
            limit: settings.limit,
            batches_max: settings.batches_max,
            pipeline: Pipeline {
                filter: common.handle.filter().clone(),
                steps: steps.collect(),
            },
            deliverer: Deliverer {
                sink: SharedSink::new(plugins.sink, settings.in_flight),
                retry: settings.retry.clone(),
                breaker: Breaker::new(&settings.breaker),
                rewinds: 0,
                handle: handle.clone(),
                assignment: Arc::clone(&assignment),
                drain: common.drain.child_token(),
                stop: common.stop.child_token(),
            },
            handle,
            redriven: Vec::new(),
            rests: false,
            kept: None,
            assignment,
            opened: Mutex::new(None),
        };
        let opened = this.subscribe().await;
        *this.opened.get_mut() = Some(opened);
        this
    }

    /// Subscribes, and takes back what was saved with the last commit.
    async fn subscribe(&mut self) -> Result<Box<dyn Subscription>, RouteError> {
        let subscription = self.assignment.open().await?;
        self.restore(&*subscription)?;
        Ok(subscription)
    }

    /// Its sink.
    pub(super) fn sink(&self) -> &dyn Sink {
        self.deliverer.sink.get()
    }

    /// Cancel the first to let it end when it has passed everything (where others may read on, when it has passed what is
    /// under way), the second to let it end at once.
    pub(super) fn stoppers(&self) -> (CancellationToken, CancellationToken) {
        (self.deliverer.drain.clone(), self.deliverer.stop.clone())
    }

    /// Runs until it is asked to end, or the partition is to go to another process. Panics of plug-ins are counted, and it
    /// goes back to its last commit.
    pub(super) async fn run(mut self) {
        let (revoked, stop) = (self.assignment.revoked(), self.deliverer.stop.clone());
        let watch = tokio::spawn(async move {
            revoked.cancelled().await;
            stop.cancel();
        });
        let replays = tokio::spawn(
            Replayer {
                journal: Arc::clone(&self.journal),
                control: self.control.clone(),
                pipeline: self.pipeline.stateless(),
                sink: self.deliverer.sink.clone(),
                handle: self.handle.clone(),
                limit: self.limit,
                stop: self.deliverer.stop.clone(),
            }
            .run(),
        );
        self.keep_running().await;
        replays.abort();
        watch.abort();
    }

    async fn keep_running(&mut self) {
        while !self.deliverer.stop.is_cancelled() {
            let run = AssertUnwindSafe(self.run_from_last_commit())
                .catch_unwind()
                .await;
            let error = match run {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => {
                    self.metrics.internal_errors.increment(1);
                    RouteError::Rewind("a plug-in panicked; the log has where".into())
                }
            };
            match error {
                RouteError::Lost(error) => {
                    let partition = self.handle.partition();
                    tracing::info!(
                        route = self.handle.name(),
                        partition,
                        error,
                        "it is read elsewhere now"
                    );
                    return;
                }
                RouteError::Stop(error) => {
                    tracing::error!(route = self.handle.name(), error, "the route is stopped");
                    self.handle.stopped(&error);
                    // There is nothing that it could pass before the service goes down.
                    tokio::select! {
                        () = self.deliverer.drain.cancelled() => {}
                        () = self.deliverer.stop.cancelled() => {}
                    }
                    return;
                }
                RouteError::Rewind(error) => {
                    if self.deliverer.rewinds == 0 {
                        tracing::warn!(
                            route = self.handle.name(),
                            error,
                            "the route goes back to its last commit, and again until it gets past it"
                        );
                    }
                    if self.deliverer.pause_before_rewind(&error).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn run_from_last_commit(&mut self) -> Result<(), RouteError> {
        let subscription = match self.opened.get_mut().take() {
            Some(opened) => opened?,
            None => self.subscribe().await?,
        };
        // Letters behind the last commit are of batches that come again now.
        let forgotten = self.control.forget_from(
            self.handle.name(),
            self.handle.partition(),
            subscription.position(),
        );
        forgotten
            .await
            .map_err(|error| RouteError::Rewind(error.to_string()))?;
        Run::new(self, subscription).until_it_ends().await
    }

    fn restore(&mut self, subscription: &dyn Subscription) -> Result<(), RouteError> {
        let stop = |error: &dyn std::fmt::Display| {
            RouteError::Stop(format!("the saved state does not fit: {error}"))
        };
        let position = subscription.position();
        let saved = Saved::read(subscription.state(), position).map_err(|error| stop(&error))?;
        self.pipeline
            .restore(&saved.processors)
            .map_err(|error| stop(&error))?;
        self.pipeline.saved();
        self.deliverer
            .sink
            .get()
            .restore(saved.sink)
            .map_err(|error| stop(&error))?;
        self.redriven = saved.redriven;
        self.rests = saved.rests;
        self.kept = None;
        self.handle.start_at(Progress {
            position,
            books: saved.books,
            carried: saved.carried,
        });
        Ok(())
    }
}
