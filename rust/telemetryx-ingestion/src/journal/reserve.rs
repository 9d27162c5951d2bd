//! Room on the disk for what routes must write to get on. Where a route can pass its backlog only if it may append to the
//! journal, a full disk would stay full for ever: nothing can be appended, and nothing that was passed removed.
//!
//! A file holds the room while all is well, for one segment and what else routes write; positions have room of their own. When
//! an append of the service's own finds the disk full, the file goes; from then on clients are refused, and the room is the routes'
//! alone until there is enough again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use telemetryx_common::Timestamp;

use crate::clock;

/// Beside a segment, which takes all that it can get.
const MORE_BYTES: u64 = 1 << 20;
/// How often it is looked whether there is room again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The room.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    spent: Mutex<Option<Spent>>,
}

struct Spent {
    since: Timestamp,
    looked: Option<Instant>,
}

impl Reserve {
    /// Takes room for one segment with a file at `path`. On a file system that gives no room in advance there is none.
    pub(super) fn new(path: &Path, segment_bytes: u64) -> Self {
        let bytes = segment_bytes.saturating_add(MORE_BYTES);
        let this = Self {
            path: path.to_owned(),
            bytes,
            spent: Mutex::new(None),
        };
        if let Err(error) = this.take() {
            tracing::warn!(%error, bytes, "there is no room on the disk to keep some for what routes find");
            *this.spent.lock() = Some(Spent::now());
        }
        this
    }

    /// The disk is full, and the room is needed now.
    pub(super) fn spend(&self) {
        let mut spent = self.spent.lock();
        if spent.is_none() {
            tracing::warn!(
                bytes = self.bytes,
                "the disk is full: what was kept of it is for the routes; clients are refused"
            );
            *spent = Some(Spent::now());
        }
        remove(&self.path);
    }

    /// Since when it is spent, if it is. Takes the room again as soon as there is twice as much.
    pub(super) fn spent_since(&self) -> Option<Timestamp> {
        let mut spent = self.spent.lock();
        let state = spent.as_mut()?;
        if state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            state.looked = Some(Instant::now());
            if self.is_room_again() && self.take().is_ok() {
                tracing::info!("there is room on the disk again; clients may come in");
                *spent = None;
            }
        }
        spent.as_ref().map(|spent| spent.since)
    }

    fn is_room_again(&self) -> bool {
        let folder = self.path.parent().unwrap_or(&self.path);
        statvfs(folder).is_ok_and(|disk| {
            disk.f_bavail.saturating_mul(disk.f_frsize) >= self.bytes.saturating_mul(2)
        })
    }

    fn take(&self) -> io::Result<()> {
        let file = File::create(&self.path)?;
        let taken = fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if let Err(error) = taken {
            remove(&self.path);
            if error != Errno::OPNOTSUPP {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Spent {
    /// There is room again at the next look at the earliest.
    fn now() -> Self {
        Self {
            since: clock::now(),
            looked: Some(Instant::now()),
        }
    }
}

/// Gives back the room of an earlier run, if nobody needs it any more.
pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "the room kept on the disk cannot be given back");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_until_it_is_spent_and_again_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let reserve = Reserve::new(&path, 1 << 20);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 << 20);
        assert!(reserve.spent_since().is_none());
        reserve.spend();
        assert!(!path.exists());
        // Not at once: who needs it has not had it yet.
        assert!(reserve.spent_since().is_some() && !path.exists());
        reserve.spent.lock().as_mut().unwrap().looked = None;
        assert!(reserve.spent_since().is_none());
        assert!(path.exists());
    }

    #[test]
    fn what_there_is_no_room_for_counts_as_spent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let reserve = Reserve::new(&path, i64::MAX as u64);
        assert!(reserve.spent_since().is_some() && !path.exists());
    }
}
