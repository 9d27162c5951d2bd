//! The pieces of the queue: a new one when the newest is large or old enough, the oldest dropped when nobody needs it.
//!
//! Each of that is a short transaction of its own that gives up rather than make others wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use telemetryx_common::Timestamp;

use super::core::Core;
use super::link::{Fault, Link};
use super::table;
use crate::clock;

/// How often to look whether something is to be done; what is known already decides.
const EVERY: Duration = Duration::from_secs(1);
/// A piece is not older than this, if there is anything in it.
const PIECE_AGE_MAX: Duration = Duration::from_secs(3600);
/// Names and members that are gone are forgotten this often.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// Others wait behind who waits for a lock.
const SETUP: &str = "SET lock_timeout = '200ms'; SET jit = off";

const MAKE: &str = "SELECT {s}.make_piece($1)";
const DROP: &str = "SELECT {s}.drop_piece($1)";
const FORGET: &str =
    "DELETE FROM {s}.members WHERE lease_until < clock_timestamp() - interval '1 hour'";

/// Keeps the pieces for as long as the journal is open.
pub(super) async fn keep(core: &Core) {
    let link = Link::new(Arc::clone(core.settings()), SETUP);
    let mut tidied = Instant::now();
    let mut said = String::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = core.closed().cancelled() => return,
        }
        if !core.is_ready() {
            continue;
        }
        let mut kept = keep_once(core, &link).await;
        if tidied.elapsed() > TIDY_EVERY {
            tidied = Instant::now();
            kept = kept.and(table::tidy(core).await);
            kept = kept.and(core.books().rows(FORGET, &[]).await.map(|_| ()));
        }
        let words = kept
            .err()
            .map_or_else(String::new, |fault| fault.words().to_owned());
        if !words.is_empty() && words != said {
            // Another process may have done it first, and a lock may have been taken.
            tracing::debug!(
                reason = words,
                "the pieces of the queue are not kept; it is tried again"
            );
        }
        said = words;
    }
}

async fn keep_once(core: &Core, link: &Link) -> Result<(), Fault> {
    let (settings, seen) = (core.settings(), core.seen());
    let pieces = seen.pieces();
    let Some(newest) = pieces.last() else {
        return Ok(());
    };
    let bytes = seen.bytes_since(newest);
    let age_max = settings
        .retain_age
        .map_or(PIECE_AGE_MAX, |age| PIECE_AGE_MAX.min(age / 4));
    if bytes >= settings.piece_bytes || (bytes > 0 && age(newest.made_at) > age_max) {
        link.rows(MAKE, &[&(newest.number + 1)]).await?;
        core.look_again();
    }
    // What every route has passed, oldest first, as long as there is too much or it is too old.
    for pair in pieces.windows(2) {
        let [oldest, next] = pair else { break };
        let is_too_much = seen.bytes_since(oldest) > settings.retain_bytes;
        let is_too_old = settings
            .retain_age
            .is_some_and(|most| age(next.made_at) > most);
        if !is_too_much && !is_too_old {
            break;
        }
        let dropped = link.rows(DROP, &[&oldest.number]).await?;
        if !dropped.first().is_some_and(|row| row.get(0)) {
            break;
        }
        tracing::info!(
            piece = oldest.number,
            "a piece of the queue was dropped: every route has passed it"
        );
        core.refresh().await.ok();
    }
    Ok(())
}

fn age(time: Timestamp) -> Duration {
    let nanos = clock::now().unix_nanos().saturating_sub(time.unix_nanos());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}
