//! Import: from the bytes of an ONNX file to a parsed graph, with a report of what is in it.
//!
//! The protobuf is read first and judged on its own (operators by name, opset, external data), so that what tract would
//! only stumble over while running is refused here in words.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::infer::DataType;
use flotilla_protocol::manifest::TensorSpec;
use prost::Message as _;
use tract_onnx::model::Onnx;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType as OnnxType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto};
use tract_onnx::prelude::InferenceModel;

use crate::border::{causes, guarded};
use crate::error::EngineError;

/// Opset 7 introduced the broadcasting that everything since relies on.
const OLDEST_OPSET: i64 = 7;

/// How often an operator stands in a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorUse {
    /// `Gemm`, or `domain.Name` outside the default domain.
    pub name: String,
    pub count: usize,
    pub supported: bool,
}

/// What an ONNX file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// Of the default domain; 0 if the file does not import it.
    pub opset: i64,
    pub producer: String,
    /// By name, subgraphs included.
    pub operators: Vec<OperatorUse>,
    /// The graph's inputs that are not initialisers.
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

impl ImportReport {
    /// Names of the operators that this engine does not have.
    pub fn unsupported(&self) -> Vec<String> {
        self.operators
            .iter()
            .filter(|operator| !operator.supported)
            .map(|operator| operator.name.clone())
            .collect()
    }
}

/// Reads an ONNX file without building its graph. Unsupported operators are reported, not refused.
pub fn inspect(onnx: &[u8]) -> Result<ImportReport, EngineError> {
    report(&decode(onnx)?, &framework())
}

/// A parsed graph whose inputs and outputs are in the report's order.
pub(crate) struct Imported {
    pub(crate) graph: InferenceModel,
    pub(crate) report: ImportReport,
}

/// Reads, judges and parses an ONNX file.
pub(crate) fn import(onnx: &[u8]) -> Result<Imported, EngineError> {
    let proto = decode(onnx)?;
    let framework = framework();
    let report = report(&proto, &framework)?;
    let operators = report.unsupported();
    if !operators.is_empty() {
        return Err(EngineError::Unsupported { operators });
    }
    let graph = guarded("reading the graph", || {
        let parsed = framework
            .parse(&proto, None)
            .map_err(|e| EngineError::Graph(causes(&e)))?;
        match parsed.unresolved_inputs.as_slice() {
            [] => Ok(parsed.model),
            missing => Err(EngineError::Graph(format!("nothing computes {}", missing.join(", ")))),
        }
    })?;
    if graph.inputs.len() != report.inputs.len() || graph.outputs.len() != report.outputs.len() {
        return Err(EngineError::Graph(
            "an input or output is declared more than once".to_owned(),
        ));
    }
    Ok(Imported { graph, report })
}

/// tract's reader. Declared shapes of outputs and inner values are ignored: exporters get them wrong, tract infers them.
fn framework() -> Onnx {
    tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_value_info(true)
}

fn decode(onnx: &[u8]) -> Result<ModelProto, EngineError> {
    ModelProto::decode(onnx).map_err(|e| EngineError::Corrupt(e.to_string()))
}

fn report(proto: &ModelProto, framework: &Onnx) -> Result<ImportReport, EngineError> {
    let graph = proto
        .graph
        .as_ref()
        .ok_or_else(|| EngineError::Corrupt("it holds no graph".to_owned()))?;
    if graph.node.is_empty() || graph.output.is_empty() {
        return Err(EngineError::Corrupt("its graph has no nodes or no outputs".to_owned()));
    }
    let mut walk = Walk::default();
    walk.graph(graph)?;
    let opset = proto
        .opset_import
        .iter()
        .find(|import| is_default(&import.domain))
        .map_or(0, |import| import.version);
    if walk.default_domain && opset == 0 {
        return Err(EngineError::Corrupt("it does not say which opset it uses".to_owned()));
    }
    if walk.default_domain && opset < OLDEST_OPSET {
        return Err(EngineError::Opset {
            found: opset,
            oldest: OLDEST_OPSET,
        });
    }
    let operators = walk
        .operators
        .into_iter()
        .map(|((domain, kind), count)| OperatorUse {
            supported: framework.op_register.0.contains_key(&kind),
            name: if domain.is_empty() {
                kind
            } else {
                format!("{domain}.{kind}")
            },
            count,
        })
        .collect();
    let initialised: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let inputs: Vec<&ValueInfoProto> = graph
        .input
        .iter()
        .filter(|input| !initialised.contains(input.name.as_str()))
        .collect();
    let mut known: BTreeSet<&str> = graph.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
    known.extend(&initialised);
    known.extend(inputs.iter().map(|input| input.name.as_str()));
    if let Some(output) = graph.output.iter().find(|output| !known.contains(output.name.as_str())) {
        return Err(EngineError::Graph(format!("nothing computes output '{}'", output.name)));
    }
    Ok(ImportReport {
        opset,
        producer: proto.producer_name.clone(),
        operators,
        inputs: inputs.into_iter().map(border_tensor).collect::<Result<_, _>>()?,
        outputs: graph.output.iter().map(border_tensor).collect::<Result<_, _>>()?,
    })
}

