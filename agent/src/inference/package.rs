//! A package read from its folder, checked and loaded, but not active yet.
//!
//! The folder may have changed since it was verified at installation: every byte that is used is read once, under the
//! length that the manifest names, and its digest is compared before anything looks at it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flotilla_engine::{EngineError, GoldenFailure, GoldenReport, Model, PackageSpec, run_golden};
use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::golden::GoldenSet;
use flotilla_protocol::ids::Digest;
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::sketch::{ReferenceProfile, SketchError};

/// Longest ONNX file that is read into memory, whatever a manifest says.
const MAX_MODEL_BYTES: u64 = 1024 * 1024 * 1024;

/// Why a package is not loaded, or does not prove itself.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("cannot read {path}: {why}")]
    Read { path: PathBuf, why: std::io::Error },
    #[error("the {kind:?} component claims {length} bytes, at most {cap} are read")]
    TooLarge { kind: ComponentKind, length: u64, cap: u64 },
    #[error("{path} is not the {kind:?} component that was signed: {found} where {expected} is named")]
    Altered {
        path: PathBuf,
        kind: ComponentKind,
        expected: String,
        found: String,
    },
    #[error("the package has no {0:?} component")]
    Missing(ComponentKind),
    #[error("the {kind:?} component cannot be read: {why}")]
    Decode { kind: ComponentKind, why: CodecError },
    #[error("the drift reference is not usable: {0}")]
    Reference(#[from] SketchError),
    #[error("the drift reference does not fit the model: {0}")]
    OtherReference(String),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("the self-test failed: {0}")]
    Golden(Box<GoldenFailure>),
    #[error("the self-test is too slow here: {p95_us} µs at the 95th percentile, {budget_us} µs are allowed")]
    Slow { p95_us: u64, budget_us: u64 },
}

/// Where a package is read from, and what it must be.
#[derive(Debug, Clone)]
pub struct PackageSource {
    pub dir: PathBuf,
    /// Verified already.
    pub manifest: Manifest,
}

