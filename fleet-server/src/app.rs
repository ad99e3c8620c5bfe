//! What every part of the server shares: the database, the blobs, who the fleet is, and the news of what changed.

use std::sync::Arc;

use flotilla_protocol::ids::{DeviceId, FleetId, JobId, RolloutId};
use tokio::sync::broadcast;

use crate::blobs::Blobs;
use crate::store::Db;

/// Something that others may be waiting for. News is a hint: whoever gets it reads the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A device enrolled, reported, came or went.
    Device(DeviceId),
    /// Targets of some devices changed: desired states are to be signed and sent.
    Targets,
    Rollout(RolloutId),
    Job(JobId),
    /// A device's drift judgement changed, or sketches arrived.
    Drift,
    /// Harvested samples arrived.
    Samples,
    /// A `Head` was signed.
    Head,
}

/// Tells whoever waits that something changed. A slow listener loses news and is told so, which it takes as "anything may
/// have changed"; nobody is held up.
#[derive(Debug, Clone)]
pub struct Changes(broadcast::Sender<Change>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(1024))
    }
}

impl Changes {
    pub fn tell(&self, change: Change) {
        // An error means that nobody listens, which is fine.
        drop(self.0.send(change));
    }

    pub fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
    }
}

/// One listener's queue of news.
#[derive(Debug)]
pub struct Listener(broadcast::Receiver<Change>);

impl Listener {
    /// Waits for news that `wanted` accepts; lost news counts as wanted. `false` when the server is going away.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Change) -> bool) -> bool {
        loop {
            match self.0.recv().await {
                Ok(change) if wanted(&change) => return true,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return true,
                Err(broadcast::error::RecvError::Closed) => return false,
            }
        }
    }
}

/// The fleet's name and ids.
#[derive(Debug, Clone)]
pub struct FleetInfo {
    pub id: FleetId,
    pub name: String,
    /// The project that everything belongs to while there is one.
    pub project: String,
    /// The fleet CA's certificate, PEM.
    pub ca_pem: String,
    /// `mqtts://host:port`, as devices are told.
    pub broker_url: String,
    /// `https://host:port`, as devices are told.
    pub device_api_url: String,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    pub db: Db,
    pub blobs: Blobs,
    pub fleet: Arc<FleetInfo>,
    pub changes: Changes,
    /// Where uploads are kept until they are parsed.
    pub upload_dir: Arc<std::path::Path>,
}
