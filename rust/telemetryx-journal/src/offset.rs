//! Numbers with a meaning: [`Offset`] counts events, [`Position`] is what an append resolves to.
//!
//! Nothing here knows of files. Byte positions stay plain `u64` inside the crate: they never leave it except in reports.

use std::fmt;
use std::ops::Add;

/// The number of an event in the journal: the first event ever appended is 0, and there are no gaps.
///
/// An offset also serves as a boundary: "up to offset 10" means events 0 to 9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The first event of a new journal.
    pub const ZERO: Offset = Offset(0);

    /// The offset with this number.
    #[must_use]
    pub const fn new(number: u64) -> Offset {
        Offset(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// How many events lie from `earlier` up to here; `None` if `earlier` is in truth later.
    #[must_use]
    pub const fn checked_since(self, earlier: Offset) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// How many events lie from `earlier` up to here, or zero if `earlier` is in truth later.
    #[must_use]
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The offset `events` further on; `None` past the end of numbers.
    #[must_use]
    pub const fn checked_add(self, events: u64) -> Option<Offset> {
        match self.0.checked_add(events) {
            Some(number) => Some(Offset(number)),
            None => None,
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Add<u64> for Offset {
    type Output = Offset;

    fn add(self, events: u64) -> Offset {
        Offset(self.0 + events)
    }
}

impl From<Offset> for u64 {
    fn from(offset: Offset) -> u64 {
        offset.0
    }
}

/// Where an appended record stands: its events are `first .. first + events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The offset of the record's first event.
    pub first: Offset,
    /// How many events the record holds.
    pub events: u32,
}

impl Position {
    /// The offset after the record's last event.
    #[must_use]
    pub fn end(self) -> Offset {
        self.first + u64::from(self.events)
    }
}
