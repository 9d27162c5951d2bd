//! Where the copy of the table lies: a file of this process alone, deleted with it, or by the next one that finds it left over.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Processes that may have a copy in one folder.
const MOST: usize = 1024;

/// The place of a copy. Others cannot have it until this is dropped.
pub(super) struct Place {
    file: PathBuf,
    _lock: File,
}

impl Place {
    /// Takes a free place in `dir`, and removes what is left over there; without one, in a folder of this user.
    pub(super) fn take(dir: Option<&Path>) -> io::Result<Self> {
        let folder = match dir {
            Some(dir) => dir.to_owned(),
            None => folder_of_user(&std::env::temp_dir())?,
        };
        for number in 0..MOST {
            let file = folder.join(format!("control-copy-{number}.db"));
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(file.with_extension("lock"))?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let place = Self { file, _lock: lock };
                place.clear()?;
                return Ok(place);
            }
        }
        Err(io::Error::other(format!(
            "{MOST} processes use {} already",
            folder.display()
        )))
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Removes the file, and those that SQLite keeps beside it. Who has it open keeps what is in it.
    pub(super) fn clear(&self) -> io::Result<()> {
        for ending in ["db", "db-wal", "db-shm"] {
            match std::fs::remove_file(self.file.with_extension(ending)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear().ok();
    }
}

/// A folder that nobody else may look into, since events lie there; or change, since what lies there is believed.
fn folder_of_user(parent: &Path) -> io::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let folder = parent.join(format!("telemetryx-{user}"));
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = folder.symlink_metadata()?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0 {
        return Ok(folder);
    }
    Err(io::Error::other(format!(
        "{} is not a folder of this user alone: remove it, or name another place for it with TMPDIR",
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn processes_in_one_folder_have_places_of_their_own_and_take_those_that_are_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let first = Place::take(Some(dir.path())).unwrap();
        let second = Place::take(Some(dir.path())).unwrap();
        assert_ne!(first.file(), second.file());
        let file = first.file().to_owned();
        std::fs::write(&file, "letters").unwrap();
        drop(first);
        assert!(!file.exists());
        // As after a kill.
        std::fs::write(&file, "left over").unwrap();
        let third = Place::take(Some(dir.path())).unwrap();
        assert_eq!(third.file(), file);
        assert!(!file.exists());
    }

    #[test]
    fn folder_that_others_may_look_into_or_gave_is_not_taken() {
        let parent = tempfile::tempdir().unwrap();
        let folder = folder_of_user(parent.path()).unwrap();
        assert_eq!(folder_of_user(parent.path()).unwrap(), folder);
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let refused = folder_of_user(parent.path()).unwrap_err().to_string();
        assert!(
            refused.contains("not a folder of this user alone"),
            "{refused}"
        );
        std::fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink(parent.path(), &folder).unwrap();
        assert!(folder_of_user(parent.path()).is_err());
    }
}
