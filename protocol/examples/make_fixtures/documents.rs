//! The documents that the fixtures are made of: one small fleet with test keys, one device, one package. Everything is
//! fixed (ids, times, key seeds), so that making the fixtures again gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use flotilla_protocol::audit::{AuditHead, AuditRecord, SignedAuditHead, encode_entry};
use flotilla_protocol::chunks::{BlobRef, ChunkList};
use flotilla_protocol::codec;
use flotilla_protocol::desired_state::{
    Action, ComponentSources, DesiredState, Encoding, HarvestPolicy, Source, Target, TelemetryPolicy, UpdatePolicy,
};
use flotilla_protocol::enroll::Enrolment;
use flotilla_protocol::head::{Endpoint, Head};
use flotilla_protocol::ids::{DatasetVersionId, DeploymentId, DeviceId, Digest, FleetId, ModelLine, RunId, SlotName};
use flotilla_protocol::infer::DataType;
use flotilla_protocol::manifest::{Component, ComponentKind, Manifest, Provenance, SelfTest, TensorSpec};
use flotilla_protocol::report::{DeploymentReport, DeploymentState, DeviceReport, InstalledModel, SlotReport};
use flotilla_protocol::trust::{DeviceFacts, Document, Header, KeyPair, Role, RoleKeys, Root, TrustStore, sign};
use serde_bytes::ByteBuf;
use uuid::Uuid;

pub(crate) type Made<T> = Result<T, Box<dyn Error>>;

/// 2026-01-01T00:00:00Z, when everything here is issued.
pub(crate) const ISSUED: i64 = 1_767_225_600_000;
pub(crate) const HOUR: i64 = 3_600_000;
pub(crate) const DAY: i64 = 24 * HOUR;
/// The hour in which documents are offered.
pub(crate) const NOW: i64 = ISSUED + HOUR;

/// 32 bytes that anybody can compute: these keys protect nothing.
pub(crate) fn seed(name: &str) -> [u8; 32] {
    Digest::of(format!("flotilla test key {name}, not a secret").as_bytes()).0
}

pub(crate) fn key(name: &str) -> KeyPair {
    KeyPair::from_seed(&seed(name))
}

/// Every key that the fixtures are signed with.
pub(crate) const KEYS: [&str; 12] = [
    "root",
    "root-2",
    "root-3",
    "director",
    "director-2",
    "release",
    "release-2",
    "release-3",
    "system",
    "device",
    "device-2",
    "stranger",
];

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | n)
}

pub(crate) fn fleet() -> FleetId {
    FleetId::new(uuid(1))
}

pub(crate) fn other_fleet() -> FleetId {
    FleetId::new(uuid(2))
}

pub(crate) fn device() -> Made<DeviceId> {
    Ok(DeviceId::new("press-07")?)
}

pub(crate) fn line() -> Made<ModelLine> {
    Ok(ModelLine::new("motions")?)
}

pub(crate) fn header<T: Document>(role: Role, version: u64, lifetime: i64) -> Header {
    Header {
        schema: T::SCHEMA.to_owned(),
        role,
        fleet: fleet(),
        version,
        issued: ISSUED,
        expires: ISSUED + lifetime,
    }
}

pub(crate) fn role_keys(names: &[&str], threshold: u32) -> RoleKeys {
    RoleKeys {
        keys: names.iter().map(|name| key(name).id()).collect(),
        threshold,
    }
}

pub(crate) fn root() -> Root {
    root_with(
        1,
        &[
            ("root", &["root"], 1),
            ("director", &["director"], 1),
            ("release/*", &["release"], 1),
            ("release-system", &["system"], 1),
        ],
    )
}

pub(crate) fn root_with(version: u64, roles: &[(&str, &[&str], u32)]) -> Root {
    let names: BTreeSet<&str> = roles.iter().flat_map(|(_, names, _)| names.iter().copied()).collect();
    Root {
        header: header::<Root>(Role::Root, version, 365 * DAY),
        keys: names.iter().map(|name| key(name).public()).collect(),
        roles: roles
            .iter()
            .map(|(role, names, threshold)| ((*role).to_owned(), role_keys(names, *threshold)))
            .collect::<BTreeMap<_, _>>(),
        tls_anchors: vec![ByteBuf::from(b"stands for a DER certificate".to_vec())],
    }
}

/// The bytes of one component: long enough for three chunks where it is the model.
pub(crate) fn component_bytes(kind: ComponentKind) -> Vec<u8> {
    let length: u32 = if kind == ComponentKind::Model { 132_000 } else { 700 };
    (0..length).map(|i| u8::try_from(i % 251).unwrap_or_default()).collect()
}

pub(crate) fn manifest() -> Made<Manifest> {
    let line = line()?;
    let component = |kind: ComponentKind| Component {
        kind,
        media_type: kind.media_type().to_owned(),
        blob: BlobRef::of(&component_bytes(kind)),
    };
    Ok(Manifest {
        header: header::<Manifest>(Role::Release(line.clone()), 3, 180 * DAY),
        name: line,
        semver: "1.2.0".to_owned(),
        release_counter: 3,
        hardware_classes: vec!["gateway".to_owned()],
        arch: vec!["x86_64".to_owned(), "aarch64".to_owned()],
        min_agent: "0.1.0".to_owned(),
        min_ram_bytes: 32 << 20,
        min_disk_bytes: 8 << 20,
        runtime: "onnx".to_owned(),
        opset: 18,
        components: vec![component(ComponentKind::Model), component(ComponentKind::Features)],
        inputs: vec![TensorSpec {
            name: "window".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![-1, 100, 6],
        }],
        outputs: vec![TensorSpec {
            name: "scores".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![-1, 4],
        }],
        labels: ["standing", "running", "walking", "badminton"]
            .map(str::to_owned)
            .to_vec(),
        self_test: SelfTest {
            tolerance_abs: 0.0005,
            p95_budget_us: 5_000,
        },
        depends: vec![],
        conflicts: vec![],
        provenance: Provenance {
            dataset_version: Some(DatasetVersionId::new(uuid(20))),
            dataset_digest: Some(Digest::of(b"the dataset")),
            run: Some(RunId::new(uuid(21))),
            code_version: "0.1.0".to_owned(),
            sbom: None,
        },
    })
}

