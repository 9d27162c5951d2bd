//! One simulated file: what the device holds, what the cache shows, and the changes between them in order.

use super::random::Random;

/// Power cuts tear writes at these borders.
const SECTOR: u64 = 512;

/// A file's bytes in three states.
#[derive(Clone, Debug, Default)]
pub(super) struct FileBytes {
    /// What survives a power cut for certain.
    pub(super) device: Vec<u8>,
    /// What reads see.
    pub(super) cache: Vec<u8>,
    /// Not yet synced, oldest first.
    pub(super) unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { position: u64, bytes: Vec<u8> },
    Length(u64),
}

impl FileBytes {
    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.cache, &change);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            apply(&mut self.device, &change);
        }
    }

    /// A sync that fails: some changes reached the device, the others are forgotten, and the cache shows them as if nothing
    /// had happened, clean. Lengths are metadata and stay.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        for change in self.unsynced.drain(..) {
            if matches!(change, Change::Length(_)) || random.percent(50) {
                apply(&mut self.device, &change);
            }
        }
        // Forgotten bytes past the device's end still count for the length.
        if self.device.len() < self.cache.len() {
            self.device.resize(self.cache.len(), 0);
        }
    }

    /// Clean pages are read from the device again; changes not yet synced are dirty and stay.
    pub(super) fn drop_cache(&mut self) {
        self.cache.clone_from(&self.device);
        for change in &self.unsynced {
            apply(&mut self.cache, change);
        }
    }

    /// Each change since the last sync happened, did not happen, or (a write) happened for a run of its sectors.
    pub(super) fn power_cut(&mut self, random: &mut Random) {
        let keep_percent = [0, 30, 50, 80, 100][random.below(5) as usize];
        for change in self.unsynced.drain(..) {
            if random.percent(20)
                && let Change::Write { position, bytes } = &change
            {
                apply(&mut self.device, &torn(*position, bytes, random));
            } else if random.percent(keep_percent) {
                apply(&mut self.device, &change);
            }
        }
        self.cache.clone_from(&self.device);
    }

    /// Everywhere the byte is, so that a later sync does not mend it.
    pub(super) fn flip_bit(&mut self, byte: usize, bit: u8) {
        let unsynced = self.unsynced.iter_mut().filter_map(|change| match change {
            Change::Length(_) => None,
            Change::Write { position, bytes } => {
                bytes.get_mut(byte.checked_sub(*position as usize)?)
            }
        });
        let copies = [self.device.get_mut(byte), self.cache.get_mut(byte)];
        for byte in copies.into_iter().flatten().chain(unsynced) {
            *byte ^= 1 << bit;
        }
    }
}

/// A run of the sectors of a write.
fn torn(position: u64, bytes: &[u8], random: &mut Random) -> Change {
    let end = position + bytes.len() as u64;
    let (first, last) = (position / SECTOR, end.div_ceil(SECTOR));
    let from = first + random.below(last - first);
    let to = from + 1 + random.below(last - from);
    let from = (from * SECTOR).clamp(position, end);
    let to = (to * SECTOR).clamp(from, end);
    Change::Write {
        position: from,
        bytes: bytes[(from - position) as usize..(to - position) as usize].to_vec(),
    }
}

fn apply(target: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => target.resize(*length as usize, 0),
        Change::Write { position, bytes } => {
            let start = *position as usize;
            let end = start + bytes.len();
            if target.len() < end {
                target.resize(end, 0);
            }
            target[start..end].copy_from_slice(bytes);
        }
    }
}
