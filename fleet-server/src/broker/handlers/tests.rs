//! Tests of what the server does with what devices say: once, in order or not, well-formed or not.

use std::collections::BTreeMap;

use flotilla_api_types::devices::CreateClaimToken;
use flotilla_protocol::audit::{AuditRecord, encode_entry};
use flotilla_protocol::bundle::{Dropped, ModelTelemetry, Resources};
use flotilla_protocol::ids::{Digest, ModelLine, SlotName};
use flotilla_protocol::sketch::LatencyHistogram;
use flotilla_protocol::trust::{DeviceFacts, DocumentVersions, Header, KeyPair, sign};
use serde_bytes::ByteBuf;
use uuid::Uuid;

use super::*;
use crate::store::{Db, tokens};

const NOW: i64 = 1_795_399_200_000;

fn device() -> DeviceId {
    DeviceId::new("press-07").unwrap()
}

fn key() -> KeyPair {
    KeyPair::from_seed(&[7; 32])
}

fn fleet() -> FleetId {
    FleetId::new(Uuid::nil())
}

fn header(schema: &str, version: u64) -> Header {
    Header {
        schema: schema.into(),
        role: Role::Device,
        fleet: fleet(),
        version,
        issued: NOW,
        expires: NOW + 1,
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    db: Db,
    active: ActiveDevices,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("test.db")).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let request = CreateClaimToken {
        uses: 1,
        lifetime_s: 60,
        tags: BTreeMap::new(),
    };
    let token = tokens::create_claim_token(&mut tx, "h", &request, NOW).await.unwrap();
    let new = devices::NewDevice {
        id: &device(),
        signing_key: key().public(),
        wrapping_key: &[0; 32],
        certificate_digest: Digest::of(b"c"),
        claim_token: token.id,
        tags: &BTreeMap::new(),
        facts: &facts(),
    };
    devices::insert(&mut tx, &new, NOW).await.unwrap();
    tx.commit().await.unwrap();
    let active = ActiveDevices::load(&db).await.unwrap();
    Bench { _dir: dir, db, active }
}

fn facts() -> DeviceFacts {
    DeviceFacts {
        hardware_class: "pi-5".into(),
        arch: "aarch64".into(),
        agent_version: "0.1.0".into(),
        ram_bytes: 1 << 30,
        disk_free_bytes: 1 << 32,
    }
}

impl Bench {
    fn decode(&self, up: Up, payload: &[u8]) -> Result<Message, Refused> {
        decode(&self.active, fleet(), &Topic::Up(device(), up).to_string(), payload)
    }

    async fn apply(&self, message: &Message, given_up: &BTreeSet<DeviceId>) -> Effects {
        let mut tx = self.db.begin().await.unwrap();
        let mut effects = Effects::default();
        apply(&mut tx, message, Now { ms: NOW, given_up }, &mut effects)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        effects
    }

    async fn take(&self, bundle: &Bundle) -> Effects {
        let message = self.decode(Up::Bundle, &codec::to_vec_zstd(bundle).unwrap()).unwrap();
        self.apply(&message, &BTreeSet::new()).await
    }

    async fn inferences(&self) -> u64 {
        devices::get(&self.db, &device()).await.unwrap().device.inferences
    }

    async fn audit_entries(&self) -> u64 {
        devices::get(&self.db, &device()).await.unwrap().audit_entries
    }
}

/// A device's own chain.
struct Chain {
    head: AuditHead,
    entries: Vec<ByteBuf>,
}

impl Chain {
    fn new(texts: &[&str]) -> Self {
        let mut chain = Self {
            head: AuditHead::start(0),
            entries: Vec::new(),
        };
        for text in texts {
            chain.push(text);
        }
        chain
    }

    fn push(&mut self, event: &str) {
        let record = AuditRecord {
            at: NOW,
            actor: "agent".into(),
            event: event.into(),
            subject: "x:1".into(),
            detail: BTreeMap::new(),
        };
        let entry = encode_entry(&record).unwrap();
        self.head = self.head.append(&entry);
        self.entries.push(ByteBuf::from(entry));
    }

    fn from(&self, first: usize) -> (Vec<AuditBatch>, Option<ByteBuf>) {
        let batch = AuditBatch {
            epoch: 0,
            first: first as u64,
            entries: self.entries[first..].to_vec(),
        };
        (vec![batch], Some(self.signed_by(&key())))
    }

    fn signed_by(&self, key: &KeyPair) -> ByteBuf {
        let head = SignedAuditHead {
            header: header(SignedAuditHead::SCHEMA, 1),
            device: device(),
            head: self.head,
        };
        ByteBuf::from(sign(&head, key).unwrap())
    }
}

fn bundle(seq: u64, (audit, audit_head): (Vec<AuditBatch>, Option<ByteBuf>)) -> Bundle {
    let mut latency = LatencyHistogram::default();
    latency.record(100);
    Bundle {
        schema: SCHEMA,
        device: device(),
        key: RecordKey { boot_epoch: 1, seq },
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
        }],
        resources: Resources::default(),
        dropped: Dropped::default(),
        audit,
        audit_head,
    }
}

