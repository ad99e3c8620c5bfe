//! Divides samples into training and holdout by a rule that looks at a sample's name alone.

use std::collections::HashSet;

use flotilla_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use super::ImportError;

/// Where a sample belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    /// Only ever used to evaluate.
    Holdout,
    /// Not part of the dataset; an importer counts and skips it.
    Excluded,
}

/// Divides samples. Depends on the sample's name alone, never on the order of imports or on chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitRule {
    /// By a number modulo `modulus`; residues in neither list train.
    Modulo {
        group: Group,
        modulus: u64,
        #[serde(default)]
        holdout: Vec<u64>,
        #[serde(default)]
        exclude: Vec<u64>,
    },
    /// By a hash of the group: `holdout_share` of the groups, in [0, 1), are held out.
    Hash {
        holdout_share: f64,
        /// What shares its value in this column is one group. `None`: the case is the group (the row, for rows).
        #[serde(default)]
        column: Option<String>,
    },
}

/// The number that [`SplitRule::Modulo`] divides by. Windows of one case never land on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The whole number in the last case column.
    Case,
    /// The zero-based data line.
    Row,
    /// The whole number in this column, for rows: lines that share it stay together.
    Column(String),
}

impl SplitRule {
    /// Refuses rules that would put everything, or nothing meaningful, on one side.
    pub fn check(&self) -> Result<(), ImportError> {
        let refuse = |why: String| Err(ImportError::Split(why));
        match self {
            Self::Modulo {
                modulus,
                holdout,
                exclude,
                ..
            } => {
                if let Some(residue) = holdout.iter().chain(exclude).find(|residue| **residue >= *modulus) {
                    return refuse(format!("residue {residue} never occurs modulo {modulus}"));
                }
                if let Some(both) = holdout.iter().find(|residue| exclude.contains(residue)) {
                    return refuse(format!("residue {both} is both held out and excluded"));
                }
                let taken: HashSet<&u64> = holdout.iter().chain(exclude).collect();
                if taken.len() as u64 >= *modulus {
                    return refuse("no residue is left to train on".to_owned());
                }
            }
            Self::Hash { holdout_share, .. } => {
                if !(0.0..1.0).contains(holdout_share) {
                    return refuse(format!("holdout_share {holdout_share} is not in [0, 1)"));
                }
            }
        }
        Ok(())
    }

    /// The column that names the group, if the rule looks at one of its own.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Modulo {
                group: Group::Column(column),
                ..
            }
            | Self::Hash {
                column: Some(column), ..
            } => Some(column),
            Self::Modulo { .. } | Self::Hash { .. } => None,
        }
    }

    /// The side of a sample: `number` is what [`Group`] asks for, `name` its group (its case or row).
    pub fn assign(&self, number: u64, name: &str) -> Split {
        match self {
            Self::Modulo {
                modulus,
                holdout,
                exclude,
                ..
            } => {
                let residue = number.checked_rem(*modulus).unwrap_or(0);
                if holdout.contains(&residue) {
                    Split::Holdout
                } else if exclude.contains(&residue) {
                    Split::Excluded
                } else {
                    Split::Train
                }
            }
            Self::Hash { holdout_share, .. } => {
                let digest = Digest::of(name.as_bytes());
                let head = digest.0.first_chunk::<4>().copied().unwrap_or_default();
                let position = f64::from(u32::from_be_bytes(head)) / (f64::from(u32::MAX) + 1.0);
                if position < *holdout_share {
                    Split::Holdout
                } else {
                    Split::Train
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(holdout_share: f64) -> SplitRule {
        SplitRule::Hash {
            holdout_share,
            column: None,
        }
    }

    #[test]
    fn unusable_split_rules_are_refused() {
        let rule = |modulus, holdout: &[u64], exclude: &[u64]| SplitRule::Modulo {
            group: Group::Row,
            modulus,
            holdout: holdout.to_vec(),
            exclude: exclude.to_vec(),
        };
        rule(3, &[0], &[1]).check().unwrap();
        for bad in [
            rule(0, &[], &[]),
            rule(3, &[3], &[]),
            rule(3, &[1], &[1]),
            rule(2, &[0], &[1]),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(hash(1.0).check().is_err());
        assert!(hash(f64::NAN).check().is_err());
    }

    proptest! {
        #[test]
        fn splits_are_stable_and_in_proportion(share in 0.05f64..0.95, salt in 0u32..1000) {
            let rule = hash(share);
            let mut held = 0u32;
            for i in 0..2000 {
                let name = format!("case-{salt}-{i}");
                let split = rule.assign(0, &name);
                prop_assert_eq!(split, rule.assign(7, &name));
                held += u32::from(split == Split::Holdout);
            }
            prop_assert!((f64::from(held) / 2000.0 - share).abs() < 0.06, "{} of 2000 for {}", held, share);
        }

        #[test]
        fn residues_decide(number in any::<u64>(), modulus in 3u64..50) {
            let rule = SplitRule::Modulo { group: Group::Row, modulus, holdout: vec![0], exclude: vec![1] };
            let expected = match number % modulus { 0 => Split::Holdout, 1 => Split::Excluded, _ => Split::Train };
            prop_assert_eq!(rule.assign(number, "x"), expected);
        }
    }
}
