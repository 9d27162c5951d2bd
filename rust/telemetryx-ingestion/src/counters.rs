//! Counts of what was accepted, per source, per type and per minute: the numbers behind `/stats`. Kept by the `stats`
//! sink or the `Stats` processor, saved with their route's cursor, and so exact across kills.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use telemetryx_common::{Event, Source, Timestamp};

use crate::plugin::PluginError;

const NANOS_PER_MINUTE: i64 = 60_000_000_000;
/// What the counts may take when they are saved, about; a cursor's state has an upper limit. Beyond it new sources, types
/// of a source and types of a minute are counted as others.
const BYTES_MAX: usize = 8 << 20;
/// What a source takes beside its name, and one count of a type.
const SOURCE_BYTES: usize = 100;
const COUNT_BYTES: usize = 16;
/// Sources and types beyond their limits are counted under this name.
pub const OTHER: &str = "(other)";

/// How much is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CountersLimits {
    /// Sources counted one by one; later ones are counted together as `(other)`. All counts together take at most about 8 MiB saved, a
    /// few times that in memory.
    pub max_sources: usize,
    /// Types told apart; later ones are counted together as `(other)`.
    pub max_types: usize,
    /// Minutes for which rates are kept.
    pub minutes: usize,
}

impl Default for CountersLimits {
    fn default() -> Self {
        Self {
            max_sources: 50_000,
            max_types: 1_000,
            minutes: 24 * 60,
        }
    }
}

/// The counters; a cheap clone that shares them.
#[derive(Debug, Clone)]
pub struct Counters {
    limits: CountersLimits,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Counts {
    events: u64,
    /// About what it takes to save them.
    #[serde(skip)]
    bytes: usize,
    /// Names of types; other fields refer to them by place.
    types: Vec<String>,
    #[serde(skip)]
    places: HashMap<String, u32>,
    sources: HashMap<String, SourceCounts>,
    /// By minute since the Unix epoch, then by type.
    minutes: BTreeMap<i64, Vec<(u32, u64)>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SourceCounts {
    /// The source is a number.
    numeric: bool,
    first: i64,
    last: i64,
    types: Vec<(u32, u64)>,
}

/// `GET /stats`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Totals {
    /// Sources told apart, `(other)` too.
    pub sources_count: u64,
    /// Events.
    pub events_count: u64,
}

/// `GET /stats/{source_id}`.
#[derive(Debug, Serialize)]
pub struct SourceStats {
    source_id: Value,
    total_events: u64,
    first_event: String,
    last_event: String,
    event_types: BTreeMap<String, u64>,
}

/// One minute of `GET /stats/rates`.
#[derive(Debug, Serialize)]
pub struct MinuteRate {
    minute: String,
    events: u64,
    types: BTreeMap<String, u64>,
}

impl SourceStats {
    /// What is said of the source `name`; `numeric`: it is a number.
    #[must_use]
    pub fn new(
        name: &str,
        numeric: bool,
        first: Timestamp,
        last: Timestamp,
        event_types: BTreeMap<String, u64>,
    ) -> Self {
        let number = if numeric {
            name.parse::<u64>().ok()
        } else {
            None
        };
        Self {
            source_id: number.map_or_else(|| name.into(), Value::from),
            total_events: event_types.values().sum(),
            first_event: first.to_string(),
            last_event: last.to_string(),
            event_types,
        }
    }
}

impl MinuteRate {
    /// What is said of one minute since the Unix epoch.
    #[must_use]
    pub fn new(minute: i64, types: BTreeMap<String, u64>) -> Self {
        Self {
            minute: minute_start(minute).to_string(),
            events: types.values().sum(),
            types,
        }
    }
}

/// The minute since the Unix epoch in which `ts` is.
#[must_use]
pub fn minute_of(ts: Timestamp) -> i64 {
    ts.unix_nanos().div_euclid(NANOS_PER_MINUTE)
}

/// The first moment of a minute since the Unix epoch.
#[must_use]
pub fn minute_start(minute: i64) -> Timestamp {
    Timestamp::from_unix_nanos(minute.saturating_mul(NANOS_PER_MINUTE))
}

/// The last `minutes` minutes up to that of `now`, oldest first.
pub fn minutes_up_to(now: Timestamp, minutes: usize) -> std::ops::RangeInclusive<i64> {
    let last = minute_of(now);
    last - i64::try_from(minutes).unwrap_or(i64::MAX) + 1..=last
}

impl Counters {
    /// Empty ones.
    #[must_use]
    pub fn new(limits: CountersLimits) -> Self {
        Self {
            limits,
            counts: Arc::default(),
        }
    }

