//! Pauses between attempts to connect: exponential with full jitter, so that a fleet does not return all at once.
//!
//! Pure: the random number is an argument.

use std::time::Duration;

const FIRST_MS: u64 = 500;

#[derive(Debug, Clone)]
pub struct Backoff {
    cap_ms: u64,
    attempts: u32,
}

impl Backoff {
    pub fn new(cap_ms: u64) -> Self {
        Self { cap_ms, attempts: 0 }
    }

    /// The next pause: uniform between 0 and what doubles with every attempt, up to the cap.
    pub fn next(&mut self, random: u64) -> Duration {
        let ceiling = FIRST_MS
            .saturating_mul(1 << self.attempts.min(20))
            .min(self.cap_ms)
            .max(1);
        self.attempts = self.attempts.saturating_add(1);
        Duration::from_millis(random % ceiling)
    }

    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_stay_below_the_cap_and_reach_it(cap in 1u64..100_000, randoms in proptest::collection::vec(any::<u64>(), 1..60)) {
            let mut backoff = Backoff::new(cap);
            for random in randoms {
                prop_assert!(backoff.next(random) < Duration::from_millis(cap.max(1)));
            }
            for _ in 0..25 { backoff.next(0); }
            prop_assert_eq!(backoff.next(cap - 1), Duration::from_millis(cap - 1));
            backoff.reset();
            prop_assert!(backoff.next(u64::MAX) < Duration::from_millis(FIRST_MS));
        }
    }
}
