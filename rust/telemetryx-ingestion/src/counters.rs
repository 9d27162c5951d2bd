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
/// Sources and types beyond their limits are counted under this name.
pub const OTHER: &str = "(other)";

/// How much is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CountersLimits {
    /// Sources counted one by one; later ones are counted together as `(other)`. About 200 bytes of memory each.
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
#[derive(Debug, Serialize)]
pub struct Totals {
    sources_count: usize,
    events_count: u64,
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
        while counts.minutes.len() > self.limits.minutes {
            counts.minutes.pop_first();
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
        *self.counts.lock() = counts;
        Ok(())
    }

    /// All sources together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let counts = self.counts.lock();
        Totals {
            sources_count: counts.sources.len(),
            events_count: counts.events,
        }
    }

    /// One source; `None` if it was never seen.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<SourceStats> {
        let counts = self.counts.lock();
        let source = counts.sources.get(name)?;
        let time = |nanos| Timestamp::from_unix_nanos(nanos).to_string();
        let number = if source.numeric {
            name.parse::<u64>().ok()
        } else {
            None
        };
        Some(SourceStats {
            source_id: number.map_or_else(|| name.into(), Value::from),
            total_events: source.types.iter().map(|(_, count)| count).sum(),
            first_event: time(source.first),
            last_event: time(source.last),
            event_types: counts.by_type(&source.types, None),
        })
    }

    /// Events accepted in each of the last `minutes` minutes up to `now`, oldest first, of one type or of all.
    #[must_use]
    pub fn rates(&self, now: Timestamp, minutes: usize, only: Option<&str>) -> Vec<MinuteRate> {
        let counts = self.counts.lock();
        let last = now.unix_nanos().div_euclid(NANOS_PER_MINUTE);
        let first = last - i64::try_from(minutes).unwrap_or(i64::MAX) + 1;
        (first..=last)
            .map(|minute| {
                let types = counts
                    .minutes
                    .get(&minute)
                    .map(|types| counts.by_type(types, only))
                    .unwrap_or_default();
                MinuteRate {
                    minute: Timestamp::from_unix_nanos(minute * NANOS_PER_MINUTE).to_string(),
                    events: types.values().sum(),
                    types,
                }
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
                let name = if self.sources.len() < limits.max_sources {
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
        bump(&mut source.types, place);
        let minute = event.received_at.unix_nanos().div_euclid(NANOS_PER_MINUTE);
        bump(self.minutes.entry(minute).or_default(), place);
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

/// Adds one; the list is sorted by place.
fn bump(types: &mut Vec<(u32, u64)>, place: u32) {
    match types.binary_search_by_key(&place, |(place, _)| *place) {
        Ok(found) => types[found].1 += 1,
        Err(missing) => types.insert(missing, (place, 1)),
    }
}
