//! Updates: from a signed order to a committed package, with the old one answering until the new one has proved itself.
//!
//! `state`, `policy` and `machine` are pure; `driver` carries out what the machine decides; `fetch` gets bytes, `slots`
//! keeps them.

pub mod driver;
pub mod fetch;
pub mod machine;
pub mod policy;
pub mod slots;
pub mod state;
pub mod work;
