//! [`Model`]: a loaded package, ready to run. Owned by one thread; not shared.

use flotilla_protocol::infer::{DataType, Tensor};
use flotilla_protocol::manifest::TensorSpec;
use serde_bytes::ByteBuf;
use tract_onnx::prelude::{TValue, TVec};

use crate::error::EngineError;
use crate::load::{self, ImportReport, Imported};
use crate::plan::Plans;
use crate::process::{self, LABEL_OUTPUT, PackageSpec};
use crate::tensors::{datum_type, dimensions, from_tract, to_tract};

/// Batches are cut into these sizes, largest first, so that any batch needs three plans at most.
const BATCH_SIZES: [usize; 3] = [64, 8, 1];
/// Images gain nothing from batches (measured: a convolution network was 1.9 times slower per row in fours).
const IMAGE_BATCH_SIZES: [usize; 1] = [1];
const IMAGE_RANK: usize = 4;

/// Features, row by row.
type FeatureRows = Vec<Vec<f32>>;

/// What a model makes of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// By the names and in the order of the package's outputs; then [`LABEL_OUTPUT`], if the package has labels.
    pub outputs: Vec<Tensor>,
    /// What the drift sketches see, per row; empty for packages whose input is not a table of numbers.
    pub features: Vec<Vec<f32>>,
    /// Best class per row; empty for regressions.
    pub label_indices: Vec<usize>,
    /// Scores (or the regression's values) per row.
    pub scores: Vec<Vec<f32>>,
}

/// A loaded package. Runs need `&mut`: plans and their state are kept inside.
pub struct Model {
    spec: PackageSpec,
    report: ImportReport,
    plans: Plans,
    /// For each of the graph's inputs: which of the package's it is. Features: the one there is.
    input_order: Vec<usize>,
    /// For each output of the package that the graph computes: which of the graph's it is.
    output_order: Vec<(TensorSpec, usize)>,
    /// Name of the output that holds the scores.
    scores: String,
    batch_sizes: Option<&'static [usize]>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("spec", &self.spec)
            .field("opset", &self.report.opset)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Imports an ONNX file, checks that it fits the package's border, and warms up on zeros where shapes allow it.
    pub fn load(onnx: &[u8], spec: &PackageSpec) -> Result<Self, EngineError> {
        spec.check()?;
        let Imported { graph, report } = load::import(onnx)?;
        let input_order = input_order(spec, &report)?;
        let output_order = output_order(spec, &report)?;
        let scores = scores_output(spec, &output_order)?;
        let types = report
            .inputs
            .iter()
            .map(|input| {
                datum_type(input.datatype).ok_or_else(|| {
                    EngineError::Interface(format!(
                        "input '{}' is {}, which does not cross the border; cast it inside the graph",
                        input.name,
                        input.datatype.as_str()
                    ))
                })
            })
            .collect::<Result<_, _>>()?;
        let images = spec.inputs.iter().any(|input| input.shape.len() >= IMAGE_RANK);
        let mut model = Self {
            spec: spec.clone(),
            report,
            plans: Plans::new(graph, types),
            input_order,
            output_order,
            scores,
            batch_sizes: spec
                .is_batched()
                .then_some(if images { &IMAGE_BATCH_SIZES } else { &BATCH_SIZES }),
        };
        model.warm_up()?;
        Ok(model)
    }

    pub fn spec(&self) -> &PackageSpec {
        &self.spec
    }

    /// What the ONNX file holds.
    pub fn report(&self) -> &ImportReport {
        &self.report
    }

    /// Numbers per row in [`Outcome::features`]; `None` where they are not kept or vary.
    pub fn feature_count(&self) -> Option<usize> {
        if let Some(features) = &self.spec.features {
            return Some(features.feature_count());
        }
        match self.spec.inputs.as_slice() {
            [input] if is_table(input) => input.shape.last().and_then(|width| usize::try_from(*width).ok()),
            _ => None,
        }
    }

