//! `Stats`: counts what passes its route, for `/stats`. The counts are saved in one step with the route's cursor, so
//! they are exact across kills.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{EventProcessor, ProcessingError, ProcessingPluginFactory};
use crate::counters::{Counters, CountersLimits};
use crate::plugin::{PluginError, settings};
use crate::query::CounterStore;
use crate::route::EventBatch;

struct Stats {
    counters: Counters,
}

fn construct(parameters: toml::Value) -> Result<Box<dyn EventProcessor>, PluginError> {
    let limits: CountersLimits = settings(parameters)?;
    for (key, limit) in [
        ("max_sources", limits.max_sources),
        ("max_types", limits.max_types),
        ("minutes", limits.minutes),
    ] {
        if limit == 0 {
            return Err(PluginError::Settings(format!(
                "`{key}` is 0: use 1 or more"
            )));
        }
    }
    Ok(Box::new(Stats {
        counters: Counters::new(limits),
    }))
}

inventory::submit! {
    ProcessingPluginFactory { name: "Stats", constructor: construct }
}

#[async_trait]
impl EventProcessor for Stats {
    async fn process_event(&self, batch: &mut EventBatch<'_>) -> Result<(), ProcessingError> {
        // Derived events were not accepted from anybody.
        self.counters.count(batch.offsets().map(|(_, event)| event));
        Ok(())
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn save(&self) -> Option<Value> {
        Some(self.counters.save())
    }

    fn restore(&self, state: Value) -> Result<(), PluginError> {
        self.counters.restore(state)
    }

    fn counters(&self) -> Option<Arc<dyn CounterStore>> {
        Some(Arc::new(self.counters.clone()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use telemetryx_common::{Event, Source, Timestamp};

    use super::super::tests::{processor, refuses, run};
    use crate::route::{Cause, EventBatch};

    #[test]
    fn what_passes_is_counted_and_passed_on_and_survives_a_restart() {
        let stats = processor("Stats", "max_sources = 10");
        let mut batch = EventBatch::new(Cause::Replay, Timestamp::UNIX_EPOCH);
        for offset in 0..3 {
            let mut event = Event::new(Timestamp::UNIX_EPOCH);
            event.source = Source::Number(7);
            batch.push(offset, event);
        }
        batch.push_derived(Event::new(Timestamp::UNIX_EPOCH));
        run(&*stats, &mut batch).unwrap();
        assert_eq!(batch.len(), 4);
        let restarted = processor("Stats", "");
        restarted.restore(stats.save().unwrap()).unwrap();
        let counters = restarted.counters().unwrap();
        let totals = counters.totals().now_or_never().unwrap().unwrap();
        let totals = serde_json::to_value(totals).unwrap();
        assert_eq!(
            totals,
            serde_json::json!({ "sources_count": 1, "events_count": 3 })
        );
    }

    #[test]
    fn limits_of_nothing_are_refused() {
        refuses("Stats", "minutes = 0", "`minutes` is 0");
        refuses("Stats", "max_source = 1", "max_source");
    }
}
