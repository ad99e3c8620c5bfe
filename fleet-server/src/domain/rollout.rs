//! The rollout planner: pure. It looks at facts and returns one decision with its reason; a reconciler carries it out and
//! asks again.

pub mod cause;
pub mod plan;
pub mod preview;

use std::fmt;

use flotilla_api_types::rollouts::{Gates, PhaseSize};
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::trust::DeviceFacts;

use flotilla_expressions::{ExprError, Expression, Fact, Facts, Shape};

/// How the deployments of the phases so far stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// All but the void ones: succeeded, failed, excused and pending.
    pub deployed: u64,
    pub succeeded: u64,
    /// Final without success, timed out ones included.
    pub failed: u64,
    /// Failures that were there when a halted rollout was resumed: they count neither for nor against it.
    pub excused: u64,
    pub pending: u64,
    /// Devices that left the fleet or got other orders: nobody learns of them whether the package is good, so that others take
    /// their places.
    pub void: u64,
}

/// What the planner looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutFacts {
    /// From 0.
    pub phase: u32,
    pub phases: Vec<PhaseSize>,
    pub gates: Gates,
    /// Devices deployed to, void ones left out, and those besides that the target expression selects now.
    pub targeted: u64,
    /// Devices deployed to in this phase and those before.
    pub progress: Progress,
}

/// What is to be done next, and why. The text is shown to operators word for word.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Give the package to this many more devices.
    Deploy {
        devices: u64,
        phase: u32,
        goal: u64,
    },
    Hold {
        phase: u32,
        waiting: u64,
        goal: u64,
    },
    NextPhase {
        phase: u32,
        /// Succeeded and failed; zero where all that there are were excused.
        judged: u64,
        success: f64,
        limit: f64,
        excused: u64,
    },
    Halt {
        phase: u32,
        success: f64,
        limit: f64,
        failed: u64,
    },
    Complete {
        succeeded: u64,
        void: u64,
    },
    NothingTargeted,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| format!("{:.1} %", share * 100.0);
        match self {
            Self::Deploy { devices, phase, goal } => {
                write!(
                    f,
                    "phase {}: deploying to {devices} more of {goal} device(s)",
                    phase + 1
                )
            }
            Self::Hold { phase, waiting, goal } => {
                write!(f, "phase {}: waiting for {waiting} of {goal} device(s)", phase + 1)
            }
            Self::NextPhase {
                phase,
                judged: 0,
                excused,
                ..
            } => write!(f, "phase {} goes on: its {excused} failure(s) were excused", phase + 1),
            Self::NextPhase {
                phase, success, limit, ..
            } => write!(
                f,
                "phase {} passed its gate: {} succeeded, {} needed",
                phase + 1,
                percent(success),
                percent(limit)
            ),
            Self::Halt {
                phase,
                success,
                limit,
                failed,
            } => write!(
                f,
                "phase {} failed its gate: {failed} device(s) failed, at most {} can succeed, {} needed",
                phase + 1,
                percent(success),
                percent(limit)
            ),
            Self::Complete { succeeded, void: 0 } => write!(f, "complete: {succeeded} device(s) succeeded"),
            Self::Complete { succeeded, void } => write!(
                f,
                "complete: {succeeded} device(s) succeeded, {void} got other orders or left the fleet"
            ),
            Self::NothingTargeted => f.write_str("no device matches the target expression; waiting for one"),
        }
    }
}

/// The phases in force: what was asked for, or a canary of one device and then all.
pub fn phases_or_default(asked: &[PhaseSize]) -> Vec<PhaseSize> {
    if asked.is_empty() {
        return vec![PhaseSize::Count { devices: 1 }, PhaseSize::Percent { percent: 100.0 }];
    }
    asked.to_vec()
}

/// Longest time over which the starts of one phase are spread: a desired state must not lapse while its device waits.
pub const MAX_START_SPREAD_S: u64 = 86_400;

/// How long a device may say nothing before it has failed: it may have been told to wait with its start.
pub const fn silence_s(gates: &Gates, start_spread_s: u64) -> u64 {
    gates.device_timeout_s.saturating_add(start_spread_s)
}

/// Why a rollout's phases or gates are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RolloutError {
    #[error("phase {0} reaches no device: a count is at least 1, a percentage in (0, 100]")]
    EmptyPhase(usize),
    #[error("the last phase must be 100 percent: otherwise part of the fleet would never be reached")]
    LastPhase,
    #[error("{0} phases: 1 to 20 are possible")]
    Phases(usize),
    #[error("gates.min_success = {0} is not in [0, 1]")]
    MinSuccess(f64),
    #[error("gates.device_timeout_s must be at least 1")]
    Timeout,
    #[error("soak_s = {0} is not between 0 and 30 days")]
    Soak(f64),
    #[error("start_spread_s = {0} is more than a day ({MAX_START_SPREAD_S})")]
    StartSpread(u64),
    #[error("target: {0}")]
    Target(#[from] ExprError),
}

