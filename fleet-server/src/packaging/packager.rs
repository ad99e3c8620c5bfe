//! From a finished run, or an ONNX file from elsewhere, to a registered version: gathers what a package is made from, has
//! it built and gated, keeps its components as blobs, and stores the manifest that is to be signed.

use flotilla_api_types::models::{DriftParameters, ModelVersion};
use flotilla_api_types::runs::RunStatus;
use flotilla_engine::{EngineError, LABEL_OUTPUT, Model, PackageSpec, inspect};
use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::golden::{GoldenCase, GoldenSet};
use flotilla_protocol::ids::{DatasetVersionId, Digest, FleetId, ModelLine, ModelVersionId, RunId};
use flotilla_protocol::infer::{DataType, TensorError};
use flotilla_protocol::manifest::{Provenance, TensorSpec};
use flotilla_protocol::sketch::DriftRule;
use uuid::Uuid;

use crate::app::App;
use crate::blobs::BlobError;
use crate::domain::dataset::{DatasetVersionDoc, Split};
use crate::heavy::Stopping;
use crate::packaging::package::{
    Package, PackageError, PackageIdentity, PackageInput, PackageParameters, PackageTarget, ReferenceSlice,
    build_package,
};
use crate::store::models::{NewVersion, StoredComponent};
use crate::store::{StoreError, audit as audit_log, models, runs};
use crate::training::evaluate::predicted;
use crate::training::golden::{self, INPUT, MAX_GOLDEN_CASES, golden_samples};
use crate::training::scoring::{self, ScoringError};
use crate::training::trainset::{self, Labelled, RawSamples, TrainsetError, with_raw};
use crate::{audit, clock};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// What the package is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub line: ModelLine,
    pub semver: String,
    pub hardware_classes: Vec<String>,
    pub arch: Vec<String>,
    pub min_ram_bytes: u64,
    pub p95_budget_us: u64,
    pub install_days: u32,
    pub drift: DriftParameters,
}

/// Where the model comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    Run(RunId),
    /// An ONNX file; the dataset version gives features, labels, golden inputs and the drift reference.
    Onnx {
        bytes: Vec<u8>,
        dataset_version: DatasetVersionId,
    },
}

/// Why nothing was packaged.
#[derive(Debug, thiserror::Error)]
pub enum PackagerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blob(BlobError),
    #[error(transparent)]
    Samples(#[from] TrainsetError),
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Scoring(ScoringError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("stopped")]
    Stopped,
    #[error("the run's golden set cannot be read: {0}")]
    Golden(#[from] CodecError),
    #[error("run {run} has no model: it is {status:?}")]
    NotFinished { run: RunId, status: RunStatus },
    #[error("{line} {semver} exists already: versions are never replaced, take the next number")]
    Exists { line: ModelLine, semver: String },
}

impl From<ScoringError> for PackagerError {
    fn from(error: ScoringError) -> Self {
        match error {
            ScoringError::Stopped => Self::Stopped,
            error => Self::Scoring(error),
        }
    }
}

impl From<BlobError> for PackagerError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Stopped => Self::Stopped,
            error => Self::Blob(error),
        }
    }
}

/// A model and what it was trained on.
struct Trained {
    onnx: Vec<u8>,
    /// The trainer's own outputs; `None`: the engine's are taken.
    golden: Option<GoldenSet>,
    run: Option<RunId>,
    dataset_version: DatasetVersionId,
}

