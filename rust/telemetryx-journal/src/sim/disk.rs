//! [`SimStorage`]: pristine bytes with faults laid over them.
//!
//! A power cut keeps a random subset of the changes not synced and tears some; it forgets creations, renames and removals that no
//! `sync_dir` made durable, in any combination. A failed sync forgets its pages, shows them as clean until the cache is dropped, and
//! the next sync succeeds, as on Linux. The disk has a size. Everything follows from one seed.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use super::file::{Change, FileBytes};
use super::random::Random;
use crate::storage::{LockError, Storage, StorageFile, StorageLock};

/// How often what goes wrong, in percent of calls. Default: never, and a disk without end.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// A file's sync fails and forgets.
    pub sync_fails: u64,
    /// A write fails with an I/O error, possibly after a part.
    pub write_fails: u64,
    /// A write takes a part only.
    pub short_writes: u64,
    /// A folder's sync fails; what it should have made durable stays undecided.
    pub sync_dir_fails: u64,
    /// Bytes all files together may take.
    pub capacity: u64,
    /// Whether space can be reserved.
    pub preallocates: bool,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            sync_fails: 0,
            write_fails: 0,
            short_writes: 0,
            sync_dir_fails: 0,
            capacity: u64::MAX,
            preallocates: true,
        }
    }
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
}

struct Disk {
    random: Random,
    faults: Faults,
    files: BTreeMap<FileId, FileBytes>,
    next_file: FileId,
    /// Names as they are now.
    names: BTreeMap<String, FileId>,
    /// Names as they are after a power cut, for certain.
    durable_names: BTreeMap<String, FileId>,
    /// Changes between the two, oldest first.
    unsynced: Vec<Renaming>,
    /// Counts power cuts; handles and locks of an earlier life are dead.
    life: u64,
    locked: Option<u64>,
    syncs: u64,
}

type FileId = u64;

/// A change of names: `name` stops being, or becomes the name of a file; both at once in a rename.
#[derive(Clone, Debug)]
struct Renaming {
    removed: Option<String>,
    set: Option<(String, FileId)>,
}

impl SimStorage {
    /// An empty disk whose faults follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> SimStorage {
        let disk = Disk {
            random: Random::new(seed),
            faults: Faults::default(),
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced: Vec::new(),
            life: 0,
            locked: None,
            syncs: 0,
        };
        SimStorage {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// Sets how often what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.disk.lock().faults = faults;
    }

    /// Cuts the power: handles die, and the disk keeps what a disk might.
    pub fn power_cut(&self) {
        let mut disk = self.disk.lock();
        let disk = &mut *disk;
        for file in disk.files.values_mut() {
            file.power_cut(&mut disk.random);
        }
        for change in std::mem::take(&mut disk.unsynced) {
            if disk.random.percent(50) {
                change.apply(&mut disk.durable_names);
            }
        }
        disk.names.clone_from(&disk.durable_names);
        disk.end_life();
    }

    /// Kills the process: handles die, the disk and its cache stay as they are.
    pub fn kill(&self) {
        self.disk.lock().end_life();
    }

    /// Flips one bit of a file, on the device itself. `false` if there is no such byte.
    pub fn flip_bit(&self, name: &str, byte: u64, bit: u8) -> bool {
        let mut disk = self.disk.lock();
        let Some(id) = disk.names.get(name).copied() else {
            return false;
        };
        let Some(file) = disk.files.get_mut(&id) else {
            return false;
        };
        let exists = (byte as usize) < file.device.len();
        if exists {
            file.flip_bit(byte as usize, bit & 7);
        }
        exists
    }

    /// Every file with its bytes as reads see them.
    #[must_use]
    pub fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.disk.lock();
        let bytes = |id: &FileId| {
            disk.files
                .get(id)
                .map(|file| file.cache.clone())
                .unwrap_or_default()
        };
        disk.names
            .iter()
            .map(|(name, id)| (name.clone(), bytes(id)))
            .collect()
    }

    /// Puts a file on the disk, durable, as it is.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.disk.lock();
        let id = disk.new_file();
        if let Some(file) = disk.files.get_mut(&id) {
            file.device = bytes.to_vec();
            file.cache = bytes.to_vec();
        }
        disk.names.insert(name.to_owned(), id);
        disk.durable_names.insert(name.to_owned(), id);
    }

    /// How many file syncs succeeded.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk.lock().syncs
    }
}

impl Disk {
    fn new_file(&mut self) -> FileId {
        self.next_file += 1;
        self.files.insert(self.next_file, FileBytes::default());
        self.next_file
    }

    /// Only handles reach files without a name, and those die.
    fn end_life(&mut self) {
        self.life += 1;
        self.locked = None;
        let named: Vec<FileId> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .copied()
            .collect();
        let pending: Vec<FileId> = self
            .unsynced
            .iter()
            .filter_map(|change| Some(change.set.as_ref()?.1))
            .collect();
        self.files
            .retain(|id, _| named.contains(id) || pending.contains(id));
    }

