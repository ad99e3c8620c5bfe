//! Whom a rollout chooses first, and how far each phase reaches. Pure.

use std::collections::BTreeMap;

use flotilla_api_types::rollouts::{CreateRollout, PhaseSize, RolloutPhase, RolloutState};
use flotilla_protocol::ids::{DeviceId, Digest, RolloutId};
use flotilla_protocol::report::DeploymentState;

use super::goal;

/// The order in which a rollout's devices are chosen: that of a hash, so that no site is always the canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order(String);

impl Order {
    pub fn of(id: RolloutId, spec: &CreateRollout) -> Self {
        spec.seed.map_or_else(|| Self(id.to_string()), Self::seeded)
    }

    pub fn seeded(seed: u32) -> Self {
        Self(seed.to_string())
    }

    /// Never negative; equal ones are ordered by id.
    pub fn rank(&self, device: &DeviceId) -> i64 {
        let Digest(hash) = Digest::of(format!("{}/{device}", self.0).as_bytes());
        let head = hash.first_chunk().copied().unwrap_or_default();
        // One bit less, so that it sorts in a signed column as it does here.
        i64::try_from(u64::from_be_bytes(head) >> 1).unwrap_or(i64::MAX)
    }
}

/// Devices that each phase reaches in all, of `targeted`. A phase never reaches fewer than the one before.
pub fn reaches(phases: &[PhaseSize], targeted: u64) -> Vec<u64> {
    let mut most = 0;
    phases
        .iter()
        .map(|size| {
            most = goal(size, targeted).max(most);
            most
        })
        .collect()
}

/// Deployments per state, by phase.
pub type Given = BTreeMap<u32, BTreeMap<String, u64>>;

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub state: RolloutState,
    /// From 0.
    pub phase: u32,
    /// Devices selected and not given it; `None` where that is not known.
    pub waiting: Option<u64>,
}

/// Every phase with what it reaches and how it stands.
pub fn phases_of(sizes: &[PhaseSize], at: Position, given: &Given) -> Vec<RolloutPhase> {
    let deployed: u64 = given.values().map(|counts| total(counts) - void(counts)).sum();
    let planned = at.waiting.map(|waiting| reaches(sizes, waiting + deployed));
    // Void deployments are no part of the plan: others take their places.
    let (mut before, mut void_before) = (0, 0);
    (0u32..)
        .zip(sizes)
        .map(|(phase, _)| {
            let counts = given.get(&phase).cloned().unwrap_or_default();
            before += total(&counts);
            void_before += void(&counts);
            let plan = || Some((*planned.as_ref()?.get(phase as usize)? + void_before).max(before));
            let reach = match at.state {
                RolloutState::Completed => Some(before),
                RolloutState::Aborted => (phase <= at.phase).then_some(before),
                _ if phase < at.phase => Some(before),
                _ => plan(),
            };
            RolloutPhase { phase, reach, counts }
        })
        .collect()
}

