//! Label models: from the votes of labeling functions to a probability per class. Majority vote, and Dawid–Skene (1979)
//! fitted by EM, where each function's confusion matrix is learned beside the labels.
//!
//! The prior on every confusion matrix is strong: as many pseudo-votes as there are samples, 80 % of them on the diagonal.
//! Functions that a person wrote are mostly right, and with few samples an unregularised fit may well decide that a class
//! is another one. An abstention is a missing observation, not a symbol: how often a function speaks says nothing.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::labeling::LabelMatrix;

/// How votes become labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelModel {
    #[default]
    DawidSkene,
    Majority,
}

/// Share of a confusion matrix' pseudo-votes that lie on its diagonal.
const PRIOR_DIAGONAL: f64 = 0.8;
/// Pseudo-count of every class in the class balance.
const CLASS_PRIOR: f64 = 1.0;
/// Most steps of EM.
pub const MAX_ITERATIONS: u32 = 100;
/// EM stops when no probability moves by this much.
const TOLERANCE: f64 = 1e-6;

/// What a label model says of every sample.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelEstimate {
    classes: usize,
    /// Row-major `[samples, classes]`; rows add up to 1.
    posteriors: Vec<f64>,
    /// Largest probability of each sample; 0 where no function voted.
    pub confidence: Vec<f64>,
    /// EM steps taken; 0 for a majority vote.
    pub iterations: u32,
}

impl LabelEstimate {
    /// Probabilities of one sample, one per class; empty past the end.
    pub fn posterior(&self, item: usize) -> &[f64] {
        self.posteriors
            .chunks_exact(self.classes.max(1))
            .nth(item)
            .unwrap_or_default()
    }

    /// The most probable class (the first of equals); `None` where no function voted.
    pub fn label(&self, item: usize) -> Option<usize> {
        (self.confidence.get(item).copied()? > 0.0)
            .then(|| arg_max(self.posterior(item)))
            .flatten()
    }

    /// The `count` samples that the model knows least about, least sure first, ties in order: the ones to show a person.
    pub fn least_confident(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.confidence.len()).collect();
        let confidence = |item: &usize| self.confidence.get(*item).copied().unwrap_or(0.0);
        order.sort_by(|a, b| confidence(a).total_cmp(&confidence(b)));
        order.truncate(count);
        order
    }
}

fn arg_max(values: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, value) in values.iter().enumerate() {
        if best.is_none_or(|(_, highest)| *value > highest) {
            best = Some((index, *value));
        }
    }
    best.map(|(index, _)| index)
}

