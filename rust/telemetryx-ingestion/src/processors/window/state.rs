//! Which windows are open, closing and ready. Nothing here reads a clock: times come with events and calls.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use telemetryx_common::{Event, Source, Timestamp};

use super::closed::{Closed, ClosedBy, Closing, Open};
use super::{By, Limits, Shape};

/// The windows of one route.
pub(super) struct State {
    shape: Shape,
    /// The newest time of an event.
    newest: i64,
    /// Windows that begin before this are closed; events for them are late.
    closed_before: i64,
    /// By their start, then by key.
    open: BTreeMap<i64, BTreeMap<String, Open>>,
    /// How many are in `open`.
    open_count: usize,
    /// Windows closed early so far.
    parts: u64,
    /// Events that came too late since a window was closed.
    late: u64,
    /// Closed, and not yet known to be saved.
    closing: Vec<Closed>,
    /// How many of `closing` were in the state that is being saved.
    saving: usize,
    /// Closed and saved: to be emitted with the next batch.
    ready: Vec<Closed>,
    /// When the last event came; `None` after a start, since nobody knows how long nothing has come then.
    last_seen: Option<Timestamp>,
    /// For the next line in the log.
    news: News,
}

#[derive(Default)]
struct News {
    late: u64,
    early: u64,
}

/// What is saved.
#[derive(Serialize, Deserialize)]
struct Saved {
    shape: Shape,
    newest: i64,
    closed_before: i64,
    open: Vec<(i64, String, Open)>,
    parts: u64,
    late: u64,
    closed: Vec<Closed>,
}

