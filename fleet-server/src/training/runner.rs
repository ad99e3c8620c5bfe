//! One training run, from its claim to its result: reads the samples, fits on a thread of its own, writes metrics as they
//! come, evaluates the exported model with the engine that devices run, and keeps model and golden set as blobs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use flotilla_api_types::datasets::Split;
use flotilla_api_types::runs::{self as api, Evaluation, MetricPoint, Run, Trainer};
use flotilla_engine::Model;
use flotilla_protocol::codec;
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::golden::GoldenSet;
use flotilla_protocol::ids::{DatasetVersionId, RunId};
use tokio::sync::mpsc;

use crate::app::App;
use crate::domain::dataset::{self as domain, DatasetVersionDoc};
use crate::heavy::Stopping;
use crate::store::jobs::Claim;
use crate::store::{StoreError, audit as audit_log, runs};
use crate::training::export::to_onnx;
use crate::training::fit::{self, EpochMetrics, FitError, MlpParameters, MlpWeights, TrainingSet, balanced_weights};
use crate::training::golden::{ScoredSample, golden_samples, golden_set};
use crate::training::scoring::{self, ScoringError, Subject, trained_package};
use crate::training::trainset::{self, Labelled, RawSamples, TrainsetError, with_raw};
use crate::work::{ACTOR, Control, JobError, fenced, succeed};
use crate::{audit, clock};

/// Epochs whose metrics may wait for the database; then the trainer waits.
const METRICS_QUEUE: usize = 256;

/// Parameters as the trainer takes them.
pub fn parameters(trainer: &Trainer) -> MlpParameters {
    let Trainer::Mlp(mlp) = trainer;
    #[expect(clippy::cast_possible_truncation, reason = "the trainer works in FP32")]
    let weight_decay = mlp.weight_decay as f32;
    MlpParameters {
        hidden: mlp.hidden.iter().map(|width| *width as usize).collect(),
        learning_rate: mlp.learning_rate,
        weight_decay,
        epochs: mlp.epochs,
        batch_size: mlp.batch_size,
    }
}

/// A version's samples, ready to evaluate on.
struct Prepared {
    document: DatasetVersionDoc,
    samples: Vec<Labelled>,
}

impl Prepared {
    fn of(&self, split: domain::Split) -> impl Iterator<Item = &Labelled> {
        self.samples.iter().filter(move |sample| sample.split == split)
    }
}

/// What is fitted on: the training split. It is let go once that is done.
struct TrainingData {
    /// Row-major.
    features: Vec<f32>,
    feature_count: usize,
    labels: Vec<usize>,
    classes: Vec<String>,
}

/// Works on a claimed run.
pub(crate) async fn train(app: &App, claim: &Claim, control: &Arc<Control>) -> Result<(), JobError> {
    let started = tokio::time::Instant::now();
    let id: RunId = claim
        .subject
        .parse()
        .map_err(|why| StoreError::corrupt("job subject", why))?;
    let run = runs::get(&app.db, &app.fleet.project, id).await?.run;
    let mut tx = fenced(app, claim).await?;
    runs::start(&mut tx, id).await?;
    tx.commit().await.map_err(StoreError::from)?;

    control.report(0.0, "reading samples");
    let (version, document) = trainset::load_version(app, run.dataset_version).await?;
    let needed = trainset::raw_bytes(&document, None).saturating_add(trainset::feature_bytes(&document));
    trainset::check_bytes(needed, app.heavy.dataset_bytes())?;
    let watch = Arc::clone(control);
    let (prepared, data) = with_raw(&app.db, version.dataset, move |raw| prepare(document, raw, &watch)).await?;
    let (weights, last) = fit_reporting(app, claim, control, &run, data).await?;

    control.report(0.9, "evaluating");
    let watch = Arc::clone(control);
    let result = tokio::task::spawn_blocking(move || finish(&run, &prepared, &weights, &watch))
        .await
        .map_err(|why| JobError::Failed(format!("the evaluation broke off: {why}")))??;
    let metrics = metrics(&result.evaluations, &last, started.elapsed().as_secs_f64());
    let finished = runs::Finished {
        model: app.blobs.put(result.onnx.into()).await?.sha256,
        golden: app.blobs.put(result.golden.into()).await?.sha256,
        metrics,
        evaluations: result.evaluations,
    };
    let mut tx = fenced(app, claim).await?;
    runs::finish(&mut tx, id, &finished, clock::now_ms()).await?;
    let detail = [
        ("model", finished.model.to_string()),
        ("dataset_version", version.id.to_string()),
        ("dataset_digest", version.digest.to_string()),
    ];
    audit_log::append(
        &mut tx,
        &audit::record(ACTOR, "run.finished", format!("run:{id}"), detail),
    )
    .await?;
    let accuracy = finished
        .metrics
        .get("holdout.accuracy")
        .or_else(|| finished.metrics.get("train.accuracy"));
    let message = format!("finished with accuracy {:.3}", accuracy.copied().unwrap_or(0.0));
    Ok(succeed(app, claim, tx, &message).await?)
}

