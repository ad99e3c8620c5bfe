//! The update machine of one slot: `step(state, event, now) -> (state, effects)`. No I/O, no clock.
//!
//! The caller writes the new state durably, with the audit entries in the same transaction, before it performs the other
//! effects; every effect answers by an event. After a crash [`OtaEvent::Started`] finds the way on from whatever state
//! was durable. `docs/agent-states.md` shows every state with every event, made from this code.
//!
//! Invariants: `active` names a bank that holds a package; a bank is forgotten before its files are touched; no step is
//! repeated over more than [`MAX_STARTS`](policy::MAX_STARTS) starts of the agent.

use flotilla_protocol::ids::{DeviceId, SlotName};
use flotilla_protocol::report::{DeploymentState, InstalledModel};

use crate::audit::Entry;
use crate::ota::policy::{self, RetryLimits};
use crate::ota::state::{Bank, Job, Order, OtaState, Outcome, Phase};

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

/// A state on its way to the next, with the effects gathered so far.
struct Step<'a> {
    machine: &'a Machine,
    now: i64,
    state: OtaState,
    effects: Vec<Effect>,
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
            OtaEvent::Failed { reason } => step.failed(reason),
            OtaEvent::Refused { reason } => step.refused(reason),
            OtaEvent::BankLost { bank, reason } => step.bank_lost(bank, &reason),
            progress => step.advanced(progress),
        }
        (step.state, step.effects)
    }
}

