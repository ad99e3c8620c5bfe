//! What devices see, beside what their models were trained on.

use flotilla_protocol::ids::{DeviceId, Digest, ModelLine, ModelVersionId, SlotName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A row of `GET /api/v1/drift`: one device and package, its last judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDrift {
    #[schema(value_type = String)]
    pub device: DeviceId,
    #[schema(value_type = String)]
    pub line: ModelLine,
    pub semver: String,
    #[schema(value_type = String)]
    pub manifest: Digest,
    /// Where the device runs the package now; absent if it does not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub slot: Option<SlotName>,
    pub drifted: bool,
    /// Share of features that drifted, in [0, 1].
    pub share: f64,
    /// Observations judged.
    pub count: u64,
    /// Judgements since the package runs there, and how many of them were alarms.
    pub judgements: u64,
    pub alarms: u64,
    pub nearest_slice: String,
    pub at: String,
    pub worst: Vec<FeatureSeverity>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeatureSeverity {
    pub name: String,
    /// Population stability index, natural logarithm.
    pub psi: f64,
    /// Less what chance explains.
    pub corrected: f64,
    pub drifted: bool,
}

/// `GET /api/v1/drift/{device}/{manifest}/features`: every feature, and of which package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DriftFeatures {
    pub package: DriftPackage,
    pub items: Vec<FeatureHistogram>,
}

/// The package whose data is looked at, whatever it was asked for by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriftPackage {
    /// Its model version.
    #[schema(value_type = String, format = "uuid")]
    pub version: ModelVersionId,
    #[schema(value_type = String)]
    pub line: ModelLine,
    pub semver: String,
    #[schema(value_type = String)]
    pub manifest: Digest,
}

/// An item of `GET /api/v1/drift/{device}/{manifest}/features`: a feature, furthest first, over bins that reference and
/// live data share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeatureHistogram {
    pub name: String,
    /// The slice of the reference that the live data looks most like.
    pub slice: String,
    /// Bounds of the bins, one more than there are bins.
    pub edges: Vec<f32>,
    /// Shares of observations per bin: of the slice, and of what was seen in the time asked for.
    pub reference: Vec<f64>,
    pub seen: Vec<f64>,
    pub reference_count: u64,
    pub seen_count: u64,
    pub severity: FeatureSeverity,
}

/// An item of `GET /api/v1/drift/{device}/{manifest}/series`: an hour with observations, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DriftPoint {
    /// The hour's start.
    pub at: String,
    pub count: u64,
    /// Share of features that drifted, in [0, 1], and what the package's rule says of it; absent where there was too little
    /// to judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifted: Option<bool>,
    pub nearest_slice: String,
    /// The feature asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature: Option<FeatureSeverity>,
}

/// An item of `GET /api/v1/drift/{device}/{manifest}/classes`: how often a class was predicted, as shares of all
/// predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassShare {
    pub label: String,
    pub reference: f64,
    pub seen: f64,
    pub reference_count: u64,
    pub seen_count: u64,
}
