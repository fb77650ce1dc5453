//! Rate limits: one token bucket a key, as pure arithmetic over a clock that comes in.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::limits::Rate;

/// Buckets that are full again are forgotten when there are this many.
const SWEEP: usize = 1024;

/// Buckets by key. A key that was never seen has a full one.
#[derive(Debug)]
pub struct RateLimiter<K> {
    rate: Rate,
    // The generic cell rate algorithm: when the bucket will be full again.
    full_at: HashMap<K, Instant>,
}

impl<K: Hash + Eq> RateLimiter<K> {
    /// Full buckets of this size.
    pub fn new(rate: Rate) -> Self {
        Self { rate, full_at: HashMap::new() }
    }

    /// Takes one from `key`'s bucket.
    ///
    /// # Errors
    /// How long until there is one again.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let step = Duration::from_mins(1) / self.rate.per_minute.max(1);
        if self.full_at.len() >= SWEEP {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let full_at = self.full_at.entry(key).or_insert(now);
        let after = (*full_at).max(now) + step;
        let most = step * self.rate.burst.max(1);
        let missing = after.duration_since(now);
        if missing > most {
            return Err(missing - most);
        }
        *full_at = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_flow() {
        let mut limiter = RateLimiter::new(Rate { per_minute: 30, burst: 10 });
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(limiter.take("a", start), Ok(()));
        }
        assert_eq!(limiter.take("a", start), Err(Duration::from_secs(2)));
        assert_eq!(limiter.take("b", start), Ok(()), "another key has its own bucket");
        assert_eq!(limiter.take("a", start + Duration::from_secs(2)), Ok(()));
        assert!(limiter.take("a", start + Duration::from_secs(2)).is_err());
    }
}
