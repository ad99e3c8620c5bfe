//! Enrolment: a device without an identity asks for one, once, over TLS against the factory bundle's CA alone.
//!
//! Proves possession of both keys (the request's own signature, the envelope's) and stores the answer, the factory root and
//! the clock's floor in one transaction. Renewal is not here.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flotilla_protocol::enroll::{ENROL_PATH, EnrolRequest, EnrolResponse, Enrolment, FactoryBundle};
use flotilla_protocol::ids::{DeviceId, Digest, IdError};
use flotilla_protocol::trust::{Document as _, Header, Role, TrustError, TrustStore, sign};
use serde::Deserialize;
use tracing::info;

use crate::audit::{self, Entry};
use crate::clock::{BUILD_FLOOR_MS, Clock};
use crate::config::Config;
use crate::files::{self, FileError};
use crate::http::{self, Answer, HttpError};
use crate::identity::{DeviceKeys, Enrolled, IdentityError};
use crate::report;
use crate::store::{Store, StoreError, keys};
use crate::tls::{self, TlsError};

const MAX_BUNDLE_BYTES: u64 = 256 * 1024;
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// How long the signed enrolment is meant to be valid.
const ENROLMENT_LIFE_MS: i64 = 3_600_000;

/// Why the device is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no factory bundle {}", .0.display())]
    NoBundle(PathBuf),
    #[error("the factory bundle {} cannot be read: {why}", path.display())]
    Bundle { path: PathBuf, why: String },
    #[error("the factory root is not trustworthy: {0}")]
    Root(TrustError),
    #[error("the factory bundle is for fleet {bundle}, its root for fleet {root}")]
    OtherFleet { bundle: String, root: String },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("the enrolment cannot be signed: {0}")]
    Sign(TrustError),
    #[error("no answer to the enrolment at {url}: {source}")]
    Unreachable {
        url: String,
        #[source]
        source: HttpError,
    },
    #[error("the server refuses the enrolment ({status}): {title}: {detail}")]
    Refused { status: u16, title: String, detail: String },
    #[error("the server's answer cannot be used: {0}")]
    Answer(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EnrolError {
    /// May the same enrolment succeed later without anything else being changed? A server that is starting or overloaded
    /// refuses nobody.
    pub fn is_worth_retrying(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

/// RFC 9457.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
}

/// Enrols with the factory bundle in `bundle`. A device that has an identity keeps it.
pub async fn enrol(
    config: &Config,
    store: &Store,
    clock: &Clock,
    bundle: &Path,
    name: Option<DeviceId>,
) -> Result<Enrolled, EnrolError> {
    if let Some(enrolled) = Enrolled::load(store)? {
        info!(device = %enrolled.device, "enrolled already");
        return Ok(enrolled);
    }
    let bundle = read_bundle(bundle)?;
    let root = BASE64
        .decode(&bundle.root)
        .map_err(|why| EnrolError::Answer(format!("the factory root is not base64: {why}")))?;
    let trust = TrustStore::from_factory_root(&root, BUILD_FLOOR_MS).map_err(EnrolError::Root)?;
    if trust.fleet() != bundle.fleet {
        return Err(EnrolError::OtherFleet {
            bundle: bundle.fleet.to_string(),
            root: trust.fleet().to_string(),
        });
    }
    clock.set_floor(trust.snapshot().clock_floor);
    let keys = DeviceKeys::load_or_make(&config.data_dir)?;
    let device = match name.or_else(|| config.device_id.clone()) {
        Some(device) => device,
        None => DeviceId::new(format!("dev-{}", keys.signing.id().0.short()))?,
    };
    let request = request(config, clock, &keys, &device, &bundle)?;
    let answer = post(clock, &bundle, &request).await?;
    // The server may only confirm the name: the certificate is what counts, and it must fit the key.
    if answer.device != device {
        return Err(EnrolError::Answer(format!(
            "it is for device '{}', this is '{device}'",
            answer.device
        )));
    }
    tls::client_config(&[], Some(keys.client_identity(&answer.certificate_pem)?), clock)?;
    let enrolled = Enrolled {
        device,
        fleet: bundle.fleet,
        certificate_pem: answer.certificate_pem,
        broker: answer.broker,
        device_api: bundle.device_api,
    };
    let entry = Entry::new("device.enrolled", format!("device:{}", enrolled.device))
        .with("fleet", enrolled.fleet)
        .with("thumbprint", keys.signing.id());
    let at = clock.now_ms();
    store.write(|txn| {
        txn.put(self::keys::TRUST, trust.snapshot())?;
        if audit::head(txn)?.epoch == 0 {
            audit::open_epoch(txn, at)?;
            txn.next(self::keys::BOOT_EPOCH)?;
        }
        audit::append(txn, &entry, at)?;
        txn.put(self::keys::ENROLLED, &enrolled)
    })?;
    info!(device = %enrolled.device, fleet = %enrolled.fleet, "enrolled");
    Ok(enrolled)
}

fn read_bundle(path: &Path) -> Result<FactoryBundle, EnrolError> {
    let bytes = files::read_capped(path, MAX_BUNDLE_BYTES)?.ok_or_else(|| EnrolError::NoBundle(path.to_owned()))?;
    serde_json::from_slice(&bytes).map_err(|why| EnrolError::Bundle {
        path: path.to_owned(),
        why: why.to_string(),
    })
}

fn request(
    config: &Config,
    clock: &Clock,
    keys: &DeviceKeys,
    device: &DeviceId,
    bundle: &FactoryBundle,
) -> Result<EnrolRequest, EnrolError> {
    let csr_pem = keys.certificate_request(device)?;
    let now = clock.now_ms();
    let enrolment = Enrolment {
        header: Header {
            schema: Enrolment::SCHEMA.to_owned(),
            role: Role::Device,
            fleet: bundle.fleet,
            version: 1,
            issued: now,
            expires: now.saturating_add(ENROLMENT_LIFE_MS),
        },
        device: device.clone(),
        signing_key: keys.signing.public(),
        wrapping_key: keys.wrapping_public(),
        csr_digest: Digest::of(csr_pem.as_bytes()),
        facts: report::facts(&config.hardware_class, &config.data_dir),
    };
    Ok(EnrolRequest {
        claim_token: bundle.claim_token.clone(),
        enrolment: BASE64.encode(sign(&enrolment, &keys.signing).map_err(EnrolError::Sign)?),
        csr_pem,
    })
}

async fn post(clock: &Clock, bundle: &FactoryBundle, request: &EnrolRequest) -> Result<EnrolResponse, EnrolError> {
    let anchors = tls::certificates(&bundle.ca_pem, "the factory bundle's CA")?;
    let url = format!("{}{ENROL_PATH}", bundle.device_api.trim_end_matches('/'));
    let json = serde_json::to_vec(request).map_err(|why| EnrolError::Answer(why.to_string()))?;
    let Answer { status, body } =
        http::post_json(&url, json, tls::client_config(&anchors, None, clock)?, MAX_ANSWER_BYTES)
            .await
            .map_err(|source| EnrolError::Unreachable { url, source })?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|why| EnrolError::Answer(why.to_string()));
    }
    let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
    let title = if problem.title.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").to_owned()
    } else {
        problem.title
    };
    Err(EnrolError::Refused {
        status: status.as_u16(),
        title,
        detail: problem.detail,
    })
}

#[cfg(test)]
mod tests;
