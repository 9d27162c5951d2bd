//! What happens when a journal is opened: list the segments, look at their headers, read the last one in full, seal it.
//!
//! | file | purpose |
//! | --- | --- |
//! | `mod.rs` | [`recover`]: the steps in order, shared with read-only views |
//! | `tail.rs` | the decision where the last segment ends |
//!
//! An old segment is never appended to. Older segments than the last are read only at both ends, so that opening takes as long for
//! 10 GiB as for one segment. Damaged bytes are never rewritten; only what was never acknowledged is cut.

mod tail;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;

use crate::error::OpenError;
use crate::format::{
    BadSegmentHeader, RECORD_HEADER, RECORDS_START, RecordHeader, SEGMENT_HEADER, SegmentHeader,
    parse_segment_name,
};
use crate::offset::Offset;
use crate::scan::Scanner;
use crate::segments::{Segment, Segments};
use crate::shared::{DamageBook, Shared};
use crate::status::{Damage, DamageReason, RecoveryReport};
use crate::storage::{Storage, read_full_at};
use crate::writer::{UNFINISHED, write_end_mark};

/// What the writer needs to go on.
pub(crate) struct Recovered {
    pub(crate) journal: u128,
    pub(crate) last_appended_at: i64,
    pub(crate) report: RecoveryReport,
}

/// Brings the directory in order and fills the tables of `shared`.
pub(crate) fn recover(shared: &Shared) -> Result<Recovered, OpenError> {
    let storage = &*shared.storage;
    let mut report = RecoveryReport::default();
    // What is listed below must be what a power cut would leave: an earlier process may have failed to make a removal durable.
    storage
        .sync_dir("")
        .map_err(OpenError::io("syncing the directory"))?;
    remove_unfinished(storage, &mut report)?;
    let (highest_cursor, damaged) = shared
        .cursors
        .load(storage)
        .map_err(OpenError::io("reading the cursors"))?;
    report.damaged_cursors = damaged;
    let mut found = look_at_all(storage, &shared.damage)?;
    let mut last_appended_at = i64::MIN;
    let mut floor = highest_cursor;
    report.clean = true;
    let mut empty = Vec::new();
    let mut ceiling = NEVER_TAKEN_OVER;
    let mut marked = true;
    while let Some(last) = found.segments.pop() {
        let tail = examine_last(storage, &last, floor, ceiling)?;
        last_appended_at = last_appended_at
            .max(last.created_at)
            .max(tail.last_appended_at.unwrap_or(i64::MIN));
        report.torn_bytes += tail.torn_bytes;
        if tail.is_empty(last.base) && (last.base == Offset::ZERO || !found.segments.is_empty()) {
            // Its base says how far the segment before it was durable, and where that stopped to count.
            floor = floor.max(last.base);
            ceiling = ceiling.min(last.base);
            empty.push(last);
            continue;
        }
        for hole in &tail.holes {
            shared.damage.report(hole_damage(&last, hole));
        }
        report.clean &= tail.sealed;
        let mut length = tail.length;
        if !tail.sealed {
            free_reserved(storage, &empty)?;
            length = seal(storage, &last, &tail, last_appended_at)?;
            marked = length > tail.length;
        }
        last.publish(tail.end, length);
        last.last_appended_at
            .store(last_appended_at, std::sync::atomic::Ordering::Relaxed);
        found.segments.push(last);
        break;
    }
    // Only now, and the highest only if the end mark stands in for it: its name is the proof of how far the segment before it was
    // durable. One that stays is replaced by the next segment, which has the same base.
    for segment in empty.into_iter().skip(usize::from(!marked)).rev() {
        remove(storage, &segment.name)?;
        report.removed.push(segment.name);
    }
    fill(storage, &shared.segments, &shared.damage, found.segments)?;
    finish(shared, &mut report, floor);
    Ok(Recovered {
        journal: found.journal.unwrap_or_else(new_journal_id),
        last_appended_at,
        report,
    })
}

fn finish(shared: &Shared, report: &mut RecoveryReport, floor: Offset) {
    let (end, bytes) = match shared.segments.last() {
        Some(last) => (last.extent().0, last.base_bytes + last.record_bytes()),
        None => (floor, 0),
    };
    shared.end.publish(end, bytes);
    (report.segments, report.bytes) = shared.segments.count_and_bytes();
    (report.start, report.end) = (shared.start(), end);
    report.damage = shared.damage.snapshot().0;
}

/// The ceiling of a segment that none followed.
const NEVER_TAKEN_OVER: Offset = Offset::new(u64::MAX);

