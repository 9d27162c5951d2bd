//! One budget of bytes for all requests under way: bodies, what they unpack to, and what they are encoded to.
//!
//! Nobody waits for it: a request that does not fit is told to come back (429), so the process stays within its memory
//! under any load, and no request can hold bytes while it waits for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The budget; a cheap clone.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit,
                used: AtomicUsize::new(0),
            }),
        }
    }

    /// A permit for `bytes`, or `None` if they are not to be had now.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<MemoryPermit> {
        let mut permit = MemoryPermit {
            budget: self.clone(),
            bytes: 0,
        };
        permit.grow(bytes).is_ok().then_some(permit)
    }

    /// Bytes taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }
}

/// There is no memory for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Others hold what is missing: another time it may be there.
    Spent,
    /// It would never be there.
    TooMuch {
        /// Bytes that one permit would be for.
        needed: usize,
        /// Bytes of the whole budget.
        limit: usize,
    },
}

/// Bytes taken from the budget; given back when dropped.
#[derive(Debug)]
pub struct MemoryPermit {
    budget: MemoryBudget,
    bytes: usize,
}

impl MemoryPermit {
    /// Takes `more` bytes as well.
    ///
    /// # Errors
    /// [`Shortage`]: nothing was taken.
    pub fn grow(&mut self, more: usize) -> Result<(), Shortage> {
        let shared = &self.budget.shared;
        let taken = shared
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|sum| *sum <= shared.limit)
            });
        if taken.is_ok() {
            self.bytes += more;
            return Ok(());
        }
        Err(if self.would_exceed_budget(more) {
            Shortage::TooMuch {
                needed: self.bytes.saturating_add(more),
                limit: shared.limit,
            }
        } else {
            Shortage::Spent
        })
    }

    /// True if this permit and `more` together are over the whole budget.
    #[must_use]
    pub fn would_exceed_budget(&self, more: usize) -> bool {
        self.bytes.saturating_add(more) > self.budget.shared.limit
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.budget
            .shared
            .used
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_over_the_limit_is_refused_and_takes_nothing() {
        let budget = MemoryBudget::new(100);
        let first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none());
        assert_eq!(budget.used(), 60);
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.take(100).is_some());
    }

    #[test]
    fn a_permit_grows_within_the_limit_and_gives_all_back() {
        let budget = MemoryBudget::new(100);
        let mut permit = budget.take(10).unwrap();
        assert_eq!(permit.grow(90), Ok(()));
        for (more, needed) in [(1, 101), (usize::MAX, usize::MAX)] {
            let too_much = Shortage::TooMuch { needed, limit: 100 };
            assert_eq!(permit.grow(more), Err(too_much));
        }
        assert_eq!(budget.used(), 100);
        let mut other = budget.take(0).unwrap();
        assert_eq!(other.grow(100), Err(Shortage::Spent));
        drop(permit);
        assert_eq!(budget.used(), 0);
    }
}
