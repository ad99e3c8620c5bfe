//! Model packages: building them, keeping them, and gathering the signatures over them.
//!
//! There is no private key here: release keys stay with the people who hold them.

pub mod package;
pub mod packager;
pub mod signer;
