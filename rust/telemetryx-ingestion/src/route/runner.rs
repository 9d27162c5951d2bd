//! The loop of one route: read › filter › process › deliver › settle › commit.
//!
//! A batch under way is settled exactly once: every event of it is delivered, filtered, dead or expired, and its route's
//! position moves past it in the same step. Cursor, books, processors' and sink's state are saved together, at most
//! every `COMMIT_EVERY` while there is work and at once when there is none. Whatever goes wrong in between, the route
//! goes back to its last commit and delivers again from there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::books::{Books, RouteHandle};
use super::breaker::Breaker;
use super::commit::{COMMIT_EVERY, CommitPace, NEVER, Saved};
use super::delivering::{Deliverer, Stopped, Unflushed};
use super::pipeline::{Pipeline, Refused, Step};
use super::read_ahead::ReadAhead;
use super::redrive::{self, Redriven};
use super::replay::Replayer;
use super::shared_sink::SharedSink;
use super::under_way::{Kept, UnderWay};
use super::{Cause, Origin, RouteFilter};
use crate::clock;
use crate::config::{BreakerConfig, FilterConfig, RetryConfig};
use crate::control::{Control, DeadLetter, Stage};
use crate::journal::{BatchLimit, Delivery, DeliveryId, Journal, JournalError, Subscription};
use crate::observe::{Metrics, dead_letters};
use crate::processors::EventProcessor;
use crate::query::CounterStore;
use crate::sinks::{RejectedBySink, Sink};

