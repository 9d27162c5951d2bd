//! `GET /ledger`: the books. For every route accepted = delivered + filtered + dead + pending + expired.

use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::{Query, progress};

/// The books at one moment.
#[must_use]
pub fn ledger(of: &Query) -> Value {
    Handle::current().block_on(of.refresh());
    let totals = of.routes.iter().map(|route| {
        // Counted before the partitions: an event that is handed over meanwhile is counted in both, never in neither.
        let waiting = of.journal.waiting();
        let total = progress::Total::of(&progress::of_route(of, route), waiting);
        (route.name().to_owned(), total)
    });
    let totals: Vec<_> = totals.collect();
    let carried = totals.iter().map(|(_, total)| total.carried).max();
    let carried = carried.unwrap_or_default();
    let routes = totals.into_iter().map(|(name, total)| {
        let total = total.with_carried(carried);
        let entry = json!({
            "delivered": total.books.delivered,
            "filtered": total.books.filtered,
            "dead": total.books.dead,
            "pending": total.pending,
            "expired": total.books.expired,
            "difference": total.difference(),
        });
        (name, (total.accepted, entry))
    });
    let routes: Vec<_> = routes.collect();
    // All routes are shown beside one number: what came between looking at two of them is pending.
    let seen = routes.iter().map(|(_, (seen, _))| *seen);
    let accepted = seen.fold(of.accepted() + carried, u64::max);
    let routes: Map<_, _> = routes
        .into_iter()
        .map(|(name, (seen, mut entry))| {
            let pending = entry["pending"].as_u64().unwrap_or_default();
            entry["pending"] = (pending + accepted.saturating_sub(seen)).into();
            (name, entry)
        })
        .collect();
    // Those of other processes are as old as they last saved them.
    let elsewhere = of.control.doors_elsewhere().unwrap_or_default();
    let door = of.door.totals().plus(elsewhere.totals());
    let since = of.control.since().unwrap_or(of.started.1);
    json!({
        "accepted": accepted,
        "door": door,
        "routes": routes,
        "since": since.to_string(),
    })
}
