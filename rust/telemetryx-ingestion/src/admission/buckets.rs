//! Token buckets by client, in bounded memory: what `rate_limit.rs` keeps of each address or source.
//!
//! A bucket is one number (the time at which it is full again), found by a keyed 64-bit hash of who it belongs to; the key
//! is made anew at every start, so nobody can choose addresses or names that meet in one place. About 115,000 clients have
//! a bucket of their own. A newcomer beyond them shares one of 114,688 further buckets, chosen by the same hash, with
//! whoever else falls there. So a flood of addresses takes nothing from those who were there before, and to spend the
//! buckets of all newcomers it must send 114,688 times the rate of one.
//!
//! A bucket that is full again is forgotten within a second: it is the same as none.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use parking_lot::Mutex;

/// Parts with a lock of their own.
const SHARDS: usize = 64;
/// Buckets of one client each, in one shard: what a table of 2,048 places holds before it grows.
const OWN_MAX: usize = 1792;
/// Buckets that newcomers share, in one shard.
const SHARED: usize = 1792;
/// Bytes of a place in a table: hash, time, and the table's own byte.
const PLACE_BYTES: usize = 17;

/// The buckets of all clients, as `governor` keeps them; a cheap clone.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    key: RandomState,
    shards: Arc<[Mutex<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    own: HashMap<u64, u64, BuildHasherDefault<Hashed>>,
    /// Empty until the first newcomer has to share. 0: a bucket that is full.
    shared: Vec<u64>,
}

impl Buckets {
    /// No bucket yet.
    pub(super) fn new() -> Self {
        Self {
            key: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The name of a client's bucket.
    pub(super) fn name(&self, client: &(impl Hash + ?Sized)) -> u64 {
        self.key.hash_one(client)
    }

    fn shard(&self, name: u64) -> &Mutex<Shard> {
        // The tables use the lowest and the highest bits.
        &self.shards[(name >> 32) as usize % SHARDS]
    }
}

impl Shard {
    fn bytes(&self) -> usize {
        let places = (self.own.capacity() * 8 / 7).next_power_of_two();
        let own = if self.own.capacity() == 0 { 0 } else { places };
        own * PLACE_BYTES + self.shared.capacity() * size_of::<u64>()
    }
}

/// How many buckets there are, and what they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketsHeld {
    /// Buckets of one client each.
    pub buckets: usize,
    /// Memory of these and of the shared ones, in bytes.
    pub bytes: usize,
}

impl Buckets {
    /// How much is held now.
    pub(super) fn held(&self) -> BucketsHeld {
        let mut held = BucketsHeld {
            buckets: 0,
            bytes: SHARDS * size_of::<Mutex<Shard>>(),
        };
        for shard in self.shards.iter() {
            let shard = shard.lock();
            held.buckets += shard.own.len();
            held.bytes += shard.bytes();
        }
        held
    }
}

impl StateStore for Buckets {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, name: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(*name).lock();
        let Shard { own, shared } = &mut *shard;
        // Not by `entry`, which makes room for one more even if none is added.
        if let Some(bucket) = own.get_mut(name) {
            let (outcome, full_at) = decide(Some((*bucket).into()))?;
            *bucket = full_at.into();
            return Ok(outcome);
        }
        if own.len() < OWN_MAX {
            let (outcome, full_at) = decide(None)?;
            own.insert(*name, full_at.into());
            return Ok(outcome);
        }
        shared.resize(SHARED, 0);
        let bucket = &mut shared[(*name % SHARED as u64) as usize];
        let (outcome, full_at) = decide((*bucket > 0).then(|| (*bucket).into()))?;
        *bucket = full_at.into();
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for Buckets {
    fn retain_recent(&self, full_before: Nanos) {
        for shard in self.shards.iter() {
            let mut shard = shard.lock();
            shard.own.retain(|_, full_at| *full_at > full_before.into());
            // Room that a flood took is given back; what a steady load takes is left alone.
            if shard.own.capacity() > 8 * shard.own.len() {
                shard.own.shrink_to_fit();
            }
            let full = |full_at: &u64| *full_at <= full_before.into();
            if shard.shared.iter().all(full) {
                shard.shared = Vec::new();
            }
        }
    }

    fn len(&self) -> usize {
        self.held().buckets
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes a hash as it is.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
