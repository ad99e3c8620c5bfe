//! Tests of the spool on disk: what survives, what is merged, what is given up, and that it all adds up.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::audit::{AUDIT_GAP, AuditHead, AuditRecord, continue_chain};
use flotilla_protocol::bundle::{Bundle, Judged, ModelTelemetry, Resources};
use flotilla_protocol::codec::{self, MAX_BUNDLE_BYTES, MAX_MESSAGE_BYTES};
use flotilla_protocol::ids::{DeviceId, Digest, ModelLine, SlotName};
use flotilla_protocol::messages::SCHEMA;
use flotilla_protocol::sketch::{FeatureSketch, LatencyHistogram, SketchSet};
use proptest::prelude::*;

use super::*;
use crate::audit::Entry;

const LIMITS: SpoolLimits = SpoolLimits {
    max_records: 3,
    max_bytes: 1_000,
    max_audit_bytes: 1_000,
    max_in_flight: 8,
    resend_after_ms: 100,
};

const fn in_boot(epoch: u64) -> Boot {
    Boot { epoch, nonce: 7 }
}

fn seal(spool: &DiskSpool, kind: RecordKind, bytes: &[u8]) -> Sealed {
    let build = |_: &Txn<'_>, _| Ok(Some(bytes.to_vec()));
    spool.seal(kind, bytes.len() as u64, build).unwrap().unwrap()
}

#[test]
fn records_survive_a_restart_unchanged_and_leave_by_receipt_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let spool = DiskSpool::open(Arc::clone(&store), in_boot(1), LIMITS).unwrap();
    let Sealed::Stored(first) = seal(&spool, RecordKind::Telemetry, b"one") else {
        panic!()
    };
    seal(&spool, RecordKind::Audit, b"two");
    assert_eq!(spool.due(0).unwrap().len(), 2);
    drop(spool);

    let spool = DiskSpool::open(Arc::clone(&store), in_boot(2), LIMITS).unwrap();
    let due = spool.due(0).unwrap();
    assert_eq!(due[0], (first, RecordKind::Telemetry, b"one".to_vec()));
    assert_eq!(due[1].2, b"two");
    assert!(spool.due(99).unwrap().is_empty());
    assert_eq!(spool.due(100).unwrap().len(), 2);
    assert_eq!(spool.receipt(&[first, first]).unwrap(), 1);
    assert_eq!(spool.receipt(&[first]).unwrap(), 0);
    let Sealed::Stored(third) = seal(&spool, RecordKind::Telemetry, b"three") else {
        panic!()
    };
    assert!(third > due[1].0, "sequence numbers rise over boots");
    assert_eq!(DiskSpool::open(store, in_boot(3), LIMITS).unwrap().depth().records, 2);
}

#[test]
fn a_full_spool_gives_up_samples_first_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let spool = DiskSpool::open(store, in_boot(1), LIMITS).unwrap();
    seal(&spool, RecordKind::Samples, b"s");
    seal(&spool, RecordKind::Telemetry, b"t");
    seal(&spool, RecordKind::Audit, b"a");
    seal(&spool, RecordKind::Telemetry, b"u");
    assert_eq!(seal(&spool, RecordKind::Samples, b"v"), Sealed::Dropped);
    let depth = spool.depth();
    assert_eq!((depth.records, depth.dropped.samples, depth.dropped.bundles), (3, 2, 0));
    let kinds: Vec<_> = spool.due(0).unwrap().into_iter().map(|r| r.1).collect();
    assert_eq!(kinds, [RecordKind::Telemetry, RecordKind::Audit, RecordKind::Telemetry]);
}

