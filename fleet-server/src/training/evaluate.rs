//! How good a classifier is: accuracy, precision, recall, F1, confusion, log loss and calibration, from scores and labels.

use serde::{Deserialize, Serialize};

/// Bins of the calibration error, equally wide over [0, 1] (Guo et al. 2017).
const CALIBRATION_BINS: usize = 15;
/// Probabilities are clipped to this for the log loss (scikit-learn's, for FP64).
const LEAST_PROBABILITY: f64 = f64::EPSILON;

/// One class against all others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    pub label: String,
    /// Samples of the class.
    pub support: u64,
    /// 0 where the class is never predicted.
    pub precision: f64,
    /// 0 where the class has no samples.
    pub recall: f64,
    pub f1: f64,
}

/// What a model scored on labelled data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub samples: u64,
    pub accuracy: f64,
    /// Mean F1 of the classes that have samples or predictions.
    pub macro_f1: f64,
    /// Mean −ln p(label), natural logarithm.
    pub log_loss: f64,
    /// Expected calibration error: mean |accuracy − confidence| over 15 bins of confidence, weighted by samples.
    pub calibration_error: f64,
    pub classes: Vec<ClassMetrics>,
    /// `confusion[true][predicted]`, samples.
    pub confusion: Vec<Vec<u64>>,
}

/// Why nothing could be evaluated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvaluateError {
    #[error("no labelled samples to evaluate on; hold some out")]
    Empty,
    #[error("{found} scores where {samples} samples of {classes} classes need {}", .samples * .classes)]
    Size {
        samples: usize,
        classes: usize,
        found: usize,
    },
    #[error("sample {sample} has class {label}, there are {classes}")]
    Label {
        sample: usize,
        label: usize,
        classes: usize,
    },
    #[error("the score {value} of sample {sample} is not a probability")]
    Score { sample: usize, value: f32 },
}

/// The class with the highest score, the first of equals.
pub fn predicted(scores: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, score) in scores.iter().enumerate() {
        if *score > best.1 {
            best = (class, *score);
        }
    }
    best.0
}

/// Evaluates probabilities `[samples, classes]`, row-major, against the true classes.
pub fn evaluate(scores: &[f32], labels: &[usize], names: &[String]) -> Result<Evaluation, EvaluateError> {
    let classes = names.len();
    check(scores, labels, classes)?;
    let mut confusion = vec![vec![0u64; classes]; classes];
    let mut bins = [Bin::default(); CALIBRATION_BINS];
    let (mut correct, mut log_loss) = (0u64, 0.0);
    for (row, label) in scores.chunks_exact(classes).zip(labels) {
        let guess = predicted(row);
        let probability = |class: usize| row.get(class).map_or(0.0, |p| f64::from(*p));
        correct += u64::from(guess == *label);
        log_loss -= probability(*label).clamp(LEAST_PROBABILITY, 1.0).ln();
        if let Some(cell) = confusion.get_mut(*label).and_then(|row| row.get_mut(guess)) {
            *cell += 1;
        }
        if let Some(bin) = bins.get_mut(calibration_bin(probability(guess))) {
            bin.samples += 1;
            bin.correct += u64::from(guess == *label);
            bin.confidence += probability(guess);
        }
    }
    let samples = labels.len() as u64;
    let classes: Vec<ClassMetrics> = names
        .iter()
        .enumerate()
        .map(|(c, name)| class_metrics(c, name, &confusion))
        .collect();
    let predicted_once = |class: usize| confusion.iter().any(|row| row.get(class).is_some_and(|n| *n > 0));
    let counted: Vec<f64> = classes
        .iter()
        .enumerate()
        .filter(|(class, metrics)| metrics.support > 0 || predicted_once(*class))
        .map(|(_, metrics)| metrics.f1)
        .collect();
    Ok(Evaluation {
        samples,
        accuracy: share(correct, samples),
        macro_f1: counted.iter().sum::<f64>() / to_f64(counted.len() as u64).max(1.0),
        log_loss: log_loss / to_f64(samples),
        calibration_error: bins
            .iter()
            .map(|bin| (to_f64(bin.correct) - bin.confidence).abs())
            .sum::<f64>()
            / to_f64(samples),
        classes,
        confusion,
    })
}

#[derive(Clone, Copy, Default)]
struct Bin {
    samples: u64,
    correct: u64,
    confidence: f64,
}