/// When dead letters are tried again that the sink could not take.
const REDRIVE_AGAIN: Duration = Duration::from_secs(5);
/// The pause after something went wrong that is not the sink's fault.
const PAUSE: Duration = Duration::from_secs(1);

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
            JournalError::DamagedCursor(_) => Self::Stop(error.to_string()),
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
    batches_max: usize,
    pub(super) pipeline: Pipeline,
    pub(super) deliverer: Deliverer,
    pub(super) handle: RouteHandle,
    pub(super) redriven: Vec<i64>,
    /// What the sink keeps back.
    kept: Option<Kept>,
    /// When to look at the letters again that could not be sent.
    redrive_at: Option<Instant>,
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
                handle: handle.clone(),
                drain: CancellationToken::new(),
                stop: CancellationToken::new(),
            },
            handle,
            redriven: Vec::new(),
            kept: None,
            redrive_at: None,
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
                    tracing::warn!(
                        route = self.handle.name(),
                        error,
                        "the route goes back to its last commit"
                    );
                    self.handle.sink_is_down(&error, false);
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = self.deliverer.stop.cancelled() => {}
                    }
                }
            }
        }
    }

    async fn run_from_last_commit(&mut self) -> Result<(), RouteError> {
        let mut subscription = match self.opened.get_mut().take() {
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
        if let Err(error) = self.deliverer.sink.get().check().await {
            self.handle.sink_is_down(&error.to_string(), false);
        } else {
            self.handle.sink_is_up();
        }
        let (drain, stop) = self.stoppers();
        let mut changes = self.control.changes();
        changes.mark_changed();
        let mut commit = CommitPace::new(&*subscription);
        let mut ahead = ReadAhead::new(self.limit, self.batches_max);
        self.redrive_at = None;
        let mut asking = true;
        loop {
            let has_more = ahead.has_more(&*subscription);
            let idle = !has_more && !self.pipeline.has_output();
            if self.redrive_in().is_zero() {
                self.redrive(&mut commit).await?;
            }
            let position = self.handle.position();
            let due_in = match self.kept_for() {
                Some(due_in) => due_in,
                None => commit.due_in(position, idle),
            };
            // A sink that keeps something says when to commit: sooner, its pieces would be small.
            let at_once = self.pipeline.wants_save() || self.is_pressed(&commit);
            if due_in.is_zero() || (self.kept.is_none() && at_once) {
                self.commit(&mut *subscription, &mut commit).await?;
                continue;
            }
            if drain.is_cancelled() && idle {
                break;
            }
            if self.pipeline.has_output() && !has_more {
                let nothing = Delivery::at(subscription.position());
                if self.handle_batch(nothing).await?.is_given_back() {
                    return Ok(());
                }
                commit.touch();
                continue;
            }
            let output_in = self.pipeline.output_in().unwrap_or(NEVER);
            let due = due_in.min(self.redrive_in()).min(output_in);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = changes.changed(), if asking => {
                    asking = changed.is_ok();
                    self.redrive(&mut commit).await?;
                }
                () = drain.cancelled(), if idle => {}
                delivery = ahead.next(&mut *subscription, &self.handle) => {
                    let handle = self.handle.clone();
                    let handled = tokio::select! {
                        biased;
                        handled = self.handle_batch(delivery?) => handled?,
                        never = ahead.fill(&mut *subscription, &handle) => match never {},
                    };
                    if handled.is_given_back() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(due) => {}
            }
            if self.deliverer.stop.is_cancelled() {
                break;
            }
        }
        self.commit(&mut *subscription, &mut commit).await
    }

    /// Sends dead letters again that an operator asked for.
    async fn redrive(&mut self, commit: &mut CommitPace) -> Result<(), RouteError> {
        let redriven = redrive::serve(self).await?;
        if !matches!(redriven, Redriven::Nothing) {
            commit.touch();
        }
        self.redrive_at = match redriven {
            Redriven::Nothing => None,
            // Once committed, the letters are gone and the next ones are found.
            Redriven::Some => Some(Instant::now() + COMMIT_EVERY),
            Redriven::Later => Some(Instant::now() + REDRIVE_AGAIN),
        };
        Ok(())
    }

    fn redrive_in(&self) -> Duration {
        self.redrive_at
            .map_or(NEVER, |at| at.saturating_duration_since(Instant::now()))
    }

    /// True if what is passed has to be known at once, since the journal can make room only then for what the sink hands back.
    fn is_pressed(&self, commit: &CommitPace) -> bool {
        self.sink().hands_back()
            && commit.is_dirty(self.handle.position())
            && !self.journal.status().is_ok()
    }

    /// How long the sink still keeps what it was handed; `None` if it keeps nothing. After a flush by somebody else, a
    /// replay, it keeps nothing any more that is not settled yet.
    fn kept_for(&self) -> Option<Duration> {
        self.kept.as_ref()?;
        let until = self.sink().keeps_until();
        Some(until.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
        }))
    }

    /// Takes one delivery through the pipeline and to the sink, and settles it.
    async fn handle_batch(&mut self, delivery: Delivery) -> Result<Handled, RouteError> {
        let under_way = UnderWay::new(Arc::clone(&self.metrics));
        let mut unreadable = Vec::new();
        let cause = Cause::Journal(delivery.stretch(self.journal.identity()));
        let mut batch = delivery.decode(cause, clock::now(), |offset, message| {
            unreadable.push(Refused {
                offset,
                code: "unreadable".into(),
                message,
            });
        });
        if self.kept.is_none() {
            self.handle
                .waiting_since(batch.events().first().map(|event| event.received_at));
        }
        for gap in &delivery.gaps {
            tracing::error!(
                route = self.handle.name(),
                gap,
                "events are missing from the journal"
            );
        }
        let refused = match self.pipeline.process(&mut batch).await {
            Ok(refused) => refused,
            Err(error) => {
                under_way.give_back();
                return Err(RouteError::Rewind(error));
            }
        };
        let wanted = batch.journaled();
        let Ok(done) = self.deliverer.deliver(&mut batch).await else {
            under_way.give_back();
            return Ok(Handled::GivenBack);
        };
        let delivered = done.delivered;
        let rejected: Vec<_> = done
            .rejected
            .into_iter()
            .filter_map(refused_by_sink)
            .collect();
        let processing = unreadable.len() + refused.len();
        let books = Books {
            delivered,
            dead: (processing + rejected.len()) as u64,
            expired: delivery.missing,
            filtered: delivery.events() - processing as u64 - wanted,
        };
        unreadable.extend(refused);
        for (letters, stage) in [(unreadable, Stage::Processing), (rejected, Stage::Delivery)] {
            if self.bury(&delivery, letters, stage).await.is_err() {
                under_way.give_back();
                return Ok(Handled::GivenBack);
            }
        }
        self.handle.metrics().delivered.increment(delivered);
        self.handle.metrics().processed.increment(delivered);
        if self.kept.is_some() || self.sink().keeps_until().is_some() {
            under_way.keep(&mut self.kept, delivery.id(), books);
        } else {
            under_way.settle(&self.handle, delivery.id(), books);
        }
        Ok(Handled::Settled)
    }

    /// Keeps refused events as dead letters; tries until they are on disk, since nothing else holds them then.
    ///
    /// # Errors
    /// [`Stopped`] if the route is to stop before that.
    async fn bury(
        &self,
        delivery: &Delivery,
        refused: Vec<Refused>,
        stage: Stage,
    ) -> Result<(), Stopped> {
        if refused.is_empty() {
            return Ok(());
        }
        let letters: Vec<_> = refused
            .into_iter()
            .map(|refused| {
                dead_letters(self.handle.name(), stage.as_str(), &refused.code, 1);
                DeadLetter {
                    route: Some(self.handle.name().to_owned()),
                    stage,
                    code: refused.code,
                    field: None,
                    message: refused.message,
                    offset: Some(refused.offset),
                    format: "stored",
                    body: delivery
                        .encoded(refused.offset)
                        .unwrap_or_default()
                        .to_vec(),
                    request_id: None,
                }
            })
            .collect();
        loop {
            match self.control.keep(letters.clone(), None).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::error!(route = self.handle.name(), %error, "dead letters cannot be kept")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.deliverer.stop.cancelled() => return Err(Stopped),
            }
        }
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

    async fn commit(
        &mut self,
        subscription: &mut dyn Subscription,
        pace: &mut CommitPace,
    ) -> Result<(), RouteError> {
        let started = Instant::now();
        self.deliverer.flush().await.map_err(|why| match why {
            Unflushed::Lost(error) => RouteError::Rewind(error),
            Unflushed::Stopped => {
                RouteError::Rewind("it ended before its sink had written what it keeps".into())
            }
        })?;
        if let Some(kept) = self.kept.take() {
            kept.settle(&self.handle);
        }
        let status = self.handle.status();
        let saved = Saved {
            books: status.books,
            processors: self.pipeline.save(),
            sink: self.deliverer.sink.get().save().unwrap_or_default(),
            redriven: self.redriven.clone(),
        };
        let state =
            serde_json::to_vec(&saved).map_err(|error| RouteError::Stop(error.to_string()))?;
        subscription
            .commit(DeliveryId(status.position), &state)
            .await?;
        self.pipeline.saved();
        if !self.redriven.is_empty() && self.control.settle(self.redriven.clone()).await.is_ok() {
            self.redriven.clear();
        }
        pace.committed(status.position, started.elapsed());
        Ok(())
    }
}

/// An event of the journal that the sink will never take; one that a processor made has no dead letter.
fn refused_by_sink((origin, event): (Origin, RejectedBySink)) -> Option<Refused> {
    match origin {
        Origin::Journal(offset) => Some(Refused {
            offset,
            code: event.code.to_owned(),
            message: event.message,
        }),
        Origin::Derived => {
            tracing::error!(
                event.code,
                event.message,
                "a derived event was rejected and dropped"
            );
            None
        }
    }
}

/// What became of a batch that did not fail.
enum Handled {
    /// Every event of it is accounted for.
    Settled,
    /// The route is to stop, and the batch is not settled. Processors and sink may have counted it all the same, so
    /// there must be no commit any more: the next start goes on from the last one.
    GivenBack,
}

impl Handled {
    fn is_given_back(&self) -> bool {
        matches!(self, Self::GivenBack)
    }
}
