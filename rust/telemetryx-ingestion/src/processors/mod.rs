//! Plug-ins that change, drop or add to a batch on its way to a sink: one file each, found through `inventory`, named
//! in `processing.plugins` (every route) or in a route's own `processors`. Each route has instances of its own.
//!
//! | file | plug-in |
//! | --- | --- |
//! | `enrich.rs` | `Enrich`: static attributes, received time |
//! | `normalize_timestamp.rs` | `NormalizeTimestamp`: precision and bounds of `ts` |
//! | `schema_migration.rs` | `SchemaMigration`: lifts old payloads version by version |
//! | `stats.rs` | `Stats`: counts what passes, for `/stats` |
//! | `window.rs` | `Window`: tumbling windows, emitted as events of their own |

use async_trait::async_trait;
use serde_json::Value;

use crate::config::PluginConfig;
use crate::counters::Counters;
use crate::plugin::PluginError;
use crate::route::EventBatch;

//mod enrich;
//mod normalize_timestamp;
//mod schema_migration;
//mod stats;
//mod window;

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
#[async_trait]
pub trait EventProcessor: Send + Sync {
    /// Handles one batch, in the order of the journal.
    ///
    /// # Errors
    /// [`ProcessingError`]; its variants say what becomes of the batch. After an error the batch and the processor's
    /// state must be as before the call.
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError>;

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

    /// True if the processor has something to emit without waiting for another event.
    fn has_output(&self) -> bool {
        false
    }

    /// The counters it keeps, if it is one that answers `/stats`.
    fn counters(&self) -> Option<Counters> {
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
    let factories = || inventory::iter::<ProcessingPluginFactory>.into_iter();
    let Some(factory) = factories().find(|factory| factory.name == config.name) else {
        let mut known: Vec<_> = factories().map(|factory| factory.name).collect();
        known.sort_unstable();
        return Err(PluginError::Unknown {
            kind: "processor",
            name: config.name.clone(),
            known,
        });
    };
    (factory.constructor)(config.parameters())
}