/// Refuses phases, gates and times that could never end well.
pub fn check(phases: &[PhaseSize], gates: &Gates, soak_s: f64, start_spread_s: u64) -> Result<(), RolloutError> {
    if phases.is_empty() || phases.len() > 20 {
        return Err(RolloutError::Phases(phases.len()));
    }
    for (index, phase) in phases.iter().enumerate() {
        let reaches = match phase {
            PhaseSize::Count { devices } => *devices >= 1,
            PhaseSize::Percent { percent } => *percent > 0.0 && *percent <= 100.0,
        };
        if !reaches {
            return Err(RolloutError::EmptyPhase(index + 1));
        }
    }
    match phases.last() {
        Some(PhaseSize::Percent { percent }) if *percent >= 100.0 => {}
        _ => return Err(RolloutError::LastPhase),
    }
    if !(0.0..=1.0).contains(&gates.min_success) {
        return Err(RolloutError::MinSuccess(gates.min_success));
    }
    if gates.device_timeout_s == 0 {
        return Err(RolloutError::Timeout);
    }
    if !(0.0..=30.0 * 86_400.0).contains(&soak_s) {
        return Err(RolloutError::Soak(soak_s));
    }
    if start_spread_s > MAX_START_SPREAD_S {
        return Err(RolloutError::StartSpread(start_spread_s));
    }
    Ok(())
}

/// How many devices a phase reaches in all.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "fleets are far smaller than 2^53, and a share of a count is not negative"
)]
pub fn goal(size: &PhaseSize, targeted: u64) -> u64 {
    match size {
        PhaseSize::Count { devices } => u64::from(*devices).min(targeted),
        PhaseSize::Percent { percent } => ((targeted as f64 * percent / 100.0).ceil() as u64)
            .clamp(1, targeted.max(1))
            .min(targeted),
    }
}

/// What to do next.
#[expect(clippy::cast_precision_loss, reason = "fleets are far smaller than 2^53")]
pub fn decide(facts: &RolloutFacts) -> Decision {
    let Some(size) = facts.phases.get(facts.phase as usize) else {
        return Decision::Complete {
            succeeded: facts.progress.succeeded,
            void: facts.progress.void,
        };
    };
    let Progress {
        deployed,
        succeeded,
        failed,
        excused,
        pending,
        void,
    } = facts.progress;
    if facts.targeted == 0 && deployed == 0 {
        return match void {
            0 => Decision::NothingTargeted,
            // Others have taken all of it over.
            void => Decision::Complete { succeeded, void },
        };
    }
    let goal = goal(size, facts.targeted).max(deployed);
    let judged = succeeded + failed;
    let limit = facts.gates.min_success;
    let (phase, last) = (facts.phase, facts.phase as usize + 1 == facts.phases.len());
    // The best that can still come of the phase: everything not yet judged succeeds.
    let undecided = (goal - deployed) + pending;
    let best = if judged + undecided == 0 {
        1.0
    } else {
        (succeeded + undecided) as f64 / (judged + undecided) as f64
    };
    if failed > 0 && best < limit {
        return Decision::Halt {
            phase,
            success: best,
            limit,
            failed,
        };
    }
    if deployed < goal {
        return Decision::Deploy {
            devices: goal - deployed,
            phase,
            goal,
        };
    }
    if pending > 0 {
        return Decision::Hold {
            phase,
            waiting: pending,
            goal,
        };
    }
    if last {
        return Decision::Complete { succeeded, void };
    }
    Decision::NextPhase {
        phase,
        judged,
        success: best,
        limit,
        excused,
    }
}

/// What target expressions see of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFacts<'a> {
    pub id: &'a str,
    pub tags: &'a std::collections::BTreeMap<String, String>,
    pub arch: &'a str,
    pub hardware_class: &'a str,
    pub agent_version: &'a str,
}

impl<'a> TargetFacts<'a> {
    pub fn of(id: &'a DeviceId, tags: &'a std::collections::BTreeMap<String, String>, facts: &'a DeviceFacts) -> Self {
        Self {
            id: id.as_str(),
            tags,
            arch: &facts.arch,
            hardware_class: &facts.hardware_class,
            agent_version: &facts.agent_version,
        }
    }
}

