//! Labels, dataset versions, runs.

use std::path::Path;

use flotilla_api_types::Page;
use flotilla_api_types::datasets::{
    Annotation, AnnotationReport, CreateAnnotations, CreateDataset, CreateDatasetVersion, Dataset, DatasetVersion,
    FitLabelModel, ImportReport, LabelModel, LabelingFunction, Sample, Split, StartedJob,
};
use flotilla_api_types::runs::{CreateEvaluation, CreateRun, Evaluation, Run, RunStatus};
use flotilla_api_types::{Job, JobState};
use flotilla_protocol::ids::{DatasetVersionId, JobId};
use serde_json::Value;

use super::{LONG, SHORT, Stage};
use crate::demo::data::{Mounting, Part, Truth};
use crate::demo::report::mean;
use crate::error::CliError;
use crate::output::{bytes, percent};

/// The runs of one dataset version, one per seed.
pub(super) struct Trained {
    pub(super) runs: Vec<Run>,
    /// Accuracy on the held-out samples of the version.
    pub(super) holdout: Vec<f64>,
}

impl Trained {
    /// The run that did best on the held-out samples; the first of equals.
    pub(super) fn best(&self) -> Result<&Run, CliError> {
        let best = self
            .runs
            .iter()
            .zip(&self.holdout)
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(run, _)| run)
            .ok_or_else(|| CliError::Failed("there is no run".to_owned()))
    }
}

