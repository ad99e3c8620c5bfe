//! The fleet server: labels data, trains models, packages them, rolls them out and watches them, in one binary.
//!
//! Ranks, each using only those below: `api`, `broker`, `device_api`, `reconcile` → `jobs` → `packaging` → `training` →
//! `work` → `store`, `blobs` → `domain` → `flotilla-protocol`. `serve` wires them and nothing names it; `init` makes a fleet.

#![cfg_attr(test, expect(clippy::cast_precision_loss, reason = "made-up test data"))]

pub mod api;
pub mod app;
pub mod audit;
pub mod blobs;
pub mod broker;
pub mod ca;
pub mod clock;
pub mod config;
pub mod device_api;
pub mod director;
pub mod domain;
pub mod events;
pub mod files;
pub mod heavy;
pub mod imports;
pub mod init;
pub mod jobs;
pub mod listener;
pub mod packaging;
pub mod reconcile;
pub mod refusals;
pub mod serve;
pub mod store;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod training;
pub mod work;