/// What a look from outside finds.
pub(crate) struct Surveyed {
    /// The journal's name; `None` if no segment says it.
    pub(crate) journal: Option<u128>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

/// The same for a view: reads, decides, changes nothing. Returns start and end.
pub(crate) fn survey(
    storage: &dyn Storage,
    segments: &Segments,
    damage: &DamageBook,
) -> Result<Surveyed, OpenError> {
    let mut floor = Offset::ZERO;
    for cursor in crate::cursor::list(storage).map_err(OpenError::io("reading the cursors"))? {
        floor = floor.max(cursor.position.unwrap_or_default());
    }
    let mut found = look_at_all(storage, damage)?;
    if let Some(last) = found.segments.last_mut() {
        let file = last
            .open(storage)
            .map_err(OpenError::io(format!("opening {}", last.name)))?;
        let tail = tail::examine(&file, last.tag, last.base, floor, NEVER_TAKEN_OVER)
            .map_err(OpenError::io(format!("reading {}", last.name)))?;
        for hole in &tail.holes {
            damage.report(hole_damage(last, hole));
        }
        last.publish(tail.end, tail.length);
    }
    let journal = found.journal;
    fill(storage, segments, damage, found.segments)?;
    let end = segments.last().map_or(floor, |last| last.extent().0);
    let start = segments.first().map_or(end, |first| first.base);
    Ok(Surveyed {
        journal,
        start,
        end,
    })
}

fn hole_damage(segment: &Segment, hole: &tail::Hole) -> Damage {
    Damage {
        segment: segment.name.clone(),
        byte: hole.position,
        from: hole.from,
        to: hole.to,
        reason: hole.reason,
    }
}

/// Segments that never got their name, and cursors likewise, are of no use to anyone.
fn remove_unfinished(storage: &dyn Storage, report: &mut RecoveryReport) -> Result<(), OpenError> {
    for name in storage
        .list("")
        .map_err(OpenError::io("listing the directory"))?
    {
        let is_segment = name
            .strip_suffix(UNFINISHED)
            .and_then(parse_segment_name)
            .is_some();
        if is_segment {
            remove(storage, &name)?;
            report.removed.push(name);
        }
    }
    Ok(())
}

fn remove(storage: &dyn Storage, name: &str) -> Result<(), OpenError> {
    storage
        .remove(name)
        .map_err(OpenError::io(format!("removing {name}")))?;
    storage
        .sync_dir("")
        .map_err(OpenError::io("syncing the directory"))
}

struct Looked {
    /// Oldest first, with nothing published yet.
    segments: Vec<Segment>,
    journal: Option<u128>,
}

/// Reads every segment's header.
fn look_at_all(storage: &dyn Storage, damage: &DamageBook) -> Result<Looked, OpenError> {
    let names = storage
        .list("")
        .map_err(OpenError::io("listing the directory"))?;
    let mut bases: Vec<Offset> = names
        .iter()
        .filter_map(|name| parse_segment_name(name))
        .collect();
    bases.sort_unstable();
    let mut looked = Looked {
        segments: Vec::with_capacity(bases.len()),
        journal: None,
    };
    for base in bases {
        let segment = look_at(storage, base, &mut looked, damage)?;
        looked.segments.push(segment);
    }
    Ok(looked)
}

fn look_at(
    storage: &dyn Storage,
    base: Offset,
    looked: &mut Looked,
    damage: &DamageBook,
) -> Result<Segment, OpenError> {
    let name = crate::format::segment_name(base);
    let file = storage
        .open(&name)
        .map_err(OpenError::io(format!("opening {name}")))?;
    let mut bytes = [0; SEGMENT_HEADER];
    let read =
        read_full_at(&*file, &mut bytes, 0).map_err(OpenError::io(format!("reading {name}")))?;
    let header = match SegmentHeader::decode(&bytes) {
        Ok(header) if header.base == base && read == SEGMENT_HEADER => header,
        Err(BadSegmentHeader::Version(version)) => {
            return Err(OpenError::Version {
                segment: name,
                version,
            });
        }
        _ => {
            return look_past_header(file, base, looked, damage)
                .map_err(OpenError::io(format!("reading {name}")));
        }
    };
    match looked.journal {
        Some(journal) if journal != header.journal => {
            return Err(OpenError::ForeignSegment { segment: name });
        }
        _ => looked.journal = Some(header.journal),
    }
    Ok(Segment::new(
        base,
        header.base_bytes,
        header.created_at,
        Some(SegmentHeader::tag(&bytes)),
    ))
}

/// A segment whose header is lost: its first intact record tells the tag, its neighbour the rest.
fn look_past_header(
    file: Arc<dyn crate::storage::StorageFile>,
    base: Offset,
    looked: &Looked,
    damage: &DamageBook,
) -> io::Result<Segment> {
    let length = file.len()?;
    let mut scanner = Scanner::new(file, None, RECORDS_START, length);
    scanner.salvage = true;
    let first = scanner.resync(RECORDS_START, length, base, Offset::new(u64::MAX))?;
    let (base_bytes, earlier) = match looked.segments.last() {
        Some(before) => (before.base_bytes, before.created_at),
        None => (0, i64::MIN),
    };
    let created_at = first.map_or(earlier, |first| first.appended_at);
    let segment = Segment::new(base, base_bytes, created_at, first.map(|first| first.tag));
    damage.report(Damage {
        segment: segment.name.clone(),
        byte: 0,
        from: base,
        to: base,
        reason: DamageReason::SegmentHeader,
    });
    Ok(segment)
}

/// Reads the last segment in full, from the device: what an earlier process failed to sync may still look fine in the cache.
fn examine_last(
    storage: &dyn Storage,
    last: &Segment,
    floor: Offset,
    ceiling: Offset,
) -> Result<tail::Tail, OpenError> {
    let io = |error| OpenError::io(format!("reading {}", last.name))(error);
    let file = last.open(storage).map_err(io)?;
    file.sync_data().map_err(io)?;
    file.drop_cache().map_err(io)?;
    tail::examine(&file, last.tag, last.base, floor, ceiling).map_err(io)
}

/// Empty segments keep no more than their header, so that on a full disk there is room to mark the end of the one before them.
fn free_reserved(storage: &dyn Storage, empty: &[Segment]) -> Result<(), OpenError> {
    for segment in empty {
        let io = |error| OpenError::io(format!("cutting {}", segment.name))(error);
        let file = segment.open(storage).map_err(io)?;
        file.set_len(RECORDS_START)
            .and_then(|()| file.sync_data())
            .map_err(io)?;
    }
    Ok(())
}

/// Cuts what does not count and marks the end, if the disk has room for the mark and the segment's tag is known; returns the
/// length. What the mark vouches for is durable: `examine_last` synced it.
fn seal(
    storage: &dyn Storage,
    last: &Segment,
    tail: &tail::Tail,
    at: i64,
) -> Result<u64, OpenError> {
    let io = |error| OpenError::io(format!("sealing {}", last.name))(error);
    let file = last.open(storage).map_err(io)?;
    match last.tag {
        Some(tag) => write_end_mark(&**file, tag, tail.length, tail.end, at).map_err(io),
        None => {
            file.set_len(tail.length).map_err(io)?;
            file.sync_data().map_err(io)?;
            Ok(tail.length)
        }
    }
}

/// Publishes the older segments' extents and puts all into the table. What is missing at the end of one is noticed here already,
/// if its end mark says so.
fn fill(
    storage: &dyn Storage,
    table: &Segments,
    damage: &DamageBook,
    segments: Vec<Segment>,
) -> Result<(), OpenError> {
    let bounds: Vec<(Offset, i64)> = segments
        .iter()
        .map(|segment| (segment.base, segment.created_at))
        .collect();
    for (number, segment) in segments.into_iter().enumerate() {
        if let Some((next_base, next_created)) = bounds.get(number + 1) {
            let io = |error| OpenError::io(format!("reading {}", segment.name))(error);
            let file = segment.open(storage).map_err(io)?;
            let length = file.len().map_err(io)?.max(RECORDS_START);
            segment.publish(*next_base, length);
            segment
                .last_appended_at
                .store(*next_created, std::sync::atomic::Ordering::Relaxed);
            let mut bytes = [0; RECORD_HEADER];
            read_full_at(&**file, &mut bytes, length - RECORD_HEADER as u64).map_err(io)?;
            let mark = RecordHeader::decode(&bytes, segment.tag).filter(RecordHeader::is_end_mark);
            if let Some(mark) = mark.filter(|mark| mark.first < *next_base) {
                damage.report(Damage {
                    segment: segment.name.clone(),
                    byte: length,
                    from: mark.first,
                    to: *next_base,
                    reason: DamageReason::Missing,
                });
            }
        }
        table.push(Arc::new(segment));
    }
    Ok(())
}

/// A number that no other journal has and no client can guess.
fn new_journal_id() -> u128 {
    let half = |salt: u64| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(salt);
        hasher.write_u32(std::process::id());
        u128::from(hasher.finish())
    };
    (half(1) << 64) | half(2)
}
