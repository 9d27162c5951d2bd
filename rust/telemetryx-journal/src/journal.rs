//! [`Journal`]: the handle that everyone clones. It hides the queue and the writer thread.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};
use crate::cursor::{self, Cursor};
use crate::error::{AppendError, Closed, CursorError, OpenError, ReadError};
use crate::offset::{Offset, Position};
use crate::options::JournalOptions;
use crate::reader::{Reader, Source};
use crate::record::{Entry, Record};
use crate::recovery;
use crate::service::{Queue, Service, Waiter, spawn};
use crate::shared::Shared;
use crate::status::{Backlog, JournalStatus, RecoveryReport};
use crate::storage::{DiskStorage, LockError, Storage, StorageLock};
use crate::writer::Core;

/// A durable journal in a directory. Clones are cheap and stand for the same journal.
///
/// Dropping the last clone without [`close`](Self::close) finishes what waits and is otherwise like a crash: nothing acknowledged
/// is lost.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    recovery: RecoveryReport,
    id: u128,
    thread: Mutex<Option<JoinHandle<Result<(), AppendError>>>>,
    /// Given back when the thread has ended.
    lock: Mutex<Option<Box<dyn StorageLock>>>,
}

/// The answer to an append that is under way; see [`Journal::append`].
#[must_use = "the record is durable only once this has resolved"]
pub struct Append {
    state: AppendState,
}

enum AppendState {
    Waiting(Waiter),
    Refused(Option<AppendError>),
}

impl Journal {
    /// Opens the journal in a directory, or begins one. Recovery runs before this returns; see [`recovery`](Self::recovery).
    pub fn open(dir: &Path, options: JournalOptions) -> Result<Journal, OpenError> {
        let storage = DiskStorage::create(dir)
            .map_err(OpenError::io(format!("creating {}", dir.display())))?;
        Journal::open_with(Arc::new(storage), Arc::new(SystemClock::new()), options)
    }

    /// The same on any storage and clock.
    pub fn open_with(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        options: JournalOptions,
    ) -> Result<Journal, OpenError> {
        let (journal, service) = Journal::prepare(storage, clock, options)?;
        let thread = spawn(service).map_err(OpenError::io("starting the writer thread"))?;
        *journal.handle.thread.lock() = Some(thread);
        Ok(journal)
    }

    /// Everything but the thread.
    pub(crate) fn prepare(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        options: JournalOptions,
    ) -> Result<(Journal, Service), OpenError> {
        check(&options)?;
        let lock = storage.lock().map_err(|error| match error {
            LockError::Held(pid) => OpenError::Locked { pid },
            LockError::Io(source) => OpenError::io("taking the lock")(source),
        })?;
        let shared = Arc::new(Shared::new(storage, clock, options.cursor_bytes));
        let recovered = recovery::recover(&shared)?;
        tracing::info!(recovery = %recovered.report, "journal opened");
        let queue = Arc::new(Queue::new(
            options.max_pending_bytes,
            options.max_record_bytes,
        ));
        let id = recovered.journal;
        let core = Core::new(
            Arc::clone(&shared),
            options,
            recovered.journal,
            recovered.last_appended_at,
        );
        let service = Service::new(core, Arc::clone(&queue), Arc::clone(&shared));
        let handle = Handle {
            shared,
            queue,
            recovery: recovered.report,
            id,
            thread: Mutex::new(None),
            lock: Mutex::new(Some(lock)),
        };
        let journal = Journal {
            handle: Arc::new(handle),
        };
        Ok((journal, service))
    }

    /// This journal's name: made once, with its first segment, and in the header of each.
    #[must_use]
    pub fn id(&self) -> u128 {
        self.handle.id
    }

