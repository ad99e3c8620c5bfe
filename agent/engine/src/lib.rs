//! The engine: loads an ONNX model with tract, runs it behind the package's own border (raw samples in, scores and labels
//! out) and proves it against its golden set. The agent and the server link the same code, so what the server saw before
//! signing is what the device sees.
//!
//! No runtime, no files, no network: bytes and tensors in, tensors and typed errors out. Whatever the bytes hold, a call
//! ends in a value or an [`EngineError`]; panics inside tract are caught at the border.

#![cfg_attr(test, expect(clippy::cast_precision_loss, reason = "made-up test data"))]

mod border;
mod error;
mod golden;
mod load;
mod model;
mod plan;
mod process;
mod stopwatch;
mod tensors;
#[cfg(test)]
mod test_models;

pub use error::{Blame, EngineError};
pub use golden::{GoldenFailure, GoldenReport, run_golden};
pub use load::{ImportReport, OperatorUse, inspect};
pub use model::{Model, Outcome};
pub use process::{LABEL_OUTPUT, PackageSpec};