fn telemetry(inferences: u64, manifest: u8) -> Bundle {
    let mut latency = LatencyHistogram::default();
    latency.record(inferences);
    let sketches = SketchSet {
        reference: Digest::of(&[manifest]),
        count: inferences,
        features: vec![FeatureSketch {
            counts: vec![inferences, 0],
            ..FeatureSketch::default()
        }],
        label_counts: vec![inferences],
    };
    Bundle {
        schema: SCHEMA,
        device: DeviceId::new("press-07").unwrap(),
        key: RecordKey {
            boot_epoch: 0,
            seq: 0,
            nonce: 0,
        },
        from: 0,
        to: 1,
        models: vec![ModelTelemetry {
            slot: SlotName::main(),
            line: ModelLine::new("anomaly").unwrap(),
            manifest: Digest::of(&[manifest, manifest]),
            inferences,
            failures: inferences / 2,
            latency,
            sketches: Some(sketches),
            drift: None,
            judged: Some(Judged {
                judgements: 1,
                alarms: 0,
            }),
        }],
        resources: Resources::default(),
        dropped: Dropped::default(),
        audit: vec![],
        audit_head: None,
    }
}

fn push(spool: &DiskSpool, bundle: &Bundle) -> Sealed {
    let build = |_: &Txn<'_>, key| Ok(Some(codec::to_vec_zstd(&Bundle { key, ..bundle.clone() }).unwrap()));
    spool.seal(RecordKind::Telemetry, 100, build).unwrap().unwrap()
}

