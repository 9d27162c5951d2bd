//! Receipts: a 202 carries the journal position of its events; asked later, it says where each of them is.
//!
//! Nothing is kept for a receipt: its text is the position, with a check value of this journal so that a mistyped or
//! foreign one is not answered. Position against the route's position says what is pending; the dead letters say what is
//! dead; the filter, asked again, says what was filtered; the rest is delivered.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{Query, progress};
use crate::clock;
use crate::intake::Refusal;
use crate::journal::{BatchLimit, Delivery, Position, Range};
use crate::route::{Cause, RouteHandle};

/// A receipt's text: for each run of events its first offset and how many they are, then a check value; numbers are
/// hexadecimal. A run in another partition than 0 has that in front: `3.1a2b-5_4.77c-2-0123456789abcdef`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    position: Position,
    check: u64,
}

impl Receipt {
    /// The receipt for `position` in the journal of that identity.
    #[must_use]
    pub fn new(position: Position, identity: u128) -> Self {
        let mut digest = Sha256::new().chain_update(identity.to_le_bytes());
        for range in &position.ranges {
            if range.partition > 0 {
                digest.update(range.partition.to_le_bytes());
            }
            digest.update(range.first.to_le_bytes());
            digest.update(range.events.to_le_bytes());
        }
        let digest = digest.finalize();
        let check = digest
            .iter()
            .take(8)
            .fold(0, |check, byte| check << 8 | u64::from(*byte));
        Self { position, check }
    }

    /// Writes its text.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        write!(out, "{self}").ok();
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.position.ranges.iter().enumerate() {
            if place > 0 {
                f.write_str("_")?;
            }
            if range.partition > 0 {
                write!(f, "{:x}.", range.partition)?;
            }
            write!(f, "{:x}-{:x}", range.first, range.events)?;
        }
        write!(f, "-{:016x}", self.check)
    }
}

impl FromStr for Receipt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| u64::from_str_radix(text, 16).map_err(drop);
        let range = |text: &str| {
            let (partition, run) = text.split_once('.').unwrap_or(("0", text));
            let (first, events) = run.split_once('-').ok_or(())?;
            Ok(Range {
                partition: number(partition)?.try_into().map_err(drop)?,
                first: number(first)?,
                events: number(events)?.try_into().map_err(drop)?,
            })
        };
        let (ranges, check) = text.rsplit_once('-').ok_or(())?;
        Ok(Self {
            position: Position {
                ranges: ranges.split('_').map(range).collect::<Result<_, ()>>()?,
            },
            check: number(check)?,
        })
    }
}

/// Where the events of one 202 are.
///
/// # Errors
/// [`Refusal::NotFound`] if it is no receipt of ours, or its events have left the journal.
pub fn receipt(of: &Query, text: &str) -> Result<Value, Refusal> {
    let unknown = || Refusal::NotFound("this is no receipt of this journal".into());
    let expired =
        || Refusal::NotFound("the receipt has expired: its events have left the journal".into());
    let receipt: Receipt = text.parse().map_err(|()| unknown())?;
    let identity = of.journal.identity_of(&receipt.position);
    if receipt != Receipt::new(receipt.position.clone(), identity) {
        return Err(unknown());
    }
    let runtime = Handle::current();
    let unavailable = |error: &dyn fmt::Display| Refusal::Unavailable(error.to_string());
    // Where they are comes first: what is seen of the journal after that knows of it.
    let located = runtime
        .block_on(of.journal.locate(&receipt.position))
        .map_err(|error| unavailable(&error))?;
    if located.forgotten > 0 {
        return Err(expired());
    }
    runtime.block_on(of.refresh());
    // The routes first: what they settle from here on is at worst shown as pending.
    let seen: Vec<_> = of
        .routes
        .iter()
        .map(|route| (route, progress::of_route(of, route)))
        .collect();
    let extents = of.journal.extents();
    let waiting = Found {
        pending: located.waiting,
        ..Found::default()
    };
    let mut found = vec![waiting; seen.len()];
    for range in &located.position.ranges {
        let extent = extents.iter().find(|it| it.partition == range.partition);
        let extent = extent.ok_or_else(unknown)?;
        if range.end() > extent.end {
            return Err(unknown());
        }
        if range.first < extent.start {
            return Err(expired());
        }
        let dead = of
            .control
            .dead_between(range.partition, range.first, range.end())
            .map_err(|error| unavailable(&error))?;
        let limit = BatchLimit {
            events: usize::MAX,
            bytes: usize::MAX,
            wait: Duration::ZERO,
        };
        let scan = of
            .journal
            .scan(range.partition, range.first, range.end(), limit);
        let delivery = runtime
            .block_on(scan)
            .map_err(|error| unavailable(&error))?;
        if delivery.end < range.end() {
            return Err(expired());
        }
        for (found, (route, partitions)) in std::iter::zip(&mut found, &seen) {
            let partition = partitions
                .iter()
                .find(|it| it.extent.partition == range.partition);
            let passed = partition.map_or(0, |it| it.progress.position);
            let dead = dead
                .iter()
                .filter(|(name, offset, _)| name == route.name() && *offset < passed);
            found.look(route, passed, &delivery, dead);
        }
    }
    let routes: Map<_, _> = std::iter::zip(&seen, found)
        .map(|((route, _), found)| (route.name().to_owned(), found.shown()))
        .collect();
    let durability = match located.waiting {
        0 => of.journal.durability(),
        _ => of.journal.durability_of(&receipt.position),
    };
    Ok(json!({
        "durability": durability,
        "events": receipt.position.events(),
        "routes": routes,
    }))
}

