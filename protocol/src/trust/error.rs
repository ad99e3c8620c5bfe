//! Every way in which trust is refused, each with the name of the attack it would be.

use crate::codec::CodecError;
use crate::ids::{Digest, FleetId};
use crate::trust::{KeyId, Role};

/// Why a signed document (or what it describes) is refused. [`TrustError::attack`] names it for reports and audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("the envelope cannot be read: {0}")]
    Envelope(String),
    #[error("the document cannot be read: {0}")]
    Document(CodecError),
    #[error("signature algorithm {0} is not accepted: EdDSA (-8) or Ed25519 (-19), in the protected header")]
    Algorithm(String),
    #[error("role '{role}' needs {needed} valid signature(s) of its keys, {valid} found")]
    Threshold { role: Role, needed: u32, valid: u32 },
    #[error("the root names no keys for role '{0}'")]
    UnknownRole(Role),
    #[error("schema '{found}' where '{expected}' is needed")]
    Schema { expected: &'static str, found: String },
    #[error("signed for role '{found}' where '{expected}' is needed")]
    WrongRole { expected: Role, found: Role },
    #[error("it belongs to fleet {found}, this is fleet {expected}")]
    OtherFleet { expected: FleetId, found: FleetId },
    #[error("it is addressed to device '{found}' (key {found_key}), this is '{expected}' (key {expected_key})")]
    OtherDevice {
        expected: String,
        expected_key: KeyId,
        found: String,
        found_key: KeyId,
    },
    #[error("{what} version {offered} is older than version {seen}, which was seen before")]
    Rollback {
        what: &'static str,
        offered: u64,
        seen: u64,
    },
    #[error("{what} version {version} was seen before with other contents")]
    Equivocation { what: &'static str, version: u64 },
    #[error("root version {offered} does not follow version {current}: roots are followed one by one")]
    RootGap { offered: u64, current: u64 },
    #[error("{what} expired at {expires} ms, it is {now} ms")]
    Expired { what: &'static str, expires: i64, now: i64 },
    #[error("{what} says that it was issued at {issued} ms, later than {latest} ms: its signer is ahead of time")]
    FastForward {
        what: &'static str,
        issued: i64,
        latest: i64,
    },
    #[error(
        "no head has been accepted from this director yet: what is revoked is not known, and nothing new is installed"
    )]
    NoHead,
    #[error("manifest {found} is not the one targeted ({expected})")]
    OtherManifest { expected: Digest, found: Digest },
    #[error("manifest {0} is revoked")]
    RevokedManifest(Digest),
    #[error("release counter {offered} is below the floor {floor} of line '{line}'")]
    BelowFloor { line: String, offered: u64, floor: u64 },
    #[error("the target says release counter {target}, the manifest says {manifest}")]
    CounterMismatch { target: u64, manifest: u64 },
    /// Signed for other hardware, and offered to this. That a device has too little of something is no refusal of trust:
    /// [`Shortage`](crate::manifest::Shortage).
    #[error("not for this device: {0}")]
    Incompatible(String),
    #[error("{what} has digest {found} and {found_length} bytes, {expected} and {expected_length} are signed")]
    Content {
        what: String,
        expected: Digest,
        expected_length: u64,
        found: Digest,
        found_length: u64,
    },
    #[error("the document breaks its own rules: {0}")]
    Invalid(String),
}

impl TrustError {
    /// The attack's name as used in reports, audit events and `test-data/attacks/`.
    pub fn attack(&self) -> &'static str {
        match self {
            Self::Envelope(_) | Self::Document(_) | Self::Invalid(_) => "malformed-document",
            Self::Algorithm(_) => "algorithm-swap",
            Self::Threshold { .. } => "arbitrary-package",
            Self::UnknownRole(_) | Self::WrongRole { .. } | Self::Schema { .. } => "wrong-role",
            Self::OtherFleet { .. } => "other-fleet",
            Self::OtherDevice { .. } => "other-device",
            Self::Rollback { .. } | Self::Equivocation { .. } | Self::BelowFloor { .. } => "rollback",
            Self::RootGap { .. } => "root-gap",
            Self::Expired { .. } | Self::NoHead => "freeze",
            Self::FastForward { .. } => "fast-forward",
            Self::OtherManifest { .. } | Self::CounterMismatch { .. } => "mix-and-match",
            Self::RevokedManifest(_) => "revoked-manifest",
            Self::Incompatible(_) => "wrong-hardware",
            Self::Content { .. } => "altered-content",
        }
    }
}
