//! The HTTPS listener for devices: enrolment, and the fleet CA's certificate.
//!
//! A device proves possession of both its keys and brings a claim token; it gets a client certificate. The same device asking
//! again (its certificate lapsed, its answer was lost) gets a new certificate without another use of the token. Client
//! certificates are accepted here and not needed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::enroll::{ENROL_PATH, EnrolRequest, EnrolResponse, Enrolment};
use flotilla_protocol::ids::{DeviceId, Digest, FleetId};
use flotilla_protocol::text;
use flotilla_protocol::trust::{Authority, DeviceFacts, Envelope, Role, TrustError, Verified, verify};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::app::{App, Change};
use crate::ca::{Ca, CaError, DeviceCertificate, ServerCertificate};
use crate::listener::{self, Bounded, Limits};
use crate::refusals::Refusals;
use crate::store::tokens::{self, ClaimError};
use crate::store::{self, StoreError, devices};
use crate::tasks::Tasks;
use crate::{audit, clock};

/// A request for enrolment is some kilobytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// What strangers may hold. Devices enrol once, and then speak over the broker.
const LIMITS: Limits = Limits {
    connections: 1024,
    per_address: 128,
    headers: Duration::from_secs(10),
};
/// For a request, from its headers to its answer.
const REQUEST: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For requests under way when the server stops.
const DRAIN: Duration = Duration::from_secs(3);
/// X25519.
const WRAPPING_KEY_BYTES: usize = 32;
const MAX_FACT_CHARS: usize = 128;

/// Why the listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum DeviceApiError {
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
}

/// Why a device is not enrolled.
#[derive(Debug, thiserror::Error)]
enum EnrolError {
    #[error("the enrolment is not valid: {0}")]
    Malformed(String),
    #[error("the enrolment's signature does not prove possession of its key: {0}")]
    Signature(TrustError),
    #[error("the enrolment is for another certificate request")]
    OtherRequest,
    #[error("{0}")]
    Certificate(#[from] CaError),
    #[error("device id '{0}' is taken by a device with another key")]
    Taken(DeviceId),
    #[error("device '{0}' is decommissioned: its id cannot be used again")]
    Decommissioned(DeviceId),
    #[error("this key is enrolled under another id")]
    KeyTaken,
    #[error("{0}")]
    Token(#[from] ClaimError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl EnrolError {
    /// Ours: not the device's fault, and no refusal.
    fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Store(_)
                | Self::Token(ClaimError::Store(_))
                | Self::Certificate(CaError::Authority { .. } | CaError::Issue(_) | CaError::Name { .. })
        )
    }
}

impl From<EnrolError> for ApiError {
    fn from(error: EnrolError) -> Self {
        let detail = error.to_string();
        match error {
            EnrolError::Store(error) | EnrolError::Token(ClaimError::Store(error)) => error.into(),
            _ if error.is_internal() => Self::Internal(detail),
            EnrolError::Taken(_) | EnrolError::Decommissioned(_) | EnrolError::KeyTaken => Self::Conflict(detail),
            EnrolError::Token(_) => Self::Forbidden(format!("enrol a device: {detail}")),
            EnrolError::Certificate(_) | EnrolError::Signature(_) | EnrolError::OtherRequest => Self::refused(detail),
            EnrolError::Malformed(_) => Self::invalid(detail),
        }
    }
}

#[derive(Debug, Clone)]
struct Api {
    app: App,
    ca: Arc<Ca>,
    refusals: Refusals,
}

/// Serves on the listener until the server stops, then lets requests under way finish.
#[expect(
    clippy::unused_async,
    reason = "one of the server's start-up steps, all of which are awaited"
)]
pub async fn spawn(
    listener: std::net::TcpListener,
    app: App,
    ca: Arc<Ca>,
    certificate: &ServerCertificate,
    tasks: &mut Tasks,
) -> Result<(), DeviceApiError> {
    let tls = RustlsConfig::from_config(Arc::new(tls_config(&ca, certificate)?));
    let refusals = Refusals::start(app.db.clone(), tasks);
    let routes = router(Api { app, ca, refusals });
    let handle = Handle::new();
    let acceptor = RustlsAcceptor::new(tls)
        .handshake_timeout(HANDSHAKE)
        .acceptor(Bounded::new(LIMITS));
    let server = axum_server::from_tcp(listener)?.acceptor(acceptor);
    let serving =
        listener::prepared(server, &LIMITS, &handle).serve(routes.into_make_service_with_connect_info::<SocketAddr>());
    let shutdown = tasks.shutdown();
    tasks.spawn(
        "device-api",
        listener::until_stopped("device-api", serving, handle, DRAIN, shutdown),
    );
    Ok(())
}

