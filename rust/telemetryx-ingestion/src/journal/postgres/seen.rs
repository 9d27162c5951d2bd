//! What was last seen of the tables: what is asked of them without waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use telemetryx_common::Timestamp;
use tokio::sync::watch;

use super::super::{Backlog, Committed, Extent};
use crate::clock;

/// So many things that are lost are told of.
const DAMAGE_MAX: usize = 100;

/// Why nothing can be written.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) reason: String,
    pub(super) since: Timestamp,
    pub(super) begun: Instant,
    /// The server answers, and did not commit: only a commit ends it.
    pub(super) of_appends: bool,
}

/// The end of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) offset: u64,
    /// Bytes that it ever had.
    pub(super) bytes: u64,
}

/// A table of the queue: where it begins in each partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) number: i64,
    pub(super) starts: Vec<End>,
    /// By the server's clock.
    pub(super) made_at: Timestamp,
    /// When it was made, by a clock of this process that is never set.
    pub(super) made: Instant,
}

impl Piece {
    pub(super) fn start(&self, partition: u32) -> End {
        self.starts
            .get(partition as usize)
            .copied()
            .unwrap_or_default()
    }
}

/// How far a route is in a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// `None`: nothing was ever committed.
    pub(super) position: Option<u64>,
    pub(super) bytes_passed: u64,
    pub(super) state: Bytes,
    /// Grows with every change.
    pub(super) version: i64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Seen {
    view: Mutex<View>,
    /// Changes whenever there may be something to read.
    news: watch::Sender<u64>,
    /// The number of the last change of the table of names.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct View {
    identity: u128,
    ends: Vec<End>,
    pieces: Arc<Vec<Piece>>,
    routes: BTreeMap<String, Vec<Place>>,
    warnings: Vec<String>,
    /// Why the pieces of the queue have not been kept for a while.
    keeping_fault: Option<String>,
    /// What is lost.
    damage: Vec<String>,
    problem: Option<Problem>,
}

impl Seen {
    /// Nothing yet, but that the server was not there.
    pub(super) fn new(routes: &[String]) -> Self {
        let view = View {
            routes: routes
                .iter()
                .map(|route| (route.clone(), Vec::new()))
                .collect(),
            ..View::default()
        };
        let seen = Self {
            view: Mutex::new(view),
            news: watch::Sender::new(0),
            changed: watch::Sender::new(0),
        };
        // As at every start: nothing to be told of.
        seen.view.lock().problem = Some(Problem {
            reason: "PostgreSQL was not reached yet".to_owned(),
            since: clock::now(),
            begun: Instant::now(),
            of_appends: false,
        });
        seen
    }

    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// There may be something to read, or to give up.
    pub(super) fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The table of names has come so far.
    pub(super) fn set_changed(&self, sequence: u64) {
        self.changed.send_if_modified(|known| {
            let is_newer = sequence > *known;
            *known = sequence.max(*known);
            is_newer
        });
    }

    /// Where the server must be by now: the partitions' ends, and the number of the last change of the table of names.
    pub(super) fn at_least(&self) -> (Vec<End>, u64) {
        (self.view.lock().ends.clone(), *self.changed.borrow())
    }

    pub(super) fn identity(&self) -> u128 {
        self.view.lock().identity
    }

    /// These tables are others than those before: nothing that was known of them holds.
    pub(super) fn begin(&self, identity: u128, partitions: u32) {
        let mut view = self.view.lock();
        view.identity = identity;
        view.ends = vec![End::default(); partitions as usize];
        view.pieces = Arc::default();
        view.routes
            .values_mut()
            .for_each(|places| *places = vec![Place::default(); partitions as usize]);
        drop(view);
        self.changed.send_replace(0);
        self.tell();
    }

    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.view.lock().ends.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn extents(&self) -> Vec<Extent> {
        let view = self.view.lock();
        let ends = (0..).zip(&view.ends);
        ends.map(|(partition, end)| Extent {
            partition,
            start: view.start(partition).offset,
            end: end.offset,
        })
        .collect()
    }

    pub(super) fn start(&self, partition: u32) -> End {
        self.view.lock().start(partition)
    }

