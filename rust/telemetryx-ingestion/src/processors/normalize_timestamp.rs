//! `NormalizeTimestamp`: one precision of `ts` for all, and bounds against clocks that are wrong.
//!
//! Bounds are measured from the time the service received the event, not from now: the same event always gets the
//! same time, also when it is delivered again.

use std::borrow::Cow;

use async_trait::async_trait;
use serde::Deserialize;
use telemetryx_common::{Event, Timestamp};

use super::{EventProcessor, ProcessingError, ProcessingPluginFactory};
use crate::config::Duration;
use crate::plugin::{PluginError, settings};
use crate::route::EventBatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    precision: Precision,
    max_age: Option<Duration>,
    max_ahead: Option<Duration>,
    not_before: Option<String>,
    outside: Option<Outside>,
    original: Option<String>,
}

#[derive(Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Precision {
    #[default]
    Ns,
    Us,
    Ms,
    S,
}

/// What becomes of an event outside of the bounds.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Outside {
    /// It gets the time of the bound.
    Clamp,
    /// It is left out, and booked as filtered.
    Drop,
    /// It becomes a dead letter.
    Refuse,
}

struct NormalizeTimestamp {
    /// Nanoseconds in a unit of the precision.
    unit: i64,
    max_age: Option<i64>,
    max_ahead: Option<i64>,
    not_before: Option<i64>,
    outside: Outside,
    original: Option<String>,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventProcessor>, PluginError> {
    let settings: Settings = settings(parameters)?;
    let wrong = |message: String| Err(PluginError::Settings(message));
    let bounded =
        settings.max_age.is_some() || settings.max_ahead.is_some() || settings.not_before.is_some();
    if !bounded && settings.precision == Precision::Ns {
        return wrong(
            "nothing would be changed: give a `precision` of us, ms or s, or a bound \
             (`max_age`, `max_ahead`, `not_before`)"
                .into(),
        );
    }
    if !bounded && settings.outside.is_some() {
        return wrong(
            "`outside` says what becomes of times outside of the bounds, and there is no bound: \
             give `max_age`, `max_ahead` or `not_before`"
                .into(),
        );
    }
    if settings.original.as_deref() == Some("") {
        return wrong("`original` needs a name that is not empty".into());
    }
    let not_before = match &settings.not_before {
        None => None,
        Some(text) => match Timestamp::parse(text) {
            Ok(time) => Some(time.unix_nanos()),
            Err(error) => return wrong(format!("`not_before` is `{text}`: {error}")),
        },
    };
    let nanos = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    Ok(Box::new(NormalizeTimestamp {
        unit: match settings.precision {
            Precision::Ns => 1,
            Precision::Us => 1_000,
            Precision::Ms => 1_000_000,
            Precision::S => 1_000_000_000,
        },
        max_age: settings.max_age.map(nanos),
        max_ahead: settings.max_ahead.map(nanos),
        not_before,
        outside: settings.outside.unwrap_or(Outside::Clamp),
        original: settings.original,
    }))
}

inventory::submit! {
    ProcessingPluginFactory { name: "NormalizeTimestamp", constructor: construct }
}

impl NormalizeTimestamp {
    /// The nearest time within the bounds; the upper one wins where they cross.
    fn bounded(&self, event: &Event<'_>) -> i64 {
        let received = event.received_at.unix_nanos();
        let mut ts = event.ts.unix_nanos();
        if let Some(earliest) = self.not_before {
            ts = ts.max(earliest);
        }
        if let Some(age) = self.max_age {
            ts = ts.max(received.saturating_sub(age));
        }
        if let Some(ahead) = self.max_ahead {
            ts = ts.min(received.saturating_add(ahead));
        }
        ts
    }

    fn is_outside(&self, event: &Event<'_>) -> bool {
        self.bounded(event) != event.ts.unix_nanos()
    }

