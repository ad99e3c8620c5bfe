//! The order of what waits for the server's receipt: admission under caps, what to publish next, what to resend.
//!
//! Pure: `disk` keeps the bytes, callers bring the time. Invariants:
//! 1. A record leaves only by receipt, by being merged into the next one, or by eviction; every eviction is counted.
//! 2. Samples go first, the oldest before the others. Then telemetry records are merged, two and two, the oldest first; only
//!    when that does not help, the oldest go. Audit records outlast both, up to a cap of their own.
//! 3. Only records that no link was ever handed are merged: what a server may have counted keeps its name and its contents.
//! 4. At most `max_in_flight` records are published and unanswered; one is published again only after
//!    `resend_after_ms`, or after the connection was lost.

pub mod disk;
mod merge;

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
    /// For audit records alone.
    pub max_audit_bytes: u64,
    pub max_in_flight: usize,
    pub resend_after_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    kind: RecordKind,
    bytes: u64,
    /// Monotonic milliseconds of the last publish that was not answered.
    published_at: Option<u64>,
    /// How often it was published in this run without an answer.
    attempts: u32,
    /// A link may have been handed it, in this boot or an earlier one.
    sent: bool,
    /// It does not merge with the one before it.
    apart: bool,
}

/// How often the time until a record is sent again doubles: from half a minute to four hours.
const MAX_DOUBLINGS: u32 = 9;

impl Entry {
    /// How long its answer is waited for, milliseconds.
    fn patience(&self, resend_after: u64) -> u64 {
        resend_after.saturating_mul(1 << self.attempts.saturating_sub(1).min(MAX_DOUBLINGS))
    }

    const fn merges(&self) -> bool {
        matches!(self.kind, RecordKind::Telemetry) && !self.sent
    }
}

/// What must go so that a new record fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Admit it after these were evicted.
    Admit { evict: Vec<RecordKey> },
    /// Merge these two first, then plan again.
    Merge { older: RecordKey, younger: RecordKey },
    /// Admit it merged with this one, which goes, after these were evicted.
    Fold { older: RecordKey, evict: Vec<RecordKey> },
    /// There is nothing of less worth to evict: the new record itself is given up (and counted).
    Refuse,
}

/// What a plan would leave, and what it would cost.
struct Room {
    count: usize,
    total: u64,
    evict: Vec<RecordKey>,
}

impl Room {
    fn give_up(&mut self, key: RecordKey, entry: &Entry) {
        self.evict.push(key);
        self.count = self.count.saturating_sub(1);
        self.total = self.total.saturating_sub(entry.bytes);
    }
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
    pub fn restore(&mut self, key: RecordKey, kind: RecordKind, bytes: u64, sent: bool) {
        self.insert(key, kind, bytes, sent);
    }

    /// Plans a new record's admission. Changes nothing: the store does it, and then tells [`Self::admit`], [`Self::merged`] or
    /// [`Self::apart`]. `fold`: may the new record be merged with one that waits?
    pub fn plan(&self, kind: RecordKind, bytes: u64, fold: bool) -> Admission {
        let mut room = Room {
            count: self.entries.len().saturating_add(1),
            total: self.bytes.saturating_add(bytes),
            evict: Vec::new(),
        };
        // A record makes room only at the cost of what is worth no more than itself.
        self.evict(RecordKind::Samples, &mut room);
        if self.is_over(&room) && kind >= RecordKind::Telemetry {
            if let Some((older, younger)) = self.pair() {
                return Admission::Merge { older, younger };
            }
            let last = self.entries.iter().rev().find(|(_, entry)| entry.merges());
            if let Some((older, _)) = last.filter(|_| fold && kind == RecordKind::Telemetry) {
                return Admission::Fold {
                    older: *older,
                    evict: room.evict,
                };
            }
            self.evict(RecordKind::Telemetry, &mut room);
        }
        if kind == RecordKind::Audit {
            self.evict_audit(bytes, &mut room);
        } else if self.is_over(&room) {
            return Admission::Refuse;
        }
        Admission::Admit { evict: room.evict }
    }

    fn is_over(&self, room: &Room) -> bool {
        room.count > self.limits.max_records || room.total > self.limits.max_bytes
    }

    fn evict(&self, victim: RecordKind, room: &mut Room) {
        for (key, entry) in self.entries.iter().filter(|(_, entry)| entry.kind == victim) {
            if !self.is_over(room) {
                return;
            }
            room.give_up(*key, entry);
        }
    }

    /// Audit records go only to make room for audit records.
    fn evict_audit(&self, bytes: u64, room: &mut Room) {
        let audit = || self.entries.iter().filter(|(_, entry)| entry.kind == RecordKind::Audit);
        let mut total = audit().fold(bytes, |sum, (_, entry)| sum.saturating_add(entry.bytes));
        for (key, entry) in audit() {
            if total <= self.limits.max_audit_bytes {
                return;
            }
            total = total.saturating_sub(entry.bytes);
            room.give_up(*key, entry);
        }
    }

