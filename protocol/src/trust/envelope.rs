//! The envelope: CBOR `[payload bstr, [+ COSE_Sign1]]`, each `COSE_Sign1` (RFC 9052 §4.2) with detached payload and
//! `external_aad` = CBOR `["flotilla", role, schema]`. One signature and a threshold of them look the same.
//!
//! Verification is over the bytes received; nothing is re-encoded. The primitive (`verify_strict`) is called here alone.

use std::collections::BTreeMap;

use coset::cbor::value::Value;
use coset::iana::{self, EnumI64 as _};
use coset::{
    AsCborValue as _, CborSerializable as _, CoseSign1, CoseSign1Builder, HeaderBuilder, RegisteredLabelWithPrivate,
};

use crate::codec::{self, CodecError, MAX_DOCUMENT_BYTES};
use crate::ids::{Digest, FleetId};
use crate::trust::{Authority, Document, KeyId, KeyPair, Role, TrustError, Verified};

/// More signatures than any threshold needs are refused rather than checked.
const MAX_SIGNATURES: usize = 16;
/// Payload cap plus what the signatures need.
const MAX_ENVELOPE_BYTES: usize = MAX_DOCUMENT_BYTES + MAX_SIGNATURES * 256;
const MAX_DEPTH: usize = 8;
/// RFC 9864's fully-specified Ed25519, which deprecates `EdDSA` (−8). `pycose` does not know it yet: sign with −8, accept both.
const ALG_ED25519: i64 = -19;

/// A payload and its signatures, taken apart but not yet believed.
#[derive(Debug, Clone)]
pub struct Envelope {
    payload: Vec<u8>,
    signatures: Vec<CoseSign1>,
}

/// `external_aad`: binds a signature to its role and layout, so that one kind of document cannot pass for another.
pub fn external_aad(role: &Role, schema: &str) -> Result<Vec<u8>, CodecError> {
    codec::to_vec(&("flotilla", role.to_string(), schema))
}

impl Envelope {
    /// An envelope without signatures yet, around the bytes that are to be signed.
    pub fn unsigned(payload: Vec<u8>) -> Self {
        Self {
            payload,
            signatures: Vec::new(),
        }
    }

