//! The job that applies all labeling functions of a dataset to its training split and settles their votes.
//!
//! Guesses are written in short transactions, because devices wait for the same writer, under a generation that the last
//! transaction publishes. What is left of a job that was broken off `reconcile::guesses` removes.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use flotilla_api_types::datasets::{
    FitLabelModel, LabelModel, LabelModelKind, LabelingFunction, LabelingFunctionConflicts, LabelingFunctionStatistics,
    Split, VotingFunction,
};
use flotilla_protocol::ids::{DatasetId, Digest};

use crate::app::App;
use crate::domain::label_model::{self, LabelEstimate, MAX_ITERATIONS};
use crate::domain::labeling::{self as domain, LabelMatrix, LabelingSet, SetSummary};
use crate::store::datasets::{LabelledSample, StoredDataset};
use crate::store::jobs::Claim;
use crate::store::labels::{Generation, Guess, Settled};
use crate::store::{StoreError, audit as audit_log, datasets, json, labels};
use crate::training::trainset::{RawSamples, TrainsetError, with_raw};
use crate::work::{ACTOR, Control, JobError, succeed};
use crate::{audit, clock};

/// Guesses per transaction.
const BATCH: usize = 1000;
/// Samples between two looks at whether to stop.
const LOOK: usize = 256;
/// Where in the job's progress the votes are cast, the label model is fitted and the guesses are written.
const VOTED: f64 = 0.6;
const FITTED: f64 = 0.8;

pub(super) async fn fit(app: &App, claim: &Claim, control: &Arc<Control>) -> Result<(), JobError> {
    let ask: FitLabelModel = json("job", &claim.payload)?;
    let dataset = datasets::get(&app.db, &app.fleet.project, &claim.subject).await?;
    let functions = labels::functions(&app.db, dataset.id).await?;
    check_bytes(app, &dataset, functions.len(), &ask).await?;
    // Before the guesses that are kept are read: whoever publishes others after this is noticed.
    let before = labels::published(&app.db, dataset.id).await?.unwrap_or(0);
    let samples = datasets::labelled(&app.db, dataset.id, None).await?;
    let kept = kept(&samples, ask.slices.as_deref());
    let work = Work {
        functions,
        samples,
        dataset: dataset.clone(),
        slices: ask.slices.clone(),
        model: ask.model,
        control: Arc::clone(control),
    };
    let settled = with_raw(&app.db, dataset.id, move |raw| work.settle(raw)).await?;
    let generation = write(app, claim, control, dataset.id, &[&settled.guesses, &kept]).await?;
    let mut tx = super::wanted(app, claim, control).await?;
    let replaces = ask.slices.is_some().then_some(before);
    labels::publish(&mut tx, generation, replaces, &settled, clock::now_ms()).await?;
    let detail = [
        ("samples", settled.summary.samples.to_string()),
        ("guesses", settled.guesses.len().to_string()),
        ("coverage", format!("{:.3}", settled.summary.coverage)),
    ];
    let record = audit::record(ACTOR, "label-model.fitted", format!("dataset:{}", dataset.id), detail);
    audit_log::append(&mut tx, &record).await?;
    let message = format!(
        "{} of {} samples have a guess",
        settled.guesses.len(),
        settled.summary.samples
    );
    Ok(succeed(app, claim, tx, &message).await?)
}

/// Refuses what would take more memory than the configuration allows, before any of it is read.
async fn check_bytes(
    app: &App,
    dataset: &StoredDataset,
    functions: usize,
    ask: &FitLabelModel,
) -> Result<(), JobError> {
    let counts = datasets::counts(&app.db, dataset.id).await?.slices;
    let needed = needed_bytes(&dataset.spec.labels, functions, &counts, ask);
    let bound = app.heavy.dataset_bytes();
    if needed > bound {
        let samples: u64 = counts.values().sum();
        let classes = dataset.spec.labels.len();
        return Err(JobError::Failed(format!(
            "a label model of {functions} functions and {classes} classes on {samples} samples takes {needed} bytes of memory, and \
             the server's setting training.max_dataset_bytes allows {bound}: fit fewer slices, or raise the setting"
        )));
    }
    Ok(())
}

