//! Training, evaluation and export of models, as pure functions: data and a seed in, weights and bytes out.
//!
//! Jobs, blobs and the database are the business of `runner` and `trainset` alone.

pub mod evaluate;
pub mod export;
pub mod fit;
pub mod golden;
pub mod rng;
pub mod runner;
pub mod scoring;
pub mod trainset;
