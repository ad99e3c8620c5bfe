//! Fits a multilayer perceptron for classification, with burn on its CPU backend.
//!
//! Deterministic: weights start from and batches are drawn by [`TrainingRng`]; the same data, parameters and seed give the
//! same bits on the same kind of processor (the matrix kernels choose instructions by processor, which may round
//! differently elsewhere). The forward pass that golden outputs come from is plain Rust over the weights, independent of
//! burn and of the inference engine.

mod check;
mod network;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use burn::optim::{AdamW, AdamWConfig, Optimizer};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::rng::TrainingRng;

use self::check::check_data;
pub use self::check::check_parameters;
pub use self::network::{DenseLayer, MlpWeights};

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
    let mut rng = TrainingRng::new(seed);
    let mut trainer = Trainer::new(set, parameters, &mut rng);
    let mut order: Vec<u32> = (0u32..).take(set.labels.len()).collect();
    for epoch in 1..=parameters.epochs {
        rng.shuffle(&mut order);
        let (mut loss, mut correct) = (0.0, 0usize);
        for batch in order.chunks(parameters.batch_size as usize) {
            let (batch_loss, batch_correct) = trainer.step(set, (&mean, &std), batch)?;
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

fn layer_widths(set: &TrainingSet<'_>, parameters: &MlpParameters) -> Vec<usize> {
    let mut widths = vec![set.feature_count];
    widths.extend(&parameters.hidden);
    widths.push(set.classes.len());
    widths
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
    fn step(
        &mut self,
        set: &TrainingSet<'_>,
        scale: (&[f32], &[f32]),
        batch: &[u32],
    ) -> Result<(f64, usize), FitError> {
        let (input, target) = self.gather(set, scale, batch);
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

    /// A batch's inputs `[batch, features]`, standardised, and weighted one-hot targets `[batch, classes]`. Standardised here,
    /// batch by batch, so that the data stands in memory once.
    fn gather(&self, set: &TrainingSet<'_>, (mean, std): (&[f32], &[f32]), batch: &[u32]) -> (Tensor<2>, Tensor<2>) {
        let mut input = Vec::with_capacity(batch.len() * self.feature_count);
        let mut target = vec![0f32; batch.len() * self.classes];
        for (sample, one_hot) in batch.iter().zip(target.chunks_exact_mut(self.classes)) {
            let sample = *sample as usize;
            let start = sample * self.feature_count;
            let row = set.features.get(start..start + self.feature_count).unwrap_or_default();
            input.extend(row.iter().zip(mean.iter().zip(std)).map(|(v, (m, s))| (v - m) / s));
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