/// Bytes that fitting takes: of every sample what is known of it, and the guess that becomes of it or is kept; of those that are
/// voted on, which may all be in the training split, the votes, two steps of probabilities, and where things stand. And what is
/// learned of the functions, which no sample is needed for.
fn needed_bytes(labels: &[String], functions: usize, counts: &BTreeMap<String, u64>, ask: &FitLabelModel) -> u64 {
    let label = labels.iter().map(String::len).max().unwrap_or(0);
    // Its hand label and its guess, and the guess that is made of it.
    let known = size_of::<LabelledSample>() + size_of::<Guess>() + 3 * label;
    // The index by digest keeps a quarter of its places free, and doubles when it is full.
    let indexed = 2 * size_of::<(Digest, &LabelledSample)>();
    // Vectors of which nobody knew how long they would be may be twice that.
    let votes = 2 * functions * size_of::<i16>();
    let estimate = (2 * labels.len() + 1) * size_of::<f64>();
    let voted = indexed + votes + estimate + size_of::<&LabelledSample>() + size_of::<Option<usize>>();
    let confusion = match ask.model {
        LabelModelKind::DawidSkene => functions * labels.len() * labels.len() * size_of::<f64>(),
        LabelModelKind::Majority => 0,
    };
    counts.iter().fold(confusion as u64, |needed, (slice, samples)| {
        let is_voted_on = ask.slices.as_ref().is_none_or(|slices| slices.contains(slice));
        let sample = known + slice.len() + if is_voted_on { voted } else { 0 };
        needed.saturating_add(samples.saturating_mul(sample as u64))
    })
}

/// The guesses of slices that were not asked for.
fn kept(samples: &[LabelledSample], slices: Option<&[String]>) -> Vec<Guess> {
    let Some(slices) = slices else {
        return Vec::new();
    };
    samples
        .iter()
        .filter(|sample| !slices.contains(&sample.slice))
        .filter_map(|sample| {
            let (label, confidence) = sample.guess.clone()?;
            Some(Guess {
                sample: sample.digest,
                label,
                confidence,
            })
        })
        .collect()
}

/// Writes guesses that nobody sees yet, with the writer free for others between the batches.
async fn write(
    app: &App,
    claim: &Claim,
    control: &Control,
    dataset: DatasetId,
    guesses: &[&[Guess]],
) -> Result<Generation, JobError> {
    let mut tx = super::wanted(app, claim, control).await?;
    let generation = labels::begin_generation(&mut tx, dataset, claim).await?;
    tx.commit().await.map_err(StoreError::from)?;
    let total = guesses.iter().map(|guesses| guesses.len()).sum();
    let mut written = 0;
    for batch in guesses.iter().flat_map(|guesses| guesses.chunks(BATCH)) {
        let mut tx = super::wanted(app, claim, control).await?;
        labels::add_guesses(&mut tx, generation, batch).await?;
        tx.commit().await.map_err(StoreError::from)?;
        written += batch.len();
        control.report(
            between(FITTED, 1.0, written, total),
            format!("{written} of {total} guesses written"),
        );
    }
    Ok(generation)
}

/// A share of the whole job, `done` of `total` parts after `from` on the way to `to`.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn between(from: f64, to: f64, done: usize, total: usize) -> f64 {
    from + (to - from) * (done as f64 / total.max(1) as f64)
}

struct Work {
    dataset: StoredDataset,
    functions: Vec<LabelingFunction>,
    samples: Vec<LabelledSample>,
    slices: Option<Vec<String>>,
    model: LabelModelKind,
    control: Arc<Control>,
}

fn failed(why: &dyn std::fmt::Display) -> JobError {
    JobError::Failed(why.to_string())
}

impl Work {
    fn settle(self, raw: RawSamples) -> Result<Settled, JobError> {
        let Some(features) = &self.dataset.features else {
            return Err(failed(&"the dataset has no samples"));
        };
        let names = &self.dataset.spec.labels;
        let functions: Vec<_> = self
            .functions
            .iter()
            .map(|function| domain::LabelingFunction {
                name: function.name.clone(),
                when: function.when.clone(),
                label: function.label.clone(),
            })
            .collect();
        let set = LabelingSet::compile(&functions, &features.feature_names(), names).map_err(|why| failed(&why))?;
        let (items, matrix) = self.vote(&set, raw)?;
        if items.is_empty() {
            return Err(failed(&"the training split has no samples"));
        }
        let gold: Vec<Option<usize>> = items
            .iter()
            .map(|sample| {
                sample
                    .hand
                    .as_ref()
                    .and_then(|hand| names.iter().position(|name| name == hand))
            })
            .collect();
        let table = set.summarize(&matrix, Some(&gold)).map_err(|why| failed(&why))?;
        let estimate = self.estimate(&matrix)?;
        let summary = self.summary(&table, &matrix, &estimate, &gold);
        Ok(Settled {
            conflicts: self.conflicts(&summary, &matrix),
            summary,
            guesses: items
                .iter()
                .enumerate()
                .filter_map(|(item, sample)| {
                    Some(Guess {
                        sample: sample.digest,
                        label: names.get(estimate.label(item)?)?.clone(),
                        confidence: estimate.confidence.get(item).copied()?,
                    })
                })
                .collect(),
            statistics: self
                .functions
                .iter()
                .zip(&table.functions)
                .map(|(f, row)| (f.id, statistics(row)))
                .collect(),
        })
    }

