//! What tests of several parts of the server make: a database, devices that are enrolled in it, and what they say.
//! Compiled for tests alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_api_types::devices::CreateClaimToken;
use flotilla_api_types::models::SignatureState;
use flotilla_api_types::rollouts::RolloutState;
use flotilla_protocol::audit::AuditHead;
use flotilla_protocol::bundle::{Bundle, Dropped, ModelTelemetry, Resources};
use flotilla_protocol::codec;
use flotilla_protocol::ids::{DeviceId, Digest, FleetId, ModelLine, ModelVersionId, RolloutId, SlotName};
use flotilla_protocol::manifest::{Manifest, Provenance, SelfTest};
use flotilla_protocol::messages::{RecordKey, SCHEMA};
use flotilla_protocol::report::DeviceReport;
use flotilla_protocol::sketch::LatencyHistogram;
use flotilla_protocol::trust::{DeviceFacts, Document as _, DocumentVersions, Header, KeyPair, Role};
use uuid::Uuid;

use crate::app::{App, Changes, FleetInfo};
use crate::blobs::Blobs;
use crate::heavy::Heavy;
use crate::imports::Imports;
use crate::store::rollouts::{self, Transition};
use crate::store::{Db, StoreError, devices, models, tokens};

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

/// A package for what [`facts`] says, and for `jetson`.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        header: Header {
            role: Role::Release(ModelLine::new("anomaly").unwrap()),
            ..header(Manifest::SCHEMA, 1)
        },
        name: ModelLine::new("anomaly").unwrap(),
        semver: "1.0.0".into(),
        release_counter: 1,
        hardware_classes: vec!["pi-5".into(), "jetson".into()],
        arch: vec!["aarch64".into()],
        min_agent: "0.1.0".into(),
        min_ram_bytes: 100,
        min_disk_bytes: 10,
        runtime: "onnx".into(),
        opset: 17,
        components: vec![],
        inputs: vec![],
        outputs: vec![],
        labels: vec![],
        self_test: SelfTest {
            tolerance_abs: 0.0,
            p95_budget_us: 0,
        },
        depends: vec![],
        conflicts: vec![],
        provenance: Provenance {
            dataset_version: None,
            dataset_digest: None,
            run: None,
            code_version: "0".into(),
            sbom: None,
        },
    }
}

/// Registers [`manifest`]'s package of 1000 bytes as signed. Gives its id and its digest.
pub(crate) async fn version(db: &Db) -> (ModelVersionId, Digest) {
    let manifest = manifest();
    let new = models::NewVersion {
        id: ModelVersionId::new(Uuid::now_v7()),
        line: manifest.name.clone(),
        semver: manifest.semver.clone(),
        release_counter: manifest.release_counter,
        payload: codec::to_vec(&manifest).unwrap(),
        run: None,
        dataset_version: None,
        components: vec![],
        package_bytes: 1000,
        golden_max_diff: 0.0,
        golden_cases: 1,
    };
    let mut tx = db.begin().await.unwrap();
    models::create(&mut tx, "p", &new, NOW).await.unwrap();
    models::set_envelope(&mut tx, new.id, b"envelope", SignatureState::Signed)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    (new.id, Digest::of(&new.payload))
}

/// A rollout of that version, in its first phase.
pub(crate) async fn running(db: &Db, version: ModelVersionId, spec: serde_json::Value) -> RolloutId {
    let id = RolloutId::new(Uuid::now_v7());
    let mut spec = spec;
    spec["model_version"] = serde_json::json!(version);
    let mut tx = db.begin().await.unwrap();
    rollouts::create(&mut tx, id, "p", &serde_json::from_value(spec).unwrap(), NOW)
        .await
        .unwrap();
    let start = Transition {
        from: RolloutState::Draft,
        to: RolloutState::Running,
        phase: Some(0),
        decision: "started",
    };
    assert!(rollouts::set_state(&mut tx, id, &start, NOW).await.unwrap());
    tx.commit().await.unwrap();
    id
}