fn prepare(
    document: DatasetVersionDoc,
    raw: RawSamples,
    control: &Control,
) -> Result<(Prepared, TrainingData), JobError> {
    let read = trainset::collect(&document, raw.take_while(|_| !control.is_stopping()), None);
    // Told to stop on the way, it has read too little, which is no fault of the samples.
    control.check()?;
    let samples = read?;
    let training = samples
        .iter()
        .filter(|sample| sample.split == domain::Split::Train)
        .count();
    let feature_count = document.features.feature_count();
    // At their final size: a vector that grows stands in memory twice while it does.
    let mut features = Vec::with_capacity(training.saturating_mul(feature_count));
    let mut labels = Vec::with_capacity(training);
    for (index, sample) in samples.iter().enumerate() {
        if index.is_multiple_of(256) {
            control.check()?;
        }
        if sample.split != domain::Split::Train {
            continue;
        }
        let row = document
            .features
            .compute(&sample.raw)
            .map_err(|why| JobError::Failed(format!("sample {index} of the dataset version: {why}")))?;
        features.extend(row);
        labels.push(sample.label);
    }
    let data = TrainingData {
        features,
        feature_count,
        labels,
        classes: document.labels.clone(),
    };
    Ok((Prepared { document, samples }, data))
}

/// Fits on a blocking thread; writes every epoch's metrics while it goes on.
async fn fit_reporting(
    app: &App,
    claim: &Claim,
    control: &Arc<Control>,
    run: &Run,
    data: TrainingData,
) -> Result<(MlpWeights, EpochMetrics), JobError> {
    let (sender, mut queue) = mpsc::channel::<EpochMetrics>(METRICS_QUEUE);
    let parameters = parameters(&run.trainer);
    let trainer = run.trainer.clone();
    let seed = run.seed;
    let watch = Arc::clone(control);
    let fitting = tokio::task::spawn_blocking(move || {
        let api::Trainer::Mlp(mlp) = &trainer;
        let weights = match mlp.class_weights {
            api::ClassWeights::None => None,
            api::ClassWeights::Balanced => Some(balanced_weights(&data.labels, data.classes.len())),
        };
        let set = TrainingSet {
            features: &data.features,
            feature_count: data.feature_count,
            labels: &data.labels,
            classes: &data.classes,
            weights: weights.as_deref(),
        };
        let mut last = None;
        let weights = fit::fit(&set, &parameters, seed, &mut |epoch| {
            last = Some(epoch);
            // A closed queue means that the metrics cannot be written: the run ends.
            if watch.is_stopping() || sender.blocking_send(epoch).is_err() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok::<_, FitError>((weights, last))
    });
    let written = write_metrics(app, claim, control, run.id, &mut queue).await;
    queue.close();
    drop(queue);
    let fitted = fitting
        .await
        .map_err(|why| JobError::Failed(format!("the trainer broke off: {why}")))?;
    written?;
    match fitted {
        Ok((weights, Some(last))) => Ok((weights, last)),
        Ok((_, None)) => Err(JobError::Failed("the trainer ran no epoch".to_owned())),
        Err(FitError::Cancelled { .. }) => Err(JobError::Stopped),
        Err(error) => Err(JobError::Failed(error.to_string())),
    }
}

async fn write_metrics(
    app: &App,
    claim: &Claim,
    control: &Control,
    run: RunId,
    queue: &mut mpsc::Receiver<EpochMetrics>,
) -> Result<(), StoreError> {
    let mut batch = Vec::with_capacity(METRICS_QUEUE);
    while queue.recv_many(&mut batch, METRICS_QUEUE).await > 0 {
        if let Some(last) = batch.last() {
            let share = f64::from(last.epoch) / f64::from(last.epochs.max(1));
            control.report(
                0.1 + 0.8 * share,
                format!(
                    "epoch {} of {}: loss {:.4}, accuracy {:.3}",
                    last.epoch, last.epochs, last.loss, last.accuracy
                ),
            );
        }
        let point = |name: &str, epoch: &EpochMetrics, value| MetricPoint {
            name: name.to_owned(),
            step: u64::from(epoch.epoch),
            value,
        };
        let points: Vec<MetricPoint> = batch
            .drain(..)
            .flat_map(|epoch| {
                [
                    point("train.loss", &epoch, epoch.loss),
                    point("train.accuracy", &epoch, epoch.accuracy),
                ]
            })
            .collect();
        let mut tx = fenced(app, claim).await?;
        runs::add_metrics(&mut tx, run, &points).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// What fitting left, in its final form.
struct Outcome {
    onnx: Vec<u8>,
    golden: Vec<u8>,
    evaluations: Vec<Evaluation>,
}

/// Exports, loads the export into the engine and evaluates it there: what is measured is what devices will run.
fn finish(run: &Run, prepared: &Prepared, weights: &MlpWeights, control: &Control) -> Result<Outcome, JobError> {
    let failed = |why: &dyn std::fmt::Display| JobError::Failed(why.to_string());
    let document = &prepared.document;
    let onnx = to_onnx(weights, &run.experiment).map_err(|why| failed(&why))?;
    let package = trained_package(&document.features, &document.labels);
    let mut model = Model::load(&onnx, &package).map_err(|why| failed(&why))?;
    let mut evaluations = Vec::new();
    for (split, part) in [
        (Split::Train, domain::Split::Train),
        (Split::Holdout, domain::Split::Holdout),
    ] {
        if prepared.of(part).next().is_none() {
            continue;
        }
        let subject = Subject {
            run: run.id,
            dataset_version: run.dataset_version,
            split,
        };
        let stopping = || control.is_stopping();
        match scoring::evaluate(&mut model, &document.features, prepared.of(part), subject, &stopping) {
            Ok(evaluation) => evaluations.push(evaluation),
            Err(ScoringError::Stopped) => return Err(JobError::Stopped),
            Err(error) => return Err(failed(&error)),
        }
    }
    let golden = trainers_golden_set(document, &prepared.samples, weights)?;
    Ok(Outcome {
        onnx,
        golden: codec::to_vec(&golden).map_err(|why| failed(&why))?,
        evaluations,
    })
}

/// Raw samples with what the trainer's own forward pass makes of them: neither burn nor the engine computes these.
fn trainers_golden_set(
    document: &DatasetVersionDoc,
    samples: &[Labelled],
    weights: &MlpWeights,
) -> Result<GoldenSet, JobError> {
    let failed = |why: &dyn std::fmt::Display| JobError::Failed(why.to_string());
    let picked = golden_samples(samples, document.features.sample_len());
    let mut scores = Vec::with_capacity(picked.len());
    for sample in &picked {
        let row = document.features.compute(&sample.raw).map_err(|why| failed(&why))?;
        scores.push(weights.forward(&row).map_err(|why| failed(&why))?);
    }
    let scored: Vec<ScoredSample<'_>> = picked
        .iter()
        .zip(&scores)
        .map(|(sample, scores)| ScoredSample {
            values: &sample.raw,
            scores,
        })
        .collect();
    golden_set(&document.features, &document.labels, &scored).map_err(|why| failed(&why))
}

fn metrics(evaluations: &[Evaluation], last: &EpochMetrics, duration_s: f64) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::from([
        ("train.loss".to_owned(), last.loss),
        ("duration_s".to_owned(), duration_s),
    ]);
    for evaluation in evaluations {
        let split = evaluation.split.as_str();
        metrics.insert(format!("{split}.accuracy"), evaluation.accuracy);
        metrics.insert(format!("{split}.log_loss"), evaluation.log_loss);
        metrics.insert(format!("{split}.ece"), evaluation.calibration_error);
    }
    metrics
}

/// Why a run cannot be evaluated on a version.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    #[error(transparent)]
    Samples(#[from] TrainsetError),
    #[error("{0}")]
    Refused(String),
    #[error("stopped")]
    Stopped,
}

/// Evaluates a finished run's model on a split of any version with the same features and labels.
pub async fn evaluate(
    app: &App,
    run: &Run,
    (version, split): (DatasetVersionId, Split),
    stopping: Stopping,
) -> Result<Evaluation, EvaluationError> {
    let refused = |why: String| EvaluationError::Refused(why);
    let Some(model) = run.model else {
        return Err(refused(format!("run {} has no model: it is not finished", run.id)));
    };
    let (_, own) = trainset::load_version(app, run.dataset_version).await?;
    let (other, document) = trainset::load_version(app, version).await?;
    if own.features != document.features {
        return Err(refused(
            "the dataset version has other features than the run's".to_owned(),
        ));
    }
    if own.labels != document.labels {
        let (of_run, given) = (own.labels.join(", "), document.labels.join(", "));
        return Err(refused(format!(
            "the dataset version has labels {given}; the run's are {of_run}"
        )));
    }
    let onnx = app.blobs.get(&model).await.map_err(TrainsetError::from)?;
    let subject = Subject {
        run: run.id,
        dataset_version: version,
        split,
    };
    let wanted = match split {
        Split::Train => domain::Split::Train,
        Split::Holdout => domain::Split::Holdout,
    };
    trainset::check_bytes(trainset::raw_bytes(&document, Some(wanted)), app.heavy.dataset_bytes())?;
    with_raw(&app.db, other.dataset, move |raw| {
        let samples = trainset::collect(&document, raw, Some(wanted))?;
        let package = trained_package(&document.features, &document.labels);
        let mut model = Model::load(&onnx, &package).map_err(|why| EvaluationError::Refused(why.to_string()))?;
        scoring::evaluate(&mut model, &document.features, &samples, subject, &|| {
            stopping.is_stopping()
        })
        .map_err(|why| match why {
            ScoringError::Stopped => EvaluationError::Stopped,
            why => EvaluationError::Refused(why.to_string()),
        })
    })
    .await
}

/// Is this a trainer that could run on such data?
pub fn check_trainer(trainer: &api::Trainer, features: &FeatureSpec, labels: &[String]) -> Result<(), FitError> {
    let set = TrainingSet {
        features: &[],
        feature_count: features.feature_count(),
        labels: &[],
        classes: labels,
        weights: None,
    };
    fit::check_parameters(&set, &parameters(trainer))
}
