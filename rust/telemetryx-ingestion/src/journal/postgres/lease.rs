//! The lease of this process, and its share of the partitions: kept up turn by turn, until the journal is closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::assignment::{Held, PostgresAssignment};
use super::core::Core;
use super::link::Fault;
use super::members::SOON;
use super::share::{self, Todo};
use crate::clock;

/// The longest wait for the server to know that this process ends.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(3);

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
/// This process, as others see it.
struct Member {
    id: Uuid,
    /// For people who look into the table.
    name: String,
    /// Since when the lease surely lasts, once there is one.
    alive: Option<Instant>,
}

/// Keeps the lease and the share of this process, until the journal is closed; then it is gone at once.
pub(super) async fn keep(core: Arc<Core>) {
    let mut me = Member::new();
    loop {
        let every = core.settings().lease / 4;
        let pause = if core.members().is_busy() {
            SOON.min(every)
        } else {
            every
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.members().woken() => {}
            () = core.closed().cancelled() => break,
        }
        me.fence(&core);
        if !core.is_ready() {
            tokio::select! {
                () = core.ready() => {}
                () = core.closed().cancelled() => break,
            }
        }
        let turned = tokio::select! {
            turned = turn(&core, &mut me) => turned,
            () = core.closed().cancelled() => break,
        };
        if let Err(fault) = turned {
            tracing::debug!(
                reason = fault.words(),
                "the share of this process cannot be kept"
            );
            me.fence(&core);
            tokio::time::sleep(SOON).await;
        }
    }
    if me.alive.is_some() {
        let parameters: [&(dyn ToSql + Sync); 1] = [&me.id];
        let leaving = core.leases().rows(LEAVE, &parameters);
        tokio::time::timeout(LEAVE_WAIT_MAX, leaving).await.ok();
    }
}

impl Member {
    fn new() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let process = std::process::id();
        Self {
            id: Uuid::now_v7(),
            name: format!("{} process {process} since {}", host.trim(), clock::now()),
            alive: None,
        }
    }

    /// Once the lease is over, others may read what this process holds: it delivers nothing more of that.
    fn fence(&self, core: &Core) {
        let lease = core.settings().lease;
        if self.alive.is_some_and(|alive| alive.elapsed() > lease) && core.members().forget() {
            tracing::warn!(
                lease = ?lease,
                "PostgreSQL has not heard of this process for longer than its lease: what it read is given up"
            );
        }
    }
}

async fn turn(core: &Arc<Core>, me: &mut Member) -> Result<(), Fault> {
    let members = core.members();
    release(core).await?;
    let routes = members.routes();
    if routes.is_empty() && me.alive.is_none() {
        return Ok(());
    }
    let (lease, now) = (millis_of_lease(core), Instant::now());
    let living: [&(dyn ToSql + Sync); 4] = [&me.id, &me.name, &routes, &lease];
    core.leases().rows(LIVE, &living).await?;
    me.alive = Some(now);
    core.add_routes(&routes).await?;
    let (of_routes, leased): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 2]) =
        ([&routes], [&routes, &lease]);
    let (living, owners) = tokio::try_join!(
        core.leases().rows(LIVING, &leased),
        core.leases().rows(OWNERS, &of_routes)
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
            let key = (route.clone(), partition.unsigned_abs());
            members.lose(&key, claim);
            if owner == Some(me.id) {
                members.free_if_not_held(key, claim);
            }
        }
        let todo = share::todo(&of_partitions, &living, me.id);
        for partition in &todo.give {
            members.ask_back(&(route.clone(), *partition));
        }
        if todo.take > 0 {
            take(core, me.id, route, &todo).await?;
        }
        members.look_whether_idle(route);
    }
    members.ask_back_all_but(&routes);
    members.force();
    release(core).await
}

fn millis_of_lease(core: &Core) -> f64 {
    core.settings().lease.as_secs_f64() * 1000.0
}

async fn take(core: &Arc<Core>, me: Uuid, route: &str, todo: &Todo) -> Result<(), Fault> {
    let claim = Uuid::now_v7();
    let free = todo.free.iter();
    let free: Vec<i32> = free.map(|partition| partition.cast_signed()).collect();
    let (most, lease) = (todo.take as i64, millis_of_lease(core));
    let parameters: [&(dyn ToSql + Sync); 6] = [&me, &claim, &route, &free, &most, &lease];
    for row in core.leases().rows(CLAIM, &parameters).await? {
        let partition = row.get::<_, i32>(0).unsigned_abs();
        tracing::info!(route, partition, "this process reads a partition");
        let held = Held::new(Arc::clone(core), route.to_owned(), partition, claim);
        let held = Arc::new(held);
        let handed = core.members().add(&held);
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
    let freed = core.members().take_freed();
    if freed.is_empty() {
        return Ok(());
    }
    let routes: Vec<_> = freed.iter().map(|((route, _), _)| route.as_str()).collect();
    let partitions: Vec<_> = freed
        .iter()
        .map(|((_, partition), _)| partition.cast_signed())
        .collect();
    let claims: Vec<_> = freed.iter().map(|(_, claim)| *claim).collect();
    let parameters: [&(dyn ToSql + Sync); 3] = [&routes, &partitions, &claims];
    let released = core.leases().rows(RELEASE, &parameters).await;
    if let Err(fault) = released {
        core.members().put_back(freed);
        return Err(fault);
    }
    Ok(())
}