    pub(super) fn end(&self, partition: u32) -> End {
        let view = self.view.lock();
        view.ends
            .get(partition as usize)
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn pieces(&self) -> Arc<Vec<Piece>> {
        Arc::clone(&self.view.lock().pieces)
    }

    pub(super) fn set_pieces(&self, pieces: Vec<Piece>) {
        self.view.lock().pieces = Arc::new(pieces);
        self.tell();
    }

    /// A partition ends there, or further on. What ends where it did is no news.
    pub(super) fn set_ends(&self, ends: impl IntoIterator<Item = (u32, End)>) {
        let mut is_news = false;
        let mut view = self.view.lock();
        for (partition, end) in ends {
            if let Some(known) = view.ends.get_mut(partition as usize)
                && known.offset < end.offset
            {
                *known = end;
                is_news = true;
            }
        }
        drop(view);
        if is_news {
            self.tell();
        }
    }

    /// Bytes that are in the tables.
    pub(super) fn bytes(&self) -> u64 {
        let view = self.view.lock();
        let ends = (0..).zip(&view.ends);
        ends.map(|(partition, end)| end.bytes.saturating_sub(view.start(partition).bytes))
            .sum()
    }

    /// Bytes that were put into this piece and all after it.
    pub(super) fn bytes_since(&self, piece: &Piece) -> u64 {
        let view = self.view.lock();
        let ends = (0..).zip(&view.ends);
        ends.map(|(partition, end)| end.bytes.saturating_sub(piece.start(partition).bytes))
            .sum()
    }

    /// Routes that anybody asked for.
    pub(super) fn routes(&self) -> Vec<String> {
        self.view.lock().routes.keys().cloned().collect()
    }

    /// How far the route is. One that is not known is looked at from now on.
    pub(super) fn commits(&self, route: &str) -> Vec<Committed> {
        let mut view = self.view.lock();
        let partitions = view.ends.len();
        let places = match view.routes.get(route) {
            Some(places) => places,
            None => {
                let places = vec![Place::default(); partitions];
                view.routes.entry(route.to_owned()).or_insert(places)
            }
        };
        (0..)
            .zip(places)
            .filter_map(|(partition, place)| {
                Some(Committed {
                    partition,
                    position: place.position?,
                    state: place.state.clone(),
                })
            })
            .collect()
    }

    /// The versions of all places that are known: only what changed since is asked for.
    pub(super) fn versions(&self) -> (Vec<String>, Vec<i32>, Vec<i64>) {
        let view = self.view.lock();
        let (mut routes, mut partitions, mut versions) = (Vec::new(), Vec::new(), Vec::new());
        for (route, places) in &view.routes {
            for (partition, place) in (0..).zip(places) {
                routes.push(route.clone());
                partitions.push(partition);
                versions.push(place.version);
            }
        }
        (routes, partitions, versions)
    }

    /// A route is there, unless it is known to be further on already.
    pub(super) fn set_place(&self, route: &str, partition: u32, place: Place) {
        let mut view = self.view.lock();
        let known = view.routes.get_mut(route);
        if let Some(known) = known.and_then(|places| places.get_mut(partition as usize))
            && known.version < place.version
        {
            *known = place;
        }
    }

    /// The most that a route has before it.
    pub(super) fn backlog(&self) -> Backlog {
        let view = self.view.lock();
        let mut most = Backlog::default();
        for places in view.routes.values() {
            let (mut events, mut bytes) = (0, 0);
            for (partition, end) in (0..).zip(&view.ends) {
                let start = view.start(partition);
                let place = places.get(partition as usize);
                let (position, passed) =
                    match place.and_then(|place| Some((place.position?, place))) {
                        Some((position, place)) => (position, place.bytes_passed),
                        None => (0, 0),
                    };
                events += end.offset.saturating_sub(position.max(start.offset));
                bytes += end.bytes.saturating_sub(passed.max(start.bytes));
            }
            most.events = most.events.max(events);
            most.bytes = most.bytes.max(bytes);
        }
        most
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let view = self.view.lock();
        let mut warnings = view.warnings.clone();
        warnings.extend(view.keeping_fault.as_ref().map(|fault| {
            format!("the pieces of the queue are not kept, and nothing is removed: {fault}")
        }));
        warnings
    }

    /// Why the pieces have not been kept for a while, if so; said once.
    pub(super) fn set_keeping_fault(&self, fault: Option<&str>) {
        let mut view = self.view.lock();
        let is_new = fault.is_some() && view.keeping_fault.is_none();
        view.keeping_fault = fault.map(str::to_owned);
        drop(view);
        if let Some(fault) = fault.filter(|_| is_new) {
            tracing::warn!(fault, "the pieces of the queue cannot be kept");
        }
    }

    pub(super) fn damage(&self) -> Vec<String> {
        self.view.lock().damage.clone()
    }

    /// Something is lost; said once, and kept until the process ends.
    pub(super) fn add_damage(&self, damage: String) {
        let mut view = self.view.lock();
        if view.damage.len() < DAMAGE_MAX && !view.damage.contains(&damage) {
            tracing::error!(damage, "damage in the journal");
            view.damage.push(damage);
        }
    }

    /// New warnings are said in the log, once each.
    pub(super) fn set_warnings(&self, warnings: Vec<String>) {
        let mut view = self.view.lock();
        if view.warnings == warnings {
            return;
        }
        let before = std::mem::replace(&mut view.warnings, warnings.clone());
        drop(view);
        for warning in warnings.iter().filter(|warning| !before.contains(warning)) {
            tracing::warn!(warning, "the journal's database is not as it should be");
        }
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        self.view.lock().problem.clone()
    }

    /// Something was committed.
    pub(super) fn committed(&self) {
        let mut view = self.view.lock();
        if view
            .problem
            .as_ref()
            .is_some_and(|problem| problem.of_appends)
        {
            view.problem = None;
            drop(view);
            tracing::info!("PostgreSQL commits events again");
        }
    }

    /// The server was asked, and answered.
    pub(super) fn answered(&self) {
        let mut view = self.view.lock();
        if view
            .problem
            .as_ref()
            .is_some_and(|problem| !problem.of_appends)
        {
            view.problem = None;
            drop(view);
            tracing::info!("PostgreSQL is there");
        }
    }

    /// Something cannot be done.
    pub(super) fn failed(&self, reason: &str, of_appends: bool) {
        let mut view = self.view.lock();
        match &mut view.problem {
            Some(problem) => {
                reason.clone_into(&mut problem.reason);
                problem.of_appends |= of_appends;
            }
            None => {
                view.problem = Some(Problem {
                    reason: reason.to_owned(),
                    since: clock::now(),
                    begun: Instant::now(),
                    of_appends,
                });
                drop(view);
                tracing::warn!(reason, "the journal cannot be written");
            }
        }
    }
}

impl View {
    /// Where the oldest piece begins.
    fn start(&self, partition: u32) -> End {
        let oldest = self.pieces.first();
        oldest.map_or_else(End::default, |piece| piece.start(partition))
    }
}
