//! Fits a multilayer perceptron for classification, with burn on its CPU backend.
//!
//! Deterministic: weights start from and batches are drawn by [`TrainingRng`]; the same data, parameters and seed give the
//! same bits on the same kind of processor (the matrix kernels choose instructions by processor, which may round
//! differently elsewhere). The forward pass that golden outputs come from is plain Rust over the weights, independent of
//! burn and of the inference engine.

use std::ops::ControlFlow;

use burn::optim::{AdamW, AdamWConfig, Optimizer};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Tensor, TensorData};
use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use super::rng::TrainingRng;

/// Most hidden layers.
pub const MAX_LAYERS: usize = 8;
/// Widest hidden layer.
pub const MAX_WIDTH: usize = 4096;
/// Most weights of a network.
pub const MAX_WEIGHTS: usize = 64 << 20;
/// A standard deviation below this is taken as 1: the feature is constant.
const LEAST_STD: f32 = 1e-6;

/// What to train, and how. The optimiser is `AdamW` (β 0.9 and 0.999, ε 1e-8) with decoupled decay of weights; biases are
/// not decayed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpParameters {
    /// Widths of the hidden layers; none = softmax regression.
    pub hidden: Vec<usize>,
    pub learning_rate: f64,
    pub weight_decay: f32,
    pub epochs: u32,
    pub batch_size: u32,
}

/// Labelled features.
#[derive(Debug, Clone, Copy)]
pub struct TrainingSet<'a> {
    /// Row-major `[samples, feature_count]`.
    pub features: &'a [f32],
    pub feature_count: usize,
    /// Index into `classes`, one per sample.
    pub labels: &'a [usize],
    pub classes: &'a [String],
    /// Weight of each sample in the loss; `None` = 1.
    pub weights: Option<&'a [f32]>,
}

/// Why nothing was fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FitError {
    #[error("the dataset has no training samples")]
    Empty,
    #[error("the dataset has one class: every training sample is '{0}'; label samples of another class")]
    OneClass(String),
    #[error("{what}: {found} values where {expected} are needed")]
    Size {
        what: &'static str,
        expected: usize,
        found: usize,
    },
    #[error("sample {sample}, feature {feature} is not a finite number")]
    NotFinite { sample: usize, feature: usize },
    #[error("sample {sample} has class {label}, there are {classes}")]
    Label {
        sample: usize,
        label: usize,
        classes: usize,
    },
    #[error("sample {sample} has weight {weight}; weights are finite and not negative")]
    Weight { sample: usize, weight: f32 },
    #[error("parameter {0}")]
    Parameter(String),
    #[error("the loss is no longer a number in epoch {epoch}; lower the learning rate of {learning_rate}")]
    Diverged { epoch: u32, learning_rate: f64 },
    #[error("stopped in epoch {epoch}")]
    Cancelled { epoch: u32 },
    #[error("the tensor library failed: {0}")]
    Backend(String),
}

/// How an epoch went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// From 1.
    pub epoch: u32,
    pub epochs: u32,
    /// Mean weighted cross-entropy over the epoch's batches, before each batch's step.
    pub loss: f64,
    /// Share of training samples classified right, before each batch's step.
    pub accuracy: f64,
}

/// A dense layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DenseLayer {
    pub inputs: usize,
    pub outputs: usize,
    /// Row-major `[inputs, outputs]`.
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// A trained network: standardisation, layers with `ReLU` between them, softmax.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MlpWeights {
    pub mean: Vec<f32>,
    /// Population standard deviation; 1 for a constant feature.
    pub std: Vec<f32>,
    pub layers: Vec<DenseLayer>,
    /// In the order of the scores.
    pub labels: Vec<String>,
}

impl MlpWeights {
    /// Probabilities `[samples, classes]` of features `[samples, features]`. Sums run in FP64.
    pub fn forward(&self, features: &[f32]) -> Result<Vec<f32>, FitError> {
        let width = self.mean.len();
        if width == 0 || !features.len().is_multiple_of(width) {
            return Err(FitError::Size {
                what: "features",
                expected: width,
                found: features.len(),
            });
        }
        if let Some(index) = features.iter().position(|value| !value.is_finite()) {
            return Err(FitError::NotFinite {
                sample: index / width,
                feature: index % width,
            });
        }
        let mut out = Vec::with_capacity(features.len() / width * self.labels.len());
        for row in features.chunks_exact(width) {
            let mut values: Vec<f32> = row
                .iter()
                .zip(self.mean.iter().zip(&self.std))
                .map(|(value, (mean, std))| (value - mean) / std)
                .collect();
            for (index, layer) in self.layers.iter().enumerate() {
                values = layer.forward(&values, index + 1 < self.layers.len());
            }
            out.extend(softmax(&values));
        }
        Ok(out)
    }

