//! The devices that may connect and speak, in memory: looked at for every publish, filled from the database.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::trust::PublicKey;

use crate::store::{Db, StoreError, devices};

#[derive(Debug, Default)]
struct State {
    keys: HashMap<DeviceId, PublicKey>,
    /// Decommissioned while the server runs: for good, whatever a look-up that was under way has found.
    expelled: HashSet<DeviceId>,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct ActiveDevices(Arc<RwLock<State>>);

impl ActiveDevices {
    pub(super) async fn load(db: &Db) -> Result<Self, StoreError> {
        let keys = devices::active(db).await?.into_iter().collect();
        let state = State {
            keys,
            expelled: HashSet::new(),
        };
        Ok(Self(Arc::new(RwLock::new(state))))
    }

    /// The key that the device signs with, if it may connect.
    pub(super) fn key(&self, device: &DeviceId) -> Option<PublicKey> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys
            .get(device)
            .copied()
    }

    pub(super) fn contains(&self, device: &DeviceId) -> bool {
        self.key(device).is_some()
    }

    /// Everybody who may connect, as far as is known here.
    pub(super) fn known(&self) -> Vec<DeviceId> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut known: Vec<DeviceId> = state.keys.keys().cloned().collect();
        known.sort();
        known
    }

    /// May the device connect? One that is not known here may have enrolled since: the database knows.
    pub(super) async fn admit(&self, db: &Db, device: &DeviceId) -> Result<bool, StoreError> {
        if self.contains(device) {
            return Ok(true);
        }
        let Some(identity) = devices::identity(db.read(), device).await? else {
            return Ok(false);
        };
        if identity.decommissioned {
            return Ok(false);
        }
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if state.expelled.contains(device) {
            return Ok(false);
        }
        state.keys.insert(device.clone(), identity.signing_key);
        Ok(true)
    }

    pub(super) fn expel(&self, device: &DeviceId) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.keys.remove(device);
        state.expelled.insert(device.clone());
    }
}