    fn rename(&mut self, change: Renaming) {
        change.apply(&mut self.names);
        self.unsynced.push(change);
    }

    /// Bytes left, were this file not there.
    fn room(&self, besides: FileId) -> u64 {
        let used: u64 = self
            .files
            .iter()
            .filter(|(id, _)| **id != besides && self.names.values().any(|named| named == *id))
            .map(|(_, file)| file.cache.len() as u64)
            .sum();
        self.faults.capacity.saturating_sub(used)
    }
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        if let Some(removed) = &self.removed {
            names.remove(removed);
        }
        if let Some((name, id)) = &self.set {
            names.insert(name.clone(), *id);
        }
    }

    fn concerns(&self, folder: &str) -> bool {
        let name = self
            .removed
            .as_ref()
            .or_else(|| self.set.as_ref().map(|(name, _)| name));
        name.is_some_and(|name| folder_of(name) == folder)
    }
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn io_error() -> io::Error {
    rustix::io::Errno::IO.into()
}

impl Storage for SimStorage {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        let inside = disk.names.keys().filter(|name| folder_of(name) == folder);
        Ok(inside
            .map(|name| {
                name.rsplit_once('/')
                    .map_or_else(|| name.clone(), |(_, file)| file.to_owned())
            })
            .collect())
    }

    fn create_new(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk.lock();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = disk.new_file();
        disk.rename(Renaming {
            removed: None,
            set: Some((name.to_owned(), id)),
        });
        Ok(self.handle(id, disk.life))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let disk = self.disk.lock();
        let id = disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(*id, disk.life))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if !disk.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.rename(Renaming {
            removed: Some(name.to_owned()),
            set: None,
        });
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let id = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.rename(Renaming {
            removed: Some(from.to_owned()),
            set: Some((to.to_owned(), id)),
        });
        Ok(())
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let percent = disk.faults.sync_dir_fails;
        if disk.random.percent(percent) {
            return Err(io_error());
        }
        for change in std::mem::take(&mut disk.unsynced) {
            if change.concerns(folder) {
                change.apply(&mut disk.durable_names);
            } else {
                disk.unsynced.push(change);
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn StorageLock>, LockError> {
        let mut disk = self.disk.lock();
        if disk.locked.is_some() {
            return Err(LockError::Held(1));
        }
        let life = disk.life;
        disk.locked = Some(life);
        Ok(Box::new(SimLock {
            storage: self.clone(),
            life,
        }))
    }
}

struct SimLock {
    storage: SimStorage,
    life: u64,
}

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.storage.disk.lock();
        if disk.locked == Some(self.life) {
            disk.locked = None;
        }
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    id: FileId,
    life: u64,
}

impl SimStorage {
    fn handle(&self, id: FileId, life: u64) -> Arc<dyn StorageFile> {
        Arc::new(SimFile {
            disk: Arc::clone(&self.disk),
            id,
            life,
        })
    }
}

impl SimFile {
    /// Runs something on the file, unless the power was cut since it was opened.
    fn with<T>(
        &self,
        run: impl FnOnce(&mut Disk, &mut FileBytes) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.disk.lock();
        let alive = disk.life == self.life;
        let Some(mut file) = disk.files.remove(&self.id).filter(|_| alive) else {
            return Err(io::Error::other("the power was cut"));
        };
        let result = run(&mut disk, &mut file);
        disk.files.insert(self.id, file);
        result
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.with(|_, file| {
            let rest = file.cache.get(position as usize..).unwrap_or_default();
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        })
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let mut bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        self.with(|disk, file| {
            let faults = disk.faults;
            let fails = disk.random.percent(faults.write_fails);
            if fails || disk.random.percent(faults.short_writes) {
                bytes.truncate(disk.random.below(bytes.len() as u64 + 1) as usize);
            }
            // What lies inside the file has its space already.
            let limit = disk.room(self.id).max(file.cache.len() as u64);
            let room = limit.saturating_sub(position).min(bytes.len() as u64) as usize;
            let full = room == 0 && !bytes.is_empty();
            bytes.truncate(room);
            let wrote = bytes.len();
            if wrote > 0 {
                file.change(Change::Write { position, bytes });
            }
            match () {
                () if fails => Err(io_error()),
                () if full => Err(io::ErrorKind::StorageFull.into()),
                () if wrote == 0 => Err(io::ErrorKind::Interrupted.into()),
                () => Ok(wrote),
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk, file| {
            if disk.random.percent(disk.faults.sync_fails) {
                file.fail_sync(&mut disk.random);
                return Err(io_error());
            }
            file.sync();
            disk.syncs += 1;
            Ok(())
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|_, file| {
            file.change(Change::Length(bytes));
            Ok(())
        })
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.with(|disk, file| {
            if !disk.faults.preallocates {
                return Err(io::ErrorKind::Unsupported.into());
            }
            if bytes > disk.room(self.id) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if bytes > file.cache.len() as u64 {
                file.change(Change::Length(bytes));
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, file| Ok(file.cache.len() as u64))
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.with(|_, file| {
            file.drop_cache();
            Ok(())
        })
    }
}
