//! Retention: removes old segments from the front. One at a time, each removal durable before the next, so that a power cut
//! cannot bring back an older segment while a newer one is gone.

use std::io;
use std::sync::atomic::Ordering;

use super::Core;
use crate::segments::Segment;

impl Core {
    pub(super) fn has_retention(&self) -> bool {
        self.options.retain.bytes.is_some()
            || self.options.retain.age.is_some()
            || self.removing.is_some()
    }

    /// Removes what may go. Failures are logged and tried again the next time.
    pub(super) fn run_retention(&mut self) {
        self.retention_due = self.shared.clock.monotonic() + self.options.retention_interval;
        loop {
            if let Err(error) = self.finish_removing() {
                tracing::warn!(%error, "could not remove an old segment; will try again");
                return;
            }
            if !self.take_oldest_if_due() {
                return;
            }
        }
    }

    /// Removes the file of the segment that was taken out of the table.
    fn finish_removing(&mut self) -> io::Result<()> {
        let Some(name) = &self.removing else {
            return Ok(());
        };
        match self.shared.storage.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.shared.storage.sync_dir("")?;
        tracing::info!(segment = name, start = %self.shared.start(), "removed an old segment");
        self.removing = None;
        Ok(())
    }

    /// Takes the oldest segment out of the table, if it is due, every cursor has passed it, and it is not the newest with events
    /// (which tells where to go on after a restart).
    fn take_oldest_if_due(&mut self) -> bool {
        let segments = &self.shared.segments;
        let (Some(oldest), Some(second)) = (segments.first(), segments.second()) else {
            return false;
        };
        if second.base >= self.shared.end.get() || !self.is_due(&oldest) {
            return false;
        }
        let taken = self.shared.cursors.while_held(|passed| {
            let free = passed.is_none_or(|passed| passed >= second.base);
            if free {
                segments.pop_front();
            }
            free
        });
        if taken {
            self.removing = Some(oldest.name.clone());
        }
        taken
    }

    fn is_due(&self, oldest: &Segment) -> bool {
        let retain = &self.options.retain;
        let too_much = retain
            .bytes
            .is_some_and(|limit| self.shared.segments.count_and_bytes().1 > limit);
        let too_old = retain.age.is_some_and(|limit| {
            let age = self
                .shared
                .clock
                .wall_ns()
                .saturating_sub(oldest.last_appended_at.load(Ordering::Relaxed));
            u128::try_from(age).is_ok_and(|age| age > limit.as_nanos())
        });
        too_much || too_old
    }
}
