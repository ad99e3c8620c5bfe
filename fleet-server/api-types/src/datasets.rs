//! Datasets, samples, labels, labeling functions, label models, dataset versions.

use std::collections::BTreeMap;

use flotilla_protocol::features::Statistic;
use flotilla_protocol::ids::{DatasetId, DatasetVersionId, Digest, ImportId, JobId, LabelingFunctionId, ModelLine};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a file becomes samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SampleShape {
    /// One row, one sample.
    Row {
        /// Empty: every column that is not dropped.
        #[serde(default)]
        columns: Vec<String>,
    },
    /// A long table of a multichannel series; each case is cut into windows.
    Series {
        /// Together they name a case.
        case_columns: Vec<String>,
        /// Ascends by one within a case.
        order_column: String,
        channels: Vec<String>,
        /// Steps per window.
        window: u32,
        /// Steps from one window's start to the next's.
        hop: u32,
        rate_hz: f32,
        #[schema(value_type = Vec<String>)]
        statistics: Vec<Statistic>,
    },
}

/// Which samples are held out. A group never straddles splits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SplitRule {
    /// By the remainder of a number: the data row (from 0), or a column.
    Modulo {
        /// For a series, a column of the case; for rows, any column: rows that share its number stay together.
        /// Absent: the zero-based data row.
        #[serde(default)]
        column: Option<String>,
        modulus: u64,
        train: Vec<u64>,
        holdout: Vec<u64>,
    },
    /// By a hash of the group's key.
    Hash {
        /// Share held out, in [0, 1).
        holdout: f64,
        /// Rows that share their value in this column (a machine, a person) are one group; for a series, a column of the
        /// case. It is no feature unless the shape lists it. Absent: every row (every case) is a group of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<String>,
    },
    /// Everything in one split.
    All { split: Split },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Train,
    Holdout,
}

impl Split {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Holdout => "holdout",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "train" => Some(Self::Train),
            "holdout" => Some(Self::Holdout),
            _ => None,
        }
    }
}

/// `POST /api/v1/datasets`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDataset {
    /// `[a-z0-9-]{1,64}`, unique in the project.
    pub name: String,
    /// The classes, in the order that models will use.
    pub labels: Vec<String>,
    pub shape: SampleShape,
    /// Columns that never reach the server's store: the truth, for example.
    #[serde(default)]
    pub drop_columns: Vec<String>,
    pub split: SplitRule,
    /// Samples that devices running this model line harvest are added to this dataset.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub harvest_line: Option<ModelLine>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    #[schema(value_type = String, format = "uuid")]
    pub id: DatasetId,
    pub name: String,
    pub labels: Vec<String>,
    pub shape: SampleShape,
    pub split: SplitRule,
    pub drop_columns: Vec<String>,
    #[schema(value_type = Option<String>)]
    pub harvest_line: Option<ModelLine>,
    pub feature_names: Vec<String>,
    pub samples: u64,
    /// Samples per slice: `import`, and one for each harvest.
    pub slices: BTreeMap<String, u64>,
    pub hand_labels: u64,
    pub created_at: String,
}

/// `POST /api/v1/datasets/{id}/imports` (body: CSV): what came of it. All of it, or an error and nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    /// As `GET /api/v1/imports/{id}` names it.
    #[schema(value_type = String, format = "uuid")]
    pub import: ImportId,
    pub slice: String,
    pub rows: u64,
    pub samples: u64,
    /// Samples that were there before (same content).
    pub duplicates: u64,
    pub train: u64,
    pub holdout: u64,
    /// Samples of groups that the split rule names in neither split.
    pub excluded: u64,
    pub bytes: u64,
    #[schema(value_type = String)]
    pub file: Digest,
}

/// Where an import stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImportState {
    /// The file is arriving.
    Receiving,
    /// The file is here and is read; nobody sees its samples yet.
    Reading,
    /// All of it is in.
    Finished,
    /// Nothing of it is in: `error` says why.
    Failed,
    /// Nothing of it is in: somebody cancelled it, or its connection went away.
    Cancelled,
}

