//! A small disk of one's own, which can be filled up.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A tmpfs of a fixed size, unmounted when dropped. Mounting takes root, as tests have it in CI.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
    mounted: bool,
}

impl SmallDisk {
    /// Mounts a disk that holds `kib` KiB.
    ///
    /// # Panics
    /// If it cannot be mounted: a test that needs a full disk must not pass without one.
    #[must_use]
    pub fn of_kib(kib: u64) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("telemetryx-disk-")
            .tempdir();
        let mut disk = Self {
            folder: folder.expect("a temporary directory can be made"),
            mounted: false,
        };
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(disk.path())
            .output()
            .expect("there is a `mount` command");
        assert!(
            mount.status.success(),
            "this test needs a small disk that fills up, and mounting a tmpfs is not permitted here (run as root): {}",
            String::from_utf8_lossy(&mount.stderr)
        );
        disk.mounted = true;
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the disk larger (or smaller, not below what it holds).
    ///
    /// # Panics
    /// If that is not permitted.
    pub fn resize_kib(&self, kib: u64) {
        let mounted = Command::new("mount")
            .args(["-o", &format!("remount,size={kib}k")])
            .arg(self.path())
            .status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "the disk can be resized"
        );
    }

    /// Fills what is free with a file, and returns it: removing it makes the room again.
    ///
    /// # Panics
    /// If nothing can be written for another reason than a full disk.
    pub fn fill(&self) -> PathBuf {
        use std::io::{ErrorKind, Write};
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).expect("a file can be made");
        for step in [64 * 1024, 4096, 64] {
            let bytes = vec![b'x'; step];
            loop {
                match file.write_all(&bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("the disk cannot be filled: {error}"),
                }
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a service that is being killed may still hold a file.
            let _status = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}