fn check(scores: &[f32], labels: &[usize], classes: usize) -> Result<(), EvaluateError> {
    let samples = labels.len();
    if samples == 0 || classes == 0 {
        return Err(EvaluateError::Empty);
    }
    if Some(scores.len()) != samples.checked_mul(classes) {
        return Err(EvaluateError::Size {
            samples,
            classes,
            found: scores.len(),
        });
    }
    if let Some((sample, label)) = labels.iter().enumerate().find(|(_, label)| **label >= classes) {
        return Err(EvaluateError::Label {
            sample,
            label: *label,
            classes,
        });
    }
    // FP32 softmax may exceed 1 by a rounding.
    match scores.iter().enumerate().find(|(_, s)| !(0.0..=1.000_01).contains(*s)) {
        Some((index, value)) => Err(EvaluateError::Score {
            sample: index / classes,
            value: *value,
        }),
        None => Ok(()),
    }
}

/// Bins are `(i/15, (i+1)/15]`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a probability times 15"
)]
fn calibration_bin(confidence: f64) -> usize {
    let bin = (confidence.clamp(0.0, 1.0) * CALIBRATION_BINS as f64).ceil() as usize;
    bin.saturating_sub(1).min(CALIBRATION_BINS - 1)
}

fn class_metrics(class: usize, name: &str, confusion: &[Vec<u64>]) -> ClassMetrics {
    let cell = |row: &Vec<u64>| row.get(class).copied().unwrap_or(0);
    let own = confusion.get(class);
    let hits = own.map_or(0, cell);
    let support = own.map_or(0, |row| row.iter().sum());
    let guesses = confusion.iter().map(cell).sum();
    ClassMetrics {
        label: name.to_owned(),
        support,
        precision: share(hits, guesses),
        recall: share(hits, support),
        f1: share(2 * hits, guesses + support),
    }
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { to_f64(part) / to_f64(of) }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["a", "b", "c"].map(String::from).to_vec()
    }

    #[test]
    fn numbers_match_scikit_learn() {
        // sklearn: accuracy_score, precision_recall_fscore_support, log_loss over these five.
        let scores = [
            0.7, 0.2, 0.1, //
            0.1, 0.8, 0.1, //
            0.5, 0.3, 0.2, //
            0.2, 0.2, 0.6, //
            0.3, 0.4, 0.3,
        ];
        let labels = [0, 1, 1, 2, 0];
        let result = evaluate(&scores, &labels, &names()).unwrap();
        assert!((result.accuracy - 0.6).abs() < 1e-12);
        let expected = -(0.7f64.ln() + 0.8f64.ln() + 0.3f64.ln() + 0.6f64.ln() + 0.3f64.ln()) / 5.0;
        assert!((result.log_loss - expected).abs() < 1e-6, "{}", result.log_loss);
        assert_eq!(result.confusion, [vec![1, 1, 0], vec![1, 1, 0], vec![0, 0, 1]]);
        let triple = |c: usize| {
            (
                result.classes[c].precision,
                result.classes[c].recall,
                result.classes[c].f1,
            )
        };
        assert_eq!((triple(0), triple(2)), ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)));
        assert!((result.macro_f1 - 2.0 / 3.0).abs() < 1e-12);
        // Each sample is alone in its bin: mean |right − confidence|.
        let calibration = (0.3 + 0.2 + 0.5 + 0.4 + 0.4) / 5.0;
        assert!(
            (result.calibration_error - calibration).abs() < 1e-6,
            "{}",
            result.calibration_error
        );
    }

    #[test]
    fn a_class_without_samples_or_predictions_counts_for_nothing() {
        let result = evaluate(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], &[0, 1], &names()).unwrap();
        assert_eq!(
            (result.accuracy.to_bits(), result.macro_f1.to_bits()),
            (1f64.to_bits(), 1f64.to_bits())
        );
        assert_eq!(result.classes[2].support, 0);
        assert!(result.log_loss.abs() < 1e-9 && result.calibration_error.abs() < 1e-9);
        let sure_and_wrong = evaluate(&[1.0, 0.0, 0.0], &[1], &names()).unwrap();
        assert!(sure_and_wrong.log_loss.is_finite() && sure_and_wrong.log_loss > 30.0);
    }

    #[test]
    fn bad_input_is_refused() {
        assert_eq!(evaluate(&[], &[], &names()), Err(EvaluateError::Empty));
        assert!(matches!(
            evaluate(&[0.5; 5], &[0, 1], &names()),
            Err(EvaluateError::Size { .. })
        ));
        assert!(matches!(
            evaluate(&[0.3; 3], &[3], &names()),
            Err(EvaluateError::Label { .. })
        ));
        assert!(matches!(
            evaluate(&[0.3, f32::NAN, 0.2], &[0], &names()),
            Err(EvaluateError::Score { sample: 0, .. })
        ));
    }
}
