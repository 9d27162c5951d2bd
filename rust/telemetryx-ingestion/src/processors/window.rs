//! `Window`: counts, sums, minima and maxima over tumbling windows of event time, emitted as events of their own.
//!
//! Each window is emitted once, however often the process is killed:
//!
//! ```text
//!          first event     end + lateness     state saved        in a batch, which is
//!          of the window   has passed         with the cursor    delivered before the next save
//!   (none) ────────► open ────────► closing ────────► ready ────────► (gone)
//!                     └──────────────── saved ──────────┘
//! ```
//!
//! A window that closes is frozen: its event is written, id and all, and lies in the saved state before anybody sees it.
//! Only when that state is on disk is it emitted, and it leaves the state with the first save after its batch was
//! settled. After a crash in between, the route restores the saved state, and the same event is emitted again, with the
//! same id. Events read again are counted once, because what was counted and the route's cursor are saved together.
//!
//! | file | what |
//! | --- | --- |
//! | `window.rs` | settings, and the plug-in |
//! | `window/number.rs` | exact sums of numbers in JSON |
//! | `window/state.rs` | which windows are open, closing, ready |
//! | `window/closed.rs` | the event that a window becomes |

use std::collections::BTreeSet;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use telemetryx_common::{Event, Timestamp};

use super::{EventProcessor, ProcessingError, ProcessingPluginFactory, json_object};
use crate::config::Duration;
use crate::plugin::{PluginError, settings};
use crate::route::{EventBatch, Origin};

mod closed;
mod number;
mod state;

use number::Number;
use state::State;

const TYPE_BYTES_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default = "count")]
    aggregate: Vec<Aggregate>,
    field: Option<String>,
    #[serde(default)]
    by: By,
    window: Duration,
    #[serde(default)]
    lateness: Duration,
    #[serde(default)]
    types: BTreeSet<String>,
    emit_type: Option<String>,
    #[serde(default = "max_open_windows")]
    max_open_windows: usize,
    #[serde(default = "idle_after")]
    idle_after: Duration,
    #[serde(default = "keep_events")]
    keep_events: bool,
}

fn count() -> Vec<Aggregate> {
    vec![Aggregate::Count]
}

fn max_open_windows() -> usize {
    10_000
}

fn idle_after() -> Duration {
    Duration::secs(10)
}

fn keep_events() -> bool {
    true
}

/// What is told of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
}

/// What events of one window have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    #[default]
    Type,
    Source,
}

/// What makes a window what it is: windows of another shape are other windows, with other ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    aggregate: BTreeSet<Aggregate>,
    field: Option<Vec<String>>,
    by: By,
    nanos: i64,
    types: BTreeSet<String>,
    emit_type: String,
}

/// How long windows stay open, and how many.
#[derive(Debug, Clone, Copy)]
struct Limits {
    lateness: i64,
    idle_after: i64,
    open_max: usize,
}

struct Window {
    shape: Shape,
    limits: Limits,
    keep_events: bool,
    state: Mutex<State>,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventProcessor>, PluginError> {
    let settings: Settings = settings(parameters)?;
    let keep_events = settings.keep_events;
    let limits = Limits {
        lateness: nanos(settings.lateness),
        idle_after: nanos(settings.idle_after),
        open_max: settings.max_open_windows,
    };
    if limits.open_max == 0 {
        return Err(PluginError::Settings(
            "`max_open_windows` is 0: use 1 or more".into(),
        ));
    }
    let shape = Shape::build(settings).map_err(PluginError::Settings)?;
    Ok(Box::new(Window {
        state: Mutex::new(State::new(shape.clone())),
        shape,
        limits,
        keep_events,
    }))
}

inventory::submit! {
    ProcessingPluginFactory { name: "Window", constructor: construct }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

impl Shape {
    fn build(settings: Settings) -> Result<Self, String> {
        let aggregate: BTreeSet<_> = settings.aggregate.into_iter().collect();
        if aggregate.is_empty() {
            return Err("`aggregate` is empty: use count, sum, min or max".into());
        }
        let numbers = aggregate.iter().any(|what| *what != Aggregate::Count);
        let field = match settings.field {
            Some(field) if numbers => Some(json_object::path(&field)?),
            Some(field) => {
                return Err(format!(
                    "`field` is `{field}`, and nothing is made of it: add sum, min or max to `aggregate`"
                ));
            }
            None if numbers => {
                return Err("sum, min and max need `field`, the field of the payload".into());
            }
            None => None,
        };
        let nanos = nanos(settings.window);
        if nanos < 1_000_000 {
            return Err(format!(
                "`window` is {}: the shortest is 1ms",
                settings.window
            ));
        }
        let emit_type = settings.emit_type.unwrap_or_else(|| {
            match settings.by {
                By::Type => "window.type",
                By::Source => "window.source",
            }
            .to_owned()
        });
        if emit_type.is_empty() || emit_type.len() > TYPE_BYTES_MAX {
            return Err(format!(
                "`emit_type` is {} bytes long: a type has 1 to {TYPE_BYTES_MAX}",
                emit_type.len()
            ));
        }
        Ok(Self {
            aggregate,
            field,
            by: settings.by,
            nanos,
            types: settings.types,
            emit_type,
        })
    }

    fn wants(&self, event: &Event<'_>) -> bool {
        self.types.is_empty() || self.types.contains(event.event_type.as_str())
    }

    /// The number that the event brings, if it brings one.
    fn number(&self, event: &Event<'_>) -> Option<Number> {
        let text = json_object::find(&event.payload, self.field.as_deref()?)?;
        Number::parse(text)
    }

    /// Where the window that holds `ts` begins.
    fn start(&self, ts: i64) -> i64 {
        ts.div_euclid(self.nanos).saturating_mul(self.nanos)
    }

    fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.nanos)
    }
}

#[async_trait]
impl EventProcessor for Window {
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError> {
        let now = batch.now();
        let mut state = self.state.lock();
        // Derived events were counted when they were events of clients.
        for (_, event) in batch.offsets().filter(|(_, event)| self.shape.wants(event)) {
            state.add(&self.limits, event, now);
        }
        state.report();
        if !self.keep_events {
            batch.retain(|origin, event| origin == Origin::Derived || !self.shape.wants(event));
        }
        for closed in state.take_ready() {
            batch.push_derived(closed.into_event());
        }
        Ok(())
    }

    fn idle(&self, now: Timestamp) {
        let mut state = self.state.lock();
        state.idle(&self.limits, now);
        state.report();
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn save(&self) -> Option<Value> {
        Some(self.state.lock().save())
    }

    fn restore(&self, saved: Value) -> Result<(), PluginError> {
        let restored = State::restore(saved, &self.shape, &self.limits).map_err(|error| {
            PluginError::Settings(format!("the saved windows cannot be read: {error}"))
        })?;
        *self.state.lock() = restored;
        Ok(())
    }

    fn saved(&self) {
        self.state.lock().saved();
    }

    fn wants_save(&self) -> bool {
        self.state.lock().closing() >= self.limits.open_max
    }

    fn output_due(&self) -> Option<Timestamp> {
        self.state.lock().output_due(&self.limits)
    }
}

#[cfg(test)]
mod tests;