    /// The two oldest telemetry records that may be merged.
    fn pair(&self) -> Option<(RecordKey, RecordKey)> {
        let mut before = None;
        for (key, entry) in self.entries.iter().filter(|(_, entry)| entry.merges()) {
            if let Some(older) = before.filter(|_| !entry.apart) {
                return Some((older, *key));
            }
            before = Some(*key);
        }
        None
    }

    /// The store has merged two: the younger one is so long now.
    pub fn merged(&mut self, older: &RecordKey, younger: &RecordKey, bytes: u64) {
        self.remove(older);
        if let Some(entry) = self.entries.get_mut(younger) {
            self.bytes = self.bytes.saturating_sub(entry.bytes).saturating_add(bytes);
            entry.bytes = bytes;
        }
    }

    /// The store could not merge it with the one before it.
    pub fn apart(&mut self, younger: &RecordKey) {
        if let Some(entry) = self.entries.get_mut(younger) {
            entry.apart = true;
        }
    }

    /// Would the spool hold a record of so many bytes in place of another?
    pub fn fits_instead(&self, older: &RecordKey, evicted: &[RecordKey], bytes: u64) -> bool {
        let gone = evicted.iter().chain([older]).filter_map(|key| self.entries.get(key));
        let gone = gone.fold(0u64, |sum, entry| sum.saturating_add(entry.bytes));
        self.bytes.saturating_sub(gone).saturating_add(bytes) <= self.limits.max_bytes
    }

    /// The store has evicted and admitted.
    pub fn admit(&mut self, key: RecordKey, kind: RecordKind, bytes: u64, evicted: &[RecordKey]) {
        for victim in evicted {
            if let Some(entry) = self.remove(victim) {
                self.count_dropped(entry.kind);
            }
        }
        self.insert(key, kind, bytes, false);
    }

    /// Like [`Self::admit`]; the new record says what `older` said.
    pub fn fold(&mut self, key: RecordKey, bytes: u64, older: &RecordKey, evicted: &[RecordKey]) {
        self.admit(key, RecordKind::Telemetry, bytes, evicted);
        self.remove(older);
    }

    /// A record was given up before it was stored.
    pub fn refused(&mut self, kind: RecordKind) {
        self.count_dropped(kind);
    }

    /// The records to publish now, oldest first; they count as in flight from here on. A record that stays without an answer
    /// is published ever less often: one that the server never takes must not stop what comes after it.
    pub fn due(&mut self, now: u64) -> Vec<RecordKey> {
        let resend_after = self.limits.resend_after_ms;
        let since = |entry: &Entry| entry.published_at.map(|at| now.saturating_sub(at));
        let in_flight = |entry: &&Entry| since(entry).is_some_and(|age| age < resend_after);
        let in_flight = self.entries.values().filter(in_flight).count();
        let room = self.limits.max_in_flight.saturating_sub(in_flight);
        let waits = |entry: &Entry| since(entry).is_some_and(|age| age < entry.patience(resend_after));
        // What was sent does not merge any more: half of the room is kept for records that do.
        let sent = self.entries.values().filter(|entry| entry.sent).count();
        let cap = self.limits.max_in_flight.max(self.limits.max_records / 2);
        let mut new = cap.saturating_sub(sent);
        let mut may_go = |entry: &Entry| {
            if !waits(entry) && !entry.sent && new > 0 {
                new -= 1;
                return true;
            }
            !waits(entry) && entry.sent
        };
        let mut due = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(_, entry)| may_go(entry)).take(room) {
            entry.published_at = Some(now);
            entry.attempts = entry.attempts.saturating_add(1);
            entry.sent = true;
            due.push(*key);
        }
        due
    }

    /// These were due, and were not handed to the link after all.
    pub fn not_sent(&mut self, keys: &[RecordKey]) {
        for key in keys {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.published_at = None;
                entry.attempts = entry.attempts.saturating_sub(1);
                entry.sent = false;
            }
        }
    }

    pub fn kind(&self, key: &RecordKey) -> Option<RecordKind> {
        self.entries.get(key).map(|entry| entry.kind)
    }

    /// All records of a kind, oldest first.
    pub fn of_kind(&self, kind: RecordKind) -> Vec<RecordKey> {
        let of_kind = self.entries.iter().filter(|(_, entry)| entry.kind == kind);
        of_kind.map(|(key, _)| *key).collect()
    }

    /// When the next unanswered record is to be sent again, if any is in flight.
    pub fn next_resend(&self) -> Option<u64> {
        let again = |entry: &Entry| {
            let at = entry.published_at?;
            Some(at.saturating_add(entry.patience(self.limits.resend_after_ms)))
        };
        self.entries.values().filter_map(again).min()
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

    fn insert(&mut self, key: RecordKey, kind: RecordKind, bytes: u64, sent: bool) {
        self.remove(&key);
        self.bytes = self.bytes.saturating_add(bytes);
        let entry = Entry {
            kind,
            bytes,
            published_at: None,
            attempts: 0,
            sent,
            apart: false,
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
mod tests;
