//! The bytes of one cursor slot, and choosing between two.
//!
//! A cursor is two files, `cursors/{name}.a` and `.b`, written whole in turn; the valid one with the higher sequence number
//! is the cursor. A slot file appears only by rename of one that is synced, so a slot that exists was valid once.
//!
//! ```text
//!  0  magic      "TXJCUR\r\n"        32  byte position  u64  record bytes before it, about
//!  8  version    u32 = 1             40  state length   u32
//! 12  crc        u32  CRC-32C of     44  reserved       u32 = 0
//!                16..48+state        48  state, then zeros up to a multiple of 4096
//! 16  sequence   u64
//! 24  position   u64  offset
//! ```
//!
//! The file may be longer: zeros, or what is left of a longer state, which do not count.

use std::io;

use crate::offset::Offset;
use crate::storage::{Storage, read_full_at};

/// The folder of all cursors.
pub(crate) const FOLDER: &str = "cursors";

/// The largest state a cursor may carry: 16 MiB.
pub const MAX_STATE_BYTES: usize = 16 << 20;

const MAGIC: [u8; 8] = *b"TXJCUR\r\n";
const VERSION: u32 = 1;
const HEADER: usize = 48;
/// Slots are padded to this, so that rewriting one touches whole blocks.
const BLOCK: usize = 4096;

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) sequence: u64,
    pub(crate) position: Offset,
    pub(crate) bytes: u64,
    pub(crate) state: Vec<u8>,
}

/// Writes a slot's bytes into a buffer that is used again.
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    sequence: u64,
    position: Offset,
    bytes: u64,
    state: &[u8],
) {
    buffer.clear();
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&VERSION.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&position.get().to_le_bytes());
    buffer.extend_from_slice(&bytes.to_le_bytes());
    buffer.extend_from_slice(&(state.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(state);
    let crc = crc32c::crc32c(&buffer[16..]);
    buffer[12..16].copy_from_slice(&crc.to_le_bytes());
    buffer.resize(buffer.len().next_multiple_of(BLOCK), 0);
}

/// Reads a slot's bytes; the error says in a few words what is wrong.
pub(crate) fn decode(bytes: &[u8]) -> Result<Slot, &'static str> {
    let header = bytes.get(..HEADER).ok_or("shorter than a header")?;
    if header[..8] != MAGIC {
        return Err("no cursor file");
    }
    if number::<4>(header, 8) != u64::from(VERSION) {
        return Err("unknown version");
    }
    let length = number::<4>(header, 40) as usize;
    let covered = HEADER
        .checked_add(length)
        .and_then(|end| bytes.get(16..end));
    let covered = covered.ok_or("shorter than it says")?;
    if number::<4>(header, 12) != u64::from(crc32c::crc32c(covered)) {
        return Err("checksum does not match");
    }
    Ok(Slot {
        sequence: number::<8>(header, 16),
        position: Offset::new(number::<8>(header, 24)),
        bytes: number::<8>(header, 32),
        state: bytes[HEADER..HEADER + length].to_vec(),
    })
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N]
        .iter()
        .rev()
        .fold(0, |all, byte| (all << 8) | u64::from(*byte))
}

/// What stands in the two slots of a cursor.
pub(crate) enum Found {
    /// No file at all.
    Nothing,
    /// The newest valid slot; which one it is; the name and fault of the other if that is damaged.
    Valid {
        slot: Slot,
        side: Side,
        other_exists: bool,
        fault: Option<String>,
    },
    /// There are files and none is valid.
    Damaged(String),
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    pub(crate) fn file(self, name: &str) -> String {
        match self {
            Side::A => format!("{FOLDER}/{name}.a"),
            Side::B => format!("{FOLDER}/{name}.b"),
        }
    }
}

/// From where a slot is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// As the cache shows it: for a look from outside.
    Cache,
    /// From the device: a slot whose sync failed still looks fine in the cache, and going on from it would next overwrite the
    /// one that is truly durable.
    Device,
}

/// Reads both slots and chooses.
pub(crate) fn read(storage: &dyn Storage, name: &str, from: From) -> io::Result<Found> {
    if from == From::Device {
        // The names, too: a slot whose rename was not synced could be gone after a power cut.
        storage.sync_dir(FOLDER)?;
    }
    let mut best: Option<(Slot, Side)> = None;
    let mut faults = Vec::new();
    let mut files = 0;
    for side in [Side::A, Side::B] {
        let file = side.file(name);
        let Some(bytes) = read_file(storage, &file, from)? else {
            continue;
        };
        files += 1;
        match decode(&bytes) {
            Ok(slot)
                if best
                    .as_ref()
                    .is_none_or(|(best, _)| slot.sequence > best.sequence) =>
            {
                best = Some((slot, side))
            }
            Ok(_) => {}
            Err(fault) => faults.push(format!("{file}: {fault}")),
        }
    }
    Ok(match best {
        Some((slot, side)) => Found::Valid {
            slot,
            side,
            other_exists: files == 2,
            fault: faults.pop(),
        },
        None if files == 0 => Found::Nothing,
        None => Found::Damaged(faults.join("; ")),
    })
}

fn read_file(storage: &dyn Storage, name: &str, from: From) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if from == From::Device {
        file.sync_data()?;
        file.drop_cache()?;
    }
    // Bounded whatever the file's length: no valid slot has more bytes that count.
    let longest = (HEADER + MAX_STATE_BYTES).next_multiple_of(BLOCK) as u64;
    let mut bytes = vec![0; file.len()?.min(longest) as usize];
    let read = read_full_at(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// The names of all cursors that have a file.
pub(crate) fn names(storage: &dyn Storage) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = storage
        .list(FOLDER)?
        .iter()
        .filter_map(|file| file.strip_suffix(".a").or_else(|| file.strip_suffix(".b")))
        .filter(|name| is_valid_name(name))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Whether a cursor may be called this.
pub(crate) fn is_valid_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}
