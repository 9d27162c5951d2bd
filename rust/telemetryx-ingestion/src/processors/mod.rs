//! Plug-ins that change, drop or add to a batch on its way to a sink: one file each, found through `inventory`, named
//! in `processing.plugins` (every route) or in a route's own `processors`. Each route has instances of its own.
//!
//! | file | plug-in |
//! | --- | --- |
//! | `enrich.rs` | `Enrich`: static attributes, received time |
//! | `json_object.rs` | no plug-in: the members of a payload as text |
//! | `normalize_timestamp.rs` | `NormalizeTimestamp`: precision and bounds of `ts` |
//! | `schema_migration.rs` | `SchemaMigration`: lifts old payloads version by version |
//! | `stats.rs` | `Stats`: counts what passes, for `/stats` |
//! | `window.rs` | `Window`: tumbling windows, emitted as events of their own |

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use telemetryx_common::Timestamp;

use crate::config::PluginConfig;
use crate::plugin::{self, PluginError};
use crate::query::CounterStore;
use crate::route::EventBatch;

mod enrich;
mod json_object;
mod normalize_timestamp;
mod schema_migration;
mod stats;
mod window;

/// Why a processor could not handle a batch.
#[derive(Debug, thiserror::Error)]
pub enum ProcessingError {
    /// One event cannot be processed, now or later: the caller dead-letters that event (stage `processing`) and hands
    /// the rest of the batch in again.
    #[error("{message}")]
    Event {
        /// Place of the event in the batch.
        index: usize,
        /// Short snake_case name of the fault.
        code: &'static str,
        /// What is wrong, for a person.
        message: String,
    },
    /// The batch could not be processed now: the caller tries again with its retry policy.
    #[error("{0}")]
    Retryable(String),
}

/// Changes, drops or adds to a batch. An event that it drops is booked as filtered.
///
/// A batch may be handed in more than once (after an error, or again after a crash, from the last saved state): what it
/// does must depend on nothing but the batch, its settings and its saved state.
///
/// A call of [`process_event`](Self::process_event) or [`save`](Self::save) means that the batch before was settled: the
/// sink has what was left of it and what was added to it. If it was not, [`restore`](Self::restore) comes first.
#[async_trait]
pub trait EventProcessor: Send + Sync {
    /// Handles one batch, in the order of the journal.
    ///
    /// # Errors
    /// [`ProcessingError`]; its variants say what becomes of the batch. After an error the processor's state must be as
    /// before the call, and so must the batch, unless handling an event twice is the same as handling it once.
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError>;

    /// The route has read everything there is, and it is `now`: what waits for an event that may never come need not
    /// wait any longer. Called right before [`process_event`](Self::process_event) with a batch that is empty.
    fn idle(&self, _now: Timestamp) {}

    /// True if the processor keeps state, and so must see each event once: replays and dead letters sent again pass it by.
    fn keeps_state(&self) -> bool {
        self.save().is_some()
    }

    /// What must survive a restart, saved in the same step as the route's cursor. `None`: the processor keeps nothing.
    fn save(&self) -> Option<Value> {
        None
    }

    /// Takes back what [`save`](Self::save) returned, before the first batch, and also later, when the route has to go
    /// back to its last commit. `Null`: nothing was saved, start empty.
    ///
    /// # Errors
    /// [`PluginError`] if the state is not one of this plug-in's.
    fn restore(&self, _state: Value) -> Result<(), PluginError> {
        Ok(())
    }

    /// The last saved state is on disk: what it promised to emit may now be emitted.
    fn saved(&self) {}

    /// True if so much waits for the next save that it should come soon.
    fn wants_save(&self) -> bool {
        false
    }

    /// When the processor wants to be called though no event has come. A time that has passed: now. `None`: it waits for
    /// events.
    fn output_due(&self) -> Option<Timestamp> {
        None
    }

    /// The counters it keeps, if it is one that answers `/stats`.
    fn counters(&self) -> Option<Arc<dyn CounterStore>> {
        None
    }
}

/// Registers a processor: `inventory::submit! { ProcessingPluginFactory { name: "Enrich", constructor } }`.
pub struct ProcessingPluginFactory {
    /// The name used in the config.
    pub name: &'static str,
    /// Makes one from the settings beside the name.
    pub constructor: fn(toml::Value) -> Result<Box<dyn EventProcessor>, PluginError>,
}

inventory::collect!(ProcessingPluginFactory);

/// Makes the processor that `config` names.
///
/// # Errors
/// [`PluginError`] if none has that name, or it refuses its settings.
pub fn build(config: &PluginConfig) -> Result<Box<dyn EventProcessor>, PluginError> {
    let factories = inventory::iter::<ProcessingPluginFactory>.into_iter();
    let factory = plugin::find("processor", &config.name, factories, |factory| factory.name)?;
    (factory.constructor)(config.parameters())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{EventProcessor, ProcessingError, build};
    use crate::config::PluginConfig;
    use crate::route::EventBatch;

    fn config(name: &str, settings: &str) -> PluginConfig {
        PluginConfig {
            name: name.to_owned(),
            rest: toml::from_str(settings).unwrap(),
        }
    }

    pub(super) fn processor(name: &str, settings: &str) -> Box<dyn EventProcessor> {
        build(&config(name, settings)).unwrap()
    }

    /// The plug-in refuses these settings, and says `why`.
    pub(super) fn refuses(name: &str, settings: &str, why: &str) {
        let Err(error) = build(&config(name, settings)) else {
            panic!("{name} takes {settings}")
        };
        assert!(error.to_string().contains(why), "{settings}: {error}");
    }

    pub(super) fn run(
        processor: &dyn EventProcessor,
        batch: &mut EventBatch<'_>,
    ) -> Result<(), ProcessingError> {
        let done = processor.process_event(batch).now_or_never();
        done.expect("our processors never wait")
    }
}
