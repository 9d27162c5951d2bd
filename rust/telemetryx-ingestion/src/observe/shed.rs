//! Whose events the overflow policy dropped: counts by source and by type, in bounded memory.
//!
//! The names come from clients, so there are at most [`NAMES_MAX`] of each kind. One more takes the place of that with the
//! smallest count, which goes on under `(other)`: the sums stay exact, those who lose most are named, and what is said of a
//! name is never more than it lost.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use telemetryx_common::Event;

/// Names of one kind that are counted by themselves.
const NAMES_MAX: usize = 256;
/// Names of one kind that are shown.
const SHOWN_MAX: usize = 20;
/// Under this name stands the rest.
const OTHER: &str = "(other)";

/// Counts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Top {
    named: HashMap<String, u64>,
    other: u64,
}

impl Top {
    fn add(&mut self, name: &str, more: u64) {
        if let Some(count) = self.named.get_mut(name) {
            *count += more;
            return;
        }
        if self.named.len() >= NAMES_MAX
            && let Some(least) = self.named.iter().min_by_key(|(_, count)| **count)
        {
            let least = least.0.clone();
            self.other += self.named.remove(&least).unwrap_or_default();
        }
        self.named.insert(name.to_owned(), more);
    }

    fn merge(&mut self, more: Self) {
        for (name, count) in more.named {
            self.add(&name, count);
        }
        self.other += more.other;
    }

    /// What came on top of `before`. A name that has gone under the others since then is one of them.
    fn minus(mut self, before: &Self) -> Self {
        let mut gone = before.other;
        for (name, count) in &before.named {
            match self.named.get_mut(name) {
                Some(now) => *now = now.saturating_sub(*count),
                None => gone += count,
            }
        }
        self.named.retain(|_, count| *count > 0);
        self.other = self.other.saturating_sub(gone);
        self
    }

    fn total(&self) -> u64 {
        self.other + self.named.values().sum::<u64>()
    }

    /// The largest first, and then the rest.
    fn shown(&self) -> Value {
        let mut named: Vec<_> = self.named.iter().collect();
        named.sort_unstable_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let shown = named.iter().take(SHOWN_MAX);
        let mut map: Map<_, _> = shown
            .map(|(name, count)| ((*name).clone(), json!(count)))
            .collect();
        let rest = self.other
            + named
                .iter()
                .skip(SHOWN_MAX)
                .map(|(_, count)| **count)
                .sum::<u64>();
        if rest > 0 {
            // Should a client call itself so, it is shown with them.
            let same = map.get(OTHER).and_then(Value::as_u64).unwrap_or_default();
            map.insert(OTHER.to_owned(), json!(rest + same));
        }
        Value::Object(map)
    }
}

/// What was dropped, by source and by type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShedTally {
    by_source: Top,
    by_type: Top,
}

impl ShedTally {
    /// One event was dropped.
    pub fn add(&mut self, event: &Event<'_>) {
        self.by_source.add(&event.source.as_text(), 1);
        self.by_type.add(event.event_type.as_str(), 1);
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, more: Self) -> Self {
        self.by_source.merge(more.by_source);
        self.by_type.merge(more.by_type);
        self
    }

    /// What came on top of `before`.
    #[must_use]
    pub fn minus(self, before: &Self) -> Self {
        Self {
            by_source: self.by_source.minus(&before.by_source),
            by_type: self.by_type.minus(&before.by_type),
        }
    }

    /// How many events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.by_type.total()
    }
}

/// What all requests lost.
#[derive(Debug, Default)]
pub struct ShedBooks(Mutex<ShedTally>);

impl ShedBooks {
    /// Goes on counting from what was saved.
    #[must_use]
    pub fn from_tally(saved: ShedTally) -> Self {
        Self(Mutex::new(saved))
    }

    /// What one request lost.
    pub fn add(&self, lost: ShedTally) {
        let mut all = self.0.lock();
        all.by_source.merge(lost.by_source);
        all.by_type.merge(lost.by_type);
    }

    /// What is to be saved.
    #[must_use]
    pub fn tally(&self) -> ShedTally {
        self.0.lock().clone()
    }

    /// For `/status`.
    #[must_use]
    pub fn shown(&self) -> Value {
        let all = self.0.lock();
        json!({
            "events": all.events(),
            "by_source": all.by_source.shown(),
            "by_type": all.by_type.shown(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_hides_neither_the_sum_nor_those_who_lose_most() {
        let mut top = Top::default();
        for n in 0..10_000_u64 {
            top.add(&format!("junk-{n}"), 1);
            if n % 10 == 0 {
                top.add("loud", 50);
            }
        }
        assert_eq!(top.named.len(), NAMES_MAX);
        assert_eq!((top.total(), top.named["loud"]), (60_000, 50_000));
        let shown = top.shown();
        let shown = shown.as_object().unwrap();
        assert_eq!(shown.len(), SHOWN_MAX + 1);
        assert_eq!(shown.keys().next().unwrap(), "loud");
        let sum: u64 = shown.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(sum, 60_000);
    }

    #[test]
    fn what_came_since_then_and_what_was_before_are_the_whole() {
        let mut before = Top::default();
        before.add("a", 3);
        before.add("b", 1);
        let mut now = before.clone();
        now.add("a", 2);
        now.add("c", 5);
        // A smaller one that gave its place to another.
        now.other += now.named.remove("b").unwrap();
        let since = now.clone().minus(&before);
        assert_eq!(
            (since.total(), since.named["a"], since.named["c"]),
            (7, 2, 5)
        );
        let mut whole = before;
        whole.merge(since);
        assert_eq!(whole.total(), now.total());
    }

    #[test]
    fn a_client_that_calls_itself_other_takes_nothing_out_of_the_sum() {
        let mut top = Top::default();
        top.add(OTHER, 9);
        (0..40).for_each(|n| top.add(&n.to_string(), 1));
        assert_eq!(top.shown()[OTHER], 9 + 40 - 19);
    }
}
