//! Filter and processors: what they leave of a batch, and what they refuse.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::{EventBatch, Origin, RouteFilter};
use crate::clock;
use crate::observe::PluginMetrics;
use crate::plugin::PluginError;
use crate::processors::{EventProcessor, ProcessingError};

/// One processor of one route.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) processor: Arc<dyn EventProcessor>,
    pub(super) metrics: PluginMetrics,
}

/// The filter and the processors of one route, in order.
pub(super) struct Pipeline {
    pub(super) filter: RouteFilter,
    pub(super) steps: Vec<Step>,
}

/// An event that a processor cannot handle.
pub(super) struct Refused {
    pub(super) offset: u64,
    pub(super) code: String,
    pub(super) message: String,
}

impl Pipeline {
    /// Filters and processes `batch` in place; what processors refuse is taken out and returned.
    ///
    /// # Errors
    /// The words of a processor that cannot work now. The route must then go back to its
    /// last commit: some processors have seen the batch, others have not.
    pub(super) async fn process(&self, batch: &mut EventBatch<'_>) -> Result<Vec<Refused>, String> {
        if batch.is_empty() {
            for step in &self.steps {
                step.processor.idle(batch.now());
            }
        }
        if !self.filter.is_open() {
            batch.retain(|_, event| self.filter.wants(event));
        }
        let mut refused = Vec::new();
        for step in &self.steps {
            loop {
                let started = Instant::now();
                let done = step.processor.process_event(batch).await;
                step.metrics.took(done.is_ok(), started.elapsed());
                match done {
                    Ok(()) => break,
                    Err(ProcessingError::Event {
                        index,
                        code,
                        message,
                    }) if index < batch.len() => {
                        step.metrics.errors.increment(1);
                        match batch.remove(index).0 {
                            Origin::Journal(offset) => refused.push(Refused {
                                offset,
                                code: code.to_owned(),
                                message: format!("{}: {message}", step.name),
                            }),
                            Origin::Derived => {
                                tracing::error!(
                                    plugin = step.name,
                                    message,
                                    "a derived event was refused and dropped"
                                );
                            }
                        }
                    }
                    Err(error) => return Err(format!("{}: {error}", step.name)),
                }
            }
        }
        Ok(refused)
    }

    /// The same without the processors that keep state, for events that those have seen before.
    pub(super) fn stateless(&self) -> Self {
        let steps = self
            .steps
            .iter()
            .filter(|step| !step.processor.keeps_state())
            .cloned()
            .collect();
        Self {
            filter: self.filter.clone(),
            steps,
        }
    }

    /// True if a processor wants to be called without a new event.
    pub(super) fn has_output(&self) -> bool {
        self.output_in().is_some_and(|due| due.is_zero())
    }

    /// How long until a processor wants to be called without a new event.
    pub(super) fn output_in(&self) -> Option<Duration> {
        let due = self
            .steps
            .iter()
            .filter_map(|step| step.processor.output_due())
            .min()?;
        let nanos = due.unix_nanos().saturating_sub(clock::now().unix_nanos());
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
    }

    /// True if a processor wants its state to be saved soon.
    pub(super) fn wants_save(&self) -> bool {
        self.steps.iter().any(|step| step.processor.wants_save())
    }

    /// What must survive a restart.
    pub(super) fn save(&self) -> Value {
        let states = self.steps.iter().enumerate();
        states
            .filter_map(|(place, step)| Some((key(place, &step.name), step.processor.save()?)))
            .collect::<Map<_, _>>()
            .into()
    }

    /// Takes back what `save` returned. State of a processor that is not there any more is left out, and said.
    ///
    /// # Errors
    /// [`PluginError`] if a processor does not take its state back.
    pub(super) fn restore(&self, saved: &Value) -> Result<(), PluginError> {
        let mut known = Vec::new();
        for (place, step) in self.steps.iter().enumerate() {
            let key = key(place, &step.name);
            step.processor
                .restore(saved.get(&key).cloned().unwrap_or_default())?;
            known.push(key);
        }
        let states = saved.as_object().into_iter().flat_map(Map::keys);
        for lost in states.filter(|key| !known.contains(key)) {
            tracing::warn!(
                processor = lost,
                "this processor is not in the config any more; its state is dropped"
            );
        }
        Ok(())
    }

    /// The saved state is on disk.
    pub(super) fn saved(&self) {
        for step in &self.steps {
            step.processor.saved();
        }
    }
}

fn key(place: usize, name: &str) -> String {
    format!("{place}:{name}")
}
