//! The way back in: events that a destination answers with are accepted as those of clients are.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use telemetryx_common::Event;

/// Takes in events that a sink hands back.
#[async_trait]
pub trait Emit: Send + Sync {
    /// Makes them durable; those that are invalid become dead letters. They are not asked for a key, a rate or room in the
    /// backlog: a route that could not go on because the backlog is full would keep it full.
    ///
    /// # Errors
    /// Why not now, for a person; some of them may be durable.
    async fn emit(&self, events: &[Event<'_>]) -> Result<(), String>;
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
    pub async fn emit(&self, events: &[Event<'_>]) -> Result<(), String> {
        match (events, self.0.get()) {
            ([], _) => Ok(()),
            (_, Some(to)) => to.emit(events).await,
            (_, None) => Err("the service does not run yet".to_owned()),
        }
    }
}
