//! What became of every event that a route has passed: the numbers behind `/ledger` and `/receipts`.

use serde::{Deserialize, Serialize};

/// What became of the events that a route has passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// The sink has them.
    pub delivered: u64,
    /// The route's filter or a processor left them out.
    pub filtered: u64,
    /// They are dead letters.
    pub dead: u64,
    /// The journal had removed them, or could not read them any more, before the route came to them.
    pub expired: u64,
}

impl Books {
    /// Events passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.delivered + self.filtered + self.dead + self.expired
    }

    /// Adds what became of others.
    pub fn add(&mut self, more: Self) {
        self.delivered += more.delivered;
        self.filtered += more.filtered;
        self.dead += more.dead;
        self.expired += more.expired;
    }
}
