//! The order of the spool against a model that only counts.

use proptest::prelude::*;

use super::*;

const LIMITS: SpoolLimits = SpoolLimits {
    max_records: 6,
    max_bytes: 100,
    max_audit_bytes: 200,
    max_in_flight: 3,
    resend_after_ms: 50,
};

#[derive(Debug, Clone)]
enum Op {
    Seal(RecordKind, u64),
    Publish,
    Receipt(Vec<u64>),
    Disconnect,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        Just(RecordKind::Samples),
        Just(RecordKind::Telemetry),
        Just(RecordKind::Audit)
    ];
    prop_oneof![
        4 => (kind, 1u64..60).prop_map(|(kind, bytes)| Op::Seal(kind, bytes)),
        3 => Just(Op::Publish),
        2 => proptest::collection::vec(0u64..40, 0..4).prop_map(Op::Receipt),
        1 => Just(Op::Disconnect),
        2 => (1u64..60).prop_map(Op::Wait),
    ]
}

/// What the spool holds, as a model that only counts.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<u64, RecordKind>,
    in_flight: BTreeMap<u64, u64>,
    /// When it was published last, if that still counts, and how often.
    published: BTreeMap<u64, (Option<u64>, u32)>,
    sent: BTreeSet<u64>,
    apart: BTreeSet<u64>,
    seq: u64,
    dropped: u64,
    merged: u64,
    freed: u64,
}

impl Model {
    fn evict(&mut self, evicted: &[RecordKey], kind: RecordKind) -> Result<(), TestCaseError> {
        for victim in evicted {
            let gone = self.waiting.remove(&victim.seq).unwrap();
            prop_assert!(gone <= kind, "nothing of more worth goes");
            let first = |(s, k): (&u64, &RecordKind)| {
                (gone != RecordKind::Audit && *k < gone) || (*k == gone && *s < victim.seq)
            };
            prop_assert!(!self.waiting.iter().any(first), "of less worth or older first");
            if gone == RecordKind::Telemetry {
                let unsent = self
                    .waiting
                    .iter()
                    .filter(|(s, k)| **k == gone && !self.sent.contains(s));
                prop_assert!(
                    unsent.skip(1).all(|(s, _)| self.apart.contains(s)),
                    "merging could have helped"
                );
            }
            self.in_flight.remove(&victim.seq);
            self.dropped += 1;
        }
        Ok(())
    }

    fn merge_away(&mut self, older: RecordKey) -> Result<(), TestCaseError> {
        prop_assert!(!self.sent.contains(&older.seq), "a server may have counted it");
        prop_assert_eq!(self.waiting.remove(&older.seq), Some(RecordKind::Telemetry));
        self.merged += 1;
        Ok(())
    }

    /// Seals as the disk does. Where `bytes` is odd, telemetry does not merge.
    fn seal(&mut self, spool: &mut Spool, kind: RecordKind, bytes: u64) -> Result<(), TestCaseError> {
        self.seq += 1;
        let key = RecordKey {
            boot_epoch: 1,
            seq: self.seq,
            nonce: 0,
        };
        let merges = bytes.is_multiple_of(2);
        let mut may_fold = true;
        loop {
            match spool.plan(kind, bytes, may_fold) {
                Admission::Merge { older, younger } if merges => {
                    prop_assert!(!self.sent.contains(&younger.seq));
                    self.merge_away(older)?;
                    spool.merged(&older, &younger, 30);
                }
                Admission::Merge { younger, .. } => {
                    prop_assert!(self.apart.insert(younger.seq), "tried once");
                    spool.apart(&younger);
                }
                Admission::Fold { older, evict } if merges && spool.fits_instead(&older, &evict, bytes) => {
                    self.evict(&evict, kind)?;
                    self.merge_away(older)?;
                    spool.fold(key, bytes, &older, &evict);
                    self.waiting.insert(key.seq, kind);
                    return Ok(());
                }
                Admission::Fold { .. } => may_fold = false,
                Admission::Admit { evict } => {
                    self.evict(&evict, kind)?;
                    spool.admit(key, kind, bytes, &evict);
                    self.waiting.insert(key.seq, kind);
                    return Ok(());
                }
                Admission::Refuse => {
                    prop_assert!(kind != RecordKind::Audit);
                    spool.refused(kind);
                    self.dropped += 1;
                    return Ok(());
                }
            }
        }
    }

