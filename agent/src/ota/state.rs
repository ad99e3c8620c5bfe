//! What is durably known about one slot. Written whole, in one transaction, before anything acts on it.
//!
//! Pure data with its readings; the rules of change are `machine`'s.

use flotilla_protocol::desired_state::{Action, Target};
use flotilla_protocol::ids::{DeploymentId, Digest, SlotName};
use flotilla_protocol::report::{DeploymentReport, DeploymentState, InstalledModel, SlotReport};
use serde::{Deserialize, Serialize};

use crate::ota::policy::Soak;

/// The layout of [`OtaState`] that this code writes.
pub const FORMAT: u16 = 1;

/// One of a slot's two directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bank {
    A,
    B,
}

impl Bank {
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What the director wants of this slot, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub target: Target,
}

impl Order {
    /// Two orders are the same deployment of the same thing?
    pub fn is_same(&self, other: &Self) -> bool {
        self.target.deployment == other.target.deployment && self.wants_same(other)
    }

    /// Two orders want the same package in the slot?
    pub fn wants_same(&self, other: &Self) -> bool {
        self.target.action == other.target.action && self.target.manifest == other.target.manifest
    }

    pub fn removes(&self) -> bool {
        self.target.action == Action::Remove
    }
}

/// An order being carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub order: Order,
    /// Starts of the agent since this job last got further: breaks reboot loops. Not counted while it only waits.
    pub starts: u32,
    /// The furthest phase of this attempt: a job that falls back and comes here again got no further.
    #[serde(default)]
    pub reached: PhaseName,
    /// Failed attempts to fetch.
    pub tries: u32,
    pub bytes_received: u64,
    pub bytes_total: u64,
}

impl Job {
    pub fn new(order: Order) -> Self {
        Self {
            order,
            starts: 0,
            reached: PhaseName::Idle,
            tries: 0,
            bytes_received: 0,
            bytes_total: 0,
        }
    }

    /// The job enters a phase. If none as far was entered before, what the starts were counted for has succeeded.
    #[must_use]
    pub fn entering(mut self, phase: PhaseName) -> Self {
        if phase > self.reached {
            self.reached = phase;
            self.starts = 0;
        }
        self
    }
}

/// Where a slot is on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Idle,
    /// The start is spread over devices.
    Waiting {
        job: Job,
        until: i64,
    },
    Downloading {
        job: Job,
    },
    Verifying {
        job: Job,
    },
    /// Files move into the inactive bank, which holds nothing valid meanwhile.
    Installing {
        job: Job,
        bank: Bank,
    },
    SelfTesting {
        job: Job,
        bank: Bank,
    },
    /// `bank` is the active one from here on; `previous` is what to go back to.
    Activating {
        job: Job,
        bank: Bank,
        previous: Option<Bank>,
    },
    Soaking {
        job: Job,
        bank: Bank,
        previous: Option<Bank>,
        /// As of the last note ([`SOAK_NOTE_MS`](crate::ota::policy::SOAK_NOTE_MS)).
        #[serde(default)]
        soaked: Soak,
    },
    Committing {
        job: Job,
        bank: Bank,
    },
    /// The previous bank is the active one again.
    RollingBack {
        job: Job,
        bank: Bank,
        reason: String,
        ending: DeploymentState,
    },
    /// With `retry_at` it will be tried again; without, the deployment has ended in `ending`.
    Failed {
        job: Job,
        reason: String,
        retry_at: Option<i64>,
        ending: DeploymentState,
    },
}

/// The phases' names: configuration, tables, audit. In the order in which an update comes to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseName {
    #[default]
    Idle,
    Waiting,
    Downloading,
    Verifying,
    Installing,
    SelfTesting,
    Activating,
    Soaking,
    Committing,
    RollingBack,
    Failed,
}

impl PhaseName {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Installing => "installing",
            Self::SelfTesting => "self-testing",
            Self::Activating => "activating",
            Self::Soaking => "soaking",
            Self::Committing => "committing",
            Self::RollingBack => "rolling-back",
            Self::Failed => "failed",
        }
    }
}

impl Phase {
    pub fn name(&self) -> PhaseName {
        match self {
            Self::Idle => PhaseName::Idle,
            Self::Waiting { .. } => PhaseName::Waiting,
            Self::Downloading { .. } => PhaseName::Downloading,
            Self::Verifying { .. } => PhaseName::Verifying,
            Self::Installing { .. } => PhaseName::Installing,
            Self::SelfTesting { .. } => PhaseName::SelfTesting,
            Self::Activating { .. } => PhaseName::Activating,
            Self::Soaking { .. } => PhaseName::Soaking,
            Self::Committing { .. } => PhaseName::Committing,
            Self::RollingBack { .. } => PhaseName::RollingBack,
            Self::Failed { .. } => PhaseName::Failed,
        }
    }