fn total(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// Deployments that tell nothing of the package: the device got other orders, or left.
fn void(counts: &BTreeMap<String, u64>) -> u64 {
    let of = |state: DeploymentState| counts.get(state.as_str()).copied().unwrap_or(0);
    of(DeploymentState::NoLongerApplicable) + of(DeploymentState::Decommissioned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::rollout::{Decision, Progress, RolloutFacts, decide};

    fn count(devices: u32) -> PhaseSize {
        PhaseSize::Count { devices }
    }

    fn percent(percent: f64) -> PhaseSize {
        PhaseSize::Percent { percent }
    }

    fn given(by_phase: &[(u32, &str, u64)]) -> Given {
        let mut given = Given::new();
        for (phase, state, n) in by_phase {
            given.entry(*phase).or_default().insert((*state).to_owned(), *n);
        }
        given
    }

    #[test]
    fn phases_reach_what_they_say_and_never_less_than_before() {
        assert_eq!(reaches(&[count(5), count(2), percent(100.0)], 10), [5, 5, 10]);
        assert_eq!(reaches(&[count(5), percent(10.0), percent(100.0)], 3), [3, 3, 3]);
        assert_eq!(reaches(&[percent(1.0), percent(100.0)], 0), [0, 0]);
    }

    #[test]
    fn phases_are_told_as_far_as_they_are_known() {
        let sizes = [count(1), percent(50.0), percent(100.0)];
        let reach = |state, phase, waiting, given: &Given| {
            let at = Position { state, phase, waiting };
            phases_of(&sizes, at, given)
                .into_iter()
                .map(|phase| phase.reach)
                .collect::<Vec<_>>()
        };
        let none = Given::new();
        assert_eq!(reach(RolloutState::Draft, 0, None, &none), [None, None, None]);
        assert_eq!(
            reach(RolloutState::Running, 0, Some(10), &none),
            [Some(1), Some(5), Some(10)]
        );
        // The canary phase was passed when it had reached two: that is what it reached, whatever is planned now.
        let two = given(&[(0, "success", 2), (1, "pending", 1)]);
        assert_eq!(
            reach(RolloutState::Halted, 1, Some(7), &two),
            [Some(2), Some(5), Some(10)]
        );
        assert_eq!(reach(RolloutState::Running, 1, None, &two), [Some(2), None, None]);
        assert_eq!(reach(RolloutState::Aborted, 1, None, &two), [Some(2), Some(3), None]);
        assert_eq!(
            reach(RolloutState::Completed, 2, None, &two),
            [Some(2), Some(3), Some(3)]
        );
        // Another takes the place of a canary that left.
        let left = given(&[(0, "decommissioned", 1)]);
        assert_eq!(
            reach(RolloutState::Running, 0, Some(9), &left),
            [Some(2), Some(6), Some(10)]
        );
        let at = Position {
            state: RolloutState::Running,
            phase: 1,
            waiting: Some(7),
        };
        let counts: Vec<_> = phases_of(&sizes, at, &two)
            .into_iter()
            .map(|phase| phase.counts)
            .collect();
        assert_eq!(counts[1], BTreeMap::from([("pending".to_owned(), 1)]));
        assert!(counts[2].is_empty());
    }

    #[test]
    fn the_order_is_the_seeds() {
        let devices: Vec<DeviceId> = (0..50).map(|n| DeviceId::new(format!("d-{n}")).unwrap()).collect();
        let sorted = |order: &Order| {
            let mut devices = devices.clone();
            devices.sort_by_key(|device| (order.rank(device), device.clone()));
            devices
        };
        let id = RolloutId::new(Uuid::nil());
        let mut spec: CreateRollout =
            serde_json::from_value(serde_json::json!({"model_version": Uuid::nil()})).unwrap();
        let own = sorted(&Order::of(id, &spec));
        assert_ne!(own, sorted(&Order::of(RolloutId::new(Uuid::max()), &spec)));
        spec.seed = Some(7);
        let seeded = sorted(&Order::of(id, &spec));
        assert_eq!(seeded, sorted(&Order::seeded(7)), "whatever the rollout's id");
        assert_ne!(seeded, own);
        assert_ne!(seeded, sorted(&Order::seeded(8)));
        assert!(devices.iter().all(|device| Order::seeded(7).rank(device) >= 0));
    }

    proptest! {
        /// What a preview says is what the planner then does, where nothing fails and nobody comes or goes.
        #[test]
        fn the_planner_keeps_to_the_plan(targeted in 1u64..200, sizes in proptest::collection::vec(1u32..80, 0..4)) {
            let mut phases: Vec<_> = sizes.into_iter().map(count).collect();
            phases.push(percent(100.0));
            let planned = reaches(&phases, targeted);
            let mut facts = RolloutFacts {
                phase: 0, phases, gates: flotilla_api_types::rollouts::Gates::default(), targeted, progress: Progress::default(),
            };
            let mut reached = vec![0; planned.len()];
            loop {
                match decide(&facts) {
                    Decision::Deploy { devices, .. } => {
                        facts.progress.deployed += devices;
                        facts.progress.succeeded += devices;
                    }
                    Decision::NextPhase { .. } => {
                        reached[facts.phase as usize] = facts.progress.deployed;
                        facts.phase += 1;
                    }
                    Decision::Complete { .. } => {
                        reached[facts.phase as usize] = facts.progress.deployed;
                        break;
                    }
                    other => prop_assert!(false, "{other}"),
                }
            }
            prop_assert_eq!(reached, planned);
        }
    }
}
