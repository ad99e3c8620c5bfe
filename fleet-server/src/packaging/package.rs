//! Builds a model package: its components and the manifest's bytes, ready to be signed. Before that the package must pass
//! the golden gate in the same engine that devices run: what differs from the trainer's outputs is refused by name.
//!
//! Nothing is signed or stored here.

use flotilla_engine::{
    EngineError, GoldenFailure, GoldenReport, LABEL_OUTPUT, Model, PackageSpec, inspect, run_golden,
};
use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::features::{FeatureError, FeatureSpec};
use flotilla_protocol::golden::GoldenSet;
use flotilla_protocol::ids::{FleetId, ModelLine};
use flotilla_protocol::infer::DataType;
use flotilla_protocol::manifest::{Component, ComponentKind, Manifest, Provenance, SelfTest, TensorSpec};
use flotilla_protocol::sketch::{DriftRule, FeatureReference, ReferenceProfile, SketchError};
use flotilla_protocol::trust::{Document as _, Header, Role, TrustError};

use crate::training::golden::INPUT;

/// Layout of the components.
const COMPONENT_SCHEMA: u16 = 1;

/// Which package it is.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageIdentity {
    pub fleet: FleetId,
    pub line: ModelLine,
    /// `major.minor.patch`, for people.
    pub semver: String,
    /// Rises by one per package of the line; also the document's version.
    pub release_counter: u64,
    /// Unix milliseconds.
    pub issued_ms: i64,
    /// Until when it may be newly installed, Unix milliseconds.
    pub expires_ms: i64,
}

/// What it may run on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageTarget {
    /// Empty = any.
    pub hardware_classes: Vec<String>,
    /// Empty = any.
    pub arch: Vec<String>,
    /// Least agent version; empty = this server's own.
    pub min_agent: String,
    pub min_ram_bytes: u64,
}

/// Choices with defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PackageParameters {
    /// Bins per feature of the drift reference.
    pub reference_bins: usize,
    pub drift: DriftRule,
    /// Largest absolute difference from the trainer's outputs.
    pub tolerance_abs: f32,
    /// Budget of one inference at the 95th percentile, microseconds; 0 = none.
    pub p95_budget_us: u64,
}

impl Default for PackageParameters {
    fn default() -> Self {
        Self {
            reference_bins: 8,
            drift: DriftRule {
                window: 96,
                feature_threshold: 0.25,
                share_threshold: 0.40,
            },
            tolerance_abs: 1e-4,
            p95_budget_us: 0,
        }
    }
}

/// Data of one origin: the first import, one harvest.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceSlice {
    pub name: String,
    /// Row-major `[samples, features]`.
    pub features: Vec<f32>,
}

/// Everything a package is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageInput {
    pub identity: PackageIdentity,
    pub target: PackageTarget,
    pub parameters: PackageParameters,
    pub provenance: Provenance,
    pub onnx: Vec<u8>,
    pub features: FeatureSpec,
    /// In the order of the scores; empty for a regression.
    pub labels: Vec<String>,
    pub slices: Vec<ReferenceSlice>,
    /// How often the model predicts each class on the slices' data.
    pub label_counts: Vec<u64>,
    /// See [`crate::training::golden::golden_set`].
    pub golden: GoldenSet,
}