/// What a server has counted: names once, everything in them added up.
#[derive(Default)]
struct Server {
    seen: BTreeSet<RecordKey>,
    totals: Totals,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Totals {
    inferences: BTreeMap<Digest, u64>,
    failures: u64,
    sketched: u64,
    binned: u64,
    labels: u64,
    requests: u64,
    judgements: u64,
}

impl Totals {
    fn add(&mut self, bundle: &Bundle) {
        for model in &bundle.models {
            let sketches = model.sketches.as_ref().unwrap();
            *self.inferences.entry(model.manifest).or_default() += model.inferences;
            self.failures += model.failures;
            self.sketched += sketches.count;
            self.binned += sketches.features[0].counts[0];
            self.labels += sketches.label_counts[0];
            self.requests += model.latency.count();
            self.judgements += model.judged.unwrap().judgements;
        }
    }
}

impl Server {
    fn take(&mut self, (key, _, payload): &Due) {
        let bundle: Bundle = codec::from_slice_zstd(payload, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES).unwrap();
        assert_eq!(bundle.key, *key, "a record says its own name");
        if self.seen.insert(*key) {
            self.totals.add(&bundle);
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Push(u64, u8),
    /// Publish; of what is published, the server gets the first so many, and of its receipts the device so many.
    Send(usize, usize),
    Disconnect,
    Restart,
    Wait,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1u64..100, 0u8..2).prop_map(|(inferences, manifest)| Op::Push(inferences, manifest)),
        3 => (0usize..5, 0usize..5).prop_map(|(arrive, receipted)| Op::Send(arrive, receipted)),
        1 => Just(Op::Disconnect),
        1 => Just(Op::Restart),
        1 => Just(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However long nothing is receipted, and whatever was sent before the power went: everything is counted once.
    #[test]
    fn a_full_spool_conserves_every_count(ops in proptest::collection::vec(op(), 1..60)) {
        let limits = SpoolLimits {
            max_records: 5,
            max_bytes: 1 << 20,
            max_audit_bytes: 1 << 20,
            max_in_flight: 3,
            resend_after_ms: 50,
        };
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let mut boot = 1;
        let mut spool = DiskSpool::open(Arc::clone(&store), in_boot(boot), limits).unwrap();
        let (mut server, mut pushed, mut now) = (Server::default(), Totals::default(), 0);
        for op in ops {
            match op {
                Op::Push(inferences, manifest) => {
                    let bundle = telemetry(inferences, manifest);
                    pushed.add(&bundle);
                    prop_assert!(matches!(push(&spool, &bundle), Sealed::Stored(_)));
                }
                Op::Send(arrive, receipted) => {
                    let due = spool.due(now).unwrap();
                    due.iter().take(arrive).for_each(|record| server.take(record));
                    let named: Vec<_> = due.iter().take(arrive.min(receipted)).map(|record| record.0).collect();
                    spool.receipt(&named).unwrap();
                }
                Op::Disconnect => spool.disconnected(),
                Op::Restart => {
                    boot += 1;
                    spool = DiskSpool::open(Arc::clone(&store), in_boot(boot), limits).unwrap();
                }
                Op::Wait => now += 60,
            }
            prop_assert!(spool.depth().records <= 5);
            prop_assert_eq!(spool.depth().dropped, Dropped::default());
        }
        while spool.depth().records > 0 {
            spool.disconnected();
            let due = spool.due(now).unwrap();
            for record in &due {
                server.take(record);
            }
            spool.receipt(&due.iter().map(|record| record.0).collect::<Vec<_>>()).unwrap();
        }
        prop_assert_eq!(server.totals, pushed);
    }
}

#[test]
fn what_was_sent_is_never_merged_and_a_lone_record_takes_in_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let limits = SpoolLimits {
        max_bytes: 1 << 20,
        max_in_flight: 2,
        ..LIMITS
    };
    let spool = DiskSpool::open(Arc::clone(&store), in_boot(1), limits).unwrap();
    for n in 1..=3 {
        push(&spool, &telemetry(n, 0));
    }
    let sent: Vec<_> = spool.due(0).unwrap();
    assert_eq!(sent.len(), 2);
    // The third is the only one that may still change.
    push(&spool, &telemetry(4, 0));
    // Nor does a restart make those that were sent fit to be merged.
    let spool = DiskSpool::open(store, in_boot(2), limits).unwrap();
    push(&spool, &telemetry(5, 1));
    assert_eq!(spool.depth().records, 3);
    let again = spool.due(0).unwrap();
    assert_eq!(again, sent, "unchanged");
    spool.receipt(&[sent[0].0, sent[1].0]).unwrap();
    let last = spool.due(0).unwrap();
    let bundle: Bundle = codec::from_slice_zstd(&last[0].2, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES).unwrap();
    let mut counted: Vec<_> = bundle.models.iter().map(|model| model.inferences).collect();
    counted.sort_unstable();
    assert_eq!((last.len(), counted), (1, vec![5, 7]));
    assert_eq!(spool.depth().dropped, Dropped::default());
}

#[test]
fn when_all_was_sent_the_oldest_goes_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let spool = DiskSpool::open(
        store,
        in_boot(1),
        SpoolLimits {
            max_bytes: 1 << 20,
            ..LIMITS
        },
    )
    .unwrap();
    for n in 1..=3 {
        push(&spool, &telemetry(n, 0));
    }
    assert_eq!(spool.due(0).unwrap().len(), 3);
    push(&spool, &telemetry(4, 0));
    assert_eq!((spool.depth().records, spool.depth().dropped.bundles), (3, 1));
}

/// Seals the audit entries that wait, as the sealer does, without a signature.
fn seal_audit(spool: &DiskSpool) -> Option<Sealed> {
    let build = |txn: &Txn<'_>, key| {
        let Some(taken) = audit::take(txn, 10_000)? else {
            return Ok(None);
        };
        let bundle = Bundle {
            key,
            models: vec![],
            audit: taken.batches,
            ..telemetry(1, 0)
        };
        Ok(Some(codec::to_vec_zstd(&bundle).unwrap()))
    };
    spool.seal(RecordKind::Audit, 100, build).unwrap()
}

fn audit_entry(store: &Store, n: usize) {
    let entry = Entry::new("test.event", format!("n:{n}"));
    store.write(|txn| audit::append(txn, &entry, 5)).unwrap();
}

/// Follows the chain as the server does, until it breaks: the head, how many entries, and what they were.
fn follow(due: &[Due], mut head: AuditHead, seen: &mut Vec<AuditRecord>) -> Result<AuditHead, RecordKey> {
    for (key, _, payload) in due {
        let bundle: Bundle =
            codec::from_slice_zstd(payload, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES).map_err(|_broken| *key)?;
        for batch in &bundle.audit {
            let (next, records) = continue_chain(head, batch).map_err(|_broken| *key)?;
            head = next;
            seen.extend(records);
        }
    }
    Ok(head)
}

