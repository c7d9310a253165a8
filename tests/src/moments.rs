//! Random moments that can be had again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64); its seed is printed, so that a failure can be repeated.
#[derive(Debug)]
pub struct Moments(u64);

impl Moments {
    /// Seeded by `$CKPT_TEST_SEED`, else by the clock.
    pub fn new() -> Self {
        let seed = std::env::var("CKPT_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_nanos() as u64 % 1_000_000_007
        });
        eprintln!("CKPT_TEST_SEED={seed}");
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// A time of at most `most`, in steps of a microsecond.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(most.as_micros() as u64 + 1))
    }

    /// `count` places in `0..end`, ascending.
    pub fn places(&mut self, count: usize, end: u64) -> Vec<u64> {
        let mut places: Vec<u64> = (0..count).map(|_| self.below(end)).collect();
        places.sort_unstable();
        places
    }
}

impl Default for Moments {
    fn default() -> Self {
        Self::new()
    }
}
