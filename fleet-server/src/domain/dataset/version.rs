//! The frozen document that a dataset version is: exactly what a run was trained and evaluated on.

use std::collections::{BTreeMap, VecDeque};

use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::features::{FeatureError, FeatureSpec};
use flotilla_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use super::{MAX_VERSION_BYTES, Split, brief};

/// Who said what a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// A person, or a column of the import.
    Hand,
    /// A label model.
    Model,
}

/// A label as it was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenLabel {
    /// Index into the version's labels.
    pub index: u32,
    pub source: LabelSource,
    /// In [0, 1]; 1 for a person.
    pub confidence: f32,
}

/// One sample of a version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenSample {
    pub digest: Digest,
    pub split: Split,
    pub label: Option<FrozenLabel>,
    /// Index into the version's origins.
    pub origin: u32,
}

/// A dataset version: exactly what a run was trained and evaluated on. Its digest is its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetVersionDoc {
    /// [`VERSION_SCHEMA`]
    pub schema: String,
    pub labels: Vec<String>,
    pub features: FeatureSpec,
    /// Where samples came from, in order: the first import, each harvest. They become the slices of the drift reference.
    pub origins: Vec<String>,
    pub samples: Vec<FrozenSample>,
}

/// Layout of [`DatasetVersionDoc`].
pub const VERSION_SCHEMA: &str = "flotilla.dataset-version.v1";

/// Why a version is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    #[error("the dataset version has schema '{0}', '{VERSION_SCHEMA}' is known here")]
    Schema(String),
    #[error("sample {index} ({digest}) has {what} {found}, the version knows {known}")]
    OutOfRange {
        index: usize,
        digest: Digest,
        what: &'static str,
        found: u32,
        known: usize,
    },
    #[error(transparent)]
    Features(#[from] FeatureError),
    #[error("the dataset version cannot be read: {0}")]
    Codec(#[from] CodecError),
}

/// What differs between two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VersionDiff {
    pub added: u64,
    pub removed: u64,
    /// In both, with another class (or with one where there was none).
    pub relabeled: u64,
    /// In both, on another side of the split.
    pub moved: u64,
}

impl DatasetVersionDoc {
    /// Every index must point at something.
    pub fn check(&self) -> Result<(), VersionError> {
        if self.schema != VERSION_SCHEMA {
            return Err(VersionError::Schema(brief(&self.schema)));
        }
        self.features.check()?;
        for (index, sample) in self.samples.iter().enumerate() {
            let label = sample.label.map(|label| ("label", label.index, self.labels.len()));
            let origin = Some(("origin", sample.origin, self.origins.len()));
            for (what, found, known) in [label, origin].into_iter().flatten() {
                if found as usize >= known {
                    return Err(VersionError::OutOfRange {
                        index,
                        digest: sample.digest,
                        what,
                        found,
                        known,
                    });
                }
            }
        }
        Ok(())
    }

    /// The frozen bytes and their digest.
    pub fn encode(&self) -> Result<(Vec<u8>, Digest), VersionError> {
        self.check()?;
        let bytes = codec::to_vec(self)?;
        let digest = Digest::of(&bytes);
        Ok((bytes, digest))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, VersionError> {
        let version: Self = codec::from_slice(bytes, MAX_VERSION_BYTES)?;
        version.check()?;
        Ok(version)
    }

    /// Counts what changed since `older`. Samples are matched by digest, equal ones in their order.
    pub fn diff(&self, older: &Self) -> VersionDiff {
        let mut before: BTreeMap<Digest, VecDeque<&FrozenSample>> = BTreeMap::new();
        for sample in &older.samples {
            before.entry(sample.digest).or_default().push_back(sample);
        }
        let mut diff = VersionDiff::default();
        for sample in &self.samples {
            let Some(old) = before.get_mut(&sample.digest).and_then(VecDeque::pop_front) else {
                diff.added += 1;
                continue;
            };
            diff.relabeled += u64::from(self.label_name(sample) != older.label_name(old));
            diff.moved += u64::from(sample.split != old.split);
        }
        diff.removed = before.values().map(|left| left.len() as u64).sum();
        diff
    }

    /// The class name of a sample, if it has one.
    pub fn label_name(&self, sample: &FrozenSample) -> Option<&str> {
        self.labels.get(sample.label?.index as usize).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(samples: &[(u8, Split, Option<u32>)]) -> DatasetVersionDoc {
        DatasetVersionDoc {
            schema: VERSION_SCHEMA.into(),
            labels: vec!["a".into(), "b".into()],
            features: FeatureSpec::Row {
                columns: vec!["x".into()],
            },
            origins: vec!["import".into()],
            samples: samples
                .iter()
                .map(|(name, split, label)| FrozenSample {
                    digest: Digest::of(&[*name]),
                    split: *split,
                    label: label.map(|index| FrozenLabel {
                        index,
                        source: LabelSource::Hand,
                        confidence: 1.0,
                    }),
                    origin: 0,
                })
                .collect(),
        }
    }

    #[test]
    fn versions_are_compared_sample_by_sample() {
        use Split::{Holdout, Train};
        let old = version(&[
            (1, Train, Some(0)),
            (2, Train, None),
            (3, Holdout, Some(1)),
            (4, Train, Some(0)),
        ]);
        let new = version(&[
            (1, Train, Some(1)),
            (2, Train, Some(0)),
            (3, Train, Some(1)),
            (5, Train, None),
            (5, Train, None),
        ]);
        let expected = VersionDiff {
            added: 2,
            removed: 1,
            relabeled: 2,
            moved: 1,
        };
        assert_eq!(new.diff(&old), expected);
        let (bytes, digest) = new.encode().unwrap();
        assert_eq!(DatasetVersionDoc::decode(&bytes).unwrap(), new);
        assert_eq!(digest, new.encode().unwrap().1);
        assert_ne!(digest, old.encode().unwrap().1);
        let bad = version(&[(1, Train, Some(2))]);
        assert!(
            bad.encode()
                .unwrap_err()
                .to_string()
                .contains("label 2, the version knows 2")
        );
    }
}
