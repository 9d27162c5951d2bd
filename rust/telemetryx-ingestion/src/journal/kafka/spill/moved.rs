//! Where spilled events went, so that their receipts hold: for each batch that was handed over, the parts of the partitions in
//! which its events are. Entries of the control topic, so any process of the fleet can answer.
//!
//! ```text
//! journal/spill/<identity>/<offset of the first event>    a batch: JSON, {"to": …, "regions": [[partition, from, to], …]}
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::super::super::{Entry, TableChange};
use super::super::identity::OWN;
use super::super::table;
use super::super::watch::Watch;
use super::finding::Region;
use super::store::number_of;

/// So many batches of a spill are remembered, the newest: 8 GiB of events.
const BATCHES_MAX: usize = 2_000;

/// Where one batch went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    /// The offset behind its last event.
    pub(super) to: u64,
    /// Partition, and from where to where.
    pub(super) regions: Vec<(u32, u64, u64)>,
}

impl Batch {
    pub(super) fn regions(&self) -> impl Iterator<Item = Region> {
        self.regions.iter().map(|(partition, from, to)| Region {
            partition: *partition,
            from: *from,
            to: Some(*to),
        })
    }
}

/// The batches of one spill, by their first offset.
type Batches = BTreeMap<u64, Batch>;

/// See the module.
pub(super) struct Moved {
    watch: Arc<Watch>,
    known: Arc<Mutex<Known>>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Known {
    spills: BTreeMap<u128, Batches>,
    /// All that was in the topic at the start has been read.
    is_complete: bool,
}

fn prefix() -> String {
    format!("{OWN}spill/")
}

fn name(id: u128, first: u64) -> String {
    format!("{}{id:032x}/{first:x}", prefix())
}

fn parse(name: &str) -> Option<(u128, u64)> {
    let (id, first) = name.strip_prefix(&prefix())?.split_once('/')?;
    let id = u128::from_str_radix(id, 16).ok()?;
    Some((id, u64::from_str_radix(first, 16).ok()?))
}

impl Moved {
    /// Begins to read what others write.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn follow(watch: &Arc<Watch>) -> Result<Self, String> {
        let moved = Self {
            watch: Arc::clone(watch),
            known: Arc::default(),
            stop: Arc::default(),
        };
        let (watch, stop) = (Arc::clone(watch), Arc::clone(&moved.stop));
        let known = Arc::clone(&moved.known);
        let thread = std::thread::Builder::new().name("kafka-spills".to_owned());
        let following = move || {
            let prefix = prefix();
            let wants = |name: &str| name.starts_with(&prefix);
            table::follow(&watch, &stop, wants, |change| known.lock().apply(change));
        };
        thread.spawn(following).map_err(|error| error.to_string())?;
        Ok(moved)
    }

    /// True once all is known that was told before this process began.
    pub(super) fn is_complete(&self) -> bool {
        self.known.lock().is_complete
    }

    /// The identity of the spill with this number, if anything is known of it.
    pub(super) fn id_of(&self, number: u32) -> Option<u128> {
        let known = self.known.lock();
        let mut ids = known.spills.keys();
        ids.find(|id| number_of(**id) == number).copied()
    }

    /// The batches in which events of the spill between these offsets are, each with its first offset; and the offset behind
    /// the last batch that is known of the spill.
    pub(super) fn batches(&self, id: u128, from: u64, to: u64) -> (Vec<(u64, Batch)>, u64) {
        let known = self.known.lock();
        let Some(batches) = known.spills.get(&id) else {
            return (Vec::new(), 0);
        };
        let before = batches.range(..=from).next_back().map(|(first, _)| *first);
        let all = batches.range(before.unwrap_or(from)..to);
        let all = all.filter(|(_, batch)| batch.to > from);
        let all = all.map(|(first, batch)| (*first, batch.clone())).collect();
        let end = batches.values().next_back().map_or(0, |batch| batch.to);
        (all, end)
    }

    /// Tells everybody where a batch went, and forgets the oldest over the bound.
    ///
    /// # Errors
    /// Kafka's words; it may be tried again.
    pub(super) async fn tell(&self, id: u128, first: u64, batch: Batch) -> Result<(), String> {
        let value = serde_json::to_vec(&batch).map_err(|error| error.to_string())?;
        let mut entries: Vec<Entry> = vec![(name(id, first), Some(Bytes::from(value)))];
        {
            let known = self.known.lock();
            let batches = known.spills.get(&id);
            let firsts = batches.into_iter().flat_map(|batches| batches.keys());
            let count = batches.map_or(0, BTreeMap::len);
            let old = firsts.take((count + 1).saturating_sub(BATCHES_MAX));
            entries.extend(old.map(|first| (name(id, *first), None)));
        }
        let sender = self.watch.sender().map_err(|error| error.to_string())?;
        let told = table::put(&sender, self.watch.settings(), &entries).await;
        told.map_err(|error| error.to_string())?;
        // Here it is known at once.
        let mut known = self.known.lock();
        known.spills.entry(id).or_default().insert(first, batch);
        Ok(())
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Known {
    fn apply(&mut self, change: TableChange) {
        let TableChange::Value { name, value, .. } = change else {
            self.is_complete = true;
            return;
        };
        let Some((id, first)) = parse(&name) else {
            return;
        };
        let batches = self.spills.entry(id).or_default();
        match value.map(|value| serde_json::from_slice(&value)) {
            Some(Ok(batch)) => {
                batches.insert(first, batch);
            }
            Some(Err(error)) => {
                tracing::warn!(name, %error, "where spilled events went cannot be read");
            }
            None => {
                batches.remove(&first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_none() {
        assert_eq!(parse(&name(7, 255)), Some((7, 255)));
        for other in ["journal/spill/7", "journal/used/1", "journal/spill/x/y", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
