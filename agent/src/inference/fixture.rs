//! Packages made for tests: a softmax over two columns, with or without a drift reference, written to a folder as the
//! updater leaves them there.

use std::path::Path;

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec;
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::golden::{GoldenCase, GoldenSet};
use flotilla_protocol::ids::Digest;
use flotilla_protocol::infer::{DataType, Tensor};
use flotilla_protocol::manifest::{Component, ComponentKind, Manifest, Provenance, SelfTest, TensorSpec};
use flotilla_protocol::sketch::{DriftRule, FeatureReference, ReferenceProfile};
use flotilla_protocol::trust::{Header, Role};
use prost::Message as _;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto, tensor_proto, type_proto,
};

use super::LoadedPackage;

/// Observations per drift judgement of [`reference`].
pub(crate) const WINDOW: u64 = 50;

/// Softmax over `[N, width]`.
pub(crate) fn onnx(width: i64) -> Vec<u8> {
    let softmax = NodeProto {
        op_type: "Softmax".into(),
        name: "softmax".into(),
        input: vec!["X".into()],
        output: vec!["probabilities".into()],
        ..NodeProto::default()
    };
    graph(width, vec![softmax], vec![])
}

/// Looks each value up in a table of three; another value than 0, 1 or 2 makes the inference library panic.
pub(crate) fn lookup_onnx() -> Vec<u8> {
    let to_integer = NodeProto {
        op_type: "Cast".into(),
        name: "to_integer".into(),
        input: vec!["X".into()],
        output: vec!["code".into()],
        attribute: vec![AttributeProto {
            name: "to".into(),
            r#type: attribute_proto::AttributeType::Int.into(),
            i: i64::from(i32::from(tensor_proto::DataType::Int64)),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    };
    let look_up = NodeProto {
        op_type: "Gather".into(),
        name: "look_up".into(),
        input: vec!["table".into(), "code".into()],
        output: vec!["probabilities".into()],
        ..NodeProto::default()
    };
    let table = TensorProto {
        name: "table".into(),
        dims: vec![3],
        data_type: tensor_proto::DataType::Float.into(),
        float_data: vec![0.25, 0.5, 0.75],
        ..TensorProto::default()
    };
    graph(1, vec![to_integer, look_up], vec![table])
}

/// From `X` to `probabilities`, both `[N, width]`.
fn graph(width: i64, node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Vec<u8> {
    let border = |name: &str| {
        let dim = |value| Dimension {
            value: Some(value),
            ..Dimension::default()
        };
        let shape = TensorShapeProto {
            dim: vec![
                dim(dimension::Value::DimParam("N".into())),
                dim(dimension::Value::DimValue(width)),
            ],
        };
        ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                    elem_type: 1,
                    shape: Some(shape),
                })),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        }
    };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(GraphProto {
            name: "g".into(),
            node,
            initializer,
            input: vec![border("X")],
            output: vec![border("probabilities")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

pub(crate) fn columns(names: &[&str]) -> FeatureSpec {
    FeatureSpec::Row {
        columns: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// A pair of values as the reference has it.
pub(crate) fn usual(i: usize) -> [f32; 2] {
    [(i as f32 * 0.37).sin(), (i as f32 * 0.53).cos()]
}

pub(crate) fn reference() -> ReferenceProfile {
    let column = |c: usize| (0..400).map(|i| usual(i)[c]).collect::<Vec<f32>>();
    ReferenceProfile {
        schema: 1,
        slices: vec!["import".into()],
        features: vec![
            FeatureReference::from_slices("a", &[column(0)], 8),
            FeatureReference::from_slices("b", &[column(1)], 8),
        ],
        labels: vec!["low".into(), "high".into()],
        label_counts: vec![200, 200],
        rule: DriftRule {
            window: WINDOW,
            feature_threshold: 0.25,
            share_threshold: 0.5,
        },
    }
}

pub(crate) fn golden() -> GoldenSet {
    let case = |i: usize| {
        let row = usual(i);
        let exp = row.map(f32::exp);
        let scores = exp.map(|e| e / (exp[0] + exp[1]));
        GoldenCase {
            inputs: vec![input(&[row])],
            outputs: vec![Tensor::from_f32("probabilities", vec![1, 2], &scores).unwrap()],
        }
    };
    GoldenSet {
        schema: 1,
        cases: (0..5).map(case).collect(),
    }
}

/// A request of such rows.
pub(crate) fn input(rows: &[[f32; 2]]) -> Tensor {
    Tensor::from_f32("reading", vec![rows.len() as u64, 2], rows.as_flattened()).unwrap()
}

/// Writes a package's components and returns its manifest and that one's digest.
pub(crate) fn write(dir: &Path, line: &str, semver: &str, features: &FeatureSpec) -> (Manifest, Digest) {
    let width = i64::try_from(features.feature_count()).unwrap();
    write_model(dir, line, semver, features, onnx(width))
}

/// Like [`write`], with that model.
pub(crate) fn write_model(
    dir: &Path,
    line: &str,
    semver: &str,
    features: &FeatureSpec,
    onnx: Vec<u8>,
) -> (Manifest, Digest) {
    let width = i64::try_from(features.feature_count()).unwrap();
    let mut parts = vec![
        (ComponentKind::Model, onnx),
        (ComponentKind::Features, codec::to_vec(features).unwrap()),
        (ComponentKind::Golden, codec::to_vec(&golden()).unwrap()),
    ];
    if *features == columns(&["a", "b"]) {
        parts.push((ComponentKind::Reference, codec::to_vec(&reference()).unwrap()));
    }
    let components = parts
        .iter()
        .map(|(kind, bytes)| {
            std::fs::write(dir.join(kind.file_name()), bytes).unwrap();
            Component {
                kind: *kind,
                media_type: kind.media_type().to_owned(),
                blob: BlobRef::of(bytes),
            }
        })
        .collect();
    let tensor = |name: &str, shape: Vec<i64>| TensorSpec {
        name: name.into(),
        datatype: DataType::Fp32,
        shape,
    };
    let manifest = Manifest {
        header: Header {
            schema: "flotilla.manifest.v1".into(),
            role: Role::Release(line.parse().unwrap()),
            fleet: "0191e5a0-0000-7000-8000-000000000001".parse().unwrap(),
            version: 1,
            issued: 0,
            expires: i64::MAX,
        },
        name: line.parse().unwrap(),
        semver: semver.to_owned(),
        release_counter: 1,
        hardware_classes: vec![],
        arch: vec![],
        min_agent: "0.1.0".into(),
        min_ram_bytes: 0,
        min_disk_bytes: 0,
        runtime: "onnx".into(),
        opset: 17,
        components,
        inputs: vec![tensor("reading", features.input_shape())],
        outputs: vec![tensor("probabilities", vec![-1, width])],
        labels: if width == 2 {
            vec!["low".into(), "high".into()]
        } else {
            vec![]
        },
        self_test: SelfTest {
            tolerance_abs: 1e-5,
            p95_budget_us: 0,
        },
        depends: vec![],
        conflicts: vec![],
        provenance: Provenance {
            dataset_version: None,
            dataset_digest: None,
            run: None,
            code_version: "test".into(),
            sbom: None,
        },
    };
    let digest = Digest::of(format!("{line} {semver}").as_bytes());
    (manifest, digest)
}

/// A package over these columns, loaded.
pub(crate) fn package(line: &str, semver: &str, features: &FeatureSpec) -> LoadedPackage {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, digest) = write(dir.path(), line, semver, features);
    LoadedPackage::from_dir(dir.path(), manifest, digest).unwrap()
}
