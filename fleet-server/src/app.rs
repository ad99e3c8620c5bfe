//! What every part of the server shares: the database, the blobs, who the fleet is, and the news of what changed.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::ids::{DeviceId, FleetId, ImportId, JobId, RolloutId, RunId};
use tokio::sync::{broadcast, watch};

use crate::blobs::Blobs;
use crate::events::EventHub;
use crate::heavy::Heavy;
use crate::imports::Imports;
use crate::store::Db;

/// How long a long poll may take at most.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

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
    /// An import went on, or ended.
    Import(ImportId),
    /// A `Head` was signed.
    Head,
    /// A device's counts or judgement changed.
    Telemetry(DeviceId),
    Run(RunId),
    /// A device is out of the fleet: it is to be disconnected.
    Decommissioned(DeviceId),
    /// A session was opened or closed.
    Session(String),
    /// The audit log grew.
    Audit,
}

/// Tells whoever waits that something changed. A slow listener loses news and is told so, which it takes as "anything may
/// have changed"; nobody is held up.
#[derive(Debug, Clone)]
pub struct Changes {
    news: broadcast::Sender<Change>,
    events: EventHub,
    stopping: watch::Sender<bool>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            news: broadcast::Sender::new(4096),
            events: EventHub::default(),
            stopping: watch::Sender::new(false),
        }
    }
}

impl Changes {
    pub fn tell(&self, change: Change) {
        // An error means that nobody listens, which is fine.
        drop(self.news.send(change));
    }

    pub fn listen(&self) -> Listener {
        Listener {
            news: self.news.subscribe(),
            stopping: self.stopping.subscribe(),
        }
    }

    /// The server stops: whoever listens hears that there will be no more news, and answers what it knows.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Becomes true when the server stops: for threads, which cannot wait.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Resolves when the server stops.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // An error means that the sender is gone, which is a stop as well.
        let stopped = stopping.wait_for(|stop| *stop).await;
        drop(stopped);
    }

    /// The same as numbered events, for those who follow from outside.
    pub fn events(&self) -> EventHub {
        self.events.clone()
    }
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Change(Change),
    /// Some was missed: anything may have changed.
    Lost,
    /// The server is going away.
    Closed,
}

/// One listener's queue of news.
#[derive(Debug)]
pub struct Listener {
    news: broadcast::Receiver<Change>,
    stopping: watch::Receiver<bool>,
}

impl Listener {
    /// The next news, whatever it is.
    pub async fn next(&mut self) -> News {
        let news = tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stop| *stop) => return News::Closed,
            news = self.news.recv() => news,
        };
        match news {
            Ok(change) => News::Change(change),
            Err(broadcast::error::RecvError::Lagged(_)) => News::Lost,
            Err(broadcast::error::RecvError::Closed) => News::Closed,
        }
    }

    /// Waits for news that `wanted` accepts; lost news counts as wanted. `false` when the server is going away.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Change) -> bool) -> bool {
        loop {
            match self.next().await {
                News::Change(change) if wanted(&change) => return true,
                News::Change(_) => {}
                News::Lost => return true,
                News::Closed => return false,
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
    /// The imports that run in this process.
    pub imports: Imports,
    /// Bounds of what takes a processor and much memory.
    pub heavy: Heavy,
}

impl App {
    /// Says that an import went on or ended, to those who wait for it here and to those who follow from outside.
    pub fn import_moved(&self, id: ImportId) {
        self.imports.tell();
        self.changes.tell(Change::Import(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_listens_hears_of_the_stop() {
        let changes = Changes::default();
        let mut before = changes.listen();
        let waiting = before.wait_for(|_| true);
        changes.stop();
        assert!(!waiting.await);
        assert_eq!(changes.listen().next().await, News::Closed);
        changes.stopped().await;
    }
}
