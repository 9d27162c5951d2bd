//! Where a route is in the new journal, and its books there.
//!
//! Events are appended in the order of the file, and of each it is known who has passed it. As long as a route has passed
//! everything that went into a partition, its position there is the partition's end. With the first event that it has not
//! passed, the position stays: what it has passed of those behind it comes again, and is taken out of its books, to be
//! booked again.

use crate::journal::Range;
use crate::route::{Books, Saved};

/// A route on its way.
pub(super) struct Placed {
    pub(super) name: String,
    /// It has passed what is appended now.
    passes: bool,
    /// By partition.
    partitions: Vec<InPartition>,
    /// What became of all events that it has passed, in the old journal.
    books: Books,
    /// What became of those that come again.
    again: Books,
    /// Letters of events that are in no partition.
    letters_elsewhere: u64,
}

#[derive(Debug, Clone, Default)]
struct InPartition {
    /// Its position.
    position: u64,
    /// Something behind its position is not passed.
    is_behind: bool,
    /// Letters that it keeps there.
    letters: u64,
}

/// Where it is in the end.
pub(super) struct Place {
    pub(super) position: u64,
    pub(super) saved: Saved,
}

impl Placed {
    /// A route with what it had booked, in a journal of so many partitions.
    pub(super) fn new(name: &str, books: Books, partitions: usize) -> Self {
        Self {
            name: name.to_owned(),
            passes: false,
            partitions: vec![InPartition::default(); partitions],
            books,
            again: Books::default(),
            letters_elsewhere: 0,
        }
    }

    /// Says whether it has passed what comes now.
    pub(super) fn set_passes(&mut self, passes: bool) {
        self.passes = passes;
    }

    pub(super) fn passes(&self) -> bool {
        self.passes
    }

    /// True if some of what comes now may come again, and which depends on the partition that it goes to.
    pub(super) fn is_divided(&self) -> bool {
        let behind = || self.partitions.iter().map(|it| it.is_behind);
        self.passes && behind().any(|it| it) && !behind().all(|it| it)
    }

    /// Events went there; so many of them its filter leaves out, if they come again.
    pub(super) fn appended(&mut self, ranges: &[Range], unwanted: u64) {
        let mut unwanted = unwanted;
        for range in ranges {
            let Some(it) = self.partitions.get_mut(range.partition as usize) else {
                continue;
            };
            let events = u64::from(range.events);
            if !self.passes {
                it.is_behind = true;
            } else if it.is_behind {
                let filtered = unwanted.min(events);
                unwanted -= filtered;
                self.again.filtered += filtered;
                self.again.delivered += events - filtered;
            } else {
                it.position = range.end();
            }
        }
    }

    /// Events are missing: those that it has not passed have expired for it.
    pub(super) fn missing(&mut self, events: u64) {
        if !self.passes {
            self.books.expired += events;
        }
    }

    /// An event that was appended alone, to there, is a dead letter of it; where the letter is to be. `None`: the event
    /// comes again.
    pub(super) fn letter(
        &mut self,
        range: &Range,
        was_unwanted: bool,
    ) -> Option<(u32, Option<u64>)> {
        let it = self.partitions.get_mut(range.partition as usize)?;
        if self.passes && !it.is_behind {
            it.letters += 1;
            return Some((range.partition, Some(range.first)));
        }
        if self.passes {
            // It was taken for delivered, or for left out.
            let was = match was_unwanted {
                true => &mut self.again.filtered,
                false => &mut self.again.delivered,
            };
            *was = was.saturating_sub(1);
            self.again.dead += 1;
        }
        None
    }

    /// A letter whose event is in no partition; where it is to be.
    pub(super) fn letter_elsewhere(&mut self) -> (u32, Option<u64>) {
        self.letters_elsewhere += 1;
        (0, None)
    }

    /// Events that it will see again.
    pub(super) fn again(&self) -> u64 {
        self.again.passed()
    }

    /// Where it is, partition by partition. `carried`: events of the old journal that are not in the new one. Also by how many
    /// events its books were off in the old one: they are set right.
    pub(super) fn finish(self, carried: u64) -> (Vec<Place>, i128) {
        let passed = self.partitions.iter().map(|it| it.position).sum::<u64>() + carried;
        let mut books = self.books;
        let mut again = self.again;
        // Deliveries that are none any more. What a processor left out was taken for delivered, so there may be too few.
        let mut rest = take(&mut books.dead, &mut again.dead);
        rest += take(&mut books.filtered, &mut again.filtered);
        rest += take(&mut books.delivered, &mut again.delivered);
        let off = i128::from(books.passed()) - i128::from(rest) - i128::from(passed);
        let mut more = books.passed().saturating_sub(passed);
        for part in [
            &mut books.delivered,
            &mut books.filtered,
            &mut books.expired,
            &mut books.dead,
        ] {
            take(part, &mut more);
        }
        books.expired += passed.saturating_sub(books.passed());

        // Letters are booked where they lie, since from there they are taken out; the rest is booked wherever there is room.
        let mut places = Vec::with_capacity(self.partitions.len());
        for (number, it) in self.partitions.iter().enumerate() {
            let is_first = number == 0;
            let carried = if is_first { carried } else { 0 };
            let mut letters = it.letters + if is_first { self.letters_elsewhere } else { 0 };
            let mut room = it.position + carried;
            letters = letters.min(room);
            let wanted = letters;
            let missing = take(&mut books.dead, &mut letters);
            let dead = wanted - missing;
            room -= dead;
            places.push((it.position, carried, dead, room));
        }
        let places = places
            .into_iter()
            .map(|(position, carried, dead, mut room)| {
                let mut fill = |part: &mut u64| {
                    let before = room;
                    take(part, &mut room);
                    before - room
                };
                let share = Books {
                    delivered: fill(&mut books.delivered),
                    filtered: fill(&mut books.filtered),
                    expired: fill(&mut books.expired),
                    dead: dead + fill(&mut books.dead),
                };
                let saved = Saved {
                    books: share,
                    carried,
                    // It has had nothing by the offsets of this journal.
                    rests: true,
                    ..Saved::default()
                };
                Place { position, saved }
            });
        (places.collect(), off)
    }
}

