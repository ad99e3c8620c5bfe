//! Whether to train again: looks at facts, gives a decision with its reason. A reconciler carries it out and asks again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// When drift leads to a new run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrainPolicy {
    /// Least share of drifted features, in (0, 1].
    pub share_threshold: f64,
    /// Devices that must see it.
    pub min_devices: u64,
    /// Labelled samples that were harvested since the last run's data: without them a new model knows nothing new.
    pub min_samples: u64,
    /// From the last run's start to the next.
    pub cooldown_ms: i64,
}

impl Default for RetrainPolicy {
    fn default() -> Self {
        Self {
            share_threshold: 0.4,
            min_devices: 1,
            min_samples: 32,
            cooldown_ms: 10 * 60 * 1000,
        }
    }
}

/// What the decision looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrainFacts {
    pub now_ms: i64,
    /// Largest share of drifted features that a device running the line's newest model reports; `None` before the first
    /// judgement.
    pub drift_share: Option<f64>,
    /// Devices whose share is at or above the threshold.
    pub devices_drifted: u64,
    /// Labelled harvested samples that no run has seen.
    pub harvested_labeled: u64,
    /// Harvested samples that still wait for a label.
    pub harvested_unlabeled: u64,
    /// Start of the line's last run.
    pub last_run_ms: Option<i64>,
    /// A run, or a version from one that is still being rolled out.
    pub in_progress: bool,
}

/// Why a run is made; recorded with it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetrainCause {
    pub drift_share: f64,
    pub devices_drifted: u64,
    pub harvested_labeled: u64,
}

/// Why none is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HoldReason {
    NotJudged,
    NoDrift { share: f64, limit: f64 },
    FewDevices { found: u64, limit: u64 },
    InProgress,
    FewSamples { labeled: u64, unlabeled: u64, limit: u64 },
    Cooldown { remaining_ms: i64 },
}

/// What is to be done. The text is shown to operators word for word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RetrainDecision {
    Retrain { cause: RetrainCause },
    Hold { reason: HoldReason },
}

/// Decides. The first gate that is shut is the reason.
pub fn decide(policy: &RetrainPolicy, facts: &RetrainFacts) -> RetrainDecision {
    match shut_gate(policy, facts) {
        Err(reason) => RetrainDecision::Hold { reason },
        Ok(drift_share) => RetrainDecision::Retrain {
            cause: RetrainCause {
                drift_share,
                devices_drifted: facts.devices_drifted,
                harvested_labeled: facts.harvested_labeled,
            },
        },
    }
}

fn shut_gate(policy: &RetrainPolicy, facts: &RetrainFacts) -> Result<f64, HoldReason> {
    let share = facts.drift_share.ok_or(HoldReason::NotJudged)?;
    // NaN never passes.
    if !matches!(share.partial_cmp(&policy.share_threshold), Some(order) if order.is_ge()) {
        return Err(HoldReason::NoDrift {
            share,
            limit: policy.share_threshold,
        });
    }
    if facts.devices_drifted < policy.min_devices {
        return Err(HoldReason::FewDevices {
            found: facts.devices_drifted,
            limit: policy.min_devices,
        });
    }
    if facts.in_progress {
        return Err(HoldReason::InProgress);
    }
    if facts.harvested_labeled < policy.min_samples {
        return Err(HoldReason::FewSamples {
            labeled: facts.harvested_labeled,
            unlabeled: facts.harvested_unlabeled,
            limit: policy.min_samples,
        });
    }
    // A clock that was set back must not hold for ever: an age below zero counts as zero.
    let remaining_ms = facts.last_run_ms.map_or(0, |last| {
        policy
            .cooldown_ms
            .saturating_sub(facts.now_ms.saturating_sub(last).max(0))
    });
    if remaining_ms > 0 {
        return Err(HoldReason::Cooldown { remaining_ms });
    }
    Ok(share)
}

