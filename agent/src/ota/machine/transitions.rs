//! What every event does to a state: the transitions of [`Machine::step`], and the moves that they are made of.
//!
//! Each handler takes the phase out, decides, and puts the next one in; what is to be done about it is gathered as effects.
//! Nothing here is carried out.

use flotilla_protocol::report::DeploymentState;

use crate::audit::Entry;
use crate::ota::machine::{Effect, Machine, OtaEvent, resume};
use crate::ota::policy::{self, Soak};
use crate::ota::state::{Bank, Job, Order, OtaState, Outcome, Phase, PhaseName};

/// A state on its way to the next, with the effects gathered so far.
pub(super) struct Step<'a> {
    pub(super) machine: &'a Machine,
    pub(super) now: i64,
    pub(super) state: OtaState,
    pub(super) effects: Vec<Effect>,
}

impl Step<'_> {
    /// The agent starts: go on from what is durable, and count. A job that only waits takes nobody down.
    pub(super) fn started(&mut self) {
        let waits = matches!(self.state.phase, Phase::Waiting { .. } | Phase::Failed { .. });
        if let Some(job) = self.state.phase.job_mut().filter(|_| !waits) {
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
            Phase::Activating { job, bank, previous }
            | Phase::Soaking {
                job, bank, previous, ..
            } if job.starts > policy::MAX_STARTS => {
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
    pub(super) fn ordered(&mut self, order: Order) {
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
            Phase::Activating { job, bank, previous }
            | Phase::Soaking {
                job, bank, previous, ..
            } => {
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

    pub(super) fn withdrawn(&mut self) {
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
            // Also where nothing answered before: who ends a rollout wants it nowhere that it has not finished.
            Phase::Activating { job, bank, previous }
            | Phase::Soaking {
                job, bank, previous, ..
            } => {
                self.effects.push(Effect::StopWork);
                let reason = "the order was withdrawn".to_owned();
                self.roll_back(job, bank, previous, reason, DeploymentState::NoLongerApplicable);
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

    pub(super) fn woken(&mut self) {
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

    /// More of the download is here.
    pub(super) fn received(&mut self, received: u64, total: u64) {
        if let Phase::Downloading { job } = &mut self.state.phase {
            if received > job.bytes_received {
                // A device that is restarted often may still get there.
                job.starts = 0;
                job.bytes_received = received;
            }
            job.bytes_total = total;
        }
    }

    /// The package has soaked so far.
    pub(super) fn soaked(&mut self, so_far: Soak, steady: bool) {
        if let Phase::Soaking { job, soaked, .. } = &mut self.state.phase {
            *soaked = so_far;
            if steady {
                // A device that is switched off every night may still get there.
                job.starts = 0;
            }
        }
    }

    /// The work under way got a step further.
    pub(super) fn advanced(&mut self, event: OtaEvent) {
        let phase = self.take_phase();
        match (phase, event) {
            (Phase::Downloading { job }, OtaEvent::Downloaded) => {
                let job = job.entering(PhaseName::Verifying);
                self.state.phase = Phase::Verifying { job };
                self.effects.push(Effect::Verify);
            }
            (Phase::Verifying { job }, OtaEvent::Verified) => {
                let bank = self.state.inactive();
                // Its files are about to be replaced: from here on nothing valid is there.
                self.state.set_bank(bank, None);
                let job = job.entering(PhaseName::Installing);
                self.state.phase = Phase::Installing { job, bank };
                self.effects.push(Effect::Install { bank });
            }
            (Phase::Installing { job, bank }, OtaEvent::Installed(model)) => {
                self.state.set_bank(bank, Some(model));
                let job = job.entering(PhaseName::SelfTesting);
                self.state.phase = Phase::SelfTesting { job, bank };
                self.effects.push(Effect::SelfTest { bank });
            }
            (Phase::SelfTesting { job, bank }, OtaEvent::SelfTestPassed) => {
                let previous = self.state.active;
                self.state.active = Some(bank);
                self.state.lost = None;
                self.audit("model.activated", &job, |entry| entry.with("bank", bank.as_str()));
                let job = job.entering(PhaseName::Activating);
                self.state.phase = Phase::Activating { job, bank, previous };
                self.effects.push(Effect::Activate { bank });
            }
            (Phase::Activating { previous: None, .. }, OtaEvent::Activated) if self.state.next.is_some() => {
                self.effects.push(Effect::DiscardDownload);
                self.turn_to_next();
            }
            (Phase::Activating { job, bank, previous }, OtaEvent::Activated) => {
                self.state.phase = Phase::Soaking {
                    job: job.entering(PhaseName::Soaking),
                    bank,
                    previous,
                    soaked: Soak::default(),
                };
                self.effects.push(Effect::Soak);
            }
            (Phase::Soaking { job, bank, .. }, OtaEvent::SoakPassed) => {
                let job = job.entering(PhaseName::Committing);
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

    pub(super) fn failed(&mut self, reason: String) {
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

    pub(super) fn refused(&mut self, reason: String) {
        match self.take_phase() {
            Phase::Downloading { job } | Phase::Verifying { job } => self.end(job, reason, DeploymentState::Failure),
            Phase::Installing { job, bank } | Phase::SelfTesting { job, bank } => {
                self.forget_bank(bank);
                self.end(job, reason, DeploymentState::Failure);
            }
            Phase::Activating { job, bank, previous }
            | Phase::Soaking {
                job, bank, previous, ..
            } => {
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

    /// A bank's package turned out to be unusable. Found at start, before anything serves (the caller loads what is active
    /// after it), or when it was to be restored.
    pub(super) fn bank_lost(&mut self, bank: Bank, reason: &str) {
        let Some(model) = self.state.bank(bank).cloned() else {
            return;
        };
        let entry = Entry::new("model.lost", format!("slot:{}", self.machine.slot))
            .with("bank", bank.as_str())
            .with("manifest", model.manifest)
            .with("reason", reason);
        self.effects.push(Effect::Audit(entry));
        self.state.set_bank(bank, None);
        let answered = self.state.active == Some(bank);
        if answered {
            let other = bank.other();
            // A package that has not passed its self-test is not what to fall back to.
            let untested = matches!(self.state.phase, Phase::SelfTesting { bank, .. } if bank == other);
            self.state.active = (self.state.bank(other).is_some() && !untested).then_some(other);
        }
        let reason = format!("the package in bank {} cannot be used: {reason}", bank.as_str());
        if answered {
            self.state.lost = Some(reason.clone());
        }
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
                ..
            } if new == bank => {
                self.effects.push(Effect::StopWork);
                self.roll_back(job, new, previous, reason, DeploymentState::RolledBack);
            }
            Phase::Committing { job, bank: new } if new == bank => {
                self.effects.push(Effect::StopWork);
                self.roll_back(job, new, Some(new.other()), reason, DeploymentState::RolledBack);
            }
            Phase::RollingBack {
                job,
                bank: left,
                reason: first,
                ending,
            } if answered => {
                self.effects.push(Effect::Restore {
                    bank: self.state.active,
                });
                self.state.phase = Phase::RollingBack {
                    job,
                    bank: left,
                    reason: format!("{first}; and {reason}"),
                    ending,
                };
            }
            Phase::Activating { job, bank: new, .. } => {
                self.state.phase = Phase::Activating {
                    job,
                    bank: new,
                    previous: None,
                };
            }
            Phase::Soaking {
                job, bank: new, soaked, ..
            } => {
                self.state.phase = Phase::Soaking {
                    job,
                    bank: new,
                    previous: None,
                    soaked,
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
            job.order.target.update.start_spread_ms,
        );
        if delay > 0 {
            let until = self.now.saturating_add(i64::try_from(delay).unwrap_or(i64::MAX));
            self.effects.push(Effect::WakeAt(until));
            self.state.phase = Phase::Waiting { job, until };
            return;
        }
        self.start(job);
    }

    fn start(&mut self, mut job: Job) {
        if !policy::in_time(&job.order.target.update, self.now) {
            let reason = "its deadline passed before it could start".to_owned();
            return self.end(job, reason, DeploymentState::NoLongerApplicable);
        }
        // Every attempt has its own starts; how many attempts there are is bounded by `tries`.
        job.starts = 0;
        job.reached = PhaseName::Downloading;
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
        self.state.lost = None;
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
        if previous.is_some() {
            // Something answers again, and the deployment says why the other does not.
            self.state.lost = None;
        }
        self.forget_bank(bank);
        self.audit("model.rolled-back", &job, |entry| entry.with("reason", &reason));
        self.effects.push(Effect::Restore { bank: previous });
        self.state.phase = Phase::RollingBack {
            job: job.entering(PhaseName::RollingBack),
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

fn looping(what: &str) -> String {
    format!(
        "the agent was restarted more than {} times during {what}",
        policy::MAX_STARTS
    )
}
