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
        [
            Self::Draft,
            Self::Running,
            Self::Paused,
            Self::Halted,
            Self::Completed,
            Self::Aborted,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
    }

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Aborted)
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
    /// From 0.
    pub phase: u32,
    /// The planner's last decision, word for word.
    pub decision: String,
    /// Deployments per state.
    pub counts: BTreeMap<String, u64>,
    pub targeted: u64,
    pub created_at: String,
    pub updated_at: String,
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
    pub bytes_received: u64,
    pub bytes_total: u64,
    pub updated_at: String,
}
