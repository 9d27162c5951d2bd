//! Receipts: a 202 carries the journal position of its events; asked later, it says where each of them is.
//!
//! Nothing is kept for a receipt: its text is the position, with a check value of this journal so that a mistyped or
//! foreign one is not answered. Position against the route's position says what is pending; the dead letters say what is
//! dead; the filter, asked again, says what was filtered; the rest is delivered.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Query;
use crate::clock;
use crate::intake::Refusal;
use crate::journal::{Delivery, Position};
use crate::route::{Cause, RouteHandle};

/// A receipt's text: first offset, number of events, check value, in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    position: Position,
    check: u64,
}

impl Receipt {
    /// The receipt for `position` in the journal of that identity.
    #[must_use]
    pub fn new(position: Position, identity: u128) -> Self {
        let digest = Sha256::new()
            .chain_update(identity.to_le_bytes())
            .chain_update(position.first.to_le_bytes())
            .chain_update(position.events.to_le_bytes())
            .finalize();
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
        write!(
            f,
            "{:x}-{:x}-{:016x}",
            self.position.first, self.position.events, self.check
        )
    }
}

impl FromStr for Receipt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().ok_or(());
        let first = u64::from_str_radix(next()?, 16).map_err(drop)?;
        let events = u32::from_str_radix(next()?, 16).map_err(drop)?;
        let check = u64::from_str_radix(next()?, 16).map_err(drop)?;
        Ok(Self {
            position: Position { first, events },
            check,
        })
    }
}

/// Where the events of one 202 are.
///
/// # Errors
/// [`Refusal::NotFound`] if it is no receipt of ours, or its events have left the journal.
pub fn receipt(of: &Query, text: &str) -> Result<Value, Refusal> {
    let unknown = || Refusal::NotFound("this is no receipt of this journal".into());
    let receipt: Receipt = text.parse().map_err(|()| unknown())?;
    let position = receipt.position;
    let end = position
        .first
        .checked_add(position.events.into())
        .ok_or_else(unknown)?;
    if receipt != Receipt::new(position, of.journal.identity()) || end > of.journal.end() {
        return Err(unknown());
    }
    // The routes first: what they settle from here on is at worst shown as pending.
    let seen: Vec<_> = of
        .routes
        .iter()
        .map(|route| (route, route.status().position))
        .collect();
    let unavailable = |error: &dyn fmt::Display| Refusal::Unavailable(error.to_string());
    let dead = of
        .control
        .dead_between(position.first, end)
        .map_err(|error| unavailable(&error))?;
    let Some(delivery) = of
        .journal
        .read(position)
        .map_err(|error| unavailable(&error))?
    else {
        return Err(Refusal::NotFound(
            "the receipt has expired: its events have left the journal".into(),
        ));
    };
    let mut routes = Map::new();
    for (route, passed) in seen {
        let dead: Vec<_> = dead
            .iter()
            .filter(|(name, offset, _)| name == route.name() && *offset < passed)
            .collect();
        routes.insert(
            route.name().to_owned(),
            state(route, passed, &delivery, &dead),
        );
    }
    Ok(
        json!({ "durability": of.journal.durability(), "events": position.events, "routes": routes }),
    )
}

fn state(
    route: &RouteHandle,
    passed: u64,
    delivery: &Delivery,
    dead: &[&(String, u64, String)],
) -> Value {
    let total = delivery.end - delivery.first;
    let settled = passed.clamp(delivery.first, delivery.end) - delivery.first;
    let mut filtered = 0;
    if !route.filter().is_open() && settled > 0 {
        // Nobody delivers it; it is only asked what the filter says.
        let batch = delivery.decode(Cause::Replay, clock::now(), |_, _| {});
        let unwanted =
            |(offset, event): &(u64, &_)| *offset < passed && !route.filter().wants(event);
        filtered = batch.offsets().filter(unwanted).count() as u64;
    }
    let held = delivery.offsets().filter(|offset| *offset < passed).count() as u64;
    let expired = settled - held.min(settled);
    let dead_count = dead.len() as u64;
    let pending = total - settled;
    let delivered = held.saturating_sub(filtered + dead_count);
    let state = match (pending, dead_count + expired) {
        (0, 0) => "delivered",
        (0, _) => "partial",
        _ => "pending",
    };
    let mut answer = json!({
        "state": state, "delivered": delivered, "filtered": filtered, "dead": dead_count, "pending": pending,
    });
    if expired > 0 {
        answer["expired"] = expired.into();
    }
    if let Some((_, _, why)) = dead.first() {
        answer["why"] = why.as_str().into();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_survives_its_text_and_is_of_one_journal_only() {
        let position = Position {
            first: 1_000_000,
            events: 20,
        };
        let receipt = Receipt::new(position, 7);
        assert_eq!(receipt.to_string().parse(), Ok(receipt));
        assert_ne!(receipt, Receipt::new(position, 8));
        for text in ["", "1-2", "1-2-zz", "1-2-3-4", "ffffffffffffffffff-1-0"] {
            assert_eq!(text.parse::<Receipt>(), Err(()), "{text}");
        }
    }
}
