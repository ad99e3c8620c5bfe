//! What stands around the graph: the package's border, raw samples to the graph's inputs (pre), scores to labels (post).
//!
//! Softmax is part of the graphs; here are feature transforms, checks of what comes in, and the choice of the class.

use flotilla_protocol::codec;
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::infer::{DataType, Tensor};
use flotilla_protocol::manifest::{Manifest, TensorSpec};

use crate::error::EngineError;
use crate::tensors::dimensions;

/// Output that packages with labels have beside the graph's own: BYTES `[n]`, the best class per row.
pub const LABEL_OUTPUT: &str = "label";

/// A package's border: what of its manifest and feature component matters for running it.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageSpec {
    /// Present: the package's one input is a batch of raw samples, the graph's one input its features FP32 `[n, count]`.
    /// Absent: inputs go to the graph as they are.
    pub features: Option<FeatureSpec>,
    /// Class names in the order of the scores; empty for a regression.
    pub labels: Vec<String>,
    /// −1 is dynamic; a dynamic first dimension is the batch.
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

impl PackageSpec {
    /// From a manifest and the bytes of its `features` component, if it has one.
    pub fn from_manifest(manifest: &Manifest, features: Option<&[u8]>) -> Result<Self, EngineError> {
        let features = features
            .map(|bytes| codec::from_slice::<FeatureSpec>(bytes, codec::MAX_COMPONENT_BYTES))
            .transpose()?;
        let spec = Self {
            features,
            labels: manifest.labels.clone(),
            inputs: manifest.inputs.clone(),
            outputs: manifest.outputs.clone(),
        };
        spec.check()?;
        Ok(spec)
    }

    /// Refuses what contradicts itself: names twice, features over several inputs or another shape.
    pub fn check(&self) -> Result<(), EngineError> {
        let refuse = |why: String| Err(EngineError::Interface(why));
        for specs in [&self.inputs, &self.outputs] {
            let mut names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            names.sort_unstable();
            if names.is_empty() || names.windows(2).any(|pair| pair.first() == pair.last()) {
                return refuse(format!("inputs and outputs need names of their own: {names:?}"));
            }
        }
        let Some(features) = &self.features else { return Ok(()) };
        features.check().map_err(EngineError::Features)?;
        let [input] = self.inputs.as_slice() else {
            return refuse(format!(
                "features are computed from one input, {} are declared",
                self.inputs.len()
            ));
        };
        if !self.is_batched() {
            return refuse("with features, every output needs a dynamic first dimension: the batch".to_owned());
        }
        let shape = features.input_shape();
        if input.datatype != DataType::Fp32
            || input.shape.get(1..) != shape.get(1..)
            || input.shape.first() != Some(&-1)
        {
            return refuse(format!(
                "features need input '{}' as FP32 {shape:?}, it is declared {} {:?}",
                input.name,
                input.datatype.as_str(),
                input.shape
            ));
        }
        Ok(())
    }

    /// Is the first dimension of every input and of every output of the graph the batch?
    pub(crate) fn is_batched(&self) -> bool {
        self.inputs
            .iter()
            .chain(&self.outputs)
            .all(|spec| spec.shape.first() == Some(&-1))
    }

    /// Is this output made here rather than by the graph?
    pub(crate) fn is_made_here(&self, output: &TensorSpec) -> bool {
        !self.labels.is_empty() && output.name == LABEL_OUTPUT && output.datatype == DataType::Bytes
    }
}

/// Brings a request's tensors into the order of the declared inputs and checks names, datatypes and shapes.
pub(crate) fn matched<'a>(specs: &[TensorSpec], inputs: &'a [Tensor]) -> Result<Vec<&'a Tensor>, EngineError> {
    if let Some(unknown) = inputs
        .iter()
        .find(|tensor| specs.iter().all(|spec| spec.name != tensor.name))
    {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        return Err(EngineError::Input {
            name: unknown.name.clone(),
            why: format!("the model has no such input; it has {}", names.join(", ")),
        });
    }
    specs
        .iter()
        .map(|spec| {
            let refuse = |why: String| EngineError::Input {
                name: spec.name.clone(),
                why,
            };
            let mut named = inputs.iter().filter(|tensor| tensor.name == spec.name);
            let (Some(tensor), None) = (named.next(), named.next()) else {
                return Err(refuse("must be given once".to_owned()));
            };
            if tensor.datatype != spec.datatype {
                return Err(refuse(format!(
                    "{} is needed, {} is given",
                    spec.datatype.as_str(),
                    tensor.datatype.as_str()
                )));
            }
            let fits = |(want, have): (&i64, &u64)| *want < 0 || u64::try_from(*want) == Ok(*have);
            if spec.shape.len() != tensor.shape.len() || !spec.shape.iter().zip(&tensor.shape).all(fits) {
                return Err(refuse(format!(
                    "shape {:?} is needed (-1 is any), {:?} is given",
                    spec.shape, tensor.shape
                )));
            }
            if tensor.shape.contains(&0) {
                return Err(refuse(format!("shape {:?} holds no values", tensor.shape)));
            }
            Ok(tensor)
        })
        .collect()
}

/// Features of every raw sample in a batch.
pub(crate) fn features(spec: &FeatureSpec, batch: &Tensor) -> Result<Vec<Vec<f32>>, EngineError> {
    let values = batch.to_f32()?;
    values
        .chunks(spec.sample_len().max(1))
        .enumerate()
        .map(|(row, sample)| {
            spec.compute(sample).map_err(|source| EngineError::Row {
                input: batch.name.clone(),
                row,
                source,
            })
        })
        .collect()
}

