//! Where the next append goes: to Kafka, into the spill, or neither for a moment.
//!
//! ```text
//!            Kafka is away, or acknowledges nothing
//!    Open ──────────────────────────────────────────► Spilling ◄─┐
//!     ▲                                                  │       │ it takes too long, or Kafka is away again
//!     │   the spill is empty                    nearly   ▼       │
//!     └───────────────────────────────────────────────  Held ────┘
//! ```
//!
//! While it is spilling every append goes behind those that are in the spill, so the events of a key keep their order. Those
//! that come when it is nearly empty are held for a moment, so that it can be quite empty before the first goes to Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use telemetryx_common::Timestamp;
use tokio::sync::watch;

use crate::clock;

/// With appends under way and none acknowledged for so long, Kafka counts as away.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// The longest that an append is held.
const HELD_MAX: Duration = Duration::from_secs(1);
/// After that, so long nothing is held.
const NOT_HELD_FOR: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Gate {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    mode: Mode,
    /// Since when it is not open.
    since: Option<Timestamp>,
    /// Appends on their way into the spill.
    entering: usize,
    /// Appends on their way to Kafka.
    flying: usize,
    /// Since when no append was acknowledged though some are on their way.
    silent_since: Option<Instant>,
    /// When those that are held go on.
    held_until: Instant,
    /// Nobody is held before.
    open_to_hold: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Spilling,
    Held,
}

/// Where an append goes. It is there until this is dropped.
pub(super) enum Way {
    /// To Kafka.
    Kafka(Flight),
    /// Into the spill.
    Spill(Entering),
}

/// On its way to Kafka.
pub(super) struct Flight {
    gate: Arc<Gate>,
    acknowledged: bool,
}

/// On its way into the spill.
pub(super) struct Entering(Arc<Gate>);

impl Gate {
    /// An open one; or not, with events in the spill since then.
    pub(super) fn new(spilled_since: Option<Timestamp>) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                mode: spilled_since.map_or(Mode::Open, |_| Mode::Spilling),
                since: spilled_since,
                entering: 0,
                flying: 0,
                silent_since: None,
                held_until: now,
                open_to_hold: now,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// Since when it is not open, if it is not.
    pub(super) fn closed_since(&self) -> Option<Timestamp> {
        self.state.lock().since
    }

    /// An append comes in; waits while appends are held. `away`: why Kafka cannot be reached, if that is known.
    pub(super) async fn enter(self: &Arc<Self>, away: Option<&str>) -> Way {
        loop {
            let (mut changed, until) = {
                let mut state = self.state.lock();
                if let Some(way) = self.way(&mut state, away) {
                    return way;
                }
                (self.changed.subscribe(), state.held_until)
            };
            // The sender lives as long as this.
            let told = tokio::time::timeout_at(until.into(), changed.changed());
            told.await.ok();
        }
    }

    fn way(self: &Arc<Self>, state: &mut State, away: Option<&str>) -> Option<Way> {
        let now = Instant::now();
        match state.mode {
            Mode::Open => {
                let silent = state.silent_since;
                let is_silent = silent.is_some_and(|since| now - since > SILENCE_MAX);
                let reason = away.or_else(|| is_silent.then_some("it acknowledges nothing"));
                let Some(reason) = reason else {
                    state.flying += 1;
                    state.silent_since.get_or_insert(now);
                    return Some(Way::Kafka(Flight {
                        gate: Arc::clone(self),
                        acknowledged: false,
                    }));
                };
                state.mode = Mode::Spilling;
                state.since = Some(clock::now());
                tracing::warn!(
                    reason,
                    "Kafka is away: events are kept on this machine until it is back"
                );
            }
            Mode::Held if away.is_some() || now >= state.held_until => {
                state.mode = Mode::Spilling;
                state.open_to_hold = now + NOT_HELD_FOR;
                self.changed.send_replace(());
            }
            Mode::Held => return None,
            Mode::Spilling => {}
        }
        state.entering += 1;
        Some(Way::Spill(Entering(Arc::clone(self))))
    }

