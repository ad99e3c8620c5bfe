//! What the device says of itself: a signed report whose counter rises for ever, sent on every connect and every change.
//!
//! The counter is durable before the report leaves. A server that knows a higher counter tells so in the desired state: the
//! device was restored from a copy, continues above it, and says so in its audit chain.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_protocol::audit::AuditHead;
use flotilla_protocol::codec;
use flotilla_protocol::ids::{DeviceId, FleetId};
use flotilla_protocol::messages::{Hello, SCHEMA};
use flotilla_protocol::report::{DeploymentReport, DeviceReport, SlotReport};
use flotilla_protocol::topics::Up;
use flotilla_protocol::trust::{DeviceFacts, Document as _, Header, KeyPair, Role, TrustError, sign};
use serde_bytes::ByteBuf;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::audit::{self, Entry};
use crate::clock::Clock;
use crate::link::LinkHandle;
use crate::ota::driver::States;
use crate::resources;
use crate::spool::disk::Boot;
use crate::store::{Store, StoreError, keys};
use crate::trust_state::TrustState;

/// A report says how things are; after a year nobody should believe it.
const REPORT_LIFE_MS: i64 = 365 * 24 * 3_600_000;
/// Changes that follow each other this closely share a report.
const SETTLE: Duration = Duration::from_millis(50);
/// Progress alone is reported so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Why no report can be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the report cannot be signed: {0}")]
    Sign(TrustError),
    #[error("hello cannot be encoded: {0}")]
    Encode(#[from] codec::CodecError),
}

/// Facts of this machine, as they are now. What cannot be read counts as 0, which fits no manifest that asks for it.
pub fn facts(hardware_class: &str, data_dir: &Path) -> DeviceFacts {
    let known = |what: &str, value: std::io::Result<u64>| {
        value.unwrap_or_else(|why| {
            warn!(%why, what, "not known");
            0
        })
    };
    DeviceFacts {
        hardware_class: hardware_class.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        ram_bytes: known("RAM", resources::ram_bytes()),
        disk_free_bytes: known("free disk", resources::disk_free_bytes(data_dir)),
    }
}

/// What signs for the device: shared by reports and audit heads.
#[derive(Debug)]
pub struct Signer {
    pub device: DeviceId,
    pub fleet: FleetId,
    pub key: KeyPair,
    pub boot: Boot,
}