    /// The weights' name: SHA-256 of their CBOR.
    pub fn digest(&self) -> Result<Digest, CodecError> {
        Ok(Digest::of(&codec::to_vec(self)?))
    }
}

impl DenseLayer {
    /// `rectify`: a hidden layer, with its `ReLU`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "activations are FP32, as in the exported graph"
    )]
    fn forward(&self, input: &[f32], rectify: bool) -> Vec<f32> {
        let mut sums: Vec<f64> = self.bias.iter().map(|b| f64::from(*b)).collect();
        for (value, row) in input.iter().zip(self.weight.chunks_exact(self.outputs.max(1))) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value) * f64::from(*weight);
            }
        }
        sums.into_iter()
            .map(|sum| if rectify { sum.max(0.0) } else { sum } as f32)
            .collect()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "scores are FP32, as in the exported graph"
)]
fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|v| f64::from(v - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

/// Fits a network. `progress` is called after every epoch; `Break` stops with [`FitError::Cancelled`].
pub fn fit(
    set: &TrainingSet<'_>,
    parameters: &MlpParameters,
    seed: u64,
    progress: &mut dyn FnMut(EpochMetrics) -> ControlFlow<()>,
) -> Result<MlpWeights, FitError> {
    check_parameters(set, parameters)?;
    check_data(set)?;
    let (mean, std) = standardization(set);
    let standardized: Vec<f32> = set
        .features
        .chunks_exact(set.feature_count)
        .flat_map(|row| row.iter().zip(mean.iter().zip(&std)).map(|(v, (m, s))| (v - m) / s))
        .collect();
    let mut rng = TrainingRng::new(seed);
    let mut trainer = Trainer::new(set, parameters, &mut rng);
    let mut order: Vec<u32> = (0u32..).take(set.labels.len()).collect();
    for epoch in 1..=parameters.epochs {
        rng.shuffle(&mut order);
        let (mut loss, mut correct) = (0.0, 0usize);
        for batch in order.chunks(parameters.batch_size as usize) {
            let (batch_loss, batch_correct) = trainer.step(set, &standardized, batch)?;
            loss += batch_loss;
            correct += batch_correct;
        }
        if !loss.is_finite() {
            return Err(FitError::Diverged {
                epoch,
                learning_rate: parameters.learning_rate,
            });
        }
        let metrics = EpochMetrics {
            epoch,
            epochs: parameters.epochs,
            loss: loss / to_f64(order.len()),
            accuracy: to_f64(correct) / to_f64(order.len()),
        };
        if progress(metrics).is_break() {
            return Err(FitError::Cancelled { epoch });
        }
    }
    let weights = MlpWeights {
        mean,
        std,
        layers: trainer.into_layers()?,
        labels: set.classes.to_vec(),
    };
    if weights
        .layers
        .iter()
        .flat_map(|l| l.weight.iter().chain(&l.bias))
        .any(|w| !w.is_finite())
    {
        return Err(FitError::Diverged {
            epoch: parameters.epochs,
            learning_rate: parameters.learning_rate,
        });
    }
    Ok(weights)
}

/// Sample weights that give every class the same total, mean 1 over the samples: `n / (classes present · count)`.
pub fn balanced_weights(labels: &[usize], classes: usize) -> Vec<f32> {
    let mut counts = vec![0usize; classes];
    for label in labels {
        if let Some(count) = counts.get_mut(*label) {
            *count += 1;
        }
    }
    let present = counts.iter().filter(|count| **count > 0).count();
    labels
        .iter()
        .map(|label| {
            let count = counts.get(*label).copied().unwrap_or(0).max(1);
            to_f32(to_f64(labels.len()) / (to_f64(present) * to_f64(count)))
        })
        .collect()
}

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

fn layer_widths(set: &TrainingSet<'_>, parameters: &MlpParameters) -> Vec<usize> {
    let mut widths = vec![set.feature_count];
    widths.extend(&parameters.hidden);
    widths.push(set.classes.len());
    widths
}

fn check_data(set: &TrainingSet<'_>) -> Result<(), FitError> {
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

/// Mean and population standard deviation per feature, over all samples alike.
fn standardization(set: &TrainingSet<'_>) -> (Vec<f32>, Vec<f32>) {
    let samples = to_f64(set.labels.len());
    let column = |feature: usize| {
        set.features
            .iter()
            .skip(feature)
            .step_by(set.feature_count)
            .map(|v| f64::from(*v))
    };
    (0..set.feature_count)
        .map(|feature| {
            let mean = column(feature).sum::<f64>() / samples;
            let variance = column(feature).map(|v| (v - mean) * (v - mean)).sum::<f64>() / samples;
            let std = to_f32(variance.sqrt());
            (to_f32(mean), if std < LEAST_STD { 1.0 } else { std })
        })
        .unzip()
}

/// One layer's parameters with their optimiser state.
struct TrainedLayer {
    weight: Tensor<2>,
    bias: Tensor<1>,
    weight_state: Option<<AdamW as Optimizer>::State<2>>,
    bias_state: Option<<AdamW as Optimizer>::State<1>>,
}

struct Trainer {
    device: Device,
    layers: Vec<TrainedLayer>,
    learning_rate: f64,
    /// Decays; for weights.
    decaying: AdamW,
    /// Does not; for biases.
    plain: AdamW,
    classes: usize,
    feature_count: usize,
}

impl Trainer {
    /// He-uniform hidden layers (limit √(6/in)), Glorot-uniform output (√(6/(in+out))), biases 0.
    fn new(set: &TrainingSet<'_>, parameters: &MlpParameters, rng: &mut TrainingRng) -> Self {
        let device = Device::flex();
        let widths = layer_widths(set, parameters);
        let last = widths.len().saturating_sub(2);
        let layers = widths
            .iter()
            .zip(widths.iter().skip(1))
            .enumerate()
            .map(|(index, (inputs, outputs))| {
                let fan = if index == last { inputs + outputs } else { *inputs };
                let limit = to_f32((6.0 / to_f64(fan)).sqrt());
                let weight: Vec<f32> = (0..inputs * outputs).map(|_| rng.symmetric(limit)).collect();
                TrainedLayer {
                    weight: Tensor::from_data(TensorData::new(weight, [*inputs, *outputs]), &device),
                    bias: Tensor::zeros([*outputs], &device),
                    weight_state: None,
                    bias_state: None,
                }
            })
            .collect();
        let adam = AdamWConfig::new().with_epsilon(1e-8);
        Self {
            device,
            layers,
            learning_rate: parameters.learning_rate,
            decaying: adam.clone().with_weight_decay(parameters.weight_decay).build(),
            plain: adam.with_weight_decay(0.0).build(),
            classes: set.classes.len(),
            feature_count: set.feature_count,
        }
    }

    /// One step on one batch: summed weighted loss and number classified right, both before the step.
    fn step(&mut self, set: &TrainingSet<'_>, rows: &[f32], batch: &[u32]) -> Result<(f64, usize), FitError> {
        let (input, target) = self.gather(set, rows, batch);
        // Fresh leaves every step: the parameters themselves carry no graph.
        let leaves: Vec<(Tensor<2>, Tensor<1>)> = self
            .layers
            .iter()
            .map(|layer| {
                let leaf = (layer.weight.clone().autodiff(), layer.bias.clone().autodiff());
                (leaf.0.require_grad(), leaf.1.require_grad())
            })
            .collect();
        let mut values = input;
        for (index, (weight, bias)) in leaves.iter().enumerate() {
            values = values.matmul(weight.clone()) + bias.clone().unsqueeze();
            if index + 1 < leaves.len() {
                values = relu(values);
            }
        }
        let log_probabilities = log_softmax(values, 1);
        let correct = self.count_correct(set, &read(log_probabilities.clone().inner())?, batch);
        let loss = -(log_probabilities * target).sum();
        let loss_value = read(loss.clone().inner())?.first().copied().unwrap_or(f32::NAN);
        let mut gradients = (loss / to_f64(batch.len())).backward();
        for (layer, (weight, bias)) in self.layers.iter_mut().zip(leaves) {
            let missing = || FitError::Backend("a gradient is missing".to_owned());
            let weight_gradient = weight.grad_remove(&mut gradients).ok_or_else(missing)?;
            let bias_gradient = bias.grad_remove(&mut gradients).ok_or_else(missing)?;
            (layer.weight, layer.weight_state) = self.decaying.step(
                self.learning_rate,
                layer.weight.clone(),
                weight_gradient,
                layer.weight_state.take(),
            );
            (layer.bias, layer.bias_state) = self.plain.step(
                self.learning_rate,
                layer.bias.clone(),
                bias_gradient,
                layer.bias_state.take(),
            );
        }
        Ok((f64::from(loss_value), correct))
    }

    /// A batch's inputs `[batch, features]` and weighted one-hot targets `[batch, classes]`.
    fn gather(&self, set: &TrainingSet<'_>, rows: &[f32], batch: &[u32]) -> (Tensor<2>, Tensor<2>) {
        let mut input = Vec::with_capacity(batch.len() * self.feature_count);
        let mut target = vec![0f32; batch.len() * self.classes];
        for (sample, one_hot) in batch.iter().zip(target.chunks_exact_mut(self.classes)) {
            let sample = *sample as usize;
            let start = sample * self.feature_count;
            input.extend_from_slice(rows.get(start..start + self.feature_count).unwrap_or_default());
            let weight = set.weights.and_then(|w| w.get(sample).copied()).unwrap_or(1.0);
            if let Some(cell) = set.labels.get(sample).and_then(|label| one_hot.get_mut(*label)) {
                *cell = weight;
            }
        }
        let tensor = |data: Vec<f32>, width: usize| {
            Tensor::from_data(TensorData::new(data, [batch.len(), width]), &self.device).autodiff()
        };
        (tensor(input, self.feature_count), tensor(target, self.classes))
    }

    fn count_correct(&self, set: &TrainingSet<'_>, scores: &[f32], batch: &[u32]) -> usize {
        scores
            .chunks_exact(self.classes.max(1))
            .zip(batch)
            .filter(|(row, sample)| {
                let own = set
                    .labels
                    .get(**sample as usize)
                    .and_then(|label| row.get(*label))
                    .copied()
                    .unwrap_or(f32::NEG_INFINITY);
                row.iter().all(|score| *score <= own)
            })
            .count()
    }

    fn into_layers(self) -> Result<Vec<DenseLayer>, FitError> {
        self.layers
            .into_iter()
            .map(|layer| {
                let [inputs, outputs] = layer.weight.dims();
                Ok(DenseLayer {
                    inputs,
                    outputs,
                    weight: read(layer.weight)?,
                    bias: read(layer.bias)?,
                })
            })
            .collect()
    }
}

fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, FitError> {
    tensor
        .try_into_data()
        .map_err(|error| FitError::Backend(error.to_string()))?
        .try_to_vec::<f32>()
        .map_err(|error| FitError::Backend(format!("{error:?}")))
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn to_f64(n: usize) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, reason = "models take FP32")]
fn to_f32(v: f64) -> f32 {
    v as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> MlpParameters {
        MlpParameters {
            hidden: vec![16],
            learning_rate: 0.01,
            weight_decay: 0.01,
            epochs: 60,
            batch_size: 16,
        }
    }

    fn classes() -> Vec<String> {
        vec!["in".into(), "out".into()]
    }

    /// Points inside and outside a circle: no line divides them. A third feature is constant.
    fn circle(samples: u64) -> (Vec<f32>, Vec<usize>) {
        let mut rng = TrainingRng::new(samples);
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            let (x, y) = (rng.symmetric(1.0), rng.symmetric(1.0));
            features.extend([x * 40.0 + 7.0, y, 3.0]);
            labels.push(usize::from(x.hypot(y) > 0.75));
        }
        (features, labels)
    }

    fn run(seed: u64, parameters: &MlpParameters) -> Result<MlpWeights, FitError> {
        let (features, labels) = circle(400);
        let set = TrainingSet {
            features: &features,
            feature_count: 3,
            labels: &labels,
            classes: &classes(),
            weights: None,
        };
        fit(&set, parameters, seed, &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn a_circle_is_learned_and_the_seed_decides_every_bit() {
        let weights = run(5, &parameters()).unwrap();
        let (features, labels) = circle(300);
        let scores = weights.forward(&features).unwrap();
        let right = scores
            .chunks(2)
            .zip(&labels)
            .filter(|(row, label)| usize::from(row[1] > row[0]) == **label)
            .count();
        assert!(right >= 275, "{right} of 300");
        assert!((weights.std[2] - 1.0).abs() < 1e-9, "a constant feature is not scaled");
        assert_eq!(
            weights.digest().unwrap(),
            run(5, &parameters()).unwrap().digest().unwrap()
        );
        assert_ne!(
            weights.digest().unwrap(),
            run(6, &parameters()).unwrap().digest().unwrap()
        );
    }

    #[test]
    fn progress_is_told_and_can_stop() {
        let (features, labels) = circle(200);
        let set = TrainingSet {
            features: &features,
            feature_count: 3,
            labels: &labels,
            classes: &classes(),
            weights: None,
        };
        let mut seen = Vec::new();
        let outcome = fit(&set, &parameters(), 1, &mut |metrics| {
            seen.push(metrics);
            if metrics.epoch == 30 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(outcome, Err(FitError::Cancelled { epoch: 30 }));
        assert_eq!(seen.len(), 30);
        assert!(
            seen[29].loss < seen[0].loss * 0.7 && seen[29].accuracy > seen[0].accuracy,
            "{seen:?}"
        );
    }

    #[test]
    fn weights_and_decay_do_what_they_say() {
        let (features, labels) = circle(300);
        let zero: Vec<f32> = labels.iter().map(|label| if *label == 0 { 0.0 } else { 1.0 }).collect();
        let set = TrainingSet {
            features: &features,
            feature_count: 3,
            labels: &labels,
            classes: &classes(),
            weights: Some(&zero),
        };
        let weights = fit(&set, &parameters(), 1, &mut |_| ControlFlow::Continue(())).unwrap();
        let scores = weights.forward(&features).unwrap();
        assert!(scores.chunks(2).all(|row| row[1] > 0.5), "class 'in' weighs nothing");
        let norm = |decay: f32| {
            let weights = run(
                1,
                &MlpParameters {
                    weight_decay: decay,
                    ..parameters()
                },
            )
            .unwrap();
            weights.layers[0].weight.iter().map(|w| w * w).sum::<f32>()
        };
        assert!(norm(1.0) < norm(0.0) * 0.8);
        assert_eq!(
            balanced_weights(&[0, 0, 0, 1], 3),
            [4.0 / 6.0, 4.0 / 6.0, 4.0 / 6.0, 2.0]
        );
    }

    #[test]
    fn what_cannot_be_fitted_says_why() {
        let names = classes();
        let set = |features: &'static [f32], labels: &'static [usize], weights: Option<&'static [f32]>| {
            let set = TrainingSet {
                features,
                feature_count: 1,
                labels,
                classes: &names,
                weights,
            };
            fit(&set, &parameters(), 1, &mut |_| ControlFlow::Continue(()))
                .unwrap_err()
                .to_string()
        };
        let table = [
            set(&[], &[], None),
            set(&[1.0, 2.0], &[1, 1], None),
            set(&[1.0], &[0, 1], None),
            set(&[1.0, f32::NAN], &[0, 1], None),
            set(&[1.0, 2.0], &[0, 2], None),
            set(&[1.0, 2.0], &[0, 1], Some(&[1.0])),
            set(&[1.0, 2.0], &[0, 1], Some(&[1.0, -1.0])),
            run(
                1,
                &MlpParameters {
                    learning_rate: 0.0,
                    ..parameters()
                },
            )
            .unwrap_err()
            .to_string(),
            run(
                1,
                &MlpParameters {
                    learning_rate: 1e30,
                    ..parameters()
                },
            )
            .unwrap_err()
            .to_string(),
            run(
                1,
                &MlpParameters {
                    hidden: vec![0],
                    ..parameters()
                },
            )
            .unwrap_err()
            .to_string(),
            run(
                1,
                &MlpParameters {
                    batch_size: 0,
                    ..parameters()
                },
            )
            .unwrap_err()
            .to_string(),
        ];
        insta::assert_snapshot!(table.join("\n"), @r"
        the dataset has no training samples
        the dataset has one class: every training sample is 'out'; label samples of another class
        features: 1 values where 2 are needed
        sample 1, feature 0 is not a finite number
        sample 1 has class 2, there are 2
        sample weights: 1 values where 2 are needed
        sample 1 has weight -1; weights are finite and not negative
        parameter learning_rate: 0 is not above 0
        the loss is no longer a number in epoch 1; lower the learning rate of 1000000000000000000000000000000
        parameter hidden: a layer of 0, 1 to 4096 are possible
        parameter batch_size: at least 1
        ");
    }
}
