//! After a failed write or sync: nothing is believed until it was read back from the device.
//!
//! Linux marks pages clean when their write-back fails, so the next sync succeeds without them and the page cache still shows
//! them. Hence: sync once more (so that what *can* be written is), drop the cache, read what the device really has.

use std::io;
use std::sync::Arc;

use super::segment::SegmentWriter;
use super::{Core, Trouble};
use crate::error::AppendError;
use crate::offset::Offset;
use crate::reader::RECORDS_START;
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
        let (end, length) = match what_is_there(&failed, &self.shared.damage) {
            Ok(found) => found,
            Err(error) => return Err((failed, error)),
        };
        let segment = &failed.segment;
        segment.publish(end, length);
        // Acknowledged without a sync (`FsyncPolicy::Interval`) and lost: their offsets are not given out again, and readers
        // will meet a gap.
        if failed.next > end {
            self.shared.damage.report(Damage {
                segment: segment.name.clone(),
                byte: length,
                from: end,
                to: failed.next,
                reason: DamageReason::Missing,
            });
        }
        self.next = failed.next;
        // The gap itself shows when the next segment is there to end it.
        self.shared
            .end
            .publish(end, segment.base_bytes + segment.record_bytes());
        // Only tidiness: the next segment's base says where this one ends.
        if let Err(error) = failed.file.set_len(length) {
            tracing::debug!(%error, "could not cut the failed segment");
        }
        Ok(())
    }
}

/// How far the segment really goes on the device, in events and bytes: at least to its durable end (records missing before it are
/// damage), and over records acknowledged without a sync as far as they are intact without a hole.
fn what_is_there(failed: &SegmentWriter, damage: &DamageBook) -> io::Result<(Offset, u64)> {
    failed.file.sync_data()?;
    failed.file.drop_cache()?;
    let segment = &failed.segment;
    let (durable, durable_length) = segment.extent();
    let mut scanner = Scanner::new(
        Arc::clone(&*failed.file),
        Some(failed.tag),
        RECORDS_START,
        durable_length,
    );
    let mut expected = segment.base;
    while expected < durable {
        let at = scanner.position;
        let (to, reason) = match scanner.step(expected, expected)? {
            Step::Record(found) => {
                let to = found.header.first;
                let from = std::mem::replace(&mut expected, found.header.end());
                if to == from {
                    continue;
                }
                damage.report(gap(failed, at, from, to, DamageReason::Missing));
                continue;
            }
            Step::End => (durable, DamageReason::Missing),
            Step::Bad(reason) => match scanner.resync(at + 1, durable_length, expected, durable)? {
                Some(header) => (header.first, reason),
                None => (durable, reason),
            },
        };
        if to > expected {
            damage.report(gap(failed, at, expected, to, reason));
        }
        expected = to;
    }
    let mut scanner = Scanner::new(
        Arc::clone(&*failed.file),
        Some(failed.tag),
        durable_length,
        failed.position,
    );
    let (mut end, mut length) = (durable, durable_length);
    while let Step::Record(found) = scanner.step(end, end)? {
        if found.header.first != end || found.header.is_end_mark() {
            break;
        }
        end = found.header.end();
        length = scanner.position;
    }
    Ok((end, length))
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
