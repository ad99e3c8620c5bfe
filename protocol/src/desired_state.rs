//! `DesiredState`: what the director wants one device to run, and how it is to get there. One per device, short-lived.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::chunks::BlobRef;
use crate::ids::{DeploymentId, DeviceId, Digest, ModelLine, SlotName};
use crate::trust::{Document, Header, KeyId, TrustError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Have this package active in the slot.
    Install,
    /// Empty the slot.
    Remove,
}

/// How the bytes of a source are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    Identity,
    Zstd,
}

/// One way to get a component. Made later than the manifest, by the server: safety rests on the manifest's digest and
/// length of the plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub encoding: Encoding,
    /// The encoded bytes.
    pub blob: BlobRef,
    /// The blob's chunk list; `None` where the blob is a single chunk.
    pub chunk_list: Option<BlobRef>,
}

/// The ways to get one component, best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentSources {
    /// Digest of the decoded plaintext, as in the manifest.
    pub component: Digest,
    pub sources: Vec<Source>,
}

/// What one slot shall hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub slot: SlotName,
    pub action: Action,
    pub line: ModelLine,
    /// Digest of the manifest's payload.
    pub manifest: Digest,
    /// The manifest's envelope, as a blob.
    pub manifest_envelope: BlobRef,
    pub release_counter: u64,
    pub deployment: DeploymentId,
    pub components: Vec<ComponentSources>,
    pub update: UpdatePolicy,
    pub harvest: HarvestPolicy,
}

/// How to behave while updating a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdatePolicy {
    /// How long the new model must serve without failing before it is committed.
    pub soak_ms: u64,
    /// Share of failed inferences, per thousand, above which a soaking model is rolled back.
    pub max_error_permille: u32,
    /// The start is delayed by `hash(device, deployment) mod spread`.
    pub start_spread_ms: u64,
    /// No new install starts after this, Unix milliseconds; 0 = none.
    pub deadline: i64,
    /// 0 = unlimited.
    pub max_bytes_per_s: u64,
}

/// Which inputs of a package are kept as samples for labeling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HarvestPolicy {
    /// Keep samples while the device sees drift.
    pub on_drift: bool,
    /// Keep samples whose best score is below this, in thousandths; 0 = none.
    pub below_permille: u32,
    /// At most so many per model package.
    pub max_samples: u32,
}

/// How a device observes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryPolicy {
    pub bundle_interval_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredState {
    pub header: Header,
    pub device: DeviceId,
    /// The device's signing key: a re-used name does not inherit another device's orders.
    pub thumbprint: KeyId,
    pub targets: Vec<Target>,
    pub telemetry: TelemetryPolicy,
    /// The counter of the last report the server has; a device whose counter is lower was restored from a copy.
    pub last_report_counter: u64,
}

impl Document for DesiredState {
    const SCHEMA: &'static str = "flotilla.desired-state.v1";
    const WHAT: &'static str = "desired state";

    fn header(&self) -> &Header {
        &self.header
    }
}

impl DesiredState {
    /// A rule that a signature does not prove: a slot is spoken of once.
    pub fn check(&self) -> Result<(), TrustError> {
        let mut slots = BTreeSet::new();
        match self.targets.iter().find(|target| !slots.insert(&target.slot)) {
            Some(twice) => Err(TrustError::Invalid(format!("slot '{}' has two targets", twice.slot))),
            None => Ok(()),
        }
    }
}
