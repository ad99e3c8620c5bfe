//! The order of what waits for the server's receipt: admission under caps, what to publish next, what to resend.
//!
//! Pure: `disk` keeps the bytes, callers bring the time. Invariants:
//! 1. A record leaves only by receipt or by eviction, and every eviction is counted.
//! 2. Audit records are never evicted. Samples go before telemetry, older before younger.
//! 3. At most `max_in_flight` records are published and unanswered; one is published again only after
//!    `resend_after_ms`, or after the connection was lost.

pub mod disk;

use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::bundle::Dropped;
use flotilla_protocol::messages::RecordKey;

/// What a sealed record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A `SampleBatch`.
    Samples,
    /// A `Bundle` of telemetry.
    Telemetry,
    /// A `Bundle` of audit entries.
    Audit,
}

impl RecordKind {
    pub const ALL: [Self; 3] = [Self::Samples, Self::Telemetry, Self::Audit];

    /// The byte that stands for it in the store.
    pub const fn tag(self) -> u8 {
        match self {
            Self::Samples => 1,
            Self::Telemetry => 2,
            Self::Audit => 3,
        }
    }

    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.tag() == tag)
    }
}

/// Caps of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    pub max_records: usize,
    pub max_bytes: u64,
    pub max_in_flight: usize,
    pub resend_after_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    kind: RecordKind,
    bytes: u64,
    /// Monotonic milliseconds of the last publish that was not answered.
    published_at: Option<u64>,
}

/// What must go so that a new record fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Admit it after these were evicted.
    Admit { evict: Vec<RecordKey> },
    /// There is nothing of less worth to evict: the new record itself is given up (and counted).
    Refuse,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Spool {
    limits: SpoolLimits,
    entries: BTreeMap<RecordKey, Entry>,
    bytes: u64,
    dropped: Dropped,
}