fn is_default(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// What is counted on the way through the graph and its subgraphs. Depth is bounded by the protobuf reader (100).
#[derive(Default)]
struct Walk {
    /// By domain (empty = default) and operator.
    operators: BTreeMap<(String, String), usize>,
    default_domain: bool,
}

impl Walk {
    fn graph(&mut self, graph: &GraphProto) -> Result<(), EngineError> {
        graph.initializer.iter().try_for_each(in_this_file)?;
        for node in &graph.node {
            let default = is_default(&node.domain);
            self.default_domain |= default;
            let domain = if default { String::new() } else { node.domain.clone() };
            *self.operators.entry((domain, node.op_type.clone())).or_insert(0) += 1;
            node.attribute
                .iter()
                .try_for_each(|attribute| self.attribute(attribute))?;
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: &AttributeProto) -> Result<(), EngineError> {
        attribute
            .t
            .iter()
            .chain(&attribute.tensors)
            .try_for_each(in_this_file)?;
        attribute
            .g
            .iter()
            .chain(&attribute.graphs)
            .try_for_each(|graph| self.graph(graph))
    }
}

fn in_this_file(tensor: &TensorProto) -> Result<(), EngineError> {
    if tensor.data_location == Some(DataLocation::External as i32) {
        return Err(EngineError::ExternalData {
            tensor: tensor.name.clone(),
        });
    }
    Ok(())
}

fn border_tensor(value: &ValueInfoProto) -> Result<TensorSpec, EngineError> {
    let refuse = |why: String| EngineError::Graph(format!("'{}' at the graph's border {why}", value.name));
    let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err(refuse("is not a tensor".to_owned()));
    };
    let datatype = OnnxType::try_from(tensor.elem_type)
        .ok()
        .and_then(data_type)
        .ok_or_else(|| refuse(format!("has element type {}, which is not known", tensor.elem_type)))?;
    let shape = tensor.shape.as_ref().map_or_else(Vec::new, |shape| {
        let known = |value: &Dim| match value {
            Dim::DimValue(dim) if *dim >= 0 => *dim,
            _ => -1,
        };
        shape
            .dim
            .iter()
            .map(|dim| dim.value.as_ref().map_or(-1, known))
            .collect()
    });
    Ok(TensorSpec {
        name: value.name.clone(),
        datatype,
        shape,
    })
}

fn data_type(onnx: OnnxType) -> Option<DataType> {
    Some(match onnx {
        OnnxType::Float => DataType::Fp32,
        OnnxType::Double => DataType::Fp64,
        OnnxType::Float16 => DataType::Fp16,
        OnnxType::Bfloat16 => DataType::Bf16,
        OnnxType::Bool => DataType::Bool,
        OnnxType::Int8 => DataType::Int8,
        OnnxType::Int16 => DataType::Int16,
        OnnxType::Int32 => DataType::Int32,
        OnnxType::Int64 => DataType::Int64,
        OnnxType::Uint8 => DataType::Uint8,
        OnnxType::Uint16 => DataType::Uint16,
        OnnxType::Uint32 => DataType::Uint32,
        OnnxType::Uint64 => DataType::Uint64,
        OnnxType::String => DataType::Bytes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{AttributeProto, OperatorSetIdProto};

    use super::*;
    use crate::model::Model;
    use crate::test_models::{border, bytes, floats, graph, mlp, mlp_spec, node};

    fn load(model: &ModelProto) -> EngineError {
        Model::load(&bytes(model), &mlp_spec()).unwrap_err()
    }

    #[test]
    fn the_report_names_what_is_in_the_file() {
        let report = inspect(&bytes(&mlp())).unwrap();
        assert_eq!((report.opset, report.producer.as_str()), (17, "engine-tests"));
        let operators: Vec<(&str, usize)> = report.operators.iter().map(|o| (o.name.as_str(), o.count)).collect();
        assert_eq!(
            operators,
            [("Div", 1), ("Gemm", 2), ("Relu", 1), ("Softmax", 1), ("Sub", 1)]
        );
        assert_eq!(
            (report.inputs[0].name.as_str(), &report.inputs[0].shape),
            ("X", &vec![-1, 2])
        );
        assert_eq!(report.outputs[0].datatype, DataType::Fp32);
    }

    #[test]
    fn unsupported_operators_are_all_named_also_in_subgraphs() {
        let mut model = mlp();
        let inner = graph(
            vec![node("Incantation", &["X"], "y", &[])],
            vec![],
            border("X", 1, &[1]),
            border("y", 1, &[1]),
        );
        let mut branch = node("If", &["X"], "z", &[]);
        branch.attribute.push(AttributeProto {
            name: "then_branch".into(),
            r#type: 5,
            g: inner.graph,
            ..AttributeProto::default()
        });
        let mut foreign = node("Spell", &["X"], "w", &[]);
        foreign.domain = "com.example".into();
        let graph = model.graph.as_mut().unwrap();
        graph.node.push(branch);
        graph.node.push(foreign);
        let expected = EngineError::Unsupported {
            operators: vec!["Incantation".into(), "com.example.Spell".into()],
        };
        assert_eq!(load(&model), expected);
        assert_eq!(
            inspect(&bytes(&model)).unwrap().unsupported().len(),
            2,
            "a report is made all the same"
        );
    }

    #[test]
    fn truncated_and_foreign_files_are_corrupt() {
        let whole = bytes(&mlp());
        for length in 0..whole.len() {
            let error = Model::load(&whole[..length], &mlp_spec()).unwrap_err();
            assert!(matches!(error, EngineError::Corrupt(_)), "{length} bytes: {error}");
        }
        assert!(matches!(inspect(b"\x89PNG\r\n\x1a\n"), Err(EngineError::Corrupt(_))));
    }

    #[test]
    fn flipped_bits_never_end_the_process() {
        let whole = bytes(&mlp());
        let mut refused = 0;
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << (place % 8);
            refused += usize::from(Model::load(&damaged, &mlp_spec()).is_err());
        }
        assert!(
            refused > whole.len() / 4,
            "only {refused} of {} were noticed",
            whole.len()
        );
    }

    #[test]
    fn old_opsets_and_external_data_are_refused() {
        let mut old = mlp();
        old.opset_import = vec![OperatorSetIdProto {
            domain: String::new(),
            version: 6,
        }];
        assert_eq!(load(&old), EngineError::Opset { found: 6, oldest: 7 });

        let mut outside = mlp();
        let weights = &mut outside.graph.as_mut().unwrap().initializer[2];
        weights.raw_data.clear();
        weights.data_location = Some(DataLocation::External as i32);
        assert_eq!(load(&outside), EngineError::ExternalData { tensor: "w0".into() });
    }

    #[test]
    fn lying_shapes_and_missing_tensors_are_errors() {
        let mut lying = mlp();
        lying.graph.as_mut().unwrap().initializer[2] = floats("w0", &[1 << 40, 1 << 40], &[1.0]);
        assert!(matches!(
            load(&lying),
            EngineError::Graph(_) | EngineError::Panicked { .. }
        ));

        let mut missing = mlp();
        missing.graph.as_mut().unwrap().initializer.remove(0);
        assert_eq!(load(&missing), EngineError::Graph("nothing computes mean".into()));

        let mut nowhere = mlp();
        nowhere.graph.as_mut().unwrap().output[0].name = "gone".into();
        assert_eq!(
            load(&nowhere),
            EngineError::Graph("nothing computes output 'gone'".into())
        );
    }
}
