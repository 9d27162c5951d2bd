//! This process among those that share the reading: its lease, the partitions that it holds, and those that it gives up.
//!
//! A process says every quarter of a lease that it lives; all clocks are the server's. One that says nothing for a lease
//! counts as gone, and others take what it held. Whoever takes a partition writes a claim of its own into the row, so what
//! the one before it commits afterwards changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::super::{Assignment, Assignments, FailedDelivery, JournalError};
use super::assignment::{Held, PostgresAssignment};
use super::core::Core;
use super::link::Fault;
use super::share::{self, Todo};
use crate::clock;

/// How long a partition that goes to another process is waited for: its route settles what is under way and commits.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(5);
/// While something is being given up, or was not written, it is looked at again after this time.
const SOON: Duration = Duration::from_millis(250);
/// The longest wait for the server to know that this process ends.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Without a partition for so long, a process is said to be idle.
const IDLE_AFTER: Duration = Duration::from_secs(10);

const LIVE: &str = "WITH lives AS (INSERT INTO {s}.members (member, name, routes, lease_until) \
    VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 millisecond') \
    ON CONFLICT (member) DO UPDATE SET routes = excluded.routes, lease_until = excluded.lease_until \
    RETURNING xmax = 0 AS is_new) SELECT CASE WHEN is_new THEN pg_notify({channel}, 'm')::text END FROM lives";
// A lease that ends in ten leases or later is of a time before the server's clock was set back.
const LIVING: &str = "SELECT route, member FROM {s}.members, unnest(routes) AS route \
    WHERE lease_until BETWEEN clock_timestamp() AND clock_timestamp() + $2 * interval '10 milliseconds' \
    AND route = ANY ($1)";
const OWNERS: &str = "SELECT route, partition, owner, claim FROM {s}.positions WHERE route = ANY ($1) \
    ORDER BY route, partition";
const CLAIM: &str = "UPDATE {s}.positions p SET owner = $1, claim = $2, version = version + 1 FROM ( \
        SELECT route, partition FROM {s}.positions WHERE route = $3 AND partition = ANY ($4) \
        AND (owner IS NULL OR NOT EXISTS (SELECT FROM {s}.members m \
            WHERE m.member = owner AND $3 = ANY (m.routes) AND m.lease_until \
                BETWEEN clock_timestamp() AND clock_timestamp() + $6 * interval '10 milliseconds')) \
        ORDER BY partition LIMIT $5 FOR UPDATE SKIP LOCKED \
    ) free WHERE p.route = free.route AND p.partition = free.partition RETURNING p.partition";
const RELEASE: &str = "WITH freed AS (UPDATE {s}.positions p SET owner = NULL, claim = NULL, version = version + 1 \
    FROM unnest($1::text[], $2::integer[], $3::uuid[]) AS old (route, partition, claim) \
    WHERE p.route = old.route AND p.partition = old.partition AND p.claim = old.claim RETURNING p.partition) \
    SELECT pg_notify({channel}, 'm') FROM (SELECT count(*) AS count FROM freed) freed WHERE count > 0";
const LEAVE: &str = "WITH freed AS (UPDATE {s}.positions SET owner = NULL, claim = NULL, version = version + 1 \
    WHERE owner = $1), gone AS (DELETE FROM {s}.members WHERE member = $1) SELECT pg_notify({channel}, 'm')";
const FAILED: &str = "UPDATE {s}.positions p SET attempts = f.attempts, failed_from = f.first, failed_to = f.last, \
    next_attempt_at = clock_timestamp() + f.again * interval '1 millisecond', last_error = f.error \
    FROM unnest($1::text[], $2::integer[], $3::uuid[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[]) \
    AS f (route, partition, claim, attempts, first, last, again, error) \
    WHERE p.route = f.route AND p.partition = f.partition AND p.claim = f.claim AND coalesce(p.position, 0) < f.last";

type Key = (String, u32);

/// See the module.
#[derive(Default)]
pub(super) struct Members {
    state: Mutex<State>,
    wake: Notify,
    failing: Notify,
}

#[derive(Default)]
struct State {
    routes: HashMap<String, Subscribed>,
    held: BTreeMap<Key, Arc<Held>>,
    /// Told to go, and since when.
    leaving: BTreeMap<Key, Instant>,
    /// Not used here any more; the row still says that it is.
    freed: Vec<(Key, Uuid)>,
    failed: BTreeMap<Key, (Uuid, FailedDelivery)>,
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
            format!("this process is idle for route `{route}`: other processes read all partitions")
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
        let key = (held.route().to_owned(), held.partition());
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

    /// A delivery failed: written soon, for whoever asks the view.
    pub(super) fn failed(&self, held: &Held, failure: FailedDelivery) {
        let key = (held.route().to_owned(), held.partition());
        let failed = (held.claim(), failure);
        self.state.lock().failed.insert(key, failed);
        self.failing.notify_one();
    }

