//! Experiments, training runs, evaluations. The words are MLflow's.

use std::collections::BTreeMap;

use flotilla_protocol::ids::{DatasetVersionId, Digest, JobId, RunId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::datasets::Split;
use crate::models::DatasetVersionName;

/// A multilayer perceptron with ReLU, standardised inputs and softmax, trained by AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MlpParameters {
    /// Units of each hidden layer.
    pub hidden: Vec<u32>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub epochs: u32,
    pub batch_size: u32,
    #[serde(default)]
    pub class_weights: ClassWeights,
}

/// How much a class counts in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeights {
    /// Every sample counts alike, so common classes count more.
    #[default]
    None,
    /// Every class counts alike, however many samples it has.
    Balanced,
}

/// What trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Trainer {
    Mlp(MlpParameters),
}

/// `POST /api/v1/runs`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRun {
    /// Made when it does not exist.
    pub experiment: String,
    #[schema(value_type = String, format = "uuid")]
    pub dataset_version: DatasetVersionId,
    pub trainer: Trainer,
    pub seed: u64,
    /// Why: `manual`, or the drift that asked for it.
    #[serde(default)]
    pub cause: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum RunStatus {
    Scheduled,
    Running,
    Finished,
    Failed,
    Killed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    #[schema(value_type = String, format = "uuid")]
    pub id: RunId,
    pub experiment: String,
    #[schema(value_type = String, format = "uuid")]
    pub dataset_version: DatasetVersionId,
    /// The same, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_version_name: Option<DatasetVersionName>,
    pub trainer: Trainer,
    pub seed: u64,
    pub cause: String,
    pub status: RunStatus,
    /// How far its job is, in [0, 1]; only while that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    #[schema(value_type = String, format = "uuid")]
    pub job: JobId,
    /// `train.loss`, `holdout.accuracy`, `duration_s`, …
    pub metrics: BTreeMap<String, f64>,
    /// The ONNX model, once finished. Same data, parameters and seed give the same digest.
    #[schema(value_type = Option<String>)]
    pub model: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
}

/// `GET /api/v1/runs/{id}/metrics`: one point per epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricPoint {
    pub name: String,
    pub step: u64,
    pub value: f64,
}

/// `POST /api/v1/runs/{id}/evaluations`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEvaluation {
    #[schema(value_type = String, format = "uuid")]
    pub dataset_version: DatasetVersionId,
    pub split: Split,
}

/// An item of `GET /api/v1/runs/{id}/evaluations`: a model measured once on a split of a dataset version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredEvaluation {
    #[serde(flatten)]
    pub evaluation: Evaluation,
    pub created_at: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    #[schema(value_type = String, format = "uuid")]
    pub run: RunId,
    #[schema(value_type = String, format = "uuid")]
    pub dataset_version: DatasetVersionId,
    pub split: Split,
    pub samples: u64,
    pub accuracy: f64,
    pub log_loss: f64,
    /// Expected calibration error, 15 bins.
    pub calibration_error: f64,
    pub classes: Vec<ClassEvaluation>,
    /// Rows: truth; columns: prediction; in the order of `classes`.
    pub confusion: Vec<Vec<u64>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassEvaluation {
    pub label: String,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub support: u64,
}
