//! What one part of a log adds to the counts, summed up in memory and put into one call of the script.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use redis::Cmd;
use telemetryx_common::{Event, Source, Timestamp, json};

use super::keys::Keys;
use crate::counters::{OTHER, minute_of};

/// Types that a summary names; the rest is summed up as `(other)`.
const SUMMARY_TYPES_MAX: usize = 100;

/// Events of each type, by the type's place in [`Counted::types`]; sorted.
type ByType = Vec<(usize, u64)>;

/// Events of one part of a log, counted.
#[derive(Debug, Default)]
pub(super) struct Counted<'e> {
    events: u64,
    types: Vec<(&'e str, u64)>,
    type_places: HashMap<&'e str, usize>,
    /// By minute since 1970.
    minutes: BTreeMap<i64, ByType>,
    sources: Vec<SourceCounted>,
    source_places: HashMap<String, usize>,
}

#[derive(Debug)]
struct SourceCounted {
    name: String,
    numeric: bool,
    first: Timestamp,
    last: Timestamp,
    types: ByType,
}

/// What the script is told beside the counts.
pub(super) struct Call<'c> {
    /// SHA-1 of the script.
    pub(super) script: &'c str,
    /// The names of the keys.
    pub(super) keys: &'c Keys,
    /// The name of the route.
    pub(super) route: &'c str,
    /// How to know it when it comes again.
    pub(super) once: Once<'c>,
    /// Limits: types, sources, counts of sources.
    pub(super) limits: [usize; 3],
    /// How long minutes are kept, in seconds.
    pub(super) minutes_ttl: i64,
    /// Where the summary is published; empty: nowhere.
    pub(super) channel: &'c str,
    /// Events to publish as well.
    pub(super) publish: &'c [&'c Event<'c>],
}

/// What makes sure that it counts once.
pub(super) enum Once<'c> {
    /// The offset up to which the log is counted.
    Applied {
        /// `<route>/<log>`.
        field: &'c str,
        /// Offset of the first event.
        first: u64,
        /// Offset behind the last event.
        end: u64,
    },
    /// A mark for one dead letter, kept for so many seconds.
    Mark(String, u64),
}

impl<'e> Counted<'e> {
    /// Counts events.
    pub(super) fn of(events: impl Iterator<Item = &'e Event<'e>>) -> Self {
        let mut this = Self::default();
        let mut number = String::new();
        for event in events {
            this.add(event, &mut number);
        }
        this
    }

    fn add(&mut self, event: &'e Event<'e>, number: &mut String) {
        self.events += 1;
        let kind = event.event_type.as_str();
        let place = *self.type_places.entry(kind).or_insert_with(|| {
            self.types.push((kind, 0));
            self.types.len() - 1
        });
        self.types[place].1 += 1;
        let minute = self.minutes.entry(minute_of(event.received_at));
        bump(minute.or_default(), place);
        let (name, numeric) = match &event.source {
            Source::Name(name) => (name.as_ref(), false),
            Source::Number(value) => {
                number.clear();
                // Writing into a text cannot fail.
                write!(number, "{value}").ok();
                (number.as_str(), true)
            }
        };
        let at = match self.source_places.get(name) {
            Some(at) => *at,
            None => {
                self.sources.push(SourceCounted {
                    name: name.to_owned(),
                    numeric,
                    first: event.ts,
                    last: event.ts,
                    types: Vec::new(),
                });
                self.source_places
                    .insert(name.to_owned(), self.sources.len() - 1);
                self.sources.len() - 1
            }
        };
        let source = &mut self.sources[at];
        source.first = source.first.min(event.ts);
        source.last = source.last.max(event.ts);
        bump(&mut source.types, place);
    }

