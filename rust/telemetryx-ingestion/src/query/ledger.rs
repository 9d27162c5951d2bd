//! `GET /ledger`: the books. For every route accepted = delivered + filtered + dead + pending + expired.

use serde_json::{Map, Value, json};

use super::Query;

/// The books at one moment.
#[must_use]
pub fn ledger(of: &Query) -> Value {
    // The routes' positions are read before the end of the journal: no route is ahead of it.
    let routes: Vec<_> = of
        .routes
        .iter()
        .map(|route| (route.name(), route.status()))
        .collect();
    let accepted = of.journal.end();
    let routes: Map<_, _> = routes
        .into_iter()
        .map(|(name, status)| {
            let books = status.books;
            let pending = accepted - status.position;
            let difference =
                i128::from(accepted) - i128::from(books.passed()) - i128::from(pending);
            let entry = json!({
                "delivered": books.delivered,
                "filtered": books.filtered,
                "dead": books.dead,
                "pending": pending,
                "expired": books.expired,
                "difference": i64::try_from(difference).unwrap_or(i64::MAX),
            });
            (name.to_owned(), entry)
        })
        .collect();
    json!({
        "accepted": accepted,
        "door": of.door.totals(),
        "routes": routes,
        "since": of.since.to_string(),
    })
}
