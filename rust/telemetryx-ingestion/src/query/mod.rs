//! What can be asked: `/stats`, `/events`, `/receipts`, `/ledger`, `/status`, `/health`.
//!
//! | file | endpoint |
//! | --- | --- |
//! | `events.rs` | `/events`, and [`EventStore`], which a sink implements to answer it |
//! | `stats.rs` | `/stats`, `/stats/{source_id}`, `/stats/rates`, and [`CounterStore`], which a sink implements to answer them |
//! | `receipt.rs` | `/receipts/{receipt}`, and what a receipt is |
//! | `ledger.rs` | `/ledger` |
//! | `progress.rs` | how far routes are, for all of them |
//! | `status.rs` | `/status`, `/health` |
//! | `admin.rs` | replay and dead letters |
//!
//! Each answers with a value or a [`Refusal`](crate::intake::Refusal); `ingress::questions` turns either into bytes.

use std::collections::HashMap;

pub mod admin;
mod events;
mod ledger;
mod progress;
mod receipt;
mod stats;
mod status;

use std::sync::Arc;
use std::time::Instant;

use telemetryx_common::Timestamp;

use crate::admission::AdminGate;
use crate::config::Role;
use crate::control::Control;
use crate::intake::Intake;
use crate::journal::Journal;
use crate::observe::{CertificateStates, DoorBooks, Metrics};
use crate::route::RouteHandle;

pub use events::{Cursor, EventPage, EventQuery, EventStore, StoreError, events};
pub use ledger::ledger;
pub use receipt::{Receipt, receipt};
pub use stats::{CountedBy, CounterStore, rates, source, totals};
pub use status::{health, metrics, status};

/// What questions are answered from; made once by `service`.
pub struct Query {
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// All routes, in the order of the config.
    pub routes: Vec<RouteHandle>,
    /// What the door turned away.
    pub door: Arc<DoorBooks>,
    /// Dead letters and replays.
    pub control: Control,
    /// Answers `/stats`, if a route does.
    pub counters: Option<CountedBy>,
    /// Answers `/events`, if a route does.
    pub store: Option<Arc<dyn EventStore>>,
    /// What this process does.
    pub roles: Vec<Role>,
    /// Who may see stored events.
    pub admin: AdminGate,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What became of the certificates' files.
    pub certificates: Arc<CertificateStates>,
    /// For the memory in use.
    pub intake: Arc<Intake>,
    /// When the service started.
    pub started: (Instant, Timestamp),
}

impl Query {
    /// Sees anew what other processes may have changed; if that cannot be seen, answers are as old as it was seen last.
    async fn refresh(&self) {
        if let Err(error) = self.journal.refresh().await {
            tracing::debug!(%error, "the journal cannot be seen anew");
        }
    }

    /// How many events were accepted since the journal was made.
    fn accepted(&self) -> u64 {
        let waiting = self.journal.waiting();
        let extents = self.journal.extents();
        extents.iter().map(|extent| extent.end).sum::<u64>() + waiting
    }
}

/// The parameters of a query string; a parameter given twice counts once, the last.
#[must_use]
pub fn parameters(query: Option<&str>) -> HashMap<String, String> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .into_owned()
        .collect()
}