#[test]
fn a_damaged_audit_record_becomes_a_declared_loss_and_everything_else_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let spool = DiskSpool::open(Arc::clone(&store), in_boot(1), LIMITS).unwrap();
    store.write(|txn| audit::open_epoch(txn, 1)).unwrap();
    let mut records = Vec::new();
    for n in 0..4 {
        // Two entries in each of four records; the first also opens the epoch.
        audit_entry(&store, 2 * n);
        audit_entry(&store, 2 * n + 1);
        let Some(Sealed::Stored(key)) = seal_audit(&spool) else {
            panic!()
        };
        records.push(key);
    }
    audit_entry(&store, 8);
    // The server has the first record. The second is damaged on disk.
    let mut seen = Vec::new();
    let known = follow(&spool.due(0).unwrap()[..1], AuditHead::start(0), &mut seen).unwrap();
    spool.receipt(&records[..1]).unwrap();
    store
        .write(|txn| {
            txn.table(SPOOL)?
                .insert(place(records[1]), &[RecordKind::Audit.tag(), 1, 2, 3][..])?;
            Ok(())
        })
        .unwrap();
    spool.disconnected();
    let due = spool.due(0).unwrap();
    assert_eq!(follow(&due[1..], known, &mut Vec::new()), Err(records[2]), "a hole");
    let refusal = AuditRefusal {
        record: records[2],
        head: known,
        entries: seen.len() as u64,
    };
    let gap = spool.declare_audit_gap(&refusal, 9).unwrap().unwrap();
    assert_eq!((gap.after, gap.lost, gap.kept), (known, 2, 5));
    assert_eq!(spool.declare_audit_gap(&refusal, 9).unwrap(), None, "answered once");
    assert!(seal_audit(&spool).is_some() && seal_audit(&spool).is_none());
    spool.disconnected();
    let due = spool.due(0).unwrap();
    let end = follow(&due, known, &mut seen).unwrap();
    spool
        .receipt(&due.iter().map(|record| record.0).collect::<Vec<_>>())
        .unwrap();
    assert_eq!((end.epoch, end.count), (2, 6));
    assert_eq!(store.write(audit::head).unwrap(), end);
    let subjects: Vec<_> = seen.iter().skip(3).map(|record| record.subject.as_str()).collect();
    assert_eq!(subjects, ["epoch:2", "n:4", "n:5", "n:6", "n:7", "n:8"]);
    assert_eq!(seen[3].event, AUDIT_GAP);
    // A second loss counts from there on.
    audit_entry(&store, 9);
    let Some(Sealed::Stored(record)) = seal_audit(&spool) else {
        panic!()
    };
    let far = AuditHead { epoch: u64::MAX, ..end };
    let entries = seen.len() as u64;
    let lie = AuditRefusal {
        record,
        head: far,
        entries,
    };
    assert_eq!(
        spool.declare_audit_gap(&lie, 9).unwrap(),
        None,
        "epochs must not run out"
    );
    let refusal = AuditRefusal {
        record,
        head: end,
        entries,
    };
    let gap = spool.declare_audit_gap(&refusal, 9).unwrap().unwrap();
    assert_eq!((gap.lost, gap.kept), (0, 1));
}

#[test]
fn audit_records_have_a_cap_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let limits = SpoolLimits {
        max_audit_bytes: 30,
        ..LIMITS
    };
    let spool = DiskSpool::open(store, in_boot(1), limits).unwrap();
    for _ in 0..6 {
        seal(&spool, RecordKind::Audit, b"ten bytes.");
    }
    let depth = spool.depth();
    assert_eq!((depth.records, depth.bytes, depth.dropped.bundles), (3, 30, 3));
    assert_eq!(
        seal(&spool, RecordKind::Samples, b"s"),
        Sealed::Dropped,
        "audit fills the spool"
    );
}
