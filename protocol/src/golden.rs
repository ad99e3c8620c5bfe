//! The golden set: raw inputs with the trainer's own outputs. Server (before signing) and device (before activating) run
//! the package in the same engine and compare.

use serde::{Deserialize, Serialize};

use crate::infer::Tensor;

/// One case: a batch of one raw sample per input, and the scores that the trainer computed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenCase {
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

/// The `golden` component of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenSet {
    pub schema: u16,
    pub cases: Vec<GoldenCase>,
}
