//! The device's three key pairs and what the fleet gave it for them.
//!
//! Keys are made here, once, readable by their owner alone, and never leave. They are on disk before anything is asked for
//! with them, so that a crash in the middle of enrolment does not make the device somebody else.

use std::path::{Path, PathBuf};

use flotilla_protocol::ids::{DeviceId, FleetId};
use flotilla_protocol::trust::{KeyPair, TrustError};
use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize as _, Zeroizing};

use crate::files::{self, Access, FileError};
use crate::random::{self, NoRandomness};
use crate::store::{Store, StoreError, keys};
use crate::tls::{ClientIdentity, TlsError};

const MAX_KEY_BYTES: u64 = 16 * 1024;

/// TLS, signing, wrapping.
const KEY_FILES: [&str; 3] = ["tls.pem", "signing.pem", "wrapping.hex"];

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Random(#[from] NoRandomness),
    #[error("the key in {} cannot be used: {why}; restore it from a copy, or enrol with an empty data_dir", path.display())]
    Key { path: PathBuf, why: String },
    #[error("{} is missing, and this device is enrolled with it: restore it from a copy, or enrol with an empty data_dir", .0.display())]
    Missing(PathBuf),
    #[error("a key pair could not be made: {0}")]
    Make(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The private keys, in memory.
pub struct DeviceKeys {
    /// P-256, for mutual TLS. PKCS#8 PEM.
    tls_pem: Zeroizing<String>,
    /// Ed25519, for the device's own documents; its id is the thumbprint.
    pub signing: KeyPair,
    /// X25519, for keys that are wrapped to this device.
    wrapping: StaticSecret,
}

impl std::fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceKeys")
            .field("signing", &self.signing)
            .finish_non_exhaustive()
    }
}

impl DeviceKeys {
    /// Reads the keys of a device that is enrolled. A missing one is not made anew: the fleet knows this device by it.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let dir = data_dir.join("keys");
        for name in KEY_FILES {
            let path = dir.join(name);
            if files::read_capped(&path, MAX_KEY_BYTES)?.is_none() {
                return Err(IdentityError::Missing(path));
            }
        }
        Self::load_or_make(data_dir)
    }

    /// Reads the keys from `<data_dir>/keys`, and makes those that are missing.
    pub fn load_or_make(data_dir: &Path) -> Result<Self, IdentityError> {
        let dir = data_dir.join("keys");
        files::create_private_dir(&dir)?;
        let [tls_file, signing_file, wrapping_file] = KEY_FILES;
        let tls_pem = key_file(&dir.join(tls_file), || {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                .map_err(|why| IdentityError::Make(why.to_string()))?;
            Ok(Zeroizing::new(pair.serialize_pem()))
        })?;
        let signing_path = dir.join(signing_file);
        let signing_pem = key_file(&signing_path, || {
            let mut seed = Zeroizing::new([0u8; 32]);
            random::fill(seed.as_mut_slice())?;
            let pair = KeyPair::from_seed(&seed);
            let pem = pair
                .to_pkcs8_pem()
                .map_err(|why: TrustError| IdentityError::Make(why.to_string()))?;
            Ok(Zeroizing::new(pem))
        })?;
        let signing = KeyPair::from_pkcs8_pem(&signing_pem).map_err(unusable(&signing_path))?;
        let wrapping_path = dir.join(wrapping_file);
        let wrapping_hex = key_file(&wrapping_path, || {
            let mut secret = Zeroizing::new([0u8; 32]);
            random::fill(secret.as_mut_slice())?;
            Ok(Zeroizing::new(hex_of(secret.as_slice())))
        })?;
        let mut secret = bytes_of(&wrapping_hex)
            .ok_or("64 hex digits are expected")
            .map_err(unusable(&wrapping_path))?;
        let wrapping = StaticSecret::from(secret);
        secret.zeroize();
        Ok(Self {
            tls_pem,
            signing,
            wrapping,
        })
    }

    /// The certificate request for this device, PEM.
    pub fn certificate_request(&self, device: &DeviceId) -> Result<String, IdentityError> {
        let failed = |why: rcgen::Error| IdentityError::Make(why.to_string());
        let pair = rcgen::KeyPair::from_pem(&self.tls_pem).map_err(failed)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, device.as_str());
        params
            .serialize_request(&pair)
            .and_then(|request| request.pem())
            .map_err(failed)
    }

    /// The public half of the wrapping key.
    pub fn wrapping_public(&self) -> Vec<u8> {
        x25519_dalek::PublicKey::from(&self.wrapping).as_bytes().to_vec()
    }

    pub fn client_identity(&self, certificate_pem: &str) -> Result<ClientIdentity, TlsError> {
        ClientIdentity::from_pem(certificate_pem, &self.tls_pem)
    }
}

