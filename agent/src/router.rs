//! Brings what comes from the link to whom it concerns. Decides nothing, waits for nobody but the disk.
//!
//! Whatever the bytes hold: documents go through `trust_state`, everything else is decoded under caps and ignored when it
//! cannot be read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_protocol::codec::{self, MAX_MESSAGE_BYTES};
use flotilla_protocol::desired_state::DesiredState;
use flotilla_protocol::messages::{ChunkMessage, HeadMessage, Receipt, SCHEMA};
use flotilla_protocol::topics::Down;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config::TelemetryConfig;
use crate::inference::InferenceHandle;
use crate::link::LinkEvent;
use crate::ota::fetch::ChunkRouter;
use crate::report::Reporter;
use crate::spool::disk::DiskSpool;
use crate::store::on_disk;
use crate::trust_state::{NotAccepted, TrustState};

/// A chunk message may be longer than others: it carries several chunks.
const MAX_CHUNK_MESSAGE_BYTES: usize = 2 * MAX_MESSAGE_BYTES;

/// See the module's documentation.
#[derive(Debug)]
pub struct Router {
    pub trust: Arc<TrustState>,
    pub reporter: Arc<Reporter>,
    pub spool: Arc<DiskSpool>,
    /// Records were freed: others may be sent.
    pub freed: Arc<Notify>,
    pub chunks: Arc<ChunkRouter>,
    /// To the update driver, which takes the newest when it has time.
    pub orders: watch::Sender<Option<DesiredState>>,
    pub policies: Policies,
}

/// Where a desired state's policies on observation go.
#[derive(Debug)]
pub struct Policies {
    pub inference: InferenceHandle,
    pub interval: watch::Sender<Duration>,
    pub config: TelemetryConfig,
}

impl Policies {
    pub fn apply(&self, desired: &DesiredState) {
        let policy = &desired.telemetry;
        let asked = policy
            .bundle_interval_ms
            .max(self.config.min_bundle_interval_ms)
            .max(100);
        let interval = Duration::from_millis(asked);
        self.interval
            .send_if_modified(|known| std::mem::replace(known, interval) != interval);
        let harvests = desired.targets.iter();
        let harvests = harvests.map(|target| (target.manifest, target.harvest.clone()));
        self.inference.set_harvest_policies(harvests.collect());
    }
}

impl Router {
    pub async fn run(self, mut events: mpsc::Receiver<LinkEvent>, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                // The link says goodbye after everybody else has stopped: its last events concern nobody.
                () = stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Some(event) => self.handle(event),
                None => return,
            }
        }
    }

    fn handle(&self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => {
                if let Err(why) = self.reporter.hello() {
                    error!(%why, "no hello");
                }
            }
            LinkEvent::Disconnected => info!("disconnected from the broker"),
            LinkEvent::Head(bytes) => self.shared_head(&bytes),
            LinkEvent::Down(Down::Head, bytes) => {
                let accepted = on_disk(|| self.trust.accept_head_message(&bytes));
                self.answer("head", accepted.map(|head| head.header.version));
            }
            LinkEvent::Down(Down::Desired, bytes) => self.desired(&bytes),
            LinkEvent::Down(Down::Receipt, bytes) => self.receipt(&bytes),
            LinkEvent::Down(Down::Chunk, bytes) => self.chunk(&bytes),
            LinkEvent::Down(Down::Command, _) => warn!("commands are not taken by this agent"),
        }
    }

    /// The shared topic carries the same message as our own, or the bare envelope.
    fn shared_head(&self, bytes: &Bytes) {
        let accepted = on_disk(|| match codec::from_slice::<HeadMessage>(bytes, MAX_MESSAGE_BYTES) {
            Ok(message) => self.trust.accept_head(&message.roots, &message.head),
            Err(_a_bare_envelope) => self.trust.accept_head(&[], bytes),
        });
        self.answer("head", accepted.map(|head| head.header.version));
    }

    fn desired(&self, bytes: &Bytes) {
        match on_disk(|| self.trust.accept_desired_state(bytes)) {
            Ok(desired) => {
                info!(
                    version = desired.header.version,
                    targets = desired.targets.len(),
                    "desired state accepted"
                );
                if let Err(why) = on_disk(|| self.reporter.reconcile(desired.last_report_counter)) {
                    error!(%why, "the report counter could not be raised");
                }
                self.well_again();
                self.policies.apply(&desired);
                self.orders.send_replace(Some(desired));
            }
            Err(why) => self.answer::<u64>("desired state", Err(why)),
        }
    }

    fn answer<T: std::fmt::Display>(&self, what: &str, accepted: Result<T, NotAccepted>) {
        match accepted {
            Ok(version) => {
                debug!(%version, what, "accepted");
                self.well_again();
            }
            // The trust state has recorded it, and asked for a report.
            Err(NotAccepted::Refused { .. }) => {}
            Err(why @ NotAccepted::Stale { .. }) => debug!(%why, what, "not accepted yet"),
            Err(NotAccepted::Store(why)) => {
                error!(%why, what, "not accepted: it could not be made durable");
                self.reporter.ail(Some(why.to_string()));
            }
        }
    }

    /// Documents can be written down again.
    fn well_again(&self) {
        if self.reporter.error().is_some() {
            self.reporter.ail(None);
        }
    }

    fn receipt(&self, bytes: &Bytes) {
        let Some(receipt) = read::<Receipt>("receipt", bytes, MAX_MESSAGE_BYTES, |receipt| receipt.schema) else {
            return;
        };
        if let Some(refusal) = &receipt.audit_refused
            && let Err(why) = on_disk(|| self.spool.declare_audit_gap(refusal, self.reporter.clock.now_ms()))
        {
            // The record must stay until its entries have moved: it is sent again.
            return error!(%why, "a loss in the audit chain could not be declared");
        }
        match on_disk(|| self.spool.receipt(&receipt.records)) {
            Ok(freed) => debug!(freed, named = receipt.records.len(), "receipt"),
            Err(why) => error!(%why, "receipted records could not be freed: they are sent again"),
        }
        self.freed.notify_one();
    }

    fn chunk(&self, bytes: &Bytes) {
        let read = read::<ChunkMessage>("chunk", bytes, MAX_CHUNK_MESSAGE_BYTES, |message| message.schema);
        if let Some(message) = read {
            self.chunks.dispatch(message);
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8], cap: usize, schema: impl Fn(&T) -> u16) -> Option<T> {
    match codec::from_slice::<T>(bytes, cap) {
        Ok(message) if schema(&message) == SCHEMA => Some(message),
        Ok(message) => {
            warn!(
                what,
                schema = schema(&message),
                "a message of another layout is ignored"
            );
            None
        }
        Err(why) => {
            warn!(what, %why, "a message that cannot be read is ignored");
            None
        }
    }
}
