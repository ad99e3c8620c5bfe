//! Decisions and computations of the server, all pure: no files, no clock, no SQL.

pub mod authz;
pub mod dataset;
pub mod device_filter;
pub mod drift;
pub mod drift_filter;
pub mod filter;
pub mod label_model;
pub mod labeling;
pub mod rollout;
pub mod run_filter;
pub mod tags;