    /// Events are in the spill, though nobody was told to put them there.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if state.mode == Mode::Open {
            state.mode = Mode::Spilling;
            state.since = Some(clock::now());
        }
    }

    /// Holds appends from now on, and waits until none is on its way into the spill. False if that cannot be now.
    pub(super) async fn hold(&self) -> bool {
        let (mut changed, until) = {
            let mut state = self.state.lock();
            let now = Instant::now();
            match state.mode {
                Mode::Open => return false,
                Mode::Held => {}
                Mode::Spilling if now < state.open_to_hold => return false,
                Mode::Spilling => {
                    state.mode = Mode::Held;
                    state.held_until = now + HELD_MAX;
                }
            }
            (self.changed.subscribe(), state.held_until)
        };
        loop {
            {
                let state = self.state.lock();
                if state.mode != Mode::Held {
                    return false;
                }
                if state.entering == 0 {
                    return true;
                }
            }
            let told = tokio::time::timeout_at(until.into(), changed.changed());
            if told.await.is_err() {
                return false;
            }
        }
    }

    /// Appends go to Kafka from now on, if nothing went into the spill since they are held. Gives since when none did.
    pub(super) fn open(&self, is_empty: impl FnOnce() -> bool) -> Option<Timestamp> {
        let mut state = self.state.lock();
        if state.mode != Mode::Held || state.entering > 0 || !is_empty() {
            return None;
        }
        state.mode = Mode::Open;
        // Those that were on their way all the time have another chance.
        state.silent_since = (state.flying > 0).then(Instant::now);
        self.changed.send_replace(());
        state.since.take()
    }

    /// Those that are held go into the spill.
    pub(super) fn give_up_holding(&self) {
        let mut state = self.state.lock();
        if state.mode == Mode::Held {
            state.mode = Mode::Spilling;
            state.open_to_hold = Instant::now() + NOT_HELD_FOR;
            self.changed.send_replace(());
        }
    }
}

impl Flight {
    /// Kafka has it.
    pub(super) fn acknowledged(mut self) {
        self.acknowledged = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        state.flying -= 1;
        if state.flying == 0 {
            state.silent_since = None;
        } else if self.acknowledged {
            state.silent_since = Some(Instant::now());
        }
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.entering -= 1;
        if state.entering == 0 {
            self.0.changed.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spills(way: &Way) -> bool {
        matches!(way, Way::Spill(_))
    }

    #[tokio::test]
    async fn appends_are_held_until_the_spill_is_empty_and_go_to_kafka_then() {
        let gate = Arc::new(Gate::new(None));
        let Way::Kafka(flight) = gate.enter(None).await else {
            panic!("it is open");
        };
        flight.acknowledged();
        let entering = gate.enter(Some("no broker")).await;
        assert!(spills(&entering) && gate.closed_since().is_some());
        assert!(spills(&gate.enter(None).await), "behind the first");
        // One is still on its way.
        let (holding, here) = (Arc::clone(&gate), Arc::clone(&gate));
        let holds = tokio::spawn(async move { holding.hold().await });
        while here.state.lock().mode != Mode::Held {
            tokio::task::yield_now().await;
        }
        assert!(gate.open(|| true).is_none());
        let held = tokio::spawn(async move { spills(&here.enter(None).await) });
        drop(entering);
        assert!(holds.await.unwrap());
        assert!(gate.open(|| false).is_none());
        assert!(!held.is_finished());
        assert!(gate.open(|| true).is_some());
        assert!(!held.await.unwrap());
        assert!(gate.closed_since().is_none());
    }

    #[tokio::test]
    async fn nobody_is_held_for_long() {
        let gate = Arc::new(Gate::new(Some(clock::now())));
        assert!(gate.hold().await);
        let begun = Instant::now();
        assert!(spills(&gate.enter(None).await));
        assert!(begun.elapsed() >= HELD_MAX && begun.elapsed() < 3 * HELD_MAX);
        assert!(!gate.hold().await, "not at once again");
        gate.state.lock().open_to_hold = Instant::now();
        assert!(gate.hold().await);
        // When it is known that Kafka is away, nobody waits at all.
        let begun = Instant::now();
        assert!(spills(&gate.enter(Some("no broker")).await));
        assert!(begun.elapsed() < HELD_MAX / 2);
    }

    #[tokio::test]
    async fn silence_of_kafka_opens_the_spill() {
        let gate = Arc::new(Gate::new(None));
        let first = gate.enter(None).await;
        assert!(!spills(&gate.enter(None).await));
        gate.state.lock().silent_since = Instant::now().checked_sub(2 * SILENCE_MAX);
        assert!(spills(&gate.enter(None).await));
        drop(first);
        assert!(gate.state.lock().silent_since.is_none());
    }
}
