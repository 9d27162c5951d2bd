//! One batch through a route: decode › filter › process › deliver › settle.
//!
//! A batch under way is settled exactly once: every event of it is delivered, filtered, dead or expired, and its route's
//! position moves past it in the same step.

use std::sync::Arc;
use std::time::Duration;

use super::delivering::Stopped;
use super::pipeline::Refused;
use super::runner::{Reader, RouteError};
use super::under_way::UnderWay;
use super::{Books, Cause, Origin};
use crate::clock;
use crate::control::{DeadLetter, Stage};
use crate::journal::Delivery;
use crate::observe::dead_letters;
use crate::sinks::RejectedBySink;

/// The pause after dead letters could not be kept.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of a batch that did not fail.
pub(super) enum Handled {
    /// Every event of it is accounted for.
    Settled,
    /// The route is to stop, and the batch is not settled. Processors and sink may have counted it all the same, so
    /// there must be no commit any more: the next start goes on from the last one.
    GivenBack,
}

impl Handled {
    pub(super) fn is_given_back(&self) -> bool {
        matches!(self, Self::GivenBack)
    }
}

impl Reader {
    /// Takes one delivery through the pipeline and to the sink, and settles it.
    pub(super) async fn handle_batch(&mut self, delivery: Delivery) -> Result<Handled, RouteError> {
        let under_way = UnderWay::new(Arc::clone(&self.metrics));
        let mut unreadable = Vec::new();
        let cause = Cause::Journal(delivery.stretch(self.assignment.identity()));
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
                    partition: delivery.partition,
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
