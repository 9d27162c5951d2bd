//! This process among those that share the reading: the partitions that it holds, and those that it gives up.
//!
//! A process says every quarter of a lease that it lives (`lease.rs`); all clocks are the server's. One that says nothing for
//! a lease counts as gone, and others take what it held. Whoever takes a partition writes a claim of its own into the row, so
//! what the one before it commits afterwards changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::super::{Assignment, Assignments, JournalError};
use super::assignment::{Held, PostgresAssignment};
use super::core::Core;

/// How long a partition that goes to another process is waited for: its route settles what is under way and commits.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(5);
/// While something is being given up, or was not written, it is looked at again after this time.
pub(super) const SOON: Duration = Duration::from_millis(250);
/// Without a partition for so long, a process is said to be idle.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// A route and a partition.
pub(super) type Key = (String, u32);

/// See the module.
#[derive(Default)]
pub(super) struct Members {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    routes: HashMap<String, Subscribed>,
    held: BTreeMap<Key, Arc<Held>>,
    /// Told to go, and since when.
    leaving: BTreeMap<Key, Instant>,
    /// Not used here any more; the row still says that it is.
    freed: Vec<(Key, Uuid)>,
    is_stopped: bool,
}

struct Subscribed {
    handed: mpsc::UnboundedSender<PostgresAssignment>,
    /// Since when it holds nothing.
    idle_since: Option<Instant>,
    is_idle: bool,
}

/// What the route gets.
struct Coming {
    core: Arc<Core>,
    route: String,
    partitions: mpsc::UnboundedReceiver<PostgresAssignment>,
}

#[async_trait]
impl Assignments for Coming {
    async fn next(&mut self) -> Result<Box<dyn Assignment>, JournalError> {
        let assignment = self.partitions.recv().await.ok_or(JournalError::Closed)?;
        Ok(Box::new(assignment))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.core.members().unsubscribe(&self.route);
    }
}

/// Takes part in reading the route.
pub(super) fn subscribe(
    core: &Arc<Core>,
    route: &str,
) -> Result<Box<dyn Assignments>, JournalError> {
    let (handed, partitions) = mpsc::unbounded_channel();
    let mut state = core.members().state.lock();
    if state.is_stopped {
        return Err(JournalError::Closed);
    }
    let subscribed = Subscribed {
        handed,
        idle_since: Some(Instant::now()),
        is_idle: false,
    };
    state.routes.insert(route.to_owned(), subscribed);
    drop(state);
    // Its backlog is seen from now on.
    core.seen().commits(route);
    core.members().wake();
    Ok(Box::new(Coming {
        core: Arc::clone(core),
        route: route.to_owned(),
        partitions,
    }))
}

impl Members {
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Routes that this process reads.
    pub(super) fn routes(&self) -> Vec<String> {
        self.state.lock().routes.keys().cloned().collect()
    }

    /// Routes that this process takes part in without a partition to read.
    pub(super) fn idle(&self) -> Vec<String> {
        let state = self.state.lock();
        let idle = state.routes.iter().filter(|(_, route)| route.is_idle);
        idle.map(|(route, _)| {
            format!("this process is idle for route `{route}`: all partitions are other processes'")
        })
        .collect()
    }

    fn unsubscribe(&self, route: &str) {
        let mut state = self.state.lock();
        state.routes.remove(route);
        drop(state);
        self.wake();
    }

    /// The route does not use it any more.
    pub(super) fn dropped(&self, held: &Arc<Held>) {
        held.end();
        let key = held.key();
        let mut state = self.state.lock();
        let is_it = |known: &Arc<Held>| known.claim() == held.claim();
        if state.held.get(&key).is_some_and(is_it) {
            state.held.remove(&key);
            state.leaving.remove(&key);
        }
        if !state.is_stopped {
            state.freed.push((key, held.claim()));
        }
        drop(state);
        self.wake();
    }

    /// What this process holds is not its any more: the lease is over, or the tables are others. False: it held nothing.
    pub(super) fn forget(&self) -> bool {
        let mut state = self.state.lock();
        let held = std::mem::take(&mut state.held);
        state.leaving.clear();
        state.freed.clear();
        drop(state);
        held.values().for_each(|held| held.end());
        self.wake();
        !held.is_empty()
    }

