//! A route: what it is made of, and that it goes on whatever goes wrong. One run of it after the other begins at the last
//! commit, until it is asked to end or an operator has to decide.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::RouteFilter;
use super::books::{Books, RouteHandle};
use super::breaker::Breaker;
use super::commit::Saved;
use super::delivering::Deliverer;
use super::pipeline::{Pipeline, Step};
use super::replay::Replayer;
use super::run::Run;
use super::shared_sink::SharedSink;
use super::under_way::Kept;
use crate::config::{BreakerConfig, FilterConfig, RetryConfig};
use crate::control::Control;
use crate::journal::{BatchLimit, Journal, JournalError, Subscription};
use crate::observe::Metrics;
use crate::processors::EventProcessor;
use crate::query::CounterStore;
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
}

impl From<JournalError> for RouteError {
    fn from(error: JournalError) -> Self {
        match error {
            // Neither comes out otherwise the next time.
            JournalError::DamagedCursor(_) | JournalError::StateTooLarge { .. } => {
                Self::Stop(error.to_string())
            }
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
    /// Most batches in memory at a time, the one under way included.
    pub batches_max: usize,
    /// Parts of a batch that are delivered at the same time.
    pub in_flight: usize,
    /// How it tries again.
    pub retry: RetryConfig,
    /// When it leaves its sink alone.
    pub breaker: BreakerConfig,
}

/// One route.
pub struct Route {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) control: Control,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limit: BatchLimit,
    pub(super) batches_max: usize,
    pub(super) pipeline: Pipeline,
    pub(super) deliverer: Deliverer,
    pub(super) handle: RouteHandle,
    pub(super) redriven: Vec<i64>,
    /// What the sink keeps back.
    pub(super) kept: Option<Kept>,
    /// The subscription for the first run. (A lock only because the route is shared between awaits.)
    opened: Mutex<Option<Result<Box<dyn Subscription>, RouteError>>>,
}

impl Route {
    /// A route over `journal`; `processors` are named. It is where it was at its last commit from here on: nobody sees
    /// it without its books, and the backlog counts from its position, before it runs.
    #[must_use]
    pub fn new(
        settings: RouteSettings,
        processors: Vec<(String, Box<dyn EventProcessor>)>,
        sink: Box<dyn Sink>,
        journal: Arc<dyn Journal>,
        control: Control,
        metrics: Arc<Metrics>,
    ) -> Self {
        let filter = RouteFilter::new(&settings.filter, sink.leaves_out());
        let refuses_replay = sink.refuses_replay();
        let handle = RouteHandle::new(
            &settings.name,
            &settings.kind,
            refuses_replay,
            filter.clone(),
        );
        let steps = processors.into_iter().map(|(name, processor)| {
            let metrics = handle.metrics().plugin(&name);
            Step {
                name,
                processor: processor.into(),
                metrics,
            }
        });
        let mut this = Self {
            journal,
            control,
            metrics,
            limit: settings.limit,
            batches_max: settings.batches_max,
            pipeline: Pipeline {
                filter,
                steps: steps.collect(),
            },
            deliverer: Deliverer {
                sink: SharedSink::new(sink, settings.in_flight),
                retry: settings.retry,
                breaker: Breaker::new(&settings.breaker),
                rewinds: 0,
                handle: handle.clone(),
                drain: CancellationToken::new(),
                stop: CancellationToken::new(),
            },
            handle,
            redriven: Vec::new(),
            kept: None,
            opened: Mutex::new(None),
        };
        *this.opened.get_mut() = Some(this.open());
        this
    }

    /// Subscribes, and takes back what was saved with the last commit.
    fn open(&mut self) -> Result<Box<dyn Subscription>, RouteError> {
        let subscription = self.journal.subscribe(self.handle.name())?;
        self.restore(&*subscription)?;
        Ok(subscription)
    }

    /// Others' view of it.
    #[must_use]
    pub fn handle(&self) -> RouteHandle {
        self.handle.clone()
    }

    /// Its sink.
    #[must_use]
    pub fn sink(&self) -> &dyn Sink {
        self.deliverer.sink.get()
    }

    /// The counters that its sink or one of its processors keeps.
    #[must_use]
    pub fn counters(&self) -> Option<Arc<dyn CounterStore>> {
        self.sink()
            .counters()
            .or_else(|| self.processors().find_map(EventProcessor::counters))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.handle.name()
    }

    /// Its processors.
    pub fn processors(&self) -> impl Iterator<Item = &dyn EventProcessor> {
        self.pipeline.steps.iter().map(|step| &*step.processor)
    }

    /// Cancel the first to let it end when it has passed everything, the second to let it end at once.
    #[must_use]
    pub fn stoppers(&self) -> (CancellationToken, CancellationToken) {
        (self.deliverer.drain.clone(), self.deliverer.stop.clone())
    }

    /// Runs until it is asked to end. Panics of plug-ins are counted, and the route goes back to its last commit.
    pub async fn run(mut self) {
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
            None => self.open()?,
        };
        // Letters behind the last commit are of batches that come again now.
        let forgotten = self
            .control
            .forget_from(self.handle.name(), subscription.position());
        forgotten
            .await
            .map_err(|error| RouteError::Rewind(error.to_string()))?;
        Run::new(self, subscription).until_it_ends().await
    }

    fn restore(&mut self, subscription: &dyn Subscription) -> Result<(), RouteError> {
        let stop = |error: &dyn std::fmt::Display| {
            RouteError::Stop(format!("the saved state does not fit: {error}"))
        };
        let saved = match subscription.state() {
            // A route without a commit: what the journal had removed before it was made has expired for it.
            [] => Saved {
                books: Books {
                    expired: subscription.position(),
                    ..Books::default()
                },
                ..Saved::default()
            },
            state => serde_json::from_slice(state).map_err(|error| stop(&error))?,
        };
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
        self.kept = None;
        self.handle.start_at(subscription.position(), saved.books);
        Ok(())
    }
}
