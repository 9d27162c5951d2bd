//! The writer: the only part that changes segments. A synchronous state machine; [`crate::service`] gives it a thread.
//!
//! | file | purpose |
//! | --- | --- |
//! | `mod.rs` | [`Core`]: commit a group, roll, what to do when the disk fails or is full |
//! | `group.rs` | laying out a group of records in few slices |
//! | `segment.rs` | the segment being written |
//! | `reopen.rs` | after a failed sync: read back what is on the disk |
//! | `retain.rs` | removing old segments |

mod group;
mod reopen;
mod retain;
mod segment;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::AppendError;
use crate::format::{RECORDS_START, SegmentHeader};
use crate::offset::Offset;
use crate::options::{FsyncPolicy, JournalOptions};
use crate::segments::{Mark, Segment, Segments};
use crate::shared::Shared;
use crate::status::Health;
use crate::storage::is_no_space;

pub(crate) use group::Pending;
use group::{Layout, Stamp};
use segment::SegmentWriter;
pub(crate) use segment::{UNFINISHED, write_end_mark};

/// The journal's writing side.
pub(crate) struct Core {
    shared: Arc<Shared>,
    options: JournalOptions,
    /// The journal's random number, in every segment.
    journal: u128,
    /// The segment being written; made when the first group comes.
    active: Option<SegmentWriter>,
    /// The offset of the next record. Equal to the durable end, but with [`FsyncPolicy::Interval`], where it runs ahead.
    next: Offset,
    last_appended_at: i64,
    trouble: Option<Trouble>,
    /// When what was written must be synced.
    sync_due: Option<Duration>,
    retention_due: Duration,
    /// A segment that was read back after a failed sync, and how far it counts once there is a next one.
    settling: Option<(Arc<Segment>, Offset, u64)>,
    /// A segment taken out of the table whose file may still be there.
    removing: Option<String>,
    layout: Layout,
}

/// How long after a disk was found full it is looked at again if nobody appends.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// Why nothing can be written just now.
enum Trouble {
    /// A write or sync failed. The segment is final; it is read back before another one is begun.
    Failed {
        segment: Option<Box<SegmentWriter>>,
        reason: Arc<str>,
        retry_at: Duration,
        pause: Duration,
    },
    /// The disk is full: the next append tries again from `retry_at` on; without one, `tick` does from `probe_at` on.
    Full {
        retry_at: Duration,
        probe_at: Duration,
        needed: u64,
    },
}

/// What became of a group: the first `committed` records are acknowledged at consecutive offsets from `first`, the rest failed.
pub(crate) struct Outcome {
    pub(crate) first: Offset,
    pub(crate) committed: usize,
    pub(crate) error: Option<AppendError>,
}

impl Core {
    pub(crate) fn new(
        shared: Arc<Shared>,
        options: JournalOptions,
        journal: u128,
        last_appended_at: i64,
    ) -> Core {
        Core {
            journal,
            active: None,
            next: shared.end.get(),
            last_appended_at,
            trouble: None,
            sync_due: None,
            retention_due: shared.clock.monotonic(),
            settling: None,
            removing: None,
            layout: Layout::default(),
            shared,
            options,
        }
    }

    /// Writes records from the front of these, as many as one write may take and the segment has room for, and, with
    /// [`FsyncPolicy::Always`], makes them durable and visible. Without an error at least one is committed. Records in front may
    /// succeed when those behind them fail, never the other way round.
    pub(crate) fn commit_group(&mut self, waiting: &[Pending]) -> Outcome {
        let (committed, error) = match self.overcome_trouble().map_err(PartialFailure::from) {
            Ok(()) => match self.commit_some(waiting) {
                Ok(records) => (records, None),
                Err(failure) => (failure.committed, Some(failure.error)),
            },
            Err(failure) => (0, Some(failure.error)),
        };
        let before: u64 = waiting
            .iter()
            .take(committed)
            .map(|pending| u64::from(pending.record.events))
            .sum();
        Outcome {
            first: Offset::new(self.next.get() - before),
            committed,
            error,
        }
    }

