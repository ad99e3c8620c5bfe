//! `GET /flotilla/v1/status`: how the agent is, as JSON, on the local listener. For people and tests, not for the server.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Json;
use axum::routing::get;
use flotilla_protocol::report::{DeploymentReport, InstalledModel};
use flotilla_protocol::sketch::DriftStatus;
use serde::Serialize;
use tokio::sync::watch;

use crate::inference::InferenceHandle;
use crate::link::LinkHandle;
use crate::ota::driver::States;
use crate::ota::state::Bank;
use crate::report::Reporter;
use crate::serve::stream::StreamStatus;
use crate::spool::disk::DiskSpool;

/// Where it is served.
pub const STATUS_PATH: &str = "/flotilla/v1/status";

/// What status is made from.
#[derive(Debug)]
pub struct StatusSource {
    pub reporter: Arc<Reporter>,
    pub states: watch::Receiver<States>,
    pub link: LinkHandle,
    pub spool: Arc<DiskSpool>,
    pub inference: InferenceHandle,
    pub streams: BTreeMap<String, watch::Receiver<StreamStatus>>,
    /// The last judgement per slot.
    pub drift: watch::Receiver<BTreeMap<String, DriftStatus>>,
}

#[derive(Debug, Serialize)]
struct Status {
    device: String,
    agent_version: &'static str,
    boot_epoch: u64,
    link: &'static str,
    slots: BTreeMap<String, SlotStatus>,
    spool: SpoolStatus,
    streams: BTreeMap<String, StreamStatus>,
    documents: Documents,
    /// Unix milliseconds.
    trusted_time: i64,
    last_attack: Option<Attack>,
    last_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct SlotStatus {
    state: &'static str,
    active: Option<InstalledModel>,
    bank: Option<&'static str>,
    committed: bool,
    deployment: Option<DeploymentReport>,
    /// Since the model's activation, rows.
    inferences: u64,
    failures: u64,
    drift: Option<DriftStatus>,
}

#[derive(Debug, Serialize)]
struct SpoolStatus {
    records: u64,
    bytes: u64,
    dropped_samples: u64,
    dropped_bundles: u64,
}

#[derive(Debug, Serialize)]
struct Documents {
    root: u64,
    head: u64,
    desired_state: u64,
}

#[derive(Debug, Serialize)]
struct Attack {
    name: String,
    detail: String,
    at: i64,
}

pub fn router(source: Arc<StatusSource>) -> Router {
    Router::new().route(STATUS_PATH, get(status)).with_state(source)
}

async fn status(State(source): State<Arc<StatusSource>>) -> Json<Status> {
    Json(source.status())
}

impl StatusSource {
    fn status(&self) -> Status {
        let depth = self.spool.depth();
        let reporter = &self.reporter;
        let versions = reporter.trust.versions();
        let (attack, unreadable) = match reporter.trust.last_attack() {
            Ok(attack) => (attack, None),
            Err(why) => (None, Some(why.to_string())),
        };
        Status {
            device: reporter.signer.device.to_string(),
            agent_version: env!("CARGO_PKG_VERSION"),
            boot_epoch: reporter.signer.boot.epoch,
            link: if self.link.is_connected() {
                "connected"
            } else {
                "disconnected"
            },
            slots: self.slots(),
            spool: SpoolStatus {
                records: depth.records,
                bytes: depth.bytes,
                dropped_samples: depth.dropped.samples,
                dropped_bundles: depth.dropped.bundles,
            },
            streams: self
                .streams
                .iter()
                .map(|(name, status)| (name.clone(), status.borrow().clone()))
                .collect(),
            documents: Documents {
                root: versions.root,
                head: versions.head.version,
                desired_state: versions.desired_state.version,
            },
            trusted_time: reporter.clock.now_ms(),
            last_attack: attack.map(|attack| Attack {
                name: attack.attack,
                detail: attack.detail,
                at: attack.at,
            }),
            last_error: reporter.trouble().or(unreadable),
        }
    }

    fn slots(&self) -> BTreeMap<String, SlotStatus> {
        let drift = self.drift.borrow().clone();
        let states = self.states.borrow().clone();
        states
            .into_iter()
            .map(|(slot, state)| {
                let report = state.slot_report(&slot);
                let health = self.inference.health(&slot).unwrap_or_default();
                let status = SlotStatus {
                    state: state.phase.name().as_str(),
                    active: report.active,
                    bank: state.active.map(Bank::as_str),
                    committed: report.committed,
                    deployment: state.deployment_report(&slot),
                    inferences: health.inferences,
                    failures: health.failures,
                    drift: drift.get(slot.as_str()).cloned(),
                };
                (slot.to_string(), status)
            })
            .collect()
    }
}
