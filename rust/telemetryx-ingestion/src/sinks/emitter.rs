//! The way back in: events that a destination answers with are accepted as those of clients are.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use telemetryx_common::Event;

/// Why events that a sink handed back were not taken; none of them was. For a person.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// Not now: hand them back again later.
    #[error("{0}")]
    Later(String),
    /// They are too much together, and will be.
    #[error("{0}")]
    TooMuch(String),
}

/// Takes in events that a sink hands back.
#[async_trait]
pub trait Emit: Send + Sync {
    /// Makes them durable, all or none; those that are invalid become dead letters. They are not asked for a key, a rate or
    /// room in the backlog: a route that could not go on because the backlog is full would keep it full. For the same reason
    /// some of the disk is kept for them.
    ///
    /// # Errors
    /// [`EmitError`].
    async fn emit(&self, events: &[Event<'_>]) -> Result<(), EmitError>;
}

/// A sink's end of it; a cheap clone. It leads nowhere until the service runs.
#[derive(Clone, Default)]
pub struct Emitter(Arc<OnceLock<Arc<dyn Emit>>>);

impl Emitter {
    /// From now on it leads there.
    pub fn connect(&self, to: Arc<dyn Emit>) {
        self.0.get_or_init(|| to);
    }

    /// See [`Emit::emit`]. The batch that they come of counts as delivered only after this.
    ///
    /// # Errors
    /// As [`Emit::emit`].
    pub async fn emit(&self, events: &[Event<'_>]) -> Result<(), EmitError> {
        match (events, self.0.get()) {
            ([], _) => Ok(()),
            (_, Some(to)) => to.emit(events).await,
            (_, None) => Err(EmitError::Later("the service does not run yet".to_owned())),
        }
    }
}