    fn publish(&mut self, spool: &mut Spool, now: u64) -> Result<(), TestCaseError> {
        self.in_flight.retain(|_, at| now - *at < LIMITS.resend_after_ms);
        let quiet = |(at, attempts): &(Option<u64>, u32)| {
            at.is_some_and(|at| now - at < LIMITS.resend_after_ms << (attempts - 1).min(9))
        };
        let free = |seq: &&u64| !self.published.get(seq).is_some_and(quiet);
        let sent = |seq: &&u64| self.sent.contains(seq);
        let cap = LIMITS.max_in_flight.max(LIMITS.max_records / 2);
        let new = self.waiting.keys().filter(|seq| !sent(seq)).count();
        let new = new.min(cap.saturating_sub(self.waiting.keys().filter(sent).count()));
        let again = self.waiting.keys().filter(sent).filter(free).count();
        let expected = (self.in_flight.len() + again + new).min(LIMITS.max_in_flight);
        for key in spool.due(now) {
            prop_assert!(self.waiting.contains_key(&key.seq));
            let published = self.published.entry(key.seq).or_default();
            prop_assert!(!quiet(published), "published again too early");
            *published = (Some(now), published.1 + 1);
            prop_assert!(self.in_flight.insert(key.seq, now).is_none());
            self.sent.insert(key.seq);
        }
        prop_assert_eq!(self.in_flight.len(), expected, "the pipe is kept full");
        Ok(())
    }

    fn receipt(&mut self, spool: &mut Spool, seqs: &[u64]) -> Result<(), TestCaseError> {
        let keys: Vec<_> = seqs
            .iter()
            .map(|seq| RecordKey {
                boot_epoch: 1,
                seq: *seq,
                nonce: 0,
            })
            .collect();
        let known: BTreeSet<_> = spool.known(&keys).into_iter().collect();
        spool.forget(&keys);
        for key in known {
            prop_assert!(self.waiting.remove(&key.seq).is_some());
            self.in_flight.remove(&key.seq);
            self.freed += 1;
        }
        Ok(())
    }
}

proptest! {
    /// Against the model: sealed = waiting + receipted + merged + dropped, always.
    #[test]
    fn nothing_is_lost_uncounted(ops in proptest::collection::vec(op(), 1..120)) {
        let mut spool = Spool::new(LIMITS);
        let (mut model, mut now) = (Model::default(), 0u64);
        for op in ops {
            match op {
                Op::Seal(kind, bytes) => {
                    model.seal(&mut spool, kind, bytes)?;
                    if model.waiting.values().all(|k| *k != RecordKind::Audit) {
                        prop_assert!(spool.len() <= LIMITS.max_records && spool.bytes() <= LIMITS.max_bytes);
                    }
                }
                Op::Publish => model.publish(&mut spool, now)?,
                Op::Receipt(seqs) => model.receipt(&mut spool, &seqs)?,
                Op::Disconnect => {
                    spool.disconnected();
                    model.in_flight.clear();
                    model.published.values_mut().for_each(|(at, _)| *at = None);
                }
                Op::Wait(ms) => now += ms,
            }
            prop_assert_eq!(spool.len(), model.waiting.len());
            let counted = spool.dropped().samples + spool.dropped().bundles;
            prop_assert_eq!(counted, model.dropped);
            prop_assert_eq!(model.seq, model.waiting.len() as u64 + model.freed + model.merged + model.dropped);
        }
    }
}

#[test]
fn a_record_that_is_never_answered_does_not_stop_the_others() {
    let mut spool = Spool::new(SpoolLimits {
        max_in_flight: 1,
        ..LIMITS
    });
    let key = |seq| RecordKey {
        boot_epoch: 1,
        seq,
        nonce: 0,
    };
    for seq in [1, 2] {
        spool.admit(key(seq), RecordKind::Audit, 1, &[]);
    }
    let mut now = 0;
    let mut published = BTreeMap::new();
    for _ in 0..20 {
        for key in spool.due(now) {
            *published.entry(key.seq).or_insert(0) += 1;
        }
        now += LIMITS.resend_after_ms;
    }
    assert!(published[&2] >= 3, "{published:?}");
}