    /// The tables are others: nobody holds anything in them.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock();
        let held = std::mem::take(&mut state.held);
        state.leaving.clear();
        state.freed.clear();
        drop(state);
        held.values().for_each(|held| held.end());
        self.wake();
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

/// Keeps the lease and the share of this process, until the journal is closed; then it is gone at once.
pub(super) async fn keep(core: Arc<Core>) {
    let me = Uuid::now_v7();
    let mut has_joined = false;
    loop {
        let every = core.settings().lease / 4;
        let is_busy = {
            let state = core.members().state.lock();
            !state.leaving.is_empty() || !state.freed.is_empty()
        };
        let pause = if is_busy { SOON.min(every) } else { every };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.members().wake.notified() => {}
            () = core.closed().cancelled() => break,
        }
        if !core.is_ready() {
            tokio::select! {
                () = core.ready() => {}
                () = core.closed().cancelled() => break,
            }
        }
        let turned = tokio::select! {
            turned = turn(&core, me, &mut has_joined) => turned,
            () = core.closed().cancelled() => break,
        };
        if let Err(fault) = turned {
            tracing::debug!(
                reason = fault.words(),
                "the share of this process cannot be kept"
            );
            tokio::time::sleep(SOON).await;
        }
    }
    if has_joined {
        let parameters: [&(dyn ToSql + Sync); 1] = [&me];
        let leaving = core.books().rows(LEAVE, &parameters);
        tokio::time::timeout(LEAVE_WAIT_MAX, leaving).await.ok();
    }
}

async fn turn(core: &Arc<Core>, me: Uuid, has_joined: &mut bool) -> Result<(), Fault> {
    let members = core.members();
    release(core).await?;
    let routes = members.routes();
    if routes.is_empty() && !*has_joined {
        return Ok(());
    }
    let lease = millis_of_lease(core);
    core.books()
        .rows(LIVE, &[&me, &name(), &routes, &lease])
        .await?;
    *has_joined = true;
    core.add_routes(&routes).await?;
    let (of_routes, leased): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 2]) =
        ([&routes], [&routes, &lease]);
    let (living, owners) = tokio::try_join!(
        core.books().rows(LIVING, &leased),
        core.books().rows(OWNERS, &of_routes)
    )?;
    for route in &routes {
        let living: Vec<Uuid> = living
            .iter()
            .filter(|row| row.get::<_, &str>(0) == route)
            .map(|row| row.get(1))
            .collect();
        let rows = owners.iter().filter(|row| row.get::<_, &str>(0) == route);
        let mut of_partitions = Vec::new();
        for row in rows {
            let (partition, owner, claim): (i32, Option<Uuid>, Option<Uuid>) =
                (row.get(1), row.get(2), row.get(3));
            of_partitions.push(owner);
            lose(core, (route, partition.unsigned_abs()), claim);
            if owner == Some(me) {
                free_if_not_held(core, (route, partition.unsigned_abs()), claim);
            }
        }
        let todo = share::todo(&of_partitions, &living, me);
        give(core, route, &todo);
        if todo.take > 0 {
            take(core, me, route, &todo).await?;
        }
        look_whether_idle(core, route);
    }
    let gone = {
        let state = members.state.lock();
        let gone = state
            .held
            .values()
            .filter(|held| !routes.iter().any(|route| route == held.route()));
        gone.cloned().collect::<Vec<_>>()
    };
    gone.iter().for_each(|held| ask_back(core, held));
    force(core);
    release(core).await
}

fn millis_of_lease(core: &Core) -> f64 {
    core.settings().lease.as_secs_f64() * 1000.0
}

/// What others took is over.
fn lose(core: &Core, (route, partition): (&str, u32), claim: Option<Uuid>) {
    let key = (route.to_owned(), partition);
    let mut state = core.members().state.lock();
    let lost = state
        .held
        .get(&key)
        .filter(|held| claim != Some(held.claim()))
        .cloned();
    if let Some(held) = lost {
        state.held.remove(&key);
        state.leaving.remove(&key);
        drop(state);
        tracing::warn!(
            route,
            partition,
            "a partition is read by another process: this one did not answer"
        );
        held.end();
    }
}

/// A claim whose answer was lost with a connection stands in the row and is nobody's: as long as this process lives no
/// other would take it.
fn free_if_not_held(core: &Core, (route, partition): (&str, u32), claim: Option<Uuid>) {
    let key = (route.to_owned(), partition);
    let mut state = core.members().state.lock();
    let is_held = state
        .held
        .get(&key)
        .is_some_and(|held| claim == Some(held.claim()));
    let is_known = state.freed.iter().any(|(freed, _)| *freed == key);
    if let Some(claim) = claim.filter(|_| !is_held && !is_known) {
        state.freed.push((key, claim));
    }
}

fn give(core: &Core, route: &str, todo: &Todo) {
    for partition in &todo.give {
        let held = core
            .members()
            .state
            .lock()
            .held
            .get(&(route.to_owned(), *partition))
            .cloned();
        if let Some(held) = held {
            ask_back(core, &held);
        }
    }
}

