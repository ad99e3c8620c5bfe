//! Bounds what takes a processor and much memory: how many of it requests may start at a time, that it stops when nobody
//! waits for it any more, and how many bytes of samples one piece of work may hold. It knows nothing of what is worked on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Evaluations, packagings and freezings of requests that run at a time: each takes a processor.
const MAX_IN_REQUESTS: usize = 2;
/// What one training, evaluation, packaging or freezing may hold of samples, where the configuration does not say.
pub const DEFAULT_DATASET_BYTES: u64 = 4 << 30;

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heavy {
    turns: Arc<Semaphore>,
    dataset_bytes: u64,
}

impl Default for Heavy {
    fn default() -> Self {
        Self::new(DEFAULT_DATASET_BYTES)
    }
}

impl Heavy {
    pub fn new(dataset_bytes: u64) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(MAX_IN_REQUESTS)),
            dataset_bytes,
        }
    }

    /// Most bytes of samples that one training, evaluation, packaging or freezing may hold in memory.
    pub const fn dataset_bytes(&self) -> u64 {
        self.dataset_bytes
    }

    /// A turn for a request's work; `None`: as many run as may. `server`: becomes true when the server stops.
    pub fn begin(&self, server: watch::Receiver<bool>) -> Option<(Turn, Stopping)> {
        let permit = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let dropped = Arc::new(AtomicBool::new(false));
        let stopping = Stopping {
            dropped: Arc::clone(&dropped),
            server,
            _permit: Arc::new(permit),
        };
        Some((Turn(dropped), stopping))
    }
}

/// Kept by whoever waits for the work. Dropping it tells the work to stop.
#[derive(Debug)]
#[must_use = "dropping it stops the work"]
pub struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Goes with the work, to whatever thread: says whether it shall stop. The turn is free for others when the last clone is
/// dropped, which is when the work has ended, whether or not anybody waited for it.
#[derive(Debug, Clone)]
pub struct Stopping {
    dropped: Arc<AtomicBool>,
    server: watch::Receiver<bool>,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Stopping {
    /// Nobody waits any more, or the server stops.
    pub fn is_stopping(&self) -> bool {
        self.dropped.load(Ordering::Relaxed) || *self.server.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_few_and_free_again_when_the_work_has_ended_not_when_its_request_has() {
        let heavy = Heavy::default();
        let server = watch::Sender::new(false);
        let mut begun: Vec<_> = (0..MAX_IN_REQUESTS)
            .map(|_| heavy.begin(server.subscribe()).unwrap())
            .collect();
        assert!(heavy.begin(server.subscribe()).is_none());
        let (turn, working) = begun.pop().unwrap();
        let elsewhere = working.clone();
        assert!(!working.is_stopping());
        drop(turn);
        assert!(elsewhere.is_stopping(), "its request is gone");
        drop(working);
        assert!(heavy.begin(server.subscribe()).is_none(), "a thread still works");
        drop(elsewhere);
        assert!(heavy.begin(server.subscribe()).is_some());
    }

    #[test]
    fn the_servers_stop_stops_the_work() {
        let server = watch::Sender::new(false);
        let (_turn, working) = Heavy::default().begin(server.subscribe()).unwrap();
        assert!(!working.is_stopping());
        server.send_replace(true);
        assert!(working.is_stopping());
    }
}
