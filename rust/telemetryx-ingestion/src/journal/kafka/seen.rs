//! What was last seen of Kafka: what is asked of it without waiting.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use telemetryx_common::Timestamp;

use super::super::{Committed, Extent, Position};
use crate::clock;

/// An acknowledgement ends the trouble with appends if none has failed for so long. Some partitions may take events while
/// others do not: that is one outage, not many.
const QUIET: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2000 });

/// Why nothing can be written.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) reason: String,
    pub(super) since: Timestamp,
    /// When something that was sent was last not acknowledged, if that happened: only an acknowledgement ends it.
    append_failed: Option<Instant>,
    /// Since when it does not answer either, if so.
    pub(super) unreachable: Option<Instant>,
}

impl Problem {
    /// What was sent is not acknowledged.
    pub(super) fn is_of_appends(&self) -> bool {
        self.append_failed.is_some()
    }
}

/// What tells the topic from all others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Name {
    /// What its processes agreed on; 0 while they have not.
    pub(super) identity: u128,
    /// What Kafka calls it, if the brokers tell.
    pub(super) topic_id: Option<u128>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<View>);

#[derive(Debug, Default)]
struct View {
    name: Name,
    extents: Vec<Extent>,
    /// By route; those of a route by partition.
    commits: BTreeMap<String, Vec<Known>>,
    /// How many looks at positions were begun.
    looks: u64,
    warnings: Vec<String>,
    /// Why the positions of a route cannot be asked for: those that are known are older.
    positions_fault: Option<String>,
    problem: Option<Problem>,
}

/// A commit, and how it is known.
#[derive(Debug)]
struct Known {
    committed: Committed,
    /// This process made it, after so many looks were begun; 0 if it was found by one.
    made_after: u64,
}

impl Seen {
    /// Nothing yet, but that Kafka was not there.
    pub(super) fn new(routes: &[String]) -> Self {
        let seen = Self::default();
        let commits = routes.iter().map(|route| (route.clone(), Vec::new()));
        seen.0.lock().commits = commits.collect();
        // As at every start: nothing to be told of.
        seen.0.lock().problem = Some(Problem {
            reason: "Kafka was not reached yet".to_owned(),
            since: clock::now(),
            append_failed: None,
            unreachable: Some(Instant::now()),
        });
        seen
    }

    pub(super) fn name(&self) -> Name {
        self.0.lock().name
    }

    pub(super) fn identity(&self) -> u128 {
        self.name().identity
    }

    pub(super) fn topic_id(&self) -> Option<u128> {
        self.name().topic_id
    }

    pub(super) fn extents(&self) -> Vec<Extent> {
        self.0.lock().extents.clone()
    }

    pub(super) fn extent(&self, partition: u32) -> Option<Extent> {
        let view = self.0.lock();
        let extent = view.extents.get(partition as usize);
        extent
            .filter(|extent| extent.partition == partition)
            .copied()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let view = self.0.lock();
        let mut warnings = view.warnings.clone();
        warnings.extend(view.positions_fault.as_ref().map(|fault| {
            format!(
                "how far the routes are is known from before, since it cannot be asked for: {fault}"
            )
        }));
        warnings
    }

    /// Why the positions that are known may be old.
    pub(super) fn positions_fault(&self) -> Option<String> {
        self.0.lock().positions_fault.clone()
    }

    /// Positions were asked for.
    pub(super) fn set_positions_fault(&self, fault: Option<String>) {
        let before = std::mem::replace(&mut self.0.lock().positions_fault, fault.clone());
        match fault {
            Some(fault) if before.is_none() => {
                tracing::warn!(fault, "the positions of the routes cannot be asked for");
            }
            None if before.is_some() => {
                tracing::info!("the positions of the routes are known again")
            }
            _ => {}
        }
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        self.0.lock().problem.clone()
    }

    /// Routes that anybody asked for.
    pub(super) fn routes(&self) -> Vec<String> {
        self.0.lock().commits.keys().cloned().collect()
    }

    /// How far the route is. One that is not known is looked at from now on.
    pub(super) fn commits(&self, route: &str) -> Vec<Committed> {
        let mut view = self.0.lock();
        match view.commits.get(route) {
            Some(commits) => commits
                .iter()
                .map(|known| known.committed.clone())
                .collect(),
            None => {
                view.commits.insert(route.to_owned(), Vec::new());
                Vec::new()
            }
        }
    }

