//! The pieces of the queue: a new one when the newest is large or old enough, the oldest dropped when nobody needs it.
//!
//! Each of that is a short transaction of its own that gives up rather than make others wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::link::{Fault, Link};
use super::table;

/// How often to look whether something is to be done; what is known already decides.
const EVERY: Duration = Duration::from_secs(1);
/// Where age counts, a piece is not older than this, if there is anything in it.
const PIECE_AGE_MAX: Duration = Duration::from_secs(3600);
/// Others may be first, and locks be taken, for a while: what lasts longer is a fault.
const FAULT_AFTER: Duration = Duration::from_secs(60);
/// Names and members that are gone are forgotten this often.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// Others wait behind who waits for a lock: for one of a piece that is dropped they need not, for the one of an append that
/// commits slowly they must.
const SETUP: &str = "SET lock_timeout = '200ms'; SET jit = off";
const SETUP_OF_MAKING: &str = "SET lock_timeout = '2s'; SET jit = off";

const MAKE: &str = "SELECT {s}.make_piece($1)";
const DROP: &str = "SELECT {s}.drop_piece($1)";
/// The newest piece is there in the books only.
const REPLACE: &str = "SELECT {s}.make_piece(max(piece) + 1) FROM {s}.pieces \
    HAVING to_regclass(format('%I.queue_%s', {channel}, max(piece))) IS NULL";
const FORGET: &str =
    "DELETE FROM {s}.members WHERE lease_until < clock_timestamp() - interval '1 hour'";

/// Keeps the pieces for as long as the journal is open.
pub(super) async fn keep(core: Arc<Core>) {
    let links = Links {
        making: Link::new(core.opener().clone(), SETUP_OF_MAKING),
        dropping: Link::new(core.opener().clone(), SETUP),
    };
    let (mut tidied, mut well) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = core.closed().cancelled() => return,
        }
        if !core.is_ready() || core.seen().problem().is_some() {
            well = Instant::now();
            continue;
        }
        let mut kept = keep_once(&core, &links).await;
        if tidied.elapsed() > TIDY_EVERY {
            tidied = Instant::now();
            kept = kept.and(table::tidy(&core).await);
            kept = kept.and(core.books().rows(FORGET, &[]).await.map(|_| ()));
        }
        match kept {
            Ok(()) => {
                well = Instant::now();
                core.seen().set_keeping_fault(None);
            }
            Err(fault) if well.elapsed() > FAULT_AFTER => {
                core.seen().set_keeping_fault(Some(fault.words()));
            }
            Err(fault) => tracing::debug!(
                reason = fault.words(),
                "the pieces of the queue are not kept; it is tried again"
            ),
        }
    }
}

/// Begins another piece if somebody dropped the table of the one that is written.
pub(super) async fn replace_dropped(link: &Link) {
    match link.rows(REPLACE, &[]).await {
        Ok(made) if made.is_empty() => {}
        Ok(_) => tracing::error!(
            "somebody dropped the piece of the queue that is written: what was in it is gone, what comes is in another one"
        ),
        Err(fault) => tracing::warn!(
            reason = fault.words(),
            "a piece that is missing cannot be replaced"
        ),
    }
}

struct Links {
    making: Link,
    dropping: Link,
}

async fn keep_once(core: &Core, links: &Links) -> Result<(), Fault> {
    let (settings, seen) = (core.settings(), core.seen());
    let pieces = seen.pieces();
    let Some(newest) = pieces.last() else {
        return Ok(());
    };
    let bytes = seen.bytes_since(newest);
    let is_old = settings
        .retain_age
        .is_some_and(|age| newest.made.elapsed() > PIECE_AGE_MAX.min(age / 4));
    if bytes >= settings.piece_bytes || (bytes > 0 && is_old) {
        links.making.rows(MAKE, &[&(newest.number + 1)]).await?;
        core.look_again();
    }
    // What every route has passed, oldest first, as long as there is too much or it is too old.
    for pair in pieces.windows(2) {
        let [oldest, next] = pair else { break };
        let is_too_much = seen.bytes_since(oldest) > settings.retain_bytes;
        let is_too_old = settings
            .retain_age
            .is_some_and(|most| next.made.elapsed() > most);
        if !is_too_much && !is_too_old {
            break;
        }
        let dropped = links.dropping.rows(DROP, &[&oldest.number]).await?;
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
