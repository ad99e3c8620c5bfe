//! TLS towards the fleet: only the fleet's own anchors, only this device's certificate, and a clock that has a floor.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::clock::Clock;

/// Why no TLS configuration can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{what} is not readable PEM: {message}")]
    Pem { what: &'static str, message: String },
    #[error("{what} holds no certificate")]
    Empty { what: &'static str },
    #[error("{what}: {source}")]
    Rustls {
        what: &'static str,
        #[source]
        source: Box<rustls::Error>,
    },
}

/// Certificates of a PEM text.
pub fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| TlsError::Pem {
            what,
            message: why.to_string(),
        })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what });
    }
    Ok(certificates)
}

/// What a client proves itself with.
#[derive(Debug)]
pub struct ClientIdentity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl ClientIdentity {
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|why| TlsError::Pem {
            what: "the device's TLS key",
            message: why.to_string(),
        })?;
        Ok(Self {
            chain: certificates(certificate, "the device's certificate")?,
            key,
        })
    }

    /// Another connection's copy. Private keys are not cloned by accident.
    #[must_use]
    pub fn clone_key(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Trusts `anchors` alone, at the time that `clock` believes.
pub fn client_config(
    anchors: &[CertificateDer<'_>],
    identity: Option<ClientIdentity>,
    clock: &Clock,
) -> Result<ClientConfig, TlsError> {
    let failed = |what: &'static str| {
        move |source: rustls::Error| TlsError::Rustls {
            what,
            source: Box::new(source),
        }
    };
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots
            .add(anchor.clone().into_owned())
            .map_err(failed("a TLS anchor of the fleet cannot be used"))?;
    }
    let builder = ClientConfig::builder_with_details(
        Arc::new(rustls::crypto::ring::default_provider()),
        Arc::new(clock.clone()),
    )
    .with_safe_default_protocol_versions()
    .map_err(failed("TLS versions"))?
    .with_root_certificates(roots);
    match identity {
        Some(ClientIdentity { chain, key }) => builder
            .with_client_auth_cert(chain, key)
            .map_err(failed("the device's certificate and key")),
        None => Ok(builder.with_no_client_auth()),
    }
}
