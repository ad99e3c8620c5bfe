//! Devices and claim tokens.

use std::collections::BTreeMap;

use flotilla_protocol::enroll::FactoryBundle;
use flotilla_protocol::ids::{ClaimTokenId, DeploymentId, DeviceId, Digest, ModelLine, SlotName};
use flotilla_protocol::report::DeploymentState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceStatus {
    Online,
    Offline,
    Decommissioned,
}

/// A row of `GET /api/v1/devices`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    #[schema(value_type = String)]
    pub id: DeviceId,
    pub status: DeviceStatus,
    pub tags: BTreeMap<String, String>,
    pub hardware_class: String,
    pub arch: String,
    pub agent_version: String,
    /// SHA-256 of the signing key's `SubjectPublicKeyInfo`.
    #[schema(value_type = String)]
    pub thumbprint: Digest,
    pub enrolled_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// One per slot.
    pub models: Vec<DeviceModel>,
    /// Rows inferred since enrolment, as counted once by the server.
    pub inferences: u64,
    /// The device's last judgement: `true` = its data drifted.
    pub drifted: bool,
    /// The largest share of drifted features among its packages; absent before the first judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    /// A deployment to it has not ended.
    #[serde(default)]
    pub updating: bool,
    /// Why somebody should look at it; empty: nothing is wrong.
    #[serde(default)]
    pub alerts: Vec<DeviceAlert>,
}

/// Why a device needs attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceAlert {
    /// What it sees differs from what its model was trained on.
    Drift,
    /// It refused something that was meant to deceive it.
    Attack,
    /// Its last deployment failed or was rolled back.
    FailedDeployment,
    /// It reports an error.
    Error,
}

/// `GET /api/v1/devices`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DevicePage {
    pub items: Vec<Device>,
    /// Give it back as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Devices that match the filter, on all pages. Not older than a second.
    pub total: u64,
}

/// `GET /api/v1/device-counts`: `online + offline + decommissioned = total`; a device that is updating or needs attention
/// is counted there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct DeviceCounts {
    pub total: u64,
    pub online: u64,
    pub offline: u64,
    pub decommissioned: u64,
    pub updating: u64,
    pub alert: u64,
}

/// `POST /api/v1/device-actions`: one action on many devices, as a job. Exactly one of `filter` and `ids`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkDevices {
    /// As in `GET /api/v1/devices`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub ids: Option<Vec<DeviceId>>,
    pub action: BulkAction,
    /// How many devices the caller means; refused if it is another number by now.
    pub expected_total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BulkAction {
    /// Changes these tags and leaves the others.
    Tag(TagChange),
    /// Takes the devices out of the fleet for good.
    Decommission,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagChange {
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    #[serde(default)]
    pub remove: Vec<String>,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceModel {
    #[schema(value_type = String)]
    pub slot: SlotName,
    #[schema(value_type = String)]
    pub line: ModelLine,
    pub semver: String,
    pub release_counter: u64,
    #[schema(value_type = String)]
    pub manifest: Digest,
    pub committed: bool,
}

/// `GET /api/v1/devices/{id}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    #[serde(flatten)]
    pub device: Device,
    pub ram_bytes: u64,
    pub disk_free_bytes: u64,
    pub boot_count: u64,
    pub report_counter: u64,
    pub desired: Vec<DeviceTarget>,
    pub deployments: Vec<DeviceDeployment>,
    pub telemetry: Vec<DeviceTelemetry>,
    /// Entries of the device's audit chain that the server has verified.
    pub audit_entries: u64,
    /// Losses that the device has declared in its audit chain, newest first, at most 20.
    #[serde(default)]
    pub audit_gaps: Vec<DeviceAuditGap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attack: Option<DeviceAttack>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceAttack {
    /// As named in `docs/trust.md`: `rollback`, `altered-content`, …
    pub attack: String,
    pub detail: String,
    pub at: String,
    /// Somebody has looked at it: it is no alert any more.
    #[serde(default)]
    pub acknowledged: bool,
}

/// `POST /api/v1/devices/{id}/alerts/acknowledge`: the alert of an attack is over until another attack is reported.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeAlerts {
    /// `last_attack.at` as the caller saw it; refused if the device has reported another attack since. Absent: whatever the last
    /// one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack_at: Option<String>,
}

/// Entries of a device's audit chain were lost; the device says so itself, as the first entry of a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceAuditGap {
    /// The epoch that began after the loss.
    pub epoch: u64,
    /// Entries that nobody has any more.
    pub lost: u64,
    /// The last entry before the loss: its epoch, how many entries that epoch had, and the hash over them.
    pub after_epoch: u64,
    pub after_count: u64,
    #[schema(value_type = String)]
    pub after_hash: Digest,
    pub at: String,
}

/// What the director wants in a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceTarget {
    #[schema(value_type = String)]
    pub slot: SlotName,
    #[schema(value_type = String)]
    pub line: ModelLine,
    pub semver: String,
    #[schema(value_type = String)]
    pub manifest: Digest,
    #[schema(value_type = String, format = "uuid")]
    pub deployment: DeploymentId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDeployment {
    #[schema(value_type = String, format = "uuid")]
    pub id: DeploymentId,
    pub rollout: String,
    #[schema(value_type = String)]
    pub state: DeploymentState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub updated_at: String,
}

/// Totals per model package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceTelemetry {
    #[schema(value_type = String)]
    pub line: ModelLine,
    /// Empty where the server does not know the package.
    #[serde(default)]
    pub semver: String,
    #[schema(value_type = String)]
    pub manifest: Digest,
    pub inferences: u64,
    pub failures: u64,
    pub p50_us: u64,
    pub p95_us: u64,
    pub bundles: u64,
}

/// `PATCH /api/v1/devices/{id}`. Exactly one of `tags` and `change`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateDevice {
    /// Replaces all tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// Changes these tags and leaves the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<TagChange>,
    /// With `change`: the tags as the caller saw them. If one that is to change is another by now, nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<BTreeMap<String, String>>,
}

/// `POST /api/v1/claim-tokens`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateClaimToken {
    /// How many devices may enrol with it; at least 1.
    pub uses: u32,
    /// Seconds until it expires.
    pub lifetime_s: u64,
    /// Tags that its devices get.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClaimToken {
    #[schema(value_type = String, format = "uuid")]
    pub id: ClaimTokenId,
    pub uses: u32,
    pub used: u32,
    pub expires_at: String,
    pub revoked: bool,
    pub tags: BTreeMap<String, String>,
    pub created_at: String,
}

/// The answer to creation: the only time that the secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedClaimToken {
    #[serde(flatten)]
    pub token: ClaimToken,
    /// Everything a device needs to enrol; save it as a file.
    #[schema(value_type = Object)]
    pub factory_bundle: FactoryBundle,
}
