//! The real service with its turns taken by hand, and time moved by hand: nothing runs unless the test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{AppendError, OpenError};
use crate::journal::Journal;
use crate::offset::Position;
use crate::options::JournalOptions;
use crate::record::Record;
use crate::service::{Service, Waiter};
use crate::storage::Storage;

/// A clock that moves when told to. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    nanoseconds: Arc<AtomicU64>,
}

impl SimClock {
    /// A clock that stands at zero.
    #[must_use]
    pub fn new() -> SimClock {
        SimClock::default()
    }

    /// Moves time on.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall_ns(&self) -> i64 {
        self.nanoseconds.load(Ordering::Relaxed) as i64
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }
}

/// A journal without a thread: appends wait until [`turn`](Self::turn).
pub struct SteppedJournal {
    /// For everything but appends (which would wait for a turn forever).
    pub journal: Journal,
    service: Service,
}

/// An append that waits for a turn.
pub struct SteppedAppend(Waiter);

impl SteppedJournal {
    /// Opens a journal, recovery included.
    pub fn open(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        options: JournalOptions,
    ) -> Result<SteppedJournal, OpenError> {
        let (journal, service) = Journal::prepare(storage, clock, options)?;
        Ok(SteppedJournal { journal, service })
    }

    /// Queues a record.
    pub fn append(&self, record: Record) -> Result<SteppedAppend, AppendError> {
        self.service.queue().push(record).map(SteppedAppend)
    }

    /// Commits what waits and does what is due, as the thread would.
    pub fn turn(&mut self) {
        self.service.turn();
    }

    /// Closes the journal as [`Journal::close`] does.
    pub fn close(mut self) -> Result<(), AppendError> {
        self.service.queue().close();
        self.service.turn();
        self.service.outcome()
    }
}

impl SteppedAppend {
    /// What became of it; `None` before the turn.
    pub fn answer(&mut self) -> Option<Result<Position, AppendError>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => None,
            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => {
                Some(Err(AppendError::Closed))
            }
        }
    }
}
