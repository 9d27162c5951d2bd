//! Events delivered again because an operator asked for it: beside the route's own reading, without moving its
//! position or its books. Redelivery is harmless at the sink, so a replay is safe to break off and to repeat.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::Cause;
use super::handle::ReaderHandle;
use super::pipeline::Pipeline;
use super::shared_sink::{Delivered, SharedSink};
use crate::clock;
use crate::control::{Control, ControlError, Replay, ReplayState};
use crate::journal::{BatchLimit, Journal};

/// The pause after a failed attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves the replays of one route.
pub(super) struct Replayer {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) control: Control,
    pub(super) pipeline: Pipeline,
    pub(super) sink: SharedSink,
    pub(super) handle: ReaderHandle,
    pub(super) limit: BatchLimit,
    pub(super) stop: CancellationToken,
}

impl Replayer {
    /// Runs until the route stops.
    pub(super) async fn run(self) {
        let stop = self.stop.clone();
        let mut changes = self.control.changes();
        changes.mark_changed();
        let serve = async {
            while changes.changed().await.is_ok() {
                loop {
                    match self
                        .control
                        .next_replay(self.handle.name(), self.handle.partition())
                    {
                        Ok(Some(replay)) => self.replay(replay).await,
                        Ok(None) => break,
                        Err(error) => {
                            tracing::warn!(route = self.handle.name(), %error, "replays cannot be read");
                            break;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = serve => {}
        }
    }

    async fn replay(&self, mut replay: Replay) {
        tracing::info!(
            route = replay.route,
            from = replay.next,
            to = replay.behind,
            "replay"
        );
        while replay.state == ReplayState::Pending {
            tokio::time::sleep(self.sink.rests_for()).await;
            let step = AssertUnwindSafe(self.step(&mut replay))
                .catch_unwind()
                .await;
            let Ok(done) = step else {
                replay.state = ReplayState::Failed;
                replay.error = Some("a plug-in panicked; the log has where".to_owned());
                self.save(&replay).await;
                return;
            };
            if let Err(error) = done {
                if replay.error.is_none() {
                    tracing::warn!(route = replay.route, error, "the replay waits");
                }
                replay.error = Some(error);
                self.save(&replay).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Delivers one batch again.
    async fn step(&self, replay: &mut Replay) -> Result<(), String> {
        if let Some(why) = self.sink.get().refuses_replay() {
            replay.state = ReplayState::Failed;
            replay.error = Some(why.to_owned());
            self.save(replay).await;
            return Ok(());
        }
        let scan = self
            .journal
            .scan(replay.partition, replay.next, replay.behind, self.limit);
        let delivery = scan.await.map_err(|error| error.to_string())?;
        for gap in &delivery.gaps {
            tracing::warn!(
                route = replay.route,
                gap,
                "the replay leaves out events that are missing from the journal"
            );
        }
        let mut batch = delivery.decode(Cause::Replay, clock::now(), |offset, error| {
            tracing::error!(
                offset,
                error,
                "an event cannot be decoded; the replay leaves it out"
            );
        });
        for refused in self.pipeline.process(&mut batch).await? {
            tracing::warn!(
                offset = refused.offset,
                refused.message,
                "the replay leaves out an event"
            );
        }
        let mut done = Delivered::default();
        let delivered = self.sink.deliver(&mut batch, &mut done).await;
        for (_, event) in done.rejected {
            tracing::warn!(
                event.message,
                "the replay leaves out an event that the sink rejects"
            );
        }
        delivered?;
        // The route's cursor is past these events: nobody brings them again once the replay is.
        self.sink.flush().await.map_err(|error| error.to_string())?;
        replay.delivered += done.delivered;
        replay.next = delivery.end;
        replay.error = None;
        if delivery.is_empty() || replay.next >= replay.behind {
            replay.state = ReplayState::Done;
        }
        self.save(replay).await;
        Ok(())
    }

    async fn save(&self, replay: &Replay) {
        let saved: Result<(), ControlError> = self.control.save_replay(replay.clone()).await;
        if let Err(error) = saved {
            tracing::warn!(route = replay.route, %error, "the replay's progress cannot be saved");
        }
    }
}