#[expect(
    clippy::multiple_inherent_impl,
    reason = "the steps of one stage stand in a file per theme"
)]
impl Stage<'_> {
    /// Imports the data and has it labelled: by functions, by their label model, by hand.
    pub(super) async fn label(&mut self) -> Result<String, CliError> {
        let spec = self.spec;
        self.story.step(
            "Label",
            "the truth is stripped at import; labeling functions vote, a label model settles them, a person does the rest",
        )?;
        let dataset: Dataset = self.client.post(&["datasets"]).json(&spec.dataset)?.send().await?;
        let report = self.import(&dataset.name, &spec.data, "import").await?;
        self.story.say(&format!(
            "imported {} rows ({}): {} samples to train, {} held out, {} kept from the server",
            report.rows,
            bytes(report.bytes),
            report.train,
            report.holdout,
            report.excluded
        ))?;
        let path = ["datasets", dataset.name.as_str(), "labeling-functions"];
        for function in &spec.labeling_functions {
            let _added: LabelingFunction = self.client.post(&path).json(function)?.send().await?;
        }
        let holdout = self.samples(&dataset.name, "import", Split::Holdout).await?;
        let truth = Truth::of(&self.recording, &[Part::Train, Part::Holdout], Mounting::AsTrained);
        let by_hand = self.annotate(&dataset.name, &holdout, &truth).await?;
        self.story.say(&format!(
            "a person labels the {by_hand} held-out samples: they are the measure"
        ))?;
        let model = self.fit(&dataset.name).await?;
        self.story.good(&format!(
            "{} functions label {} of {} training samples; {} of them conflict and are settled",
            spec.labeling_functions.len(),
            percent(model.coverage),
            model.samples,
            percent(model.conflict)
        ))?;
        let uncertain: Page<Sample> = self
            .client
            .get(&["datasets", &dataset.name, "queue"])
            .query("order", "uncertainty")
            .query("slice", "import")
            .query("split", "train")
            .query("values", true)
            .query("limit", spec.hand_budget)
            .send()
            .await?;
        let by_hand = self.annotate(&dataset.name, &uncertain.items, &truth).await?;
        self.story
            .good(&format!("a person labels the {by_hand} least certain ones"))?;
        self.report.figure("label_coverage", model.coverage, "share");
        self.report.figure("label_conflict", model.conflict, "share");
        self.report.count("hand_labels_train", by_hand, "samples");
        Ok(dataset.name)
    }

    async fn import(&mut self, dataset: &str, file: &Path, slice: &str) -> Result<ImportReport, CliError> {
        let length = std::fs::metadata(file).map_err(|why| CliError::file(file, why))?.len();
        let bar = self.story.out().byte_bar(length, "importing");
        let query = [("slice", slice.to_owned())];
        let path = ["datasets", dataset, "imports"];
        let answer: Result<Value, CliError> = self.client.upload(&path, &query, file, "text/csv", bar.clone()).await;
        bar.finish_and_clear();
        serde_json::from_value(answer?).map_err(|why| CliError::Failed(format!("import: {why}")))
    }

    /// All samples of a slice and split that nobody labelled by hand, with their values.
    pub(super) async fn samples(&self, dataset: &str, slice: &str, split: Split) -> Result<Vec<Sample>, CliError> {
        let call = self.client.get(&["datasets", dataset, "samples"]).query("slice", slice);
        call.query("split", split.as_str())
            .query("labelled", false)
            .query("values", true)
            .all()
            .await
    }

    /// The scripted human labels what it recognises. An unknown sample is an error: the demo's data would be wrong.
    async fn annotate(&self, dataset: &str, samples: &[Sample], truth: &Truth) -> Result<u64, CliError> {
        let annotations = samples
            .iter()
            .map(|sample| {
                let label = sample.values.as_deref().and_then(|values| truth.label(values));
                let Some((label, _)) = label else {
                    return Err(CliError::Failed(format!(
                        "sample {} is not in the demo's data",
                        sample.key
                    )));
                };
                Ok(Annotation {
                    sample: sample.digest,
                    label: label.to_owned(),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.send_annotations(dataset, annotations).await
    }

    pub(super) async fn send_annotations(&self, dataset: &str, annotations: Vec<Annotation>) -> Result<u64, CliError> {
        if annotations.is_empty() {
            return Ok(0);
        }
        let call = self.client.post(&["datasets", dataset, "annotations"]);
        let report: AnnotationReport = call.json(&CreateAnnotations { annotations })?.send().await?;
        Ok(report.new)
    }

    async fn fit(&mut self, dataset: &str) -> Result<LabelModel, CliError> {
        let call = self.client.post(&["datasets", dataset, "label-model"]);
        let started: StartedJob = call.json(&FitLabelModel::default())?.send().await?;
        self.jobs(&[started.job], "settling the votes").await?;
        self.client.get(&["datasets", dataset, "label-model"]).send().await
    }

    pub(super) async fn freeze(&mut self, dataset: &str, note: &str) -> Result<DatasetVersion, CliError> {
        self.story.step(
            "Freeze a dataset version",
            "samples, labels and splits under one digest: what a model was trained on can always be named",
        )?;
        let version = self.create_version(dataset, note).await?;
        self.story.good(&format!(
            "version {} ({}): {} to train, {} held out; {} labels by hand, {} by the label model, {} left out",
            version.number,
            version.digest.short(),
            version.train,
            version.holdout,
            version.hand_labels,
            version.model_labels,
            version.left_out
        ))?;
        Ok(version)
    }

    async fn create_version(&self, dataset: &str, note: &str) -> Result<DatasetVersion, CliError> {
        let body = CreateDatasetVersion {
            min_confidence: self.spec.min_confidence,
            slices: None,
            note: note.to_owned(),
        };
        self.client
            .post(&["datasets", dataset, "versions"])
            .json(&body)?
            .send()
            .await
    }

    /// The version after the harvest must hold what was harvested and labelled.
    pub(super) fn check_version(&mut self, version: &DatasetVersion, labelled: u64) {
        let harvested: u64 = version
            .slices
            .iter()
            .filter(|(slice, _)| *slice != "import")
            .map(|(_, n)| n)
            .sum();
        let what = format!("the second version holds the {labelled} harvested and labelled samples ({harvested})");
        self.report.require(what, harvested == labelled);
    }

    /// One run per seed.
    pub(super) async fn train(
        &mut self,
        experiment: &str,
        version: &DatasetVersion,
        cause: &str,
    ) -> Result<Trained, CliError> {
        let spec = self.spec;
        self.story.step(
            &format!("Train the {experiment} model, {} times", spec.seeds.len()),
            "the same data and parameters from different seeds: one lucky run proves nothing",
        )?;
        let mut started: Vec<Run> = Vec::new();
        for seed in &spec.seeds {
            let body = CreateRun {
                experiment: format!("{}-{experiment}", spec.dataset.name),
                dataset_version: version.id,
                trainer: spec.trainer.clone(),
                seed: *seed,
                cause: cause.to_owned(),
            };
            started.push(self.client.post(&["runs"]).json(&body)?.send().await?);
        }
        let jobs: Vec<JobId> = started.iter().map(|run| run.job).collect();
        self.jobs(&jobs, "training").await?;
        let mut trained = Trained {
            runs: Vec::new(),
            holdout: Vec::new(),
        };
        for run in started {
            let run: Run = self.client.get(&["runs", &run.id.to_string()]).send().await?;
            let accuracy = run.metrics.get("holdout.accuracy").copied();
            let (RunStatus::Finished, Some(accuracy)) = (run.status, accuracy) else {
                let why = run.error.unwrap_or_else(|| "no accuracy was measured".to_owned());
                return Err(CliError::Failed(format!("run {}: {why}", run.id)));
            };
            trained.runs.push(run);
            trained.holdout.push(accuracy);
        }
        let each: Vec<String> = trained.holdout.iter().map(|accuracy| percent(*accuracy)).collect();
        self.story.good(&format!(
            "held-out accuracy {} on average ({})",
            percent(mean(&trained.holdout)),
            each.join(", ")
        ))?;
        Ok(trained)
    }

    /// Waits until all of the jobs succeeded.
    async fn jobs(&mut self, jobs: &[JobId], label: &str) -> Result<(), CliError> {
        let bar = self.story.bar(jobs.len() as u64 * 100, label);
        let mut done = 0;
        for id in jobs {
            let path = ["jobs".to_owned(), id.to_string()];
            let client = self.client.clone();
            let progress = bar.clone();
            let ended = self
                .fleet
                .until(label, LONG, async |_| {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    let job: Job = client.get(&path).query("wait_ms", 1000).send().await?;
                    progress.set_position(done + hundredths(job.progress));
                    Ok(job.state.is_final().then_some(job))
                })
                .await;
            let job = ended.inspect_err(|_| bar.finish_and_clear())?;
            if job.state != JobState::Succeeded {
                bar.finish_and_clear();
                let why = job.error.unwrap_or(job.message);
                return Err(CliError::Failed(format!("{label}: {why}")));
            }
            done += 100;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The held-out cases as the re-mounted sensor sees them, as a dataset of their own to measure with.
    pub(super) async fn drifted_holdout(&mut self) -> Result<DatasetVersionId, CliError> {
        let spec = self.spec;
        let body = CreateDataset {
            name: format!("{}-drifted", spec.dataset.name),
            drop_columns: Vec::new(),
            split: flotilla_api_types::datasets::SplitRule::All { split: Split::Holdout },
            harvest_line: None,
            ..spec.dataset.clone()
        };
        let dataset: Dataset = self.client.post(&["datasets"]).json(&body)?.send().await?;
        let file = self.fleet.path("drifted-holdout.csv");
        self.recording.write_csv(&file, Part::Holdout, Mounting::Remounted)?;
        self.import(&dataset.name, &file, "import").await?;
        let samples = self.samples(&dataset.name, "import", Split::Holdout).await?;
        let truth = Truth::of(&self.recording, &[Part::Holdout], Mounting::Remounted);
        self.annotate(&dataset.name, &samples, &truth).await?;
        Ok(self
            .create_version(&dataset.name, "held-out cases, re-mounted")
            .await?
            .id)
    }

    /// Every run's accuracy on the held-out samples of another version.
    pub(super) async fn evaluate(&self, trained: &Trained, version: DatasetVersionId) -> Result<Vec<f64>, CliError> {
        let mut accuracies = Vec::new();
        for run in &trained.runs {
            let body = CreateEvaluation {
                dataset_version: version,
                split: Split::Holdout,
            };
            let path = ["runs".to_owned(), run.id.to_string(), "evaluations".to_owned()];
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let call = self.client.post(&path).json(&body)?;
            let evaluated: Result<Evaluation, CliError> = tokio::time::timeout(SHORT, call.send())
                .await
                .map_err(|elapsed| CliError::Failed(format!("evaluation of run {}: {elapsed}", run.id)))?;
            accuracies.push(evaluated?.accuracy);
        }
        Ok(accuracies)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=100"
)]
fn hundredths(progress: f64) -> u64 {
    (progress * 100.0).clamp(0.0, 100.0) as u64
}
