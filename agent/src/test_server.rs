//! A fleet for tests. Its TLS: a CA, a server that asks for client certificates or not, and certificates for devices. Its
//! documents: a root, heads, and what a device that holds them trusts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use flotilla_protocol::head::Head;
use flotilla_protocol::ids::{DeviceId, Digest};
use flotilla_protocol::trust::{Document as _, Header, KeyPair, Role, RoleKeys, Root, TrustStore, sign};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer};
use rumqttc::tokio_rustls::TlsAcceptor;
use rumqttc::tokio_rustls::server::TlsStream;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_bytes::ByteBuf;
use tokio::net::{TcpListener, TcpStream};

use crate::clock::Clock;
use crate::store::{Store, keys};
use crate::trust_state::TrustState;

pub(crate) const FLEET: &str = "0191e5a0-0000-7000-8000-000000000001";
/// 2027: what the tests' clocks show.
pub(crate) const NOW: i64 = 1_800_000_000_000;

pub(crate) struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn certify(&self, request_pem: &str) -> String {
        let request = CertificateSigningRequestParams::from_pem(request_pem).unwrap();
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// A listener on a free port, as `localhost`.
    pub(crate) async fn listen(&self, client_certificates: bool) -> TlsListener {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone().into()).unwrap();
        let builder = if client_certificates {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        TlsListener {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    /// A root of trust that names this CA.
    pub(crate) fn factory_root(&self) -> Vec<u8> {
        let roles = [("root", 1u8), ("director", 2), ("release/*", 3)];
        let key = |seed: u8| KeyPair::from_seed(&[seed; 32]);
        let root = Root {
            header: Header {
                schema: Root::SCHEMA.to_owned(),
                role: Role::Root,
                fleet: FLEET.parse().unwrap(),
                version: 1,
                issued: NOW - 1_000,
                expires: NOW + 1_000_000_000,
            },
            keys: roles.iter().map(|(_, seed)| key(*seed).public()).collect(),
            roles: roles
                .iter()
                .map(|(name, seed)| {
                    let keys = [key(*seed).id()].into();
                    ((*name).to_owned(), RoleKeys { keys, threshold: 1 })
                })
                .collect(),
            tls_anchors: vec![ByteBuf::from(self.der.clone())],
        };
        sign(&root, &key(1)).unwrap()
    }
}

/// A head of this fleet.
pub(crate) fn head(version: u64, expires: i64, revoked_manifests: Vec<Digest>) -> Vec<u8> {
    let head = Head {
        header: Header {
            schema: Head::SCHEMA.to_owned(),
            role: Role::Director,
            fleet: FLEET.parse().unwrap(),
            version,
            issued: NOW,
            expires,
        },
        root_version: 1,
        revoked_keys: vec![],
        revoked_manifests,
        release_floors: BTreeMap::new(),
        endpoints: vec![],
    };
    sign(&head, &KeyPair::from_seed(&[2; 32])).unwrap()
}

/// A device that knows the factory's root alone, with its clock in `hand`.
pub(crate) fn trusting(store: &Arc<Store>, hand: &Arc<AtomicI64>) -> TrustState {
    let trust = TrustStore::from_factory_root(&Authority::new().factory_root(), 0).unwrap();
    store.put(keys::TRUST, trust.snapshot()).unwrap();
    let device = DeviceId::new("press-07").unwrap();
    let thumbprint = KeyPair::from_seed(&[9; 32]).id();
    let opened = TrustState::open(Arc::clone(store), Clock::manual(Arc::clone(hand)), device, thumbprint);
    opened.unwrap().unwrap()
}

pub(crate) struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) async fn accept(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let (stream, _) = self.listener.accept().await?;
        self.acceptor.accept(stream).await
    }
}
