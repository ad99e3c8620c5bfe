//! Who may put what on which device: envelopes, keys, roles, the signed documents' common header, and the rules a device
//! applies before it believes anything.
//!
//! Semantics are Uptane's (a director and an image repository) and TUF 1.0.34's (roles, thresholds, root rotation); the
//! envelope is COSE (RFC 9052). There is one implementation of verification, and [`Verified`] has no other constructor.

mod document;
mod envelope;
mod error;
mod keys;
mod root;
mod store;

pub use document::{Document, Header, Role, Verified};
pub use envelope::{Envelope, external_aad, sign, verify};
pub use error::TrustError;
pub use keys::{Authority, KeyId, KeyPair, PublicKey};
pub use root::{RoleKeys, Root};
pub use store::{DeviceFacts, DocumentVersions, MAX_AHEAD_MS, MAX_REMEMBERED, TrustSnapshot, TrustStore};
