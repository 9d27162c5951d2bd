//! How a journal behaves: sizes, limits, when to sync, what to keep.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// When an append is acknowledged, and so what a crash can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// An append resolves after `fdatasync` of what holds it. **Can be lost: nothing that was acknowledged**, whether the
    /// process is killed or the power is cut.
    Always,
    /// An append resolves once it is written to the page cache; the file is synced this often. **Can be lost: on a power
    /// cut or kernel crash, everything acknowledged since the last sync** (at most about the interval; its offsets are then
    /// given out again). A kill of the process alone loses nothing. Readers and cursors see only what is synced.
    Interval(Duration),
}

/// What may be removed. Only whole sealed segments go, from the front, only those that every cursor has passed, and never
/// the newest. Neither limit set: everything is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Remove the oldest segments while all segments together take more bytes than this.
    pub bytes: Option<u64>,
    /// Remove a segment when the newest record in it was appended longer ago than this.
    pub age: Option<Duration>,
}

/// Told of every group that became durable, on the writer thread: return quickly.
pub trait Observer: Send + Sync {
    /// A group was committed: how many records, events and bytes (headers included), how long the write and the sync took.
    /// With [`FsyncPolicy::Interval`] `sync` is zero.
    fn group_committed(
        &self,
        records: usize,
        events: u64,
        bytes: u64,
        write: Duration,
        sync: Duration,
    );
}

/// Settings of a journal.
#[derive(Clone)]
pub struct JournalOptions {
    /// Size at which a segment is sealed and a new one begun, in bytes; the space is reserved at once.
    /// Default: 128 MiB. Bounds: at least 4 KiB. A larger record gets a segment of its own size.
    pub segment_bytes: u64,
    /// When appends are acknowledged. Default: [`FsyncPolicy::Always`].
    pub fsync: FsyncPolicy,
    /// What may be removed. Default: nothing.
    pub retain: Retention,
    /// How many bytes one write takes at most, headers included (a single larger record still goes alone). Default: 8 MiB.
    pub max_group_bytes: usize,
    /// How many bytes may wait to become durable, headers included; above it an append fails with
    /// [`AppendError::Full`](crate::AppendError::Full). Default: 64 MiB.
    pub max_pending_bytes: usize,
    /// The largest body accepted, in bytes. Default: 64 MiB. Bounds: below 2 GiB.
    pub max_record_bytes: usize,
    /// How much of the disk each of the two files of a cursor takes from the start, in bytes, and at least twice what it holds: so that
    /// a cursor whose state grows can be committed on a full disk (where the file system writes in place). Default: 64 KiB.
    pub cursor_bytes: u64,
    /// How often retention looks, besides at every new segment. Default: 10 s.
    pub retention_interval: Duration,
    /// After a failed sync or a full disk: how long until the first new attempt. Doubles up to `retry_max` (a full disk is
    /// tried at this pace throughout). Default: 100 ms.
    pub retry_min: Duration,
    /// The longest pause between two attempts. Default: 5 s.
    pub retry_max: Duration,
    /// Told of every group. Default: nobody.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for JournalOptions {
    fn default() -> JournalOptions {
        JournalOptions {
            segment_bytes: 128 << 20,
            fsync: FsyncPolicy::Always,
            retain: Retention::default(),
            max_group_bytes: 8 << 20,
            max_pending_bytes: 64 << 20,
            max_record_bytes: 64 << 20,
            cursor_bytes: 64 << 10,
            retention_interval: Duration::from_secs(10),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            observer: None,
        }
    }
}

impl fmt::Debug for JournalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("fsync", &self.fsync)
            .field("retain", &self.retain)
            .field("max_group_bytes", &self.max_group_bytes)
            .field("max_pending_bytes", &self.max_pending_bytes)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("cursor_bytes", &self.cursor_bytes)
            .finish_non_exhaustive()
    }
}
