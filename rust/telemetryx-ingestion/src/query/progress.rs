//! How far routes are, in all partitions, whichever process reads them.

use super::Query;
use crate::journal::Extent;
use crate::route::{Books, Progress, RouteHandle, saved_progress};

/// How far a route is in one partition.
pub(super) struct PartitionProgress {
    pub(super) extent: Extent,
    pub(super) progress: Progress,
    /// True if this process reads it.
    pub(super) is_read_here: bool,
}

impl PartitionProgress {
    /// Events that the route has not passed.
    pub(super) fn pending(&self) -> u64 {
        self.extent.end.saturating_sub(self.progress.position)
    }
}

/// All partitions of one route together.
#[derive(Default)]
pub(super) struct Total {
    /// What was carried over included.
    pub(super) accepted: u64,
    /// Events of the journal that this one took over from, which this one never had.
    pub(super) carried: u64,
    pub(super) position: u64,
    pub(super) pending: u64,
    pub(super) books: Books,
}

impl Total {
    /// Of a route in these partitions, with so many events before it that are in none yet.
    pub(super) fn of(partitions: &[PartitionProgress], waiting: u64) -> Self {
        let mut total = Self {
            accepted: waiting,
            pending: waiting,
            ..Self::default()
        };
        for it in partitions {
            total.accepted += it.extent.end + it.progress.carried;
            total.carried += it.progress.carried;
            total.position += it.progress.position;
            total.pending += it.pending();
            total.books.add(it.progress.books);
        }
        total
    }

    /// The same with as much carried over as other routes have: a route that came later has missed what it has not.
    pub(super) fn with_carried(mut self, carried: u64) -> Self {
        let missed = carried.saturating_sub(self.carried);
        self.accepted += missed;
        self.carried += missed;
        self.books.expired += missed;
        self
    }

    /// What the books are off by; 0, always.
    pub(super) fn difference(&self) -> i64 {
        let booked = i128::from(self.books.passed()) + i128::from(self.pending);
        i64::try_from(i128::from(self.accepted) - booked).unwrap_or(i64::MAX)
    }
}

/// How far `route` is in each partition: as it says itself where this process reads it, else as the journal has seen it
/// commit.
pub(super) fn of_route(of: &Query, route: &RouteHandle) -> Vec<PartitionProgress> {
    // Positions are read before the ends: no route is ahead of the journal.
    let own = route.status().progress;
    let commits = of.journal.commits(route.name());
    let extents = of.journal.extents().into_iter();
    let progress = extents.map(|mut extent| {
        let partition = extent.partition;
        let own = own.get(&partition).copied();
        let committed = || commits.iter().find(|it| it.partition == partition);
        let progress = own.unwrap_or_else(|| match committed() {
            Some(committed) => saved_progress(committed.position, &committed.state),
            // It begins at the oldest that is held: those before have expired for it.
            None => Progress {
                position: extent.start,
                books: Books {
                    expired: extent.start,
                    ..Books::default()
                },
                carried: 0,
            },
        });
        // What was seen of the journal may be older.
        extent.end = extent.end.max(progress.position);
        PartitionProgress {
            extent,
            progress,
            is_read_here: own.is_some(),
        }
    });
    progress.collect()
}
