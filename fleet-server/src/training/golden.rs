//! Picks the cases of a golden set: inputs with the outputs that the trainer's own forward pass gives them, by which every
//! device proves that it computes the same.

use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::golden::{GoldenCase, GoldenSet};
use flotilla_protocol::infer::{Tensor, TensorError};

use crate::training::evaluate::predicted;
use crate::training::export::OUTPUT;
use crate::training::trainset::Labelled;

/// Name of a package's raw input.
pub const INPUT: &str = "input";
/// Most cases of a golden set that is picked here.
pub const MAX_GOLDEN_CASES: usize = 16;
/// Layout of golden sets.
pub const SCHEMA: u16 = 1;
/// Samples that a golden set is picked from, and their bytes, at the most.
const GOLDEN_CANDIDATES: usize = 64;
const GOLDEN_BYTES: usize = 2 << 20;

/// Why there is no golden set.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    #[error("sample {sample} has {found} scores, there are {expected} labels")]
    Scores {
        sample: usize,
        expected: usize,
        found: usize,
    },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Samples spread over the whole version, as many as fit.
pub fn golden_samples(samples: &[Labelled], sample_len: usize) -> Vec<&Labelled> {
    let fitting = GOLDEN_BYTES / (sample_len * size_of::<f32>()).max(1);
    let count = samples.len().min(GOLDEN_CANDIDATES).min(fitting.max(1));
    (0..count)
        .filter_map(|case| samples.get(case * samples.len() / count))
        .collect()
}

/// A raw sample with the scores that the trainer's own forward pass gives it.
#[derive(Debug, Clone, Copy)]
pub struct ScoredSample<'a> {
    pub values: &'a [f32],
    pub scores: &'a [f32],
}

/// Picks up to [`MAX_GOLDEN_CASES`] samples in turn from every class that the model predicts, in the data's order, so
/// that every output is exercised.
pub fn golden_set(
    features: &FeatureSpec,
    labels: &[String],
    samples: &[ScoredSample<'_>],
) -> Result<GoldenSet, GoldenError> {
    let mut by_class: Vec<Vec<&ScoredSample<'_>>> = vec![Vec::new(); labels.len()];
    for (index, sample) in samples.iter().enumerate() {
        if sample.scores.len() != labels.len() {
            return Err(GoldenError::Scores {
                sample: index,
                expected: labels.len(),
                found: sample.scores.len(),
            });
        }
        if let Some(class) = by_class.get_mut(predicted(sample.scores)) {
            class.push(sample);
        }
    }
    let mut picked = Vec::new();
    for round in 0..MAX_GOLDEN_CASES {
        picked.extend(by_class.iter().filter_map(|class| class.get(round)));
    }
    let cases = picked
        .into_iter()
        .take(MAX_GOLDEN_CASES)
        .map(|sample| golden_case(features, sample))
        .collect::<Result<_, GoldenError>>()?;
    Ok(GoldenSet { schema: SCHEMA, cases })
}

fn golden_case(features: &FeatureSpec, sample: &ScoredSample<'_>) -> Result<GoldenCase, GoldenError> {
    let shape = features
        .input_shape()
        .iter()
        .map(|dim| u64::try_from(*dim).unwrap_or(1))
        .collect();
    let classes = sample.scores.len() as u64;
    Ok(GoldenCase {
        inputs: vec![Tensor::from_f32(INPUT, shape, sample.values)?],
        outputs: vec![Tensor::from_f32(OUTPUT, vec![1, classes], sample.scores)?],
    })
}
