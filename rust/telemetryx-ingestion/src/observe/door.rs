//! What was turned away at the door, for `/ledger`. Saved once a second and at shutdown: unlike the books of routes,
//! which are exact, a kill can lose the last second of these.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::shed::{ShedBooks, ShedTally};

/// One count that only grows.
#[derive(Debug, Default)]
pub struct DoorCount(AtomicU64);

impl DoorCount {
    /// Counts `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one door.
#[derive(Debug, Default)]
pub struct DoorBooks {
    /// Events that were invalid.
    pub refused: DoorCount,
    /// Requests over a rate limit, whose events were not read; and single events over the limit of their source.
    pub rate_limited: DoorCount,
    /// Requests for which there was no room; their events were not read or not kept.
    pub overloaded: DoorCount,
    /// Events that the overflow policy answered 202 and dropped.
    pub shed: DoorCount,
    /// Whose they were.
    pub shed_by: ShedBooks,
    /// Deliveries to webhooks without a right signature; nothing of them was kept.
    pub unsigned: DoorCount,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DoorTotals {
    refused: u64,
    rate_limited: u64,
    overloaded: u64,
    shed: u64,
    unsigned: u64,
}

impl DoorTotals {
    fn zip(self, other: Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            refused: both(self.refused, other.refused),
            rate_limited: both(self.rate_limited, other.rate_limited),
            overloaded: both(self.overloaded, other.overloaded),
            shed: both(self.shed, other.shed),
            unsigned: both(self.unsigned, other.unsigned),
        }
    }

    /// The counts of two doors.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }
}

/// What is saved of a door's books.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorSaved {
    #[serde(flatten)]
    totals: DoorTotals,
    #[serde(default)]
    shed_by: ShedTally,
}

impl DoorSaved {
    /// The counts.
    #[must_use]
    pub fn totals(&self) -> DoorTotals {
        self.totals
    }

    /// The books of two doors.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            totals: self.totals.plus(other.totals),
            shed_by: self.shed_by.plus(other.shed_by),
        }
    }

    /// What came on top of `before`.
    #[must_use]
    pub fn minus(self, before: &Self) -> Self {
        Self {
            totals: self.totals.zip(before.totals, u64::saturating_sub),
            shed_by: self.shed_by.minus(&before.shed_by),
        }
    }
}

impl DoorBooks {
    /// Goes on counting from what was saved.
    #[must_use]
    pub fn from_saved(saved: DoorSaved) -> Self {
        let DoorSaved { totals, shed_by } = saved;
        let books = Self {
            shed_by: ShedBooks::from_tally(shed_by),
            ..Self::default()
        };
        books.refused.add(totals.refused);
        books.rate_limited.add(totals.rate_limited);
        books.overloaded.add(totals.overloaded);
        books.shed.add(totals.shed);
        books.unsigned.add(totals.unsigned);
        books
    }

    /// The counts now.
    #[must_use]
    pub fn totals(&self) -> DoorTotals {
        DoorTotals {
            refused: self.refused.get(),
            rate_limited: self.rate_limited.get(),
            overloaded: self.overloaded.get(),
            shed: self.shed.get(),
            unsigned: self.unsigned.get(),
        }
    }

    /// What is to be saved.
    #[must_use]
    pub fn saved(&self) -> DoorSaved {
        DoorSaved {
            totals: self.totals(),
            shed_by: self.shed_by.tally(),
        }
    }
}