/// A package that passed its gate.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// In the manifest's order.
    pub components: Vec<(ComponentKind, Vec<u8>)>,
    pub manifest: Manifest,
    /// The manifest's CBOR: the bytes to sign.
    pub manifest_payload: Vec<u8>,
    pub golden_report: GoldenReport,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("'{0}' is not a version; three numbers are needed, as in 1.2.0")]
    Semver(String),
    #[error("the package would expire before it is issued")]
    Expiry,
    #[error("reference slice '{slice}' has {found} values, not a multiple of {features} features (and not none)")]
    Slice {
        slice: String,
        features: usize,
        found: usize,
    },
    #[error("{found} label counts for {expected} labels")]
    LabelCounts { expected: usize, found: usize },
    #[error("the drift rule is not usable: {0}")]
    Rule(String),
    #[error("the model is refused: {0}")]
    Engine(#[from] EngineError),
    #[error("the golden gate is not passed: {0}")]
    Golden(#[from] GoldenFailure),
    #[error("the drift reference is refused: {0}")]
    Reference(#[from] SketchError),
    #[error(transparent)]
    Features(#[from] FeatureError),
    #[error("the manifest is refused: {0}")]
    Manifest(#[from] TrustError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Builds the package and runs its golden gate.
pub fn build_package(mut input: PackageInput) -> Result<Package, PackageError> {
    check(&input)?;
    let report = inspect(&input.onnx)?;
    let reference = reference_profile(&input)?;
    let inputs = vec![TensorSpec {
        name: INPUT.to_owned(),
        datatype: DataType::Fp32,
        shape: input.features.input_shape(),
    }];
    let (opset, mut outputs) = (report.opset, report.outputs);
    if !input.labels.is_empty() && outputs.iter().all(|output| output.name != LABEL_OUTPUT) {
        outputs.push(TensorSpec {
            name: LABEL_OUTPUT.to_owned(),
            datatype: DataType::Bytes,
            shape: vec![-1],
        });
    }
    let spec = PackageSpec {
        features: Some(input.features.clone()),
        labels: input.labels.clone(),
        inputs,
        outputs,
    };
    let mut model = Model::load(&input.onnx, &spec)?;
    let golden_report = run_golden(&mut model, &input.golden, input.parameters.tolerance_abs)?;

    let features = codec::to_vec(&input.features)?;
    let golden = codec::to_vec(&input.golden)?;
    let components = vec![
        (ComponentKind::Model, std::mem::take(&mut input.onnx)),
        (ComponentKind::Features, features),
        (ComponentKind::Reference, codec::to_vec(&reference)?),
        (ComponentKind::Golden, golden),
    ];
    let manifest = manifest(input, spec, opset, &components);
    manifest.check()?;
    let manifest_payload = codec::to_vec(&manifest)?;
    for (length, cap) in components
        .iter()
        .filter(|(kind, _)| *kind != ComponentKind::Model)
        .map(|(_, bytes)| (bytes.len(), codec::MAX_COMPONENT_BYTES))
        .chain([(manifest_payload.len(), codec::MAX_DOCUMENT_BYTES)])
    {
        if length > cap {
            return Err(CodecError::TooLarge { length, cap }.into());
        }
    }
    Ok(Package {
        components,
        manifest,
        manifest_payload,
        golden_report,
    })
}

fn manifest(input: PackageInput, spec: PackageSpec, opset: i64, components: &[(ComponentKind, Vec<u8>)]) -> Manifest {
    let lengths = || components.iter().map(|(_, bytes)| bytes.len() as u64);
    let (bytes, largest) = (lengths().sum::<u64>(), lengths().max().unwrap_or(0));
    let own_version = || env!("CARGO_PKG_VERSION").to_owned();
    Manifest {
        header: Header {
            schema: Manifest::SCHEMA.to_owned(),
            role: Role::Release(input.identity.line.clone()),
            fleet: input.identity.fleet,
            version: input.identity.release_counter,
            issued: input.identity.issued_ms,
            expires: input.identity.expires_ms,
        },
        name: input.identity.line,
        semver: input.identity.semver,
        release_counter: input.identity.release_counter,
        hardware_classes: input.target.hardware_classes,
        arch: input.target.arch,
        min_agent: Some(input.target.min_agent)
            .filter(|v| !v.is_empty())
            .unwrap_or_else(own_version),
        min_ram_bytes: input.target.min_ram_bytes,
        // While it is fetched, a device holds the components that are ready, and beside one of them the chunks that it is made
        // of, which go before the next one comes.
        min_disk_bytes: bytes.saturating_add(largest),
        runtime: "onnx".to_owned(),
        opset,
        components: components.iter().map(|(kind, bytes)| component(*kind, bytes)).collect(),
        inputs: spec.inputs,
        outputs: spec.outputs,
        labels: spec.labels,
        self_test: SelfTest {
            tolerance_abs: input.parameters.tolerance_abs,
            p95_budget_us: input.parameters.p95_budget_us,
        },
        depends: Vec::new(),
        conflicts: Vec::new(),
        provenance: input.provenance,
    }
}

fn component(kind: ComponentKind, bytes: &[u8]) -> Component {
    Component {
        kind,
        media_type: kind.media_type().to_owned(),
        blob: BlobRef::of(bytes),
    }
}

fn check(input: &PackageInput) -> Result<(), PackageError> {
    let core = input.identity.semver.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
    if numbers.len() != 3 || numbers.contains(&None) {
        return Err(PackageError::Semver(input.identity.semver.chars().take(40).collect()));
    }
    if input.identity.expires_ms <= input.identity.issued_ms {
        return Err(PackageError::Expiry);
    }
    let rule = input.parameters.drift;
    let within = |value: f64, above: f64, upto: f64| value > above && value <= upto;
    if rule.window == 0 || !within(rule.feature_threshold, 0.0, 1e6) || !within(rule.share_threshold, 0.0, 1.0) {
        return Err(PackageError::Rule(format!(
            "window {} (at least 1), feature threshold {} (above 0), share threshold {} (above 0, at most 1)",
            rule.window, rule.feature_threshold, rule.share_threshold
        )));
    }
    if input.label_counts.len() != input.labels.len() {
        return Err(PackageError::LabelCounts {
            expected: input.labels.len(),
            found: input.label_counts.len(),
        });
    }
    input.features.check()?;
    Ok(())
}

fn reference_profile(input: &PackageInput) -> Result<ReferenceProfile, PackageError> {
    let width = input.features.feature_count().max(1);
    for slice in &input.slices {
        let found = slice.features.len();
        if found == 0 || !found.is_multiple_of(width) {
            return Err(PackageError::Slice {
                slice: slice.name.clone(),
                features: width,
                found,
            });
        }
        if let Some(index) = slice.features.iter().position(|value| !value.is_finite()) {
            let name = input.features.feature_names().get(index % width).cloned();
            return Err(PackageError::Features(FeatureError::NotFinite {
                index,
                name: name.unwrap_or_default(),
            }));
        }
    }
    let features = input
        .features
        .feature_names()
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let columns: Vec<Vec<f32>> = input
                .slices
                .iter()
                .map(|slice| slice.features.iter().skip(index).step_by(width).copied().collect())
                .collect();
            FeatureReference::from_slices(name, &columns, input.parameters.reference_bins)
        })
        .collect();
    let reference = ReferenceProfile {
        schema: COMPONENT_SCHEMA,
        slices: input.slices.iter().map(|slice| slice.name.clone()).collect(),
        features,
        labels: input.labels.clone(),
        label_counts: input.label_counts.clone(),
        rule: input.parameters.drift,
    };
    reference.check()?;
    Ok(reference)
}
#[cfg(test)]
mod tests;
