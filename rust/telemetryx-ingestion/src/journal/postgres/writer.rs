//! The one task that writes to the queue: it takes all that waits, up to a bound, and writes it in one round trip with one
//! commit; then everybody who waited is told. While that commit is under way, the next group gathers: no timer.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio_postgres::types::ToSql;

use super::super::{AppendError, Position, Range};
use super::append::{Queue, Waiting};
use super::core::Core;
use super::keeper;
use super::link::{Fault, Link};
use super::seen::End;
use super::settings::Settings;
use crate::observe::Metrics;

/// A promise needs the server's disk: where that is switched off for all, it is switched on here.
const SETUP: &str = "SET plan_cache_mode = force_generic_plan; SET jit = off; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
const APPEND: &str = "SELECT firsts, bytes_before FROM {s}.append($1, $2, $3, $4, $5, $6, $7, $8)";
/// Changes nothing, and has to be committed.
const PROBE: &str = "UPDATE {s}.partitions SET piece = piece WHERE partition = 0";
/// The pause after a group that was not committed, and between probes.
const PAUSE: Duration = Duration::from_millis(200);
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Writes what comes into the queue, until it is closed and empty.
pub(super) async fn write(core: Arc<Core>, metrics: Arc<Metrics>) {
    let link = Link::new(core.opener().clone(), SETUP);
    loop {
        let is_failing = core
            .seen()
            .problem()
            .is_some_and(|problem| problem.of_appends);
        let group = if is_failing {
            match tokio::time::timeout(PROBE_EVERY, core.queue().group()).await {
                Ok(group) => group,
                Err(_) => {
                    if core.is_ready() && link.rows(PROBE, &[]).await.is_ok() {
                        core.seen().committed();
                    }
                    continue;
                }
            }
        } else {
            core.queue().group().await
        };
        let Some(group) = group else { break };
        // Nobody is told anything before there are tables; those who waited too long have gone by then.
        if !core.is_ready()
            && tokio::time::timeout(core.settings().patience, core.ready())
                .await
                .is_err()
        {
            refuse(group, "PostgreSQL was not reached");
            continue;
        }
        match commit(&link, &core, &group).await {
            Ok(ends) => {
                let events: u64 = group
                    .iter()
                    .flat_map(|batch| &batch.parts)
                    .map(|part| u64::from(part.events))
                    .sum();
                metrics.group_events.record(events as f64);
                core.seen().committed();
                let known = |one: &Written| core.seen().end(one.partition).offset;
                if ends.iter().any(|one| one.first < known(one)) {
                    // Another server answers than before, and knows less.
                    core.look_again();
                }
                // Who is told finds it so.
                core.seen()
                    .set_ends(ends.iter().map(|one| (one.partition, one.end)));
                tell(group, &ends);
            }
            Err(fault) => {
                core.seen().failed(fault.words(), true);
                if fault.is_missing() {
                    keeper::replace_dropped(&link).await;
                    core.look_again();
                }
                refuse(group, fault.words());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    core.writer_ended();
}

/// What a group put into one partition.
struct Written {
    partition: u32,
    first: u64,
    end: End,
}

/// Writes a group; what it put where, in the order of the partitions.
async fn commit(link: &Link, core: &Core, group: &[Waiting]) -> Result<Vec<Written>, Fault> {
    link.connect().await?;
    let partitions = core.seen().partitions() as usize;
    let mut totals = vec![(0_i64, 0_i64); partitions];
    let mut places = vec![0_i32; partitions];
    let all = || group.iter().flat_map(|batch| &batch.parts);
    for part in all() {
        let total = totals.get_mut(part.partition as usize);
        let (events, bytes) =
            total.ok_or_else(|| Fault::Away("the journal was made anew".to_owned()))?;
        *events += i64::from(part.events);
        *bytes += part.body.len() as i64;
    }
    let (mut parts, mut part_events, mut part_bytes) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, (events, bytes)) in totals.iter().enumerate().filter(|(_, total)| total.0 > 0) {
        parts.push(partition as i32);
        part_events.push(*events);
        part_bytes.push(*bytes);
        places[partition] = parts.len() as i32;
    }
    let rows = all().count();
    let (mut row_part, mut row_at) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let (mut row_bytes_at, mut row_events) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut bodies: Vec<&[u8]> = Vec::with_capacity(rows);
    let mut at = vec![(0_i64, 0_i64); partitions];
    for part in all() {
        let partition = part.partition as usize;
        let (events, bytes) = &mut at[partition];
        row_part.push(places[partition]);
        row_at.push(*events);
        row_bytes_at.push(*bytes);
        row_events.push(i32::try_from(part.events).unwrap_or(i32::MAX));
        bodies.push(&part.body);
        *events += i64::from(part.events);
        *bytes += part.body.len() as i64;
    }
    let parameters: [&(dyn ToSql + Sync); 8] = [
        &parts,
        &part_events,
        &part_bytes,
        &row_part,
        &row_at,
        &row_bytes_at,
        &row_events,
        &bodies,
    ];
    let rows = link.rows(APPEND, &parameters).await?;
    let row = rows.first();
    let row =
        row.ok_or_else(|| Fault::Away("the server did not say where events are".to_owned()))?;
    let (firsts, before): (Vec<i64>, Vec<i64>) = (row.get(0), row.get(1));
    let written = parts
        .iter()
        .zip(part_events)
        .zip(part_bytes)
        .zip(firsts.iter().zip(before));
    Ok(written
        .map(|(((partition, events), bytes), (first, before))| Written {
            partition: partition.unsigned_abs(),
            first: first.unsigned_abs(),
            end: End {
                offset: (first + events).unsigned_abs(),
                bytes: (before + bytes).unsigned_abs(),
            },
        })
        .collect())
}

/// Tells everybody of the group where its events are.
fn tell(group: Vec<Waiting>, written: &[Written]) {
    let mut next: Vec<_> = written
        .iter()
        .map(|one| (one.partition, one.first))
        .collect();
    for batch in group {
        let mut ranges = SmallVec::new();
        for part in &batch.parts {
            if let Ok(place) = next.binary_search_by_key(&part.partition, |one| one.0) {
                let first = &mut next[place].1;
                ranges.push(Range {
                    partition: part.partition,
                    first: *first,
                    events: part.events,
                });
                *first += u64::from(part.events);
            }
        }
        // Who is gone does not need it.
        batch.done.send(Ok(Position { ranges })).ok();
    }
}

fn refuse(group: Vec<Waiting>, words: &str) {
    for batch in group {
        let error = AppendError::Unavailable(words.to_owned());
        batch.done.send(Err(error)).ok();
    }
}

/// The longest wait of a batch, from its coming to its commit.
pub(super) async fn append(
    queue: &Queue,
    settings: &Settings,
    parts: SmallVec<[super::append::Part; 1]>,
) -> Result<Position, AppendError> {
    let (done, answer) = tokio::sync::oneshot::channel();
    let bytes = parts.iter().map(|part| part.body.len()).sum();
    queue.push(Waiting { parts, bytes, done })?;
    match tokio::time::timeout(settings.patience, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(AppendError::Closed),
        Err(_) => Err(AppendError::Unavailable(format!(
            "no commit within {:?}",
            settings.patience
        ))),
    }
}
