//! Chance that can be repeated: a seed gives the same rounds again.

use std::sync::mpsc::channel;
use std::time::Duration;

/// A generator (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Another generator, so that what one thread draws does not depend on another.
    pub const fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// A number below `most`.
    pub const fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    pub const fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// Lets some time pass: what befalls a round comes at any moment, not at one that could be
    /// waited for.
    pub fn pass(&mut self, most_ms: u64) {
        let (_keep, never) = channel::<()>();
        never.recv_timeout(Duration::from_millis(self.below(most_ms))).ok();
    }
}