    /// Runs one request of any batch size. Nothing of it is answered if any row is refused.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Outcome, EngineError> {
        let inputs = process::matched(&self.spec.inputs, inputs)?;
        let (features, graph_inputs) = self.prepare(&inputs)?;
        let rows = self.row_count(&inputs)?;
        let outputs = if self.batch_sizes.is_some() {
            self.run_batched(&graph_inputs, rows)?
        } else {
            let values = graph_inputs.iter().map(GraphInput::whole).collect::<Result<_, _>>()?;
            self.run_graph(values)?
        };
        self.finish(outputs, features, rows)
    }

    /// The graph's inputs in its own order, and the features of each row.
    fn prepare(&self, inputs: &[&Tensor]) -> Result<(FeatureRows, Vec<GraphInput>), EngineError> {
        if let (Some(spec), [batch]) = (&self.spec.features, inputs) {
            let rows = process::features(spec, batch)?;
            let input = GraphInput {
                name: batch.name.clone(),
                datatype: DataType::Fp32,
                shape: vec![rows.len(), spec.feature_count()],
                data: rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect(),
            };
            return Ok((rows, vec![input]));
        }
        inputs.iter().try_for_each(|tensor| process::finite(tensor))?;
        let features = match (self.spec.inputs.as_slice(), inputs) {
            ([spec], [tensor]) if is_table(spec) => {
                let width = dimensions(tensor)?.last().copied().unwrap_or(1);
                tensor.to_f32()?.chunks(width.max(1)).map(<[f32]>::to_vec).collect()
            }
            _ => Vec::new(),
        };
        let graph_inputs = self
            .input_order
            .iter()
            .filter_map(|index| inputs.get(*index))
            .map(|tensor| {
                Ok(GraphInput {
                    name: tensor.name.clone(),
                    datatype: tensor.datatype,
                    shape: dimensions(tensor)?,
                    data: tensor.data.to_vec(),
                })
            })
            .collect::<Result<_, EngineError>>()?;
        Ok((features, graph_inputs))
    }

    /// Rows of a batched request: the first dimension, the same for all inputs. 1 where nothing is batched.
    fn row_count(&self, inputs: &[&Tensor]) -> Result<usize, EngineError> {
        if self.batch_sizes.is_none() {
            return Ok(1);
        }
        let mut rows = None;
        for tensor in inputs {
            let first = dimensions(tensor)?.first().copied().unwrap_or(1);
            if *rows.get_or_insert(first) != first {
                return Err(EngineError::Input {
                    name: tensor.name.clone(),
                    why: format!("{first} rows where the other inputs have {}", rows.unwrap_or(0)),
                });
            }
        }
        Ok(rows.unwrap_or(1))
    }

    fn run_batched(&mut self, inputs: &[GraphInput], rows: usize) -> Result<Vec<Tensor>, EngineError> {
        let sizes = self.batch_sizes.unwrap_or(&IMAGE_BATCH_SIZES);
        let mut joined: Vec<Tensor> = Vec::new();
        let mut done = 0;
        while done < rows {
            let size = sizes.iter().copied().find(|size| *size <= rows - done).unwrap_or(1);
            let values = inputs
                .iter()
                .map(|input| input.rows(done, size, rows))
                .collect::<Result<_, _>>()?;
            let outputs = self.run_graph(values)?;
            if let Some(odd) = outputs
                .iter()
                .find(|output| output.shape.first() != Some(&(size as u64)))
            {
                return Err(EngineError::Output {
                    output: odd.name.clone(),
                    why: format!("shape {:?} where a batch of {size} rows is declared", odd.shape),
                });
            }
            join(&mut joined, outputs)?;
            done += size;
        }
        Ok(joined)
    }

    /// One run of the graph; the package's outputs in the package's order.
    fn run_graph(&mut self, values: TVec<TValue>) -> Result<Vec<Tensor>, EngineError> {
        let outputs = self.plans.run(values)?;
        self.output_order
            .iter()
            .map(|(spec, index)| {
                let value = outputs.get(*index).ok_or_else(|| EngineError::Output {
                    output: spec.name.clone(),
                    why: "the graph did not compute it".to_owned(),
                })?;
                let tensor = from_tract(&spec.name, value)?;
                if tensor.datatype != spec.datatype {
                    return Err(EngineError::Output {
                        output: spec.name.clone(),
                        why: format!(
                            "{} is declared, the graph gives {}",
                            spec.datatype.as_str(),
                            tensor.datatype.as_str()
                        ),
                    });
                }
                Ok(tensor)
            })
            .collect()
    }

    fn finish(&self, mut outputs: Vec<Tensor>, features: Vec<Vec<f32>>, rows: usize) -> Result<Outcome, EngineError> {
        let scores = match outputs.iter().find(|output| output.name == self.scores) {
            Some(scores) => process::score_rows(scores, rows, self.spec.labels.len())?,
            None => Vec::new(),
        };
        let mut label_indices = Vec::new();
        if !self.spec.labels.is_empty() {
            label_indices = scores.iter().map(|row| process::argmax(row)).collect();
            if outputs.iter().all(|output| output.name != LABEL_OUTPUT) {
                let labels: Vec<String> = label_indices
                    .iter()
                    .map(|index| self.spec.labels.get(*index).cloned().unwrap_or_default())
                    .collect();
                outputs.push(Tensor::from_strings(LABEL_OUTPUT, vec![rows as u64], &labels)?);
            }
        }
        Ok(Outcome {
            outputs,
            features,
            label_indices,
            scores,
        })
    }

    /// Runs one row of zeros: makes the plan for single rows and finds graphs that cannot run at all. Left out where a
    /// dimension other than the batch is dynamic.
    fn warm_up(&mut self) -> Result<(), EngineError> {
        let mut shapes = Vec::new();
        for input in &self.report.inputs {
            shapes.push((
                input.name.clone(),
                input.datatype,
                self.spec.features.as_ref().map(|f| vec![1, f.feature_count()]),
            ));
        }
        let mut values = TVec::new();
        for ((name, datatype, shape), index) in shapes.into_iter().zip(&self.input_order) {
            let shape = match shape {
                Some(shape) => shape,
                None => match self.spec.inputs.get(*index).and_then(concrete) {
                    Some(shape) => shape,
                    None => return Ok(()),
                },
            };
            let bytes = shape
                .iter()
                .product::<usize>()
                .saturating_mul(datatype.size().unwrap_or(0));
            values.push(to_tract(&name, datatype, &shape, &vec![0; bytes])?);
        }
        let outputs = self.run_graph(values)?;
        let Some(scores) = outputs.iter().find(|output| output.name == self.scores) else {
            return Ok(());
        };
        let count = Tensor::element_count(&scores.name, &scores.shape)?;
        if !self.spec.labels.is_empty() && count != self.spec.labels.len() as u64 {
            return Err(EngineError::Interface(format!(
                "output '{}' has {count} scores per row where the package has {} labels",
                scores.name,
                self.spec.labels.len()
            )));
        }
        Ok(())
    }
}

