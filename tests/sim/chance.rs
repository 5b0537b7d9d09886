//! The only randomness: one stream per actor, all of them from the seed, so that what one draws
//! does not move another.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// A stream that an actor's tasks share.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<SmallRng>>);

impl Chance {
    pub fn of(seed: u64, actor: &str) -> Self {
        // FNV-1a: the standard library's hashes may differ from one version to the next.
        let hash = actor
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed ^ hash))))
    }

    pub fn with<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&self, percent: u32) -> bool {
        percent > 0 && self.with(|rng| rng.random_range(0..100) < percent)
    }

    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.with(|rng| rng.random_range(low..=high))
    }

    pub fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    pub fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        let last = from.len().checked_sub(1)?;
        from.get(self.between(0, last as u64) as usize).cloned()
    }

    /// A share between 0 and 1.
    pub fn share(&self) -> f64 {
        self.with(|rng| rng.random::<f64>())
    }

    pub fn bits(&self) -> i64 {
        self.with(|rng| rng.random())
    }
}