    /// What was found when the journal was opened.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.handle.recovery
    }

    /// Queues a record; the future resolves once it is durable, and only then (as [`FsyncPolicy`](crate::FsyncPolicy) says).
    ///
    /// The record is queued by the call itself, in the order of calls; the future only waits, on any executor. Dropping it does
    /// not take the record back.
    pub fn append(&self, record: Record) -> Append {
        let state = match self.handle.queue.push(record) {
            Ok(waiter) => AppendState::Waiting(waiter),
            Err(error) => AppendState::Refused(Some(error)),
        };
        Append { state }
    }

    /// The same for a thread that may block. Not from within an async runtime.
    pub fn append_blocking(&self, record: Record) -> Result<Position, AppendError> {
        let waiter = self.handle.queue.push(record)?;
        waiter.blocking_recv().unwrap_or(Err(AppendError::Closed))
    }

    /// The offset after the last durable event.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.handle.shared.end.get()
    }

    /// The oldest offset kept.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.handle.shared.start()
    }

    /// Waits until the durable end lies beyond `offset` and returns it. Woken by the writer; any number may wait.
    pub async fn wait_beyond(&self, offset: Offset) -> Result<Offset, Closed> {
        let mut changed = self.handle.shared.end.subscribe();
        let value = changed
            .wait_for(|(end, closed)| *end > offset || *closed)
            .await;
        match value {
            Ok(value) if value.0 > offset => Ok(value.0),
            _ => Err(Closed),
        }
    }

    /// The same for a thread that may block, for at most `timeout`: then the end is returned as it is.
    pub fn wait_beyond_blocking(
        &self,
        offset: Offset,
        timeout: Option<Duration>,
    ) -> Result<Offset, Closed> {
        let end = &self.handle.shared.end;
        end.block_until_beyond(
            offset,
            timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        );
        match end.get() {
            now if now <= offset && end.is_closed() => Err(Closed),
            now => Ok(now),
        }
    }

    /// A reader that begins at an offset up to the durable end.
    pub fn reader(&self, from: Offset) -> Result<Reader, ReadError> {
        Reader::new(Source::Live(Arc::clone(&self.handle.shared)), from)
    }

    /// Opens a cursor, or makes it at [`start`](Self::start). From now on it counts in [`backlog`](Self::backlog); retention
    /// respects every cursor on disk, opened or not.
    ///
    /// Blocks for reading two small files, and for a few syncs if the cursor is new.
    pub fn cursor(&self, name: &str) -> Result<Cursor, CursorError> {
        if self.handle.shared.end.is_closed() {
            return Err(CursorError::Closed {
                name: name.to_owned(),
            });
        }
        Cursor::open(&self.handle.shared, name)
    }

    /// Where the cursor of this name stands on disk, and what was saved with it, opened or not; `None` if there is none.
    ///
    /// Blocks for reading two small files.
    pub fn saved(&self, name: &str) -> Result<Option<(Offset, Vec<u8>)>, CursorError> {
        cursor::saved(&self.handle.shared, name)
    }

    /// The cursors on disk, by name, opened or not.
    #[must_use]
    pub fn cursor_names(&self) -> Vec<String> {
        self.handle.shared.cursors.names()
    }

    /// Removes a cursor, damaged or not, and its hold on retention and backlog. An open [`Cursor`] of this name is closed.
    pub fn forget_cursor(&self, name: &str) -> Result<(), CursorError> {
        cursor::forget(&self.handle.shared, name)
    }

    /// What the slowest cursor opened in this process has not passed; zero without cursors. A few atomic loads.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let shared = &self.handle.shared;
        match shared.cursors.slowest() {
            None => Backlog::default(),
            Some((position, bytes)) => Backlog {
                events: shared.end.get().since(position.max(shared.start())),
                bytes: shared.end.bytes().saturating_sub(bytes),
            },
        }
    }

    /// The state at this moment.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        let shared = &self.handle.shared;
        let (segments, bytes) = shared.segments.count_and_bytes();
        let (damage, damage_count, damaged_events) = shared.damage.snapshot();
        JournalStatus {
            health: shared.health.lock().clone(),
            start: shared.start(),
            end: shared.end.get(),
            segments,
            bytes,
            damage,
            damage_count,
            damaged_events,
            failures: shared.counters.failures.load(Ordering::Relaxed),
            groups: shared.counters.groups.load(Ordering::Relaxed),
            syncs: shared.counters.syncs.load(Ordering::Relaxed),
            pending_bytes: self.handle.queue.pending_bytes(),
            backlog: self.backlog(),
        }
    }

    /// The offset of the first record appended at or after a time (nanoseconds since the epoch, by the wall clock at the append);
    /// the durable end if there is none. Reads up to a MiB or a segment.
    pub fn offset_at(&self, time_ns: i64) -> Result<Offset, ReadError> {
        let shared = &self.handle.shared;
        let Some(segment) = shared.segments.created_before(time_ns) else {
            return Ok(self.durable_end());
        };
        let from = segment.nearest_before_time(time_ns).offset;
        let mut reader = self.reader(from.min(self.durable_end()))?;
        loop {
            let chunk = reader.next(1 << 20)?;
            if chunk.is_empty() {
                return Ok(reader.position());
            }
            for entry in chunk.entries {
                if let Entry::Record(record) = entry
                    && record.appended_at >= time_ns
                {
                    return Ok(record.first);
                }
            }
        }
    }

    /// Finishes what waits, syncs, marks the journal as cleanly closed, and gives the directory back. Appends fail from now on,
    /// readers go on. An error means that the mark is missing: the next open recovers as after a crash.
    pub async fn close(&self) -> Result<(), AppendError> {
        self.handle.queue.close();
        let mut changed = self.handle.shared.end.subscribe();
        // The sender lives as long as we do, so this ends with the journal.
        changed.wait_for(|(_, closed)| *closed).await.ok();
        self.handle.join()
    }

    /// The same for a thread that may block.
    pub fn close_blocking(&self) -> Result<(), AppendError> {
        self.handle.queue.close();
        self.handle.join()
    }
}

impl Handle {
    /// Waits for the thread, which has been told to end, and gives the lock back.
    fn join(&self) -> Result<(), AppendError> {
        let mut thread = self.thread.lock();
        let outcome = match thread.take() {
            None => Ok(()),
            // An observer that holds a journal may drop the last handle on the writer thread itself.
            Some(thread) if thread.thread().id() == std::thread::current().id() => Ok(()),
            Some(thread) => thread.join().unwrap_or(Err(AppendError::Closed)),
        };
        self.lock.lock().take();
        outcome
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.abandon();
        if let Err(error) = self.join() {
            tracing::warn!(%error, "the journal did not end well");
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("start", &self.start())
            .field("end", &self.durable_end())
            .finish_non_exhaustive()
    }
}

impl Future for Append {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            AppendState::Waiting(waiter) => {
                let answer = ready!(Pin::new(waiter).poll(context));
                Poll::Ready(answer.unwrap_or(Err(AppendError::Closed)))
            }
            AppendState::Refused(error) => {
                Poll::Ready(Err(error.take().unwrap_or(AppendError::Closed)))
            }
        }
    }
}

fn check(options: &JournalOptions) -> Result<(), OpenError> {
    if options.segment_bytes < 4096 {
        return Err(OpenError::Options("segment_bytes must be at least 4096"));
    }
    if options.max_record_bytes >= 1 << 31 {
        return Err(OpenError::Options("max_record_bytes must be below 2 GiB"));
    }
    if options.max_group_bytes == 0 || options.max_pending_bytes == 0 {
        return Err(OpenError::Options(
            "max_group_bytes and max_pending_bytes must not be zero",
        ));
    }
    Ok(())
}
