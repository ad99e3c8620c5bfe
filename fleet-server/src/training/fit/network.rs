//! A trained network and its forward pass in plain Rust, independent of burn and of the inference engine: golden outputs
//! come from here.

use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use super::FitError;

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
