//! A seed that is printed and can be given again.

use std::hash::{BuildHasher, RandomState};

/// Random numbers of one test, all from one seed.
///
/// The seed is that in `TELEMETRYX_SEED`, else a new one; it is printed, so a failing test shows it.
#[derive(Debug, Clone)]
pub struct TestSeed {
    seed: u64,
    state: u64,
}

impl TestSeed {
    /// Takes the seed from the environment, or a new one.
    ///
    /// # Panics
    /// If `TELEMETRYX_SEED` is not a number.
    pub fn new() -> Self {
        let seed = match std::env::var("TELEMETRYX_SEED") {
            Ok(text) => text.parse().expect("TELEMETRYX_SEED is a number"),
            Err(_) => RandomState::new().hash_one("seed") >> 16,
        };
        Self::of(seed)
    }

    /// This seed.
    pub fn of(seed: u64) -> Self {
        eprintln!("TELEMETRYX_SEED={seed}");
        Self { seed, state: seed }
    }

    /// What it began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next random number (SplitMix64).
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A random number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }
}

impl Default for TestSeed {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_numbers() {
        let (mut one, mut other) = (TestSeed::of(7), TestSeed::of(7));
        assert_eq!(one.next_u64(), other.next_u64());
        assert!((0..1000).all(|_| one.below(10) < 10));
        assert_ne!(one.next_u64(), TestSeed::of(8).next_u64());
    }
}