    fn conflicts(&self, summary: &LabelModel, matrix: &LabelMatrix) -> LabelingFunctionConflicts {
        let pairs = matrix.pairs();
        let voting = |function: &LabelingFunction| VotingFunction {
            id: function.id,
            name: function.name.clone(),
            label: function.label.clone(),
        };
        LabelingFunctionConflicts {
            samples: summary.samples,
            fitted_at: summary.fitted_at.clone(),
            functions: self.functions.iter().map(voting).collect(),
            overlaps: pairs.overlaps,
            conflicts: pairs.conflicts,
        }
    }

    /// The training samples of the slices asked for, and what every function says of each.
    fn vote(&self, set: &LabelingSet, raw: RawSamples) -> Result<(Vec<&LabelledSample>, LabelMatrix), JobError> {
        let wanted = |slice: &String| self.slices.as_ref().is_none_or(|slices| slices.contains(slice));
        let wanted: HashMap<Digest, &LabelledSample> = self
            .samples
            .iter()
            .filter(|sample| sample.split == Split::Train && wanted(&sample.slice))
            .map(|sample| (sample.digest, sample))
            .collect();
        let (mut items, mut ballot) = (Vec::with_capacity(wanted.len()), set.ballot());
        for (read, (digest, values)) in raw.enumerate() {
            // Those of other slices are read as well.
            if read.is_multiple_of(LOOK) {
                self.control.check()?;
            }
            let (Some(sample), Some(features)) = (wanted.get(&digest), &self.dataset.features) else {
                continue;
            };
            let row = features
                .compute(&values)
                .map_err(|source| TrainsetError::Sample { digest, source })?;
            ballot.cast(&row).map_err(|why| failed(&why))?;
            items.push(*sample);
            if items.len().is_multiple_of(LOOK) {
                let (done, total) = (items.len(), wanted.len());
                self.control.report(
                    between(0.0, VOTED, done, total),
                    format!("{} functions voted on {done} of {total} samples", self.functions.len()),
                );
            }
        }
        self.control.check()?;
        Ok((items, ballot.finish()))
    }

    fn estimate(&self, matrix: &LabelMatrix) -> Result<LabelEstimate, JobError> {
        let model = match self.model {
            LabelModelKind::DawidSkene => label_model::LabelModel::DawidSkene,
            LabelModelKind::Majority => label_model::LabelModel::Majority,
        };
        let estimate = model.fit(matrix, &mut |step| {
            self.control.report(
                between(VOTED, FITTED, step as usize, MAX_ITERATIONS as usize),
                format!("fitting the label model, step {step}"),
            );
            if self.control.is_stopping() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match estimate {
            ControlFlow::Continue(estimate) => Ok(estimate),
            ControlFlow::Break(()) => Err(JobError::Stopped),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn summary(
        &self,
        table: &SetSummary,
        matrix: &LabelMatrix,
        estimate: &LabelEstimate,
        gold: &[Option<usize>],
    ) -> LabelModel {
        let judged: Vec<bool> = gold
            .iter()
            .enumerate()
            .filter_map(|(item, gold)| Some(estimate.label(item)? == (*gold)?))
            .collect();
        let right = judged.iter().filter(|right| **right).count();
        let voted: Vec<usize> = (0..matrix.len())
            .filter(|item| matrix.votes(*item).next().is_some())
            .collect();
        let share = |class: usize| {
            let sum: f64 = voted
                .iter()
                .filter_map(|item| estimate.posterior(*item).get(class))
                .sum();
            sum / (voted.len().max(1) as f64)
        };
        let names = &self.dataset.spec.labels;
        LabelModel {
            model: self.model,
            samples: table.samples,
            iterations: estimate.iterations,
            coverage: table.coverage,
            conflict: table.conflict,
            accuracy: (!judged.is_empty()).then(|| right as f64 / judged.len() as f64),
            prior: names
                .iter()
                .enumerate()
                .map(|(class, name)| (name.clone(), share(class)))
                .collect::<BTreeMap<_, _>>(),
            fitted_at: clock::rfc3339(clock::now_ms()),
        }
    }
}

fn statistics(row: &domain::FunctionSummary) -> LabelingFunctionStatistics {
    LabelingFunctionStatistics {
        coverage: row.coverage,
        overlap: row.overlap,
        conflict: row.conflict,
        accuracy: row.accuracy,
        errors: row.errors.count,
        first_error: row.errors.first.clone(),
    }
}

#[cfg(test)]
mod tests;
