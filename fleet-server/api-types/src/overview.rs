//! The fleet at a glance, one device's past, and its hours.

use flotilla_protocol::ids::{DeviceId, RolloutId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::DeviceCounts;
use crate::rollouts::Rollout;

/// `GET /api/v1/overview`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    pub devices: DeviceCounts,
    /// What runs where, most devices first.
    pub versions: Vec<VersionSpread>,
    /// What somebody should look at, newest first.
    pub attention: Vec<Attention>,
    /// Rollouts that are neither drafts nor ended.
    pub rollouts: Vec<Rollout>,
    pub last_24h: Spend,
    /// Nothing of a kind at all: what a newcomer does first.
    pub first_steps: FirstSteps,
}

/// How many devices run a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionSpread {
    pub line: String,
    pub semver: String,
    pub devices: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionKind {
    Drift,
    Attack,
    FailedDeployment,
    UnsignedVersion,
    ExpiringToken,
    ExpiringDocument,
    HaltedRollout,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attention {
    pub kind: AttentionKind,
    /// The id of what it is about: a device, a model version, a token, a rollout.
    pub id: String,
    pub title: String,
    pub detail: String,
    pub at: String,
}

/// What the fleet did in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Spend {
    /// Bytes of model packages that devices received.
    pub bytes: u64,
    pub inferences: u64,
    pub failures: u64,
}

/// What there is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "a checklist")]
pub struct FirstSteps {
    pub has_devices: bool,
    pub has_datasets: bool,
    pub has_labels: bool,
    pub has_runs: bool,
    pub has_models: bool,
    pub has_rollouts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimelineKind {
    /// The server's audit log.
    Server,
    /// The device's own audit chain.
    Device,
    Deployment,
    Drift,
    /// It came or went.
    Connection,
}

/// A row of `GET /api/v1/devices/{id}/timeline`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEvent {
    pub at: String,
    pub kind: TimelineKind,
    /// As the audit log names it, or `deployment.<state>`, `drift.alarm`, `drift.clear`, `device.connected`,
    /// `device.disconnected`.
    pub event: String,
    pub actor: String,
    pub detail: std::collections::BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub rollout: Option<RolloutId>,
}

/// A row of `GET /api/v1/devices/{id}/telemetry`: one package in one hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TelemetryHour {
    /// The hour's start.
    pub hour: String,
    pub line: String,
    /// Empty where the server does not know the package.
    #[serde(default)]
    pub semver: String,
    pub manifest: String,
    pub inferences: u64,
    pub failures: u64,
    pub p50_us: u64,
    pub p95_us: u64,
}

/// `GET /api/v1/devices/{id}/telemetry`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceHours {
    #[schema(value_type = String)]
    pub device: DeviceId,
    pub from: String,
    pub to: String,
    /// In order of time.
    pub hours: Vec<TelemetryHour>,
}
