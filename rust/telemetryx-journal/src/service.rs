//! The shell around the writer: a bounded queue in front, a thread that drains it, waiters released behind.
//!
//! A turn takes everything that waits (up to a bound), commits it as one group and answers everyone. There is no timer and no
//! waiting for a group to fill: while one group is being synced the next one gathers by itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::error::AppendError;
use crate::offset::Position;
use crate::record::Record;
use crate::shared::Shared;
use crate::status::Health;
use crate::writer::{Core, Outcome, Pending};

/// What appends go through.
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    max_pending_bytes: usize,
    max_record_bytes: usize,
}

#[derive(Default)]
struct QueueState {
    waiting: Vec<Pending>,
    /// Bytes not yet answered, those being written included.
    bytes: usize,
    ending: Option<Ending>,
    /// The thread waits on `changed`.
    asleep: bool,
}

/// How the journal ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Every handle was dropped: finish what waits and leave.
    Dropped,
    /// As above, then seal.
    Closed,
}

pub(crate) type Waiter = oneshot::Receiver<Result<Position, AppendError>>;

impl Queue {
    pub(crate) fn new(max_pending_bytes: usize, max_record_bytes: usize) -> Queue {
        Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
            max_pending_bytes,
            max_record_bytes,
        }
    }

    /// Puts a record into the queue; the waiter hears what became of it.
    pub(crate) fn push(&self, record: Record) -> Result<Waiter, AppendError> {
        if record.events == 0 {
            return Err(AppendError::NoEvents);
        }
        if record.body.len() > self.max_record_bytes {
            return Err(AppendError::TooLarge {
                bytes: record.body.len(),
                limit: self.max_record_bytes,
            });
        }
        let (waiter, receiver) = oneshot::channel();
        let pending = Pending {
            body_crc: crc32c::crc32c(&record.body),
            record,
            waiter,
        };
        let mut state = self.state.lock();
        if state.ending.is_some() {
            return Err(AppendError::Closed);
        }
        // A record larger than the bound itself may go alone.
        if state.bytes > 0 && state.bytes + pending.stored_len() > self.max_pending_bytes {
            return Err(AppendError::Full {
                pending: state.bytes,
                limit: self.max_pending_bytes,
            });
        }
        state.bytes += pending.stored_len();
        state.waiting.push(pending);
        let wake = std::mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
        Ok(receiver)
    }

    pub(crate) fn close(&self) {
        self.end(Ending::Closed);
    }

    pub(crate) fn abandon(&self) {
        self.end(Ending::Dropped);
    }

    fn end(&self, ending: Ending) {
        let mut state = self.state.lock();
        state.ending.get_or_insert(ending);
        state.asleep = false;
        drop(state);
        self.changed.notify_one();
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

/// Drives the writer. Owned by the thread, or by a test that takes the turns itself.
pub(crate) struct Service {
    core: Core,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    /// Swapped with the queue, so that both vectors are used again and again.
    taken: Vec<Pending>,
    outcome: Result<(), AppendError>,
}

impl Service {
    pub(crate) fn new(core: Core, queue: Arc<Queue>, shared: Arc<Shared>) -> Service {
        Service {
            core,
            queue,
            shared,
            taken: Vec::new(),
            outcome: Ok(()),
        }
    }

    /// Takes what waits and commits it, then does what is due by time. `false` once the journal has ended.
    pub(crate) fn turn(&mut self) -> bool {
        let ending = {
            let mut state = self.queue.state.lock();
            std::mem::swap(&mut state.waiting, &mut self.taken);
            state.ending
        };
        self.commit_taken();
        self.core.tick();
        // What came in between reading `ending` and now cannot be: the queue refuses appends once it is ending.
        match ending {
            None => true,
            Some(ending) => {
                self.finish(ending);
                false
            }
        }
    }

    fn commit_taken(&mut self) {
        while !self.taken.is_empty() {
            let outcome = self.core.commit_group(&self.taken);
            let answered = match outcome.error {
                None => outcome.committed,
                Some(_) => self.taken.len(),
            };
            let bytes: usize = self
                .taken
                .iter()
                .take(answered)
                .map(Pending::stored_len)
                .sum();
            self.queue.state.lock().bytes -= bytes;
            release(self.taken.drain(..answered), outcome);
        }
    }

    fn finish(&mut self, ending: Ending) {
        self.outcome = match ending {
            Ending::Closed => self.core.close(),
            // As after a crash, but what was acknowledged may as well be synced.
            Ending::Dropped => self.core.sync(),
        };
        self.shared.end.close();
    }

    pub(crate) fn outcome(&self) -> Result<(), AppendError> {
        self.outcome.clone()
    }

    #[cfg(any(test, feature = "sim", fuzzing))]
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Sleeps until something waits, something is due, or the journal ends.
    fn wait(&self) {
        let due = self.core.next_tick();
        let mut state = self.queue.state.lock();
        if !state.waiting.is_empty() || state.ending.is_some() {
            return;
        }
        state.asleep = true;
        match due {
            None => self.queue.changed.wait(&mut state),
            Some(due) => {
                let pause = due
                    .saturating_sub(self.shared.clock.monotonic())
                    .max(Duration::from_millis(1));
                self.queue.changed.wait_for(&mut state, pause);
            }
        }
        state.asleep = false;
    }
}

impl Drop for Service {
    /// However the thread ends, by a panic too: nobody is left waiting.
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        let expected = state.ending.is_some();
        state.ending.get_or_insert(Ending::Dropped);
        state.waiting.clear();
        drop(state);
        if !expected {
            *self.shared.health.lock() = Health::Unhealthy {
                since: self.shared.clock.wall_ns(),
                reason: "the writer thread ended by a fault of its own".into(),
            };
        }
        if !self.shared.end.is_closed() {
            self.shared.end.close();
        }
    }
}

/// Answers everyone in a group.
fn release(group: impl Iterator<Item = Pending>, outcome: Outcome) {
    let mut next = outcome.first;
    for (number, pending) in group.enumerate() {
        let answer = if number < outcome.committed {
            let position = Position {
                first: next,
                events: pending.record.events,
            };
            next = position.end();
            Ok(position)
        } else {
            Err(outcome.error.clone().unwrap_or(AppendError::Closed))
        };
        // Nobody may be waiting any more; the record is stored all the same.
        pending.waiter.send(answer).ok();
    }
}

/// Gives the service a thread of its own.
pub(crate) fn spawn(
    mut service: Service,
) -> io::Result<std::thread::JoinHandle<Result<(), AppendError>>> {
    std::thread::Builder::new()
        .name("journal-writer".to_owned())
        .spawn(move || {
            while service.turn() {
                service.wait();
            }
            service.outcome()
        })
}
