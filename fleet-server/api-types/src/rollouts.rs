//! Rollouts: phases, gates, deployments.

use std::collections::BTreeMap;

use flotilla_protocol::ids::{DeploymentId, DeviceId, ModelVersionId, RolloutId, SlotName};
use flotilla_protocol::report::DeploymentState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many devices a phase reaches in all (earlier phases counted in).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PhaseSize {
    Count {
        devices: u32,
    },
    /// In (0, 100].
    Percent {
        percent: f64,
    },
}

/// What must hold before the next phase starts. A gate that fails halts the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    /// Least share of the phase's finished deployments that succeeded, in [0, 1].
    #[serde(default = "default_success")]
    pub min_success: f64,
    /// A device that says nothing for so long has failed.
    #[serde(default = "default_timeout")]
    pub device_timeout_s: u64,
}

const fn default_success() -> f64 {
    1.0
}

const fn default_timeout() -> u64 {
    24 * 3600
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            min_success: default_success(),
            device_timeout_s: default_timeout(),
        }
    }
}

/// Which inputs devices keep for labeling while they run the package.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Harvest {
    pub on_drift: bool,
    /// Keep samples whose best score is below this; 0: none.
    #[serde(default)]
    pub below_confidence: f32,
    /// At most so many per device and package.
    pub max_samples: u32,
}

/// `POST /api/v1/rollouts`: makes a draft.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRollout {
    #[schema(value_type = String, format = "uuid")]
    pub model_version: ModelVersionId,
    #[serde(default = "default_slot")]
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// CEL over `device` (`id`, `tags`, `arch`, `hardware_class`, `agent_version`).
    #[serde(default = "default_target")]
    pub target: String,
    /// Absent: a canary of one device, then all.
    #[serde(default)]
    pub phases: Vec<PhaseSize>,
    #[serde(default)]
    pub gates: Gates,
    /// How long a device serves the new model before it commits, seconds.
    #[serde(default = "default_soak")]
    pub soak_s: f64,
    /// Errors per thousand inferences above which a soaking device rolls back.
    #[serde(default = "default_error_permille")]
    pub max_error_permille: u32,
    /// Bytes per second and device; 0: unlimited.
    #[serde(default)]
    pub max_bytes_per_s: u64,
    /// Devices of a phase start at different moments within so many seconds, at most a day; 0: at once.
    #[serde(default)]
    pub start_spread_s: u64,
    #[serde(default)]
    pub harvest: Option<Harvest>,
    /// In which order devices are chosen: by a hash of this and their ids. Absent: of the rollout's id. With the seed of a
    /// preview the rollout begins with the devices that the preview named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
}

fn default_slot() -> SlotName {
    SlotName::main()
}

fn default_target() -> String {
    "true".to_owned()
}

const fn default_soak() -> f64 {
    60.0
}

const fn default_error_permille() -> u32 {
    10
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    Draft,
    Running,
    Paused,
    /// A gate failed.
    Halted,
    Completed,
    Aborted,
}

impl RolloutState {
    pub const ALL: [Self; 6] = [
        Self::Draft,
        Self::Running,
        Self::Paused,
        Self::Halted,
        Self::Completed,
        Self::Aborted,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Aborted)
    }

    /// Started and not ended.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Halted)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    #[schema(value_type = String, format = "uuid")]
    pub id: RolloutId,
    pub spec: CreateRollout,
    pub line: String,
    pub semver: String,
    pub state: RolloutState,
    /// From 0; in texts, tables and the audit log phases count from 1.
    pub phase: u32,
    /// The planner's last decision, word for word.
    pub decision: String,
    /// Deployments per state.
    pub counts: BTreeMap<String, u64>,
    /// Devices that were given it.
    pub targeted: u64,
    /// Devices that the target selects besides, and that are still to be given it. Absent before the start, after the end,
    /// and while they are being chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// In the order of `spec.phases`.
    pub phases: Vec<RolloutPhase>,
    pub created_at: String,
    pub updated_at: String,
}

/// How one phase of a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPhase {
    /// From 0.
    pub phase: u32,
    /// Devices that it reaches in all (earlier phases counted in): as they were given it where the phase is over, as planned
    /// where it is not. Absent where that is not known: before the start, and of phases that an end left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<u64>,
    /// Deployments of this phase alone, per state.
    pub counts: BTreeMap<String, u64>,
}

