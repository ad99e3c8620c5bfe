//! The job that applies all labeling functions of a dataset to its training split and settles their votes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use flotilla_api_types::datasets::{
    FitLabelModel, LabelModel, LabelModelKind, LabelingFunction, LabelingFunctionStatistics, Split,
};
use flotilla_protocol::ids::Digest;

use crate::app::App;
use crate::domain::label_model::{self, LabelEstimate};
use crate::domain::labeling::{self as domain, LabelMatrix, LabelingSet, SetSummary};
use crate::store::datasets::{LabelledSample, StoredDataset};
use crate::store::jobs::Claim;
use crate::store::labels::{Guess, Settled};
use crate::store::{audit as audit_log, datasets, json, labels};
use crate::training::trainset::{RawSamples, TrainsetError, with_raw};
use crate::work::{ACTOR, Control, JobError, fenced, succeed};
use crate::{audit, clock};

pub(super) async fn fit(app: &App, claim: &Claim, control: &Arc<Control>) -> Result<(), JobError> {
    let ask: FitLabelModel = json("job", &claim.payload)?;
    let dataset = datasets::get(&app.db, &app.fleet.project, &claim.subject).await?;
    let work = Work {
        functions: labels::functions(&app.db, dataset.id).await?,
        samples: datasets::labelled(&app.db, dataset.id).await?,
        dataset: dataset.clone(),
        slices: ask.slices.clone(),
        model: ask.model,
        control: Arc::clone(control),
    };
    let settled = with_raw(&app.db, dataset.id, move |raw| work.settle(raw)).await?;
    control.report(0.9, "writing guesses");
    let mut tx = fenced(app, claim).await?;
    labels::settle(&mut tx, dataset.id, ask.slices.as_deref(), &settled, clock::now_ms()).await?;
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

/// Samples, and the features of each.
type Rows<'a> = (Vec<&'a LabelledSample>, Vec<Vec<f32>>);

struct Work {
    dataset: StoredDataset,
    functions: Vec<LabelingFunction>,
    samples: Vec<LabelledSample>,
    slices: Option<Vec<String>>,
    model: LabelModelKind,
    control: Arc<Control>,
}

impl Work {
    fn settle(self, raw: RawSamples) -> Result<Settled, JobError> {
        let failed = |why: &dyn std::fmt::Display| JobError::Failed(why.to_string());
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
        let (items, rows) = self.rows(raw)?;
        if items.is_empty() {
            return Err(failed(&"the training split has no samples"));
        }
        self.control.report(
            0.5,
            format!("{} functions vote on {} samples", functions.len(), items.len()),
        );
        let matrix = set.apply(rows.iter().map(Vec::as_slice)).map_err(|why| failed(&why))?;
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
        self.control.check()?;
        let model = match self.model {
            LabelModelKind::DawidSkene => label_model::LabelModel::DawidSkene,
            LabelModelKind::Majority => label_model::LabelModel::Majority,
        };
        let estimate = model.fit(&matrix);
        Ok(Settled {
            summary: self.summary(&table, &matrix, &estimate, &gold),
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

    /// The training samples of the slices asked for, and their features.
    fn rows(&self, raw: RawSamples) -> Result<Rows<'_>, JobError> {
        let wanted = |slice: &String| self.slices.as_ref().is_none_or(|slices| slices.contains(slice));
        let wanted: HashMap<Digest, &LabelledSample> = self
            .samples
            .iter()
            .filter(|sample| sample.split == Split::Train && wanted(&sample.slice))
            .map(|sample| (sample.digest, sample))
            .collect();
        let (mut items, mut rows) = (Vec::new(), Vec::new());
        for (digest, values) in raw {
            let (Some(sample), Some(features)) = (wanted.get(&digest), &self.dataset.features) else {
                continue;
            };
            let row = features
                .compute(&values)
                .map_err(|source| TrainsetError::Sample { digest, source })?;
            items.push(*sample);
            rows.push(row);
            if rows.len().is_multiple_of(256) {
                self.control.check()?;
                self.control.report(0.1, format!("{} samples read", rows.len()));
            }
        }
        Ok((items, rows))
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
