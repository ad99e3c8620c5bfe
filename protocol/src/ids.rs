//! The registry of identifier types: one type per kind of thing, so that a run id cannot be passed for a dataset id.
//!
//! Ids made by the server are `UUIDv7` (RFC 9562). Device ids are chosen by people or derived at enrolment and are at
//! once the certificate's CN and a topic level. Digests are SHA-256, written `sha256:<64 hex digits>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Why a piece of text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("'{text}' is not a valid {kind}: {rule}")]
    Malformed {
        kind: &'static str,
        text: String,
        rule: &'static str,
    },
}

fn malformed(kind: &'static str, text: &str, rule: &'static str) -> IdError {
    // What is echoed back comes from outside: keep it short.
    IdError::Malformed {
        kind,
        text: text.chars().take(80).collect(),
        rule,
    }
}

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Wraps a UUID that the caller made (`UUIDv7` by convention).
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_ignored| malformed(stringify!($name), text, "a UUID is expected"))
            }
        }
    )+};
}

uuid_id! {
    /// One fleet: one server, one root of trust.
    FleetId,
    /// Divides datasets, runs and models inside a fleet.
    ProjectId,
    DatasetId,
    /// One file on its way into a dataset.
    ImportId,
    DatasetVersionId,
    LabelingFunctionId,
    ExperimentId,
    RunId,
    ModelVersionId,
    RolloutId,
    /// One device's part in one rollout.
    DeploymentId,
    ClaimTokenId,
    ApiTokenId,
    JobId,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $rule:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let ok: fn(u8) -> bool = $ok;
                if text.is_empty() || text.len() > $max || !text.bytes().all(ok) {
                    return Err(malformed($kind, &text, $rule));
                }
                Ok(Self(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

text_id! {
    /// A device: its certificate's CN, its MQTT client id and its topic level.
    DeviceId, "device id", 64, "1 to 64 of a-z, 0-9 and '-'",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}
text_id! {
    /// A model line: the name under which versions follow each other and release counters rise.
    ModelLine, "model line", 64, "1 to 64 of a-z, 0-9 and '-'",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}
text_id! {
    /// A named place for a model on a device; each holds an active and an inactive copy.
    SlotName, "slot name", 32, "1 to 32 of a-z, 0-9 and '-'",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}

impl SlotName {
    /// The slot of devices that run one model.
    pub fn main() -> Self {
        Self("main".to_owned())
    }
}

/// A SHA-256 digest. JSON and text: `sha256:<hex>`; CBOR: a byte string of 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits alone: file names, URLs, topics.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Reads the 64 hex digits alone.
    pub fn from_hex(text: &str) -> Result<Self, IdError> {
        let mut out = [0u8; 32];
        match hex::decode_to_slice(text, &mut out) {
            Ok(()) if text.bytes().all(|b| !b.is_ascii_uppercase()) => Ok(Self(out)),
            _ => Err(malformed("digest", text, "64 lower-case hex digits are expected")),
        }
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        self.hex().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix("sha256:") {
            Some(hex) => Self::from_hex(hex),
            None => Err(malformed("digest", text, "'sha256:' and 64 hex digits are expected")),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
            let array: [u8; 32] = bytes
                .as_slice()
                .try_into()
                .map_err(|_wrong_length| de::Error::custom("a digest is 32 bytes"))?;
            Ok(Self(array))
        }
    }
}

/// Hashes a stream piece by piece, counting as it goes.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    inner: Sha256,
    length: u64,
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
    }

    /// Bytes seen so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn finish(self) -> Digest {
        Digest(self.inner.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_are_topic_levels() {
        assert!(DeviceId::new("press-07").is_ok());
        for bad in ["", "Press", "a/b", "a+", "#", "a b", "é", "server:1", &"x".repeat(65)] {
            assert!(DeviceId::new(bad).is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn digests_read_back_in_both_forms() {
        let digest = Digest::of(b"flotilla");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let cbor = serde_cbor::to_vec(&digest).unwrap();
        assert_eq!(cbor.len(), 34, "a byte string of 32, not text");
        assert_eq!(serde_cbor::from_slice::<Digest>(&cbor).unwrap(), digest);
        assert!("sha256:00".parse::<Digest>().is_err());
        assert!(Digest::from_hex(&digest.hex().to_uppercase()).is_err());
    }
}
