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
    /// What runs where, most devices first, at most 50.
    pub versions: Vec<VersionSpread>,
    /// How many versions run somewhere.
    pub versions_total: u64,
    /// What somebody should look at: the most severe kind first, and of each kind the worst ten.
    pub attention: Vec<Attention>,
    /// How many there are of each kind that there is, in the same order.
    pub attention_totals: Vec<AttentionTotal>,
    /// Rollouts that are neither drafts nor ended, the newest ten.
    pub rollouts: Vec<Rollout>,
    /// How many such rollouts there are.
    pub rollouts_total: u64,
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

/// In order of severity, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionKind {
    Attack,
    HaltedRollout,
    FailedDeployment,
    /// A device says that something is wrong with it.
    DeviceError,
    Drift,
    ExpiringDocument,
    UnsignedVersion,
    ExpiringToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttentionTotal {
    pub kind: AttentionKind,
    /// Of devices: each counts once.
    pub total: u64,
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
