//! What devices see, beside what their models were trained on.

use flotilla_protocol::ids::{DeviceId, Digest, ModelLine};
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

/// `GET /api/v1/drift/{device}/{manifest}/features`: all features, furthest first, with shared bins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeatureHistogram {
    pub name: String,
    pub edges: Vec<f32>,
    /// Counts of the nearest slice, and of what was seen in the time asked for.
    pub reference: Vec<u64>,
    pub seen: Vec<u64>,
    pub severity: FeatureSeverity,
}
