//! Batches on their way into the queue: taken apart by partition, and waiting for the writer.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use telemetryx_common::wire;
use tokio::sync::{Notify, oneshot};

use super::super::{AppendError, Position};

/// Bytes that may wait; one batch alone may be larger.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What a batch that waits takes beside its bytes, about.
const OVERHEAD_BYTES: usize = 256;
/// Bytes that are written with one commit; one batch alone may be larger.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Batches that are written with one commit.
const GROUP_BATCHES_MAX: usize = 4096;

/// What a batch puts into one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) partition: u32,
    pub(super) events: u32,
    pub(super) body: Bytes,
}

/// A batch that waits for its commit.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) parts: SmallVec<[Part; 1]>,
    pub(super) bytes: usize,
    pub(super) done: oneshot::Sender<Result<Position, AppendError>>,
}

/// Takes a batch apart; the parts in the order of their partitions, each with its events in theirs.
///
/// # Errors
/// The batch is no batch.
pub(super) fn parts(body: Bytes, partitions: u32) -> Result<SmallVec<[Part; 1]>, String> {
    let mut runs: SmallVec<[(u32, usize, usize); 64]> = SmallVec::new();
    let mut at = 0;
    while at < body.len() {
        let rest = body.get(at..).unwrap_or_default();
        let (found, length) = wire::first_part(rest, 1, usize::MAX);
        let event = rest.get(..length).and_then(|one| wire::events(one).next());
        let event = match event {
            Some(Ok(event)) if found == 1 => event,
            Some(Err(error)) => return Err(error.to_string()),
            _ => return Err(format!("byte {at} begins no event")),
        };
        let partition = partition_of(event.key().as_bytes(), partitions);
        runs.push((partition, at, at + length));
        at += length;
    }
    let Some(&(first, ..)) = runs.first() else {
        return Err("the batch is empty".to_owned());
    };
    let mut parts = SmallVec::new();
    if runs.iter().all(|(partition, ..)| *partition == first) {
        let events = u32::try_from(runs.len()).unwrap_or(u32::MAX);
        parts.push(Part {
            partition: first,
            events,
            body,
        });
        return Ok(parts);
    }
    let mut gathered: SmallVec<[(u32, Vec<u8>); 8]> = SmallVec::new();
    gathered.resize(partitions as usize, (0, Vec::new()));
    for (partition, from, to) in runs {
        if let Some((events, bytes)) = gathered.get_mut(partition as usize) {
            *events += 1;
            bytes.extend_from_slice(body.get(from..to).unwrap_or_default());
        }
    }
    for (partition, (events, bytes)) in (0..).zip(gathered) {
        if events > 0 {
            parts.push(Part {
                partition,
                events,
                body: bytes.into(),
            });
        }
    }
    Ok(parts)
}

/// The partition of a key: FNV-1a of its bytes, mixed, so that short keys spread. Never changes: keys would move.
fn partition_of(key: &[u8], partitions: u32) -> u32 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let spread = (u128::from(mixed) * u128::from(partitions)) >> 64;
    u32::try_from(spread).unwrap_or_default()
}

/// Batches in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    /// Puts a batch at the end.
    ///
    /// # Errors
    /// [`AppendError::Full`], [`AppendError::Closed`].
    pub(super) fn push(&self, waiting: Waiting) -> Result<(), AppendError> {
        let mut inner = self.inner.lock();
        if inner.is_closed {
            return Err(AppendError::Closed);
        }
        let bytes = waiting.bytes + OVERHEAD_BYTES;
        if inner.bytes + bytes > WAITING_BYTES_MAX && !inner.waiting.is_empty() {
            return Err(AppendError::Full);
        }
        inner.bytes += bytes;
        inner.waiting.push_back(waiting);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    /// All that waits, up to what one commit takes; those whose senders are gone are left out. `None`: closed, and nothing
    /// waits any more.
    pub(super) async fn group(&self) -> Option<Vec<Waiting>> {
        loop {
            {
                let mut inner = self.inner.lock();
                let (mut group, mut bytes) = (Vec::new(), 0);
                while let Some(next) = inner.waiting.front() {
                    let is_full = bytes + next.bytes > GROUP_BYTES_MAX && !group.is_empty();
                    if is_full || group.len() >= GROUP_BATCHES_MAX {
                        break;
                    }
                    if let Some(next) = inner.waiting.pop_front() {
                        inner.bytes -= next.bytes + OVERHEAD_BYTES;
                        if !next.done.is_closed() {
                            bytes += next.bytes;
                            group.push(next);
                        }
                    }
                }
                if !group.is_empty() {
                    return Some(group);
                }
                if inner.is_closed {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Takes nothing more; what waits is still written.
    pub(super) fn close(&self) {
        self.inner.lock().is_closed = true;
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use telemetryx_common::{Event, Timestamp};

    use super::*;

    fn batch(keys: &[&str]) -> Bytes {
        let mut body = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            let mut event = Event::new(Timestamp::UNIX_EPOCH);
            event.partition_key = Some((*key).into());
            wire::encode_event(&event, &number.to_string(), &mut body);
        }
        body.into()
    }

    #[test]
    fn a_batch_is_taken_apart_by_key_without_changing_a_byte() {
        let keys = ["a", "b", "c", "a", "d", "e", "b", "f", "a"];
        let body = batch(&keys);
        let parts = parts(body.clone(), 4).unwrap();
        assert!(parts.len() > 1);
        assert!(parts.is_sorted_by_key(|part| part.partition));
        let mut found = BTreeMap::new();
        for part in &parts {
            let events: Vec<_> = wire::events(&part.body).map(Result::unwrap).collect();
            assert_eq!(events.len(), part.events as usize);
            let numbers = events
                .iter()
                .map(|event| event.id.parse::<usize>().unwrap());
            assert!(
                numbers.clone().is_sorted(),
                "events of a partition keep their order"
            );
            for number in numbers {
                found.insert(number, part.partition);
            }
        }
        assert_eq!(found.len(), keys.len());
        assert_eq!((found[&0], found[&1]), (found[&3], found[&6]));
        let bytes: usize = parts.iter().map(|part| part.body.len()).sum();
        assert_eq!(bytes, body.len());
    }

    #[test]
    fn a_batch_of_one_key_is_not_copied_and_no_batch_is_refused() {
        let body = batch(&["a", "a"]);
        let alone = parts(body.clone(), 4).unwrap();
        assert_eq!((alone.len(), alone[0].events), (1, 2));
        assert_eq!(alone[0].body.as_ptr(), body.as_ptr());
        parts(Bytes::new(), 4).unwrap_err();
        parts(body.slice(..body.len() - 1), 4).unwrap_err();
    }

    #[test]
    fn keys_never_move_and_are_spread() {
        // Journals that are there rely on these.
        let found = ["", "a", "device-1", "größe"].map(|key| partition_of(key.as_bytes(), 128));
        assert_eq!(found, FOUND);
        let mut held = [0; 7];
        for key in 0..7000 {
            held[partition_of(key.to_string().as_bytes(), 7) as usize] += 1;
        }
        assert!(held.iter().all(|&keys| keys > 800), "{held:?}");
    }

    const FOUND: [u32; 4] = [118, 118, 81, 92];
}
