//! What is under way, apart by why it is delivered: what the route reads, a replay, a dead letter. Each has a producer of
//! its own: when one has to be ended, nobody else waits for what it has not sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempt::Attempt;
use super::link::Link;
use crate::route::{Cause, Letter};

/// A replay or a dead letter that has not come again for so long was given up: if it comes, it is sent.
const IDLE_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Lanes {
    journal: Lane,
    replay: Lane,
    redrive: Lane,
}

/// The events that come for one reason, batch by batch.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) link: Option<Arc<Link>>,
    pub(super) attempt: Attempt,
    series: Option<Series>,
    /// When something was last delivered.
    touched: Option<Instant>,
}

/// Events of another series are others, whatever their offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    Journal { log: u128 },
    Replay,
    Redrive(Letter),
}

impl Lanes {
    /// Where events go that are delivered for this reason. What has come to an end in the other lanes is closed.
    pub(super) fn of(&mut self, cause: Cause) -> &mut Lane {
        for lane in [&mut self.replay, &mut self.redrive] {
            if lane
                .touched
                .is_some_and(|touched| touched.elapsed() > IDLE_MAX)
            {
                *lane = Lane::default();
            }
        }
        let (lane, series) = match cause {
            Cause::Journal(stretch) => (&mut self.journal, Series::Journal { log: stretch.log }),
            Cause::Replay => (&mut self.replay, Series::Replay),
            Cause::Redrive(letter) => (&mut self.redrive, Series::Redrive(letter)),
        };
        if lane.series.replace(series) != Some(series) {
            lane.attempt = Attempt::default();
        }
        lane.touch();
        lane
    }

    /// Where what the route reads goes.
    pub(super) fn journal(&mut self) -> &mut Lane {
        &mut self.journal
    }
}

impl Lane {
    /// A delivery may take longer than a lane is kept.
    pub(super) fn touch(&mut self) {
        self.touched = Some(Instant::now());
    }
}