/// `GET /api/v1/rollouts`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPage {
    pub items: Vec<Rollout>,
    /// Give it back as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Rollouts in the states asked for, on all pages.
    pub total: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    #[schema(value_type = String, format = "uuid")]
    pub id: DeploymentId,
    #[schema(value_type = String)]
    pub device: DeviceId,
    pub phase: u32,
    #[schema(value_type = String)]
    pub state: DeploymentState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it failed: the reason without what differs from device to device. Deployments are found by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub bytes_received: u64,
    pub bytes_total: u64,
    pub updated_at: String,
}

/// `GET /api/v1/rollouts/{id}/deployments`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentPage {
    pub items: Vec<Deployment>,
    /// Give it back as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Deployments that match, on all pages.
    pub total: u64,
}

/// Failures of a rollout that have one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureCause {
    /// What they have in common: the reason with paths, ids, digests and figures folded. `cause` of the deployments' list.
    pub cause: String,
    /// Devices that failed or rolled back for it.
    pub count: u64,
    /// The first of them, in order of id; at most five.
    #[schema(value_type = Vec<String>)]
    pub devices: Vec<DeviceId>,
    /// The first one's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the latest of them was last heard of.
    pub last_seen: String,
}

/// `GET /api/v1/rollouts/{id}/failures`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutFailures {
    /// Most devices first.
    pub items: Vec<FailureCause>,
    /// Causes in all, those that are not among `items` counted in.
    pub causes: u64,
    /// Devices that failed or rolled back.
    pub devices: u64,
}

/// Why a device that the target selects would not simply install the package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    HardwareClass,
    Arch,
    /// Its agent is too old.
    Agent,
    Memory,
    Disk,
    /// It runs this very package in this slot.
    AlreadyInstalled,
    /// Another rollout's deployment to this slot has not ended: this one would take its place.
    Busy,
}

impl Obstacle {
    /// The device would refuse the package, and count as failed.
    pub const fn is_misfit(self) -> bool {
        !matches!(self, Self::AlreadyInstalled | Self::Busy)
    }

    /// For people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::HardwareClass => "another hardware class",
            Self::Arch => "another architecture",
            Self::Agent => "its agent is too old",
            Self::Memory => "too little memory",
            Self::Disk => "too little free disk",
            Self::AlreadyInstalled => "it runs this version already",
            Self::Busy => "another rollout's deployment has not ended",
        }
    }
}

/// Devices that have one obstacle. A device with several counts for the first, in the order of [`Obstacle`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObstacleGroup {
    pub obstacle: Obstacle,
    /// They would refuse the package, and count as failed.
    pub misfit: bool,
    pub count: u64,
    /// What the package needs, for people; empty where the obstacle is none of the package's needs.
    pub needs: String,
    /// The first of them, in order of id; at most five.
    #[schema(value_type = Vec<String>)]
    pub devices: Vec<DeviceId>,
}

/// What one phase would do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhasePlan {
    /// From 0.
    pub phase: u32,
    pub size: PhaseSize,
    /// Devices that it reaches in all, earlier phases counted in.
    pub reach: u64,
    /// Devices of this phase alone.
    pub devices: u64,
}

/// `POST /api/v1/rollouts/preview`: what a rollout would do if it were started now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPreview {
    pub line: String,
    pub semver: String,
    /// Devices of the fleet that are not decommissioned.
    pub fleet: u64,
    /// Those that the target selects.
    pub selected: u64,
    /// Those among them that have no obstacle.
    pub ready: u64,
    /// Why the others are not ready, in the order of [`Obstacle`].
    pub obstacles: Vec<ObstacleGroup>,
    pub phases: Vec<PhasePlan>,
    /// Whom it would begin with, in this order; at most ten.
    #[schema(value_type = Vec<String>)]
    pub first: Vec<DeviceId>,
    /// Gives this order when the rollout is created with it.
    pub seed: u32,
    /// Bytes of the package.
    pub package_bytes: u64,
    /// Bytes that all devices together would fetch: those that fit and have not got the package.
    pub total_bytes: u64,
}
