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
    #[schema(value_type = String)]
    pub manifest: Digest,
    pub inferences: u64,
    pub failures: u64,
    pub p50_us: u64,
    pub p95_us: u64,
    pub bundles: u64,
}

/// `PATCH /api/v1/devices/{id}`: replaces the tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateDevice {
    pub tags: BTreeMap<String, String>,
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