/// Refuses NaN and infinities, naming the place.
pub(crate) fn finite(tensor: &Tensor) -> Result<(), EngineError> {
    let wrong = match tensor.datatype {
        DataType::Fp32 => {
            let (chunks, _) = tensor.data.as_chunks::<4>();
            chunks.iter().position(|c| !f32::from_le_bytes(*c).is_finite())
        }
        DataType::Fp64 => {
            let (chunks, _) = tensor.data.as_chunks::<8>();
            chunks.iter().position(|c| !f64::from_le_bytes(*c).is_finite())
        }
        _ => None,
    };
    let Some(place) = wrong else { return Ok(()) };
    let row_length = dimensions(tensor)?.iter().skip(1).product::<usize>().max(1);
    Err(EngineError::NotFinite {
        input: tensor.name.clone(),
        row: place / row_length,
        index: place % row_length,
    })
}

/// The scores of each row; `classes` of them where there are labels.
pub(crate) fn score_rows(scores: &Tensor, rows: usize, classes: usize) -> Result<Vec<Vec<f32>>, EngineError> {
    let refuse = |why: String| {
        Err(EngineError::Output {
            output: scores.name.clone(),
            why,
        })
    };
    let values = scores.to_f32()?;
    let width = if classes == 0 {
        values.len() / rows.max(1)
    } else {
        classes
    };
    if width == 0 || values.len() != rows * width {
        return refuse(format!(
            "shape {:?} is not {width} scores for each of {rows} rows",
            scores.shape
        ));
    }
    if let Some(place) = values.iter().position(|v| v.is_nan()) {
        return refuse(format!(
            "row {}: score {} is not a number",
            place / width,
            place % width
        ));
    }
    Ok(values.chunks(width).map(<[f32]>::to_vec).collect())
}

/// Index of the largest score; the first of equals.
pub(crate) fn argmax(scores: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, score) in scores.iter().enumerate() {
        if *score > best.1 {
            best = (index, *score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: Vec<i64>) -> TensorSpec {
        TensorSpec {
            name: "x".into(),
            datatype: DataType::Fp32,
            shape,
        }
    }

    #[test]
    fn inputs_are_matched_by_name_datatype_and_shape() {
        let specs = [spec(vec![-1, 2])];
        let good = Tensor::from_f32("x", vec![3, 2], &[0.0; 6]).unwrap();
        assert_eq!(matched(&specs, std::slice::from_ref(&good)).unwrap(), [&good]);
        let wrong = |tensor: Tensor| matched(&specs, &[tensor]).unwrap_err().to_string();
        assert_eq!(
            wrong(Tensor::from_f32("y", vec![1, 2], &[0.0; 2]).unwrap()),
            "input 'y': the model has no such input; it has x"
        );
        assert_eq!(
            wrong(Tensor::from_f32("x", vec![2, 3], &[0.0; 6]).unwrap()),
            "input 'x': shape [-1, 2] is needed (-1 is any), [2, 3] is given"
        );
        assert_eq!(
            wrong(Tensor::from_i64("x", vec![1, 2], &[0; 2]).unwrap()),
            "input 'x': FP32 is needed, INT64 is given"
        );
        assert!(wrong(Tensor::from_f32("x", vec![0, 2], &[]).unwrap()).contains("holds no values"));
        assert!(matched(&specs, &[good.clone(), good]).is_err(), "given twice");
    }

    #[test]
    fn the_place_of_a_bad_value_is_named() {
        let tensor = Tensor::from_f32("x", vec![2, 2], &[0.0, 1.0, 2.0, f32::INFINITY]).unwrap();
        assert_eq!(
            finite(&tensor).unwrap_err().to_string(),
            "input 'x', row 1: value 1 is not a finite number"
        );
    }

    #[test]
    fn the_best_score_wins_and_nan_is_refused() {
        assert_eq!(argmax(&[0.1, 0.7, 0.7]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
        let scores = Tensor::from_f32("p", vec![1, 2], &[0.5, f32::NAN]).unwrap();
        assert!(
            score_rows(&scores, 1, 2)
                .unwrap_err()
                .to_string()
                .contains("row 0: score 1")
        );
        let scores = Tensor::from_f32("p", vec![1, 3], &[0.5; 3]).unwrap();
        assert!(score_rows(&scores, 1, 2).is_err(), "three scores for two labels");
    }

    #[test]
    fn a_border_that_contradicts_itself_is_refused() {
        let features = FeatureSpec::Row {
            columns: vec!["a".into(), "b".into()],
        };
        let package = |inputs: Vec<TensorSpec>| PackageSpec {
            features: Some(features.clone()),
            labels: vec![],
            inputs,
            outputs: vec![spec(vec![-1, 1])],
        };
        assert!(package(vec![spec(vec![-1, 2])]).check().is_ok());
        assert!(package(vec![spec(vec![-1, 3])]).check().is_err());
        assert!(package(vec![spec(vec![-1, 2]), spec(vec![-1, 2])]).check().is_err());
        assert!(package(vec![]).check().is_err());
        let mut fixed = package(vec![spec(vec![-1, 2])]);
        fixed.outputs = vec![spec(vec![1, 1])];
        assert!(fixed.check().is_err(), "features of many rows, outputs of one");
    }
}
