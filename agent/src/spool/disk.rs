//! The spool on disk: sealed records in the store, their order in [`Spool`].
//!
//! Sealing is one durable transaction (eviction, sequence number, record, and whatever the caller adds to it); a record's
//! bytes are what is published, unchanged, however often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_protocol::bundle::Dropped;
use flotilla_protocol::messages::RecordKey;
use redb::ReadableTable as _;
use tracing::warn;

use crate::spool::{Admission, RecordKind, Spool, SpoolLimits};
use crate::store::{SPOOL, Store, StoreError, Txn, keys};

/// See the module's documentation.
#[derive(Debug)]
pub struct DiskSpool {
    store: Arc<Store>,
    boot_epoch: u64,
    order: Mutex<Spool>,
    /// One sealing at a time: the plan must still hold when it is carried out.
    sealing: Mutex<()>,
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

impl DiskSpool {
    /// Finds what earlier boots left.
    pub fn open(store: Arc<Store>, boot_epoch: u64, limits: SpoolLimits) -> Result<Self, StoreError> {
        let mut order = Spool::new(limits);
        store.read(|txn| {
            for item in txn.open_table(SPOOL)?.iter()? {
                let (key, value) = item?;
                let (epoch, seq) = key.value();
                let Some((tag, payload)) = value.value().split_first() else {
                    warn!(epoch, seq, "an empty record in the spool is skipped");
                    continue;
                };
                // A tag of a later version is kept as if it were audit: never dropped, sent as it is.
                let kind = RecordKind::from_tag(*tag).unwrap_or(RecordKind::Audit);
                let key = RecordKey { boot_epoch: epoch, seq };
                order.restore(key, kind, payload.len() as u64);
            }
            Ok(())
        })?;
        Ok(Self {
            store,
            boot_epoch,
            order: Mutex::new(order),
            sealing: Mutex::new(()),
        })
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
        let _one_at_a_time = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        // A statement of its own: the order's lock must not be held over what follows.
        let plan = self.order().plan(kind, estimate);
        let evict = match plan {
            Admission::Admit { evict } => evict,
            Admission::Refuse => {
                self.order().refused(kind);
                return Ok(Some(Sealed::Dropped));
            }
        };
        let sealed = self.store.write(|txn| {
            let key = RecordKey {
                boot_epoch: self.boot_epoch,
                seq: txn.next(keys::SPOOL_SEQ)?,
            };
            let Some(payload) = build(txn, key)? else {
                return Ok(None);
            };
            let mut table = txn.table(SPOOL)?;
            for victim in &evict {
                table.remove((victim.boot_epoch, victim.seq))?;
            }
            let mut value = Vec::with_capacity(payload.len() + 1);
            value.push(kind.tag());
            value.extend_from_slice(&payload);
            table.insert((key.boot_epoch, key.seq), value.as_slice())?;
            Ok(Some((key, payload.len() as u64)))
        })?;
        let Some((key, bytes)) = sealed else { return Ok(None) };
        self.order().admit(key, kind, bytes, &evict);
        Ok(Some(Sealed::Stored(key)))
    }

    /// The records to publish now, with their bytes.
    pub fn due(&self, now: u64) -> Result<Vec<Due>, StoreError> {
        let due = self.order().due(now);
        self.store.read(|txn| {
            let table = txn.open_table(SPOOL)?;
            let mut records = Vec::with_capacity(due.len());
            for key in due {
                let value = table.get((key.boot_epoch, key.seq))?;
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
                table.remove((key.boot_epoch, key.seq))?;
            }
            Ok(())
        })?;
        self.order().forget(&known);
        Ok(known.len())
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SpoolLimits = SpoolLimits {
        max_records: 3,
        max_bytes: 1_000,
        max_in_flight: 8,
        resend_after_ms: 100,
    };

    fn seal(spool: &DiskSpool, kind: RecordKind, bytes: &[u8]) -> Sealed {
        let build = |_: &Txn<'_>, _| Ok(Some(bytes.to_vec()));
        spool.seal(kind, bytes.len() as u64, build).unwrap().unwrap()
    }

    #[test]
    fn records_survive_a_restart_unchanged_and_leave_by_receipt_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let spool = DiskSpool::open(Arc::clone(&store), 1, LIMITS).unwrap();
        let Sealed::Stored(first) = seal(&spool, RecordKind::Telemetry, b"one") else {
            panic!()
        };
        seal(&spool, RecordKind::Audit, b"two");
        assert_eq!(spool.due(0).unwrap().len(), 2);
        drop(spool);

        let spool = DiskSpool::open(Arc::clone(&store), 2, LIMITS).unwrap();
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
        assert_eq!(DiskSpool::open(store, 3, LIMITS).unwrap().depth().records, 2);
    }

    #[test]
    fn a_full_spool_gives_up_samples_first_and_counts_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let spool = DiskSpool::open(store, 1, LIMITS).unwrap();
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
}