impl PackageSource {
    /// Reads, verifies and loads the model. Blocks: takes as long as reading and optimising does.
    pub fn load_model(&self) -> Result<Model, PackageError> {
        let Self { dir, manifest } = self;
        let onnx =
            read_component(dir, manifest, ComponentKind::Model)?.ok_or(PackageError::Missing(ComponentKind::Model))?;
        let features = read_component(dir, manifest, ComponentKind::Features)?;
        let spec = PackageSpec::from_manifest(manifest, features.as_deref())?;
        Ok(Model::load(&onnx, &spec)?)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LoadedPackage {
    pub source: PackageSource,
    /// Of the manifest's payload.
    pub manifest_digest: Digest,
    pub model: Model,
    /// The drift baseline and its component's digest.
    pub reference: Option<(Digest, ReferenceProfile)>,
}

impl LoadedPackage {
    /// Reads, verifies and loads the package in `dir`. `manifest` must be verified already; `digest` is its payload's.
    /// Blocks: takes as long as reading and optimising the model does.
    pub fn from_dir(dir: &Path, manifest: Manifest, digest: Digest) -> Result<Self, PackageError> {
        let source = PackageSource {
            dir: dir.to_owned(),
            manifest,
        };
        let manifest = &source.manifest;
        let model = source.load_model()?;
        let reference = read_component(dir, manifest, ComponentKind::Reference)?
            .map(|bytes| {
                let profile: ReferenceProfile = decode(ComponentKind::Reference, &bytes)?;
                check_reference(&profile, manifest, &model)?;
                Ok::<_, PackageError>((Digest::of(&bytes), profile))
            })
            .transpose()?;
        Ok(Self {
            source,
            manifest_digest: digest,
            model,
            reference,
        })
    }

    /// Runs a golden set on this machine: outputs within the manifest's tolerance, latency within its budget.
    pub fn self_test(&mut self, golden: &GoldenSet) -> Result<GoldenReport, PackageError> {
        let test = &self.source.manifest.self_test;
        let report = run_golden(&mut self.model, golden, test.tolerance_abs)
            .map_err(|failure| PackageError::Golden(Box::new(failure)))?;
        if test.p95_budget_us > 0 && report.p95_us > test.p95_budget_us {
            return Err(PackageError::Slow {
                p95_us: report.p95_us,
                budget_us: test.p95_budget_us,
            });
        }
        Ok(report)
    }
}

/// Reads and verifies the golden set of the package in `dir`; `None` if it has none.
pub fn read_golden(dir: &Path, manifest: &Manifest) -> Result<Option<GoldenSet>, PackageError> {
    read_component(dir, manifest, ComponentKind::Golden)?
        .map(|bytes| decode(ComponentKind::Golden, &bytes))
        .transpose()
}

fn decode<T: serde::de::DeserializeOwned>(kind: ComponentKind, bytes: &[u8]) -> Result<T, PackageError> {
    codec::from_slice(bytes, codec::MAX_COMPONENT_BYTES).map_err(|why| PackageError::Decode { kind, why })
}

/// The bytes of a component, exactly as the manifest names them; `None` if the manifest names none of the kind.
fn read_component(dir: &Path, manifest: &Manifest, kind: ComponentKind) -> Result<Option<Vec<u8>>, PackageError> {
    let Some(component) = manifest.component(kind) else {
        return Ok(None);
    };
    let length = component.blob.length;
    let cap = match kind {
        ComponentKind::Model => MAX_MODEL_BYTES,
        _ => codec::MAX_COMPONENT_BYTES as u64,
    };
    if length > cap {
        return Err(PackageError::TooLarge { kind, length, cap });
    }
    let path = dir.join(kind.file_name());
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(length.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|why| PackageError::Read {
            path: path.clone(),
            why,
        })?;
    let found = BlobRef::of(&bytes);
    if found != component.blob {
        let named = |blob: &BlobRef| format!("{} ({} bytes)", blob.sha256, blob.length);
        return Err(PackageError::Altered {
            path,
            kind,
            expected: named(&component.blob),
            found: named(&found),
        });
    }
    Ok(Some(bytes))
}

fn check_reference(profile: &ReferenceProfile, manifest: &Manifest, model: &Model) -> Result<(), PackageError> {
    profile.check()?;
    let refuse = |why: String| Err(PackageError::OtherReference(why));
    match model.feature_count() {
        Some(count) if count == profile.features.len() => {}
        Some(count) => {
            return refuse(format!(
                "{} features where the model has {count}",
                profile.features.len()
            ));
        }
        None => return refuse("the model's input is not a table of numbers".to_owned()),
    }
    if profile.labels != manifest.labels {
        return refuse(format!(
            "labels {:?} where the package has {:?}",
            profile.labels, manifest.labels
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{columns, write};
    use super::*;

    fn written() -> (tempfile::TempDir, Manifest, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let (manifest, digest) = write(dir.path(), "press", "1.0.0", &columns(&["a", "b"]));
        (dir, manifest, digest)
    }

    #[test]
    fn a_package_is_loaded_and_proves_itself() {
        let (dir, manifest, digest) = written();
        let golden = read_golden(dir.path(), &manifest).unwrap().unwrap();
        let mut package = LoadedPackage::from_dir(dir.path(), manifest, digest).unwrap();
        assert!(package.reference.is_some());
        let report = package.self_test(&golden).unwrap();
        assert_eq!(report.cases, golden.cases.len());
        let mut wrong = golden;
        wrong.cases[2].outputs[0] =
            flotilla_protocol::infer::Tensor::from_f32("probabilities", vec![1, 2], &[0.1, 0.9]).unwrap();
        let error = package.self_test(&wrong).unwrap_err();
        assert!(
            error.to_string().contains("golden case 2, output 'probabilities'"),
            "{error}"
        );
    }

    #[test]
    fn every_component_is_verified_again_when_it_is_read() {
        for kind in [ComponentKind::Model, ComponentKind::Features, ComponentKind::Reference] {
            let (dir, manifest, digest) = written();
            let path = dir.path().join(kind.file_name());
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = LoadedPackage::from_dir(dir.path(), manifest.clone(), digest).unwrap_err();
            assert!(
                matches!(error, PackageError::Altered { kind: k, .. } if k == kind),
                "{error}"
            );
            bytes[last] ^= 1;
            bytes.push(0);
            std::fs::write(&path, &bytes).unwrap();
            let error = LoadedPackage::from_dir(dir.path(), manifest.clone(), digest).unwrap_err();
            assert!(
                matches!(error, PackageError::Altered { .. }),
                "longer than signed: {error}"
            );
            std::fs::remove_file(&path).unwrap();
            let error = LoadedPackage::from_dir(dir.path(), manifest, digest).unwrap_err();
            assert!(matches!(error, PackageError::Read { .. }), "{error}");
        }
    }

    #[test]
    fn what_is_signed_but_does_not_fit_is_refused() {
        let (dir, mut manifest, digest) = written();
        let mut reference = super::super::fixture::reference();
        reference.features.pop();
        let bytes = codec::to_vec(&reference).unwrap();
        std::fs::write(dir.path().join(ComponentKind::Reference.file_name()), &bytes).unwrap();
        for component in &mut manifest.components {
            if component.kind == ComponentKind::Reference {
                component.blob = BlobRef::of(&bytes);
            }
        }
        let error = LoadedPackage::from_dir(dir.path(), manifest.clone(), digest).unwrap_err();
        assert!(
            error.to_string().contains("1 features where the model has 2"),
            "{error}"
        );
        for component in &mut manifest.components {
            component.blob.length = u64::MAX;
        }
        let error = LoadedPackage::from_dir(dir.path(), manifest, digest).unwrap_err();
        assert!(matches!(error, PackageError::TooLarge { .. }), "{error}");
    }
}
