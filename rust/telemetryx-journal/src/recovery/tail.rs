//! Where does the last segment end? The one question whose wrong answer loses or invents events.
//!
//! The segment is walked from the start. Where no intact record stands, the next intact one is searched for. Each intact record
//! *proves* how far the journal was durable when it was written (`first - unsynced`); so does an end mark, a later segment's base
//! and a cursor. Let P be the highest such proof, and `[X, Y)` a hole between intact records:
//!
//! - X ≥ P: nobody was told that X is durable. The hole is a torn write: cut there, whatever stands behind it (writes of one
//!   unsynced group may reach the disk in any order).
//! - Y ≤ P: the events were durable and are not there: damage. The hole stays as it is, reading goes on behind it.
//! - X < P < Y: damage up to P, and what stands behind was never durable: cut behind the hole.

use std::io;
use std::sync::Arc;

use crate::format::{RECORD_HEADER, RECORDS_START};
use crate::offset::Offset;
use crate::scan::{Found, Scanner, Step, content_end};
use crate::status::DamageReason;
use crate::storage::StorageFile;

/// What the last segment turned out to hold.
#[derive(Debug)]
pub(super) struct Tail {
    /// The offset after its last event.
    pub(super) end: Offset,
    /// The file position after what counts.
    pub(super) length: u64,
    /// Whether an end mark stands right there and the file ends with it.
    pub(super) sealed: bool,
    /// Bytes behind `length` that are not zero: a torn write.
    pub(super) torn_bytes: u64,
    pub(super) holes: Vec<Hole>,
    pub(super) last_appended_at: Option<i64>,
}

/// A stretch without intact records.
#[derive(Clone, Debug)]
pub(super) struct Hole {
    pub(super) from: Offset,
    pub(super) to: Offset,
    pub(super) position: u64,
    pub(super) until: u64,
    pub(super) reason: DamageReason,
}

/// The intact records of a segment and what they prove.
struct Walk {
    holes: Vec<Hole>,
    end: Offset,
    length: u64,
    proof: Offset,
    /// The last record, if nothing stood behind it.
    last_is_end_mark: bool,
    last_appended_at: Option<i64>,
    broken_tail: Option<DamageReason>,
    /// The file position where what may count ends: there a refused record stands, or zeros follow.
    content: u64,
}

/// Decides. `floor` is what is known to have been durable from elsewhere; from `ceiling` on a later segment took over, so
/// what stands here behind it was refused and never counts. Changes nothing.
pub(super) fn examine(
    file: &Arc<dyn StorageFile>,
    tag: Option<u32>,
    base: Offset,
    floor: Offset,
    ceiling: Offset,
) -> io::Result<Tail> {
    let file_length = file.len()?;
    let content = content_end(&**file, RECORDS_START.min(file_length), file_length)?;
    let walk = walk(file, tag, base, (floor, ceiling), file_length, content)?;
    let mut tail = settle(walk);
    tail.sealed &= tail.length == file_length;
    tail.torn_bytes = content.saturating_sub(tail.length);
    Ok(tail)
}

fn walk(
    file: &Arc<dyn StorageFile>,
    tag: Option<u32>,
    base: Offset,
    (floor, ceiling): (Offset, Offset),
    file_length: u64,
    content: u64,
) -> io::Result<Walk> {
    let mut scanner = Scanner::new(Arc::clone(file), tag, RECORDS_START, file_length);
    scanner.salvage = true;
    let mut walk = Walk {
        holes: Vec::new(),
        end: base,
        length: RECORDS_START,
        proof: floor.max(base),
        last_is_end_mark: false,
        last_appended_at: None,
        broken_tail: None,
        content: content.max(RECORDS_START),
    };
    loop {
        let at = scanner.position;
        if at >= content {
            return Ok(walk);
        }
        match scanner.step(walk.end, Offset::ZERO)? {
            Step::End => return Ok(walk),
            Step::Record(found) if found.header.end() > ceiling => {
                walk.content = found.position;
                return Ok(walk);
            }
            Step::Record(found) => {
                if found.header.first > walk.end {
                    walk.hole(&found, found.position, DamageReason::Missing);
                }
                walk.take(&found);
            }
            Step::Bad(reason) => {
                if scanner
                    .resync(at + 1, content, walk.end, Offset::new(u64::MAX))?
                    .is_none()
                {
                    walk.broken_tail = Some(reason);
                    return Ok(walk);
                }
                if let Step::Record(found) = scanner.step(walk.end, Offset::ZERO)? {
                    if found.header.end() > ceiling {
                        walk.broken_tail = Some(reason);
                        walk.content = found.position;
                        return Ok(walk);
                    }
                    walk.hole(&found, at, reason);
                    walk.take(&found);
                }
            }
        }
    }
}

impl Walk {
    fn hole(&mut self, found: &Found, position: u64, reason: DamageReason) {
        self.holes.push(Hole {
            from: self.end,
            to: found.header.first,
            position,
            until: found.position,
            reason,
        });
    }

    fn take(&mut self, found: &Found) {
        self.end = found.header.end();
        self.length = found.position + found.header.stored_len();
        self.proof = self.proof.max(found.header.proves_durable());
        self.last_is_end_mark = found.header.is_end_mark();
        self.last_appended_at = self.last_appended_at.max(Some(found.header.appended_at));
    }
}

/// Applies the rules above to the holes, in order.
fn settle(walk: Walk) -> Tail {
    let (proof, content) = (walk.proof, walk.content);
    let mut tail = Tail {
        end: walk.end,
        length: walk.length,
        sealed: walk.last_is_end_mark && walk.broken_tail.is_none(),
        torn_bytes: 0,
        holes: Vec::new(),
        last_appended_at: walk.last_appended_at,
    };
    for hole in walk.holes {
        let torn = hole.from >= proof && hole.to > hole.from;
        if torn {
            tail.cut(hole.from, hole.position);
            return tail;
        }
        let cut_behind = hole.to > proof;
        let to = hole.to.min(proof.max(hole.from));
        let until = hole.until;
        tail.holes.push(Hole { to, ..hole });
        if cut_behind {
            tail.cut(to, until);
            return tail;
        }
    }
    if tail.end < proof {
        tail.holes.push(Hole {
            from: tail.end,
            to: proof,
            position: tail.length,
            until: content,
            reason: walk.broken_tail.unwrap_or(DamageReason::Missing),
        });
        tail.cut(proof, content.max(tail.length));
    }
    tail
}

impl Tail {
    fn cut(&mut self, end: Offset, length: u64) {
        self.end = end;
        self.length = length;
        self.sealed = false;
    }

    /// Whether the segment holds nothing and never did, as far as anyone can tell.
    pub(super) fn is_empty(&self, base: Offset) -> bool {
        self.end == base
            && self.holes.is_empty()
            && self.length <= RECORDS_START + RECORD_HEADER as u64
    }
}
