//! Tests of what the server does with what devices say: once, in order or not, well-formed or not.

use std::collections::BTreeMap;

use flotilla_protocol::audit::{AuditGap, AuditRecord, encode_entry};
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{DatasetId, DeploymentId, Digest, ModelLine, SlotName};
use flotilla_protocol::infer::Tensor;
use flotilla_protocol::messages::{HarvestReason, Sample};
use flotilla_protocol::report::{DeploymentReport, DeploymentState};
use flotilla_protocol::sketch::{FeatureSketch, SketchSet};
use flotilla_protocol::trust::{KeyPair, sign};
use serde_bytes::ByteBuf;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::store::audit::AuditFilter;
use crate::store::rollouts::NewDeployment;
use crate::store::{Db, datasets, rollouts};
use crate::testing::{self, NOW, fleet, header};

fn device() -> DeviceId {
    DeviceId::new("press-07").unwrap()
}

fn key() -> KeyPair {
    KeyPair::from_seed(&[7; 32])
}

struct Bench {
    _dir: tempfile::TempDir,
    db: Db,
    active: ActiveDevices,
}

async fn bench() -> Bench {
    let (dir, db) = testing::db().await;
    testing::enrol(&db, device().as_str(), 7, BTreeMap::new())
        .await
        .unwrap();
    let active = ActiveDevices::load(&db).await.unwrap();
    Bench { _dir: dir, db, active }
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
        signed_head(self.head, key)
    }
}

fn signed_head(head: AuditHead, key: &KeyPair) -> ByteBuf {
    let head = SignedAuditHead {
        header: header(SignedAuditHead::SCHEMA, 1),
        device: device(),
        head,
    };
    ByteBuf::from(sign(&head, key).unwrap())
}

fn bundle(seq: u64, (audit, audit_head): (Vec<AuditBatch>, Option<ByteBuf>)) -> Bundle {
    Bundle {
        audit,
        audit_head,
        ..testing::bundle(device().as_str(), seq)
    }
}

fn report(version: u64) -> DeviceReport {
    testing::report(device().as_str(), version)
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
        verified.ok && (verified.devices, verified.device_entries) == (1, 3),
        "{verified:?}"
    );
    let own = store::audit::verify_device(&bench.db, &device()).await.unwrap();
    assert_eq!(own.unwrap().chain.head, chain.head.hash);
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
    let refusal = effects.audit_refused[&device()];
    assert_eq!((refusal.record, refusal.entries, refusal.head.count), (ahead.key, 1, 1));
    // The lost one turns up after all.
    bench.take(&bundle(2, chain.from(1))).await;
    assert_eq!((bench.inferences().await, bench.audit_entries().await), (30, 3));
}

