//! The update machine of one slot: `step(state, event, now) -> (state, effects)`. No I/O, no clock.
//!
//! The caller writes the new state durably, with the audit entries in the same transaction, before it performs the other
//! effects; every effect answers by an event. After a crash [`OtaEvent::Started`] finds the way on from whatever state
//! was durable. `docs/agent-states.md` shows every state with every event, made from this code.
//!
//! Invariants: `active` names a bank that holds a package; a bank is forgotten before its files are touched; no step is
//! repeated over more than [`MAX_STARTS`](crate::ota::policy::MAX_STARTS) starts of the agent without getting further.

mod transitions;

use flotilla_protocol::ids::{DeviceId, SlotName};
use flotilla_protocol::report::InstalledModel;

use crate::audit::Entry;
use crate::ota::machine::transitions::Step;
use crate::ota::policy::{RetryLimits, Soak};
use crate::ota::state::{Bank, Order, OtaState, Phase};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtaEvent {
    /// The agent started and found this state.
    Started,
    /// The newest desired state names the slot.
    Ordered(Box<Order>),
    /// The newest desired state does not name the slot.
    Withdrawn,
    /// The time asked for has come (or an earlier one).
    Woken,
    Progress {
        received: u64,
        total: u64,
    },
    Downloaded,
    Verified,
    Installed(InstalledModel),
    SelfTestPassed,
    Activated,
    /// The package has soaked so far. `steady`: this run of it is too long to be part of a crash loop.
    Soaked {
        soaked: Soak,
        steady: bool,
    },
    SoakPassed,
    Committed,
    RolledBack,
    /// What was tried did not work; fetching is tried again.
    Failed {
        reason: String,
    },
    /// What was tried will never work for this deployment.
    Refused {
        reason: String,
    },
    /// A bank's files cannot be used.
    BankLost {
        bank: Bank,
        reason: String,
    },
}

/// What the caller is to do. At most one piece of work (`Fetch` to `Restore`) is under way per slot; a new one replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// End the work under way; its result is not wanted any more.
    StopWork,
    Fetch,
    Verify,
    Install {
        bank: Bank,
    },
    SelfTest {
        bank: Bank,
    },
    /// Load the bank and let it answer.
    Activate {
        bank: Bank,
    },
    Soak,
    /// Remove what was staged for the job.
    Commit,
    /// Let this bank answer again; `None`: nothing answers.
    Restore {
        bank: Option<Bank>,
    },
    /// Delete a bank's files.
    Discard {
        bank: Bank,
    },
    /// Delete what was downloaded for the job.
    DiscardDownload,
    WakeAt(i64),
    /// Written in the state's own transaction.
    Audit(Entry),
}

impl Effect {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::StopWork => "stop work",
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Install { .. } => "install",
            Self::SelfTest { .. } => "self-test",
            Self::Activate { .. } => "activate",
            Self::Soak => "soak",
            Self::Commit => "commit",
            Self::Restore { .. } => "restore",
            Self::Discard { .. } => "discard bank",
            Self::DiscardDownload => "discard download",
            Self::WakeAt(_) => "wake later",
            Self::Audit(_) => "audit",
        }
    }
}

/// The machine's fixed surroundings.
#[derive(Debug, Clone)]
pub struct Machine {
    pub device: DeviceId,
    pub slot: SlotName,
    pub retry: RetryLimits,
}

impl Machine {
    /// See the module's documentation. An event that means nothing in a state changes nothing.
    pub fn step(&self, state: &OtaState, event: OtaEvent, now_ms: i64) -> (OtaState, Vec<Effect>) {
        let mut step = Step {
            machine: self,
            now: now_ms,
            state: state.clone(),
            effects: Vec::new(),
        };
        match event {
            OtaEvent::Started => step.started(),
            OtaEvent::Ordered(order) => step.ordered(*order),
            OtaEvent::Withdrawn => step.withdrawn(),
            OtaEvent::Woken => step.woken(),
            OtaEvent::Progress { received, total } => step.received(received, total),
            OtaEvent::Soaked { soaked, steady } => step.soaked(soaked, steady),
            OtaEvent::Failed { reason } => step.failed(reason),
            OtaEvent::Refused { reason } => step.refused(reason),
            OtaEvent::BankLost { bank, reason } => step.bank_lost(bank, &reason),
            progress => step.advanced(progress),
        }
        (step.state, step.effects)
    }
}

/// The work that a state waits for: what a start takes up again.
pub fn resume(state: &OtaState) -> Vec<Effect> {
    let work = match &state.phase {
        Phase::Idle | Phase::Failed { retry_at: None, .. } => return Vec::new(),
        Phase::Waiting { until: at, .. } | Phase::Failed { retry_at: Some(at), .. } => Effect::WakeAt(*at),
        Phase::Downloading { .. } => Effect::Fetch,
        Phase::Verifying { .. } => Effect::Verify,
        Phase::Installing { bank, .. } => Effect::Install { bank: *bank },
        Phase::SelfTesting { bank, .. } => Effect::SelfTest { bank: *bank },
        Phase::Activating { bank, .. } => Effect::Activate { bank: *bank },
        Phase::Soaking { .. } => Effect::Soak,
        Phase::Committing { .. } => Effect::Commit,
        Phase::RollingBack { .. } => Effect::Restore { bank: state.active },
    };
    vec![work]
}

#[cfg(test)]
mod tests;