impl Signer {
    /// The common header of a document of the device's own.
    pub fn header(&self, schema: &str, version: u64, issued: i64, life_ms: i64) -> Header {
        Header {
            schema: schema.to_owned(),
            role: Role::Device,
            fleet: self.fleet,
            version,
            issued,
            expires: issued.saturating_add(life_ms),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Reporter {
    pub signer: Arc<Signer>,
    pub store: Arc<Store>,
    pub trust: Arc<TrustState>,
    pub clock: Clock,
    pub states: watch::Receiver<States>,
    pub link: LinkHandle,
    pub facts: Facts,
    /// Somebody wants a report soon: shared with the trust state, whose refusals are reported at once.
    pub wanted: Arc<Notify>,
    pub error: Mutex<Option<String>>,
}

/// Where facts come from.
#[derive(Debug, Clone)]
pub struct Facts {
    pub hardware_class: String,
    pub data_dir: std::path::PathBuf,
}

impl Reporter {
    /// Asks for a report soon.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// What ails the device; `None` when it is well again.
    pub fn ail(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        self.want();
    }

    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What ails the device, or else one of its slots.
    pub fn trouble(&self) -> Option<String> {
        self.error().or_else(|| {
            let states = self.states.borrow();
            states.iter().find_map(|(slot, state)| {
                let why = state.lost.as_ref()?;
                Some(format!("slot '{slot}': {why}"))
            })
        })
    }

    /// A new report, signed, its counter durable.
    pub fn make(&self) -> Result<Vec<u8>, ReportError> {
        let now = self.clock.now_ms();
        let counter = self.store.write(|txn| txn.next(keys::REPORT_COUNTER))?;
        let states = self.states.borrow().clone();
        let report = DeviceReport {
            header: self.signer.header(DeviceReport::SCHEMA, counter, now, REPORT_LIFE_MS),
            device: self.signer.device.clone(),
            facts: facts(&self.facts.hardware_class, &self.facts.data_dir),
            slots: states.iter().map(|(slot, state)| state.slot_report(slot)).collect(),
            deployments: states
                .iter()
                .filter_map(|(slot, state)| state.deployment_report(slot))
                .collect(),
            documents: self.trust.versions(),
            trusted_time: now,
            attack: self.trust.last_attack()?,
            boot_count: self.signer.boot.epoch,
            error: self.trouble(),
            audit_head: self.store.get(keys::AUDIT_HEAD)?.unwrap_or(AuditHead::start(0)),
        };
        sign(&report, &self.signer.key).map_err(ReportError::Sign)
    }

    /// `up/hello`: the first thing on every connection.
    pub fn hello(&self) -> Result<(), ReportError> {
        let hello = Hello {
            schema: SCHEMA,
            device: self.signer.device.clone(),
            boot_epoch: self.signer.boot.epoch,
            root_version: self.trust.versions().root,
            report: ByteBuf::from(self.make()?),
        };
        self.link.publish(Up::Hello, codec::to_vec(&hello)?, true);
        Ok(())
    }

    /// The server knows a report of ours with this counter: never say less again.
    pub fn reconcile(&self, known: u64) -> Result<(), StoreError> {
        let ours = self.store.get::<u64>(keys::REPORT_COUNTER)?.unwrap_or(0);
        if known <= ours {
            return Ok(());
        }
        warn!(
            ours,
            known, "the server knows a later report: this device was restored from a copy"
        );
        let entry = Entry::new("device.restored", format!("device:{}", self.signer.device))
            .with("report_counter", ours)
            .with("known_to_server", known);
        let at = self.clock.now_ms();
        self.store.write(|txn| {
            audit::append(txn, &entry, at)?;
            txn.put(keys::REPORT_COUNTER, &known)
        })
    }

    /// Publishes a report whenever something of it has changed. Not all that a state holds stands in a report: how far a soak
    /// is does not.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut states = self.states.clone();
        let (mut reported, mut told) = both(&states.borrow_and_update());
        loop {
            let mut progress_only = false;
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let (now, telling) = both(&states.borrow_and_update());
                    if telling == told {
                        continue;
                    }
                    progress_only = now == reported;
                    reported = now;
                }
            }
            let pause = if progress_only { PROGRESS_EVERY } else { SETTLE };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // What matters does not wait for progress.
                () = important(&mut states, &reported), if progress_only => {}
            }
            (reported, told) = both(&states.borrow_and_update());
            self.send();
        }
    }

    fn send(&self) {
        if !self.link.is_connected() {
            // Hello carries the report of then.
            return;
        }
        match self.make() {
            Ok(report) => {
                self.link.publish(Up::Report, report, true);
            }
            Err(why) => error!(%why, "no report"),
        }
    }
}

type Summary = Vec<(
    String,
    Option<String>,
    bool,
    Option<flotilla_protocol::report::DeploymentState>,
)>;

/// What a report says of the slots, but for progress.
fn summary(states: &States) -> Summary {
    states
        .iter()
        .map(|(slot, state)| {
            let slot_report = state.slot_report(slot);
            let deployment = state.deployment_report(slot);
            (
                format!(
                    "{slot} {}",
                    deployment
                        .as_ref()
                        .map(|d| d.deployment.to_string())
                        .unwrap_or_default()
                ),
                slot_report.active.map(|model| model.manifest.to_string()),
                slot_report.committed,
                deployment.map(|deployment| deployment.state),
            )
        })
        .collect()
}

/// All that a report says of the slots.
type Told = Vec<(SlotReport, Option<DeploymentReport>, Option<String>)>;

fn both(states: &States) -> (Summary, Told) {
    let told = states.iter().map(|(slot, state)| {
        let (report, deployment) = (state.slot_report(slot), state.deployment_report(slot));
        (report, deployment, state.lost.clone())
    });
    (summary(states), told.collect())
}

/// Returns when the states differ in more than progress.
async fn important(states: &mut watch::Receiver<States>, reported: &Summary) {
    let differs = states.wait_for(|states| summary(states) != *reported).await.is_ok();
    if !differs {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
