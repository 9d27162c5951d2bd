//! Deliveries that failed, written into the rows of their partitions for whoever asks the view.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::super::FailedDelivery;
use super::assignment::Held;
use super::core::Core;
use super::link::Fault;
use super::members::{Key, SOON};

const FAILED: &str = "UPDATE {s}.positions p SET attempts = f.attempts, failed_from = f.first, failed_to = f.last, \
    next_attempt_at = clock_timestamp() + f.again * interval '1 millisecond', last_error = f.error \
    FROM unnest($1::text[], $2::integer[], $3::uuid[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[]) \
    AS f (route, partition, claim, attempts, first, last, again, error) \
    WHERE p.route = f.route AND p.partition = f.partition AND p.claim = f.claim AND coalesce(p.position, 0) < f.last";

/// The newest of each partition that is not written yet.
#[derive(Default)]
pub(super) struct Failures {
    waiting: Mutex<BTreeMap<Key, (Uuid, FailedDelivery)>>,
    added: Notify,
}

impl Failures {
    /// A delivery failed: written soon.
    pub(super) fn add(&self, held: &Held, failure: FailedDelivery) {
        self.waiting
            .lock()
            .insert(held.key(), (held.claim(), failure));
        self.added.notify_one();
    }
}

/// Writes what failed, not more often than it makes sense to look.
pub(super) async fn keep(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.failures().added.notified() => {}
            () = core.closed().cancelled() => return,
        }
        let failed = core.failures().waiting.lock().clone();
        match write(&core, &failed).await {
            // What failed again meanwhile is yet to be written.
            Ok(()) => {
                let mut waiting = core.failures().waiting.lock();
                waiting.retain(|key, now| failed.get(key) != Some(&*now));
            }
            Err(fault) => {
                tracing::debug!(reason = fault.words(), "what failed cannot be written");
                core.failures().added.notify_one();
            }
        }
        tokio::time::sleep(SOON).await;
    }
}

async fn write(core: &Core, failed: &BTreeMap<Key, (Uuid, FailedDelivery)>) -> Result<(), Fault> {
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
