//! Gathers release signatures: judges what was brought in against the root's keys, merges it with what is there, and says
//! whether the threshold is reached. Signs nothing.

use flotilla_protocol::codec;
use flotilla_protocol::ids::{FleetId, ModelLine};
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::trust::{Authority, Envelope, Role, Root, TrustError, verify};

/// What the signatures come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// All signatures so far.
    pub envelope: Vec<u8>,
    /// Distinct release keys among them, and how many are needed.
    pub valid: u32,
    pub needed: u32,
}

impl Gathered {
    pub const fn is_signed(&self) -> bool {
        self.valid >= self.needed
    }
}

/// Why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefused {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the envelope is over other bytes than the manifest of this version")]
    OtherPayload,
    #[error("key {key} may not sign for role '{role}', or its signature is not valid")]
    NotAReleaseKey { key: String, role: Role },
}

impl SignatureRefused {
    /// The attack's name for audit.
    pub fn attack(&self) -> &'static str {
        match self {
            Self::Trust(error) => error.attack(),
            Self::OtherPayload => "altered-content",
            Self::NotAReleaseKey { .. } => "arbitrary-package",
        }
    }
}

/// The package as it was made, and who may speak for it.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    pub line: &'a ModelLine,
    pub payload: &'a [u8],
    pub fleet: FleetId,
    pub root: &'a Root,
}

/// Adds the signatures of `offered` to those of `stored`. Every single one must be a release key's.
pub fn gather(package: Package<'_>, stored: Option<&[u8]>, offered: &[u8]) -> Result<Gathered, SignatureRefused> {
    let role = Role::Release(package.line.clone());
    let authority = package.root.authority(&role)?;
    let offered = Envelope::decode(offered)?;
    if offered.payload() != package.payload {
        return Err(SignatureRefused::OtherPayload);
    }
    let known: Vec<String> = authority.keys.iter().map(|key| hex::encode(key.id().0.0)).collect();
    if let Some(stranger) = offered.claimed_signers().into_iter().find(|key| !known.contains(key)) {
        return Err(SignatureRefused::NotAReleaseKey {
            key: stranger.chars().take(64).collect(),
            role,
        });
    }
    let any = Authority {
        threshold: 1,
        ..authority.clone()
    };
    let brought = verify::<Manifest>(&offered.encode()?, &any, package.fleet)?;
    let claimed = offered.claimed_signers();
    let proven: Vec<String> = brought.signers().iter().map(|id| hex::encode(id.0.0)).collect();
    if let Some(forged) = claimed.into_iter().find(|key| !proven.contains(key)) {
        return Err(SignatureRefused::NotAReleaseKey { key: forged, role });
    }
    let mut all = match stored {
        Some(stored) => Envelope::decode(stored)?,
        None => Envelope::unsigned(package.payload.to_vec()),
    };
    all.merge(offered)?;
    let envelope = all.encode()?;
    let verified = verify::<Manifest>(&envelope, &any, package.fleet)?;
    Ok(Gathered {
        valid: u32::try_from(verified.signers().len()).unwrap_or(u32::MAX),
        needed: authority.threshold.max(1),
        envelope,
    })
}

/// The manifest in its parts.
pub fn read_manifest(payload: &[u8]) -> Result<Manifest, TrustError> {
    codec::from_slice(payload, codec::MAX_DOCUMENT_BYTES).map_err(TrustError::Document)
}
