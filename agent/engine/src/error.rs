//! Why a model is not loaded, or a request not answered.

use flotilla_protocol::codec::CodecError;
use flotilla_protocol::features::FeatureError;
use flotilla_protocol::infer::TensorError;

/// Whose fault an [`EngineError`] is: decides between HTTP 4xx and 5xx, and what counts against a soaking model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The values given: not finite.
    Data,
    /// What was given does not fit the model's border: names, shapes, datatypes.
    Interface,
    /// The model, or the engine.
    Model,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    #[error("the ONNX file cannot be read: {0}; it is truncated, corrupt or not ONNX")]
    Corrupt(String),
    #[error("the model uses ONNX opset {found}; export it with opset {oldest} or newer")]
    Opset { found: i64, oldest: i64 },
    #[error(
        "the model uses operators that this engine does not have: {}; export it without them", .operators.join(", ")
    )]
    Unsupported { operators: Vec<String> },
    #[error("the model keeps tensor '{tensor}' in another file; export it as a single file")]
    ExternalData { tensor: String },
    #[error("the ONNX graph is not usable: {0}")]
    Graph(String),
    #[error("package and ONNX model do not fit together: {0}")]
    Interface(String),
    #[error("the feature specification cannot be read: {0}")]
    FeatureComponent(#[from] CodecError),
    #[error("{0}")]
    Features(FeatureError),
    #[error("input '{name}': {why}")]
    Input { name: String, why: String },
    #[error("input '{input}', row {row}: {source}")]
    Row {
        input: String,
        row: usize,
        source: FeatureError,
    },
    #[error("input '{input}', row {row}: value {index} is not a finite number")]
    NotFinite { input: String, row: usize, index: usize },
    #[error("{0}")]
    Tensor(#[from] TensorError),
    #[error("the model failed: {0}")]
    Run(String),
    #[error("output '{output}': {why}")]
    Output { output: String, why: String },
    #[error("the inference library panicked while {during}: {message}")]
    Panicked { during: &'static str, message: String },
}

impl EngineError {
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotFinite { .. }
            | Self::Row {
                source: FeatureError::NotFinite { .. },
                ..
            } => Blame::Data,
            Self::Input { .. } | Self::Row { .. } | Self::Tensor(_) => Blame::Interface,
            _ => Blame::Model,
        }
    }
}
