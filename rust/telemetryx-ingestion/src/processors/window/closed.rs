//! The event that a window becomes when it closes, written once and then only carried.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use telemetryx_common::{Event, EventType, FieldSet, Source, Timestamp, json};
use uuid::Uuid;

use super::number::{Number, Sum};
use super::{Aggregate, By, Shape};

/// Ids of windows are names in this space.
const IDS: Uuid = Uuid::from_u128(0x6f0a_54d5_7be4_4f0e_9d3c_27a5_1c0e_88b1);

/// An open window.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Open {
    /// The key is a source that is a number.
    pub(super) numeric: bool,
    /// How many windows had been closed before their time when this one was opened: tells it from an earlier part of
    /// the same window.
    pub(super) part: u64,
    pub(super) count: u64,
    /// How many of them brought a number.
    pub(super) values: u64,
    pub(super) sum: Sum,
    pub(super) min: Option<Number>,
    pub(super) max: Option<Number>,
}

impl Open {
    pub(super) fn add(&mut self, number: Option<Number>) {
        self.count += 1;
        let Some(number) = number else { return };
        self.values += 1;
        self.sum.add(number);
        if self.min.is_none_or(|min| number.compare(min).is_lt()) {
            self.min = Some(number);
        }
        if self.max.is_none_or(|max| number.compare(max).is_gt()) {
            self.max = Some(number);
        }
    }
}

/// Why a window was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClosedBy {
    /// Its end and the lateness have passed, by the events' own time.
    Time,
    /// No event came any more, and its end and the lateness have passed by the clock.
    Idle,
    /// There were too many open windows. Other parts of it may follow.
    Full,
    /// The settings were changed. The rest of it is counted under the new ones.
    Settings,
}

impl ClosedBy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Idle => "idle",
            Self::Full => "full",
            Self::Settings => "settings",
        }
    }
}

/// A window on its way to its event.
pub(super) struct Closing<'s> {
    pub(super) start: i64,
    pub(super) key: &'s str,
    pub(super) open: &'s Open,
    pub(super) by: ClosedBy,
    /// Events that came too late for their windows since the last one was closed.
    pub(super) late: u64,
    pub(super) now: Timestamp,
}

/// A closed window: the event, as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Closed {
    id: String,
    ts: i64,
    event_type: String,
    source: String,
    numeric: bool,
    attributes: Vec<(String, String)>,
    payload: String,
    received_at: i64,
}

impl Closed {
    pub(super) fn new(shape: &Shape, window: &Closing<'_>) -> Self {
        let end = shape.end(window.start);
        let time = |nanos| Timestamp::from_unix_nanos(nanos).to_string();
        let (source, numeric) = match shape.by {
            By::Type => ("telemetryx", false),
            By::Source => (window.key, window.open.numeric),
        };
        // Sorted by name.
        let attributes = [
            ("closed_by", window.by.as_str().to_owned()),
            ("late_events", window.late.to_string()),
            ("window_end", time(end)),
            ("window_key", window.key.to_owned()),
            ("window_start", time(window.start)),
        ];
        Self {
            id: id(shape, window),
            ts: end,
            event_type: shape.emit_type.clone(),
            source: source.to_owned(),
            numeric,
            attributes: attributes
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            payload: payload(shape, window),
            received_at: window.now.unix_nanos(),
        }
    }

    pub(super) fn into_event(self) -> Event<'static> {
        let source = match self.source.parse() {
            Ok(number) if self.numeric => Source::Number(number),
            _ => Source::Name(self.source.into()),
        };
        let mut event = Event::new(Timestamp::from_unix_nanos(self.ts));
        event.id = self.id.into();
        event.event_type = EventType::from_name(self.event_type.into());
        event.source = source;
        event.attributes = self
            .attributes
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        event.payload = self.payload.into();
        event.received_at = Timestamp::from_unix_nanos(self.received_at);
        event.given |= FieldSet::ID
            | FieldSet::TYPE
            | FieldSet::SOURCE
            | FieldSet::ATTRIBUTES
            | FieldSet::PAYLOAD;
        event
    }
}

/// The same for the same window, wherever and whenever it is closed.
fn id(shape: &Shape, window: &Closing<'_>) -> String {
    let shape = serde_json::to_string(shape).unwrap_or_default();
    let name = format!(
        "{shape}\n{}\n{}\n{}",
        window.start, window.open.part, window.key
    );
    Uuid::new_v5(&IDS, name.as_bytes()).to_string()
}

fn payload(shape: &Shape, window: &Closing<'_>) -> String {
    let open = window.open;
    let by = match shape.by {
        By::Type => "type",
        By::Source => "source",
    };
    let mut key = Vec::new();
    if open.numeric {
        key.extend_from_slice(window.key.as_bytes());
    } else {
        json::write_str(window.key, &mut key);
    }
    let key = String::from_utf8(key).unwrap_or_default();
    let mut out = format!(
        r#"{{"window_start":"{}","window_end":"{}","by":"{by}","key":{key}"#,
        Timestamp::from_unix_nanos(window.start),
        Timestamp::from_unix_nanos(shape.end(window.start)),
    );
    let number = |number: Option<Number>| number.map_or_else(|| "null".to_owned(), Number::to_json);
    let mut member = |name: &str, value: String| {
        // Writing to a `String` does not fail.
        write!(out, r#","{name}":{value}"#).ok();
    };
    for what in &shape.aggregate {
        match what {
            Aggregate::Count => member("count", open.count.to_string()),
            Aggregate::Sum => member("sum", open.sum.total().to_json()),
            Aggregate::Min => member("min", number(open.min)),
            Aggregate::Max => member("max", number(open.max)),
        }
    }
    if shape.field.is_some() {
        member("values", open.values.to_string());
    }
    member("late_events", window.late.to_string());
    member("closed_by", format!("\"{}\"", window.by.as_str()));
    out.push('}');
    out
}
