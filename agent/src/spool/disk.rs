//! The spool on disk: sealed records in the store, their order in [`Spool`].
//!
//! Sealing is one durable transaction (eviction, sequence number, record, and whatever the caller adds to it); a record's
//! bytes are what is published, unchanged, however often. How far records may have been sent is durable before the first of
//! them is handed over: only what is younger is ever merged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_protocol::audit::AuditGap;
use flotilla_protocol::bundle::Dropped;
use flotilla_protocol::messages::{AuditRefusal, RecordKey};
use redb::ReadableTable as _;
use tokio::sync::watch;
use tracing::{error, warn};

use crate::audit;
use crate::spool::merge;
use crate::spool::{Admission, RecordKind, Spool, SpoolLimits};
use crate::store::{SPOOL, Store, StoreError, Txn, keys};

/// See the module's documentation.
#[derive(Debug)]
pub struct DiskSpool {
    store: Arc<Store>,
    boot: Boot,
    order: Mutex<Spool>,
    /// The last telemetry record that may have been sent. Held by whoever seals, merges or sends: a plan must still hold when
    /// it is carried out.
    sent: Mutex<RecordKey>,
    /// How many records wait.
    waiting: watch::Sender<usize>,
}

/// The part of a record's name that all records of one boot share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    pub epoch: u64,
    /// Drawn at random ([`RecordKey::nonce`]).
    pub nonce: u32,
}

impl Boot {
    pub const fn record(self, seq: u64) -> RecordKey {
        RecordKey {
            boot_epoch: self.epoch,
            seq,
            nonce: self.nonce,
        }
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    pub records: u64,
    pub bytes: u64,
    pub dropped: Dropped,
}

/// A record to publish: its key, its kind, its bytes.
pub type Due = (RecordKey, RecordKind, Vec<u8>);

/// What became of a record that was to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    Stored(RecordKey),
    /// There was no room; it is counted as dropped.
    Dropped,
}

/// What became of a record that was to be sealed merged with another.
enum Folded {
    /// They do not merge: nothing was done.
    Apart,
    /// There was nothing to seal.
    Nothing,
    Stored(RecordKey, u64),
}

impl DiskSpool {
    /// Finds what earlier boots left.
    pub fn open(store: Arc<Store>, boot: Boot, limits: SpoolLimits) -> Result<Self, StoreError> {
        let mut order = Spool::new(limits);
        let sent = sent_before(&store)?;
        store.read(|txn| {
            for item in txn.open_table(SPOOL)?.iter()? {
                let (key, value) = item?;
                let key = key_of(key.value());
                let Some((tag, payload)) = value.value().split_first() else {
                    warn!(?key, "an empty record in the spool is skipped");
                    continue;
                };
                // A tag of a later version is kept as if it were audit: never dropped, sent as it is.
                let kind = RecordKind::from_tag(*tag).unwrap_or(RecordKind::Audit);
                order.restore(key, kind, payload.len() as u64, key <= sent);
            }
            Ok(())
        })?;
        Ok(Self {
            store,
            boot,
            waiting: watch::Sender::new(order.len()),
            order: Mutex::new(order),
            sent: Mutex::new(sent),
        })
    }