fn router(api: Api) -> Router {
    let routes = Router::new()
        .route(ENROL_PATH, post(enrol))
        .route("/v1/ca", get(ca_certificate))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api);
    listener::within(routes, REQUEST)
}

/// TLS with the process's crypto provider; a client certificate is asked for and may be left out.
fn tls_config(ca: &Ca, certificate: &ServerCertificate) -> Result<ServerConfig, DeviceApiError> {
    let refused = |what: &str, why: &dyn std::fmt::Display| DeviceApiError::Tls(format!("{what}: {why}"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(ca.certificate_der().to_vec()))
        .map_err(|why| refused("the fleet CA", &why))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|why| refused("client certificates", &why))?;
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| refused("the server's certificate", &why))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())
        .map_err(|why| refused("the server's key", &why))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| refused("versions", &why))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|why| refused("the server's certificate", &why))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn ca_certificate(State(api): State<Api>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/x-pem-file")],
        api.app.fleet.ca_pem.clone(),
    )
}

async fn enrol(
    State(api): State<Api>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Json(request): Json<EnrolRequest>,
) -> Result<Json<EnrolResponse>, ApiError> {
    match api.enrol(&request, clock::now_ms()).await {
        Ok(response) => Ok(Json(response)),
        Err(error) => {
            if !error.is_internal() {
                api.refused(&request, peer.map(|Extension(ConnectInfo(peer))| peer), &error);
            }
            Err(error.into())
        }
    }
}

impl Api {
    /// Whose budget it is must not be for the sender to choose: it is the address's, not the device's that is claimed.
    fn refused(&self, request: &EnrolRequest, peer: Option<SocketAddr>, error: &EnrolError) {
        let who = peer.map_or_else(
            || "address:unknown".to_owned(),
            |peer| format!("address:{}", listener::network(peer.ip())),
        );
        let claimed =
            claimed(request).map_or_else(|_why| "(unreadable)".to_owned(), |(_, asked)| asked.device.to_string());
        let detail = [
            ("reason", error.to_string()),
            (
                "peer",
                peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string()),
            ),
            ("device", claimed.clone()),
        ];
        self.refusals
            .tell_of("enrolment.refused", &who, format!("device:{claimed}"), detail);
    }

    /// What is cheap comes first, and what tells a stranger nothing: the token, then the signature, then who is known. Only
    /// then is anything signed.
    async fn enrol(&self, request: &EnrolRequest, now: i64) -> Result<EnrolResponse, EnrolError> {
        let token = tokens::hash_token(&request.claim_token);
        let good = tokens::check_claim(&self.app.db, &token, now).await;
        if let Err(unusable @ (ClaimError::Unknown | ClaimError::Store(_))) = good {
            return Err(unusable.into());
        }
        let enrolment = read(request, self.app.fleet.id)?;
        let known = devices::identity(self.app.db.read(), &enrolment.device).await?;
        let again = known.as_ref().map(|known| check_known(known, &enrolment));
        // A token that is used up or has lapsed is good for the device that came with it before, and for nothing else: nobody
        // else learns which names there are.
        if !matches!(again, Some(Ok(()))) {
            good?;
        }
        again.transpose()?;
        let certificate = self.ca.sign_csr(&request.csr_pem, &enrolment.device, now)?;
        let mut tx = self.app.db.begin().await?;
        let event = if let Some(known) = devices::identity(&mut *tx, &enrolment.device).await? {
            check_known(&known, &enrolment)?;
            devices::renew(&mut tx, &enrolment.device, certificate.digest).await?;
            "device.certificate-renewed"
        } else {
            insert(&mut tx, &enrolment, &certificate, &token, now).await?;
            "device.enrolled"
        };
        let who = format!("device:{}", enrolment.device);
        let detail = [
            ("thumbprint", enrolment.signing_key.id().to_string()),
            ("certificate", certificate.digest.to_string()),
            ("certificate_expires", clock::rfc3339(certificate.expires)),
        ];
        store::audit::append(&mut tx, &audit::record(&who, event, who.clone(), detail)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        tracing::info!(device = %enrolment.device, event, "a device got its certificate");
        self.app.changes.tell(Change::Device(enrolment.device.clone()));
        Ok(EnrolResponse {
            device: enrolment.device.clone(),
            certificate_pem: certificate.pem,
            broker: self.app.fleet.broker_url.clone(),
        })
    }
}

