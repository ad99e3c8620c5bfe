//! `DeviceReport`: what a device says of itself, signed by its own key. The latest counts; `header.version` is its counter.

use serde::{Deserialize, Serialize};

use crate::audit::AuditHead;
use crate::ids::{DeploymentId, DeviceId, Digest, ModelLine, SlotName};
use crate::trust::{DeviceFacts, Document, DocumentVersions, Header};

/// A device's part in a rollout, in Mender's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentState {
    Pending,
    Downloading,
    Installing,
    Verifying,
    Soaking,
    Success,
    Failure,
    RolledBack,
    AlreadyInstalled,
    NoLongerApplicable,
    Decommissioned,
}

impl DeploymentState {
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Downloading,
        Self::Installing,
        Self::Verifying,
        Self::Soaking,
        Self::Success,
        Self::Failure,
        Self::RolledBack,
        Self::AlreadyInstalled,
        Self::NoLongerApplicable,
        Self::Decommissioned,
    ];

    /// Nothing more will happen in this deployment.
    pub const fn is_final(self) -> bool {
        !matches!(
            self,
            Self::Pending | Self::Downloading | Self::Installing | Self::Verifying | Self::Soaking
        )
    }

    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success | Self::AlreadyInstalled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Downloading => "downloading",
            Self::Installing => "installing",
            Self::Verifying => "verifying",
            Self::Soaking => "soaking",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::RolledBack => "rolled-back",
            Self::AlreadyInstalled => "already-installed",
            Self::NoLongerApplicable => "no-longer-applicable",
            Self::Decommissioned => "decommissioned",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What stands in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledModel {
    pub line: ModelLine,
    pub manifest: Digest,
    pub semver: String,
    pub release_counter: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    pub slot: SlotName,
    /// What answers now.
    pub active: Option<InstalledModel>,
    /// Committed, or still soaking.
    pub committed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentReport {
    pub deployment: DeploymentId,
    pub slot: SlotName,
    pub state: DeploymentState,
    /// Why it failed or was rolled back, for people.
    pub reason: Option<String>,
    /// Chunk bytes received for it.
    pub bytes_received: u64,
    /// Bytes that it will receive in all, as far as known.
    pub bytes_total: u64,
}

/// An attack that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectedAttack {
    /// `TrustError::attack`.
    pub attack: String,
    pub detail: String,
    /// Unix milliseconds.
    pub at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    pub header: Header,
    pub device: DeviceId,
    pub facts: DeviceFacts,
    pub slots: Vec<SlotReport>,
    /// One per slot that a desired state speaks of.
    pub deployments: Vec<DeploymentReport>,
    pub documents: DocumentVersions,
    /// Unix milliseconds, never before the clock's floor.
    pub trusted_time: i64,
    /// The last one.
    pub attack: Option<DetectedAttack>,
    pub boot_count: u64,
    /// What ails the device now, if anything.
    pub error: Option<String>,
    pub audit_head: AuditHead,
}

impl Document for DeviceReport {
    const SCHEMA: &'static str = "flotilla.device-report.v1";
    const WHAT: &'static str = "device report";

    fn header(&self) -> &Header {
        &self.header
    }
}