/// Packages and registers a model.
pub async fn package(
    app: &App,
    actor: &str,
    (ask, origin): (Ask, Origin),
    stopping: Stopping,
) -> Result<ModelVersion, PackagerError> {
    if models::has_semver(&app.db, &ask.line, &ask.semver).await? {
        return Err(PackagerError::Exists {
            line: ask.line,
            semver: ask.semver,
        });
    }
    let trained = trained(app, origin).await?;
    let (version, document) = trainset::load_version(app, trained.dataset_version).await?;
    let held = trainset::raw_bytes(&document, Some(Split::Train)).saturating_add(trainset::feature_bytes(&document));
    trainset::check_bytes(held, app.heavy.dataset_bytes())?;
    let release_counter = models::last_counter(&app.db, &ask.line).await? + 1;
    let (run, dataset_version) = (trained.run, version.id);
    let work = Work {
        fleet: app.fleet.id,
        ask: ask.clone(),
        trained,
        document,
        dataset_digest: version.digest,
        release_counter,
        now: clock::now_ms(),
        stopping: stopping.clone(),
    };
    let built = with_raw(&app.db, version.dataset, move |raw| work.build(raw)).await?;
    let id = ModelVersionId::new(Uuid::now_v7());
    let mut new = NewVersion {
        id,
        line: ask.line,
        semver: ask.semver,
        release_counter,
        payload: built.manifest_payload,
        run,
        dataset_version: Some(dataset_version),
        components: Vec::with_capacity(built.components.len()),
        package_bytes: 0,
        golden_max_diff: built.golden_report.max_abs_diff,
        golden_cases: u32::try_from(built.golden_report.cases).unwrap_or(u32::MAX),
    };
    for (kind, bytes) in built.components {
        let (blob, sources) = app
            .blobs
            .put_with_sources(bytes.into(), {
                let stopping = stopping.clone();
                move || stopping.is_stopping()
            })
            .await?;
        new.package_bytes += blob.length;
        new.components.push(StoredComponent {
            kind,
            digest: blob.sha256,
            sources,
        });
    }
    register(app, actor, &new).await?;
    Ok(models::get_version(&app.db, id).await?)
}

async fn register(app: &App, actor: &str, new: &NewVersion) -> Result<(), PackagerError> {
    let mut tx = app.db.begin().await?;
    models::create(&mut tx, &app.fleet.project, new, clock::now_ms()).await?;
    let detail = [
        ("line", new.line.to_string()),
        ("semver", new.semver.clone()),
        ("release_counter", new.release_counter.to_string()),
        ("manifest", Digest::of(&new.payload).to_string()),
        (
            "run",
            new.run.map_or_else(|| "imported".to_owned(), |run| run.to_string()),
        ),
    ];
    let subject = format!("model-version:{}", new.id);
    audit_log::append(&mut tx, &audit::record(actor, "model.packaged", subject, detail)).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(())
}

async fn trained(app: &App, origin: Origin) -> Result<Trained, PackagerError> {
    match origin {
        Origin::Onnx { bytes, dataset_version } => Ok(Trained {
            onnx: bytes,
            golden: None,
            run: None,
            dataset_version,
        }),
        Origin::Run(id) => {
            let stored = runs::get(&app.db, &app.fleet.project, id).await?;
            let (Some(model), Some(golden)) = (stored.run.model, stored.golden) else {
                return Err(PackagerError::NotFinished {
                    run: id,
                    status: stored.run.status,
                });
            };
            let golden = app.blobs.get(&golden).await?;
            Ok(Trained {
                onnx: app.blobs.get(&model).await?.to_vec(),
                golden: Some(codec::from_slice(&golden, codec::MAX_COMPONENT_BYTES)?),
                run: Some(id),
                dataset_version: stored.run.dataset_version,
            })
        }
    }
}

/// Everything that is needed to build, off the async threads.
struct Work {
    fleet: FleetId,
    ask: Ask,
    trained: Trained,
    document: DatasetVersionDoc,
    dataset_digest: Digest,
    release_counter: u64,
    now: i64,
    stopping: Stopping,
}

