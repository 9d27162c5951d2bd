//! `stats`: counts events in memory; the counts are saved in one step with the route's cursor, so they are exact across
//! kills. Answers `/stats`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{DeliverError, Sink, SinkContext, SinkFactory};
use crate::counters::{Counters, CountersLimits};
use crate::plugin::{PluginError, settings};
use crate::query::CounterStore;
use crate::route::EventBatch;

struct StatsSink {
    counters: Counters,
}

fn construct(
    parameters: toml::Value,
    _context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let limits: CountersLimits = settings(parameters)?;
    Ok(Box::new(StatsSink {
        counters: Counters::new(limits),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "stats",
        constructor: construct,
        // Counting is cheap: a short wait, so that `/stats` is soon right.
        flush_interval: Duration::from_millis(5),
    }
}

#[async_trait]
impl Sink for StatsSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        // Events that a processor made were not accepted from anybody.
        self.counters.count(batch.offsets().map(|(_, event)| event));
        Ok(())
    }

    async fn check(&self) -> Result<(), DeliverError> {
        Ok(())
    }

    fn save(&self) -> Option<Value> {
        Some(self.counters.save())
    }

    fn restore(&self, state: Value) -> Result<(), PluginError> {
        self.counters.restore(state)
    }

    fn refuses_replay(&self) -> Option<&'static str> {
        Some("the `stats` sink counts: delivered again, events would be counted twice")
    }

    fn counters(&self) -> Option<Arc<dyn CounterStore>> {
        Some(Arc::new(self.counters.clone()))
    }
}