fn report(version: u64) -> DeviceReport {
    DeviceReport {
        header: header(DeviceReport::SCHEMA, version),
        device: device(),
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

#[tokio::test]
async fn a_bundle_that_comes_twice_counts_once_and_is_receipted_twice() {
    let bench = bench().await;
    let told = bundle(1, (vec![], None));
    for _ in 0..2 {
        assert_eq!(bench.take(&told).await.receipts[&device()], [told.key]);
    }
    assert_eq!(bench.inferences().await, 10);
}

#[tokio::test]
async fn a_chain_continues_and_resent_entries_are_skipped() {
    let bench = bench().await;
    let mut chain = Chain::new(&["a", "b"]);
    bench.take(&bundle(1, chain.from(0))).await;
    chain.push("c");
    let effects = bench.take(&bundle(2, chain.from(1))).await;
    assert!(effects.refused.is_empty() && effects.closed.contains(&device()));
    assert_eq!(bench.audit_entries().await, 3);
    let verified = store::audit::verify(&bench.db).await.unwrap();
    assert!(
        verified.ok && verified.devices[0].chain.head == chain.head.hash,
        "{verified:?}"
    );
}

#[tokio::test]
async fn a_gap_waits_and_is_refused_with_its_counts_taken_when_given_up() {
    let bench = bench().await;
    let mut chain = Chain::new(&["a"]);
    bench.take(&bundle(1, chain.from(0))).await;
    chain.push("lost");
    chain.push("b");
    let ahead = bundle(3, chain.from(2));
    let effects = bench.take(&ahead).await;
    assert!(
        effects.receipts.is_empty() && effects.gaps.contains(&device()),
        "it is to come again"
    );
    assert_eq!(bench.inferences().await, 10);
    let message = bench.decode(Up::Bundle, &codec::to_vec_zstd(&ahead).unwrap()).unwrap();
    let effects = bench.apply(&message, &[device()].into()).await;
    assert_eq!(effects.receipts[&device()], [ahead.key]);
    assert_eq!(effects.refused[0].0, "device-audit.refused");
    assert_eq!((bench.inferences().await, bench.audit_entries().await), (20, 1));
    // The lost one turns up after all.
    bench.take(&bundle(2, chain.from(1))).await;
    assert_eq!((bench.inferences().await, bench.audit_entries().await), (30, 3));
}

#[tokio::test]
async fn forks_and_foreign_heads_are_refused_with_their_counts_taken() {
    let bench = bench().await;
    bench.take(&bundle(1, Chain::new(&["a"]).from(0))).await;
    // Another history under the device's own signature.
    let fork = bundle(2, Chain::new(&["x", "y"]).from(0));
    let longer = Chain::new(&["a", "b"]);
    let foreign = bundle(
        3,
        (longer.from(1).0, Some(longer.signed_by(&KeyPair::from_seed(&[9; 32])))),
    );
    let unsigned = bundle(4, (longer.from(1).0, None));
    for told in [fork, foreign, unsigned] {
        let effects = bench.take(&told).await;
        assert_eq!(effects.refused.len(), 1, "{effects:?}");
        assert_eq!(effects.receipts[&device()], [told.key]);
    }
    assert_eq!((bench.inferences().await, bench.audit_entries().await), (40, 1));
}

#[tokio::test]
async fn hello_brings_the_report_and_is_answered_even_if_it_is_known() {
    let bench = bench().await;
    let hello = Hello {
        schema: SCHEMA,
        device: device(),
        boot_epoch: 1,
        root_version: 3,
        report: ByteBuf::from(sign(&report(5), &key()).unwrap()),
    };
    let message = bench.decode(Up::Hello, &codec::to_vec(&hello).unwrap()).unwrap();
    let effects = bench.apply(&message, &BTreeSet::new()).await;
    assert_eq!((effects.answers[&device()], effects.changes.len()), (3, 1));
    let effects = bench.apply(&message, &BTreeSet::new()).await;
    assert_eq!((effects.answers[&device()], effects.changes.len()), (3, 0));
}

#[tokio::test]
async fn an_attack_is_put_on_record_once() {
    let bench = bench().await;
    for version in 1..=2 {
        let mut told = report(version);
        told.attack = Some(DetectedAttack {
            attack: "rollback".into(),
            detail: "d".into(),
            at: NOW,
        });
        let message = bench.decode(Up::Report, &sign(&told, &key()).unwrap()).unwrap();
        bench.apply(&message, &BTreeSet::new()).await;
    }
    let recorded = store::audit::list(&bench.db, None, "attack.reported", 10)
        .await
        .unwrap();
    assert_eq!(recorded.len(), 1);
    assert_eq!(
        (recorded[0].actor.as_str(), recorded[0].detail["attack"].as_str()),
        ("device:press-07", "rollback")
    );
}

#[tokio::test]
async fn what_is_malformed_foreign_or_absurd_is_refused() {
    let bench = bench().await;
    let zstd = |bundle: &Bundle| codec::to_vec_zstd(bundle).unwrap();
    let good = bundle(1, (vec![], None));
    let mut foreign = good.clone();
    foreign.device = DeviceId::new("other").unwrap();
    let mut layout = good.clone();
    layout.schema = 9;
    let mut absurd = good.clone();
    absurd.models[0].inferences = u64::MAX;
    let mut failed_more = good.clone();
    failed_more.models[0].failures = 11;
    let bomb = zstd::bulk::compress(&vec![0u8; 16 << 20], 3).unwrap();
    for bad in [
        zstd(&foreign),
        zstd(&layout),
        zstd(&absurd),
        zstd(&failed_more),
        bomb,
        b"x".to_vec(),
        vec![],
    ] {
        let refused = bench.decode(Up::Bundle, &bad).unwrap_err();
        assert_eq!(refused.device, Some(device()));
    }
    assert!(
        bench
            .decode(Up::Report, &sign(&report(1), &KeyPair::from_seed(&[9; 32])).unwrap())
            .is_err()
    );
    let mut others = report(1);
    others.device = DeviceId::new("other").unwrap();
    assert!(bench.decode(Up::Report, &sign(&others, &key()).unwrap()).is_err());
    assert!(bench.decode(Up::Bundle, &zstd(&good)).is_ok());
    bench.active.expel(&device());
    assert!(bench.decode(Up::Bundle, &zstd(&good)).is_err(), "decommissioned");
}
