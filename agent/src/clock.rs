//! The agent's only access to wall time, and the floor below which no time is believed.
//!
//! A device may start without a clock. The largest signed time ever seen (the trust store's clock floor) holds for TLS as
//! well as for documents, or a device at 1970 could never connect to learn the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// 2026-01-01: this code is not older, so no clock that says less is right.
pub const BUILD_FLOOR_MS: i64 = 1_767_225_600_000;

/// Wall time under a floor that only rises. Clones share the floor.
#[derive(Debug, Clone)]
pub struct Clock {
    floor: Arc<AtomicI64>,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    System,
    /// Set by hand, Unix milliseconds: simulations and tests.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub fn system() -> Self {
        Self {
            floor: Arc::new(AtomicI64::new(BUILD_FLOOR_MS)),
            source: Source::System,
        }
    }

    /// A clock that shows what `hand` says.
    pub fn manual(hand: Arc<AtomicI64>) -> Self {
        Self {
            floor: Arc::new(AtomicI64::new(i64::MIN)),
            source: Source::Manual(hand),
        }
    }

    /// What the machine's clock says, Unix milliseconds, believed or not.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn wall_ms(&self) -> i64 {
        match &self.source {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .and_then(|since| i64::try_from(since.as_millis()).ok())
                .unwrap_or(0),
            Source::Manual(hand) => hand.load(Ordering::SeqCst),
        }
    }

    /// The time to judge and to stamp by: never before the floor.
    pub fn now_ms(&self) -> i64 {
        self.wall_ms().max(self.floor.load(Ordering::SeqCst))
    }

    /// Sets the floor from the trust store (a new director key may also lower it).
    pub fn set_floor(&self, floor_ms: i64) {
        self.floor.store(floor_ms, Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let ms = u64::try_from(self.now_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_clock_does_not_fall_below_the_floor() {
        let hand = Arc::new(AtomicI64::new(0));
        let clock = Clock::manual(Arc::clone(&hand));
        clock.set_floor(1_000);
        assert_eq!((clock.wall_ms(), clock.now_ms()), (0, 1_000));
        assert_eq!(clock.current_time().map(|t| t.as_secs()), Some(1));
        hand.store(5_000, Ordering::SeqCst);
        assert_eq!(clock.now_ms(), 5_000);
    }
}