/// The same device again is welcome; anybody else under its name is not.
fn check_known(known: &devices::Identity, enrolment: &Enrolment) -> Result<(), EnrolError> {
    if known.decommissioned {
        return Err(EnrolError::Decommissioned(enrolment.device.clone()));
    }
    if known.signing_key != enrolment.signing_key {
        return Err(EnrolError::Taken(enrolment.device.clone()));
    }
    Ok(())
}

async fn insert(
    tx: &mut store::Tx,
    enrolment: &Enrolment,
    certificate: &DeviceCertificate,
    token: &str,
    now: i64,
) -> Result<(), EnrolError> {
    let claimed = tokens::claim(tx, token, now).await?;
    let device = devices::NewDevice {
        id: &enrolment.device,
        signing_key: enrolment.signing_key,
        wrapping_key: &enrolment.wrapping_key,
        certificate_digest: certificate.digest,
        claim_token: claimed.id,
        tags: &claimed.tags,
        facts: &enrolment.facts,
    };
    match devices::insert(tx, &device, now).await {
        // The id was looked up in this very transaction: it is the key.
        Err(StoreError::Exists(_)) => Err(EnrolError::KeyTaken),
        other => Ok(other?),
    }
}

/// The key that the enrolment carries must have signed it, and the request that came with it must be the one it speaks of.
/// Its times are not judged: a new device may not know the time, and a replay brings nothing but a certificate for the
/// device's own TLS key.
fn read(request: &EnrolRequest, fleet: FleetId) -> Result<Verified<Enrolment>, EnrolError> {
    let (bytes, claimed) = claimed(request)?;
    let authority = Authority::single(Role::Device, claimed.signing_key);
    let enrolment: Verified<Enrolment> = verify(&bytes, &authority, fleet).map_err(EnrolError::Signature)?;
    if enrolment.csr_digest != Digest::of(request.csr_pem.as_bytes()) {
        return Err(EnrolError::OtherRequest);
    }
    if enrolment.wrapping_key.len() != WRAPPING_KEY_BYTES {
        return Err(EnrolError::Malformed("the wrapping key is not 32 bytes".to_owned()));
    }
    check_facts(&enrolment.facts)?;
    Ok(enrolment)
}

/// What the request says of itself, unproved, and the bytes in which it does.
fn claimed(request: &EnrolRequest) -> Result<(Vec<u8>, Enrolment), EnrolError> {
    let malformed = |why: &dyn std::fmt::Display| EnrolError::Malformed(why.to_string());
    let bytes = BASE64.decode(&request.enrolment).map_err(|why| malformed(&why))?;
    let envelope = Envelope::decode(&bytes).map_err(|why| malformed(&why))?;
    let claimed = codec::from_slice(envelope.payload(), MAX_DOCUMENT_BYTES).map_err(|why| malformed(&why))?;
    Ok((bytes, claimed))
}

fn check_facts(facts: &DeviceFacts) -> Result<(), EnrolError> {
    for fact in [&facts.hardware_class, &facts.arch, &facts.agent_version] {
        if fact.chars().count() > MAX_FACT_CHARS || fact.chars().any(text::is_deceptive) {
            return Err(EnrolError::Malformed(format!(
                "a fact is longer than {MAX_FACT_CHARS} printable characters"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