/// What became of a receipt's events in one route.
#[derive(Clone, Default)]
struct Found {
    delivered: u64,
    filtered: u64,
    dead: u64,
    pending: u64,
    expired: u64,
    why: Option<String>,
}

impl Found {
    /// Adds the events of one run; `passed`: the route's position in its partition, `dead`: what of them is dead by then.
    fn look<'d>(
        &mut self,
        route: &RouteHandle,
        passed: u64,
        delivery: &Delivery,
        dead: impl Iterator<Item = &'d (String, u64, String)>,
    ) {
        let settled = passed.clamp(delivery.first, delivery.end) - delivery.first;
        let mut filtered = 0;
        if !route.filter().is_open() && settled > 0 {
            // Nobody delivers it; it is only asked what the filter says.
            let batch = delivery.decode(Cause::Replay, clock::now(), |_, _| {});
            let unwanted =
                |(offset, event): &(u64, &_)| *offset < passed && !route.filter().wants(event);
            filtered = batch.offsets().filter(unwanted).count() as u64;
        }
        let mut count = 0;
        for (_, _, why) in dead {
            count += 1;
            self.why.get_or_insert_with(|| why.clone());
        }
        let held = delivery.offsets().filter(|offset| *offset < passed).count() as u64;
        self.expired += settled - held.min(settled);
        self.pending += delivery.end - delivery.first - settled;
        self.delivered += held.saturating_sub(filtered + count);
        self.filtered += filtered;
        self.dead += count;
    }

    fn shown(self) -> Value {
        let state = match (self.pending, self.dead + self.expired) {
            (0, 0) => "delivered",
            (0, _) => "partial",
            _ => "pending",
        };
        let mut answer = json!({
            "state": state, "delivered": self.delivered, "filtered": self.filtered, "dead": self.dead,
            "pending": self.pending,
        });
        if self.expired > 0 {
            answer["expired"] = self.expired.into();
        }
        if let Some(why) = self.why {
            answer["why"] = why.into();
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_survives_its_text_and_is_of_one_journal_only() {
        let range = |partition, first, events| Range {
            partition,
            first,
            events,
        };
        for ranges in [
            vec![range(0, 1_000_000, 20)],
            vec![range(0, 0, 1), range(3, 7, 2), range(u32::MAX, 9, u32::MAX)],
        ] {
            let position = Position {
                ranges: ranges.into(),
            };
            let receipt = Receipt::new(position.clone(), 7);
            assert_eq!(receipt.to_string().parse(), Ok(receipt.clone()));
            assert_ne!(receipt, Receipt::new(position, 8));
        }
        for text in ["", "1-2", "1-2-zz", "1-2-3-4", "ffffffffffffffffff-1-0"] {
            assert_eq!(text.parse::<Receipt>(), Err(()), "{text}");
        }
    }
}