impl Step<'_> {
    /// The agent starts: go on from what is durable, and count.
    fn started(&mut self) {
        if let Some(job) = self.state.phase.job_mut() {
            job.starts = job.starts.saturating_add(1);
        }
        match self.take_phase() {
            Phase::Downloading { job } | Phase::Verifying { job } | Phase::Installing { job, .. } => {
                if job.starts > policy::MAX_STARTS {
                    return self.end(job, looping("the download"), DeploymentState::Failure);
                }
                // What is on disk already is found there and not fetched again.
                self.state.phase = Phase::Downloading { job };
            }
            Phase::SelfTesting { job, bank } if job.starts > policy::MAX_STARTS => {
                self.forget_bank(bank);
                return self.end(job, looping("its self-test"), DeploymentState::Failure);
            }
            Phase::Activating { job, bank, previous } | Phase::Soaking { job, bank, previous }
                if job.starts > policy::MAX_STARTS =>
            {
                return self.roll_back(
                    job,
                    bank,
                    previous,
                    looping("its first use"),
                    DeploymentState::RolledBack,
                );
            }
            Phase::RollingBack {
                job, reason, ending, ..
            } if job.starts > policy::MAX_STARTS => {
                return self.end(job, reason, ending);
            }
            other => self.state.phase = other,
        }
        self.effects.extend(resume(&self.state));
    }

    /// An order comes. The same one again only refreshes its sources and policy.
    fn ordered(&mut self, order: Order) {
        if let Some(job) = self.state.phase.job_mut()
            && job.order.is_same(&order)
        {
            job.order = order;
            self.state.next = None;
            return;
        }
        if self.is_settled(&order) {
            return;
        }
        match self.take_phase() {
            Phase::Idle | Phase::Waiting { .. } => self.begin(order),
            Phase::Failed { job, .. } => {
                if !job.order.wants_same(&order) {
                    self.effects.push(Effect::DiscardDownload);
                }
                self.begin(order);
            }
            mut under_way @ (Phase::Downloading { .. }
            | Phase::Verifying { .. }
            | Phase::Installing { .. }
            | Phase::SelfTesting { .. }
            | Phase::Activating { .. }
            | Phase::Soaking { .. })
                if under_way.job().is_some_and(|job| job.order.wants_same(&order)) =>
            {
                // Another deployment of what is under way: go on under its name.
                if let Some(job) = under_way.job_mut() {
                    job.order = order;
                    job.starts = 0;
                    job.tries = 0;
                }
                self.state.phase = under_way;
            }
            Phase::Downloading { .. } | Phase::Verifying { .. } => {
                self.effects.extend([Effect::StopWork, Effect::DiscardDownload]);
                self.begin(order);
            }
            Phase::Installing { bank, .. } | Phase::SelfTesting { bank, .. } => {
                self.effects.extend([Effect::StopWork, Effect::DiscardDownload]);
                self.forget_bank(bank);
                self.begin(order);
            }
            // With nothing to go back to, the package that passed its self-test answers until another takes its place.
            Phase::Soaking { previous: None, .. } if !order.removes() => {
                self.effects.extend([Effect::StopWork, Effect::DiscardDownload]);
                self.begin(order);
            }
            alone @ Phase::Activating { previous: None, .. } if !order.removes() => {
                self.state.phase = alone;
                self.state.next = Some(order);
            }
            Phase::Activating { job, bank, previous } | Phase::Soaking { job, bank, previous } => {
                self.effects.push(Effect::StopWork);
                self.state.next = Some(order);
                let reason = "another deployment took its place".to_owned();
                self.roll_back(job, bank, previous, reason, DeploymentState::NoLongerApplicable);
            }
            busy @ (Phase::Committing { .. } | Phase::RollingBack { .. }) => {
                self.state.phase = busy;
                self.state.next = Some(order);
            }
        }
    }

    /// Idle, and this very order has ended before in a way that still holds?
    fn is_settled(&self, order: &Order) -> bool {
        let Some(last) = &self.state.last else { return false };
        if self.state.phase != Phase::Idle
            || last.deployment != order.target.deployment
            || last.manifest != order.target.manifest
        {
            return false;
        }
        // A success whose package was lost since is carried out again.
        !last.state.is_success()
            || order.removes() == self.state.active.is_none() && (order.removes() || self.has(order))
    }

    fn has(&self, order: &Order) -> bool {
        let active = self.state.active_model();
        active.is_some_and(|model| model.manifest == order.target.manifest)
    }

    fn withdrawn(&mut self) {
        self.state.next = None;
        let reason = || "the director no longer asks for it".to_owned();
        match self.take_phase() {
            Phase::Waiting { job, .. } => self.settle(&job, DeploymentState::NoLongerApplicable, Some(reason())),
            Phase::Downloading { job } | Phase::Verifying { job } => {
                self.effects.extend([Effect::StopWork, Effect::DiscardDownload]);
                self.settle(&job, DeploymentState::NoLongerApplicable, Some(reason()));
            }
            Phase::Installing { job, bank } | Phase::SelfTesting { job, bank } => {
                self.effects.extend([Effect::StopWork, Effect::DiscardDownload]);
                self.forget_bank(bank);
                self.settle(&job, DeploymentState::NoLongerApplicable, Some(reason()));
            }
            Phase::Failed {
                job, retry_at: Some(_), ..
            } => {
                self.effects.push(Effect::DiscardDownload);
                self.settle(&job, DeploymentState::NoLongerApplicable, Some(reason()));
            }
            other => self.state.phase = other,
        }
    }

    fn woken(&mut self) {
        match self.take_phase() {
            Phase::Waiting { job, until } if self.now < until => {
                self.state.phase = Phase::Waiting { job, until };
                self.effects.push(Effect::WakeAt(until));
            }
            Phase::Failed {
                job,
                reason,
                retry_at: Some(at),
                ending,
            } if self.now < at => {
                self.state.phase = Phase::Failed {
                    job,
                    reason,
                    retry_at: Some(at),
                    ending,
                };
                self.effects.push(Effect::WakeAt(at));
            }
            Phase::Waiting { job, .. }
            | Phase::Failed {
                job, retry_at: Some(_), ..
            } => self.start(job),
            other => self.state.phase = other,
        }
    }

    /// The work under way got a step further.
    fn advanced(&mut self, event: OtaEvent) {
        let phase = self.take_phase();
        match (phase, event) {
            (Phase::Downloading { mut job }, OtaEvent::Progress { received, total }) => {
                if received > job.bytes_received {
                    // A device that is restarted often may still get there.
                    job.starts = 0;
                    job.bytes_received = received;
                }
                job.bytes_total = total;
                self.state.phase = Phase::Downloading { job };
            }
            (Phase::Downloading { job }, OtaEvent::Downloaded) => {
                self.state.phase = Phase::Verifying { job };
                self.effects.push(Effect::Verify);
            }
            (Phase::Verifying { job }, OtaEvent::Verified) => {
                let bank = self.state.inactive();
                // Its files are about to be replaced: from here on nothing valid is there.
                self.state.set_bank(bank, None);
                self.state.phase = Phase::Installing { job, bank };
                self.effects.push(Effect::Install { bank });
            }
            (Phase::Installing { job, bank }, OtaEvent::Installed(model)) => {
                self.state.set_bank(bank, Some(model));
                self.state.phase = Phase::SelfTesting { job, bank };
                self.effects.push(Effect::SelfTest { bank });
            }
            (Phase::SelfTesting { job, bank }, OtaEvent::SelfTestPassed) => {
                let previous = self.state.active;
                self.state.active = Some(bank);
                self.audit("model.activated", &job, |entry| entry.with("bank", bank.as_str()));
                self.state.phase = Phase::Activating { job, bank, previous };
                self.effects.push(Effect::Activate { bank });
            }
            (Phase::Activating { previous: None, .. }, OtaEvent::Activated) if self.state.next.is_some() => {
                self.effects.push(Effect::DiscardDownload);
                self.turn_to_next();
            }
            (Phase::Activating { job, bank, previous }, OtaEvent::Activated) => {
                self.state.phase = Phase::Soaking { job, bank, previous };
                self.effects.push(Effect::Soak);
            }
            (Phase::Soaking { job, bank, .. }, OtaEvent::SoakPassed) => {
                self.state.phase = Phase::Committing { job, bank };
                self.effects.push(Effect::Commit);
            }
            (Phase::Committing { job, .. }, OtaEvent::Committed) => {
                self.audit("model.committed", &job, |entry| entry);
                self.settle(&job, DeploymentState::Success, None);
            }
            (
                Phase::RollingBack {
                    job, reason, ending, ..
                },
                OtaEvent::RolledBack,
            ) => self.end(job, reason, ending),
            (phase, _) => self.state.phase = phase,
        }
    }

    fn failed(&mut self, reason: String) {
        match self.take_phase() {
            Phase::Downloading { mut job } | Phase::Verifying { mut job } => {
                job.tries = job.tries.saturating_add(1);
                let Some(pause) = self.machine.retry.pause_ms(job.tries) else {
                    return self.end(job, reason, DeploymentState::Failure);
                };
                let at = self.now.saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
                self.state.phase = Phase::Failed {
                    job,
                    reason,
                    retry_at: Some(at),
                    ending: DeploymentState::Failure,
                };
                self.effects.push(Effect::WakeAt(at));
            }
            // What cannot be tidied up does not undo a commit.
            Phase::Committing { job, .. } => {
                self.audit("model.committed", &job, |entry| entry.with("left_over", reason));
                self.settle(&job, DeploymentState::Success, None);
            }
            other => {
                self.state.phase = other;
                self.refused(reason);
            }
        }
    }

    fn refused(&mut self, reason: String) {
        match self.take_phase() {
            Phase::Downloading { job } | Phase::Verifying { job } => self.end(job, reason, DeploymentState::Failure),
            Phase::Installing { job, bank } | Phase::SelfTesting { job, bank } => {
                self.forget_bank(bank);
                self.end(job, reason, DeploymentState::Failure);
            }
            Phase::Activating { job, bank, previous } | Phase::Soaking { job, bank, previous } => {
                self.roll_back(job, bank, previous, reason, DeploymentState::RolledBack);
            }
            Phase::RollingBack {
                job,
                reason: first,
                ending,
                ..
            } => {
                let both = format!("{first}; and the previous package did not start: {reason}");
                self.end(job, both, ending);
            }
            other => self.state.phase = other,
        }
    }

    /// A bank's files turned out to be unusable. Found at start, before anything serves; the caller loads what is active
    /// after it.
    fn bank_lost(&mut self, bank: Bank, reason: &str) {
        let Some(model) = self.state.bank(bank).cloned() else {
            return;
        };
        let entry = Entry::new("model.lost", format!("slot:{}", self.machine.slot))
            .with("bank", bank.as_str())
            .with("manifest", model.manifest)
            .with("reason", reason);
        self.effects.push(Effect::Audit(entry));
        self.state.set_bank(bank, None);
        if self.state.active == Some(bank) {
            let other = bank.other();
            // A package that has not passed its self-test is not what to fall back to.
            let untested = matches!(self.state.phase, Phase::SelfTesting { bank, .. } if bank == other);
            self.state.active = (self.state.bank(other).is_some() && !untested).then_some(other);
        }
        let reason = format!("the package in bank {} cannot be used: {reason}", bank.as_str());
        match self.take_phase() {
            Phase::SelfTesting { job, bank: under_test } if under_test == bank => {
                self.effects.push(Effect::StopWork);
                self.download(job);
            }
            Phase::Activating {
                job,
                bank: new,
                previous,
            }
            | Phase::Soaking {
                job,
                bank: new,
                previous,
            } if new == bank => {
                self.effects.push(Effect::StopWork);
                self.roll_back(job, new, previous, reason, DeploymentState::RolledBack);
            }
            Phase::Committing { job, bank: new } if new == bank => {
                self.effects.push(Effect::StopWork);
                self.roll_back(job, new, Some(new.other()), reason, DeploymentState::RolledBack);
            }
            Phase::Activating { job, bank: new, .. } => {
                self.state.phase = Phase::Activating {
                    job,
                    bank: new,
                    previous: None,
                };
            }
            Phase::Soaking { job, bank: new, .. } => {
                self.state.phase = Phase::Soaking {
                    job,
                    bank: new,
                    previous: None,
                };
            }
            other => self.state.phase = other,
        }
    }

    /// Turns to a new order.
    fn begin(&mut self, order: Order) {
        self.state.phase = Phase::Idle;
        self.state.next = None;
        let job = Job::new(order);
        if job.order.removes() {
            return self.remove(&job);
        }
        if self.has(&job.order) {
            return self.settle(&job, DeploymentState::AlreadyInstalled, None);
        }
        let target = &job.order.target;
        let delay = policy::start_delay_ms(
            &self.machine.device,
            target.deployment,
            job.order.update.start_spread_ms,
        );
        if delay > 0 {
            let until = self.now.saturating_add(i64::try_from(delay).unwrap_or(i64::MAX));
            self.effects.push(Effect::WakeAt(until));
            self.state.phase = Phase::Waiting { job, until };
            return;
        }
        self.start(job);
    }

    fn start(&mut self, job: Job) {
        if !policy::in_time(&job.order.update, self.now) {
            let reason = "its deadline passed before it could start".to_owned();
            return self.end(job, reason, DeploymentState::NoLongerApplicable);
        }
        if job.tries == 0 {
            self.audit("update.started", &job, |entry| entry);
        }
        self.download(job);
    }

    fn download(&mut self, job: Job) {
        self.state.phase = Phase::Downloading { job };
        self.effects.push(Effect::Fetch);
    }

    /// The slot is to be empty. Done at once: the files follow.
    fn remove(&mut self, job: &Job) {
        let full = self.state.a.is_some() || self.state.b.is_some();
        self.state.active = None;
        self.state.a = None;
        self.state.b = None;
        if full {
            self.audit("model.removed", job, |entry| entry);
        }
        self.effects.push(Effect::Restore { bank: None });
        self.effects
            .extend([Bank::A, Bank::B].map(|bank| Effect::Discard { bank }));
        self.settle(job, DeploymentState::Success, None);
    }

    /// Back to the previous package, which is active again in the same transaction.
    fn roll_back(&mut self, job: Job, bank: Bank, previous: Option<Bank>, reason: String, ending: DeploymentState) {
        let previous = previous.filter(|previous| self.state.bank(*previous).is_some());
        self.state.active = previous;
        self.forget_bank(bank);
        self.audit("model.rolled-back", &job, |entry| entry.with("reason", &reason));
        self.effects.push(Effect::Restore { bank: previous });
        self.state.phase = Phase::RollingBack {
            job,
            bank,
            reason,
            ending,
        };
    }

    /// The deployment ends without success; a waiting order has its turn.
    fn end(&mut self, job: Job, reason: String, ending: DeploymentState) {
        if ending == DeploymentState::Failure {
            self.audit("update.failed", &job, |entry| entry.with("reason", &reason));
        }
        self.effects.push(Effect::DiscardDownload);
        self.state.phase = Phase::Failed {
            job,
            reason,
            retry_at: None,
            ending,
        };
        self.turn_to_next();
    }

    /// The slot is idle again; a waiting order has its turn.
    fn settle(&mut self, job: &Job, state: DeploymentState, reason: Option<String>) {
        let target = &job.order.target;
        self.state.last = Some(Outcome {
            deployment: target.deployment,
            manifest: target.manifest,
            state,
            reason,
            bytes_received: job.bytes_received,
            bytes_total: job.bytes_total,
        });
        self.state.phase = Phase::Idle;
        self.turn_to_next();
    }

    fn turn_to_next(&mut self) {
        if let Some(order) = self.state.next.take() {
            self.begin(order);
        }
    }

    fn forget_bank(&mut self, bank: Bank) {
        self.state.set_bank(bank, None);
        self.effects.push(Effect::Discard { bank });
    }

    fn audit(&mut self, event: &'static str, job: &Job, more: impl FnOnce(Entry) -> Entry) {
        let target = &job.order.target;
        let entry = Entry::new(event, format!("slot:{}", self.machine.slot))
            .with("deployment", target.deployment)
            .with("line", &target.line)
            .with("manifest", target.manifest)
            .with("release_counter", target.release_counter);
        self.effects.push(Effect::Audit(more(entry)));
    }

    fn take_phase(&mut self) -> Phase {
        std::mem::replace(&mut self.state.phase, Phase::Idle)
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

fn looping(what: &str) -> String {
    format!(
        "the agent was restarted more than {} times during {what}",
        policy::MAX_STARTS
    )
}

#[cfg(test)]
mod tests;