/// The route shall let go of it.
fn ask_back(core: &Core, held: &Held) {
    let key = (held.route().to_owned(), held.partition());
    let is_asked = {
        let leaving = &mut core.members().state.lock().leaving;
        let before = leaving.len();
        leaving.entry(key).or_insert_with(Instant::now);
        leaving.len() == before
    };
    if !is_asked {
        tracing::info!(
            route = held.route(),
            partition = held.partition(),
            "a partition goes to another process"
        );
        held.revoked().cancel();
    }
}

/// Who does not let go in time loses it.
fn force(core: &Core) {
    let late: Vec<_> = {
        let mut state = core.members().state.lock();
        let late = state
            .leaving
            .iter()
            .filter(|(_, since)| since.elapsed() > HAND_OVER_WAIT_MAX);
        let late: Vec<_> = late.map(|(key, _)| key.clone()).collect();
        let late = late.into_iter().filter_map(|key| {
            state.leaving.remove(&key);
            let held = state.held.remove(&key)?;
            state.freed.push((key, held.claim()));
            Some(held)
        });
        late.collect()
    };
    for held in late {
        tracing::warn!(
            route = held.route(),
            partition = held.partition(),
            "a partition was not given back in time: some of it may be delivered twice"
        );
        held.end();
    }
}

async fn take(core: &Arc<Core>, me: Uuid, route: &str, todo: &Todo) -> Result<(), Fault> {
    let claim = Uuid::now_v7();
    let free: Vec<i32> = todo
        .free
        .iter()
        .map(|partition| partition.cast_signed())
        .collect();
    let taken = core
        .books()
        .rows(
            CLAIM,
            &[
                &me,
                &claim,
                &route,
                &free,
                &(todo.take as i64),
                &millis_of_lease(core),
            ],
        )
        .await?;
    for row in taken {
        let partition: i32 = row.get(0);
        let held = Arc::new(Held::new(
            Arc::clone(core),
            route.to_owned(),
            partition.unsigned_abs(),
            claim,
        ));
        let mut state = core.members().state.lock();
        let handed = state.routes.get(route).map(|route| route.handed.clone());
        state
            .held
            .insert((route.to_owned(), held.partition()), Arc::clone(&held));
        drop(state);
        tracing::info!(route, partition, "this process reads a partition");
        // What nobody takes is given back.
        let assignment = PostgresAssignment::new(held);
        if let Some(handed) = handed {
            handed.send(assignment).ok();
        }
    }
    Ok(())
}

/// Writes that partitions are free.
async fn release(core: &Core) -> Result<(), Fault> {
    let freed = std::mem::take(&mut core.members().state.lock().freed);
    if freed.is_empty() {
        return Ok(());
    }
    let routes: Vec<_> = freed.iter().map(|((route, _), _)| route.as_str()).collect();
    let partitions: Vec<_> = freed
        .iter()
        .map(|((_, partition), _)| partition.cast_signed())
        .collect();
    let claims: Vec<_> = freed.iter().map(|(_, claim)| *claim).collect();
    let released = core
        .books()
        .rows(RELEASE, &[&routes, &partitions, &claims])
        .await;
    if let Err(fault) = released {
        core.members().state.lock().freed.extend(freed);
        return Err(fault);
    }
    Ok(())
}

/// Writes what failed, not more often than it makes sense to look.
pub(super) async fn keep_failures(core: &Core) {
    loop {
        tokio::select! {
            () = core.members().failing.notified() => {}
            () = core.closed().cancelled() => return,
        }
        if let Err(fault) = write_failures(core).await {
            tracing::debug!(reason = fault.words(), "what failed cannot be written");
        }
        tokio::time::sleep(SOON).await;
    }
}

async fn write_failures(core: &Core) -> Result<(), Fault> {
    let failed = std::mem::take(&mut core.members().state.lock().failed);
    if failed.is_empty() {
        return Ok(());
    }
    let routes: Vec<_> = failed.keys().map(|(route, _)| route.as_str()).collect();
    let partitions: Vec<_> = failed
        .keys()
        .map(|(_, partition)| partition.cast_signed())
        .collect();
    let (mut claims, mut attempts, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lasts, mut again, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (claim, failure) in failed.values() {
        claims.push(*claim);
        attempts.push(i32::try_from(failure.attempts).unwrap_or(i32::MAX));
        firsts.push(i64::try_from(failure.first).unwrap_or(i64::MAX));
        lasts.push(i64::try_from(failure.end).unwrap_or(i64::MAX));
        again.push(i64::try_from(failure.again_in.as_millis()).unwrap_or(i64::MAX));
        // A text of the server holds no zero.
        errors.push(failure.error.replace('\0', ""));
    }
    core.books()
        .rows(
            FAILED,
            &[
                &routes,
                &partitions,
                &claims,
                &attempts,
                &firsts,
                &lasts,
                &again,
                &errors,
            ],
        )
        .await
        .map(|_| ())
}

fn look_whether_idle(core: &Core, route: &str) {
    let mut state = core.members().state.lock();
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
            "this process is idle for the route: other processes read all partitions"
        );
    }
}

/// For people who look into the table.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!(
        "{} process {} since {}",
        host.trim(),
        std::process::id(),
        clock::now()
    )
}