    /// The call of the script.
    pub(super) fn command(&self, call: &Call<'_>) -> Cmd {
        let keys = call.keys;
        let mut command = redis::cmd("EVALSHA");
        command.arg(call.script);
        command.arg(5 + self.minutes.len() + self.sources.len());
        match &call.once {
            Once::Applied { .. } => command.arg(keys.applied()),
            Once::Mark(key, _) => command.arg(key),
        };
        command.arg(keys.totals()).arg(keys.types());
        command.arg(keys.sources()).arg(keys.source(OTHER));
        for minute in self.minutes.keys() {
            command.arg(keys.minute(*minute));
        }
        for source in &self.sources {
            command.arg(keys.source(&source.name));
        }

        match &call.once {
            Once::Applied { field, first, end } => {
                command.arg("journal").arg(field).arg(first).arg(end)
            }
            Once::Mark(_, seconds) => command.arg("redrive").arg(seconds).arg(0).arg(0),
        };
        command.arg(self.events).arg(&call.limits);
        command
            .arg(call.channel)
            .arg(self.summary(call.route, &call.once));
        command.arg(call.publish.len());
        let mut message = Vec::new();
        for event in call.publish {
            message.clear();
            json::write_event(event, &mut message);
            command.arg(message.as_slice());
        }
        command.arg(self.types.len());
        for (name, count) in &self.types {
            command.arg(name).arg(count);
        }
        command.arg(self.minutes.len());
        for (minute, types) in &self.minutes {
            command.arg((minute + 1) * 60 + call.minutes_ttl);
            add_types(&mut command, types);
        }
        command.arg(self.sources.len());
        let type_fields: Vec<_> = self
            .types
            .iter()
            .map(|(name, _)| format!("type:{name}"))
            .collect();
        for source in &self.sources {
            command.arg(u8::from(source.numeric));
            command.arg(fixed_width(source.first));
            // Often there is one event of a source.
            command.arg(match source.last == source.first {
                true => String::new(),
                false => fixed_width(source.last),
            });
            command.arg(source.types.len());
            // The fields to read, in one run.
            command.arg("first").arg("last");
            for (place, _) in &source.types {
                command.arg(type_fields[*place].as_str());
            }
            for (_, count) in &source.types {
                command.arg(count);
            }
        }
        command
    }

    /// The summary as JSON, without its end: the script adds the totals.
    fn summary(&self, route: &str, once: &Once<'_>) -> Vec<u8> {
        let mut text = b"{\"summary\":{".to_vec();
        let number = |name: &str, value: u64, text: &mut Vec<u8>| {
            json::write_str(name, text);
            text.push(b':');
            json::write_number(value, text);
            text.push(b',');
        };
        text.extend_from_slice(b"\"route\":");
        json::write_str(route, &mut text);
        text.push(b',');
        if let Once::Applied { first, end, .. } = once {
            number("first", *first, &mut text);
            number("end", *end, &mut text);
        }
        number("events", self.events, &mut text);
        number("sources", self.sources.len() as u64, &mut text);
        text.extend_from_slice(b"\"types\":{");
        let mut types = self.types.clone();
        types.sort_unstable_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        if let Some(rest) = types.get(SUMMARY_TYPES_MAX..)
            && !rest.is_empty()
        {
            let rest = rest.iter().map(|(_, count)| count).sum();
            types.truncate(SUMMARY_TYPES_MAX);
            types.push((OTHER, rest));
        }
        for (place, (name, count)) in types.into_iter().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            json::write_str(name, &mut text);
            text.push(b':');
            json::write_number(count, &mut text);
        }
        text.push(b'}');
        text
    }
}

fn add_types(command: &mut Cmd, types: &ByType) {
    command.arg(types.len());
    for (place, count) in types {
        // Lua counts from 1.
        command.arg(place + 1).arg(count);
    }
}

fn bump(types: &mut ByType, place: usize) {
    match types.binary_search_by_key(&place, |(place, _)| *place) {
        Ok(found) => types[found].1 += 1,
        Err(missing) => types.insert(missing, (place, 1)),
    }
}

/// RFC 3339 in UTC, always with nine digits of fraction: the order of such texts is that of the times.
fn fixed_width(ts: Timestamp) -> String {
    let text = ts.to_string();
    let text = text.trim_end_matches('Z');
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_times_have_the_order_of_the_times() {
        let mut times: Vec<_> = [0, 1, 1_000_000, 999_999_999, 1_000_000_000, -1, 1 << 60]
            .map(Timestamp::from_unix_nanos)
            .into();
        times.sort_unstable();
        let texts: Vec<_> = times.iter().map(|ts| fixed_width(*ts)).collect();
        assert!(texts.is_sorted(), "{texts:?}");
        for (ts, text) in times.iter().zip(&texts) {
            assert_eq!(Timestamp::parse(text).unwrap(), *ts);
        }
    }

    #[test]
    fn a_summary_of_many_types_stays_short() {
        let events: Vec<_> = (0..300)
            .map(|n| {
                let mut event = Event::new(Timestamp::UNIX_EPOCH);
                event.event_type = telemetryx_common::EventType::from_name(format!("t{n}").into());
                event
            })
            .collect();
        let counted = Counted::of(events.iter());
        let once = Once::Applied {
            field: "r/0",
            first: 7,
            end: 307,
        };
        let mut text = counted.summary("r", &once);
        text.extend_from_slice(b"}}");
        let summary: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let types = summary["summary"]["types"].as_object().unwrap();
        assert_eq!((types.len(), &types["(other)"]), (101, &200.into()));
        assert_eq!(summary["summary"]["end"], 307);
    }
}
