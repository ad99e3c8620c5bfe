//! Ed25519 keys (RFC 8032) and their ids.

use std::fmt;

use ed25519_dalek::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey, pkcs8};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ids::Digest;
use crate::trust::{Role, TrustError};

/// DER of an Ed25519 `SubjectPublicKeyInfo` up to the key itself (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key's name: SHA-256 of its `SubjectPublicKeyInfo`. For a device it is the thumbprint, which survives renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub Digest);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An Ed25519 public key. JSON: 64 hex digits; CBOR: a byte string of 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        let array: [u8; 32] = bytes
            .try_into()
            .map_err(|_length| TrustError::Invalid("an Ed25519 public key is 32 bytes".to_owned()))?;
        VerifyingKey::from_bytes(&array).map_err(|e| TrustError::Invalid(format!("Ed25519 public key: {e}")))?;
        Ok(Self(array))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn id(&self) -> KeyId {
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(&self.0);
        KeyId(Digest::of(&spki))
    }

    /// PEM, for others' tools.
    pub fn to_pem(&self) -> Result<String, TrustError> {
        VerifyingKey::from_bytes(&self.0)
            .map_err(|e| TrustError::Invalid(e.to_string()))?
            .to_public_key_pem(pkcs8::spki::der::pem::LineEnding::LF)
            .map_err(|e| TrustError::Invalid(e.to_string()))
    }

    pub(super) fn verifying_key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.0).ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(self.0))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)?
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec()
        };
        Self::from_bytes(&bytes).map_err(de::Error::custom)
    }
}

/// A private key. Never printed; zeroed when dropped.
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// From 32 bytes of the caller's randomness.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, TrustError> {
        pkcs8::DecodePrivateKey::from_pkcs8_pem(pem)
            .map(Self)
            .map_err(|e| TrustError::Invalid(format!("Ed25519 private key (PKCS#8 PEM): {e}")))
    }

    pub fn to_pkcs8_pem(&self) -> Result<String, TrustError> {
        self.0
            .to_pkcs8_pem(pkcs8::spki::der::pem::LineEnding::LF)
            .map(|pem| pem.as_str().to_owned())
            .map_err(|e| TrustError::Invalid(e.to_string()))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub fn id(&self) -> KeyId {
        self.public().id()
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).to_bytes().to_vec()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.id())
    }
}

/// A role together with the keys that may speak for it and how many of them are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    pub role: Role,
    pub keys: Vec<PublicKey>,
    pub threshold: u32,
}

impl Authority {
    /// One key speaking for one role: a device's own documents.
    pub fn single(role: Role, key: PublicKey) -> Self {
        Self {
            role,
            keys: vec![key],
            threshold: 1,
        }
    }
}
