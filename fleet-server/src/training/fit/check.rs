//! What parameters and data a network can be fitted with.

use super::{FitError, MAX_LAYERS, MAX_WEIGHTS, MAX_WIDTH, MlpParameters, TrainingSet, layer_widths};

/// Are these parameters that data of this form can be fitted with?
pub fn check_parameters(set: &TrainingSet<'_>, parameters: &MlpParameters) -> Result<(), FitError> {
    let refuse = |why: String| Err(FitError::Parameter(why));
    if parameters.hidden.len() > MAX_LAYERS {
        return refuse(format!(
            "hidden: {} layers, at most {MAX_LAYERS}",
            parameters.hidden.len()
        ));
    }
    if let Some(width) = parameters.hidden.iter().find(|width| !(1..=MAX_WIDTH).contains(*width)) {
        return refuse(format!("hidden: a layer of {width}, 1 to {MAX_WIDTH} are possible"));
    }
    let rate = parameters.learning_rate;
    if !(rate.is_finite() && rate > 0.0) {
        return refuse(format!("learning_rate: {rate} is not above 0"));
    }
    let decay = parameters.weight_decay;
    if !(decay.is_finite() && decay >= 0.0) {
        return refuse(format!("weight_decay: {decay} is below 0"));
    }
    if !(1..=1_000_000).contains(&parameters.epochs) {
        return refuse(format!("epochs: {}, 1 to 1000000 are possible", parameters.epochs));
    }
    if parameters.batch_size == 0 {
        return refuse("batch_size: at least 1".to_owned());
    }
    let widths = layer_widths(set, parameters);
    let total: usize = widths
        .windows(2)
        .map(|pair| {
            pair.iter()
                .fold(1usize, |product, width| product.saturating_mul(*width))
        })
        .fold(0, usize::saturating_add);
    if total > MAX_WEIGHTS {
        return refuse(format!("hidden: {total} weights, at most {MAX_WEIGHTS}"));
    }
    Ok(())
}

pub(super) fn check_data(set: &TrainingSet<'_>) -> Result<(), FitError> {
    let samples = set.labels.len();
    if samples == 0 || set.feature_count == 0 {
        return Err(FitError::Empty);
    }
    let expected = samples.saturating_mul(set.feature_count);
    if set.features.len() != expected {
        return Err(FitError::Size {
            what: "features",
            expected,
            found: set.features.len(),
        });
    }
    if u32::try_from(samples).is_err() {
        return Err(FitError::Parameter(format!("samples: {samples}, at most {}", u32::MAX)));
    }
    if let Some(index) = set.features.iter().position(|v| !v.is_finite()) {
        return Err(FitError::NotFinite {
            sample: index / set.feature_count,
            feature: index % set.feature_count,
        });
    }
    let classes = set.classes.len();
    if let Some((sample, label)) = set.labels.iter().enumerate().find(|(_, label)| **label >= classes) {
        return Err(FitError::Label {
            sample,
            label: *label,
            classes,
        });
    }
    let first = set.labels.first();
    if set.labels.iter().all(|label| Some(label) == first) {
        let name = first.and_then(|label| set.classes.get(*label));
        return Err(FitError::OneClass(name.cloned().unwrap_or_default()));
    }
    let Some(weights) = set.weights else { return Ok(()) };
    if weights.len() != samples {
        return Err(FitError::Size {
            what: "sample weights",
            expected: samples,
            found: weights.len(),
        });
    }
    match weights.iter().enumerate().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
        Some((sample, weight)) => Err(FitError::Weight {
            sample,
            weight: *weight,
        }),
        None => Ok(()),
    }
}