    /// Counts events.
    pub fn count<'e>(&self, events: impl Iterator<Item = &'e Event<'e>>) {
        let mut counts = self.counts.lock();
        for event in events {
            counts.add(event, &self.limits);
        }
        while counts.minutes.len() > self.limits.minutes
            && let Some((_, types)) = counts.minutes.pop_first()
        {
            counts.bytes = counts.bytes.saturating_sub(types.len() * COUNT_BYTES);
        }
    }

    /// What to save.
    #[must_use]
    pub fn save(&self) -> Value {
        serde_json::to_value(&*self.counts.lock()).unwrap_or_default()
    }

    /// Takes back what `save` returned; `Null`: start empty.
    ///
    /// # Errors
    /// [`PluginError`] if the state is not one of counters.
    pub fn restore(&self, state: Value) -> Result<(), PluginError> {
        let mut counts = match state {
            Value::Null => Counts::default(),
            state => serde_json::from_value::<Counts>(state).map_err(|error| {
                PluginError::Settings(format!("the saved counters cannot be read: {error}"))
            })?,
        };
        counts.places = counts.types.iter().cloned().zip(0..).collect();
        let sources = counts.sources.iter();
        counts.bytes = sources
            .map(|(name, source)| name.len() + SOURCE_BYTES + source.types.len() * COUNT_BYTES)
            .chain(
                counts
                    .minutes
                    .values()
                    .map(|types| types.len() * COUNT_BYTES),
            )
            .sum();
        *self.counts.lock() = counts;
        Ok(())
    }

    /// All sources together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let counts = self.counts.lock();
        Totals {
            sources_count: counts.sources.len() as u64,
            events_count: counts.events,
        }
    }

    /// One source; `None` if it was never seen.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<SourceStats> {
        let counts = self.counts.lock();
        let source = counts.sources.get(name)?;
        Some(SourceStats::new(
            name,
            source.numeric,
            Timestamp::from_unix_nanos(source.first),
            Timestamp::from_unix_nanos(source.last),
            counts.by_type(&source.types, None),
        ))
    }

    /// Events accepted in each of the last `minutes` minutes up to `now`, oldest first, of one type or of all.
    #[must_use]
    pub fn rates(&self, now: Timestamp, minutes: usize, only: Option<&str>) -> Vec<MinuteRate> {
        let counts = self.counts.lock();
        minutes_up_to(now, minutes)
            .map(|minute| {
                let types = counts
                    .minutes
                    .get(&minute)
                    .map(|types| counts.by_type(types, only))
                    .unwrap_or_default();
                MinuteRate::new(minute, types)
            })
            .collect()
    }

    /// True if there were more sources than are told apart.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.counts.lock().sources.contains_key(OTHER)
    }

    /// For how many minutes rates are kept.
    #[must_use]
    pub fn minutes(&self) -> usize {
        self.limits.minutes
    }
}