    /// Takes the outer structure apart under caps. Believes nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustError> {
        let refuse = |why: &str| TrustError::Envelope(why.to_owned());
        if bytes.len() > MAX_ENVELOPE_BYTES {
            return Err(TrustError::Envelope(format!(
                "{} bytes exceed the cap of {MAX_ENVELOPE_BYTES}",
                bytes.len()
            )));
        }
        let mut rest = bytes;
        let value: Value = coset::cbor::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH)
            .map_err(|e| TrustError::Envelope(e.to_string()))?;
        if !rest.is_empty() {
            return Err(refuse("trailing bytes"));
        }
        let Value::Array(parts) = value else {
            return Err(refuse("not an array"));
        };
        let [payload, signatures]: [Value; 2] = parts
            .try_into()
            .map_err(|_length| refuse("not an array of payload and signatures"))?;
        let (Value::Bytes(payload), Value::Array(signatures)) = (payload, signatures) else {
            return Err(refuse("payload is no byte string or signatures are no array"));
        };
        if signatures.is_empty() || signatures.len() > MAX_SIGNATURES {
            return Err(refuse("between 1 and 16 signatures are needed"));
        }
        let signatures = signatures
            .into_iter()
            .map(|value| CoseSign1::from_cbor_value(value).map_err(|e| TrustError::Envelope(e.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        if signatures.iter().any(|s| s.payload.is_some()) {
            return Err(refuse("a signature carries a payload of its own"));
        }
        Ok(Self { payload, signatures })
    }

    pub fn encode(&self) -> Result<Vec<u8>, TrustError> {
        let refuse = |e: coset::CoseError| TrustError::Envelope(e.to_string());
        let signatures = self
            .signatures
            .iter()
            .map(|s| s.clone().to_cbor_value().map_err(refuse))
            .collect::<Result<Vec<_>, _>>()?;
        let value = Value::Array(vec![Value::Bytes(self.payload.clone()), Value::Array(signatures)]);
        value.to_vec().map_err(refuse)
    }

    /// The signed bytes. Their digest is the document's name.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// The key ids that the signatures claim. Nothing is verified here.
    pub fn claimed_signers(&self) -> Vec<String> {
        self.signatures
            .iter()
            .map(|s| hex::encode(&s.protected.header.key_id))
            .collect()
    }

    /// Adds one key's signature. A key that signed before replaces its signature.
    pub fn add_signature(&mut self, key: &KeyPair, role: &Role, schema: &str) -> Result<(), TrustError> {
        let aad = external_aad(role, schema).map_err(TrustError::Document)?;
        let kid = key.id().0.0.to_vec();
        self.signatures.retain(|s| s.protected.header.key_id != kid);
        let protected = HeaderBuilder::new()
            .algorithm(iana::Algorithm::EdDSA)
            .key_id(kid)
            .build();
        let signature = CoseSign1Builder::new()
            .protected(protected)
            .create_detached_signature(&self.payload, &aad, |bytes| key.sign(bytes))
            .build();
        self.signatures.push(signature);
        Ok(())
    }

    /// Adds the other envelope's signatures over the same payload (a threshold is gathered in several places).
    pub fn merge(&mut self, other: Self) -> Result<(), TrustError> {
        if other.payload != self.payload {
            return Err(TrustError::Envelope(
                "the signatures are over another payload".to_owned(),
            ));
        }
        for signature in other.signatures {
            let kid = signature.protected.header.key_id.clone();
            self.signatures.retain(|s| s.protected.header.key_id != kid);
            self.signatures.push(signature);
        }
        Ok(())
    }
}

/// Encodes and signs a document with one key.
pub fn sign<T: Document>(document: &T, key: &KeyPair) -> Result<Vec<u8>, TrustError> {
    let payload = codec::to_vec(document).map_err(TrustError::Document)?;
    if payload.len() > MAX_DOCUMENT_BYTES {
        return Err(TrustError::Document(CodecError::TooLarge {
            length: payload.len(),
            cap: MAX_DOCUMENT_BYTES,
        }));
    }
    let mut envelope = Envelope::unsigned(payload);
    envelope.add_signature(key, &document.header().role, T::SCHEMA)?;
    envelope.encode()
}

/// The one way to believe a document: enough distinct keys of `authority` signed exactly these bytes for this role and
/// layout, and the document says so itself. Versions and expiry are the caller's ([`super::TrustStore`]).
pub fn verify<T: Document>(bytes: &[u8], authority: &Authority, fleet: FleetId) -> Result<Verified<T>, TrustError> {
    let envelope = Envelope::decode(bytes)?;
    let signers = valid_signers(&envelope, authority, T::SCHEMA)?;
    let valid = u32::try_from(signers.len()).unwrap_or(u32::MAX);
    if authority.threshold == 0 || valid < authority.threshold {
        return Err(TrustError::Threshold {
            role: authority.role.clone(),
            needed: authority.threshold.max(1),
            valid,
        });
    }
    let document: T = codec::from_slice(envelope.payload(), MAX_DOCUMENT_BYTES).map_err(TrustError::Document)?;
    let header = document.header();
    if header.schema != T::SCHEMA {
        return Err(TrustError::Schema {
            expected: T::SCHEMA,
            found: header.schema.chars().take(80).collect(),
        });
    }
    if header.role != authority.role {
        return Err(TrustError::WrongRole {
            expected: authority.role.clone(),
            found: header.role.clone(),
        });
    }
    if header.fleet != fleet {
        return Err(TrustError::OtherFleet {
            expected: fleet,
            found: header.fleet,
        });
    }
    Ok(Verified::new(document, envelope.digest(), signers))
}

/// Distinct keys of the authority with a valid signature. A duplicate key id counts once; an unacceptable algorithm
/// refuses the whole envelope.
fn valid_signers(envelope: &Envelope, authority: &Authority, schema: &str) -> Result<Vec<KeyId>, TrustError> {
    let aad = external_aad(&authority.role, schema).map_err(TrustError::Document)?;
    let keys: BTreeMap<KeyId, _> = authority.keys.iter().map(|key| (key.id(), key)).collect();
    let mut signers = Vec::new();
    for signature in &envelope.signatures {
        check_algorithm(signature)?;
        let Ok(kid) = <[u8; 32]>::try_from(signature.protected.header.key_id.as_slice()) else {
            continue;
        };
        let kid = KeyId(Digest(kid));
        let Some(key) = keys.get(&kid).and_then(|key| key.verifying_key()) else {
            continue;
        };
        let verdict = signature.verify_detached_signature(&envelope.payload, &aad, |sig, signed| {
            let sig = ed25519_dalek::Signature::from_slice(sig)?;
            key.verify_strict(signed, &sig)
        });
        if verdict.is_ok() && !signers.contains(&kid) {
            signers.push(kid);
        }
    }
    Ok(signers)
}

/// `alg` must stand in the protected header, and be Ed25519; an unprotected `alg` or key id is refused. So is anything
/// marked critical (RFC 9052 §3.1): no extension is known here that could be honoured.
fn check_algorithm(signature: &CoseSign1) -> Result<(), TrustError> {
    if !signature.protected.header.crit.is_empty() || !signature.unprotected.crit.is_empty() {
        return Err(TrustError::Envelope(
            "a header is marked critical that is not known".to_owned(),
        ));
    }
    if signature.unprotected.alg.is_some() || !signature.unprotected.key_id.is_empty() {
        return Err(TrustError::Algorithm("(unprotected)".to_owned()));
    }
    match &signature.protected.header.alg {
        Some(RegisteredLabelWithPrivate::Assigned(alg))
            if *alg == iana::Algorithm::EdDSA || alg.to_i64() == ALG_ED25519 =>
        {
            Ok(())
        }
        Some(other) => Err(TrustError::Algorithm(format!("{other:?}"))),
        None => Err(TrustError::Algorithm("(absent)".to_owned())),
    }
}