/// Takes `wanted` away, as far as it is there; what is left of `wanted`.
fn take(from: &mut u64, wanted: &mut u64) -> u64 {
    let taken = (*from).min(*wanted);
    *from -= taken;
    *wanted -= taken;
    *wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(partition: u32, first: u64, events: u32) -> Range {
        Range {
            partition,
            first,
            events,
        }
    }

    fn books(delivered: u64, filtered: u64, dead: u64, expired: u64) -> Books {
        Books {
            delivered,
            filtered,
            dead,
            expired,
        }
    }

    /// Positions, sum of the books, events that come again, by how many the books were off.
    fn finish(placed: Placed, carried: u64) -> (Vec<u64>, Books, u64, i128) {
        let again = placed.again();
        let (places, off) = placed.finish(carried);
        let mut sum = Books::default();
        for (number, place) in places.iter().enumerate() {
            let own = if number == 0 { carried } else { 0 };
            assert_eq!(place.saved.books.passed(), place.position + own);
            assert_eq!(place.saved.carried, own);
            sum.add(place.saved.books);
        }
        let positions = places.iter().map(|place| place.position);
        (positions.collect(), sum, again, off)
    }

    #[test]
    fn what_was_passed_is_the_beginning_of_every_partition() {
        let mut route = Placed::new("r", books(60, 30, 2, 8), 2);
        route.set_passes(true);
        route.appended(&[range(0, 0, 50), range(1, 0, 40)], 0);
        route.appended(&[range(1, 40, 1)], 0);
        assert_eq!(route.letter(&range(1, 40, 1), false), Some((1, Some(40))));
        assert_eq!(route.letter_elsewhere(), (0, None));
        route.set_passes(false);
        route.appended(&[range(0, 50, 7)], 0);
        // Seven more that it had not come to are gone, and two of those before.
        route.missing(7);
        let (places, off) = route.finish(16);
        assert_eq!(off, 0);
        let positions: Vec<_> = places.iter().map(|place| place.position).collect();
        assert_eq!(positions, [50, 41]);
        // A letter is booked where it lies.
        let dead: Vec<_> = places.iter().map(|place| place.saved.books.dead).collect();
        assert_eq!(dead, [1, 1]);
        assert_eq!(places[0].saved.books.passed(), 50 + 16);
        assert_eq!(places[1].saved.books.passed(), 41);
        let sum = places[0].saved.books.delivered + places[1].saved.books.delivered;
        assert_eq!(sum, 60);
    }

    #[test]
    fn what_comes_again_is_out_of_the_books() {
        let mut route = Placed::new("r", books(10, 4, 2, 0), 1);
        route.set_passes(true);
        route.appended(&[range(0, 0, 8)], 3);
        route.set_passes(false);
        route.appended(&[range(0, 8, 5)], 0);
        route.set_passes(true);
        route.appended(&[range(0, 13, 6)], 1);
        route.appended(&[range(0, 19, 1)], 0);
        assert_eq!(route.letter(&range(0, 19, 1), false), None);
        route.appended(&[range(0, 20, 1)], 1);
        assert_eq!(route.letter(&range(0, 20, 1), true), None);
        assert_eq!(route.again(), 8);
        // Eight come again: five were delivered, one was left out, two are dead.
        assert_eq!(finish(route, 0), (vec![8], books(5, 3, 0, 0), 8, 0));
    }

    #[test]
    fn of_one_partition_only_is_divided() {
        let mut route = Placed::new("r", books(0, 0, 0, 0), 2);
        route.set_passes(true);
        assert!(!route.is_divided());
        route.set_passes(false);
        route.appended(&[range(0, 0, 1)], 0);
        route.set_passes(true);
        assert!(route.is_divided());
        route.set_passes(false);
        route.appended(&[range(1, 0, 1)], 0);
        route.set_passes(true);
        assert!(!route.is_divided());
    }

    #[test]
    fn books_that_were_off_are_set_right() {
        let mut route = Placed::new("r", books(10, 0, 0, 0), 1);
        route.set_passes(true);
        route.appended(&[range(0, 0, 12)], 0);
        assert_eq!(finish(route, 3), (vec![12], books(10, 0, 0, 5), 0, -5));
        let mut route = Placed::new("r", books(10, 3, 1, 0), 1);
        route.set_passes(true);
        route.appended(&[range(0, 0, 2)], 0);
        assert_eq!(finish(route, 0), (vec![2], books(0, 1, 1, 0), 0, 12));
    }
}