impl Counts {
    fn add(&mut self, event: &Event<'_>, limits: &CountersLimits) {
        let place = self.place(event.event_type.as_str(), limits);
        let full = self.bytes > BYTES_MAX;
        let other = if full {
            self.place(OTHER, limits)
        } else {
            place
        };
        let ts = event.ts.unix_nanos();
        let number;
        let (name, numeric) = match &event.source {
            Source::Name(name) => (name.as_ref(), false),
            Source::Number(value) => {
                number = value.to_string();
                (number.as_str(), true)
            }
        };
        self.events += 1;
        let source = match self.sources.get_mut(name) {
            Some(source) => source,
            None => {
                let name = if self.sources.len() < limits.max_sources && !full {
                    name
                } else {
                    if !self.sources.contains_key(OTHER) {
                        tracing::warn!(
                            max_sources = limits.max_sources,
                            "more sources than are told apart: new ones are counted together as `(other)`"
                        );
                    }
                    OTHER
                };
                self.bytes += name.len() + SOURCE_BYTES;
                self.sources
                    .entry(name.to_owned())
                    .or_insert_with(|| SourceCounts {
                        numeric: numeric && name != OTHER,
                        first: ts,
                        last: ts,
                        types: Vec::new(),
                    })
            }
        };
        source.first = source.first.min(ts);
        source.last = source.last.max(ts);
        let mut added = bump(&mut source.types, place, other);
        let minute = minute_of(event.received_at);
        added += bump(self.minutes.entry(minute).or_default(), place, other);
        self.bytes += added * COUNT_BYTES;
    }

    fn place(&mut self, name: &str, limits: &CountersLimits) -> u32 {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let name = if self.types.len() < limits.max_types {
            name
        } else {
            OTHER
        };
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        self.types.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        place
    }

    fn by_type(&self, types: &[(u32, u64)], only: Option<&str>) -> BTreeMap<String, u64> {
        let named = types
            .iter()
            .filter_map(|(place, count)| Some((self.types.get(*place as usize)?.clone(), *count)));
        named
            .filter(|(name, _)| only.is_none_or(|only| only == name))
            .collect()
    }
}

/// Adds one to the count at `place`, or at `other` if there is none yet; how many counts that made. The list is sorted.
fn bump(types: &mut Vec<(u32, u64)>, place: u32, other: u32) -> usize {
    for place in [place, other] {
        match types.binary_search_by_key(&place, |(place, _)| *place) {
            Ok(found) => {
                types[found].1 += 1;
                return 0;
            }
            Err(missing) if place == other => {
                types.insert(missing, (place, 1));
                return 1;
            }
            Err(_) => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of sources and types with the longest names there can be.
    fn events(sources: usize, types: usize) -> impl Iterator<Item = Event<'static>> {
        (0..sources).flat_map(move |source| {
            (0..types).map(move |kind| {
                let mut event = Event::new(Timestamp::from_unix_nanos(1));
                event.source = Source::Name(format!("{source:0>256}").into());
                event.event_type =
                    telemetryx_common::EventType::from_name(format!("{kind:0>128}").into());
                event
            })
        })
    }

    fn count(counters: &Counters, events: impl Iterator<Item = Event<'static>>) -> usize {
        let mut counted = 0;
        for event in events {
            counters.count(std::iter::once(&event));
            counted += 1;
        }
        counted
    }

    #[test]
    fn what_is_saved_stays_small_whatever_names_come_and_every_event_is_counted() {
        let counters = Counters::new(CountersLimits::default());
        let mut counted = count(&counters, events(60_000, 1));
        counted += count(&counters, events(400, 400));
        let saved = serde_json::to_vec(&counters.save()).unwrap();
        assert!(saved.len() < 14 << 20, "{} bytes", saved.len());
        assert_eq!(counters.counts.lock().events, counted as u64);
        let in_sources = |counts: &Counts| -> u64 {
            let types = counts.sources.values().flat_map(|source| &source.types);
            types.map(|(_, count)| count).sum()
        };
        assert_eq!(in_sources(&counters.counts.lock()), counted as u64);

        let again = Counters::new(CountersLimits::default());
        again
            .restore(serde_json::from_slice(&saved).unwrap())
            .unwrap();
        assert_eq!(again.save(), counters.save());
        assert!(again.counts.lock().bytes > BYTES_MAX / 2);
    }

    #[test]
    fn sources_beyond_the_limit_are_counted_together() {
        let limits = CountersLimits {
            max_sources: 2,
            ..CountersLimits::default()
        };
        let counters = Counters::new(limits);
        count(&counters, events(5, 1));
        assert_eq!(
            counters.source(OTHER).map(|other| other.total_events),
            Some(3)
        );
        assert!(counters.is_full());
    }
}