/// The shape of one row; `None` if a dimension other than the batch is dynamic.
fn concrete(spec: &TensorSpec) -> Option<Vec<usize>> {
    spec.shape
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim {
            -1 if axis == 0 => Some(1),
            dim => usize::try_from(*dim).ok(),
        })
        .collect()
}

/// FP32 rows of numbers: what a drift sketch can see without a feature specification.
fn is_table(spec: &TensorSpec) -> bool {
    spec.datatype == DataType::Fp32 && spec.shape.len() == 2 && spec.shape.first() == Some(&-1)
}

/// One input of the graph as bytes.
struct GraphInput {
    name: String,
    datatype: DataType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl GraphInput {
    fn whole(&self) -> Result<TValue, EngineError> {
        to_tract(&self.name, self.datatype, &self.shape, &self.data)
    }

    /// `size` rows from row `first` on, of `rows` in all.
    fn rows(&self, first: usize, size: usize, rows: usize) -> Result<TValue, EngineError> {
        let row_bytes = self.data.len() / rows.max(1);
        let bytes = self
            .data
            .get(first * row_bytes..(first + size) * row_bytes)
            .unwrap_or_default();
        let mut shape = self.shape.clone();
        if let Some(batch) = shape.first_mut() {
            *batch = size;
        }
        to_tract(&self.name, self.datatype, &shape, bytes)
    }
}

/// Appends the rows of `more` to those of `joined`.
fn join(joined: &mut Vec<Tensor>, more: Vec<Tensor>) -> Result<(), EngineError> {
    if joined.is_empty() {
        *joined = more;
        return Ok(());
    }
    for (have, more) in joined.iter_mut().zip(more) {
        if have.shape.get(1..) != more.shape.get(1..) {
            return Err(EngineError::Output {
                output: more.name,
                why: format!("rows of shape {:?} after rows of shape {:?}", more.shape, have.shape),
            });
        }
        if let (Some(rows), Some(added)) = (have.shape.first_mut(), more.shape.first()) {
            *rows += added;
        }
        let mut data = std::mem::take(&mut have.data).into_vec();
        data.extend_from_slice(&more.data);
        have.data = ByteBuf::from(data);
    }
    Ok(())
}

/// For each input of the graph, the package's input that feeds it.
fn input_order(spec: &PackageSpec, report: &ImportReport) -> Result<Vec<usize>, EngineError> {
    let refuse = EngineError::Interface;
    if let Some(features) = &spec.features {
        let [input] = report.inputs.as_slice() else {
            return Err(refuse(format!(
                "with features the graph needs one input, it has {}",
                report.inputs.len()
            )));
        };
        let width = i64::try_from(features.feature_count()).unwrap_or(i64::MAX);
        let fits = |dim: Option<&i64>| matches!(dim, Some(dim) if *dim == -1 || *dim == width);
        let rank = input.shape.len();
        if input.datatype != DataType::Fp32 || !(rank == 0 || rank == 2 && fits(input.shape.last())) {
            return Err(refuse(format!(
                "the graph's input '{}' is {} {:?}, the features are FP32 [-1, {width}]",
                input.name,
                input.datatype.as_str(),
                input.shape
            )));
        }
        return Ok(vec![0]);
    }
    if report.inputs.len() != spec.inputs.len() {
        return Err(refuse(format!(
            "the graph has {} inputs, the package {}",
            report.inputs.len(),
            spec.inputs.len()
        )));
    }
    report
        .inputs
        .iter()
        .map(|input| {
            let index = spec.inputs.iter().position(|declared| declared.name == input.name);
            match index.and_then(|index| spec.inputs.get(index).map(|declared| (index, declared))) {
                Some((index, declared)) if declared.datatype == input.datatype => Ok(index),
                Some((_, declared)) => Err(refuse(format!(
                    "input '{}' is {} in the graph and {} in the package",
                    input.name,
                    input.datatype.as_str(),
                    declared.datatype.as_str()
                ))),
                None => Err(refuse(format!(
                    "the package does not declare the graph's input '{}'",
                    input.name
                ))),
            }
        })
        .collect()
}

/// For each output of the package that is not made here, the graph's output.
fn output_order(spec: &PackageSpec, report: &ImportReport) -> Result<Vec<(TensorSpec, usize)>, EngineError> {
    spec.outputs
        .iter()
        .filter(|output| !spec.is_made_here(output))
        .map(|output| {
            let index = report.outputs.iter().position(|found| found.name == output.name);
            let index = index.ok_or_else(|| {
                let names: Vec<&str> = report.outputs.iter().map(|found| found.name.as_str()).collect();
                EngineError::Interface(format!(
                    "the graph has no output '{}'; it has {}",
                    output.name,
                    names.join(", ")
                ))
            })?;
            Ok((output.clone(), index))
        })
        .collect()
}

/// The output that holds the scores: `probabilities`, or else the first FP32 one.
fn scores_output(spec: &PackageSpec, outputs: &[(TensorSpec, usize)]) -> Result<String, EngineError> {
    let floats = || {
        outputs
            .iter()
            .map(|(output, _)| output)
            .filter(|output| output.datatype == DataType::Fp32)
    };
    match floats()
        .find(|output| output.name == "probabilities")
        .or_else(|| floats().next())
    {
        Some(output) => Ok(output.name.clone()),
        None if spec.labels.is_empty() => Ok(String::new()),
        None => Err(EngineError::Interface(
            "the package has labels but no FP32 output that could hold their scores".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::features::FeatureSpec;
    use flotilla_protocol::features::Statistic;

    use super::*;
    use crate::error::Blame;
    use crate::test_models::{
        batch, border, bytes, counter, floats, graph, mlp, mlp_by_hand, mlp_spec, node, rows, tensor_spec,
    };

    fn model() -> Model {
        Model::load(&bytes(&mlp()), &mlp_spec()).unwrap()
    }

    #[test]
    fn outputs_are_those_worked_out_by_hand() {
        let mut model = model();
        let rows = rows(5);
        let outcome = model.run(&[batch(&rows)]).unwrap();
        let names: Vec<&str> = outcome.outputs.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["probabilities", "label"]);
        assert_eq!(outcome.outputs[0].shape, [5, 2]);
        for (row, scores) in rows.iter().zip(&outcome.scores) {
            let expected = mlp_by_hand(*row);
            assert!(
                scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
                "{row:?}: {scores:?} is not {expected:?}"
            );
        }
        let labels: Vec<String> = rows
            .iter()
            .map(|row| mlp_by_hand(*row))
            .map(|p| if p[1] > p[0] { "on" } else { "off" }.to_owned())
            .collect();
        assert_eq!(outcome.outputs[1].to_strings().unwrap(), labels);
        assert!(
            labels.contains(&"on".to_owned()) && labels.contains(&"off".to_owned()),
            "the rows tell nothing"
        );
        assert_eq!(outcome.features[3], rows[3].to_vec());
        assert_eq!(model.feature_count(), Some(2));
    }

    #[test]
    fn any_batch_size_needs_few_plans_and_gives_the_same_rows() {
        let mut model = model();
        let rows = rows(203);
        let whole = model.run(&[batch(&rows)]).unwrap();
        assert_eq!(whole.scores.len(), 203);
        for (index, row) in rows.iter().enumerate() {
            let one = model.run(&[batch(&[*row])]).unwrap();
            for (a, b) in one.scores[0].iter().zip(&whole.scores[index]) {
                assert!((a - b).abs() < 1e-6, "row {index}");
            }
        }
        for n in 1..100 {
            model.run(&[batch(&rows[..n])]).unwrap();
        }
        let mut shapes = model.plans.ready_shapes();
        shapes.sort();
        assert_eq!(shapes, [vec![vec![1, 2]], vec![vec![8, 2]], vec![vec![64, 2]]]);
    }

    #[test]
    fn windows_become_features_before_the_graph_sees_them() {
        let spec = PackageSpec {
            features: Some(FeatureSpec::Window {
                channels: vec!["v".into()],
                length: 4,
                hop: 2,
                rate_hz: 10.0,
                statistics: vec![Statistic::Mean, Statistic::Max],
            }),
            inputs: vec![tensor_spec("window", DataType::Fp32, &[-1, 4, 1])],
            ..mlp_spec()
        };
        let mut model = Model::load(&bytes(&mlp()), &spec).unwrap();
        let window = Tensor::from_f32("window", vec![1, 4, 1], &[1.0, 2.0, 3.0, -2.0]).unwrap();
        let outcome = model.run(&[window]).unwrap();
        assert_eq!(outcome.features, [[1.0, 3.0]]);
        let expected = mlp_by_hand([1.0, 3.0]);
        assert!((outcome.scores[0][0] - expected[0]).abs() < 1e-6);
    }

    #[test]
    fn bad_requests_name_the_place_and_are_not_the_models_fault() {
        let mut model = model();
        let error = model.run(&[batch(&[[0.0, 1.0], [2.0, f32::NAN]])]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "input 'reading', row 1: value 1 (b) is not a finite number"
        );
        assert_eq!(error.blame(), Blame::Data);
        let wide = Tensor::from_f32("reading", vec![1, 3], &[0.0; 3]).unwrap();
        let error = model.run(&[wide]).unwrap_err();
        assert_eq!(error.blame(), Blame::Interface);
        assert!(error.to_string().contains("[-1, 2] is needed"), "{error}");
        assert!(model.run(&[]).is_err());
        assert!(model.run(&[batch(&rows(1))]).is_ok(), "the model goes on");
    }

    #[test]
    fn graphs_without_features_take_what_they_declare() {
        let spec = PackageSpec {
            features: None,
            labels: vec![],
            inputs: vec![tensor_spec("n", DataType::Int64, &[3])],
            outputs: vec![tensor_spec("next", DataType::Int64, &[3])],
        };
        let mut model = Model::load(&bytes(&counter()), &spec).unwrap();
        let outcome = model
            .run(&[Tensor::from_i64("n", vec![3], &[1, 2, i64::MAX - 1]).unwrap()])
            .unwrap();
        assert_eq!(outcome.outputs[0].to_i64().unwrap(), [2, 3, i64::MAX]);
        assert!(outcome.label_indices.is_empty() && outcome.features.is_empty());
    }

    #[test]
    fn a_package_that_does_not_fit_its_graph_is_refused() {
        let load = |change: fn(&mut PackageSpec)| {
            let mut spec = mlp_spec();
            change(&mut spec);
            Model::load(&bytes(&mlp()), &spec).unwrap_err().to_string()
        };
        let error = load(|spec| spec.outputs = vec![tensor_spec("scores", DataType::Fp32, &[-1, 2])]);
        assert!(error.contains("no output 'scores'; it has probabilities"), "{error}");
        let error = load(|spec| spec.labels.push("third".into()));
        assert!(
            error.contains("2 scores per row where the package has 3 labels"),
            "{error}"
        );
        let error = load(|spec| spec.features = None);
        assert!(error.contains("does not declare the graph's input 'X'"), "{error}");
        let error = load(|spec| {
            spec.features = Some(FeatureSpec::Row {
                columns: vec!["a".into(), "b".into(), "c".into()],
            });
            spec.inputs = vec![tensor_spec("reading", DataType::Fp32, &[-1, 3])];
        });
        assert!(error.contains("the features are FP32 [-1, 3]"), "{error}");
    }

    #[test]
    fn scores_that_are_not_numbers_are_the_models_fault() {
        // x / 0 at x = 0 is NaN; at other x it is infinite, which softmax turns into NaN as well.
        let broken = graph(
            vec![
                node("Div", &["X", "zero"], "endless", &[]),
                node("Softmax", &["endless"], "probabilities", &[("axis", 1)]),
            ],
            vec![floats("zero", &[1, 2], &[0.0; 2])],
            border("X", 1, &[-1, 2]),
            border("probabilities", 1, &[-1, 2]),
        );
        let mut model = Model::load(&bytes(&broken), &mlp_spec()).unwrap();
        let error = model.run(&[batch(&rows(1))]).unwrap_err();
        assert!(error.to_string().contains("is not a number"), "{error}");
        assert_eq!(error.blame(), Blame::Model);
    }
}