impl fmt::Display for RetrainCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drift: {:.0} % of the features on {} devices, {} harvested samples are labelled",
            self.drift_share * 100.0,
            self.devices_drifted,
            self.harvested_labeled
        )
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJudged => f.write_str("no device has judged its data yet"),
            Self::NoDrift { share, limit } => write!(
                f,
                "{:.0} % of the features drifted, below {:.0} %",
                share * 100.0,
                limit * 100.0
            ),
            Self::FewDevices { found, limit } => write!(f, "{found} devices drifted, {limit} are needed"),
            Self::InProgress => f.write_str("a run or its rollout is in progress"),
            Self::FewSamples {
                labeled,
                unlabeled,
                limit,
            } => write!(
                f,
                "{labeled} harvested samples are labelled, {limit} are needed ({unlabeled} wait for a label)"
            ),
            Self::Cooldown { remaining_ms } => {
                write!(
                    f,
                    "the last run began recently; wait {} s more",
                    (remaining_ms + 999) / 1000
                )
            }
        }
    }
}

impl fmt::Display for RetrainDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retrain { cause } => write!(f, "retrain: {cause}"),
            Self::Hold { reason } => write!(f, "hold: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ready() -> RetrainFacts {
        RetrainFacts {
            now_ms: 10_000_000,
            drift_share: Some(0.875),
            devices_drifted: 3,
            harvested_labeled: 48,
            harvested_unlabeled: 5,
            last_run_ms: Some(0),
            in_progress: false,
        }
    }

    #[test]
    fn every_gate_has_its_words() {
        let cases = [
            ready(),
            RetrainFacts {
                drift_share: None,
                ..ready()
            },
            RetrainFacts {
                drift_share: Some(0.39),
                ..ready()
            },
            RetrainFacts {
                drift_share: Some(f64::NAN),
                ..ready()
            },
            RetrainFacts {
                devices_drifted: 0,
                ..ready()
            },
            RetrainFacts {
                in_progress: true,
                ..ready()
            },
            RetrainFacts {
                harvested_labeled: 31,
                ..ready()
            },
            RetrainFacts {
                last_run_ms: Some(9_999_500),
                ..ready()
            },
            RetrainFacts {
                last_run_ms: Some(10_000_900),
                ..ready()
            },
            RetrainFacts {
                last_run_ms: None,
                ..ready()
            },
        ];
        let table: Vec<String> = cases
            .iter()
            .map(|f| decide(&RetrainPolicy::default(), f).to_string())
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        retrain: drift: 88 % of the features on 3 devices, 48 harvested samples are labelled
        hold: no device has judged its data yet
        hold: 39 % of the features drifted, below 40 %
        hold: NaN % of the features drifted, below 40 %
        hold: 0 devices drifted, 1 are needed
        hold: a run or its rollout is in progress
        hold: 31 harvested samples are labelled, 32 are needed (5 wait for a label)
        hold: the last run began recently; wait 600 s more
        hold: the last run began recently; wait 600 s more
        retrain: drift: 88 % of the features on 3 devices, 48 harvested samples are labelled
        ");
    }

    proptest! {
        #[test]
        fn more_drift_and_more_samples_never_turn_a_retrain_into_a_hold(
            share in 0.0f64..1.0, more in 0.0f64..1.0, labeled in 0u64..100, extra in 0u64..100, ago in 0i64..2_000_000
        ) {
            let facts = RetrainFacts {
                drift_share: Some(share),
                harvested_labeled: labeled,
                last_run_ms: Some(10_000_000 - ago),
                ..ready()
            };
            let policy = RetrainPolicy::default();
            if matches!(decide(&policy, &facts), RetrainDecision::Retrain { .. }) {
                let better = RetrainFacts { drift_share: Some(share.max(more)), harvested_labeled: labeled + extra, ..facts };
                let still = matches!(decide(&policy, &better), RetrainDecision::Retrain { .. });
                prop_assert!(still);
            }
        }
    }
}