impl Spool {
    pub fn new(limits: SpoolLimits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            bytes: 0,
            dropped: Dropped::default(),
        }
    }

    /// A record found in the store at start; caps are applied at the next admission.
    pub fn restore(&mut self, key: RecordKey, kind: RecordKind, bytes: u64) {
        self.insert(key, kind, bytes);
    }

    /// Plans a new record's admission. Changes nothing: [`Self::admit`] does, once the store has done it.
    pub fn plan(&self, kind: RecordKind, bytes: u64) -> Admission {
        let mut count = self.entries.len().saturating_add(1);
        let mut total = self.bytes.saturating_add(bytes);
        let over = |count: usize, total: u64| count > self.limits.max_records || total > self.limits.max_bytes;
        let mut evict = Vec::new();
        // A record makes room only at the cost of what is worth no more than itself.
        for victim in [RecordKind::Samples, RecordKind::Telemetry] {
            if victim > kind {
                break;
            }
            for (key, entry) in self.entries.iter().filter(|(_, entry)| entry.kind == victim) {
                if !over(count, total) {
                    return Admission::Admit { evict };
                }
                evict.push(*key);
                count -= 1;
                total = total.saturating_sub(entry.bytes);
            }
        }
        if over(count, total) && kind != RecordKind::Audit {
            return Admission::Refuse;
        }
        Admission::Admit { evict }
    }

    /// The store has evicted and admitted.
    pub fn admit(&mut self, key: RecordKey, kind: RecordKind, bytes: u64, evicted: &[RecordKey]) {
        for victim in evicted {
            if let Some(entry) = self.remove(victim) {
                self.count_dropped(entry.kind);
            }
        }
        self.insert(key, kind, bytes);
    }

    /// A record was given up before it was stored.
    pub fn refused(&mut self, kind: RecordKind) {
        self.count_dropped(kind);
    }

    /// The records to publish now, oldest first; they count as in flight from here on.
    pub fn due(&mut self, now: u64) -> Vec<RecordKey> {
        let resend_after = self.limits.resend_after_ms;
        let waits = |entry: &Entry| {
            entry
                .published_at
                .is_some_and(|at| now.saturating_sub(at) < resend_after)
        };
        let in_flight = self.entries.values().filter(|entry| waits(entry)).count();
        let room = self.limits.max_in_flight.saturating_sub(in_flight);
        let mut due = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(_, entry)| !waits(entry)).take(room) {
            entry.published_at = Some(now);
            due.push(*key);
        }
        due
    }

    /// When the next unanswered record is to be sent again, if any is in flight.
    pub fn next_resend(&self) -> Option<u64> {
        let oldest = self.entries.values().filter_map(|entry| entry.published_at).min()?;
        Some(oldest.saturating_add(self.limits.resend_after_ms))
    }

    /// The records that a receipt names and that are still here. [`Self::forget`] removes them after the store has.
    pub fn known(&self, keys: &[RecordKey]) -> Vec<RecordKey> {
        let named: BTreeSet<RecordKey> = keys.iter().copied().collect();
        named.into_iter().filter(|key| self.entries.contains_key(key)).collect()
    }

    pub fn forget(&mut self, keys: &[RecordKey]) {
        for key in keys {
            self.remove(key);
        }
    }

    /// The connection is gone: nothing is in flight any more.
    pub fn disconnected(&mut self) {
        for entry in self.entries.values_mut() {
            entry.published_at = None;
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Given up since boot.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    fn insert(&mut self, key: RecordKey, kind: RecordKind, bytes: u64) {
        self.remove(&key);
        self.bytes = self.bytes.saturating_add(bytes);
        let entry = Entry {
            kind,
            bytes,
            published_at: None,
        };
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &RecordKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        Some(entry)
    }

    fn count_dropped(&mut self, kind: RecordKind) {
        match kind {
            RecordKind::Samples => self.dropped.samples = self.dropped.samples.saturating_add(1),
            RecordKind::Telemetry | RecordKind::Audit => {
                self.dropped.bundles = self.dropped.bundles.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: SpoolLimits = SpoolLimits {
        max_records: 6,
        max_bytes: 100,
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

    proptest! {
        /// Against a model that only counts: sealed = waiting + receipted + dropped, always.
        #[test]
        fn nothing_is_lost_uncounted(ops in proptest::collection::vec(op(), 1..120)) {
            let mut spool = Spool::new(LIMITS);
            let mut waiting: BTreeMap<u64, RecordKind> = BTreeMap::new();
            let (mut seq, mut now, mut dropped, mut freed) = (0u64, 0u64, 0u64, 0u64);
            let mut in_flight: BTreeMap<u64, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Seal(kind, bytes) => {
                        seq += 1;
                        let key = RecordKey { boot_epoch: 1, seq };
                        match spool.plan(kind, bytes) {
                            Admission::Admit { evict } => {
                                for victim in &evict {
                                    let gone = waiting.remove(&victim.seq).unwrap();
                                    prop_assert!(gone != RecordKind::Audit && gone <= kind);
                                    prop_assert!(!waiting.iter().any(|(s, k)| *k < gone || (*k == gone && *s < victim.seq)),
                                        "of less worth or older first");
                                    in_flight.remove(&victim.seq);
                                    dropped += 1;
                                }
                                spool.admit(key, kind, bytes, &evict);
                                waiting.insert(seq, kind);
                            }
                            Admission::Refuse => {
                                prop_assert!(kind != RecordKind::Audit);
                                spool.refused(kind);
                                dropped += 1;
                            }
                        }
                        if waiting.values().all(|k| *k != RecordKind::Audit) {
                            prop_assert!(spool.len() <= LIMITS.max_records && spool.bytes() <= LIMITS.max_bytes);
                        }
                    }
                    Op::Publish => {
                        in_flight.retain(|_, at| now - *at < LIMITS.resend_after_ms);
                        for key in spool.due(now) {
                            prop_assert!(waiting.contains_key(&key.seq));
                            prop_assert!(in_flight.insert(key.seq, now).is_none(), "published twice too early");
                        }
                        prop_assert!(in_flight.len() <= LIMITS.max_in_flight);
                        let expected = waiting.len().min(LIMITS.max_in_flight);
                        prop_assert_eq!(in_flight.len(), expected, "the pipe is kept full");
                    }
                    Op::Receipt(seqs) => {
                        let keys: Vec<_> = seqs.iter().map(|seq| RecordKey { boot_epoch: 1, seq: *seq }).collect();
                        let known: BTreeSet<_> = spool.known(&keys).into_iter().collect();
                        spool.forget(&keys);
                        for key in known {
                            prop_assert!(waiting.remove(&key.seq).is_some());
                            in_flight.remove(&key.seq);
                            freed += 1;
                        }
                    }
                    Op::Disconnect => { spool.disconnected(); in_flight.clear(); }
                    Op::Wait(ms) => now += ms,
                }
                prop_assert_eq!(spool.len(), waiting.len());
                let counted = spool.dropped().samples + spool.dropped().bundles;
                prop_assert_eq!(counted, dropped);
                prop_assert_eq!(seq, waiting.len() as u64 + freed + dropped);
            }
        }
    }
}
