//! Writes a trained network as ONNX (opset 17, IR 8, FP32), through the same protobuf types that the engine reads.
//!
//! `features [N, F]` → Sub, Div (the standardisation is part of the graph) → Gemm, `ReLU`, … → Softmax → `probabilities
//! [N, C]`. Class names stand in the metadata under `labels`, as JSON. The same weights give the same bytes.

use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimensionValue;

use super::fit::{DenseLayer, MlpWeights};

/// Opset of the default domain.
pub const OPSET: i64 = 17;
/// Name of the input.
pub const INPUT: &str = "features";
/// Name of the output.
pub const OUTPUT: &str = "probabilities";
/// ONNX 1.12's.
const IR_VERSION: i64 = 8;

/// Why weights could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("layer {layer} takes {found} values, {expected} come in")]
    Shape {
        layer: usize,
        expected: usize,
        found: usize,
    },
    #[error("the labels cannot be written: {0}")]
    Labels(#[from] serde_json::Error),
}

/// The network as an ONNX file.
pub fn to_onnx(weights: &MlpWeights, graph_name: &str) -> Result<Vec<u8>, ExportError> {
    check_shapes(weights)?;
    let features = weights.mean.len();
    let mut initializers = vec![
        tensor("mean", &[1, features], &weights.mean),
        tensor("std", &[1, features], &weights.std),
    ];
    let mut nodes = vec![
        node("Sub", &[INPUT, "mean"], "centered", vec![]),
        node("Div", &["centered", "std"], "standardized", vec![]),
    ];
    let mut current = "standardized".to_owned();
    for (index, layer) in weights.layers.iter().enumerate() {
        let (weight, bias, sum) = (
            format!("weight_{index}"),
            format!("bias_{index}"),
            format!("gemm_{index}"),
        );
        initializers.push(tensor(&weight, &[layer.inputs, layer.outputs], &layer.weight));
        initializers.push(tensor(&bias, &[layer.outputs], &layer.bias));
        nodes.push(node("Gemm", &[&current, &weight, &bias], &sum, vec![]));
        current = if index + 1 < weights.layers.len() {
            let hidden = format!("hidden_{index}");
            nodes.push(node("Relu", &[&sum], &hidden, vec![]));
            hidden
        } else {
            sum
        };
    }
    nodes.push(node("Softmax", &[&current], OUTPUT, vec![integer("axis", 1)]));
    let graph = pb::GraphProto {
        name: graph_name.to_owned(),
        node: nodes,
        initializer: initializers,
        input: vec![value_info(INPUT, features)],
        output: vec![value_info(OUTPUT, weights.labels.len())],
        ..Default::default()
    };
    let model = pb::ModelProto {
        ir_version: IR_VERSION,
        producer_name: "flotilla".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        opset_import: vec![pb::OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: vec![pb::StringStringEntryProto {
            key: "labels".to_owned(),
            value: serde_json::to_string(&weights.labels)?,
        }],
        graph: Some(graph),
        ..Default::default()
    };
    Ok(model.encode_to_vec())
}

fn check_shapes(weights: &MlpWeights) -> Result<(), ExportError> {
    let mut width = weights.mean.len();
    for (
        layer,
        DenseLayer {
            inputs,
            outputs,
            weight,
            bias,
        },
    ) in weights.layers.iter().enumerate()
    {
        let found = if weight.len() == inputs * outputs && bias.len() == *outputs {
            *inputs
        } else {
            weight.len()
        };
        if found != width {
            return Err(ExportError::Shape {
                layer,
                expected: width,
                found,
            });
        }
        width = *outputs;
    }
    if width != weights.labels.len() || weights.std.len() != weights.mean.len() {
        return Err(ExportError::Shape {
            layer: weights.layers.len(),
            expected: width,
            found: weights.labels.len(),
        });
    }
    Ok(())
}

fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn tensor(name: &str, shape: &[usize], values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: shape.iter().map(|dim| to_i64(*dim)).collect(),
        data_type: pb::tensor_proto::DataType::Float as i32,
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    }
}