/// The device answers a refusal with an epoch that says what was lost.
#[tokio::test]
async fn a_declared_loss_is_taken_and_stands_on_record() {
    let bench = bench().await;
    let mut chain = Chain::new(&["a"]);
    bench.take(&bundle(1, chain.from(0))).await;
    chain.push("lost");
    chain.push("b");
    let message = codec::to_vec_zstd(&bundle(3, chain.from(2))).unwrap();
    let message = bench.decode(Up::Bundle, &message).unwrap();
    let refusal = bench.apply(&message, &[device()].into()).await.audit_refused[&device()];
    let gap = AuditGap {
        after: refusal.head,
        lost: 1,
        kept: 1,
    };
    let epoch = |after: AuditHead| {
        let opening = encode_entry(&AuditGap { after, ..gap }.opening(4, NOW)).unwrap();
        let entries = vec![ByteBuf::from(opening), chain.entries[2].clone()];
        let head = entries
            .iter()
            .fold(AuditHead::start(4), |head, entry| head.append(entry));
        let first = AuditBatch {
            epoch: 4,
            first: 0,
            entries,
        };
        (vec![first], Some(signed_head(head, &key())))
    };
    // Of another head it is refused like any other: the device is told again where the chain ends.
    let effects = bench.take(&bundle(4, epoch(AuditHead::start(0)))).await;
    assert_eq!(effects.audit_refused[&device()].head, refusal.head);
    let effects = bench.take(&bundle(5, epoch(refusal.head))).await;
    assert!(
        effects.refused.is_empty() && effects.audit_refused.is_empty(),
        "{effects:?}"
    );
    let detail = devices::get(&bench.db, &device()).await.unwrap();
    assert_eq!(detail.audit_entries, 3);
    let [shown] = detail.audit_gaps.as_slice() else {
        panic!("{detail:?}")
    };
    assert_eq!(
        (shown.epoch, shown.lost, shown.after_count, shown.after_hash),
        (4, 1, 1, refusal.head.hash)
    );
    let recorded = store::audit::list(&bench.db, None, &AuditFilter::of_event("device.audit-gap"), 10)
        .await
        .unwrap();
    assert_eq!(recorded.len(), 1);
    assert_eq!(
        (recorded[0].subject.as_str(), recorded[0].detail["lost"].as_str()),
        ("device:press-07", "1")
    );
    let verified = store::audit::verify(&bench.db).await.unwrap();
    assert!(verified.ok, "{verified:?}");
    let own = store::audit::verify_device(&bench.db, &device()).await.unwrap();
    assert_eq!(own.unwrap().epochs, 2);
    // And it goes on from there.
    let opening = epoch(refusal.head);
    let head = opening.0[0]
        .entries
        .iter()
        .fold(AuditHead::start(4), |head, entry| head.append(entry));
    let next = chain.entries[0].clone();
    let batch = AuditBatch {
        epoch: 4,
        first: 2,
        entries: vec![next.clone()],
    };
    let more = (vec![batch], Some(signed_head(head.append(&next), &key())));
    assert!(bench.take(&bundle(6, more)).await.closed.contains(&device()));
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

/// A device whose store was put back to an earlier state counts its boots and records a second time.
#[tokio::test]
async fn a_device_that_writes_its_past_anew_is_told_so_and_its_counts_are_taken() {
    let bench = bench().await;
    let known = Chain::new(&["a", "b", "c"]);
    bench.take(&bundle(1, known.from(0))).await;
    let mut told = bundle(1, Chain::new(&["a", "x"]).from(0));
    told.key.nonce = 9;
    let effects = bench.take(&told).await;
    assert_eq!(effects.receipts[&device()], [told.key]);
    let refusal = &effects.audit_refused[&device()];
    assert_eq!(
        (refusal.record, refusal.head, refusal.entries),
        (told.key, known.head, 3)
    );
    let (event, _, why) = &effects.refused[0];
    assert_eq!(*event, "device-audit.refused");
    assert!(why.contains("entry 1 of epoch 0"), "{why}");
    assert_eq!((bench.inferences().await, bench.audit_entries().await), (20, 3));
    // The same entries under another name are no contradiction.
    let mut again = bundle(1, known.from(1));
    again.key.nonce = 10;
    let effects = bench.take(&again).await;
    assert!(effects.refused.is_empty() && effects.audit_refused.is_empty());
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
    let recorded = store::audit::list(&bench.db, None, &AuditFilter::of_event("attack.reported"), 10)
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
    // No version could be signed above it: the device would never hear of what is wanted again.
    let mut ahead = report(1);
    ahead.documents.desired_state.version = u64::MAX;
    assert!(bench.decode(Up::Report, &sign(&ahead, &key()).unwrap()).is_err());
    assert!(bench.decode(Up::Bundle, &zstd(&good)).is_ok());
    bench.active.expel(&device());
    assert!(bench.decode(Up::Bundle, &zstd(&good)).is_err(), "decommissioned");
}

/// Numbers that are added up, as no device counts them.
#[tokio::test]
async fn numbers_that_cannot_be_are_refused() {
    let bench = bench().await;
    let report_of = |change: fn(&mut DeviceReport)| {
        let mut told = report(1);
        told.deployments = vec![DeploymentReport {
            deployment: DeploymentId::new(Uuid::nil()),
            slot: SlotName::main(),
            state: DeploymentState::Downloading,
            reason: None,
            bytes_received: MAX_NUMBER,
            bytes_total: MAX_NUMBER,
        }];
        change(&mut told);
        bench.decode(Up::Report, &sign(&told, &key()).unwrap())
    };
    assert!(report_of(|_| {}).is_ok());
    let absurd: [fn(&mut DeviceReport); 3] = [
        |told| told.deployments[0].bytes_received += 1,
        |told| told.deployments[0].bytes_total = u64::MAX,
        |told| told.boot_count = u64::MAX,
    ];
    for change in absurd {
        let refused = report_of(change).unwrap_err();
        assert_eq!(refused.why, "report: a count or a size that cannot be");
    }
    let bundle_of = |change: fn(&mut SketchSet)| {
        let mut sketch = SketchSet {
            reference: Digest::of(b"reference"),
            count: 3,
            features: vec![FeatureSketch {
                counts: vec![1, 2],
                ..FeatureSketch::default()
            }],
            label_counts: vec![3],
        };
        change(&mut sketch);
        let mut told = bundle(1, (vec![], None));
        told.models[0].sketches = Some(sketch);
        bench.decode(Up::Bundle, &codec::to_vec_zstd(&told).unwrap())
    };
    assert!(bundle_of(|_| {}).is_ok());
    let absurd: [fn(&mut SketchSet); 3] = [
        |sketch| sketch.count = u64::MAX,
        |sketch| sketch.features[0].counts[1] = u64::MAX,
        |sketch| sketch.label_counts[0] = u64::MAX,
    ];
    for change in absurd {
        assert!(bundle_of(change).unwrap_err().why.contains("its sketch cannot be"));
    }
}

/// Two datasets that gather what devices running the version harvest, and a rollout that gave it to the device and takes so many
/// samples. Gives the package's digest.
async fn harvesting(bench: &Bench, max_samples: u32) -> Digest {
    let (version, manifest) = testing::version(&bench.db).await;
    let harvest = json!({"harvest": {"on_drift": true, "max_samples": max_samples}});
    let rollout = testing::running(&bench.db, version, harvest).await;
    let rollout = rollouts::get(&bench.db, rollout).await.unwrap();
    let features = FeatureSpec::Row {
        columns: vec!["x".into(), "y".into()],
    };
    let mut tx = bench.db.begin().await.unwrap();
    for name in ["one", "other"] {
        let spec = json!({"name": name, "labels": ["low", "high"], "shape": {"kind": "row"},
            "split": {"kind": "all", "split": "train"}, "harvest_line": "anomaly"});
        let spec = serde_json::from_value(spec).unwrap();
        let id = DatasetId::new(Uuid::now_v7());
        datasets::create(&mut tx, id, "p", &spec, NOW).await.unwrap();
        datasets::fix_features(&mut tx, id, &features).await.unwrap();
    }
    let given = NewDeployment {
        id: DeploymentId::new(Uuid::now_v7()),
        device: device(),
    };
    rollouts::deploy(&mut tx, &rollout, version, &[given], NOW)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    manifest
}

#[tokio::test]
async fn samples_sent_again_after_a_restart_use_up_nothing() {
    let bench = bench().await;
    let manifest = harvesting(&bench, 20).await;
    let send = async |seq: u64, manifest: Digest, values: std::ops::Range<u16>| {
        let sample = |value: u16| Sample {
            captured_at: NOW,
            line: ModelLine::new("anomaly").unwrap(),
            manifest,
            input: Tensor::from_f32("input", vec![2], &[value.into(), 0.0]).unwrap(),
            scores: vec![0.4, 0.6],
            predicted: "high".into(),
            reason: HarvestReason::Drift,
        };
        let batch = SampleBatch {
            schema: SCHEMA,
            device: device(),
            key: RecordKey {
                boot_epoch: seq,
                seq,
                nonce: 0,
            },
            samples: values.map(sample).collect(),
        };
        let message = bench.decode(Up::Sample, &codec::to_vec_zstd(&batch).unwrap()).unwrap();
        let effects = bench.apply(&message, &BTreeSet::new()).await;
        assert_eq!(effects.receipts[&device()], [batch.key]);
        let count =
            async |sql: &'static str| -> i64 { sqlx::query_scalar(sql).fetch_one(bench.db.read()).await.unwrap() };
        let stored = count("SELECT COUNT(*) FROM samples").await;
        let counted = count("SELECT COALESCE(SUM(taken), 0) FROM harvested").await;
        let refused: Vec<String> = effects.refused.into_iter().map(|(_, _, why)| why).collect();
        (stored, counted, effects.changes.contains(&Change::Samples), refused)
    };
    assert_eq!(send(1, manifest, 0..18).await, (36, 18, true, vec![]));
    for restart in 2..6 {
        assert_eq!(send(restart, manifest, 0..18).await, (36, 18, false, vec![]));
    }
    // Among samples that are there are more new ones than there is room for.
    let (stored, counted, changed, refused) = send(6, manifest, 0..25).await;
    assert_eq!((stored, counted, changed), (40, 20, true));
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].starts_with("5 sample(s)") && refused[0].ends_with("more than its rollout allows"),
        "{refused:?}"
    );
    assert_eq!(send(7, manifest, 0..20).await, (40, 20, false, vec![]), "all used up");
    let (stored, counted, changed, refused) = send(8, Digest::of(b"stranger"), 0..2).await;
    assert_eq!((stored, counted, changed), (40, 20, false));
    assert!(
        refused[0].contains("which no rollout gave to the device"),
        "{refused:?}"
    );
}
