//! Bodies of the fleet server's REST API, shared by the server and `fleetctl`: serde types, and how times are written.
//!
//! Times are RFC 3339 in UTC; ids are UUIDs; digests are `sha256:<hex>`; sizes and durations carry their unit in the name.
//! Every list is a [`Page`] or a [`CountedPage`]; every error is a [`Problem`] (RFC 9457).

pub mod audit;
pub mod common;
pub mod datasets;
pub mod devices;
pub mod drift;
pub mod events;
pub mod models;
pub mod overview;
pub mod rollouts;
pub mod runs;
pub mod sessions;
pub mod time;

pub use common::{CountedPage, Job, JobState, Page, Problem};