    /// The most that a route has before it.
    pub(super) fn backlog(&self) -> u64 {
        let view = self.0.lock();
        let lags = view.commits.values().map(|commits| {
            let lags = view.extents.iter().map(|extent| lag(extent, commits));
            lags.sum()
        });
        lags.max().unwrap_or(0)
    }

    /// What each route has before it, partition by partition.
    pub(super) fn lags(&self) -> Vec<(String, u32, u64)> {
        let view = self.0.lock();
        let routes = view.commits.iter();
        let lags = routes.flat_map(|(route, commits)| {
            let lag = |extent: &Extent| (route.clone(), extent.partition, lag(extent, commits));
            view.extents.iter().map(lag)
        });
        lags.collect()
    }

    pub(super) fn set_name(&self, name: Name) {
        self.0.lock().name = name;
    }

    pub(super) fn set_extents(&self, extents: Vec<Extent>) {
        let mut view = self.0.lock();
        let before = std::mem::replace(&mut view.extents, extents);
        // What was appended while Kafka was asked.
        for known in before {
            let mut extents = view.extents.iter_mut();
            if let Some(extent) = extents.find(|extent| extent.partition == known.partition) {
                extent.end = extent.end.max(known.end);
            }
        }
    }

    /// The topic is another one: nothing that was known of the former holds.
    pub(super) fn forget(&self) {
        let mut view = self.0.lock();
        view.extents.clear();
        view.commits.values_mut().for_each(Vec::clear);
    }

    /// Positions are about to be asked for.
    pub(super) fn look_begins(&self) {
        self.0.lock().looks += 1;
    }

    /// What the look found of a route, by partition. What this process committed since the look began may be newer, and
    /// stays.
    pub(super) fn set_commits(&self, route: &str, found: Vec<Committed>) {
        let mut view = self.0.lock();
        let looks = view.looks;
        let commits = view.commits.entry(route.to_owned()).or_default();
        let before = std::mem::take(commits);
        commits.extend(found.into_iter().map(|committed| Known {
            committed,
            made_after: 0,
        }));
        for known in before {
            if known.made_after >= looks {
                put(commits, known);
            }
        }
    }

    /// This process committed.
    pub(super) fn committed(&self, route: &str, committed: Committed) {
        let mut view = self.0.lock();
        let made_after = view.looks;
        let known = Known {
            committed,
            made_after,
        };
        match view.commits.get_mut(route) {
            Some(commits) => put(commits, known),
            None => {
                view.commits.insert(route.to_owned(), vec![known]);
            }
        }
    }

    /// This process appended.
    pub(super) fn appended(&self, position: &Position) {
        let mut view = self.0.lock();
        for range in &position.ranges {
            let mut extents = view.extents.iter_mut();
            if let Some(extent) = extents.find(|extent| extent.partition == range.partition) {
                extent.end = extent.end.max(range.end());
            }
        }
        drop(view);
        self.acknowledged();
    }

    /// Kafka acknowledges what is sent.
    pub(super) fn acknowledged(&self) {
        let mut view = self.0.lock();
        let failed = view
            .problem
            .as_ref()
            .and_then(|problem| problem.append_failed);
        if failed.is_some_and(|failed| failed.elapsed() >= QUIET) {
            view.problem = None;
            drop(view);
            tracing::info!("Kafka acknowledges events again");
        }
    }

    /// New warnings are said in the log, once each.
    pub(super) fn set_warnings(&self, warnings: Vec<String>) {
        let mut view = self.0.lock();
        let before = std::mem::replace(&mut view.warnings, warnings.clone());
        drop(view);
        for warning in warnings.iter().filter(|warning| !before.contains(warning)) {
            tracing::warn!(warning, "the journal's topic is not as it should be");
        }
    }

    /// Kafka was asked, and answered.
    pub(super) fn answered(&self) {
        let mut view = self.0.lock();
        let Some(problem) = &mut view.problem else {
            return;
        };
        problem.unreachable = None;
        if !problem.is_of_appends() {
            view.problem = None;
            drop(view);
            tracing::info!("Kafka is there");
        }
    }

    /// Something cannot be done.
    pub(super) fn failed(&self, reason: &str, of_appends: bool) {
        let mut view = self.0.lock();
        let now = Instant::now();
        let (append_failed, unreachable) =
            (of_appends.then_some(now), (!of_appends).then_some(now));
        match &mut view.problem {
            Some(problem) => {
                reason.clone_into(&mut problem.reason);
                problem.append_failed = append_failed.or(problem.append_failed);
                problem.unreachable = problem.unreachable.or(unreachable);
            }
            None => {
                view.problem = Some(Problem {
                    reason: reason.to_owned(),
                    since: clock::now(),
                    append_failed,
                    unreachable,
                });
                drop(view);
                tracing::warn!(reason, "the journal cannot be written");
            }
        }
    }
}

