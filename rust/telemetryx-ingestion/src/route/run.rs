//! One run of a route: read › filter › process › deliver › settle › commit, from its last commit until it shall end or
//! has to go back.
//!
//! Cursor, books, processors' and sink's state are saved together, at most every `COMMIT_EVERY` while there is work and at
//! once when there is none. Whatever goes wrong in between, the route goes back to its last commit and delivers again from
//! there.

use std::time::{Duration, Instant};

use super::commit::{COMMIT_EVERY, CommitPace, NEVER, Saved};
use super::delivering::Unflushed;
use super::handle::Progress;
use super::handling::Handled;
use super::read_ahead::{self, ReadAhead};
use super::redrive::{self, Redriven};
use super::runner::{Reader, RouteError};
use crate::journal::{Delivery, DeliveryId, JournalError, Subscription};

/// When dead letters are tried again that the sink could not take.
const REDRIVE_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 5000 });
/// When a sink that was down is looked at again, if there is nothing to deliver.
const CHECK_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 5000 });
/// How long a sink writes what it keeps while nothing more can be read, before that is said. Larger pieces take their time.
const FLUSH_SAID_AFTER: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// What a run has in its hands beside the route.
pub(super) struct Run<'r> {
    reader: &'r mut Reader,
    subscription: Box<dyn Subscription>,
    ahead: ReadAhead,
    pace: CommitPace,
    /// When to look at the letters again that could not be sent.
    redrive_at: Option<Instant>,
    /// It was said that letters cannot be sent now.
    letters_wait: bool,
    /// When the sink was last looked at.
    checked: Instant,
    /// The next commit is the last.
    ends: bool,
    /// Others may read on: when the service ends nothing is waited for but what is under way.
    shares: bool,
}

impl<'r> Run<'r> {
    pub(super) fn new(reader: &'r mut Reader, subscription: Box<dyn Subscription>) -> Self {
        Self {
            ahead: ReadAhead::new(reader.limit, reader.batches_max),
            pace: CommitPace::new(&*subscription),
            shares: reader.journal.table().is_some(),
            reader,
            subscription,
            redrive_at: None,
            letters_wait: false,
            checked: Instant::now(),
            ends: false,
        }
    }

    /// Returns when the route is to end, with a last commit unless a batch was given back.
    pub(super) async fn until_it_ends(mut self) -> Result<(), RouteError> {
        let (drain, stop) = self.reader.stoppers();
        let mut changes = self.reader.control.changes();
        changes.mark_changed();
        let mut asking = true;
        if self.reader.deliverer.rewinds > 0 {
            // Only a commit says that it is over.
            self.pace.touch();
        }
        if self.reader.rests {
            // Not any more, once a batch is under way: that must be known before it is.
            self.commit().await?;
        }
        self.check().await;
        loop {
            let has_more = self.ahead.has_more(&*self.subscription);
            let idle = !has_more && !self.reader.pipeline.has_output();
            if self.redrive_in().is_zero() && self.redrive().await?.is_given_back() {
                return Ok(());
            }
            let wants_save = self.reader.pipeline.wants_save();
            if wants_save {
                self.reader.sink().hurry();
            }
            let position = self.progress()?.position;
            let due_in = self.commit_in(position, idle);
            // A sink that keeps something says when to commit: sooner, its pieces would be small.
            let at_once = wants_save || self.is_pressed(position);
            if due_in.is_zero() || (self.reader.kept.is_none() && at_once) {
                if self.commit().await?.is_given_back() {
                    return Ok(());
                }
                continue;
            }
            let may_end = idle || self.shares;
            if stop.is_cancelled() || (drain.is_cancelled() && may_end) {
                break;
            }
            if self.reader.pipeline.has_output() && !has_more {
                let nothing =
                    Delivery::at(self.reader.handle.partition(), self.subscription.position());
                if self.reader.handle_batch(nothing).await?.is_given_back() {
                    return Ok(());
                }
                self.pace.touch();
                continue;
            }
            let check_in = self.check_in(idle);
            if check_in.is_zero() {
                self.check().await;
                continue;
            }
            let output_in = self.reader.pipeline.output_in().unwrap_or(NEVER);
            let due = due_in.min(self.redrive_in()).min(output_in).min(check_in);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                changed = changes.changed(), if asking => {
                    asking = changed.is_ok();
                    if self.redrive().await?.is_given_back() {
                        return Ok(());
                    }
                }
                () = drain.cancelled(), if may_end => {}
                delivery = self.ahead.next(&mut *self.subscription, &self.reader.handle) => {
                    if self.handle_batch(delivery?).await?.is_given_back() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(due) => {}
            }
        }
        self.ends = true;
        self.commit().await.map(|_| ())
    }