    /// Commits as many of the records as fit the segment.
    fn commit_some(&mut self, records: &[Pending]) -> Result<usize, PartialFailure> {
        let needed = records.first().map_or(0, Pending::stored_len) as u64;
        self.make_room(needed)?;
        let Some(active) = &mut self.active else {
            return Ok(0);
        };
        let mut bytes = 0;
        let mut fitting = 0;
        for record in records {
            let more = bytes + record.stored_len() as u64;
            if fitting > 0 && (more > self.options.max_group_bytes as u64 || !active.has_room(more))
            {
                break;
            }
            bytes = more;
            fitting += 1;
        }
        let records = records.get(..fitting).unwrap_or_default();
        self.last_appended_at = self.last_appended_at.max(self.shared.clock.wall_ns());
        let stamp = Stamp {
            tag: active.tag,
            appended_at: self.last_appended_at,
            durable: self.shared.end.get(),
        };
        let before = self.shared.clock.monotonic();
        let mut end = self.layout.fill(records, active.next, stamp);
        let (mut kept, mut full) = (fitting, false);
        match active.write(&mut self.layout.slices(records), bytes) {
            Ok(()) => {}
            Err((written, error)) if is_no_space(&error) => {
                full = true;
                (kept, bytes) = whole_records(records, written);
                let missing = records.get(kept..).unwrap_or_default();
                let lost: u64 = missing
                    .iter()
                    .map(|pending| u64::from(pending.record.events))
                    .sum();
                end = Offset::new(end.get() - lost);
            }
            Err((_, error)) => return Err(self.fail(&error).into()),
        }
        let needed = records
            .get(kept)
            .map_or(0, |refused| refused.stored_len() as u64);
        if kept == 0 {
            return Err(self.disk_full(needed).into());
        }
        let written = self.shared.clock.monotonic();
        if let Err(error) = self.keep(end, bytes, written) {
            return Err(self.fail(&error).into());
        }
        self.shared.counters.groups.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = &self.options.observer {
            let sync = match self.options.fsync {
                FsyncPolicy::Always => self.shared.clock.monotonic().saturating_sub(written),
                FsyncPolicy::Interval(_) => Duration::ZERO,
            };
            let events = records
                .iter()
                .take(kept)
                .map(|pending| u64::from(pending.record.events))
                .sum();
            observer.group_committed(kept, events, bytes, written.saturating_sub(before), sync);
        }
        if full {
            return Err(PartialFailure {
                committed: kept,
                error: self.disk_full(needed),
            });
        }
        self.all_well();
        Ok(kept)
    }

    /// Takes what was written into account: now, or at the next sync.
    fn keep(&mut self, end: Offset, bytes: u64, now: Duration) -> io::Result<()> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if self.options.fsync == FsyncPolicy::Always {
            active.file.sync_data()?;
            self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        active.segment.remember(Mark {
            offset: active.next,
            position: active.position,
            appended_at: self.last_appended_at,
        });
        active.position += bytes;
        active.next = end;
        self.next = end;
        match self.options.fsync {
            FsyncPolicy::Always => self.publish(),
            FsyncPolicy::Interval(interval) => {
                self.sync_due.get_or_insert(now + interval);
            }
        }
        Ok(())
    }

    /// Shows what is durable: everything written.
    fn publish(&self) {
        let Some(active) = &self.active else {
            return;
        };
        let segment = &active.segment;
        segment
            .last_appended_at
            .store(self.last_appended_at, Ordering::Relaxed);
        segment.publish(active.next, active.position);
        self.shared
            .end
            .publish(active.next, segment.base_bytes + segment.record_bytes());
    }