impl ImportState {
    const ALL: [Self; 5] = [
        Self::Receiving,
        Self::Reading,
        Self::Finished,
        Self::Failed,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Reading => "reading",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

/// `GET /api/v1/imports/{id}`: one file on its way into a dataset. `DELETE` cancels it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Import {
    #[schema(value_type = String, format = "uuid")]
    pub id: ImportId,
    #[schema(value_type = String, format = "uuid")]
    pub dataset: DatasetId,
    pub slice: String,
    pub started_by: String,
    pub state: ImportState,
    /// In [0, 1]: half of it for receiving, half for reading.
    pub progress: f64,
    /// Of the file; absent while nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    pub bytes_received: u64,
    pub bytes_read: u64,
    /// Data lines read, and new samples that came of them. Nobody else sees these until the import is finished.
    pub rows: u64,
    pub samples: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Once it is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ImportReport>,
    pub created_at: String,
    pub updated_at: String,
}

impl Import {
    /// [`Self::progress`] from the figures.
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
    pub fn share(&self) -> f64 {
        if self.state == ImportState::Finished {
            return 1.0;
        }
        let Some(total) = self.bytes_total.filter(|total| *total > 0) else {
            return 0.0;
        };
        let total = total as f64;
        let (received, read) = (self.bytes_received as f64 / total, self.bytes_read as f64 / total);
        0.5 * received.min(1.0) + 0.5 * read.min(1.0)
    }
}

/// Where a label comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelSource {
    Hand,
    Model,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Where it stood in its file (`case=train-7/window=1`), or which device sent it.
    pub key: String,
    pub slice: String,
    pub split: Split,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<SampleLabel>,
    /// The label model's best guess, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guess: Option<SampleLabel>,
    /// Set for harvested samples: what the device's model said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<String>,
    pub created_at: String,
    /// Raw values, row-major; only where asked for (`values=true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<f32>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleLabel {
    pub label: String,
    pub source: LabelSource,
    /// In [0, 1].
    pub confidence: f64,
}

/// `POST /api/v1/datasets/{id}/annotations`: all of them, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAnnotations {
    pub annotations: Vec<Annotation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Annotation {
    #[schema(value_type = String)]
    pub sample: Digest,
    pub label: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnnotationReport {
    pub new: u64,
    pub changed: u64,
    pub unchanged: u64,
}

/// `POST /api/v1/datasets/{id}/labeling-functions`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLabelingFunction {
    pub name: String,
    /// CEL over the features: `f["accel_y.std"] < 1.5`. False = it abstains.
    pub when: String,
    pub label: String,
}

/// A labeling function and how it does on the samples of the last label model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelingFunction {
    #[schema(value_type = String, format = "uuid")]
    pub id: LabelingFunctionId,
    pub name: String,
    pub when: String,
    pub label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<LabelingFunctionStatistics>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelingFunctionStatistics {
    /// Shares of samples, in [0, 1]: where it votes, where others vote too, where others vote otherwise.
    pub coverage: f64,
    pub overlap: f64,
    pub conflict: f64,
    /// Against hand labels, where it votes and there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Rows on which it failed and therefore abstained.
    pub errors: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
}

/// `GET /api/v1/datasets/{id}/labeling-function-conflicts`: how often labeling functions vote together and against each other,
/// on the samples of the last label model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct LabelingFunctionConflicts {
    /// Samples that they could vote on.
    pub samples: u64,
    pub fitted_at: String,
    /// As they were then, in order of creation: the order of rows and columns.
    pub functions: Vec<VotingFunction>,
    /// Samples on which both vote; symmetric. On the diagonal: on which the function votes.
    pub overlaps: Vec<Vec<u64>>,
    /// Samples on which they vote for different labels; symmetric.
    pub conflicts: Vec<Vec<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VotingFunction {
    #[schema(value_type = String, format = "uuid")]
    pub id: LabelingFunctionId,
    pub name: String,
    pub label: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelModelKind {
    #[default]
    DawidSkene,
    Majority,
}

/// `POST /api/v1/datasets/{id}/label-model`: applies all labeling functions to the training split and settles them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FitLabelModel {
    #[serde(default)]
    pub model: LabelModelKind,
    /// Absent: every slice.
    #[serde(default)]
    pub slices: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartedJob {
    #[schema(value_type = String, format = "uuid")]
    pub job: JobId,
}

/// `GET /api/v1/datasets/{id}/label-model`: the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelModel {
    pub model: LabelModelKind,
    pub samples: u64,
    pub iterations: u32,
    /// Share of samples with at least one vote, and with votes for different classes.
    pub coverage: f64,
    pub conflict: f64,
    /// Best class against hand labels, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    pub prior: BTreeMap<String, f64>,
    pub fitted_at: String,
}

/// What a version takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDatasetVersion {
    /// Model labels below this are left out; hand labels always count.
    #[serde(default = "default_confidence")]
    pub min_confidence: f64,
    /// Absent: every slice.
    #[serde(default)]
    pub slices: Option<Vec<String>>,
    #[serde(default)]
    pub note: String,
}

const fn default_confidence() -> f64 {
    0.8
}

/// Immutable: its digest is over every sample, label and split in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetVersion {
    #[schema(value_type = String, format = "uuid")]
    pub id: DatasetVersionId,
    #[schema(value_type = String, format = "uuid")]
    pub dataset: DatasetId,
    /// Counts up per dataset.
    pub number: u64,
    #[schema(value_type = String)]
    pub digest: Digest,
    pub train: u64,
    pub holdout: u64,
    pub hand_labels: u64,
    pub model_labels: u64,
    /// Samples of the dataset without a usable label.
    pub left_out: u64,
    pub classes: BTreeMap<String, u64>,
    pub slices: BTreeMap<String, u64>,
    pub note: String,
    pub created_at: String,
}
