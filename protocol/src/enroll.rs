//! Enrolment: what a device brings from the factory, what it asks for, what it gets.
//!
//! The device makes its keys itself and never sends a private one. It proves possession of both: the TLS key by the
//! PKCS#10 request's own signature, the signing key by the envelope around [`Enrolment`].

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, Digest, FleetId};
use crate::trust::{DeviceFacts, Document, Header, PublicKey};

/// Path of enrolment on the device API.
pub const ENROL_PATH: &str = "/v1/enrol";

/// What is put on a device (or into an image) to let it join: who the fleet is, and one claim token. A JSON file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactoryBundle {
    pub fleet: FleetId,
    /// `https://host:port`
    pub device_api: String,
    /// The fleet CA's certificate, PEM: the only one that enrolment trusts.
    pub ca_pem: String,
    /// The factory root, an envelope in base64.
    pub root: String,
    pub claim_token: String,
}

/// The signed part of an enrolment. Signed by the device's new signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    pub header: Header,
    /// The name that the device asks for; the server may refuse it.
    pub device: DeviceId,
    pub signing_key: PublicKey,
    /// X25519, for keys that are wrapped to this device.
    #[serde(with = "serde_bytes")]
    pub wrapping_key: Vec<u8>,
    /// Binds the certificate request to this enrolment: SHA-256 of [`EnrolRequest::csr_pem`], the text as it is sent.
    pub csr_digest: Digest,
    pub facts: DeviceFacts,
}

impl Document for Enrolment {
    const SCHEMA: &'static str = "flotilla.enrolment.v1";
    const WHAT: &'static str = "enrolment";

    fn header(&self) -> &Header {
        &self.header
    }
}

/// `POST` [`ENROL_PATH`], JSON.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    pub claim_token: String,
    /// Envelope of [`Enrolment`], base64.
    pub enrolment: String,
    /// PKCS#10, PEM.
    pub csr_pem: String,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("csr_pem", &self.csr_pem)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolResponse {
    pub device: DeviceId,
    /// The client certificate, PEM.
    pub certificate_pem: String,
    /// `mqtts://host:port`
    pub broker: String,
}