    /// Follows how many records wait.
    pub fn waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }

    fn tell_waiting(&self) {
        let waiting = self.order().len();
        self.waiting
            .send_if_modified(|known| std::mem::replace(known, waiting) != waiting);
    }

    fn order(&self) -> MutexGuard<'_, Spool> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals one record durably. `build` gets its key and the transaction, and returns the bytes to publish; `None` seals
    /// nothing. `estimate` is the size by which the caps are judged.
    pub fn seal(
        &self,
        kind: RecordKind,
        estimate: u64,
        build: impl Fn(&Txn<'_>, RecordKey) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Option<Sealed>, StoreError> {
        let sealed = self.seal_one(kind, estimate, &build);
        self.tell_waiting();
        sealed
    }

    fn seal_one(
        &self,
        kind: RecordKind,
        estimate: u64,
        build: &impl Fn(&Txn<'_>, RecordKey) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Option<Sealed>, StoreError> {
        let _one_at_a_time = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut may_fold = true;
        loop {
            // A statement of its own: the order's lock must not be held over what follows.
            let plan = self.order().plan(kind, estimate, may_fold);
            match plan {
                Admission::Merge { older, younger } => self.merge(older, younger)?,
                Admission::Fold { older, evict } => match self.seal_folded(older, &evict, build)? {
                    Folded::Stored(key, _) => return Ok(Some(Sealed::Stored(key))),
                    Folded::Nothing => return Ok(None),
                    Folded::Apart => may_fold = false,
                },
                Admission::Admit { evict } => {
                    let sealed = self.seal_admitted(kind, &evict, build)?;
                    return Ok(sealed.map(Sealed::Stored));
                }
                Admission::Refuse => {
                    self.order().refused(kind);
                    return Ok(Some(Sealed::Dropped));
                }
            }
        }
    }

    fn seal_admitted(
        &self,
        kind: RecordKind,
        evict: &[RecordKey],
        build: &impl Fn(&Txn<'_>, RecordKey) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Option<RecordKey>, StoreError> {
        let sealed = self.store.write(|txn| {
            let key = self.boot.record(txn.next(keys::SPOOL_SEQ)?);
            let Some(payload) = build(txn, key)? else {
                return Ok(None);
            };
            remove(*txn, evict)?;
            insert(*txn, key, kind, &payload)?;
            Ok(Some((key, payload.len() as u64)))
        })?;
        let Some((key, bytes)) = sealed else { return Ok(None) };
        self.order().admit(key, kind, bytes, evict);
        Ok(Some(key))
    }

    /// Seals a telemetry record merged with one that waits.
    fn seal_folded(
        &self,
        older: RecordKey,
        evict: &[RecordKey],
        build: &impl Fn(&Txn<'_>, RecordKey) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Folded, StoreError> {
        let folded = self.store.write(|txn| {
            let key = self.boot.record(txn.next(keys::SPOOL_SEQ)?);
            let Some(payload) = build(txn, key)? else {
                return Ok(Folded::Nothing);
            };
            let merged = stored(*txn, older)?.and_then(|older| merge::merged(&older, &payload));
            let Some(merged) = merged.filter(|m| self.order().fits_instead(&older, evict, m.len() as u64)) else {
                return Ok(Folded::Apart);
            };
            remove(*txn, evict)?;
            remove(*txn, &[older])?;
            insert(*txn, key, RecordKind::Telemetry, &merged)?;
            Ok(Folded::Stored(key, merged.len() as u64))
        })?;
        if let Folded::Stored(key, bytes) = folded {
            self.order().fold(key, bytes, &older, evict);
        }
        Ok(folded)
    }

    /// Makes one of two records that were never sent, or notes that they stay two.
    fn merge(&self, older: RecordKey, younger: RecordKey) -> Result<(), StoreError> {
        let merged = self.store.write(|txn| {
            let (Some(first), Some(second)) = (stored(*txn, older)?, stored(*txn, younger)?) else {
                return Ok(None);
            };
            let Some(merged) = merge::merged(&first, &second) else {
                return Ok(None);
            };
            remove(*txn, &[older])?;
            insert(*txn, younger, RecordKind::Telemetry, &merged)?;
            Ok(Some(merged.len() as u64))
        })?;
        match merged {
            Some(bytes) => self.order().merged(&older, &younger, bytes),
            None => self.order().apart(&younger),
        }
        Ok(())
    }

    /// The records to publish now, with their bytes. Telemetry that was never sent is noted as sent first; while that cannot
    /// be written down, it waits, and the rest goes.
    pub fn due(&self, now: u64) -> Result<Vec<Due>, StoreError> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = self.order().due(now);
        let unsent: Vec<RecordKey> = {
            let order = self.order();
            let is_unsent = |key: &&RecordKey| **key > *sent && order.kind(key) == Some(RecordKind::Telemetry);
            due.iter().filter(is_unsent).copied().collect()
        };
        if let Some(last) = unsent.iter().max() {
            match self.store.put(keys::SPOOL_SENT, last) {
                Ok(()) => *sent = *last,
                Err(why) => {
                    error!(%why, "telemetry waits: it cannot be noted as sent");
                    self.order().not_sent(&unsent);
                    due.retain(|key| !unsent.contains(key));
                }
            }
        }
        self.store.read(|txn| {
            let table = txn.open_table(SPOOL)?;
            let mut records = Vec::with_capacity(due.len());
            for key in due {
                let value = table.get(place(key))?;
                let Some((tag, payload)) = value.as_ref().and_then(|value| value.value().split_first()) else {
                    continue;
                };
                let kind = RecordKind::from_tag(*tag).unwrap_or(RecordKind::Audit);
                records.push((key, kind, payload.to_vec()));
            }
            Ok(records)
        })
    }

    /// Frees what the server has committed. Keys that are not here any more are no error: receipts repeat.
    pub fn receipt(&self, receipted: &[RecordKey]) -> Result<usize, StoreError> {
        let known = self.order().known(receipted);
        if known.is_empty() {
            return Ok(0);
        }
        self.store.write(|txn| {
            let mut table = txn.table(SPOOL)?;
            for key in &known {
                table.remove(place(*key))?;
            }
            Ok(())
        })?;
        self.order().forget(&known);
        self.tell_waiting();
        Ok(known.len())
    }

    /// The server does not take the audit chain as it is: what is lost is declared in a new epoch, and every audit entry that
    /// waits here moves there. Nothing is done about a record that is not here any more: that was answered before.
    pub fn declare_audit_gap(&self, refusal: &AuditRefusal, at: i64) -> Result<Option<AuditGap>, StoreError> {
        let _one_at_a_time = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = self.order().of_kind(RecordKind::Audit);
        if !sealed.contains(&refusal.record) {
            return Ok(None);
        }
        let gap = self.store.write(|txn| audit::gap::declare(txn, refusal, &sealed, at))?;
        if let Some(gap) = &gap {
            warn!(
                lost = gap.lost,
                kept = gap.kept,
                "the audit chain lost entries: a new epoch says so"
            );
            self.order().forget(&sealed);
            self.tell_waiting();
        } else {
            warn!(
                epoch = refusal.head.epoch,
                "the server speaks of an audit epoch that cannot be"
            );
        }
        Ok(gap)
    }

    pub fn disconnected(&self) {
        self.order().disconnected();
    }

    pub fn next_resend(&self) -> Option<u64> {
        self.order().next_resend()
    }

    pub fn depth(&self) -> Depth {
        let order = self.order();
        Depth {
            records: order.len() as u64,
            bytes: order.bytes(),
            dropped: order.dropped(),
        }
    }
}

/// What the store remembers of sending. A store that was never asked has never sent anything, unless it is older than this
/// note: then everything in it may have been sent.
fn sent_before(store: &Store) -> Result<RecordKey, StoreError> {
    if let Some(sent) = store.get(keys::SPOOL_SENT)? {
        return Ok(sent);
    }
    let last = store.read(|txn| Ok(txn.open_table(SPOOL)?.last()?.map(|(key, _)| key.value())))?;
    let sent = key_of(last.unwrap_or((0, 0, 0)));
    if let Err(why) = store.put(keys::SPOOL_SENT, &sent) {
        // It holds for this start all the same. The next one believes of more records that they may have been sent, which costs
        // them nothing but being merged.
        warn!(%why, "how far records may have been sent is not noted");
    }
    Ok(sent)
}

/// Where a record stands in [`SPOOL`].
pub const fn place(key: RecordKey) -> (u64, u64, u32) {
    (key.boot_epoch, key.seq, key.nonce)
}

const fn key_of((boot_epoch, seq, nonce): (u64, u64, u32)) -> RecordKey {
    RecordKey { boot_epoch, seq, nonce }
}

/// A stored record's bytes, without the tag.
fn stored(txn: Txn<'_>, key: RecordKey) -> Result<Option<Vec<u8>>, StoreError> {
    let table = txn.table(SPOOL)?;
    let value = table.get(place(key))?;
    let payload = value.as_ref().and_then(|value| value.value().split_first());
    Ok(payload.map(|(_, payload)| payload.to_vec()))
}

fn insert(txn: Txn<'_>, key: RecordKey, kind: RecordKind, payload: &[u8]) -> Result<(), StoreError> {
    let mut value = Vec::with_capacity(payload.len() + 1);
    value.push(kind.tag());
    value.extend_from_slice(payload);
    txn.table(SPOOL)?.insert(place(key), value.as_slice())?;
    Ok(())
}

fn remove(txn: Txn<'_>, records: &[RecordKey]) -> Result<(), StoreError> {
    let mut table = txn.table(SPOOL)?;
    for key in records {
        table.remove(place(*key))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
