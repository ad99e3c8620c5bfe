//! What all signed documents have in common.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{Digest, FleetId, IdError, ModelLine};
use crate::trust::KeyId;

/// Who speaks. In text: `root`, `director`, `release/<line>`, `release-system`, `device`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Root,
    /// Says which device runs what (online, short-lived documents).
    Director,
    /// Says that a model package is fit to run anywhere (offline).
    Release(ModelLine),
    /// The same for agents and firmware.
    ReleaseSystem,
    /// A device speaking of itself.
    Device,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Director => f.write_str("director"),
            Self::Release(line) => write!(f, "release/{line}"),
            Self::ReleaseSystem => f.write_str("release-system"),
            Self::Device => f.write_str("device"),
        }
    }
}

impl FromStr for Role {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "root" => Ok(Self::Root),
            "director" => Ok(Self::Director),
            "release-system" => Ok(Self::ReleaseSystem),
            "device" => Ok(Self::Device),
            other => match other.strip_prefix("release/") {
                Some(line) => Ok(Self::Release(line.parse()?)),
                None => Err(IdError::Malformed {
                    kind: "role",
                    text: other.chars().take(80).collect(),
                    rule: "root, director, release/<line>, release-system or device",
                }),
            },
        }
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The fields every signed document carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub schema: String,
    pub role: Role,
    pub fleet: FleetId,
    /// Only rises, per document kind.
    pub version: u64,
    /// Unix milliseconds.
    pub issued: i64,
    /// Unix milliseconds.
    pub expires: i64,
}

/// A document that can be signed and verified.
pub trait Document: Serialize + DeserializeOwned {
    /// Names the layout; unknown layouts are refused.
    const SCHEMA: &'static str;
    /// How messages call it.
    const WHAT: &'static str;

    fn header(&self) -> &Header;
}

/// A document whose signatures, schema, role and fleet were checked. Only [`super::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    document: T,
    digest: Digest,
    signers: Vec<KeyId>,
}

impl<T> Verified<T> {
    pub(super) fn new(document: T, digest: Digest, signers: Vec<KeyId>) -> Self {
        Self {
            document,
            digest,
            signers,
        }
    }

    /// SHA-256 of the payload as received: the document's name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The keys whose signatures counted.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    pub fn into_inner(self) -> T {
        self.document
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.document
    }
}
