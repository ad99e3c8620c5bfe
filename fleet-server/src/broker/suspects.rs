//! Judges whether content that devices refused as altered was altered here. To a device a bit that flipped on the server's
//! own disk looks like an attack; the operator is to see whose fault it is.
//!
//! The blobs that a device's targets name are read once, however many devices complain of them at the same time. What is not
//! whole goes on record; it is repaired by whoever keeps the same bytes again ([`crate::blobs::Blobs::put`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flotilla_protocol::ids::{DeviceId, Digest};
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::app::{App, Change};
use crate::audit;
use crate::blobs::BlobError;
use crate::store::{StoreError, audit as audit_log};
use crate::tasks::{Shutdown, Tasks};
use crate::work::ACTOR;

/// Complaints waiting to be looked into. Of a fleet that complains, the first name what all of them name: when it is full, one
/// more is dropped.
const WAITING: usize = 256;
/// A blob that was read is not read again for so long.
const AGAIN: Duration = Duration::from_mins(10);

/// A device that refused content as altered, and what its targets name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) device: DeviceId,
    pub(super) blobs: BTreeSet<Digest>,
}

/// Takes complaints. Cheap to clone, never waits.
#[derive(Debug, Clone)]
pub(super) struct Suspects(mpsc::Sender<Complaint>);

impl Suspects {
    /// Starts the task that looks into them.
    pub(super) fn start(app: App, tasks: &mut Tasks) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        let judge = Judge {
            app,
            read: BTreeMap::new(),
        };
        let shutdown = tasks.shutdown();
        tasks.spawn("broker-suspects", judge.run(waiting, shutdown));
        Self(sender)
    }

    pub(super) fn tell(&self, complaint: Complaint) {
        if self.0.try_send(complaint).is_err() {
            counter!("flotilla_complaints_dropped_total").increment(1);
        }
    }
}

struct Judge {
    app: App,
    /// When blobs were read last. Entries are dropped once they are of no use.
    read: BTreeMap<Digest, Instant>,
}

impl Judge {
    async fn run(mut self, mut waiting: mpsc::Receiver<Complaint>, mut shutdown: Shutdown) {
        loop {
            let complaint = tokio::select! {
                () = shutdown.wait() => return,
                complaint = waiting.recv() => complaint,
            };
            let Some(complaint) = complaint else { return };
            tokio::select! {
                () = shutdown.wait() => return,
                () = self.look_into(complaint) => {}
            }
        }
    }

    async fn look_into(&mut self, complaint: Complaint) {
        let now = Instant::now();
        self.read.retain(|_, read| now.duration_since(*read) < AGAIN);
        for blob in complaint.blobs {
            if self.read.contains_key(&blob) {
                continue;
            }
            if let Err(why) = self.app.blobs.verify(&blob).await
                && let Err(error) = self.record(&complaint.device, blob, &why).await
            {
                tracing::error!(%blob, %error, "a damaged blob cannot be put on record");
                continue;
            }
            self.read.insert(blob, Instant::now());
        }
    }

    async fn record(&self, device: &DeviceId, blob: Digest, why: &BlobError) -> Result<(), StoreError> {
        counter!("flotilla_blobs_damaged_total").increment(1);
        tracing::error!(%device, %blob, %why, "a device refused content that is damaged in the server's own blob store");
        let detail = [("why", why.to_string()), ("reported_by", device.to_string())];
        let record = audit::record(ACTOR, "blob.damaged", format!("blob:{blob}"), detail);
        let mut tx = self.app.db.begin().await?;
        audit_log::append(&mut tx, &record).await?;
        tx.commit().await?;
        self.app.changes.tell(Change::Audit);
        Ok(())
    }
}
