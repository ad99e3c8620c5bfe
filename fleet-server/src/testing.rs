//! What tests of several parts of the server make: a database, devices that are enrolled in it, and what they say.
//! Compiled for tests alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_api_types::devices::CreateClaimToken;
use flotilla_protocol::audit::AuditHead;
use flotilla_protocol::bundle::{Bundle, Dropped, ModelTelemetry, Resources};
use flotilla_protocol::ids::{DeviceId, Digest, FleetId, ModelLine, SlotName};
use flotilla_protocol::messages::{RecordKey, SCHEMA};
use flotilla_protocol::report::DeviceReport;
use flotilla_protocol::sketch::LatencyHistogram;
use flotilla_protocol::trust::{DeviceFacts, Document as _, DocumentVersions, Header, KeyPair, Role};
use uuid::Uuid;

use crate::app::{App, Changes, FleetInfo};
use crate::blobs::Blobs;
use crate::heavy::Heavy;
use crate::imports::Imports;
use crate::store::{Db, StoreError, devices, tokens};

pub(crate) const NOW: i64 = 1_795_399_200_000;

pub(crate) fn id(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap()
}

pub(crate) fn fleet() -> FleetId {
    FleetId::new(Uuid::nil())
}

pub(crate) async fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("test.db")).await.unwrap();
    (dir, db)
}

/// What the parts of the server share, around a database of its own.
pub(crate) async fn app() -> (tempfile::TempDir, App) {
    let (dir, db) = db().await;
    let app = App {
        db,
        blobs: Blobs::open_folder(&dir.path().join("blobs")).unwrap(),
        fleet: Arc::new(FleetInfo {
            id: fleet(),
            name: "test".into(),
            project: "p".into(),
            ca_pem: String::new(),
            broker_url: String::new(),
            device_api_url: String::new(),
        }),
        changes: Changes::default(),
        upload_dir: Arc::from(dir.path()),
        imports: Imports::default(),
        heavy: Heavy::default(),
    };
    (dir, app)
}

pub(crate) fn facts() -> DeviceFacts {
    DeviceFacts {
        hardware_class: "pi-5".into(),
        arch: "aarch64".into(),
        agent_version: "0.1.0".into(),
        ram_bytes: 1 << 30,
        disk_free_bytes: 1 << 32,
    }
}

/// Enrols a device whose signing key is that of `seed`.
pub(crate) async fn enrol(db: &Db, name: &str, seed: u8, tags: BTreeMap<String, String>) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let request = CreateClaimToken {
        uses: 1,
        lifetime_s: 60,
        tags: tags.clone(),
    };
    let token = tokens::create_claim_token(&mut tx, &format!("{name}{seed}"), &request, NOW).await?;
    let device = devices::NewDevice {
        id: &id(name),
        signing_key: KeyPair::from_seed(&[seed; 32]).public(),
        wrapping_key: &[0; 32],
        certificate_digest: Digest::of(b"certificate"),
        claim_token: token.id,
        tags: &tags,
        facts: &facts(),
    };
    devices::insert(&mut tx, &device, NOW).await?;
    tx.commit().await?;
    Ok(())
}

/// Of a document that a device signs.
pub(crate) fn header(schema: &str, version: u64) -> Header {
    Header {
        schema: schema.into(),
        role: Role::Device,
        fleet: fleet(),
        version,
        issued: NOW,
        expires: NOW + 1,
    }
}

/// A report of a device on which nothing runs.
pub(crate) fn report(name: &str, counter: u64) -> DeviceReport {
    DeviceReport {
        header: header(DeviceReport::SCHEMA, counter),
        device: id(name),
        facts: facts(),
        slots: vec![],
        deployments: vec![],
        documents: DocumentVersions::default(),
        trusted_time: NOW,
        attack: None,
        boot_count: 1,
        error: None,
        audit_head: AuditHead::start(0),
    }
}

/// One interval of ten inferences.
pub(crate) fn bundle(name: &str, seq: u64) -> Bundle {
    let mut latency = LatencyHistogram::default();
    latency.record(100);
    Bundle {
        schema: SCHEMA,
        device: id(name),
        key: RecordKey {
            boot_epoch: 1,
            seq,
            nonce: 0,
        },
        from: NOW - 1000,
        to: NOW,
        models: vec![ModelTelemetry {
            slot: SlotName::main(),
            line: ModelLine::new("anomaly").unwrap(),
            manifest: Digest::of(b"m"),
            inferences: 10,
            failures: 0,
            latency,
            sketches: None,
            drift: None,
            judged: None,
        }],
        resources: Resources::default(),
        dropped: Dropped::default(),
        audit: vec![],
        audit_head: None,
    }
}
