//! The only door to the disk: two small traits, so that a simulated disk can stand behind them.
//!
//! | file | purpose |
//! | --- | --- |
//! | `mod.rs` | [`Storage`], [`StorageFile`], and helpers over them |
//! | `disk.rs` | [`DiskStorage`]: a real directory |
//!
//! The simulated one is [`crate::sim::SimStorage`]. Names are relative, with `/` between folder and file; the journal uses
//! the root (`""`) and one folder, `cursors`.

mod disk;

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

pub use disk::DiskStorage;

/// A directory that holds a journal.
pub trait Storage: Send + Sync {
    /// The names of the files in a folder (`""` or `"cursors"`), without the folder, in no order. A folder that does not
    /// exist is empty.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Makes a file; fails with [`io::ErrorKind::AlreadyExists`] if there is one.
    fn create_new(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Removes a file. Open handles stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, removals and renames in a folder durable.
    fn sync_dir(&self, folder: &str) -> io::Result<()>;
    /// Takes the one lock of this directory; it is given back when the value is dropped.
    fn lock(&self) -> Result<Box<dyn StorageLock>, LockError>;
}

/// An open file. All methods take a position: there is no file pointer to share.
pub trait StorageFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer at the end of the file, and 0 beyond it.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes some of the bytes and says how many.
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Makes everything written so far durable, the length too (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Reserves space from the start up to `bytes`, extending the file with zeros. [`io::ErrorKind::Unsupported`] if the
    /// file system cannot.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Forgets clean cached pages, so that the next read comes from the device.
    fn drop_cache(&self) -> io::Result<()>;
}

/// Held while the directory is ours.
pub trait StorageLock: Send + Sync {}

/// Why the lock was not to be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it; 0 if it did not say who it is.
    Held(u32),
    /// The attempt itself failed.
    Io(io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held(pid) => write!(f, "held by process {pid}"),
            LockError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LockError {}

/// Whether an error means that the disk (or the quota) is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Writes everything; on failure says how many bytes went out before.
pub(crate) fn write_all_at(
    file: &dyn StorageFile,
    slices: &mut [IoSlice<'_>],
    position: u64,
) -> Result<(), (u64, io::Error)> {
    /// What Linux takes in one call (`IOV_MAX`).
    const SLICES_MAX: usize = 1024;
    let mut rest = slices;
    let mut written = 0;
    loop {
        IoSlice::advance_slices(&mut rest, 0);
        if rest.is_empty() {
            return Ok(());
        }
        let now = rest.len().min(SLICES_MAX);
        let wrote =
            match file.write_vectored_at(rest.get(..now).unwrap_or_default(), position + written) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(wrote) => wrote,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err((written, error)),
            };
        written += wrote as u64;
        IoSlice::advance_slices(&mut rest, wrote);
    }
}

/// Fills the buffer from `position` as far as the file goes; says how many bytes there were.
pub(crate) fn read_full_at(
    file: &dyn StorageFile,
    buffer: &mut [u8],
    position: u64,
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