    /// Syncs what was written since the last sync, if anything was.
    pub(crate) fn sync(&mut self) -> Result<(), AppendError> {
        let Some(active) = self.active.as_ref().filter(|_| self.sync_due.is_some()) else {
            return Ok(());
        };
        self.sync_due = None;
        match active.file.sync_data() {
            Ok(()) => {
                self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
                self.publish();
                Ok(())
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Sees to it that a segment is open with room for this many bytes.
    fn make_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.has_room(bytes))
        {
            return Ok(());
        }
        self.seal()?;
        self.begin_segment(bytes)?;
        self.run_retention();
        Ok(())
    }

    /// Syncs and seals the open segment, if there is one.
    fn seal(&mut self) -> Result<(), AppendError> {
        self.sync()?;
        let at = self.last_appended_at;
        if let Some(active) = &mut self.active {
            if let Err(error) = active.seal(at) {
                return Err(self.fail(&error));
            }
            self.active = None;
        }
        Ok(())
    }

    fn begin_segment(&mut self, needed: u64) -> Result<(), AppendError> {
        self.last_appended_at = self.last_appended_at.max(self.shared.clock.wall_ns());
        let header = SegmentHeader {
            journal: self.journal,
            base: self.next,
            base_bytes: match &self.settling {
                Some((last, _, length)) => last.base_bytes + length - RECORDS_START,
                None => bytes_so_far(&self.shared.segments),
            },
            created_at: self.last_appended_at,
        };
        let overhead = 2 * crate::format::RECORD_HEADER as u64;
        match SegmentWriter::create(
            &*self.shared.storage,
            &header,
            self.options.segment_bytes,
            needed + overhead,
        ) {
            Ok(active) => {
                if let Some((segment, end, length)) = self.settling.take() {
                    segment.publish(end, length);
                }
                let segments = &self.shared.segments;
                if segments.last().is_some_and(|last| last.base == header.base) {
                    segments.pop_back();
                }
                segments.push(Arc::clone(&active.segment));
                if self.shared.end.get() < header.base {
                    self.shared.end.publish(header.base, header.base_bytes);
                }
                self.active = Some(active);
                Ok(())
            }
            Err(error) if is_no_space(&error) => Err(self.disk_full(needed)),
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// A write or sync failed: the segment is final, and nothing is written until it was read back.
    fn fail(&mut self, error: &io::Error) -> AppendError {
        let reason: Arc<str> = error.to_string().into();
        tracing::error!(%error, end = %self.shared.end.get(), "writing to the journal failed; appends are refused until it reopens");
        self.shared
            .counters
            .failures
            .fetch_add(1, Ordering::Relaxed);
        self.sync_due = None;
        let first_reason = {
            let mut health = self.shared.health.lock();
            match &*health {
                Health::Unhealthy { reason, .. } => Arc::clone(reason),
                Health::Ok | Health::NoSpace { .. } => {
                    *health = Health::Unhealthy {
                        since: self.shared.clock.wall_ns(),
                        reason: Arc::clone(&reason),
                    };
                    Arc::clone(&reason)
                }
            }
        };
        let pause = self.options.retry_min;
        self.trouble = Some(Trouble::Failed {
            segment: self.active.take().map(Box::new),
            reason: first_reason,
            retry_at: self.shared.clock.monotonic() + pause,
            pause,
        });
        AppendError::SyncFailed { reason }
    }

    /// There is no room for `needed` bytes.
    fn disk_full(&mut self, needed: u64) -> AppendError {
        let mut health = self.shared.health.lock();
        if health.is_ok() {
            tracing::warn!(end = %self.shared.end.get(), "the disk is full; appends are refused until there is room");
            *health = Health::NoSpace {
                since: self.shared.clock.wall_ns(),
            };
        }
        drop(health);
        let now = self.shared.clock.monotonic();
        self.trouble = Some(Trouble::Full {
            retry_at: now + self.options.retry_min,
            probe_at: now + PROBE_AFTER.max(self.options.retry_min),
            needed,
        });
        AppendError::NoSpace
    }

    fn all_well(&mut self) {
        self.trouble = None;
        let mut health = self.shared.health.lock();
        if !health.is_ok() {
            tracing::info!(end = %self.shared.end.get(), "the journal takes appends again");
            *health = Health::Ok;
        }
    }

    /// Returns at once if all is well. Otherwise tries to get over it, if it is time for that.
    fn overcome_trouble(&mut self) -> Result<(), AppendError> {
        let now = self.shared.clock.monotonic();
        match &self.trouble {
            None => Ok(()),
            Some(Trouble::Full { retry_at, .. }) if now < *retry_at => Err(AppendError::NoSpace),
            Some(Trouble::Full { .. }) => {
                self.run_retention();
                self.trouble = None;
                Ok(())
            }
            Some(Trouble::Failed {
                reason, retry_at, ..
            }) if now < *retry_at => Err(AppendError::Unhealthy {
                reason: Arc::clone(reason),
            }),
            Some(Trouble::Failed { .. }) => self.reopen(),
        }
    }

    /// Does what is due by time alone.
    pub(crate) fn tick(&mut self) {
        let now = self.shared.clock.monotonic();
        if self.sync_due.is_some_and(|due| due <= now)
            && let Err(error) = self.sync()
        {
            tracing::debug!(%error, "the periodic sync failed");
        }
        if matches!(&self.trouble, Some(Trouble::Failed { retry_at, .. }) if *retry_at <= now)
            && let Err(error) = self.reopen()
        {
            tracing::debug!(%error, "could not reopen");
        }
        if self.has_retention() && self.retention_due <= now {
            self.run_retention();
        }
        if matches!(&self.trouble, Some(Trouble::Full { probe_at, .. }) if *probe_at <= now) {
            self.probe_room();
        }
    }

    /// Looks whether there is room again, so that health says so before somebody risks an append.
    fn probe_room(&mut self) {
        let Some(Trouble::Full { needed, .. }) = self.trouble.take() else {
            return;
        };
        let full_inside = self
            .active
            .as_ref()
            .is_some_and(|active| active.has_room(needed));
        // Space that was promised and not there can only be tried by writing.
        if full_inside {
            self.disk_full(needed);
            return;
        }
        self.run_retention();
        match self.make_room(needed) {
            Ok(()) => self.all_well(),
            Err(error) => tracing::debug!(%error, "still no room"),
        }
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub(crate) fn next_tick(&self) -> Option<Duration> {
        let retry = match &self.trouble {
            Some(Trouble::Failed { retry_at, .. }) => Some(*retry_at),
            Some(Trouble::Full { probe_at, .. }) => Some(*probe_at),
            None => None,
        };
        let retention = self.has_retention().then_some(self.retention_due);
        [self.sync_due, retry, retention]
            .into_iter()
            .flatten()
            .min()
    }

    /// Syncs and seals; the end mark is the mark of a clean close. An error if what a failed sync left behind has no end that a
    /// recovery could see: no next segment could be begun.
    pub(crate) fn close(&mut self) -> Result<(), AppendError> {
        if let Some(Trouble::Failed { reason, .. }) = &self.trouble {
            return Err(AppendError::Unhealthy {
                reason: Arc::clone(reason),
            });
        }
        if self.settling.is_some() {
            return Err(AppendError::NoSpace);
        }
        self.seal()
    }
}

/// A failure after some records of a group succeeded.
struct PartialFailure {
    committed: usize,
    error: AppendError,
}

impl From<AppendError> for PartialFailure {
    fn from(error: AppendError) -> PartialFailure {
        PartialFailure {
            committed: 0,
            error,
        }
    }
}

/// How many records lie wholly within the first `written` bytes, and how many bytes those are.
fn whole_records(records: &[Pending], written: u64) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for record in records {
        let more = bytes + record.stored_len() as u64;
        if more > written {
            break;
        }
        bytes = more;
        count += 1;
    }
    (count, bytes)
}

fn bytes_so_far(segments: &Segments) -> u64 {
    segments
        .last()
        .map_or(0, |last| last.base_bytes + last.record_bytes())
}