    /// Waits until something is to be done.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// True while something is being given up.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        !state.leaving.is_empty() || !state.freed.is_empty()
    }

    /// A partition was taken; where its route waits for it, if it still does.
    pub(super) fn add(
        &self,
        held: &Arc<Held>,
    ) -> Option<mpsc::UnboundedSender<PostgresAssignment>> {
        let mut state = self.state.lock();
        state.held.insert(held.key(), Arc::clone(held));
        state
            .routes
            .get(held.route())
            .map(|route| route.handed.clone())
    }

    /// What others took is over: the row has another claim.
    pub(super) fn lose(&self, key: &Key, claim: Option<Uuid>) {
        let mut state = self.state.lock();
        let is_other = |held: &Arc<Held>| claim != Some(held.claim());
        if !state.held.get(key).is_some_and(is_other) {
            return;
        }
        let lost = state.held.remove(key);
        state.leaving.remove(key);
        drop(state);
        if let Some(held) = lost {
            tracing::warn!(
                route = held.route(),
                partition = held.partition(),
                "a partition is read by another process: the lease of this one was over"
            );
            held.end();
        }
    }

    /// A claim whose answer was lost with a connection stands in the row and is nobody's: as long as this process lives no
    /// other would take it.
    pub(super) fn free_if_not_held(&self, key: Key, claim: Option<Uuid>) {
        let mut state = self.state.lock();
        let held = state.held.get(&key).map(|held| held.claim());
        let is_known = state.freed.iter().any(|(freed, _)| *freed == key);
        if let Some(claim) = claim.filter(|claim| held != Some(*claim) && !is_known) {
            state.freed.push((key, claim));
        }
    }

    /// The route shall let go of it.
    pub(super) fn ask_back(&self, key: &Key) {
        let mut state = self.state.lock();
        let Some(held) = state.held.get(key).cloned() else {
            return;
        };
        if state.leaving.contains_key(key) {
            return;
        }
        state.leaving.insert(key.clone(), Instant::now());
        drop(state);
        tracing::info!(
            route = held.route(),
            partition = held.partition(),
            "a partition goes to another process"
        );
        held.revoked().cancel();
    }

    /// Of other routes than these nothing is read any more.
    pub(super) fn ask_back_all_but(&self, routes: &[String]) {
        let held = self.state.lock().held.keys().cloned().collect::<Vec<_>>();
        let others = held.iter().filter(|(route, _)| !routes.contains(route));
        others.for_each(|key| self.ask_back(key));
    }

    /// Who does not let go in time loses it.
    pub(super) fn force(&self) {
        let mut state = self.state.lock();
        let leaving = state.leaving.iter();
        let late = leaving.filter(|(_, since)| since.elapsed() > HAND_OVER_WAIT_MAX);
        let late: Vec<_> = late.map(|(key, _)| key.clone()).collect();
        let mut lost = Vec::new();
        for key in late {
            state.leaving.remove(&key);
            if let Some(held) = state.held.remove(&key) {
                state.freed.push((key, held.claim()));
                lost.push(held);
            }
        }
        drop(state);
        for held in lost {
            tracing::warn!(
                route = held.route(),
                partition = held.partition(),
                "a partition was not given back in time: some of it may be delivered twice"
            );
            held.end();
        }
    }

    /// What is to be written as free.
    pub(super) fn take_freed(&self) -> Vec<(Key, Uuid)> {
        std::mem::take(&mut self.state.lock().freed)
    }

    /// That was not written.
    pub(super) fn put_back(&self, freed: Vec<(Key, Uuid)>) {
        self.state.lock().freed.extend(freed);
    }

    /// Without a partition for long, the process is said to be idle for the route.
    pub(super) fn look_whether_idle(&self, route: &str) {
        let mut state = self.state.lock();
        let holds = state.held.keys().any(|(held, _)| held == route);
        let Some(subscribed) = state.routes.get_mut(route) else {
            return;
        };
        if holds {
            (subscribed.idle_since, subscribed.is_idle) = (None, false);
            return;
        }
        let since = *subscribed.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() > IDLE_AFTER && !subscribed.is_idle {
            subscribed.is_idle = true;
            drop(state);
            tracing::info!(
                route,
                "this process is idle for the route: all partitions are other processes'"
            );
        }
    }

    /// Hands out nothing more; what is held is over.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        state.routes.clear();
        let held = std::mem::take(&mut state.held);
        drop(state);
        held.values().for_each(|held| held.end());
        self.wake();
    }
}