    fn set(&self, event: &mut Event<'_>) {
        let ts = self.bounded(event);
        let ts = ts.saturating_sub(ts.rem_euclid(self.unit));
        if ts == event.ts.unix_nanos() {
            return;
        }
        if let Some(name) = &self.original {
            let place = event
                .attributes
                .binary_search_by(|(have, _)| have.as_ref().cmp(name.as_str()));
            if let Err(free) = place {
                let original = event.ts.to_string();
                event
                    .attributes
                    .insert(free, (Cow::Owned(name.clone()), Cow::Owned(original)));
            }
        }
        event.ts = Timestamp::from_unix_nanos(ts);
    }
}

#[async_trait]
impl EventProcessor for NormalizeTimestamp {
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError> {
        match self.outside {
            Outside::Clamp => {}
            Outside::Drop => batch.retain(|_, event| !self.is_outside(event)),
            Outside::Refuse => {
                if let Some(index) = batch.events().iter().position(|e| self.is_outside(e)) {
                    let event = &batch.events()[index];
                    return Err(ProcessingError::Event {
                        index,
                        code: "timestamp_out_of_bounds",
                        message: format!(
                            "`ts` is {}, received at {}: outside of the bounds",
                            event.ts, event.received_at
                        ),
                    });
                }
            }
        }
        for event in batch.events_mut() {
            self.set(event);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, Timestamp};

    use super::super::tests::{processor, refuses, run};
    use crate::processors::ProcessingError;
    use crate::route::{Cause, EventBatch};

    fn batch(times: &[&str]) -> EventBatch<'static> {
        let mut batch = EventBatch::new(Cause::Replay, Timestamp::UNIX_EPOCH);
        for (offset, time) in (0..).zip(times) {
            let mut event = Event::new(Timestamp::parse(time).unwrap());
            event.received_at = Timestamp::parse("2025-06-15T12:00:00Z").unwrap();
            batch.push(offset, event);
        }
        batch
    }

    fn times(settings: &str, given: &[&str]) -> Vec<String> {
        let mut batch = batch(given);
        run(&*processor("NormalizeTimestamp", settings), &mut batch).unwrap();
        batch
            .events()
            .iter()
            .map(|event| event.ts.to_string())
            .collect()
    }

    #[test]
    fn what_is_below_the_precision_is_cut_off_also_before_1970() {
        let given = ["2025-06-15T12:00:00.123456789Z", "1969-12-31T23:59:59.9Z"];
        for (precision, cut) in [
            (
                "us",
                ["2025-06-15T12:00:00.123456Z", "1969-12-31T23:59:59.900Z"],
            ),
            (
                "ms",
                ["2025-06-15T12:00:00.123Z", "1969-12-31T23:59:59.900Z"],
            ),
            ("s", ["2025-06-15T12:00:00Z", "1969-12-31T23:59:59Z"]),
        ] {
            assert_eq!(times(&format!("precision = '{precision}'"), &given), cut);
        }
    }

    #[test]
    fn times_outside_of_the_bounds_are_clamped() {
        let given = [
            "2025-06-15T11:30:00Z",
            "2025-06-15T09:00:00Z",
            "2025-06-15T12:04:00Z",
        ];
        assert_eq!(
            times("max_age = '1h'\nmax_ahead = '1m'", &given),
            [
                "2025-06-15T11:30:00Z",
                "2025-06-15T11:00:00Z",
                "2025-06-15T12:01:00Z"
            ]
        );
        assert_eq!(
            times(
                "not_before = '2025-01-01T00:00:00Z'",
                &["1980-01-06T00:00:00Z"]
            ),
            ["2025-01-01T00:00:00Z"]
        );
    }

    #[test]
    fn times_outside_of_the_bounds_are_left_out_or_refused() {
        let given = ["2025-06-15T09:00:00Z", "2025-06-15T11:30:00Z"];
        assert_eq!(
            times("max_age = '1h'\noutside = 'drop'", &given),
            ["2025-06-15T11:30:00Z"]
        );
        let refusing = processor("NormalizeTimestamp", "max_age = '1h'\noutside = 'refuse'");
        let error = run(&*refusing, &mut batch(&given)).unwrap_err();
        assert!(
            matches!(
                &error,
                ProcessingError::Event {
                    index: 0,
                    code: "timestamp_out_of_bounds",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn the_original_time_can_be_kept() {
        let mut batch = batch(&["2025-06-15T12:00:00.5Z", "2025-06-15T12:00:00Z"]);
        let keeping = processor("NormalizeTimestamp", "precision = 's'\noriginal = 'sent'");
        run(&*keeping, &mut batch).unwrap();
        let [changed, same] = batch.events() else {
            panic!("two events")
        };
        assert_eq!(changed.attribute("sent"), Some("2025-06-15T12:00:00.500Z"));
        assert_eq!(same.attribute("sent"), None);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let name = "NormalizeTimestamp";
        refuses(name, "", "nothing would be changed");
        refuses(name, "precision = 'h'", "unknown variant `h`");
        refuses(
            name,
            "precision = 's'\noutside = 'drop'",
            "there is no bound",
        );
        refuses(name, "not_before = 'soon'", "`not_before` is `soon`");
        refuses(name, "max_age = 5", "a duration with its unit");
    }
}