fn unusable<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> IdentityError + '_ {
    move |why| IdentityError::Key {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

fn key_file(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<String>, IdentityError>,
) -> Result<Zeroizing<String>, IdentityError> {
    if let Some(bytes) = files::read_capped(path, MAX_KEY_BYTES)? {
        return String::from_utf8(bytes).map(Zeroizing::new).map_err(|why| {
            why.into_bytes().zeroize();
            IdentityError::Key {
                path: path.to_owned(),
                why: "it is not text".to_owned(),
            }
        });
    }
    let text = make()?;
    files::write_atomic(path, text.as_bytes(), Access::Owner)?;
    Ok(text)
}

fn hex_of(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        if write!(text, "{byte:02x}").is_err() {
            text.clear();
        }
        text
    })
}

fn bytes_of(text: &str) -> Option<[u8; 32]> {
    let mut out = [0u8; 32];
    let digits = text.trim().as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let (pairs, _) = digits.as_chunks::<2>();
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        let high = char::from(*high).to_digit(16)?;
        let low = char::from(*low).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}

/// What enrolment gave, besides the root of trust. Stored with it in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    pub device: DeviceId,
    pub fleet: FleetId,
    pub certificate_pem: String,
    /// `mqtts://host:port`
    pub broker: String,
    /// `https://host:port`
    pub device_api: String,
}

impl Enrolled {
    pub fn load(store: &Store) -> Result<Option<Self>, StoreError> {
        store.get(keys::ENROLLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let first = DeviceKeys::load_or_make(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join("keys")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let again = DeviceKeys::load_or_make(dir.path()).unwrap();
        assert_eq!(first.signing.id(), again.signing.id());
        assert_eq!(first.wrapping_public(), again.wrapping_public());
        assert_eq!(*first.tls_pem, *again.tls_pem);
        let device = DeviceId::new("press-07").unwrap();
        let request = first.certificate_request(&device).unwrap();
        assert!(request.contains("BEGIN CERTIFICATE REQUEST") && !request.contains("PRIVATE"));
        assert!(!format!("{first:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_broken_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        DeviceKeys::load_or_make(dir.path()).unwrap();
        std::fs::write(dir.path().join("keys/signing.pem"), "torn").unwrap();
        let refused = DeviceKeys::load_or_make(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("signing.pem"), "{refused}");
    }

    #[test]
    fn a_lost_key_of_an_enrolled_device_is_not_made_anew() {
        for name in KEY_FILES {
            let dir = tempfile::tempdir().unwrap();
            DeviceKeys::load_or_make(dir.path()).unwrap();
            assert!(DeviceKeys::load(dir.path()).is_ok());
            std::fs::remove_file(dir.path().join("keys").join(name)).unwrap();
            let refused = DeviceKeys::load(dir.path()).unwrap_err().to_string();
            assert!(refused.contains(name) && refused.contains("is missing"), "{refused}");
            assert!(!dir.path().join("keys").join(name).exists());
        }
    }
}
