//! The judgements of an update that are numbers: when to start, when to try again, whether a soak went well.
//!
//! Pure: time, counts and policies are arguments.

use flotilla_protocol::desired_state::UpdatePolicy;
use flotilla_protocol::ids::{DeploymentId, DeviceId, Hasher};
use serde::{Deserialize, Serialize};

/// Starts of the agent in one step of an update before the update is given up.
pub const MAX_STARTS: u32 = 5;
/// A soaking package that has run for so long without a restart is no cause of restarts: those before are forgiven. Nightly
/// power cuts must not add up to what looks like a package that takes the agent down with it.
pub const STEADY_MS: u64 = 10 * 60_000;
/// How far a soak is becomes durable so often: what a power cut takes from it, and how often flash is written for it.
pub const SOAK_NOTE_MS: u64 = 60_000;
/// Longest pause between attempts to fetch.
const MAX_RETRY_MS: u64 = 3_600_000;
/// Fewest inferences from which a share of errors is judged before the soak's end.
const MIN_INFERENCES_TO_FAIL_EARLY: u64 = 20;
/// While there are too many errors for the inferences there have been, more of those are looked for so often.
const LOOK_AGAIN_MS: u64 = 500;

/// How often and how fast a fetch is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLimits {
    pub max_attempts: u32,
    pub first_pause_ms: u64,
}

impl RetryLimits {
    /// The pause after `tries` failed attempts (1 after the first); `None` when there have been enough.
    pub fn pause_ms(&self, tries: u32) -> Option<u64> {
        if tries >= self.max_attempts {
            return None;
        }
        let doublings = tries.saturating_sub(1).min(20);
        Some(self.first_pause_ms.saturating_mul(1 << doublings).min(MAX_RETRY_MS))
    }
}

/// Milliseconds by which this device delays this deployment's start: `hash(device, deployment) mod spread`.
pub fn start_delay_ms(device: &DeviceId, deployment: DeploymentId, spread_ms: u64) -> u64 {
    if spread_ms == 0 {
        return 0;
    }
    let mut hasher = Hasher::default();
    hasher.update(device.as_str().as_bytes());
    hasher.update(deployment.0.as_bytes());
    let digest = hasher.finish();
    let head = digest.0.first_chunk::<8>().copied().unwrap_or_default();
    u64::from_be_bytes(head) % spread_ms
}

/// May a new install still start? 0 means that there is no deadline.
pub fn in_time(update: &UpdatePolicy, now_ms: i64) -> bool {
    update.deadline == 0 || now_ms <= update.deadline
}

/// What a soaking package did since its activation, over all starts of the agent. Only time in which it could answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Soak {
    pub elapsed_ms: u64,
    pub inferences: u64,
    pub failures: u64,
}

impl Soak {
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self {
            elapsed_ms: self.elapsed_ms.saturating_add(more.elapsed_ms),
            inferences: self.inferences.saturating_add(more.inferences),
            failures: self.failures.saturating_add(more.failures),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoakVerdict {
    /// Look again after so many milliseconds, or when an inference fails.
    Wait { ms: u64 },
    /// Also when nothing was inferred: a device without input must not stay in between for ever.
    Pass,
    Fail {
        observed_permille: u64,
        limit_permille: u32,
    },
}

pub fn judge_soak(update: &UpdatePolicy, soak: Soak) -> SoakVerdict {
    let observed = soak
        .failures
        .saturating_mul(1000)
        .checked_div(soak.inferences)
        .unwrap_or(0);
    let over = observed > u64::from(update.max_error_permille);
    let ended = soak.elapsed_ms >= update.soak_ms;
    if over && (ended || soak.inferences >= MIN_INFERENCES_TO_FAIL_EARLY) {
        return SoakVerdict::Fail {
            observed_permille: observed,
            limit_permille: update.max_error_permille,
        };
    }
    if ended {
        return SoakVerdict::Pass;
    }
    let left = update.soak_ms.saturating_sub(soak.elapsed_ms);
    SoakVerdict::Wait {
        ms: if over { left.min(LOOK_AGAIN_MS) } else { left },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn update(soak_ms: u64, max_error_permille: u32) -> UpdatePolicy {
        UpdatePolicy {
            soak_ms,
            max_error_permille,
            start_spread_ms: 0,
            deadline: 0,
            max_bytes_per_s: 0,
        }
    }

    #[test]
    fn a_soak_fails_early_only_on_evidence() {
        let update = update(1000, 100);
        let judge = |elapsed_ms, inferences, failures| {
            judge_soak(
                &update,
                Soak {
                    elapsed_ms,
                    inferences,
                    failures,
                },
            )
        };
        assert_eq!(judge(10, 3, 3), SoakVerdict::Wait { ms: 500 });
        assert_eq!(judge(10, 3, 0), SoakVerdict::Wait { ms: 990 }, "nothing to look for");
        assert!(matches!(
            judge(10, 20, 3),
            SoakVerdict::Fail {
                observed_permille: 150,
                ..
            }
        ));
        assert_eq!(judge(1000, 20, 2), SoakVerdict::Pass);
        assert!(matches!(judge(1000, 3, 1), SoakVerdict::Fail { .. }));
        assert_eq!(judge(1000, 0, 0), SoakVerdict::Pass);
    }

    #[test]
    fn attempts_end_and_pauses_are_capped() {
        let limits = RetryLimits {
            max_attempts: 40,
            first_pause_ms: 1000,
        };
        assert_eq!(limits.pause_ms(1), Some(1000));
        assert_eq!(limits.pause_ms(3), Some(4000));
        assert_eq!(limits.pause_ms(39), Some(3_600_000));
        assert_eq!(limits.pause_ms(40), None);
    }

    proptest! {
        #[test]
        fn delays_stay_below_the_spread(name in "[a-z]{1,12}", id: u128, spread in 1u64..1_000_000) {
            let device = DeviceId::new(name).unwrap();
            let deployment: DeploymentId = format!("{id:032x}").parse().unwrap();
            let delay = start_delay_ms(&device, deployment, spread);
            prop_assert!(delay < spread);
            prop_assert_eq!(delay, start_delay_ms(&device, deployment, spread));
        }
    }
}