impl LabelModel {
    /// Estimates every sample's class from the votes. `progress` is called before every step of EM with its number, from 1
    /// of at most [`MAX_ITERATIONS`]; `Break` stops, and nothing is estimated.
    pub fn fit(
        self,
        matrix: &LabelMatrix,
        progress: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> ControlFlow<(), LabelEstimate> {
        let classes = matrix.labels();
        let (posteriors, iterations) = match self {
            Self::Majority => (majority(matrix, 0.0), 0),
            Self::DawidSkene => dawid_skene(matrix, progress)?,
        };
        let confidence = posteriors
            .chunks_exact(classes.max(1))
            .enumerate()
            .map(|(item, row)| {
                if matrix.votes(item).next().is_none() {
                    return 0.0;
                }
                row.iter().copied().fold(0.0, f64::max)
            })
            .collect();
        ControlFlow::Continue(LabelEstimate {
            classes,
            posteriors,
            confidence,
            iterations,
        })
    }
}

/// Shares of the votes, `smoothing` pseudo-votes spread over the classes; uniform where nobody voted.
fn majority(matrix: &LabelMatrix, smoothing: f64) -> Vec<f64> {
    let classes = matrix.labels();
    let mut out = Vec::with_capacity(matrix.len() * classes);
    for item in 0..matrix.len() {
        let mut row = vec![smoothing / count(classes); classes];
        for (_, class) in matrix.votes(item) {
            if let Some(votes) = row.get_mut(class) {
                *votes += 1.0;
            }
        }
        if !normalize(&mut row) {
            row.fill(1.0 / count(classes));
        }
        out.extend(row);
    }
    out
}

/// EM for Dawid–Skene. Returns posteriors and steps.
fn dawid_skene(
    matrix: &LabelMatrix,
    progress: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> ControlFlow<(), (Vec<f64>, u32)> {
    let classes = matrix.labels();
    let mut posteriors = majority(matrix, 1.0);
    let mut iterations = 0;
    if classes == 0 {
        return ControlFlow::Continue((posteriors, iterations));
    }
    while iterations < MAX_ITERATIONS {
        iterations += 1;
        progress(iterations)?;
        let (balance, confusion) = maximize(matrix, &posteriors);
        let next = expect(matrix, &balance, &confusion);
        let moved = posteriors
            .iter()
            .zip(&next)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        posteriors = next;
        if moved < TOLERANCE {
            break;
        }
    }
    ControlFlow::Continue((posteriors, iterations))
}

/// Log class balance `[classes]`, and log confusion `[functions, classes, votes]` row-major.
fn maximize(matrix: &LabelMatrix, posteriors: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let classes = matrix.labels();
    let strength = count(matrix.len());
    let diagonal = strength * PRIOR_DIAGONAL;
    let off = strength * (1.0 - PRIOR_DIAGONAL) / (count(classes) - 1.0).max(1.0);
    let mut balance = vec![CLASS_PRIOR; classes];
    let mut confusion: Vec<f64> = (0..matrix.functions() * classes * classes)
        .map(|cell| {
            let (class, vote) = (cell / classes % classes, cell % classes);
            if class == vote { diagonal } else { off }
        })
        .collect();
    for (item, row) in posteriors.chunks_exact(classes).enumerate() {
        let mut voted = false;
        for (function, vote) in matrix.votes(item) {
            voted = true;
            let cells = confusion
                .iter_mut()
                .skip(function * classes * classes + vote)
                .step_by(classes);
            for (cell, probability) in cells.zip(row) {
                *cell += probability;
            }
        }
        if voted {
            for (total, probability) in balance.iter_mut().zip(row) {
                *total += probability;
            }
        }
    }
    normalize(&mut balance);
    for row in confusion.chunks_exact_mut(classes) {
        normalize(row);
    }
    for value in balance.iter_mut().chain(&mut confusion) {
        *value = value.ln();
    }
    (balance, confusion)
}

/// Posteriors `[samples, classes]` from log balance and log confusion.
fn expect(matrix: &LabelMatrix, balance: &[f64], confusion: &[f64]) -> Vec<f64> {
    let classes = balance.len();
    let mut out = Vec::with_capacity(matrix.len() * classes);
    for item in 0..matrix.len() {
        let mut row = balance.to_vec();
        for (function, vote) in matrix.votes(item) {
            let cells = confusion
                .iter()
                .skip(function * classes * classes + vote)
                .step_by(classes);
            for (total, cell) in row.iter_mut().zip(cells) {
                *total += cell;
            }
        }
        let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for value in &mut row {
            *value = (*value - highest).exp();
        }
        normalize(&mut row);
        out.extend(row);
    }
    out
}

/// Divides by the sum; false where there is none.
fn normalize(values: &mut [f64]) -> bool {
    let sum: f64 = values.iter().sum();
    if sum <= 0.0 {
        return false;
    }
    for value in values {
        *value /= sum;
    }
    true
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fit(model: LabelModel, matrix: &LabelMatrix) -> LabelEstimate {
        match model.fit(matrix, &mut |_| ControlFlow::Continue(())) {
            ControlFlow::Continue(estimate) => estimate,
            ControlFlow::Break(()) => panic!("nobody stopped it"),
        }
    }

    #[test]
    fn a_fit_is_told_of_every_step_and_can_be_stopped_before_any() {
        let votes: Vec<i16> = (0..300).map(|vote| vote * 7 % 5 % 3).collect();
        let matrix = LabelMatrix::from_votes(3, 3, votes).unwrap();
        let mut steps = Vec::new();
        let whole = LabelModel::DawidSkene.fit(&matrix, &mut |step| {
            steps.push(step);
            ControlFlow::Continue(())
        });
        let ControlFlow::Continue(whole) = whole else {
            panic!("nobody stopped it")
        };
        assert!(whole.iterations > 2, "{}", whole.iterations);
        assert_eq!(steps, (1..=whole.iterations).collect::<Vec<_>>());
        let stopped = LabelModel::DawidSkene.fit(&matrix, &mut |step| {
            if step == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(stopped, ControlFlow::Break(()));
    }

    #[test]
    fn a_majority_is_the_share_of_votes() {
        let matrix = LabelMatrix::from_votes(3, 2, vec![0, 0, 1, -1, -1, -1, 1, -1, 0]).unwrap();
        let estimate = fit(LabelModel::Majority, &matrix);
        assert_eq!(estimate.posterior(0), [2.0 / 3.0, 1.0 / 3.0]);
        assert_eq!((estimate.label(0), estimate.label(1)), (Some(0), None));
        assert_eq!(estimate.label(2), Some(0), "the first of equals");
        assert_eq!(estimate.least_confident(2), [1, 2]);
        assert_eq!(estimate.iterations, 0);
    }

    #[test]
    fn dawid_skene_learns_who_is_wrong() {
        // Functions 0 and 1 are right, 2 always says class 1.
        let mut votes = Vec::new();
        for item in 0..60i16 {
            let truth = item % 2;
            votes.extend([truth, if item % 10 == 0 { -1 } else { truth }, 1]);
        }
        let matrix = LabelMatrix::from_votes(3, 2, votes).unwrap();
        let estimate = fit(LabelModel::DawidSkene, &matrix);
        for item in 0..60 {
            assert_eq!(estimate.label(item), Some(item % 2), "item {item}");
        }
        // Item 0 has one right vote against one wrong one: a majority cannot tell.
        assert!(estimate.posterior(0)[0] > 0.6, "{:?}", estimate.posterior(0));
    }

    proptest! {
        #[test]
        fn posteriors_are_probabilities(votes in proptest::collection::vec(-1i16..4, 0..400)) {
            let votes = votes[..votes.len() / 5 * 5].to_vec();
            let matrix = LabelMatrix::from_votes(5, 4, votes).unwrap();
            for model in [LabelModel::Majority, LabelModel::DawidSkene] {
                let estimate = fit(model, &matrix);
                for item in 0..matrix.len() {
                    let sum: f64 = estimate.posterior(item).iter().sum();
                    prop_assert!((sum - 1.0).abs() < 1e-9);
                    prop_assert!(estimate.posterior(item).iter().all(|p| (0.0..=1.0).contains(p)));
                    prop_assert_eq!(estimate.label(item).is_none(), matrix.votes(item).next().is_none());
                }
            }
        }
    }
}