/// A compiled target expression.
#[derive(Debug)]
pub struct TargetExpression(Expression);

impl TargetExpression {
    pub fn compile(source: &str) -> Result<Self, ExprError> {
        let device = Shape::map([
            ("id", Shape::Text),
            ("tags", Shape::Open(Box::new(Shape::Text))),
            ("arch", Shape::Text),
            ("hardware_class", Shape::Text),
            ("agent_version", Shape::Text),
        ]);
        Expression::compile(source, &Shape::map([("device", device)])).map(Self)
    }

    /// Does the expression select the device? One that lacks a tag which the expression names is not selected.
    pub fn selects(&self, facts: &TargetFacts<'_>) -> bool {
        let text = |value: &str| Fact::Text(value.to_owned());
        let tags = facts
            .tags
            .iter()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect();
        let device = [
            ("id".to_owned(), text(facts.id)),
            ("tags".to_owned(), Fact::Map(Facts(tags))),
            ("arch".to_owned(), text(facts.arch)),
            ("hardware_class".to_owned(), text(facts.hardware_class)),
            ("agent_version".to_owned(), text(facts.agent_version)),
        ];
        let row = Facts([("device".to_owned(), Fact::Map(Facts(device.into())))].into());
        self.0.eval_bool(&row).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(phase: u32, targeted: u64, progress: Progress) -> RolloutFacts {
        RolloutFacts {
            phase,
            phases: phases_or_default(&[]),
            gates: Gates::default(),
            targeted,
            progress,
        }
    }

    #[test]
    fn a_canary_goes_first_and_its_failure_halts() {
        let start = facts(0, 10, Progress::default());
        assert_eq!(
            decide(&start),
            Decision::Deploy {
                devices: 1,
                phase: 0,
                goal: 1
            }
        );
        let waiting = Progress {
            deployed: 1,
            pending: 1,
            ..Progress::default()
        };
        assert_eq!(
            decide(&facts(0, 10, waiting)),
            Decision::Hold {
                phase: 0,
                waiting: 1,
                goal: 1
            }
        );
        let good = Progress {
            deployed: 1,
            succeeded: 1,
            ..Progress::default()
        };
        assert!(matches!(decide(&facts(0, 10, good)), Decision::NextPhase { .. }));
        assert_eq!(
            decide(&facts(1, 10, good)),
            Decision::Deploy {
                devices: 9,
                phase: 1,
                goal: 10
            }
        );
        let bad = Progress {
            deployed: 1,
            failed: 1,
            ..Progress::default()
        };
        let halt = decide(&facts(0, 10, bad));
        assert_eq!(
            halt.to_string(),
            "phase 1 failed its gate: 1 device(s) failed, at most 0.0 % can succeed, 100.0 % needed"
        );
    }

    #[test]
    fn a_canary_that_got_other_orders_or_was_excused_passes_no_gate() {
        let void = Progress {
            void: 1,
            ..Progress::default()
        };
        assert_eq!(
            decide(&facts(0, 9, void)),
            Decision::Deploy {
                devices: 1,
                phase: 0,
                goal: 1
            }
        );
        assert_eq!(
            decide(&facts(0, 0, void)).to_string(),
            "complete: 0 device(s) succeeded, 1 got other orders or left the fleet"
        );
        let excused = Progress {
            deployed: 1,
            excused: 1,
            ..Progress::default()
        };
        assert_eq!(
            decide(&facts(0, 10, excused)).to_string(),
            "phase 1 goes on: its 1 failure(s) were excused"
        );
    }

    #[test]
    fn a_gate_that_can_no_longer_hold_halts_at_once() {
        let mut facts = facts(
            1,
            10,
            Progress {
                deployed: 10,
                failed: 2,
                pending: 8,
                ..Progress::default()
            },
        );
        facts.gates.min_success = 0.9;
        assert!(matches!(decide(&facts), Decision::Halt { failed: 2, .. }));
        facts.gates.min_success = 0.8;
        assert!(matches!(decide(&facts), Decision::Hold { .. }));
    }

    #[test]
    fn targets_are_cel_over_device_facts() {
        let tags = [("site".to_owned(), "oslo".to_owned())].into();
        let facts = TargetFacts {
            id: "d-1",
            tags: &tags,
            arch: "aarch64",
            hardware_class: "pi",
            agent_version: "0.1.0",
        };
        let selects = |source: &str| TargetExpression::compile(source).unwrap().selects(&facts);
        assert!(selects("true"));
        assert!(selects("device.tags.site == 'oslo' && device.arch == 'aarch64'"));
        assert!(
            !selects("device.tags.line == 'x'"),
            "a tag that is not there selects nothing"
        );
        assert!(TargetExpression::compile("device.colour == 'red'").is_err());
        assert!(TargetExpression::compile("device.id").is_err());
    }

    #[test]
    fn phases_that_reach_nobody_or_not_everybody_are_refused() {
        let gates = Gates::default();
        let count = |devices| PhaseSize::Count { devices };
        let percent = |percent| PhaseSize::Percent { percent };
        assert_eq!(
            check(&[count(0), percent(100.0)], &gates, 1.0, 0),
            Err(RolloutError::EmptyPhase(1))
        );
        assert_eq!(
            check(&[percent(f64::NAN), percent(100.0)], &gates, 1.0, 0),
            Err(RolloutError::EmptyPhase(1))
        );
        assert_eq!(check(&[percent(10.0)], &gates, 1.0, 0), Err(RolloutError::LastPhase));
        assert_eq!(check(&[], &gates, 1.0, 0), Err(RolloutError::Phases(0)));
        assert!(check(&phases_or_default(&[]), &gates, f64::NAN, 0).is_err());
        assert!(check(&phases_or_default(&[]), &gates, 60.0, MAX_START_SPREAD_S).is_ok());
        assert_eq!(
            check(&phases_or_default(&[]), &gates, 60.0, MAX_START_SPREAD_S + 1),
            Err(RolloutError::StartSpread(MAX_START_SPREAD_S + 1))
        );
        assert_eq!(
            silence_s(
                &Gates {
                    device_timeout_s: 60,
                    ..gates
                },
                30
            ),
            90
        );
    }

    proptest! {
        /// Whatever devices do (they leave the fleet as well, before and after they were given the package), the planner
        /// never deploys past the phase's goal, reaches everybody who is left, always ends, and never passes a gate that
        /// failed.
        #[test]
        fn rollouts_keep_their_phase_and_end(
            targeted in 0u64..60, min_success in 0.0f64..=1.0, outcomes in proptest::collection::vec(any::<bool>(), 60),
            sizes in proptest::collection::vec(1u32..20, 0..4), leaving in proptest::collection::vec(0u8..10, 500)
        ) {
            let mut phases: Vec<_> = sizes.into_iter().map(|devices| PhaseSize::Count { devices }).collect();
            phases.push(PhaseSize::Percent { percent: 100.0 });
            let mut facts = RolloutFacts {
                phase: 0, phases, gates: Gates { min_success, device_timeout_s: 1 }, targeted, progress: Progress::default(),
            };
            let mut outcomes = outcomes.into_iter();
            // What the expression selects and the rollout was not given to.
            let mut waiting = targeted;
            for leaves in leaving {
                if leaves == 0 {
                    waiting = waiting.saturating_sub(1);
                }
                facts.targeted = waiting + facts.progress.deployed;
                match decide(&facts) {
                    Decision::Deploy { devices, .. } => {
                        let size = facts.phases[facts.phase as usize];
                        let goal = goal(&size, facts.targeted).max(facts.progress.deployed);
                        prop_assert!(devices >= 1 && facts.progress.deployed + devices <= goal);
                        waiting -= devices;
                        facts.progress.deployed += devices;
                        facts.progress.pending += devices;
                    }
                    Decision::Hold { .. } => {
                        facts.progress.pending -= 1;
                        if leaves == 1 {
                            // Decommissioned: another one takes its place.
                            facts.progress.deployed -= 1;
                            facts.progress.void += 1;
                        } else if outcomes.next().unwrap() { facts.progress.succeeded += 1 } else { facts.progress.failed += 1 }
                    }
                    Decision::NextPhase { judged, success, limit, excused, .. } => {
                        prop_assert!(success >= limit || facts.progress.failed == 0);
                        prop_assert!(judged + excused > 0, "a phase that nobody was judged in is not passed");
                        facts.phase += 1;
                    }
                    Decision::Halt { success, limit, .. } => {
                        prop_assert!(success < limit && facts.progress.failed > 0);
                        // Resumed: the failures so far are excused, and it must go on.
                        facts.progress.excused += facts.progress.failed;
                        facts.progress.failed = 0;
                        let halts = matches!(decide(&facts), Decision::Halt { .. });
                        prop_assert!(!halts);
                    }
                    Decision::Complete { .. } => {
                        prop_assert_eq!(waiting, 0);
                        prop_assert_eq!(facts.progress.pending, 0);
                        return Ok(());
                    }
                    Decision::NothingTargeted => {
                        prop_assert_eq!(facts.targeted + facts.progress.void, 0);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "the rollout never ended");
        }
    }
}
