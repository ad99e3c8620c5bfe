//! Which imports run in this process: so that they can be told to stop, and so that one whose connection went away is
//! noticed and cleaned up. It knows nothing of what they read; their figures stand in the database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_protocol::ids::ImportId;
use tokio::sync::{Notify, watch};

/// The imports that run. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Imports(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    running: Mutex<BTreeMap<ImportId, watch::Sender<bool>>>,
    ended: Notify,
    /// Bumped whenever an import went on. A hint: whoever sees it reads the database.
    progress: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            ended: Notify::new(),
            progress: watch::Sender::new(0),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ImportId, watch::Sender<bool>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Imports {
    /// Marks an import as running until the answer is dropped. `None`: it runs already.
    pub fn begin(&self, id: ImportId) -> Option<Running> {
        let mut running = self.0.lock();
        if running.contains_key(&id) {
            return None;
        }
        let (sender, cancelled) = watch::channel(false);
        running.insert(id, sender);
        drop(running);
        Some(Running {
            id,
            shared: Arc::clone(&self.0),
            cancelled,
        })
    }

    pub fn is_running(&self, id: ImportId) -> bool {
        self.0.lock().contains_key(&id)
    }

    /// Tells an import to stop, if it runs here.
    pub fn cancel(&self, id: ImportId) {
        if let Some(sender) = self.0.lock().get(&id) {
            sender.send_replace(true);
        }
    }

    /// Says that an import went on or ended.
    pub fn tell(&self) {
        self.0.progress.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes with every [`Self::tell`].
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.0.progress.subscribe()
    }

    /// Resolves after an import ended in whatever way, its own or because its connection was dropped.
    pub async fn ended(&self) {
        self.0.ended.notified().await;
    }
}

/// An import that runs. Dropping it is its end.
#[derive(Debug)]
pub struct Running {
    id: ImportId,
    shared: Arc<Shared>,
    cancelled: watch::Receiver<bool>,
}

impl Running {
    /// Resolves when somebody cancels it.
    pub async fn cancelled(&mut self) {
        // The sender lives as long as this does: an error cannot be.
        let cancelled = self.cancelled.wait_for(|cancelled| *cancelled).await;
        drop(cancelled);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.id);
        self.shared.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn an_import_runs_once_can_be_cancelled_and_ends_when_it_is_dropped() {
        let imports = Imports::default();
        let id = ImportId::new(Uuid::nil());
        let mut running = imports.begin(id).unwrap();
        assert!(imports.begin(id).is_none());
        imports.cancel(ImportId::new(Uuid::max()));
        imports.cancel(id);
        running.cancelled().await;
        drop(running);
        imports.ended().await;
        assert!(!imports.is_running(id));
        assert!(imports.begin(id).is_some());
    }
}