impl Work {
    fn build(self, raw: RawSamples) -> Result<Package, PackagerError> {
        let document = self.document;
        let samples = trainset::collect(&document, raw, Some(Split::Train))?;
        let mut model = Model::load(&self.trained.onnx, &border(&self.trained.onnx, &document)?)?;
        let label_counts = predictions(&mut model, &document, &samples, &self.stopping)?;
        let imported = self.trained.golden.is_none();
        let golden = match self.trained.golden {
            Some(golden) => golden,
            None => engines_golden_set(&mut model, &document, &samples)?,
        };
        let code = concat!("fleet-server ", env!("CARGO_PKG_VERSION"));
        let parameters = PackageParameters {
            drift: DriftRule {
                window: self.ask.drift.window,
                feature_threshold: self.ask.drift.feature_threshold,
                share_threshold: self.ask.drift.share_threshold,
            },
            p95_budget_us: self.ask.p95_budget_us,
            ..PackageParameters::default()
        };
        Ok(build_package(PackageInput {
            identity: PackageIdentity {
                fleet: self.fleet,
                line: self.ask.line,
                semver: self.ask.semver,
                release_counter: self.release_counter,
                issued_ms: self.now,
                expires_ms: self
                    .now
                    .saturating_add(i64::from(self.ask.install_days).saturating_mul(DAY_MS)),
            },
            target: PackageTarget {
                hardware_classes: self.ask.hardware_classes,
                arch: self.ask.arch,
                min_agent: String::new(),
                min_ram_bytes: self.ask.min_ram_bytes,
            },
            parameters,
            provenance: Provenance {
                dataset_version: Some(self.trained.dataset_version),
                dataset_digest: Some(self.dataset_digest),
                run: self.trained.run,
                code_version: if imported {
                    format!("{code}; imported ONNX, golden outputs are this engine's own")
                } else {
                    code.to_owned()
                },
                sbom: None,
            },
            onnx: self.trained.onnx,
            slices: slices(&document, &samples, &self.stopping)?,
            features: document.features,
            labels: document.labels,
            label_counts,
            golden,
        })?)
    }
}

/// The border that [`build_package`] will give the model.
fn border(onnx: &[u8], document: &DatasetVersionDoc) -> Result<PackageSpec, EngineError> {
    let mut outputs = inspect(onnx)?.outputs;
    if outputs.iter().all(|output| output.name != LABEL_OUTPUT) {
        outputs.push(TensorSpec {
            name: LABEL_OUTPUT.to_owned(),
            datatype: DataType::Bytes,
            shape: vec![-1],
        });
    }
    Ok(PackageSpec {
        features: Some(document.features.clone()),
        labels: document.labels.clone(),
        inputs: vec![TensorSpec {
            name: INPUT.to_owned(),
            datatype: DataType::Fp32,
            shape: document.features.input_shape(),
        }],
        outputs,
    })
}

/// How often the model gives each class on the reference data.
fn predictions(
    model: &mut Model,
    document: &DatasetVersionDoc,
    samples: &[Labelled],
    stopping: &Stopping,
) -> Result<Vec<u64>, PackagerError> {
    let mut counts = vec![0u64; document.labels.len()];
    let scores = scoring::score(model, &document.features, samples, &|| stopping.is_stopping())?;
    for row in scores.chunks(document.labels.len().max(1)) {
        if let Some(count) = counts.get_mut(predicted(row)) {
            *count += 1;
        }
    }
    Ok(counts)
}

/// The training data's features, one slice per origin.
fn slices(
    document: &DatasetVersionDoc,
    samples: &[Labelled],
    stopping: &Stopping,
) -> Result<Vec<ReferenceSlice>, PackagerError> {
    let mut slices: Vec<ReferenceSlice> = document
        .origins
        .iter()
        .map(|name| ReferenceSlice {
            name: name.clone(),
            features: Vec::new(),
        })
        .collect();
    for sample in samples {
        if stopping.is_stopping() {
            return Err(PackagerError::Stopped);
        }
        let row = document.features.compute(&sample.raw).map_err(PackageError::from)?;
        if let Some(slice) = slices.get_mut(sample.origin) {
            slice.features.extend(row);
        }
    }
    slices.retain(|slice| !slice.features.is_empty());
    Ok(slices)
}

/// For a model whose trainer's outputs nobody has: what this engine computes. It proves that devices compute the same,
/// not that the trainer did.
fn engines_golden_set(
    model: &mut Model,
    document: &DatasetVersionDoc,
    samples: &[Labelled],
) -> Result<GoldenSet, PackagerError> {
    let mut cases = Vec::new();
    for sample in golden_samples(samples, document.features.sample_len())
        .into_iter()
        .take(MAX_GOLDEN_CASES)
    {
        let input = scoring::input_tensor(&document.features, std::iter::once(sample.raw.as_slice()))?;
        let outputs = model.run(std::slice::from_ref(&input))?.outputs;
        cases.push(GoldenCase {
            inputs: vec![input],
            outputs,
        });
    }
    Ok(GoldenSet {
        schema: golden::SCHEMA,
        cases,
    })
}
