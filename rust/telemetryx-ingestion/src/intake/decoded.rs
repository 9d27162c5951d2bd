//! What one pass over a body leaves: events ready for the journal, and what became of the others.

use telemetryx_common::ids::EventIds;
use telemetryx_common::{ErrorCode, Event, EventError, Timestamp, wire};

use super::refused::Refused;
use super::share::Share;
use crate::admission::{Allowance, MemoryPermit, OverflowGate, RateLimiter, Shortage, Spent};
use crate::observe::ShedTally;

/// The events of one body, and what became of those that are not taken.
pub(super) struct Decoded {
    pub(super) encoded: Vec<u8>,
    pub(super) events: u32,
    pub(super) earliest: Timestamp,
    pub(super) latest: Timestamp,
    pub(super) refused: Refused,
    /// How many of them are of a source that the key may not send for.
    pub(super) foreign: usize,
    pub(super) over_limit: OverLimit,
    /// What the overflow policy dropped; `None`: nothing.
    pub(super) shed: Option<Box<ShedTally>>,
    /// What there was no memory for.
    pub(super) shortage: Option<Shortage>,
}

impl Decoded {
    /// Nothing yet of a body of so many bytes.
    pub(super) fn new(body_bytes: usize, refused: Refused) -> Self {
        Self {
            encoded: Vec::with_capacity(body_bytes + 64),
            events: 0,
            earliest: Timestamp::from_unix_nanos(i64::MAX),
            latest: Timestamp::from_unix_nanos(i64::MIN),
            refused,
            foreign: 0,
            over_limit: OverLimit::default(),
            shed: None,
            shortage: None,
        }
    }

    /// Takes memory for more. Dead letters are given up where the request could else never be taken.
    pub(super) fn grow(&mut self, permit: &mut MemoryPermit, more: usize) {
        let mut grown = permit.grow(more);
        let letters = self.refused.letters_bytes();
        if grown == Err(Shortage::Spent) && permit.would_exceed_budget(letters + more) {
            self.refused.lose_letters();
            grown = permit.grow(more);
        }
        if let Err(shortage) = grown {
            self.shortage.get_or_insert(shortage);
        }
    }

    /// Encodes an event that is right, if the overflow policy keeps it.
    pub(super) fn take(
        &mut self,
        mut event: Event<'_>,
        index: u32,
        ids: &EventIds,
        share: Share,
        overflow: &OverflowGate,
    ) {
        if !share.keeps(&mut event, overflow) {
            return self.shed.get_or_insert_default().add(&event);
        }
        let mut buffer = [0; 36];
        let id = if event.id.is_empty() {
            ids.id_for(index, &mut buffer)
        } else {
            &event.id
        };
        wire::encode_event(&event, id, &mut self.encoded);
        self.earliest = self.earliest.min(event.ts);
        self.latest = self.latest.max(event.ts);
        self.events += 1;
    }
}

/// Events of one request that were over the rate limit of their source.
#[derive(Default)]
pub(super) struct OverLimit {
    pub(super) events: usize,
    /// The one that has a token again first.
    pub(super) spent: Option<Spent>,
    /// What is left in the emptiest bucket.
    pub(super) allowance: Option<Allowance>,
}

impl OverLimit {
    /// Takes a token for the event, if events take them.
    pub(super) fn take(
        &mut self,
        limiter: Option<&RateLimiter>,
        event: &Event<'_>,
        index: u32,
    ) -> Result<(), EventError> {
        let Some(limiter) = limiter else {
            return Ok(());
        };
        let (allowance, spent) = match limiter.take_for(&event.source) {
            Ok(allowance) => (allowance, None),
            Err(spent) => (Some(spent.into()), Some(spent)),
        };
        self.allowance = allowance.map_or(self.allowance, |new| Some(new.tighter(self.allowance)));
        let Some(spent) = spent else {
            return Ok(());
        };
        self.events += 1;
        let first = self
            .spent
            .map_or(spent.retry_after, |first| first.retry_after);
        self.spent = Some(Spent {
            retry_after: spent.retry_after.min(first),
            ..spent
        });
        Err(EventError {
            index,
            field: "source".into(),
            code: ErrorCode::RateLimited,
            message: format!(
                "source `{}` sends more than its rate limit allows; send this event again in {:.3} s",
                event.source,
                spent.retry_after.as_secs_f64()
            ),
        })
    }
}
