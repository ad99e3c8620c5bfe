//! Who is connected, written in batches. What waits is one entry per device, so that nothing is lost and memory is bounded
//! by the fleet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_protocol::ids::DeviceId;
use tokio::sync::Notify;

use crate::app::{App, Change};
use crate::store::StoreError;
use crate::store::devices::{Presence, apply_presence};
use crate::tasks::Shutdown;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    /// The session that each connected device has now.
    sessions: BTreeMap<DeviceId, String>,
    pending: BTreeMap<DeviceId, Presence>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct PresenceMap(Arc<Shared>);

impl PresenceMap {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn came(&self, device: &DeviceId, session: String, now: i64) {
        let mut state = self.lock();
        state.sessions.insert(device.clone(), session);
        note(&mut state, device, Some(true), now);
        drop(state);
        self.0.wake.notify_one();
    }

    /// A session ended. If the device has another by now, it is still here.
    pub(super) fn gone(&self, device: &DeviceId, session: &str, now: i64) {
        let mut state = self.lock();
        if state.sessions.get(device).is_none_or(|current| current != session) {
            return;
        }
        state.sessions.remove(device);
        note(&mut state, device, Some(false), now);
        drop(state);
        self.0.wake.notify_one();
    }

    /// The device said something.
    pub(super) fn seen(&self, device: &DeviceId, now: i64) {
        note(&mut self.lock(), device, None, now);
        self.0.wake.notify_one();
    }

    fn take(&self) -> BTreeMap<DeviceId, Presence> {
        std::mem::take(&mut self.lock().pending)
    }

    /// Gives back what could not be written; newer news stands.
    fn give_back(&self, changes: BTreeMap<DeviceId, Presence>) {
        let mut state = self.lock();
        for (device, older) in changes {
            let presence = state.pending.entry(device).or_insert(older);
            presence.connected = presence.connected.or(older.connected);
        }
    }
}

fn note(state: &mut State, device: &DeviceId, connected: Option<bool>, now: i64) {
    let news = Presence {
        connected,
        last_seen: now,
    };
    let presence = state.pending.entry(device.clone()).or_insert(news);
    presence.connected = connected.or(presence.connected);
    presence.last_seen = now;
}

/// Writes until the server stops, and once more then.
pub(super) async fn run(map: PresenceMap, app: App, mut shutdown: Shutdown) {
    loop {
        let stopping = tokio::select! {
            () = shutdown.wait() => true,
            () = map.0.wake.notified() => false,
        };
        if !stopping {
            tokio::time::sleep(GATHER).await;
        }
        let changes = map.take();
        if let Err(error) = write(&app, &changes).await {
            tracing::error!(%error, "presence cannot be written; trying again");
            map.give_back(changes);
            if !stopping {
                tokio::time::sleep(RETRY).await;
                map.0.wake.notify_one();
            }
        }
        if stopping {
            return;
        }
    }
}

async fn write(app: &App, changes: &BTreeMap<DeviceId, Presence>) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut tx = app.db.begin().await?;
    apply_presence(&mut tx, changes).await?;
    tx.commit().await?;
    for (device, presence) in changes {
        if presence.connected.is_some() {
            app.changes.tell(Change::Device(device.clone()));
        }
    }
    if changes.values().any(|presence| presence.connected == Some(true)) {
        // Targets that changed between the device's hello and this write found it not connected.
        app.changes.tell(Change::Targets);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_taken_over_does_not_end_the_next() {
        let map = PresenceMap::default();
        let device = DeviceId::new("a").unwrap();
        map.came(&device, "1".into(), 1);
        map.came(&device, "2".into(), 2);
        map.gone(&device, "1", 3);
        assert_eq!(map.take()[&device].connected, Some(true));
        map.gone(&device, "2", 4);
        map.seen(&device, 5);
        let presence = map.take()[&device];
        assert_eq!((presence.connected, presence.last_seen), (Some(false), 5));
        assert!(map.take().is_empty());
    }

    #[test]
    fn what_could_not_be_written_comes_again_under_newer_news() {
        let map = PresenceMap::default();
        let device = DeviceId::new("a").unwrap();
        map.came(&device, "1".into(), 1);
        let failed = map.take();
        map.seen(&device, 2);
        map.give_back(failed);
        let presence = map.take()[&device];
        assert_eq!((presence.connected, presence.last_seen), (Some(true), 2));
    }
}