impl State {
    /// No window at all.
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            newest: i64::MIN,
            closed_before: i64::MIN,
            open: BTreeMap::new(),
            open_count: 0,
            parts: 0,
            late: 0,
            closing: Vec::new(),
            saving: 0,
            ready: Vec::new(),
            last_seen: None,
            news: News::default(),
        }
    }

    /// Counts an event in its window, and closes those that its time ends.
    pub(super) fn add(&mut self, limits: &Limits, event: &Event<'_>, now: Timestamp) {
        self.last_seen = Some(now);
        let ts = event.ts.unix_nanos();
        let start = self.shape.start(ts);
        if start < self.closed_before {
            self.late += 1;
            self.news.late += 1;
            return;
        }
        let number = self.shape.number(event);
        let source;
        let (key, numeric) = match self.shape.by {
            By::Type => (event.event_type.as_str(), false),
            By::Source => {
                source = event.source.as_text();
                (source.as_ref(), matches!(event.source, Source::Number(_)))
            }
        };
        let known = self
            .open
            .get_mut(&start)
            .and_then(|windows| windows.get_mut(key));
        match known {
            Some(window) => window.add(number),
            None => {
                if self.open_count >= limits.open_max {
                    self.close_oldest(now);
                }
                let mut window = Open {
                    numeric,
                    part: self.parts,
                    ..Open::default()
                };
                window.add(number);
                self.open_count += 1;
                let windows = self.open.entry(start).or_default();
                windows.insert(key.to_owned(), window);
            }
        }
        if ts > self.newest {
            self.newest = ts;
            self.pass(limits, now);
        }
    }

    /// Closes what the newest event's time leaves behind.
    fn pass(&mut self, limits: &Limits, now: Timestamp) {
        let passed = self
            .shape
            .start(self.newest.saturating_sub(limits.lateness));
        if passed > self.closed_before {
            self.closed_before = passed;
            self.close_before(passed, ClosedBy::Time, now);
        }
    }

    /// Nothing more is there to be read: closes what the clock has passed, if nothing has come for a while.
    pub(super) fn idle(&mut self, limits: &Limits, now: Timestamp) {
        let Some(last_seen) = self.last_seen else {
            self.last_seen = Some(now);
            return;
        };
        let waited = now.unix_nanos().saturating_sub(last_seen.unix_nanos());
        if waited < limits.idle_after {
            return;
        }
        let passed = self
            .shape
            .start(now.unix_nanos().saturating_sub(limits.lateness));
        // Only as far as there were windows: an event of a time that had none may still come.
        if let Some((&last, _)) = self.open.range(..passed).next_back() {
            let end = self.shape.end(last);
            self.closed_before = self.closed_before.max(end);
            self.close_before(end, ClosedBy::Idle, now);
        }
    }

    /// When `take_ready` or `idle` would do something.
    pub(super) fn output_due(&self, limits: &Limits) -> Option<Timestamp> {
        if !self.ready.is_empty() {
            return Some(Timestamp::UNIX_EPOCH);
        }
        let (&oldest, _) = self.open.first_key_value()?;
        let Some(last_seen) = self.last_seen else {
            return Some(Timestamp::UNIX_EPOCH);
        };
        let passed = self.shape.end(oldest).saturating_add(limits.lateness);
        let idle = last_seen.unix_nanos().saturating_add(limits.idle_after);
        Some(Timestamp::from_unix_nanos(passed.max(idle)))
    }

    fn close_before(&mut self, start: i64, by: ClosedBy, now: Timestamp) {
        let later = self.open.split_off(&start);
        for (start, windows) in std::mem::replace(&mut self.open, later) {
            for (key, window) in windows {
                self.close(start, &key, &window, by, now);
            }
        }
    }

    /// Makes room for one more window.
    fn close_oldest(&mut self, now: Timestamp) {
        let Some(mut oldest) = self.open.first_entry() else {
            return;
        };
        let start = *oldest.key();
        let window = oldest.get_mut().pop_first();
        if oldest.get().is_empty() {
            oldest.remove();
        }
        if let Some((key, window)) = window {
            self.parts += 1;
            self.news.early += 1;
            self.close(start, &key, &window, ClosedBy::Full, now);
        }
    }

    fn close(&mut self, start: i64, key: &str, open: &Open, by: ClosedBy, now: Timestamp) {
        self.open_count -= 1;
        let late = std::mem::take(&mut self.late);
        let window = Closing {
            start,
            key,
            open,
            by,
            late,
            now,
        };
        self.closing.push(Closed::new(&self.shape, &window));
    }

    /// Says what an operator should know, once a batch.
    pub(super) fn report(&mut self) {
        let News { late, early } = std::mem::take(&mut self.news);
        if late > 0 {
            tracing::warn!(
                late,
                emit_type = self.shape.emit_type,
                "events came after their window was closed; a longer `lateness` would wait for them"
            );
        }
        if early > 0 {
            tracing::warn!(
                early,
                emit_type = self.shape.emit_type,
                "windows were closed early: `max_open_windows` were open"
            );
        }
    }

    /// Windows to be emitted now. They are forgotten: the caller says with the next call of anything that the batch was
    /// settled, or restores a state that still has them.
    pub(super) fn take_ready(&mut self) -> Vec<Closed> {
        std::mem::take(&mut self.ready)
    }

    /// How many windows wait for a save.
    pub(super) fn closing(&self) -> usize {
        self.closing.len()
    }

    pub(super) fn save(&mut self) -> Value {
        self.saving = self.closing.len();
        let windows = self.open.iter().flat_map(|(start, windows)| {
            windows
                .iter()
                .map(|(key, window)| (*start, key.clone(), window.clone()))
        });
        let saved = Saved {
            shape: self.shape.clone(),
            newest: self.newest,
            closed_before: self.closed_before,
            open: windows.collect(),
            parts: self.parts,
            late: self.late,
            closed: self.ready.iter().chain(&self.closing).cloned().collect(),
        };
        serde_json::to_value(saved).unwrap_or_default()
    }

    /// What the last `save` returned is on disk.
    pub(super) fn saved(&mut self) {
        self.ready.extend(self.closing.drain(..self.saving));
        self.saving = 0;
    }

    /// The state that was saved. Everything in it that is closed may be emitted: it is on disk.
    pub(super) fn restore(
        saved: Value,
        shape: &Shape,
        limits: &Limits,
    ) -> Result<Self, serde_json::Error> {
        let mut state = Self::new(shape.clone());
        if saved.is_null() {
            return Ok(state);
        }
        let saved: Saved = serde_json::from_value(saved)?;
        state.shape = saved.shape;
        state.newest = saved.newest;
        state.closed_before = saved.closed_before;
        state.parts = saved.parts;
        state.late = saved.late;
        state.ready = saved.closed;
        for (start, key, window) in saved.open {
            state.open_count += 1;
            state.open.entry(start).or_default().insert(key, window);
        }
        if state.shape != *shape {
            state.take_shape(shape, limits);
        }
        Ok(state)
    }

    /// The settings were changed: windows of the old ones are closed as they are, with their old ids. That follows from
    /// the saved state alone, so they can be emitted at once: after a crash it would come out the same.
    fn take_shape(&mut self, shape: &Shape, limits: &Limits) {
        tracing::warn!(
            windows = self.open_count,
            emit_type = shape.emit_type,
            "the settings of a window were changed; what is open is closed as it is"
        );
        let now = Timestamp::from_unix_nanos(self.newest);
        for (start, windows) in std::mem::take(&mut self.open) {
            for (key, window) in windows {
                self.close(start, &key, &window, ClosedBy::Settings, now);
            }
        }
        self.ready.append(&mut self.closing);
        self.shape = shape.clone();
        self.closed_before = i64::MIN;
        if self.newest > i64::MIN {
            self.closed_before = self
                .shape
                .start(self.newest.saturating_sub(limits.lateness));
        }
    }
}
