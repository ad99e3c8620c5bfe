//! ONNX files made for tests: a small network whose outputs are worked out by hand beside it, and damaged variants.

use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::infer::{DataType, Tensor};
use flotilla_protocol::manifest::TensorSpec;
use prost::Message as _;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

use crate::process::PackageSpec;

const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// Means, deviations and weights of [`mlp`].
const MEAN: [f32; 2] = [1.0, -2.0];
const STD: [f32; 2] = [2.0, 0.5];
/// `[outputs, inputs]`, as `Gemm` with `transB` takes it.
const HIDDEN: [[f32; 2]; 3] = [[1.0, 0.5], [-1.0, 0.25], [0.3, -0.8]];
const HIDDEN_BIAS: [f32; 3] = [0.1, 0.2, -0.1];
const OUT: [[f32; 3]; 2] = [[1.0, -1.0, 0.5], [-0.5, 1.0, 0.25]];
const OUT_BIAS: [f32; 2] = [0.05, -0.05];

pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

pub(crate) fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("{op}_{output}"),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.into()],
        attribute: attributes
            .iter()
            .map(|(name, i)| AttributeProto {
                name: (*name).into(),
                r#type: 2,
                i: *i,
                ..AttributeProto::default()
            })
            .collect(),
        ..NodeProto::default()
    }
}

pub(crate) fn border(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let dim = |d: &i64| Dimension {
        value: Some(if *d < 0 {
            dimension::Value::DimParam("N".into())
        } else {
            dimension::Value::DimValue(*d)
        }),
        ..Dimension::default()
    };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type,
                shape: Some(TensorShapeProto {
                    dim: dims.iter().map(dim).collect(),
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

pub(crate) fn graph(
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    input: ValueInfoProto,
    output: ValueInfoProto,
) -> ModelProto {
    ModelProto {
        ir_version: 8,
        producer_name: "engine-tests".into(),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(GraphProto {
            name: "g".into(),
            node,
            initializer,
            input: vec![input],
            output: vec![output],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// Standardise, dense, ReLU, dense, softmax: two features, two classes.
pub(crate) fn mlp() -> ModelProto {
    graph(
        vec![
            node("Sub", &["X", "mean"], "centred", &[]),
            node("Div", &["centred", "std"], "scaled", &[]),
            node("Gemm", &["scaled", "w0", "b0"], "hidden", &[("transB", 1)]),
            node("Relu", &["hidden"], "active", &[]),
            node("Gemm", &["active", "w1", "b1"], "logits", &[("transB", 1)]),
            node("Softmax", &["logits"], "probabilities", &[("axis", 1)]),
        ],
        vec![
            floats("mean", &[1, 2], &MEAN),
            floats("std", &[1, 2], &STD),
            floats("w0", &[3, 2], HIDDEN.as_flattened()),
            floats("b0", &[3], &HIDDEN_BIAS),
            floats("w1", &[2, 3], OUT.as_flattened()),
            floats("b1", &[2], &OUT_BIAS),
        ],
        border("X", FLOAT, &[-1, 2]),
        border("probabilities", FLOAT, &[-1, 2]),
    )
}

pub(crate) fn bytes(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// What [`mlp`] computes, in plain arithmetic.
pub(crate) fn mlp_by_hand(x: [f32; 2]) -> [f32; 2] {
    let scaled = [(x[0] - MEAN[0]) / STD[0], (x[1] - MEAN[1]) / STD[1]];
    let mut hidden = HIDDEN_BIAS;
    for (h, row) in hidden.iter_mut().zip(HIDDEN) {
        *h = (*h + row[0] * scaled[0] + row[1] * scaled[1]).max(0.0);
    }
    let mut logits = OUT_BIAS;
    for (l, row) in logits.iter_mut().zip(OUT) {
        *l += row.iter().zip(hidden).map(|(w, h)| w * h).sum::<f32>();
    }
    let exp = logits.map(f32::exp);
    exp.map(|e| e / (exp[0] + exp[1]))
}

pub(crate) fn tensor_spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
    }
}

/// The package around [`mlp`]: rows of columns a and b, labels off and on.
pub(crate) fn mlp_spec() -> PackageSpec {
    PackageSpec {
        features: Some(FeatureSpec::Row {
            columns: vec!["a".into(), "b".into()],
        }),
        labels: vec!["off".into(), "on".into()],
        inputs: vec![tensor_spec("reading", DataType::Fp32, &[-1, 2])],
        outputs: vec![tensor_spec("probabilities", DataType::Fp32, &[-1, 2])],
    }
}

/// `n` rows that differ.
pub(crate) fn rows(n: usize) -> Vec<[f32; 2]> {
    (0..n)
        .map(|i| [(i as f32 * 0.7).sin() * 3.0, (i as f32 * 0.3).cos() * 2.0 - 1.0])
        .collect()
}

pub(crate) fn batch(rows: &[[f32; 2]]) -> Tensor {
    Tensor::from_f32("reading", vec![rows.len() as u64, 2], rows.as_flattened()).unwrap()
}

/// Adds one to INT64 values: a graph without features, labels or floats.
pub(crate) fn counter() -> ModelProto {
    let one = TensorProto {
        name: "one".into(),
        dims: vec![1],
        data_type: INT64,
        raw_data: 1i64.to_le_bytes().to_vec(),
        ..TensorProto::default()
    };
    graph(
        vec![node("Add", &["n", "one"], "next", &[])],
        vec![one],
        border("n", INT64, &[3]),
        border("next", INT64, &[3]),
    )
}