    pub fn job(&self) -> Option<&Job> {
        match self {
            Self::Idle => None,
            Self::Waiting { job, .. }
            | Self::Downloading { job }
            | Self::Verifying { job }
            | Self::Installing { job, .. }
            | Self::SelfTesting { job, .. }
            | Self::Activating { job, .. }
            | Self::Soaking { job, .. }
            | Self::Committing { job, .. }
            | Self::RollingBack { job, .. }
            | Self::Failed { job, .. } => Some(job),
        }
    }

    pub fn job_mut(&mut self) -> Option<&mut Job> {
        match self {
            Self::Idle => None,
            Self::Waiting { job, .. }
            | Self::Downloading { job }
            | Self::Verifying { job }
            | Self::Installing { job, .. }
            | Self::SelfTesting { job, .. }
            | Self::Activating { job, .. }
            | Self::Soaking { job, .. }
            | Self::Committing { job, .. }
            | Self::RollingBack { job, .. }
            | Self::Failed { job, .. } => Some(job),
        }
    }
}

/// How the last deployment ended, once the slot is idle again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub deployment: DeploymentId,
    pub manifest: Digest,
    pub state: DeploymentState,
    pub reason: Option<String>,
    pub bytes_received: u64,
    pub bytes_total: u64,
}

/// All that is durably known about one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaState {
    pub format: u16,
    /// The bank that answers. Always one that holds a package.
    pub active: Option<Bank>,
    pub a: Option<InstalledModel>,
    pub b: Option<InstalledModel>,
    pub phase: Phase,
    /// An order that came while the slot could not turn to it.
    pub next: Option<Order>,
    pub last: Option<Outcome>,
    /// Why the package that answered last does not any more, until another is activated.
    #[serde(default)]
    pub lost: Option<String>,
}

impl Default for OtaState {
    fn default() -> Self {
        Self {
            format: FORMAT,
            active: None,
            a: None,
            b: None,
            phase: Phase::Idle,
            next: None,
            last: None,
            lost: None,
        }
    }
}

impl OtaState {
    pub fn bank(&self, bank: Bank) -> Option<&InstalledModel> {
        match bank {
            Bank::A => self.a.as_ref(),
            Bank::B => self.b.as_ref(),
        }
    }

    pub fn set_bank(&mut self, bank: Bank, model: Option<InstalledModel>) {
        match bank {
            Bank::A => self.a = model,
            Bank::B => self.b = model,
        }
    }

    /// The bank that the next package goes into.
    pub fn inactive(&self) -> Bank {
        self.active.map_or(Bank::A, Bank::other)
    }

    pub fn active_model(&self) -> Option<&InstalledModel> {
        self.bank(self.active?)
    }

    /// Has the active package proved itself?
    pub fn is_committed(&self) -> bool {
        self.active.is_some()
            && !matches!(
                self.phase,
                Phase::Activating { .. } | Phase::Soaking { .. } | Phase::Committing { .. }
            )
    }

    pub fn slot_report(&self, slot: &SlotName) -> SlotReport {
        SlotReport {
            slot: slot.clone(),
            active: self.active_model().cloned(),
            committed: self.is_committed(),
        }
    }

    /// The newest deployment of the slot, in Mender's words.
    pub fn deployment_report(&self, slot: &SlotName) -> Option<DeploymentReport> {
        let Some(job) = self.phase.job() else {
            let last = self.last.as_ref()?;
            return Some(DeploymentReport {
                deployment: last.deployment,
                slot: slot.clone(),
                state: last.state,
                reason: last.reason.clone(),
                bytes_received: last.bytes_received,
                bytes_total: last.bytes_total,
            });
        };
        let (state, reason) = match &self.phase {
            Phase::Idle | Phase::Waiting { .. } => (DeploymentState::Pending, None),
            Phase::Downloading { .. } => (DeploymentState::Downloading, None),
            Phase::Verifying { .. } | Phase::SelfTesting { .. } => (DeploymentState::Verifying, None),
            Phase::Installing { .. } => (DeploymentState::Installing, None),
            Phase::Activating { .. } | Phase::Soaking { .. } | Phase::Committing { .. } => {
                (DeploymentState::Soaking, None)
            }
            Phase::RollingBack { reason, .. } => (DeploymentState::Soaking, Some(reason.clone())),
            Phase::Failed {
                reason,
                retry_at: Some(_),
                ..
            } => (DeploymentState::Pending, Some(reason.clone())),
            Phase::Failed {
                reason,
                ending,
                retry_at: None,
                ..
            } => (*ending, Some(reason.clone())),
        };
        Some(DeploymentReport {
            deployment: job.order.target.deployment,
            slot: slot.clone(),
            state,
            reason,
            bytes_received: job.bytes_received,
            bytes_total: job.bytes_total,
        })
    }
}