fn integer(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        i: value,
        ..Default::default()
    }
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: Vec<pb::AttributeProto>) -> pb::NodeProto {
    pb::NodeProto {
        op_type: operator.to_owned(),
        name: format!("{operator}_{output}"),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attributes,
        ..Default::default()
    }
}

/// FP32 `[N, width]`.
fn value_info(name: &str, width: usize) -> pb::ValueInfoProto {
    let dimension = |value| pb::tensor_shape_proto::Dimension {
        value: Some(value),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto {
        dim: vec![
            dimension(DimensionValue::DimParam("N".to_owned())),
            dimension(DimensionValue::DimValue(to_i64(width))),
        ],
    };
    pb::ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(pb::type_proto::Tensor {
                elem_type: pb::tensor_proto::DataType::Float as i32,
                shape: Some(shape),
            })),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::*;

    use super::*;
    use crate::training::rng::TrainingRng;

    fn network(widths: &[usize]) -> MlpWeights {
        let mut rng = TrainingRng::new(3);
        let mut draw = |n: usize| (0..n).map(|_| rng.symmetric(0.8)).collect::<Vec<f32>>();
        MlpWeights {
            mean: draw(widths[0]),
            std: draw(widths[0]).iter().map(|v| v.abs() + 0.1).collect(),
            layers: widths
                .windows(2)
                .map(|w| DenseLayer {
                    inputs: w[0],
                    outputs: w[1],
                    weight: draw(w[0] * w[1]),
                    bias: draw(w[1]),
                })
                .collect(),
            labels: (0..*widths.last().unwrap()).map(|i| format!("class-{i}")).collect(),
        }
    }

    #[test]
    fn tract_agrees_with_the_trainers_forward_pass() {
        for widths in [&[5, 3][..], &[7, 16, 4], &[64, 32, 24, 10]] {
            let weights = network(widths);
            let bytes = to_onnx(&weights, "test").unwrap();
            let rows = 9;
            let mut rng = TrainingRng::new(11);
            let features: Vec<f32> = (0..rows * widths[0]).map(|_| rng.symmetric(3.0)).collect();
            let model = tract_onnx::onnx()
                .model_for_read(&mut bytes.as_slice())
                .unwrap()
                .with_input_fact(0, f32::fact([rows, widths[0]]).into())
                .unwrap()
                .into_optimized()
                .unwrap()
                .into_runnable()
                .unwrap();
            let input = Tensor::from_shape(&[rows, widths[0]], &features).unwrap();
            let result = model.run(tvec!(input.into_tvalue())).unwrap();
            let scores: Vec<f32> = result[0]
                .to_plain_array_view::<f32>()
                .unwrap()
                .iter()
                .copied()
                .collect();
            let expected = weights.forward(&features).unwrap();
            assert_eq!(scores.len(), expected.len());
            for (a, b) in scores.iter().zip(&expected) {
                assert!((a - b).abs() < 2e-6, "{a} is not {b}");
            }
        }
    }

    #[test]
    fn the_file_says_what_it_is_and_is_always_the_same() {
        let weights = network(&[4, 8, 3]);
        let bytes = to_onnx(&weights, "motions").unwrap();
        assert_eq!(bytes, to_onnx(&weights, "motions").unwrap());
        let model = pb::ModelProto::decode(bytes.as_slice()).unwrap();
        assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
        assert_eq!(model.metadata_props[0].value, r#"["class-0","class-1","class-2"]"#);
        let graph = model.graph.unwrap();
        let operators: Vec<&str> = graph.node.iter().map(|n| n.op_type.as_str()).collect();
        assert_eq!(operators, ["Sub", "Div", "Gemm", "Relu", "Gemm", "Softmax"]);
        assert_eq!(
            (graph.input[0].name.as_str(), graph.output[0].name.as_str()),
            (INPUT, OUTPUT)
        );
    }

    #[test]
    fn weights_that_do_not_fit_are_refused() {
        let mut weights = network(&[4, 8, 3]);
        weights.labels.pop();
        assert!(to_onnx(&weights, "x").is_err());
        let mut weights = network(&[4, 8, 3]);
        weights.layers[1].inputs = 7;
        assert!(to_onnx(&weights, "x").is_err());
    }
}
