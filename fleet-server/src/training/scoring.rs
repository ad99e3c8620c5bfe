//! Scores labelled samples with the engine that devices run, and says how good the scores are.

use flotilla_api_types::datasets::Split;
use flotilla_api_types::runs::{ClassEvaluation, Evaluation};
use flotilla_engine::{EngineError, Model, PackageSpec};
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{DatasetVersionId, RunId};
use flotilla_protocol::infer::{DataType, Tensor, TensorError};
use flotilla_protocol::manifest::TensorSpec;

use crate::training::evaluate::{self, EvaluateError};
use crate::training::export;
use crate::training::golden::INPUT;
use crate::training::trainset::Labelled;

/// Samples given to the engine at a time: its largest batch.
const BATCH: usize = 64;

/// Why samples could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoringError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error("stopped")]
    Stopped,
}

/// The border of a package around a trained network.
pub fn trained_package(features: &FeatureSpec, labels: &[String]) -> PackageSpec {
    PackageSpec {
        features: Some(features.clone()),
        labels: labels.to_vec(),
        inputs: vec![TensorSpec {
            name: INPUT.to_owned(),
            datatype: DataType::Fp32,
            shape: features.input_shape(),
        }],
        outputs: vec![TensorSpec {
            name: export::OUTPUT.to_owned(),
            datatype: DataType::Fp32,
            shape: vec![-1, i64::try_from(labels.len()).unwrap_or(i64::MAX)],
        }],
    }
}

/// A batch of raw samples as the package's input.
pub fn input_tensor<'a>(
    features: &FeatureSpec,
    samples: impl ExactSizeIterator<Item = &'a [f32]>,
) -> Result<Tensor, TensorError> {
    let mut shape = vec![samples.len() as u64];
    shape.extend(
        features
            .input_shape()
            .iter()
            .skip(1)
            .map(|dim| u64::try_from(*dim).unwrap_or(0)),
    );
    let mut values = Vec::with_capacity(samples.len() * features.sample_len());
    for sample in samples {
        values.extend_from_slice(sample);
    }
    Tensor::from_f32(INPUT, shape, &values)
}

/// Scores `[samples, classes]`, row-major. `stopping` is asked between batches.
pub fn score<'a>(
    model: &mut Model,
    features: &FeatureSpec,
    samples: impl IntoIterator<Item = &'a Labelled>,
    stopping: &dyn Fn() -> bool,
) -> Result<Vec<f32>, ScoringError> {
    let mut samples = samples.into_iter();
    let mut scores = Vec::new();
    loop {
        if stopping() {
            return Err(ScoringError::Stopped);
        }
        let batch: Vec<&Labelled> = samples.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(scores);
        }
        let input = input_tensor(features, batch.iter().map(|sample| sample.raw.as_slice()))?;
        let outcome = model.run(std::slice::from_ref(&input))?;
        scores.extend(outcome.scores.into_iter().flatten());
    }
}

/// Whose evaluation it is.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    pub run: RunId,
    pub dataset_version: DatasetVersionId,
    pub split: Split,
}

/// Scores samples and compares with their labels.
pub fn evaluate<'a>(
    model: &mut Model,
    features: &FeatureSpec,
    samples: impl IntoIterator<Item = &'a Labelled>,
    subject: Subject,
    stopping: &dyn Fn() -> bool,
) -> Result<Evaluation, ScoringError> {
    let mut truth = Vec::new();
    let labelled = samples.into_iter().inspect(|sample| truth.push(sample.label));
    let scores = score(model, features, labelled, stopping)?;
    let found = evaluate::evaluate(&scores, &truth, &model.spec().labels)?;
    Ok(Evaluation {
        run: subject.run,
        dataset_version: subject.dataset_version,
        split: subject.split,
        samples: found.samples,
        accuracy: found.accuracy,
        log_loss: found.log_loss,
        calibration_error: found.calibration_error,
        classes: found
            .classes
            .into_iter()
            .map(|class| ClassEvaluation {
                label: class.label,
                precision: class.precision,
                recall: class.recall,
                f1: class.f1,
                support: class.support,
            })
            .collect(),
        confusion: found.confusion,
    })
}