/// Its place among the commits of a route.
fn place(commits: &[Known], partition: u32) -> Result<usize, usize> {
    commits.binary_search_by_key(&partition, |known| known.committed.partition)
}

fn put(commits: &mut Vec<Known>, known: Known) {
    match place(commits, known.committed.partition) {
        Ok(at) => commits[at] = known,
        Err(at) => commits.insert(at, known),
    }
}

fn lag(extent: &Extent, commits: &[Known]) -> u64 {
    let commit = place(commits, extent.partition)
        .ok()
        .and_then(|at| commits.get(at));
    let position = commit.map_or(extent.start, |known| known.committed.position);
    extent.end.saturating_sub(position.max(extent.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(partition: u32, position: u64) -> Committed {
        Committed {
            partition,
            position,
            state: position.to_string().into(),
        }
    }

    #[test]
    fn a_commit_that_is_made_during_a_look_stays_and_the_next_look_counts() {
        let seen = Seen::new(&["r".to_owned()]);
        seen.look_begins();
        seen.set_commits("r", vec![commit(0, 5), commit(2, 7)]);
        seen.committed("r", commit(1, 3));
        assert_eq!(
            seen.commits("r"),
            [commit(0, 5), commit(1, 3), commit(2, 7)]
        );
        seen.look_begins();
        seen.committed("r", commit(2, 9));
        // What was asked before that commit, and of one that it does not know.
        seen.set_commits("r", vec![commit(0, 6), commit(1, 3), commit(2, 7)]);
        assert_eq!(
            seen.commits("r"),
            [commit(0, 6), commit(1, 3), commit(2, 9)]
        );
        // Somebody set the position back, and another one is gone.
        seen.look_begins();
        seen.set_commits("r", vec![commit(2, 1)]);
        assert_eq!(seen.commits("r"), [commit(2, 1)]);
    }

    #[test]
    fn the_backlog_is_that_of_the_slowest_route_from_the_oldest_event_held() {
        let seen = Seen::new(&["a".to_owned(), "b".to_owned()]);
        let extent = |partition, start, end| Extent {
            partition,
            start,
            end,
        };
        seen.set_extents(vec![extent(0, 10, 30), extent(1, 0, 5)]);
        assert_eq!(seen.backlog(), 25);
        // Before the oldest event held, and at the end.
        seen.committed("a", commit(0, 4));
        seen.committed("a", commit(1, 5));
        assert_eq!(seen.backlog(), 25, "of `b`");
        seen.committed("b", commit(0, 29));
        assert_eq!(seen.backlog(), 20, "of `a`");
        assert_eq!(seen.lags().len(), 4);
    }

    #[test]
    fn acknowledgements_between_failures_end_nothing() {
        let seen = Seen::default();
        seen.failed("one partition has too few replicas", true);
        let since = seen.problem().unwrap().since;
        let position = Position {
            ranges: smallvec::SmallVec::new(),
        };
        seen.appended(&position);
        seen.failed("one partition has too few replicas", true);
        seen.acknowledged();
        assert_eq!(seen.problem().unwrap().since, since);
        std::thread::sleep(QUIET);
        seen.appended(&position);
        assert!(seen.problem().is_none());
    }

    #[test]
    fn kafka_is_unreachable_until_it_answers_whatever_becomes_of_appends() {
        let seen = Seen::default();
        let unreachable = || seen.problem().is_some_and(|it| it.unreachable.is_some());
        seen.failed("no acknowledgement", true);
        assert!(!unreachable());
        seen.failed("no answer", false);
        let since = seen.problem().unwrap().unreachable;
        seen.failed("no acknowledgement", true);
        assert!(unreachable());
        assert_eq!(seen.problem().unwrap().unreachable, since);
        seen.answered();
        assert!(!unreachable() && seen.problem().unwrap().is_of_appends());
        std::thread::sleep(QUIET);
        seen.acknowledged();
        assert!(seen.problem().is_none());
        seen.failed("no answer", false);
        assert!(unreachable());
        seen.answered();
        assert!(seen.problem().is_none());
    }
}
