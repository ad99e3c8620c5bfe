//! The model registry: lines, versions, manifests to sign, signatures.

use flotilla_protocol::ids::{DatasetId, DatasetVersionId, Digest, ModelLine, ModelVersionId, RunId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    #[schema(value_type = String)]
    pub line: ModelLine,
    pub versions: u64,
    /// Of them: those that the release role has not signed yet.
    #[serde(default)]
    pub unsigned: u64,
    pub latest: Option<String>,
    pub created_at: String,
    /// Devices that run a version of it.
    pub devices: u64,
    /// Versions that run somewhere: how many, and the six on most devices.
    pub versions_in_use: u64,
    pub in_use: Vec<VersionInUse>,
}

/// On how many devices a version of a line is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionInUse {
    pub semver: String,
    pub devices: u64,
}

/// When a device running the package speaks of drift.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DriftParameters {
    /// Observations per judgement.
    pub window: u64,
    /// On the noise-corrected population stability index of one feature.
    pub feature_threshold: f64,
    /// Share of features that must drift.
    pub share_threshold: f64,
}

impl Default for DriftParameters {
    fn default() -> Self {
        Self {
            window: 96,
            feature_threshold: 0.25,
            share_threshold: 0.4,
        }
    }
}

/// `POST /api/v1/models/{line}/versions`: packages a finished run. The golden gate runs here; a package that fails it is
/// refused with the first differing output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateModelVersion {
    #[schema(value_type = String, format = "uuid")]
    pub run: RunId,
    pub semver: String,
    /// Empty: any.
    #[serde(default)]
    pub hardware_classes: Vec<String>,
    #[serde(default)]
    pub arch: Vec<String>,
    #[serde(default)]
    pub min_ram_bytes: u64,
    /// Budget of one inference, microseconds, 95th percentile; 0: none.
    #[serde(default)]
    pub p95_budget_us: u64,
    /// How long it may be newly installed.
    #[serde(default = "default_install_days")]
    pub install_days: u32,
    #[serde(default)]
    pub drift: DriftParameters,
}

const fn default_install_days() -> u32 {
    180
}

/// Query of `POST /api/v1/models/{line}/imports` (body: an ONNX file).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportModelQuery {
    pub semver: String,
    /// Gives features, labels, golden inputs and the drift reference.
    #[schema(value_type = String, format = "uuid")]
    pub dataset_version: DatasetVersionId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureState {
    /// The release role has not signed yet: it cannot be rolled out.
    Unsigned,
    Signed,
    Revoked,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelVersion {
    #[schema(value_type = String, format = "uuid")]
    pub id: ModelVersionId,
    #[schema(value_type = String)]
    pub line: ModelLine,
    pub semver: String,
    pub release_counter: u64,
    /// Digest of the manifest's payload: the version's name on devices.
    #[schema(value_type = String)]
    pub manifest: Digest,
    pub signature: SignatureState,
    #[schema(value_type = Option<String>)]
    pub run: Option<RunId>,
    /// The same run, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_name: Option<RunName>,
    #[schema(value_type = Option<String>)]
    pub dataset_version: Option<DatasetVersionId>,
    /// The same dataset version, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_version_name: Option<DatasetVersionName>,
    /// Bytes of all components, decoded.
    pub package_bytes: u64,
    /// Largest difference from the trainer's outputs in the server's golden gate.
    pub golden_max_diff: f64,
    pub golden_cases: u32,
    pub created_at: String,
    /// Devices that run it; only where the versions of a line are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<u64>,
}

/// What people know a run by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunName {
    pub experiment: String,
    pub seed: u64,
}

/// What people know a dataset version by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetVersionName {
    #[schema(value_type = String, format = "uuid")]
    pub dataset: DatasetId,
    /// The dataset's name.
    pub name: String,
    /// Counts up per dataset.
    pub number: u64,
}

/// `GET /api/v1/model-versions/{id}/manifest`: what `fleetctl sign` signs, and the signatures so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManifestDocument {
    #[schema(value_type = String)]
    pub manifest: Digest,
    /// The bytes to sign, base64.
    pub payload: String,
    /// `release/<line>`
    pub role: String,
    pub schema: String,
    /// Envelope with the signatures so far, base64; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<String>,
    /// Envelope of the fleet's root, base64: says whose signatures count.
    pub root: String,
    /// The manifest in words.
    #[schema(value_type = Object)]
    pub content: serde_json::Value,
}

/// `POST /api/v1/model-versions/{id}/signatures`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddSignature {
    /// Envelope over the same payload, base64.
    pub envelope: String,
}
