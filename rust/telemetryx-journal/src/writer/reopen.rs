//! After a failed write or sync: nothing is believed until it was read back from the device.
//!
//! Linux marks pages clean when their write-back fails, so the next sync succeeds without them and the page cache still shows
//! them. Hence: sync once more (so that what *can* be written is), drop the cache, read what the device really has.

use std::io;
use std::sync::Arc;

use super::segment::SegmentWriter;
use super::{Core, Trouble};
use crate::error::AppendError;
use crate::format::RECORDS_START;
use crate::offset::Offset;
use crate::scan::{Scanner, Step};
use crate::shared::DamageBook;
use crate::status::{Damage, DamageReason};

impl Core {
    /// Reads the failed segment back and begins a new one at the durable end. On failure the journal stays unhealthy and waits
    /// longer before the next attempt.
    pub(super) fn reopen(&mut self) -> Result<(), AppendError> {
        let Some(Trouble::Failed {
            segment,
            reason,
            pause,
            ..
        }) = self.trouble.take()
        else {
            return Ok(());
        };
        let first_reason = Arc::clone(&reason);
        match self.read_back(segment) {
            Ok(()) => {}
            Err((segment, error)) => {
                tracing::warn!(%error, "the journal could not be read back yet");
                self.postpone(Some(segment), reason, pause);
                return Err(AppendError::Unhealthy {
                    reason: first_reason,
                });
            }
        }
        match self.begin_segment(0) {
            Ok(()) => {
                self.all_well();
                Ok(())
            }
            Err(error @ AppendError::NoSpace) => Err(error),
            Err(_) => {
                self.postpone(None, reason, pause);
                Err(AppendError::Unhealthy {
                    reason: first_reason,
                })
            }
        }
    }

    fn postpone(
        &mut self,
        segment: Option<Box<SegmentWriter>>,
        reason: Arc<str>,
        pause: std::time::Duration,
    ) {
        let pause = (pause * 2).min(self.options.retry_max);
        self.trouble = Some(Trouble::Failed {
            segment,
            reason,
            retry_at: self.shared.clock.monotonic() + pause,
            pause,
        });
    }

    fn read_back(
        &mut self,
        failed: Option<Box<SegmentWriter>>,
    ) -> Result<(), (Box<SegmentWriter>, io::Error)> {
        let Some(failed) = failed else {
            return Ok(());
        };
        let (end, length) = match look_at_device(&failed, &self.shared.damage) {
            Ok(without_hole) => without_hole,
            Err(error) => return Err((failed, error)),
        };
        // With `FsyncPolicy::Interval` some of this was acknowledged without a sync. What of it is on the device counts, what is not
        // becomes a gap, and its offsets are not given out again. But only the base of a next segment proves to a recovery that
        // there was something in the gap: what lies behind it counts from then on.
        let segment = &failed.segment;
        segment.publish(end, length);
        self.shared
            .end
            .publish(end, segment.base_bytes + segment.record_bytes());
        self.next = failed.next;
        self.settling = Some((Arc::clone(segment), failed.next, failed.position));
        let length = failed.position;
        // Only tidiness: the next segment's base says where this one ends.
        if let Err(error) = failed.file.set_len(length) {
            tracing::debug!(%error, "could not cut the failed segment");
        }
        Ok(())
    }
}

/// Reads everything acknowledged back from the device and reports what is not there. Returns how far, from the durable end on, there is
/// no hole.
fn look_at_device(failed: &SegmentWriter, damage: &DamageBook) -> io::Result<(Offset, u64)> {
    failed.file.sync_data()?;
    failed.file.drop_cache()?;
    let (end, length) = (failed.next, failed.position);
    let file = Arc::clone(&*failed.file);
    let mut scanner = Scanner::new(file, Some(failed.tag), RECORDS_START, length);
    let mut expected = failed.segment.base;
    let durable = failed.segment.extent();
    let mut without_hole = durable;
    let mut hole = false;
    while expected < end {
        let at = scanner.position;
        let (to, after, reason) = match scanner.step(expected, expected)? {
            Step::Record(found) => (
                found.header.first,
                found.header.end(),
                DamageReason::Missing,
            ),
            Step::End => (end, end, DamageReason::Missing),
            Step::Bad(reason) => match scanner.resync(at + 1, length, expected, end)? {
                Some(header) => (header.first, header.first, reason),
                None => (end, end, reason),
            },
        };
        if to > expected {
            damage.report(gap(failed, at, expected, to, reason));
            hole |= to > durable.0;
        }
        expected = after;
        if !hole && expected > durable.0 {
            without_hole = (expected, scanner.position);
        }
    }
    Ok(without_hole)
}

fn gap(
    failed: &SegmentWriter,
    byte: u64,
    from: Offset,
    to: Offset,
    reason: DamageReason,
) -> Damage {
    Damage {
        segment: failed.segment.name.clone(),
        byte,
        from,
        to,
        reason,
    }
}