    /// Handles a batch, and reads ahead meanwhile.
    async fn handle_batch(&mut self, delivery: Delivery) -> Result<Handled, RouteError> {
        let handle = self.reader.handle.clone();
        let subscription = &mut *self.subscription;
        tokio::select! {
            biased;
            handled = self.reader.handle_batch(delivery) => handled,
            never = self.ahead.fill(subscription, &handle, read_ahead::SAID_AFTER) => match never {},
        }
    }

    /// Sends dead letters again that an operator asked for.
    async fn redrive(&mut self) -> Result<Handled, RouteError> {
        let redriven = redrive::serve(self.reader).await?;
        if !matches!(redriven, Redriven::Nothing) {
            self.pace.touch();
        }
        let waited = std::mem::take(&mut self.letters_wait);
        let again_in = match redriven {
            Redriven::Nothing => None,
            // Once committed, the letters are gone and the next ones are found.
            Redriven::Some => Some(COMMIT_EVERY),
            Redriven::Later(error) => {
                if !waited {
                    let route = self.reader.handle.name();
                    tracing::warn!(route, error, "dead letters cannot be sent again now");
                }
                self.letters_wait = true;
                Some(REDRIVE_AGAIN.max(self.reader.deliverer.sink.rests_for()))
            }
            Redriven::Stopped => return Ok(Handled::GivenBack),
        };
        self.redrive_at = again_in.map(|wait| Instant::now() + wait);
        Ok(Handled::Settled)
    }

    fn redrive_in(&self) -> Duration {
        self.redrive_at
            .map_or(NEVER, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Asks the sink how it is, for `/health`.
    async fn check(&mut self) {
        self.reader.deliverer.check().await;
        self.checked = Instant::now();
    }

    /// A sink that was down may be well again, and nothing is delivered to see it by.
    fn check_in(&self, idle: bool) -> Duration {
        if idle && self.reader.deliverer.rewinds == 0 && self.reader.handle.is_down() {
            CHECK_AGAIN.saturating_sub(self.checked.elapsed())
        } else {
            NEVER
        }
    }

    /// True if what is passed has to be known at once, since the journal can make room only then for what the sink hands back.
    fn is_pressed(&self, position: u64) -> bool {
        self.reader.sink().hands_back()
            && self.pace.is_dirty(position)
            && !self.reader.journal.status().is_ok()
    }

    /// How far the route is here.
    fn progress(&self) -> Result<Progress, RouteError> {
        let lost = || RouteError::Lost("this process has begun to read it anew".to_owned());
        self.reader.handle.progress().ok_or_else(lost)
    }

    /// How long until the next commit: until the sink has kept long enough what it was handed, if it keeps something. After
    /// a flush by somebody else, a replay, it keeps nothing any more that is not settled yet.
    fn commit_in(&self, position: u64, idle: bool) -> Duration {
        if self.reader.kept.is_none() {
            return self.pace.due_in(position, idle);
        }
        let until = self.reader.sink().keeps_until();
        until.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
        })
    }

    /// Lets the sink write what it keeps, settles it, and saves all there is to save.
    async fn commit(&mut self) -> Result<Handled, RouteError> {
        let Self {
            reader,
            subscription,
            ahead,
            ..
        } = self;
        let started = Instant::now();
        let handle = reader.handle.clone();
        let flushed = tokio::select! {
            biased;
            flushed = reader.deliverer.flush() => flushed,
            never = ahead.fill(&mut **subscription, &handle, FLUSH_SAID_AFTER) => match never {},
        };
        match flushed {
            Ok(()) => {}
            Err(Unflushed::Lost(error)) => return Err(RouteError::Rewind(error)),
            Err(Unflushed::Stopped) => return Ok(Handled::GivenBack),
        }
        if let Some(kept) = reader.kept.take() {
            kept.settle(&handle);
        }
        let progress = self.progress()?;
        let Self {
            reader,
            subscription,
            pace,
            ends,
            ..
        } = self;
        let saved = Saved {
            books: progress.books,
            carried: progress.carried,
            rests: *ends && reader.sink().remembers_offsets(),
            processors: reader.pipeline.save(),
            sink: reader.sink().save().unwrap_or_default(),
            redriven: reader.redriven.clone(),
        };
        let state =
            serde_json::to_vec(&saved).map_err(|error| RouteError::Stop(error.to_string()))?;
        let committed = subscription.commit(DeliveryId(progress.position), &state);
        committed.await.map_err(|error| match error {
            // Going back would not make it smaller.
            JournalError::StateTooLarge { .. } => {
                RouteError::Stop(format!("{error}; most of it is {}", saved.largest_part()))
            }
            other => other.into(),
        })?;
        reader.rests = saved.rests;
        reader.pipeline.saved();
        if !reader.redriven.is_empty()
            && reader.control.settle(reader.redriven.clone()).await.is_ok()
        {
            reader.redriven.clear();
        }
        reader.deliverer.committed();
        pace.committed(progress.position, started.elapsed());
        Ok(Handled::Settled)
    }
}