/// An install of the package whose manifest is `envelope`.
pub(crate) fn target(manifest: &Manifest, envelope: &[u8]) -> Made<Target> {
    let source = |kind: ComponentKind| -> Made<ComponentSources> {
        let bytes = component_bytes(kind);
        let list = ChunkList::of(&bytes)?;
        Ok(ComponentSources {
            component: Digest::of(&bytes),
            sources: vec![Source {
                encoding: Encoding::Identity,
                blob: BlobRef::of(&bytes),
                chunk_list: if list.blob.chunk_count()? > 1 {
                    Some(BlobRef::of(&list.encode()?))
                } else {
                    None
                },
            }],
        })
    };
    Ok(Target {
        slot: SlotName::new("main")?,
        action: Action::Install,
        line: manifest.name.clone(),
        manifest: Digest::of(&codec::to_vec(manifest)?),
        manifest_envelope: BlobRef::of(envelope),
        release_counter: manifest.release_counter,
        deployment: DeploymentId::new(uuid(30)),
        components: vec![source(ComponentKind::Model)?, source(ComponentKind::Features)?],
        update: UpdatePolicy {
            soak_ms: 60_000,
            max_error_permille: 20,
            start_spread_ms: 5_000,
            deadline: ISSUED + DAY,
            max_bytes_per_s: 0,
        },
        harvest: HarvestPolicy {
            on_drift: true,
            below_permille: 500,
            max_samples: 200,
        },
    })
}

pub(crate) fn desired_state(targets: Vec<Target>) -> Made<DesiredState> {
    Ok(DesiredState {
        header: header::<DesiredState>(Role::Director, 12, DAY),
        device: device()?,
        thumbprint: key("device").id(),
        targets,
        telemetry: TelemetryPolicy {
            bundle_interval_ms: 30_000,
        },
        last_report_counter: 41,
    })
}

pub(crate) fn head() -> Made<Head> {
    Ok(Head {
        header: header::<Head>(Role::Director, 7, DAY),
        root_version: 1,
        revoked_keys: vec![],
        revoked_manifests: vec![],
        release_floors: BTreeMap::from([(line()?, 2)]),
        endpoints: vec![Endpoint {
            broker: "mqtts://fleet.example:8883".to_owned(),
            device_api: "https://fleet.example:8443".to_owned(),
        }],
    })
}

pub(crate) fn facts() -> DeviceFacts {
    DeviceFacts {
        hardware_class: "gateway".to_owned(),
        arch: "x86_64".to_owned(),
        agent_version: "0.1.0".to_owned(),
        ram_bytes: 64 << 20,
        disk_free_bytes: 512 << 20,
    }
}

/// A chain of two entries.
pub(crate) fn audit_entries() -> Made<Vec<Vec<u8>>> {
    let record = |at: i64, event: &str, subject: &str| AuditRecord {
        at,
        actor: "agent".to_owned(),
        event: event.to_owned(),
        subject: subject.to_owned(),
        detail: BTreeMap::from([("slot".to_owned(), "main".to_owned())]),
    };
    Ok(vec![
        encode_entry(&record(ISSUED, "model.staged", "line:motions"))?,
        encode_entry(&record(ISSUED + 1, "model.activated", "line:motions"))?,
    ])
}

pub(crate) fn audit_chain_end() -> Made<AuditHead> {
    Ok(audit_entries()?
        .iter()
        .fold(AuditHead::start(0), |head, entry| head.append(entry)))
}

pub(crate) fn audit_head() -> Made<SignedAuditHead> {
    Ok(SignedAuditHead {
        header: header::<SignedAuditHead>(Role::Device, 2, 365 * DAY),
        device: device()?,
        head: audit_chain_end()?,
    })
}

pub(crate) fn report() -> Made<DeviceReport> {
    let mut store = TrustStore::from_factory_root(&sign(&root(), &key("root"))?, 0)?;
    store.accept_head(&sign(&head()?, &key("director"))?, NOW)?;
    let manifest = manifest()?;
    let slot = SlotName::new("main")?;
    Ok(DeviceReport {
        header: header::<DeviceReport>(Role::Device, 42, 365 * DAY),
        device: device()?,
        facts: facts(),
        slots: vec![SlotReport {
            slot: slot.clone(),
            active: Some(InstalledModel {
                line: line()?,
                manifest: Digest::of(&codec::to_vec(&manifest)?),
                semver: manifest.semver.clone(),
                release_counter: manifest.release_counter,
            }),
            committed: true,
        }],
        deployments: vec![DeploymentReport {
            deployment: DeploymentId::new(uuid(30)),
            slot,
            state: DeploymentState::Success,
            reason: None,
            bytes_received: 132_700,
            bytes_total: 132_700,
        }],
        documents: store.versions().clone(),
        trusted_time: NOW,
        attack: None,
        boot_count: 3,
        error: None,
        audit_head: audit_chain_end()?,
    })
}

pub(crate) fn enrolment() -> Made<Enrolment> {
    Ok(Enrolment {
        header: header::<Enrolment>(Role::Device, 1, DAY),
        device: device()?,
        signing_key: key("device").public(),
        wrapping_key: vec![9; 32],
        csr_digest: Digest::of(b"stands for a PKCS#10 request"),
        facts: facts(),
    })
}
