//! The harness of the whole-system tests: a real server, real agents, their files and processes. Nothing is mocked; faults
//! are injected from outside (signals, files, the server's own database).

#![expect(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "JSON answers are indexed, which gives null; test data is made up"
)]

pub mod agent;
pub mod fleet;
pub mod model;
pub mod process;
pub mod server;

pub use agent::Agent;
pub use fleet::Fleet;
pub use server::Server;
